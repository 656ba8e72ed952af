//! Bad drivers: an error that names the device, the right errno, and nobody else harmed.

use crate::harness::{Mode, Run, in_each_mode, open_to_all, python};

in_each_mode!(
    a_bad_plan_fails_the_mmap_alone,
    a_panic_fails_its_call_alone,
    a_panic_at_the_start_is_devmaps_failure,
    a_driver_is_dropped_at_the_end,
    absurd_answers_are_errors,
    errors_past_those_of_fuse_reach_the_program,
    messages_that_nobody_reads_hold_nobody_up,
    no_second_map_reaches_past_the_plan,
    only_the_caller_of_a_blocking_driver_waits,
);

/// Tries each method once: `METHOD=ERRNO` or `METHOD=0`, on one line.
const TRY_ALL: &str = "
fd = -1
def open_it():
    global fd
    fd = os.open('/dev/bad', os.O_RDWR)
poll = select.poll()
def poll_it():
    poll.register(fd, 0x23df)
    events = poll.poll(0)[0][1]
    if events & select.POLLERR: raise OSError(errno.EIO, '')
tries = dict(open=open_it, mmap=lambda: mmap.mmap(fd, 4 * PAGE), read=lambda: os.read(fd, 10),
    write=lambda: os.write(fd, b'abc'), llseek=lambda: os.lseek(fd, 0, os.SEEK_SET),
    ioctl=lambda: fcntl.ioctl(fd, 0x4201), poll=poll_it, release=lambda: os.close(fd))
say(*('%s=%s' % (name, error_of(call)) for name, call in tries.items()))
say(open('/dev/good').read())
";

/// What [`TRY_ALL`] says when these fail, and nothing else does.
fn failing(calls: &[&str]) -> String {
    let all = ["open", "mmap", "read", "write", "llseek", "ioctl", "poll", "release"];
    let results = all.map(|call| {
        let result = if calls.contains(&call) { "EIO" } else { "0" };
        format!("{call}={result}")
    });
    results.join(" ") + "\nHello from a device in safe Rust.\n\n"
}

/// Once, by the supervisor: not in the program's process, which begins as a copy of it.
fn a_driver_is_dropped_at_the_end(mode: Mode) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    open_to_all(file.path());
    let path = file.path().to_str().expect("UTF-8");
    let running = Run::bad_driver(mode, &format!("end:{path}"));
    let running =
        running.python("open('/dev/bad').close()\nsay(open(sys.argv[1]).read())", &[path]);
    assert_eq!(running.finish_whole().well().stdout, "\n");
    assert_eq!(std::fs::read_to_string(path).expect("the file"), "dropped\n");
}

fn try_all(mode: Mode, wrong: &str) -> crate::harness::Finished {
    Run::bad_driver(mode, wrong).options(&["-d", "/dev/good=hello"]).python(TRY_ALL, &[]).finish()
}

fn a_bad_plan_fails_the_mmap_alone(mode: Mode) {
    for (plan, why) in [
        ("hole", "leaves page 1 of an area of 4 pages uncovered"),
        ("overlap", "covers page 1 twice"),
        ("past-memory", "asks for 4 pages from page 3 of a memory that has 4"),
        ("past-area", "ends past the area"),
        ("far-away", "ends past the area"),
        ("empty", "an empty extent at page 1"),
        ("too-many", "more than 8 extents"),
        ("none", "leaves page 0 of an area of 4 pages uncovered"),
    ] {
        let finished = try_all(mode, &format!("plan:{plan}")).well();
        assert_eq!(finished.stdout, failing(&["mmap"]), "{plan}: {finished:?}");
        finished.complains(&["devmap: /dev/bad:", "\"bad_driver\"", why, "EIO"]);
    }
}

fn a_panic_fails_its_call_alone(mode: Mode) {
    for method in ["mmap", "fault", "read", "write", "llseek", "ioctl", "poll"] {
        let finished = try_all(mode, &format!("panic:{method}")).well();
        let failed: &[&str] = match method {
            // Else whoever touches the page is told.
            "fault" if mode.is_trapped() => &["mmap"],
            "fault" => &[],
            method => &[method],
        };
        assert_eq!(finished.stdout, failing(failed), "{method}: {finished:?}");
        let panicked = format!("panicked in {method}: on purpose");
        finished.complains(&["devmap: /dev/bad: the driver \"bad_driver\"", &panicked]);
    }
    let script = "
say(error_of(lambda: os.open('/dev/bad', os.O_RDWR)))
say(open('/dev/good').read())
";
    let opened = Run::bad_driver(mode, "panic:open")
        .options(&["-d", "/dev/good=hello"])
        .python(script, &[])
        .finish()
        .well()
        .complains(&["/dev/bad", "panicked in open: on purpose"]);
    assert_eq!(opened.stdout, "EIO\nHello from a device in safe Rust.\n\n");
    // A close has no error to give.
    let released = try_all(mode, "panic:release").well();
    assert_eq!(released.stdout, failing(&[]));
    released.complains(&["devmap: /dev/bad: the driver \"bad_driver\" panicked in release"]);
}

fn a_panic_at_the_start_is_devmaps_failure(mode: Mode) {
    for method in ["make", "metadata"] {
        let run = Run::bad_driver(mode, &format!("panic:{method}"));
        let finished = run.output(&["echo", "it ran"]).exited(125);
        assert_eq!(finished.stdout, "");
        finished.complains(&["on purpose", "devmap: ", "/dev/bad", "panicked"]);
    }
}

