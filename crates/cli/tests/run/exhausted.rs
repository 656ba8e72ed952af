//! devmap itself wants for something: descriptors, memory, threads, room for its trace. It
//! says so and ends with 125, or the call that it cannot serve fails; nothing hangs, and what
//! comes when there is enough again is served.
//!
//! What does not live here: single calls that fail (`faults`).

use std::process::Command;

use rustix::process::geteuid;

use crate::harness::{DEVMAP, Finished, Mode, Run, in_each_mode, start};

in_each_mode!(
    a_start_without_descriptors,
    opens_until_no_descriptor_is_left,
    little_address_space,
    more_memory_than_there_can_be,
    a_file_system_that_is_full_stops_the_trace_alone,
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
            finished.complains(&["devmap: "]);
        }
    }
    assert!(refused > 0);
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
fn little_address_space(mode: Mode) {
    let loads = |kilobytes: u32| {
        let mut command = Command::new("sh");
        let script = format!("ulimit -c 0; ulimit -v {kilobytes}; exec \"$0\" --version");
        command.args(["-c", &script, DEVMAP]);
        start(command).finish().status.success()
    };
    let least = (8..200).map(|megabytes| megabytes << 10).find(|kilobytes| loads(*kilobytes));
    let least = least.expect("200 MiB are enough");
    let mut served = false;
    for step in 0..12 {
        let limit = format!("-v {}", least + step * 1536);
        let run = limited(Run::new(mode, &["/dev/h=hello"]), &limit);
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
