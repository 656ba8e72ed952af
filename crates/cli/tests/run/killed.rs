//! The supervisor of a run, a daemon, and the supervisor of a joiner are killed at any moment
//! while clients are at work. Each client goes on with errors or ends, none takes zeros for
//! data, and none is left that cannot be killed.

use std::time::{Duration, Instant};

use crate::{
    harness::{Daemon, Mode, Run, Running, in_each_mode, is_gone, kill, wait_for},
    supervisor::all_below,
};

in_each_mode!(the_supervisor_at_any_moment, the_daemon_at_any_moment, a_joiner_at_any_moment);

const DEVICES: &[&str] = &["/dev/m=mem:size=64K", "/dev/p=pattern"];

/// Rounds, and how long all of them may take before no other is begun.
const ROUNDS: u64 = 5;
const ENOUGH: Duration = Duration::from_secs(6);

/// Three processes that do everything all the time, until nothing goes any more.
const LOAD: &str = "
keeper = os.open('/dev/m', os.O_RDWR)
os.pwrite(keeper, b'data' * 1024, 0)
def right(got, what):
    if got != b'data':
        say('wrong', what, got)
        os._exit(50)
def map_faulted():
    # For the map of faulted pages, devmap opens a file that it serves itself.
    fd = os.open('/dev/p', os.O_RDWR)
    try: libc.munmap(ctypes.addressof(map_raw(fd, 2)), 2 * PAGE)
    finally: os.close(fd)
def once():
    map_faulted()
    fd = os.open('/dev/m', os.O_RDWR)
    try:
        right(os.pread(fd, 4, 8), 'read')
        area = map_raw(fd, 2)
        at = ctypes.addressof(area)
        try:
            right(area[4:8], 'load')
            area[4:8] = b'data'
            if error_of(lambda: fcntl.ioctl(fd, 0x4504)) == '0': right(b'', 'ioctl')
            os.pwrite(fd, b'data', 16)
            right(area[16:20], 'load of what was written')
            os.lseek(fd, 20, os.SEEK_SET)
            right(os.read(fd, 4), 'read on')
        finally:
            # Still mapped, whoever has died.
            right(area[8:12], 'load at the end')
            libc.munmap(at, 2 * PAGE)
    finally:
        os.close(fd)
def work():
    rounds = failed = 0
    while failed < 20:
        try:
            once()
            failed = 0
        except OSError: failed += 1
        rounds += 1
        if rounds == 5: say('at work')
for i in range(3):
    if os.fork() == 0:
        work()
        os._exit(0)
for i in range(3): say('ended', os.waitstatus_to_exitcode(os.wait()[1]))
";

/// When in its round something is killed.
fn moment(round: u64) -> Duration {
    Duration::from_micros(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0x7fff)
}

/// Starts the clients, which are at work when this returns.
#[track_caller]
fn load(run: Run) -> Running {
    let mut running = run.python(LOAD, &[]);
    for _ in 0..3 {
        assert_eq!(running.hear(), "at work");
    }
    running
}

/// They have ended, of themselves or with the run.
#[track_caller]
fn all_end(mut running: Running, below: &[i32]) {
    for _ in 0..3 {
        let line = running.hear();
        assert!(line == "ended 0" || line == "ended -9", "{line}");
    }
    running.finish();
    for pid in below {
        wait_for("the end of all", || is_gone(*pid).then_some(()));
    }
}

/// Does something in some rounds.
fn rounds(round: impl Fn(Duration)) {
    let started = Instant::now();
    for number in 0..ROUNDS {
        round(moment(number));
        if started.elapsed() > ENOUGH {
            break;
        }
    }
}

fn the_supervisor_at_any_moment(mode: Mode) {
    rounds(|moment| {
        let running = load(Run::new(mode, DEVICES));
        let below = all_below(&running);
        std::thread::sleep(moment);
        kill(running.supervisor());
        all_end(running, &below);
    });
}

fn the_daemon_at_any_moment(mode: Mode) {
    rounds(|moment| {
        let daemon = Daemon::start(DEVICES, &[]);
        let joiners = [(); 2].map(|()| load(Run::joining(mode, &daemon)));
        std::thread::sleep(moment);
        let _directory = daemon.kill();
        for joiner in joiners {
            let below = all_below(&joiner);
            all_end(joiner, &below);
        }
    });
}

/// The daemon serves the others on.
fn a_joiner_at_any_moment(mode: Mode) {
    let daemon = Daemon::start(DEVICES, &[]);
    let other = load(Run::joining(mode, &daemon));
    rounds(|moment| {
        let running = load(Run::joining(mode, &daemon));
        let below = all_below(&running);
        std::thread::sleep(moment);
        kill(running.supervisor());
        all_end(running, &below);
    });
    let script = "print(os.pread(os.open('/dev/m', os.O_RDWR), 4, 0))";
    let last = Run::joining(mode, &daemon).python(script, &[]).finish().well();
    assert_eq!(last.stdout, "b'data'\n");
    let below = all_below(&other);
    kill(other.supervisor());
    all_end(other, &below);
    wait_for("the release of all that was open", || {
        (daemon.count("open") == daemon.count("release")).then_some(())
    });
    daemon.stop().well();
}
