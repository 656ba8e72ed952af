//! Who shares what, for how long, and when an open file is released: read from the
//! trace.

use crate::harness::{Finished, Mode, Run, in_each_mode, is_gone, kill, wait_for};

in_each_mode!(
    two_programs_share_the_memory,
    a_terminal_that_goes_away_ends_the_program,
    closed_standard_descriptors_are_null,
    memory_outlives_its_opener,
    release_follows_the_last_close,
    release_follows_the_last_unmap,
    release_follows_the_last_process,
    kill_releases,
    processes_left_behind_are_served,
    status_and_signals_pass_through,
    terminals_are_made,
    a_thread_execs_while_another_is_in_a_call,
);

const MEM: &[&str] = &["/dev/m=mem:size=64K"];

/// The calls of the trace, with which of the open files each was about: 0 is the first
/// that was opened.
fn story(finished: &Finished) -> Vec<String> {
    let mut opens: Vec<u64> = Vec::new();
    let calls = finished.trace.iter().map(|event| {
        let call = event["call"].as_str().expect("a call");
        let Some(open) = event["open"].as_u64() else { return call.to_owned() };
        let place = opens.iter().position(|other| *other == open).unwrap_or_else(|| {
            opens.push(open);
            opens.len() - 1
        });
        format!("{call} {place}")
    });
    calls.collect()
}

fn two_programs_share_the_memory(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
area = mmap.mmap(fd, PAGE)
area[0:4] = b'ping'
child = subprocess.Popen([sys.executable, '-c', '''
import mmap, os
fd = os.open(\"/dev/m\", os.O_RDWR)
area = mmap.mmap(fd, mmap.PAGESIZE)
print(area[0:4], flush=True)
area[0:4] = b\"pong\"
'''])
child.wait()
say(area[0:4])
";
    let finished = Run::new(mode, MEM).traced().python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "b'ping'\nb'pong'\n");
    let story = story(&finished);
    let mut story: Vec<&str> = story.iter().map(String::as_str).collect();
    // Which of two files whose programs have both ended is released first is not said.
    story[4..].sort_unstable();
    assert_eq!(story, ["open 0", "mmap", "open 1", "mmap", "release 0", "release 1"]);
}

/// The driver does not wait any more for whom somebody has seen die.
#[test]
fn who_was_killed_waits_no_more_in_trapped_mode() {
    let script = "
STATS = 2 << 30 | 24 << 16 | ord('E') << 8 | 8
def waiting():
    stats = bytearray(24)
    fcntl.ioctl(fd, STATS, stats, True)
    return int.from_bytes(stats[16:], sys.byteorder)
fd = os.open('/dev/e', os.O_RDWR)
seen = []
for _ in range(40):
    child = os.fork()
    if child == 0: os._exit(len(os.read(fd, 1)))
    while waiting() == 0: pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen.append(waiting())
say(seen == [0] * 40)
";
    let run = Run::new(Mode("trapped"), &["/dev/e=events"]).python(script, &[]);
    assert_eq!(run.finish().well().stdout, "True\n");
}

/// A child still maps what its parent opened, closed, unmapped and died of.
fn memory_outlives_its_opener(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
area = mmap.mmap(fd, PAGE)
area[0:4] = b'here'
os.close(fd)
say('ready')
hear()
if os.fork() != 0:
    os._exit(7)
hear()
say(area[0:4])
area[0:4] = b'last'
fd = os.open('/dev/m', os.O_RDWR)
say(mmap.mmap(fd, PAGE)[0:4])
";
    let mut running = Run::new(mode, MEM).traced().python(script, &[]);
    assert_eq!(running.hear(), "ready");
    let program = running.program();
    running.say("end");
    wait_for("the opener's end", || is_gone(program).then_some(()));
    running.say("go on");
    assert_eq!(running.hear(), "b'here'");
    assert_eq!(running.hear(), "b'last'");
    running.finish().exited(7);
}

fn release_follows_the_last_close(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
copy = os.dup(fd)
os.close(fd)
child = os.fork()
if child == 0:
    os.lseek(copy, 1, os.SEEK_SET)
    os._exit(0)
os.waitpid(child, 0)
os.lseek(copy, 2, os.SEEK_SET)
os.close(copy)
other = os.open('/dev/m', os.O_RDONLY)
os.close(other)
";
    let finished = Run::new(mode, MEM).traced().python(script, &[]).finish().well();
    // The kernel queues a release; what is opened next may overtake it.
    assert_eq!((finished.count("open"), finished.count("release")), (2, 2));
    let story = story(&finished);
    let place = |what: &str| story.iter().position(|event| event == what);
    assert!(place("release 0") > story.iter().rposition(|event| event == "lseek 0"), "{story:?}");
}

fn release_follows_the_last_unmap(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
at = libc.mmap(None, 4 * PAGE, 3, mmap.MAP_SHARED, fd, 0)
os.close(fd)
say('closed')
for start, pages in (1, 1), (0, 1), (2, 2):
    hear()
    libc.munmap(at + start * PAGE, pages * PAGE)
    say('unmapped')
hear()
";
    let mut running = Run::new(mode, MEM).traced().python(script, &[]);
    assert_eq!(running.hear(), "closed");
    for _ in 0..3 {
        assert!(!running.trace_so_far().contains("\"release\""), "{}", running.trace_so_far());
        running.say("unmap");
        assert_eq!(running.hear(), "unmapped");
    }
    // While the program lives on.
    wait_for("the release", || running.trace_so_far().contains("\"release\"").then_some(()));
    running.say("end");
    assert_eq!(running.finish().well().calls(), ["open", "mmap", "release"]);
}

