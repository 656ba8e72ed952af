//! devmap itself wants for something: descriptors, memory, threads, room for its trace. It
//! says so and ends with 125, or the call that it cannot serve fails; nothing hangs, and what
//! comes when there is enough again is served.
//!
//! What does not live here: single calls that fail (`faults`).

use std::process::Command;

use rustix::process::geteuid;

use crate::harness::{DEVMAP, Daemon, Finished, Mode, Run, in_each_mode, start};

in_each_mode!(
    a_start_without_descriptors,
    a_start_without_proc,
    opens_until_no_descriptor_is_left,
    little_address_space,
    memory_that_may_not_be_locked,
    more_memory_than_there_can_be,
    a_file_system_that_is_full_stops_the_trace_alone,
    files_that_may_not_grow,
    few_processes,
    waits_when_no_thread_is_left,
);

const MEM: &[&str] = &["/dev/m=mem"];

/// The run by a shell that sets a limit first.
fn limited(run: Run, limit: &str) -> Run {
    run.by(&["sh", "-c", &format!("ulimit {limit} && exec \"$@\""), "sh"])
}

/// The program's own output or failure, or a message of devmap's.
#[track_caller]
fn is_explained(finished: &Finished, limit: &str) {
    let panicked =
        finished.stderr.contains("panicked") && !finished.stderr.contains("alternative stack");
    assert!(!panicked, "{limit}: {finished:?}");
    match finished.status.code() {
        Some(0) => assert_eq!(finished.stdout, "Hello \n", "{limit}: {finished:?}"),
        // The program's own, or 125 to 127.
        _ => assert!(!finished.stderr.is_empty(), "{limit}: {finished:?}"),
    }
}

fn a_start_without_descriptors(mode: Mode) {
    let mut refused = 0;
    // With fewer than five the dynamic linker cannot load libraries.
    for descriptors in 5..24 {
        let limit = format!("-n {descriptors}");
        let run = limited(Run::new(mode, &["/dev/h=hello"]), &limit);
        let finished = run.output(&["head", "-c", "6", "/dev/h"]);
        is_explained(&finished, &limit);
        if finished.status.code() == Some(125) {
            refused += 1;
            finished.complains(&["devmap: ", "ulimit -n"]);
        }
    }
    assert!(refused > 0);
}

/// What its driver wants in memory says that it may be swapped out, and how to change that. A
/// camera's buffers are no such thing.
fn memory_that_may_not_be_locked(mode: Mode) {
    // Root may lock without limit, by a capability.
    let weaker: &[&str] =
        if geteuid().is_root() { &["setpriv", "--bounding-set", "-ipc_lock"] } else { &["env"] };
    let limited = |device| limited(Run::new(mode, &[device]).by(weaker), "-l 0");
    let script = "map_raw(os.open('/dev/m', os.O_RDWR), 1)";
    let said = limited(MEM[0]).python(script, &[]).finish().well().stderr;
    assert!(said.contains("/dev/m: its memory may be swapped out"), "{said}");
    assert!(said.contains("`ulimit -l`"), "{said}");
    let stream = ["v4l2-ctl", "--stream-mmap", "--stream-count=2", "--stream-to=/dev/null"];
    let said = limited("/dev/video0=camera:pace=client").output(&stream).well().stderr;
    assert!(!said.contains("swapped"), "{said}");
}

fn a_start_without_proc(mode: Mode) {
    let hide = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
    let unshare = if geteuid().is_root() { "-m" } else { "-rm" };
    let run = Run::new(mode, &["/dev/h=hello"]).by(&["unshare", unshare, "sh", "-c", hide]);
    let finished = run.output(&["head", "-c", "6", "/dev/h"]);
    assert_eq!(finished.status.code(), Some(125), "{finished:?}");
    finished.complains(&["cannot start the supervisor: ", "mount /proc, which devmap needs"]);
}

