//! `devmap serve`, and programs of several runs that join it.
//!
//! What does not live here: joiners that mean ill (`hostile_joiners`).

use std::{path::Path, process::Command};

use crate::{
    conformance::{known_in_trapped_mode, passes_in},
    harness::{
        Client, DEVMAP, Daemon, Mode, Run, bad_driver, in_each_mode, is_blocked_in, is_gone, kill,
        python, start, terminate, wait_for,
    },
};

in_each_mode!(
    two_terminals_share_memory,
    a_joiner_keeps_its_maps_when_others_leave,
    a_joiner_that_is_killed_releases,
    release_waits_for_the_last_unmap,
    wakes_and_signals_cross,
    a_clean_stop_ends_all_calls,
    the_daemon_is_killed,
    local_devices_stand_beside,
);

/// What a run finds by itself.
const AUTO: Mode = Mode("auto");
const TRAPPED: Mode = Mode("trapped");

macro_rules! conforms {
    ($($test:ident on $device:literal,)+) => {
        mod joined {
            $(#[test]
            fn $test() {
                super::conforms(crate::harness::Mode("namespace"), stringify!($test), $device);
            })+
        }
        mod joined_trapped {
            $(#[test]
            fn $test() {
                super::conforms(super::TRAPPED, stringify!($test), $device);
            })+
        }
    };
}

conforms! {
    calls on "mem",
    demo on "demo",
    events on "events",
    hello on "hello",
    mem on "mem",
    pattern on "pattern",
    pointers on "events",
    zero on "zero",
}

/// The programs of tests/conformance hold and fail as in a run of their own.
fn conforms(mode: Mode, name: &str, device: &str) {
    let daemon = Daemon::start(&[&format!("/dev/dut={device}")], &[]);
    let trapped = mode.0 == TRAPPED.0;
    let known = if trapped { known_in_trapped_mode(name) } else { Vec::new() };
    passes_in(name, &known, &|| Run::joining(mode, &daemon));
    daemon.stop().well();
}

const MEM: &[&str] = &["/dev/m=mem:size=64K"];

/// Maps the memory, says so, and then does what it is told.
const HOLDER: &str = "
fd = os.open('/dev/m', os.O_RDWR)
area = mmap.mmap(fd, PAGE)
say('mapped', area[0:4])
while True:
    word = hear()
    if word == 'look': say(area[0:4])
    elif word == 'close': os.close(fd); say('closed')
    elif word == 'unmap': area.close(); say('unmapped')
    elif word == 'end': break
    elif word: area[0:4] = word.encode(); say('written')
    else: break
";

fn two_terminals_share_memory(mode: Mode) {
    let daemon = Daemon::start(MEM, &[]);
    let mut one = Run::joining(mode, &daemon).python(HOLDER, &[]);
    let mut two = Run::joining(mode, &daemon).python(HOLDER, &[]);
    for joiner in [&mut one, &mut two] {
        assert!(joiner.hear().starts_with("mapped"));
    }
    one.say("ping");
    assert_eq!(one.hear(), "written");
    two.say("look");
    assert_eq!(two.hear(), "b'ping'");
    two.say("pong");
    assert_eq!(two.hear(), "written");
    one.say("look");
    assert_eq!(one.hear(), "b'pong'");
    for joiner in [&mut one, &mut two] {
        joiner.say("end");
    }
    one.finish().well();
    two.finish().well();
    daemon.wait_for_calls("release", 2);
    let finished = daemon.stop().well();
    assert_eq!(finished.stderr, "");
}