/// Exactly once, though three processes had the descriptor and the map.
fn release_follows_the_last_process(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
area = mmap.mmap(fd, PAGE)
for i in range(2):
    if os.fork() == 0:
        area[i] = 1
        os.close(fd)
        os._exit(0)
os.wait(); os.wait()
say(area[0:2])
";
    let finished = Run::new(mode, MEM).traced().python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "b'\\x01\\x01'\n");
    assert_eq!(finished.calls(), ["open", "mmap", "release"]);
}

fn kill_releases(mode: Mode) {
    let script = "
fd = os.open('/dev/m', os.O_RDWR)
other = os.open('/dev/m', os.O_RDWR)
area = mmap.mmap(fd, PAGE)
os.close(fd)
say('mapped')
hear()
";
    let mut running = Run::new(mode, MEM).traced().python(script, &[]);
    assert_eq!(running.hear(), "mapped");
    kill(running.program());
    let finished = running.finish().killed(9);
    assert_eq!((finished.count("open"), finished.count("release")), (2, 2), "{finished:?}");
}

/// The front ends with the program; what it left behind goes on.
fn processes_left_behind_are_served(mode: Mode) {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    let script = "
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    for fd in 0, 1, 2: os.close(fd)
    # Until the program has ended.
    os.read(reader, 1)
    os.setsid()
    fd = os.open('/dev/m', os.O_RDWR)
    with open(sys.argv[1], 'w') as out:
        out.write(str(mmap.mmap(fd, PAGE)[0:1]) + 'end')
    os._exit(0)
";
    let path = out.to_str().expect("UTF-8");
    Run::new(mode, MEM).python(script, &[path]).finish().well();
    let text = wait_for("the rest", || {
        std::fs::read_to_string(&out).ok().filter(|text| text.ends_with("end"))
    });
    assert_eq!(text, "b'\\x00'end");
}

fn closed_standard_descriptors_are_null(mode: Mode) {
    let closed = ["sh", "-c", "exec \"$@\" <&-", "sh"];
    let run = Run::new(mode, MEM).by(&closed);
    assert_eq!(run.output(&["readlink", "/proc/self/fd/0"]).well().stdout, "/dev/null\n");
}

fn terminals_are_made(mode: Mode) {
    let script = "
import pty
here, there = pty.openpty()
name = os.ttyname(there)
os.write(here, b'line\\n')
say(os.path.basename(os.path.dirname(name)), os.read(there, 5), os.path.exists(name))
";
    let finished = Run::new(mode, MEM).python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "pts b'line\\n' True\n");
}

/// The kernel tells the session's leader alone, which is devmap's front here.
fn a_terminal_that_goes_away_ends_the_program(mode: Mode) {
    let leads = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])
os.read(terminal, 1)
os.close(terminal)
print(os.waitpid(pid, 0)[1])
";
    let run = Run::new(mode, MEM).by(&["python3", "-c", leads]);
    let finished = run.output(&["sh", "-c", "echo; exec sleep 1000"]).well();
    assert_eq!(finished.stdout, "1\n");
}

fn status_and_signals_pass_through(mode: Mode) {
    let sh = |script| Run::new(mode, MEM).output(&["sh", "-c", script]);
    sh("exit 0").well();
    sh("exit 7").exited(7);
    sh("exit 255").exited(255);
    sh("kill -TERM $$").killed(15);
    sh("kill -KILL $$").killed(9);
    sh("ulimit -c 0; kill -SEGV $$").killed(11);
    let missing = Run::new(mode, MEM).output(&["/no/such/program"]).exited(127);
    missing.complains(&["/no/such/program", "not found"]);
    Run::new(mode, MEM).output(&["/etc/passwd"]).exited(126).complains(&["/etc/passwd"]);
    Run::new(mode, MEM).output(&["/dev/m"]).exited(126).complains(&["/dev/m"]);
    // A signal to the front reaches the program.
    let mut running = Run::new(mode, MEM).python(
        "
import time
signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
say('ready')
while True: time.sleep(1)  # Not until the input ends: the front may be slow to hand on.
",
        &[],
    );
    assert_eq!(running.hear(), "ready");
    crate::harness::terminate(running.front());
    running.finish().exited(42);
}

/// `execve` kills the other threads and waits for them, and nobody can attach to them then.
fn a_thread_execs_while_another_is_in_a_call(mode: Mode) {
    let script = "
import threading, time
def waits(): os.read(os.open('/dev/e', os.O_RDWR), 8)
def opens():
    while True: os.close(os.open('/dev/e', os.O_RDWR))
for call in [waits, opens] * 30:
    child = os.fork()
    if child == 0:
        threading.Thread(target=call, daemon=True).start()
        time.sleep(0.01)
        os.execv('/bin/true', ['true'])
    signal.alarm(60)
    status = os.waitpid(child, 0)[1]
    if status: say(call.__name__, status)
say('done')
";
    let finished = Run::new(mode, &["/dev/e=events"]).python(script, &[]).finish().well();
    assert_eq!(finished.stdout, "done\n");
}