fn absurd_answers_are_errors(mode: Mode) {
    for method in ["read", "write", "llseek", "ioctl"] {
        let finished = try_all(mode, &format!("absurd:{method}")).well();
        assert_eq!(finished.stdout, failing(&[method]), "{finished:?}");
        finished.complains(&["/dev/bad", method]);
    }
    let faulted = try_all(mode, "absurd:fault").well();
    let failed: &[&str] = if mode.is_trapped() { &["mmap"] } else { &[] };
    assert_eq!(faulted.stdout, failing(failed));
    faulted.complains(&["/dev/bad", "answered a fault with page 18446744073709551615"]);
    // Bits that poll does not have are dropped.
    let script = "
fd = os.open('/dev/bad', os.O_RDWR)
poll = select.poll()
poll.register(fd, 0xffff)
say(hex(poll.poll(0)[0][1]))
";
    let polled = Run::bad_driver(mode, "absurd:poll").python(script, &[]).finish().well();
    assert_eq!(polled.stdout, "0x23df\n");
}

/// The driver sleeps for ever, without the home's wait queue. Its caller waits; another
/// program works; and killing the caller ends it.
fn only_the_caller_of_a_blocking_driver_waits(mode: Mode) {
    let blocked = "
import fcntl, mmap, os, select, sys
method = sys.argv[1]
fd = os.open('/dev/bad', os.O_RDWR)
if method in ('mmap', 'fault'): mmap.mmap(fd, mmap.PAGESIZE)
if method == 'read': os.read(fd, 1)
if method == 'write': os.write(fd, b'x')
if method == 'llseek': os.lseek(fd, 0, os.SEEK_SET)
if method == 'ioctl': fcntl.ioctl(fd, 0x4201)
if method == 'poll':
    poll = select.poll()
    poll.register(fd, 1)
    poll.poll(0)
if method == 'release': os.close(fd)
print('not blocked', flush=True)
";
    let script = format!(
        "
blocked = subprocess.Popen([sys.executable, '-c', '''{blocked}''', sys.argv[1]],
                           stdout=subprocess.DEVNULL)
hear()
for i in range(8):
    fd = os.open('/dev/good', os.O_RDWR)
    area = mmap.mmap(fd, 2 * PAGE)
    area[i] = i
    say(os.read(fd, 8)[i], os.lseek(fd, 0, os.SEEK_SET), select.select([fd], [], [], 0) == ([fd], [], []))
    os.close(fd)
blocked.kill()
blocked.wait()
"
    );
    for method in ["open", "mmap", "fault", "read", "write", "llseek", "ioctl", "poll", "release"] {
        let run = Run::bad_driver(mode, &format!("block:{method}"));
        let mut running = run.options(&["-d", "/dev/good=mem"]).python(&script, &[method]);
        running.hear_error(&format!("blocked in {method}"));
        running.say("go on");
        let finished = running.finish().well();
        let expected: String = (0..8).map(|i| format!("{i} 0 True\n")).collect();
        assert_eq!(finished.stdout, expected, "{method}");
    }
}

fn errors_past_those_of_fuse_reach_the_program(mode: Mode) {
    let script = "
def number(call):
    try: call()
    except OSError as error: return error.errno
say(number(lambda: os.read(os.open('/dev/bad', os.O_RDWR), 10)))
";
    for method in ["open", "read"] {
        let wrong = format!("errno:{method}");
        let finished = Run::bad_driver(mode, &wrong).python(script, &[]).finish().well();
        assert_eq!(finished.stdout, "524\n", "{method}: {finished:?}");
    }
}

/// By an old size that is 0, or that the kernel rounds up to 0.
fn no_second_map_reaches_past_the_plan(mode: Mode) {
    let script = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
fd = os.open('/dev/bad', os.O_RDWR)
at = libc.mmap(None, ctypes.c_size_t(PAGE), 3, 1, fd, ctypes.c_long(0))
for old in 0, 2**64 - 1:
    new = libc.mremap(at, old, 4 * PAGE, 1)
    say(new == 2**64 - 1 and errno.errorcode[ctypes.get_errno()])
";
    let finished = Run::bad_driver(mode, "").python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "EFAULT\nEFAULT\n", "{finished:?}");
}

/// The program waits for no message of devmap's, nor does the end of the run.
fn messages_that_nobody_reads_hold_nobody_up(mode: Mode) {
    let full = "
import os, subprocess, sys
read, write = os.pipe()
os.set_blocking(write, False)
try:
    while True: os.write(write, b'x')
except BlockingIOError: os.set_blocking(write, True)
sys.exit(subprocess.run(sys.argv[1:], stderr=write).returncode)
";
    let script = "
fd = os.open('/dev/bad', os.O_RDWR)
say(*(error_of(lambda: mmap.mmap(fd, 4 * PAGE)) for _ in range(20)))
";
    let run = Run::server("bad_driver", mode).by(&[python(), "-c", full]);
    let run = run.environment("BAD", "plan:hole");
    let finished = run.python(script, &[]).finish().well();
    assert_eq!(finished.stdout.split_whitespace().collect::<Vec<_>>(), ["EIO"; 20]);
}