fn a_joiner_keeps_its_maps_when_others_leave(mode: Mode) {
    let daemon = Daemon::start(MEM, &[]);
    let mut stays = Run::joining(mode, &daemon).python(HOLDER, &[]);
    assert_eq!(stays.hear(), r"mapped b'\x00\x00\x00\x00'");
    let mut leaves = Run::joining(mode, &daemon).python(HOLDER, &[]);
    leaves.hear();
    leaves.say("left");
    leaves.hear();
    leaves.say("end");
    leaves.finish().well();
    daemon.wait_for_calls("release", 1);
    stays.say("look");
    assert_eq!(stays.hear(), "b'left'");
    stays.say("here");
    assert_eq!(stays.hear(), "written");
    // Whoever comes later finds it.
    let mut comes = Run::joining(mode, &daemon).python(HOLDER, &[]);
    assert_eq!(comes.hear(), "mapped b'here'");
    assert_eq!(daemon.count("release"), 1);
}

/// Killed as a whole, by SIGKILL.
fn a_joiner_that_is_killed_releases(mode: Mode) {
    let daemon = Daemon::start(MEM, &[]);
    let mut joiner = Run::joining(mode, &daemon).python(HOLDER, &[]);
    joiner.hear();
    let (supervisor, program) = (joiner.supervisor(), joiner.program());
    kill(supervisor);
    wait_for("the supervisor's end", || is_gone(supervisor).then_some(()));
    // Its program still maps the memory, so that no driver may take it for free.
    let mut other = Run::joining(mode, &daemon).python(HOLDER, &[]);
    other.hear();
    other.say("next");
    other.hear();
    joiner.say("look");
    assert_eq!(joiner.hear(), "b'next'");
    assert_eq!(daemon.count("release"), 0);
    kill(program);
    daemon.wait_for_calls("release", 1);
    other.say("look");
    assert_eq!(other.hear(), "b'next'");
}

fn release_waits_for_the_last_unmap(mode: Mode) {
    let daemon = Daemon::start(MEM, &[]);
    let mut joiner = Run::joining(mode, &daemon).python(HOLDER, &[]);
    joiner.hear();
    // Python keeps a copy of the descriptor with the map: exec leaves neither.
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
at = libc.mmap(None, 2 * PAGE, 3, mmap.MAP_SHARED, fd, 0)
os.close(fd)
say('closed')
for page in 0, 1:
    hear()
    libc.munmap(at + page * PAGE, PAGE)
    say('unmapped')
hear()
";
    let mut maps = Run::joining(mode, &daemon).python(script, &[]);
    assert_eq!(maps.hear(), "closed");
    maps.say("the first page");
    assert_eq!(maps.hear(), "unmapped");
    // A call that comes after shows that the close has been served.
    joiner.say("look");
    joiner.hear();
    assert_eq!(daemon.count("release"), 0);
    maps.say("the second");
    assert_eq!(maps.hear(), "unmapped");
    daemon.wait_for_calls("release", 1);
    maps.say("end");
    maps.finish().well();
    joiner.say("end");
    joiner.finish().well();
    daemon.wait_for_calls("release", 2);
    daemon.stop().well();
}

/// A poller and a reader of one run are woken by a writer of another; a signal ends a wait,
/// with and without `SA_RESTART`.
fn wakes_and_signals_cross(mode: Mode) {
    let daemon = Daemon::start(&["/dev/e=events"], &[]);
    let waits = "
fd = os.open('/dev/e', os.O_RDWR)
say('polls')
poller = select.poll()
poller.register(fd, select.POLLIN)
say(poller.poll() == [(fd, select.POLLIN)], os.read(fd, 9))
say('reads')
say(os.read(fd, 9))
def handler(number, frame): raise InterruptedError()
signal.signal(signal.SIGUSR1, handler)
say('waits')
try: os.read(fd, 9)
except InterruptedError: say('interrupted')
signal.signal(signal.SIGUSR1, lambda *_: say('handled'))
say('waits')
say(os.read(fd, 9))
";
    let mut waiter = Run::joining(mode, &daemon).python(waits, &[]);
    let mut writer = Run::joining(mode, &daemon).python(
        "fd = os.open('/dev/e', os.O_WRONLY)\nwhile True: os.write(fd, hear().encode())",
        &[],
    );
    assert_eq!(waiter.hear(), "polls");
    let program = waiter.program();
    let signal = || {
        let pid = rustix::process::Pid::from_raw(program).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).expect("kill");
    };
    wait_for("the poll", || is_blocked_in(program, libc::SYS_poll).then_some(()));
    writer.say("one");
    assert_eq!(waiter.hear(), "True b'one'");
    assert_eq!(waiter.hear(), "reads");
    wait_for("the read", || is_blocked_in(program, libc::SYS_read).then_some(()));
    writer.say("two");
    assert_eq!(waiter.hear(), "b'two'");
    for outcome in ["interrupted", "handled"] {
        assert_eq!(waiter.hear(), "waits");
        wait_for("the read", || is_blocked_in(program, libc::SYS_read).then_some(()));
        signal();
        assert_eq!(waiter.hear(), outcome);
    }
    writer.say("three");
    assert_eq!(waiter.hear(), "b'three'");
    waiter.finish().well();
}