/// Children hold all that can be opened; when they have ended, there is enough again.
fn opens_until_no_descriptor_is_left(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
os.pwrite(fd, b'data', 0)
def hold():
    held = []
    try:
        while len(held) < 150:
            one = os.open('/dev/m', os.O_RDWR)
            held.append((one, map_raw(one, 1)))
            if held[-1][1][0:4] != b'data' or os.pread(one, 4, 0) != b'data': return 'wrong'
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'held'
children = []
for _ in range(4):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, hold().encode())
        while True: signal.pause()
    say(os.read(reader, 99).decode())
    os.close(reader)
    os.close(writer)
    children.append(child)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
# The last of them is released a moment after its process.
while True:
    try:
        again = os.open('/dev/m', os.O_RDWR)
        say(map_raw(again, 1)[0:4], os.pread(again, 4, 0))
        break
    except OSError: pass
";
    let run = limited(Run::new(mode, MEM), "-n 200");
    let finished = run.python(script, &[]).finish().well();
    let said: Vec<&str> = finished.stdout.lines().collect();
    let (last, children) = said.split_last().expect("lines");
    assert_eq!(*last, "b'data' b'data'", "{finished:?}");
    let allowed = ["held", "EMFILE", "ENFILE", "ENOMEM"];
    assert!(children.iter().all(|word| allowed.contains(word)), "{finished:?}");
    assert!(children.iter().any(|word| *word != "held"), "{finished:?}");
}

/// From what the command needs to be loaded at all, in steps, to what it needs to run.
/// Without random addresses: what loads once shall load each time.
fn little_address_space(mode: Mode) {
    let loads = |kilobytes: u32| {
        let mut command = Command::new("setarch");
        let script = format!("ulimit -c 0; ulimit -v {kilobytes}; exec \"$0\" --version");
        command.args(["-R", "sh", "-c", &script, DEVMAP]);
        start(command).finish().status.success()
    };
    let least = (8..200).map(|megabytes| megabytes << 10).find(|kilobytes| loads(*kilobytes));
    let least = least.expect("200 MiB are enough");
    let mut served = false;
    for step in 0..12 {
        let limit = format!("-v {}", least + step * 1536);
        let script = format!("ulimit {limit} && exec \"$@\"");
        let run =
            Run::new(mode, &["/dev/h=hello"]).by(&["setarch", "-R", "sh", "-c", &script, "sh"]);
        let finished = run.output(&["head", "-c", "6", "/dev/h"]);
        is_explained(&finished, &limit);
        served = finished.status.success();
    }
    assert!(served, "18 MiB more than loading takes are not enough");
}

fn more_memory_than_there_can_be(mode: Mode) {
    let run = Run::new(mode, &["/dev/m=mem:size=9223372036854775807"]);
    run.output(&["true"]).exited(125).complains(&["cannot make a memory of", "/dev/m"]);
    let run = limited(Run::new(mode, &["/dev/m=mem:size=1T"]), "-v 400000");
    run.output(&["true"]).exited(125).complains(&["cannot make a memory of", "/dev/m"]);
}

/// One that fills up, where `/dev/full` is full from the start.
fn a_file_system_that_is_full_stops_the_trace_alone(mode: Mode) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    let mount = "mount -t tmpfs -o size=16k none \"$0\" && exec \"$@\"";
    let unshare = if geteuid().is_root() { "-m" } else { "-rm" };
    let trace = format!("{path}/trace");
    let run = Run::new(mode, &["/dev/m=mem"]).options(&["--trace", &trace]);
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
for i in range(2000): os.pwrite(fd, b'%04d' % i, 0)
say(os.pread(fd, 4, 0))
";
    let run = run.by(&["unshare", unshare, "sh", "-c", mount, path]);
    let finished = run.python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "b'1999'\n");
    assert_eq!(finished.stderr.matches("No space left").count(), 1, "{finished:?}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
}

