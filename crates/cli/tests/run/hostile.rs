//! The programs of tests/hostile. Each is run beside another client, which is served all the
//! while and after it; each says itself that it reached nothing but what it was given.

use crate::harness::{Client, Mode, Run, in_each_mode};

in_each_mode!(
    arguments_that_change,
    arguments_that_make_no_sense,
    descriptors_on_their_way,
    filters_that_refuse,
    kills_at_any_moment,
    numbers_that_others_take,
    pages_beside_the_given_one,
    ten_thousand_opens,
    threads_that_cannot_be_stopped,
);
in_each_mode!(@ only_namespace "namespace" [
    faulted_pages_beside_the_given_one
]);

/// Serves on while the program runs, and counts the devices' releases at the end.
const BESIDE: &str = "
import threading
os.environ['LAUNCHER'] = str(os.getppid())
def look():
    fd = os.open('/dev/good', os.O_RDWR)
    with mmap.mmap(fd, 4 * PAGE) as area:
        area[0:4] = b'good'
        right = os.pread(fd, 4, 0) == b'good'
    os.close(fd)
    return right and open('/dev/hello').read().startswith('Hello')
hostile = subprocess.Popen(sys.argv[1:])
rounds = 0
while hostile.poll() is None or rounds < 10:
    if not look(): say('not served in round', rounds)
    rounds += 1
say('status', hostile.wait())
say('served' if look() else 'not served')
";

/// Runs NAME.c with these arguments beside another client.
fn beside(mode: Mode, name: &str, arguments: &[&str]) {
    let program = Client::hostile(name);
    let run = Run::server("one_page", mode).options(&[
        "-d",
        "/dev/good=mem",
        "-d",
        "/dev/hello=hello",
        "-d",
        "/dev/events=events",
    ]);
    let running = run.traced().python(BESIDE, &[&[&*program.path()], arguments].concat());
    let finished = running.finish_whole();
    let said: Vec<&str> = finished.stdout.lines().collect();
    assert!(!said.iter().any(|line| line.starts_with("FAIL")), "{name}: {finished:?}");
    assert!(said.ends_with(&["ok all", "status 0", "served"]), "{name}: {finished:?}");
    assert!(!finished.stderr.contains("panicked"), "{name}: {finished:?}");
    let opened = finished.trace.iter().filter(|event| event["call"] == "open");
    let opened = opened.filter(|event| event["errno"].is_null()).count();
    assert_eq!(opened, finished.count("release"), "{name}");
    finished.well();
}

fn pages_beside_the_given_one(mode: Mode) {
    beside(mode, "reach", &["/dev/page"]);
}

/// The FUSE file of faulted pages. What a thief stores there reaches neither others nor the home.
fn faulted_pages_beside_the_given_one(mode: Mode) {
    let program = Client::hostile("faulted");
    let run = Run::new(mode, &["/dev/pattern=pattern:size=1M"]).traced();
    let finished = run.start(&[&*program.path(), "/dev/pattern"]).finish_whole();
    assert!(finished.stdout.ends_with("ok all\n"), "{finished:?}");
    let stored = finished.trace.iter().filter(|event| event["call"] == "write_back");
    assert!(stored.clone().all(|event| event["errno"] == "EFAULT"), "{finished:?}");
    assert!(stored.count() > 0, "{finished:?}");
    finished.well();
}

fn kills_at_any_moment(mode: Mode) {
    beside(mode, "storm", &["/dev/page", "20", "1"]);
}

fn ten_thousand_opens(mode: Mode) {
    beside(mode, "opens", &["/dev/page", "10000"]);
}

fn arguments_that_change(mode: Mode) {
    beside(mode, "changing", &["/dev/page", "/dev/events", "2000"]);
}

fn filters_that_refuse(mode: Mode) {
    beside(mode, "filters", &["/dev/good"]);
}

fn arguments_that_make_no_sense(mode: Mode) {
    beside(mode, "arguments", &["/dev/page", "/dev/events", "20000"]);
}

fn descriptors_on_their_way(mode: Mode) {
    beside(mode, "passing", &["/dev/page", "30"]);
}

fn numbers_that_others_take(mode: Mode) {
    beside(mode, "numbers", &["/dev/hello"]);
}

/// Others, who have the same device open, are told of what it does.
const TOLD: &str = "
import threading
hostile = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
say(hostile.stdout.readline().decode().strip())
fd = os.open('/dev/events', os.O_RDWR)
def set_mask(mask): fcntl.ioctl(fd, 0x40044501, struct.pack('I', mask))
poller = select.poll()
poller.register(fd, select.POLLPRI)
poller.register(os.pipe()[0], select.POLLIN)
for i in range(20):
    set_mask(0)
    setter = threading.Timer(0.01, lambda: set_mask(select.POLLPRI))
    setter.start()
    if poller.poll() != [(fd, select.POLLPRI)]: say('not told')
    setter.join()
say('told')
hostile.kill()
hostile.wait()
";

fn threads_that_cannot_be_stopped(mode: Mode) {
    let program = Client::hostile("vforks");
    let run = Run::new(mode, &["/dev/events=events"]);
    let finished = run.python(TOLD, &[&program.path(), "/dev/events"]).finish().well();
    assert_eq!(finished.stdout, "ok all\ntold\n", "{finished:?}");
}