/// What a program sees of a daemon that goes: a wait ends, calls fail, the memory stays.
const LEFT_BEHIND: &str = "
m = os.open('/dev/m', os.O_RDWR)
e = os.open('/dev/e', os.O_RDWR)
area = mmap.mmap(m, PAGE)
area[0:4] = b'mine'
say('waits')
say(error_of(lambda: os.read(e, 1)))
say(error_of(lambda: os.write(e, b'x')), error_of(lambda: map_raw(m, 1)))
say(error_of(lambda: os.open('/dev/m', os.O_RDWR)))
poller = select.poll()
poller.register(e, select.POLLIN)
say(len(poller.poll()))
say(area[0:4])
";

fn a_clean_stop_ends_all_calls(mode: Mode) {
    let daemon = Daemon::start(&["/dev/m=mem:size=64K", "/dev/e=events"], &["--stats"]);
    let mut joiner = Run::joining(mode, &daemon).python(LEFT_BEHIND, &[]);
    assert_eq!(joiner.hear(), "waits");
    let program = joiner.program();
    wait_for("the read", || is_blocked_in(program, libc::SYS_read).then_some(()));
    let finished = daemon.stop().well();
    let released = |line: &str| line.starts_with("/dev/m ") && line.contains("release");
    assert!(finished.stderr.lines().any(released), "{finished:?}");
    left_behind(joiner);
}

fn the_daemon_is_killed(mode: Mode) {
    let devices = ["/dev/m=mem:size=64K", "/dev/e=events"];
    let daemon = Daemon::start(&devices, &[]);
    let socket = daemon.socket().to_owned();
    let mut joiner = Run::joining(mode, &daemon).python(LEFT_BEHIND, &[]);
    assert_eq!(joiner.hear(), "waits");
    let program = joiner.program();
    wait_for("the read", || is_blocked_in(program, libc::SYS_read).then_some(()));
    let _directory = daemon.kill();
    left_behind(joiner);
    // Nobody serves at the socket that it has left, and another takes its place.
    let mut command = Command::new(DEVMAP);
    command.args(["run", "--join", &socket, "--", "true"]);
    start(command).finish().exited(125).complains(&[&socket, "nobody serves"]);
    let mut command = Command::new(DEVMAP);
    command.args(["serve", "--socket", &socket, "--device", devices[0]]);
    let mut next = start(command);
    assert!(next.hear().contains("serving /dev/m at"));
    let mut command = Command::new(DEVMAP);
    command.args(["run", "--mode", mode.0, "--join", &socket, "--", "dd", "if=/dev/m", "count=0"]);
    start(command).finish().well();
    terminate(next.front());
    next.finish().well();
    assert!(!Path::new(&socket).exists());
}

