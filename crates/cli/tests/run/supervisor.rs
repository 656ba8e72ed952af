//! The supervisor is killed: no client hangs, and none takes zeros for data.

use std::time::{Duration, Instant};

use crate::harness::{
    Mode, Run, Running, children, in_each_mode, is_blocked_in, is_gone, kill, wait_for,
};

in_each_mode!(
    maps_keep_their_bytes,
    waiting_calls_end,
    later_calls_fail,
    no_call_answers_zeros_meanwhile,
);

/// Every process below the front.
pub(crate) fn all_below(running: &Running) -> Vec<i32> {
    let mut all = children(running.front());
    let mut at = 0;
    while at < all.len() {
        all.extend(children(all[at]));
        at += 1;
    }
    all
}

fn maps_keep_their_bytes(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
area = mmap.mmap(fd, 4 * PAGE)
area[:] = b'x' * len(area)
demo = mmap.mmap(os.open('/dev/d', os.O_RDWR), 16 * PAGE)
before = demo[:]
say('ready')
hear()
say(area[:] == b'x' * len(area), demo[:] == before, before != bytes(len(before)))
area[0] = 7
say(area[0])
hear()
";
    let mut running = Run::new(mode, &["/dev/m=mem", "/dev/d=demo"]).python(script, &[]);
    assert_eq!(running.hear(), "ready");
    kill(running.supervisor());
    running.say("look");
    assert_eq!(running.hear(), "True True True");
    assert_eq!(running.hear(), "7");
    running.finish();
}

/// Each call blocks in the driver when the supervisor is killed.
fn waiting_calls_end(mode: Mode) {
    let blocked = [
        ("say(error_of(lambda: os.read(fd, 1)))", libc::SYS_read),
        (
            "os.set_blocking(fd, False)
try:
    while True: os.write(fd, b'x' * 512)
except BlockingIOError: pass
os.set_blocking(fd, True)
say(error_of(lambda: os.write(fd, b'x')))",
            libc::SYS_write,
        ),
        ("say(error_of(lambda: fcntl.ioctl(fd, 0x4504)))", libc::SYS_ioctl),
        (
            "
poll = select.poll()
poll.register(fd, select.POLLPRI)
say(poll.poll()[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL) != 0)",
            libc::SYS_poll,
        ),
        (
            "
epoll = select.epoll()
epoll.register(fd, select.EPOLLPRI)
say(epoll.poll()[0][1] & (select.EPOLLERR | select.EPOLLHUP) != 0)",
            libc::SYS_epoll_wait,
        ),
        ("say(select.select([fd], [], []) == ([fd], [], []))", libc::SYS_pselect6),
    ];
    for (body, number) in blocked {
        let script = format!("fd = os.open('/dev/e', os.O_RDWR)\nsay('ready')\n{body}\n");
        let mut running = Run::new(mode, &["/dev/e=events"]).python(&script, &[]);
        assert_eq!(running.hear(), "ready");
        let program = running.program();
        wait_for(body, || is_blocked_in(program, number).then_some(()));
        let below = all_below(&running);
        kill(running.supervisor());
        let is_poll = [libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_pselect6].contains(&number);
        if mode.is_trapped() && is_poll {
            // It waits on, says COMPAT.md; kill ends it.
            kill(program);
        }
        let finished = running.finish();
        assert_ne!(finished.stdout, "0\n", "{body}: an error, or the end: {finished:?}");
        for pid in below {
            wait_for("the end of all", || is_gone(pid).then_some(()));
        }
    }
}

fn later_calls_fail(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
os.write(fd, b'data')
say('ready')
hear()
tries = [lambda: os.open('/dev/m', os.O_RDWR), lambda: os.stat('/dev/m'),
    lambda: mmap.mmap(fd, PAGE), lambda: os.pread(fd, 4, 0), lambda: os.pwrite(fd, b'x', 0),
    lambda: fcntl.ioctl(fd, 0x4504), lambda: os.lseek(fd, 0, os.SEEK_SET), lambda: os.fstat(fd)]
say(*(error_of(call) != '0' for call in tries))
say(error_of(lambda: os.close(fd)))
";
    // In trapped mode no file can be opened any more.
    let others = if mode.is_trapped() { "" } else { "open('/proc/self/comm').read()\n" };
    let mut running = Run::new(mode, &["/dev/m=mem"]).python(&format!("{script}{others}"), &[]);
    assert_eq!(running.hear(), "ready");
    kill(running.supervisor());
    running.say("try");
    let words = running.hear();
    assert!(!words.contains("False"), "{words}");
    running.finish();
}

/// Readers that read, seek and map all the time while the supervisor is killed: what they
/// get is right or an error.
fn no_call_answers_zeros_meanwhile(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
os.write(fd, b'data' * 1024)
def look(what):
    while True:
        try:
            got = what()
        except OSError:
            return
        if got != b'data': os._exit(50)
def mapped():
    with mmap.mmap(fd, PAGE) as area: return area[0:4]
def read():
    os.lseek(fd2, 0, os.SEEK_SET)
    return os.read(fd2, 4)
for what in mapped, lambda: os.pread(fd, 4, 0), read:
    if os.fork() == 0:
        fd2 = os.open('/dev/m', os.O_RDWR)
        say('ready')
        look(what)
        os._exit(0)
for i in range(3): say(os.waitstatus_to_exitcode(os.wait()[1]))
";
    let started = Instant::now();
    for _ in 0..8 {
        let mut running = Run::new(mode, &["/dev/m=mem"]).python(script, &[]);
        for _ in 0..3 {
            assert_eq!(running.hear(), "ready");
        }
        kill(running.supervisor());
        for _ in 0..3 {
            let status = running.hear();
            assert!(status == "0" || status == "-9", "{status}");
        }
        running.finish();
        if started.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
}
