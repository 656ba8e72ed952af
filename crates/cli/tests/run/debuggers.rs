//! gdb and strace around and attached to a program that maps, and signals that come all
//! the time.

use std::process::Command;

use crate::harness::{Client, Linking, Mode, PRELUDE, Run, in_each_mode, python, start};

in_each_mode!(
    strace_runs_the_program,
    strace_attaches,
    gdb_runs_the_program,
    gdb_attaches,
    strace_runs_devmap,
    a_camera_streams_under_strace,
    a_timer_interrupts_nothing,
);

const MEM: &[&str] = &["/dev/m=mem"];

/// Maps again and again, as a thread that is traced.
const MAPS: &str = "
def work(fd):
    for i in range(10):
        area = map_raw(fd, 2, i * PAGE)
        area[0:4] = b'd%03d' % i
        say(area[0:4], os.pread(fd, 4, i * PAGE))
    os.close(fd)
";

/// What does not hold of a device that was opened under a debugger: see COMPAT.md.
const UNDER_A_DEBUGGER: &[&str] =
    &["lseek_end", "lseek_past_the_end", "not_dumped", "private_not_dumped", "write_at_the_end"];

/// What [`MAPS`] prints.
fn mapped() -> String {
    (0..10).map(|i| format!("b'd{i:03}' b'd{i:03}'\n")).collect()
}

fn strace_runs_the_program(mode: Mode) {
    let client = Client::compile("mem", Linking::Dynamic);
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let log = log.to_str().expect("UTF-8");
    let finished =
        Run::new(mode, MEM).output(&["strace", "-f", "-o", log, &client.path(), "/dev/m"]);
    let failed = finished.stdout.lines().filter_map(|line| line.strip_prefix("FAIL "));
    let failed: Vec<&str> = failed.filter_map(|line| line.split(':').next()).collect();
    for name in &failed {
        assert!(UNDER_A_DEBUGGER.contains(name), "{name}: {finished:?}");
    }
    let log = std::fs::read_to_string(log).expect("the log");
    assert!(log.contains("\"/dev/m\"") && log.contains("+++ exited with"), "{log}");
}

/// Attaches `tracer` from outside and has the program map under it.
fn attached(mode: Mode, tracer: &dyn Fn(&str) -> Command, ready: &str) {
    let script = format!(
        "{MAPS}
# Yama permits children alone otherwise.
ctypes.CDLL(None).prctl(0x59616d61, -1)
fd = os.open('/dev/m', os.O_RDWR)
say('ready')
hear()
work(fd)
work(os.open('/dev/m', os.O_RDWR))
hear()
"
    );
    let mut running = Run::new(mode, MEM).python(&script, &[]);
    assert_eq!(running.hear(), "ready");
    let mut tracer = start(tracer(&running.program().to_string()));
    tracer.hear_error(ready);
    running.say("map");
    // First what was opened before the tracer came, then what was opened under it.
    for line in mapped().repeat(2).lines() {
        assert_eq!(running.hear(), line);
    }
    running.say("end");
    running.finish().well();
    tracer.finish();
}

fn strace_attaches(mode: Mode) {
    let strace = |pid: &str| {
        let mut command = Command::new("strace");
        command.args(["-f", "-p", pid, "-e", "trace=mmap"]);
        command
    };
    attached(mode, &strace, "attached");
}

fn gdb_attaches(mode: Mode) {
    let gdb = |pid: &str| {
        let mut command = Command::new("gdb");
        command.args(["-nx", "-batch", "-p", pid, "-ex", "shell echo attached >&2"]);
        command.args(["-ex", "continue"]);
        command
    };
    attached(mode, &gdb, "attached");
}

fn gdb_runs_the_program(mode: Mode) {
    let script = format!("{PRELUDE}{MAPS}work(os.open('/dev/m', os.O_RDWR))\n");
    let program = ["gdb", "-nx", "-batch", "-ex", "run", "--args", python(), "-c", &script];
    let text = Run::new(mode, MEM).prints(&program);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("b'd")).collect();
    assert_eq!(lines.join("\n") + "\n", mapped(), "{text}");
    assert!(text.contains("exited normally"), "{text}");
}

/// strace around the whole of devmap.
fn strace_runs_devmap(mode: Mode) {
    let mut command = Command::new("strace");
    let directory = tempfile::tempdir().expect("a directory");
    command.arg("-o").arg(directory.path().join("log")).arg(crate::harness::DEVMAP);
    command.args(["run", "--mode", mode.0, "-d", "/dev/hello=hello", "cat", "/dev/hello"]);
    assert_eq!(start(command).finish().well().stdout, "Hello from a device in safe Rust.\n");
}

/// Whoever starts whom: v4l2-ctl maps the buffers, and polls between its ioctls.
fn a_camera_streams_under_strace(mode: Mode) {
    const CAMERA: &str = "/dev/video0=camera:pace=client";
    const STREAM: [&str; 5] =
        ["v4l2-ctl", "-d/dev/video0", "--stream-mmap", "--stream-poll", "--stream-count=3"];
    let traced = [&["strace", "-f", "-o", "/dev/null"][..], &STREAM].concat();
    Run::new(mode, &[CAMERA]).output(&traced).well();
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", crate::harness::DEVMAP, "run"]);
    command.args(["--mode", mode.0, "--device", CAMERA, "--"]).args(STREAM);
    start(command).finish().well();
}

/// 100 times a second, without `SA_RESTART`: no call fails but by `EINTR`, and nothing is
/// lost.
fn a_timer_interrupts_nothing(mode: Mode) {
    let script = "
count = 0
def handler(*_):
    global count
    count += 1
signal.signal(signal.SIGALRM, handler)
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
rounds = 0
while count < 30 or rounds < 100:
    rounds += 1
    # Known, and named in COMPAT.md: a signal may come before devmap has taken the call.
    while (fd := libc.open(b'/dev/m', os.O_RDWR)) < 0:
        if not NOTIFIED or ctypes.get_errno() != errno.EINTR: say('open', ctypes.get_errno())
    while (at := libc.mmap(None, PAGE, 3, mmap.MAP_SHARED, fd, 0)) == (1 << 64) - 1:
        if ctypes.get_errno() != errno.EINTR: say('mmap', ctypes.get_errno())
    word = ctypes.c_uint32.from_address(at)
    if word.value != rounds - 1: say('lost', word.value)
    word.value = rounds
    while libc.ioctl(fd, 0x4504) != -1 or ctypes.get_errno() != errno.ENOTTY:
        if not NOTIFIED or ctypes.get_errno() != errno.EINTR: say('ioctl', ctypes.get_errno())
    while libc.lseek(fd, 1, 0) != 1:
        if ctypes.get_errno() != errno.EINTR: say('lseek', ctypes.get_errno())
    if libc.munmap(at, PAGE): say('munmap')
    if libc.close(fd): say('close')
signal.setitimer(signal.ITIMER_REAL, 0)
say('done')
";
    // Whether `open` and `ioctl` are notified.
    let notified = if mode.is_trapped() { "True" } else { "False" };
    let script = format!("NOTIFIED = {notified}\n{script}");
    let finished = Run::new(mode, MEM).traced().python(&script, &[]).finish().well();
    assert_eq!(finished.stdout, "done\n");
    assert_eq!(finished.count("open"), finished.count("release"));
}