#[track_caller]
fn left_behind(joiner: crate::harness::Running) {
    let finished = joiner.finish().well().complains(&["nobody serves at", "ENODEV"]);
    // The read is ended as a signal ends it where the daemon stops in order.
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(lines[1..], ["ENODEV ENODEV", "ENODEV", "1", "b'mine'"], "{finished:?}");
    assert_eq!(lines[0], "ENODEV", "{finished:?}");
}

fn local_devices_stand_beside(mode: Mode) {
    let daemon = Daemon::start(&["/dev/h=hello"], &[]);
    let other = Daemon::start(&["/dev/other=hello"], &[]);
    let run = Run::joining(mode, &daemon).options(&["--join", other.socket()]);
    let run = run.options(&["--device", "/dev/local=hello"]);
    let text = run.prints(&["cat", "/dev/h", "/dev/other", "/dev/local"]);
    assert_eq!(text, "Hello from a device in safe Rust.\n".repeat(3));
    let run = Run::joining(mode, &daemon).options(&["--join", other.socket()]);
    let run = run.options(&["--device", "/dev/local=hello"]);
    let numbers = run.prints(&["stat", "-c", "%t:%T %F", "/dev/h", "/dev/other", "/dev/local"]);
    let numbers: Vec<&str> = numbers.lines().collect();
    let distinct: std::collections::HashSet<&&str> = numbers.iter().collect();
    assert_eq!(distinct.len(), 3, "{numbers:?}");
    assert!(numbers.iter().all(|line| line.ends_with("character special file")), "{numbers:?}");
    // One path is one device.
    let twice = Run::joining(mode, &daemon).options(&["--device", "/dev/h=hello"]);
    twice.output(&["true"]).exited(125).complains(&["/dev/h", "twice"]);
    daemon.stop().well();
}

/// `devmap run --join` by the user 65534, whom root can become.
fn as_another_user(daemon: &Daemon) -> Run {
    // Which the user may not reach where it was built.
    let copy = Path::new(daemon.socket()).with_file_name("devmap");
    std::fs::copy(DEVMAP, &copy).expect("a copy of devmap");
    let user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    Run::of(&copy, AUTO).by(&user).options(&["--join", daemon.socket()])
}

#[test]
fn who_may_join() {
    if !rustix::process::geteuid().is_root() {
        let daemon = Daemon::start(MEM, &["--socket-mode", "0000"]);
        let refused = Run::joining(AUTO, &daemon).output(&["true"]);
        refused.exited(125).complains(&[daemon.socket(), "permissions", "--socket-mode"]);
        daemon.stop().well();
        return;
    }
    let closed = Daemon::start(MEM, &["--socket-mode", "0660"]);
    let refused = as_another_user(&closed).output(&["true"]);
    refused.exited(125).complains(&[closed.socket(), "permissions", "--socket-mode"]);
    Run::joining(AUTO, &closed).output(&["true"]).well();
    closed.stop().well();
    let open = Daemon::start(MEM, &["--socket-mode", "0666"]);
    let mut root = Run::joining(AUTO, &open).python(HOLDER, &[]);
    root.hear();
    let mut other = as_another_user(&open).python(HOLDER, &[]);
    other.hear();
    root.say("root");
    root.hear();
    other.say("look");
    assert_eq!(other.hear(), "b'root'");
    other.say("user");
    other.hear();
    root.say("look");
    assert_eq!(root.hear(), "b'user'");
    other.say("end");
    other.finish().well();
    open.wait_for_calls("release", 1);
    root.say("end");
    root.finish().well();
    open.stop().well();
}