/// `ulimit -f`: an error that is told, not the death by SIGXFSZ; which is the program's, as ever.
fn files_that_may_not_grow(mode: Mode) {
    let remedy = "File too large (os error 27); raise the limit of a file's size (`ulimit -f`)";
    let run = limited(Run::new(mode, &["/dev/m=mem:size=1M"]), "-f 100");
    let finished = run.output(&["true"]).exited(125);
    finished.complains(&["/dev/m", "bytes: ftruncate: ", remedy]);
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let (trace, file) = (at("trace"), format!("of={}", at("file")));
    // A program ends by the signal; what it did before was served.
    let run = Run::new(mode, &["/dev/h=hello"]).options(&["--trace", &trace]);
    let script =
        "for i in $(seq 100); do head -c 6 /dev/h; done; exec dd if=/dev/zero \"$0\" bs=1M";
    let finished = limited(run, "-f 2").output(&["sh", "-c", script, &file]);
    let finished = finished.killed(libc::SIGXFSZ);
    assert_eq!(finished.stdout, "Hello ".repeat(100) + "\n", "{finished:?}");
    assert_eq!(finished.stderr.matches(remedy).count(), 1, "{finished:?}");
    finished.complains(&[&format!("cannot write the trace {trace}: {remedy}")]);
}

/// A daemon whose device is told by a program to grow beyond what the daemon may write.
#[test]
fn a_joiner_cannot_end_a_daemon_by_its_limits() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "data").expect("written");
    let shown = format!("{}/shown", directory.path().display());
    let device = format!("{shown}=file:path={},access=rw", file.display());
    let mut command = Command::new("sh");
    let script = "ulimit -f 2000; exec \"$0\" \"$@\"";
    command.args(["-c", script, DEVMAP, "serve", "--device", &device]);
    let daemon = Daemon::start_by(command, "--socket");
    let script = "
say(error_of(lambda: os.truncate(sys.argv[1], 1 << 40)))
fd = os.open(sys.argv[1], os.O_RDWR)
say(error_of(lambda: os.pwrite(fd, b'far', 1 << 40)))
say(os.pread(fd, 9, 0))
";
    let joiner = Run::joining(Mode("namespace"), &daemon).python(script, &[&shown]);
    assert_eq!(joiner.finish().well().stdout, "EFBIG\nEFBIG\nb'data'\n");
    daemon.stop().well();
}

/// The run by a user who may have so many processes and threads. Those of others do not count: in
/// a user namespace they are counted by themselves.
fn with_processes(run: Run, count: u32) -> Run {
    let unshare = ["unshare", "--user", "--map-current-user"];
    // Root has no such limit.
    let before: &[&str] = if geteuid().is_root() { &[] } else { &unshare };
    run.by(&[before, &["prlimit", &format!("--nproc={count}")]].concat())
}

/// From one process on, to what it needs to run.
fn few_processes(mode: Mode) {
    let mut refused = 0;
    let mut served = false;
    for count in 1..16 {
        let run = with_processes(Run::new(mode, &["/dev/h=hello"]), count);
        let finished = run.output(&["head", "-c", "6", "/dev/h"]);
        is_explained(&finished, &format!("-u {count}"));
        served = finished.status.success();
        if !served {
            refused += 1;
            finished.complains(&["(os error 11)", "`ulimit -u`"]);
        }
    }
    assert!(served && (geteuid().is_root() || refused > 2), "{refused}");
}

/// A program's children take all that its user may have, and wait in the driver, so that no
/// thread is left to receive anything: then a wait fails. Other calls are served; each child can
/// be killed, and then there is enough again.
fn waits_when_no_thread_is_left(mode: Mode) {
    let script = "
m, fd = os.open('/dev/m', os.O_RDWR), os.open('/dev/e', os.O_RDWR)
os.pwrite(m, b'data', 0)
children = []
try:
    while len(children) < 60:
        child = os.fork()
        if child == 0: os._exit(70 + (error_of(lambda: os.read(fd, 1)) == 'ENOMEM'))
        children.append(child)
except BlockingIOError: pass
for i in range(100): assert os.pread(m, 4, 0) == b'data'
for child in children: os.kill(child, signal.SIGKILL)
statuses = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
assert statuses <= {-9, 71}, statuses
os.write(fd, b'b')
say(os.read(fd, 1))
";
    let run = with_processes(Run::new(mode, &["/dev/e=events", "/dev/m=mem"]), 40);
    let finished = run.python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "b'b'\n", "{finished:?}");
}