#[test]
fn a_socket_that_is_served_is_not_taken_over() {
    let daemon = Daemon::start(MEM, &[]);
    let second = |socket: &str, option: &str, value: &str| {
        let mut command = Command::new(DEVMAP);
        command.args(["serve", "--socket", socket, option, value]);
        start(command).finish()
    };
    let taken = second(daemon.socket(), "--device", "/dev/h=hello");
    taken.exited(125).complains(&[daemon.socket(), "another process serves", "another path"]);
    assert_eq!(
        Run::joining(AUTO, &daemon).prints(&["stat", "-c", "%F", "/dev/m"]).lines().count(),
        1
    );
    let none = second(&format!("{}2", daemon.socket()), "--socket-mode", "0600");
    none.exited(125).complains(&["--device"]);
    let mode = second(&format!("{}2", daemon.socket()), "--socket-mode", "9");
    mode.exited(125).complains(&["octal"]);
    let nowhere = second("/no/such/directory/socket", "--device", "/dev/h=hello");
    nowhere.exited(125).complains(&["/no/such/directory"]);
    let join = |path| Run::new(AUTO, &[]).options(&["--join", path]).output(&["true"]);
    join("/no/such/socket").exited(125).complains(&["/no/such/socket", "devmap serve"]);
    for path in ["/etc/passwd", "/etc"] {
        join(path).exited(125).complains(&[path, "it is no socket", "devmap serve"]);
    }
    daemon.stop().well();
}

/// A camera, in one terminal after the other: its class is there, its buffers are mapped
/// and filled, and the driver knows of maps in other runs.
#[test]
fn a_camera_is_joined() {
    let daemon = Daemon::start(&["/dev/video0=camera:pace=client"], &[]);
    for _ in 0..2 {
        let stream = ["v4l2-ctl", "-d", "/dev/video0", "--stream-mmap", "--stream-count=10"];
        Run::joining(AUTO, &daemon).output(&stream).well();
        let name =
            Run::joining(AUTO, &daemon).prints(&["cat", "/sys/class/video4linux/video0/name"]);
        assert!(!name.trim().is_empty());
    }
    daemon.wait_for_calls("release", 2);
    daemon.stop().well();
}

/// Who waits for the socket to be there need not wait for the daemon to say that it is ready.
#[test]
fn who_finds_the_socket_can_join() {
    for _ in 0..10 {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("socket");
        let mut serve = Command::new(DEVMAP);
        serve.args(["serve", "--device", "/dev/h=hello", "--socket"]).arg(&socket);
        let serve = start(serve);
        wait_for("the socket", || socket.exists().then_some(()));
        let join = ["--join", socket.to_str().expect("UTF-8")];
        Run::new(AUTO, &[]).options(&join).output(&["cat", "/dev/h"]).well();
        terminate(serve.front());
        serve.finish().well();
    }
}

/// Numbers of the run's own cameras are beside those of the daemon, or the run ends.
#[test]
fn cameras_of_two_makers_have_two_numbers() {
    let daemon = Daemon::start(&["/dev/video0=camera"], &[]);
    let with = |device| Run::joining(AUTO, &daemon).options(&["--device", device]);
    let numbers = ["stat", "-c", "%t:%T", "/dev/video0", "/dev/front"];
    assert_eq!(with("/dev/front=camera").prints(&numbers), "51:0\n51:1\n");
    with("/dev/front=camera:minor=0").output(&["true"]).exited(125).complains(&[
        "/dev/front",
        "/dev/video0",
        "81:0",
        "minor=N",
    ]);
    daemon.stop().well();
    let directory = tempfile::tempdir().expect("a directory");
    let mut twice = Command::new(DEVMAP);
    twice.args([
        "serve",
        "--device",
        "/dev/video0=camera",
        "--device",
        "/dev/front=camera:minor=0",
    ]);
    twice.arg("--socket").arg(directory.path().join("socket"));
    start(twice).finish().exited(125).complains(&["/dev/front", "/dev/video0", "81:0"]);
}

/// An author's own binary serves too.
#[test]
fn a_server_serves() {
    let daemon = Daemon::start_by(bad_driver("plan:hole"), "--serve");
    let finished = Run::joining(AUTO, &daemon)
        .python("say(error_of(lambda: map_raw(os.open('/dev/bad', os.O_RDWR), 1)))", &[])
        .finish();
    assert_eq!(finished.well().stdout, "EIO\n");
    // Of the driver's mistakes the daemon tells.
    daemon.stop().well().complains(&["/dev/bad"]);
}

/// Strangers at the socket: raw writers, with descriptors in their packets, and some that
/// only hang on. Runs are served on, and the daemon stops in order.
#[test]
fn nonsense_at_the_socket() {
    let daemon = Daemon::start(MEM, &[]);
    let mut joiner = Run::joining(AUTO, &daemon).python(HOLDER, &[]);
    joiner.hear();
    let script = "
import array, os, random, socket, sys
random.seed(3)
held = []
for turn in range(100):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.connect(sys.argv[1])
    if turn % 2: one.send(bytes([0, 1]))
    try:
        for packet in range(turn % 5):
            files = array.array('i', [0] * random.randrange(20))
            data = bytes(random.randrange(256) for _ in range(1 + random.randrange(300)))
            one.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)] if files else [])
    except OSError: pass
    if turn % 3: held.append(one)
stream = socket.socket(socket.AF_UNIX)
try: stream.connect(sys.argv[1])
except OSError: print('refused', flush=True)
sys.stdin.readline()
";
    let mut command = Command::new(python());
    command.args(["-c", script, daemon.socket()]);
    let mut stranger = start(command);
    assert_eq!(stranger.hear(), "refused");
    joiner.say("here");
    joiner.hear();
    let mut other = Run::joining(AUTO, &daemon).python(HOLDER, &[]);
    assert_eq!(other.hear(), "mapped b'here'");
    for joiner in [joiner, other] {
        joiner.finish().well();
    }
    daemon.wait_for_calls("release", 2);
    daemon.stop().well();
    stranger.finish().well();
}

/// A container that shares the socket, and a terminal outside of it.
#[test]
fn a_container_joins() {
    let container = Client::docker();
    let daemon = Daemon::start(MEM, &[]);
    let mut inside = Run::joining(AUTO, &daemon).within(&container).python(HOLDER, &[]);
    assert!(inside.hear().starts_with("mapped"));
    let mut outside = Run::joining(AUTO, &daemon).python(HOLDER, &[]);
    outside.hear();
    inside.say("ping");
    assert_eq!(inside.hear(), "written");
    outside.say("look");
    assert_eq!(outside.hear(), "b'ping'");
    inside.finish().well();
    daemon.wait_for_calls("release", 1);
    outside.finish().well();
    daemon.wait_for_calls("release", 2);
    daemon.stop().well();
}

/// Runs that are killed at any moment of their work leave nothing in the daemon: no open
/// file, no descriptor, no thread.
#[test]
fn joiners_that_die_leave_nothing() {
    let devices = ["/dev/m=mem:size=64K", "/dev/e=events", "/dev/p=pattern"];
    let daemon = Daemon::start(&devices, &[]);
    // The descriptors of a daemon root alone can see.
    let count = |what: &str| {
        let entries = std::fs::read_dir(format!("/proc/{}/{what}", daemon.pid()));
        entries.ok().map(Iterator::count)
    };
    let script = "
say('begins')
while True:
    m, e, p = [os.open('/dev/' + name, os.O_RDWR) for name in 'mep']
    one, two = mmap.mmap(m, PAGE), mmap.mmap(p, 4 * PAGE)
    one[0:4], two[PAGE] = b'live', 1
    if os.fork() == 0:
        os.write(e, b'x')
        os.read(e, 1)
        os._exit(0)
    os.wait()
    one.close(), two.close()
    for fd in m, e, p: os.close(fd)
";
    // One that ends in order shows what a daemon has when nobody has joined any more.
    Run::joining(AUTO, &daemon).output(&["dd", "if=/dev/m", "count=0"]).well();
    let idle = wait_for("an idle daemon", || {
        let now = (count("fd"), count("task"));
        std::thread::sleep(std::time::Duration::from_millis(20));
        (now == (count("fd"), count("task")) && daemon.count("release") == 1).then_some(now)
    });
    for round in 0..4 {
        let mut joiners: Vec<_> =
            (0..3).map(|_| Run::joining(AUTO, &daemon).python(script, &[])).collect();
        for joiner in &mut joiners {
            assert_eq!(joiner.hear(), "begins");
        }
        let opens = daemon.count("open");
        daemon.wait_for_calls("open", opens + 20);
        for joiner in &joiners {
            // The supervisor before its program, or after it.
            let (supervisor, program) = (joiner.supervisor(), joiner.program());
            let order = if round % 2 == 0 { [supervisor, program] } else { [program, supervisor] };
            order.into_iter().for_each(kill);
        }
        drop(joiners);
    }
    wait_for("the release of all that was open", || {
        (daemon.count("open") == daemon.count("release")).then_some(())
    });
    let (files, threads) = idle;
    wait_for("the end of all threads", || (count("task") <= threads).then_some(()));
    wait_for("the close of all descriptors", || (count("fd") <= files).then_some(()));
    daemon.stop().well();
}

/// Maps filled pages and does as it is told: `put`, `sync`, `look`.
const PAGES: &str = "
fd = os.open(sys.argv[1], os.O_RDWR)
area = mmap.mmap(fd, 4 * PAGE)
say(area[PAGE:PAGE + 4])
while word := hear():
    if word == 'look': say(area[PAGE:PAGE + 4])
    # A device without fsync says EINVAL when the pages have gone back.
    elif word == 'sync': say(error_of(area.flush))
    else: area[PAGE:PAGE + 4] = word.encode(); say('stored')
";

/// What one joiner stores in filled pages, and has given back by `msync`, is what others
/// find who map them later: those of a device that leaves the keeping to its home, and of
/// a file.
#[test]
fn filled_pages_are_shared() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, [b'.'; 20_000]).expect("written");
    let shown = format!("{}/shown", directory.path().display());
    let device = format!("{shown}=file:path={},access=rw", file.display());
    let daemon = Daemon::start(&["/dev/p=pattern", &device], &[]);
    // In trapped mode the pages of `pattern` are each joiner's own.
    for (mode, path, first) in [
        ("namespace", "/dev/p", None),
        ("namespace", &shown[..], Some("b'....'")),
        ("trapped", &shown[..], Some("b'pong'")),
    ] {
        let join = || Run::joining(Mode(mode), &daemon).python(PAGES, &[path]);
        let synced = if first.is_some() { "0" } else { "EINVAL" };
        let mut one = join();
        let begins = one.hear();
        assert!(first.is_none_or(|first| first == begins), "{begins}");
        let stores = |joiner: &mut crate::harness::Running, word: &str| {
            joiner.say(word);
            assert_eq!(joiner.hear(), "stored");
            joiner.say("sync");
            assert_eq!(joiner.hear(), synced);
        };
        stores(&mut one, "ping");
        let mut two = join();
        assert_eq!(two.hear(), "b'ping'");
        stores(&mut two, "pong");
        let mut three = join();
        assert_eq!(three.hear(), "b'pong'");
        // Who has the page has it too; in trapped mode it is one of its own.
        one.say("look");
        assert_eq!(one.hear(), if mode == "trapped" { "b'ping'" } else { "b'pong'" });
        for joiner in [one, two, three] {
            joiner.finish().well();
        }
        // Of a file they are the file's; else they are as new when nobody has them any more.
        let opens = daemon.count("open");
        daemon.wait_for_calls("release", opens);
        let mut next = join();
        assert_eq!(next.hear(), if first.is_some() { "b'pong'" } else { &begins });
        next.finish().well();
    }
    assert_eq!(std::fs::read(&file).expect("the file")[4096..4100], *b"pong");
    daemon.stop().well();
}
