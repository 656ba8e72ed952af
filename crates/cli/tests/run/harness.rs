//! Running a program under `devmap run`: starting it, talking with it, waiting for its
//! end with a deadline, and what it left behind.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// When something that must happen counts as something that never will. Where processes of the
/// lowest priority compete with dozens of others, the end of a supervisor was seen to take a
/// minute: to close an inotify descriptor, the kernel waits for everybody who is in the middle of
/// a notification (`fsnotify_wait_marks_destroyed`), and they may not get a processor.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// A value of `--mode`.
#[derive(Clone, Copy, Debug)]
pub struct Mode(pub &'static str);

impl Mode {
    /// Whether what COMPAT.md says of trapped mode holds.
    pub fn is_trapped(self) -> bool {
        self.0 == "trapped"
    }
}

/// Makes tests of functions that take a [`Mode`]: one in each mode that the machine has
/// to permit. A mode is a line here.
macro_rules! in_each_mode {
    ($($test:ident),+ $(,)?) => {
        crate::harness::in_each_mode!(@ namespace "namespace" [$($test)+]);
        crate::harness::in_each_mode!(@ trapped "trapped" [$($test)+]);
    };
    (@ $module:ident $mode:literal [$($test:ident)+]) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$test(crate::harness::Mode($mode));
            })+
        }
    };
}
pub(crate) use in_each_mode;

/// The command under test.
pub const DEVMAP: &str = env!("CARGO_BIN_EXE_devmap");

/// The system's own Python, where there is one: wrappers of others cost a shell each.
pub fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

/// What every script begins with.
pub const PRELUDE: &str = "
import ctypes, errno, fcntl, mmap, os, select, signal, struct, subprocess, sys
PAGE = mmap.PAGESIZE
# Copies: in trapped mode devmap answers for 0 and 1, which ends when it is killed.
IN = open(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 10))
OUT = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 10)
def say(*words): os.write(OUT, (' '.join(map(str, words)) + '\\n').encode())
def hear(): return IN.readline().strip()
def error_of(call):
    try: call()
    except OSError as error: return errno.errorcode[error.errno]
    return '0'
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p] + [ctypes.c_size_t] * 5
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
# The call itself: Python's own asks fstat for the size first.
def map_raw(fd, pages, offset=0):
    at = libc.mmap(None, pages * PAGE, 3, mmap.MAP_SHARED, fd, offset)
    if at == (1 << 64) - 1: raise OSError(ctypes.get_errno(), 'mmap')
    return (ctypes.c_char * (pages * PAGE)).from_address(at)
";

/// Lets other users use a file or a directory.
pub fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("chmod");
}

/// The root of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A run to be started.
pub struct Run {
    command: Command,
    trace: Option<TempDir>,
}

impl Run {
    /// `devmap run` in this mode, with these devices.
    pub fn new(mode: Mode, devices: &[&str]) -> Run {
        let run = Run::of(Path::new(DEVMAP), mode);
        devices.iter().fold(run, |run, device| run.options(&["--device", device]))
    }

    /// The same, by a copy of the command, and without devices.
    pub fn of(devmap: &Path, mode: Mode) -> Run {
        let mut command = Command::new(devmap);
        command.args(["run", "--mode", mode.0]);
        Run { command, trace: None }
    }

    /// `devmap run` in this mode, with the devices of a daemon.
    pub fn joining(mode: Mode, daemon: &Daemon) -> Run {
        Run::new(mode, &[]).options(&["--join", daemon.socket()])
    }

    /// The server of bad drivers, told what to do wrong.
    pub fn bad_driver(mode: Mode, wrong: &str) -> Run {
        Run::server("bad_driver", mode).environment("BAD", wrong)
    }

    /// A server of crates/cli/examples.
    pub fn server(name: &str, mode: Mode) -> Run {
        let mut command = server(name);
        command.args(["--mode", mode.0]);
        Run { command, trace: None }
    }

    /// By another command before that of devmap's, such as one that changes the user.
    pub fn by(mut self, before: &[&str]) -> Run {
        let mut command = Command::new(before[0]);
        command.args(&before[1..]).arg(self.command.get_program()).args(self.command.get_args());
        self.command = command;
        self
    }

    /// Within a container as Docker makes it.
    pub fn within(mut self, container: &Client) -> Run {
        let mut command = container.around(self.command.get_program());
        command.args(self.command.get_args());
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.command = command;
        self
    }

    /// More options.
    pub fn options(mut self, options: &[&str]) -> Run {
        self.command.args(options);
        self
    }

    /// A variable of the environment.
    pub fn environment(mut self, name: &str, value: &str) -> Run {
        self.command.env(name, value);
        self
    }

    /// Gathers [`Finished::trace`].
    pub fn traced(mut self) -> Run {
        let directory = tempfile::tempdir().expect("a directory");
        open_to_all(directory.path());
        let file = directory.path().join("trace");
        self.command.arg("--trace").arg(file).args(["--trace-format", "json"]);
        self.trace = Some(directory);
        self
    }

    /// Starts the program.
    pub fn start<S: AsRef<OsStr>>(mut self, program: &[S]) -> Running {
        self.command.arg("--").args(program);
        let mut running = start(self.command);
        running.trace = self.trace;
        running
    }

    /// Starts a Python script.
    pub fn python(self, script: &str, arguments: &[&str]) -> Running {
        let script = format!("{PRELUDE}{script}");
        self.start(&[&[python(), "-c", &script], arguments].concat())
    }

    /// Runs the program to its end.
    pub fn output<S: AsRef<OsStr>>(self, program: &[S]) -> Finished {
        self.start(program).finish()
    }

    /// What the program prints; it must end well.
    #[track_caller]
    pub fn prints<S: AsRef<OsStr>>(self, program: &[S]) -> String {
        self.output(program).well().stdout
    }
}

/// The server of bad drivers, told what to do wrong.
pub fn bad_driver(wrong: &str) -> Command {
    let mut command = server("bad_driver");
    command.env("BAD", wrong);
    command
}

/// A server of crates/cli/examples.
fn server(name: &str) -> Command {
    Command::new(example(name))
}

/// A program of crates/cli/examples.
pub fn example(name: &str) -> PathBuf {
    let test = env::current_exe().expect("this program's path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    profile.join("examples").join(name)
}

/// A child whose output is read as it comes.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
    readers: Vec<JoinHandle<()>>,
    trace: Option<TempDir>,
    /// Lines of standard error that have been waited for already.
    seen: String,
}

/// Starts a command and talks with it.
pub fn start(mut command: Command) -> Running {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.env("RUST_BACKTRACE", "0").spawn().expect("it starts");
    let stdin = child.stdin.take();
    let (lines, out) = reader(child.stdout.take().expect("piped"));
    let (errors, err) = reader(child.stderr.take().expect("piped"));
    let (readers, seen) = (vec![out, err], String::new());
    Running { child, stdin, lines, errors, readers, trace: None, seen }
}

impl Running {
    /// The next line that the program prints.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        self.hear_after(Duration::ZERO)
    }

    /// The next line that the program prints, which has this long to do.
    #[track_caller]
    pub fn hear_after(&mut self, work: Duration) -> String {
        match self.lines.recv_timeout(work + DEADLINE) {
            Ok(line) => line,
            Err(error) => panic!("no line came: {error}; stderr: {}", self.errors_so_far()),
        }
    }

    /// Waits for a line of standard error that holds `words`.
    #[track_caller]
    pub fn hear_error(&mut self, words: &str) {
        loop {
            let line = self.errors.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("{words:?} is not in: {}", self.seen));
            self.seen += &line;
            self.seen.push('\n');
            if line.contains(words) {
                return;
            }
        }
    }

    /// Gives the program a line.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open until finish");
        writeln!(stdin, "{line}").expect("the program listens");
    }

    /// The front: the process that a shell would wait for.
    pub fn front(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The supervisor.
    pub fn supervisor(&self) -> i32 {
        wait_for("the supervisor", || children(self.front()).first().copied())
    }

    /// The program itself.
    pub fn program(&self) -> i32 {
        let only = |of| wait_for("a child", || children(of).first().copied());
        only(only(self.supervisor()))
    }

    /// The trace as far as it has been written.
    pub fn trace_so_far(&self) -> String {
        let directory = self.trace.as_ref().expect("a trace");
        fs::read_to_string(directory.path().join("trace")).unwrap_or_default()
    }

    /// Waits for its end, and for the supervisor's, who may have much to close.
    #[track_caller]
    pub fn finish_whole(self) -> Finished {
        // It may all be over already.
        let front = self.front();
        let supervisor = wait_for("the supervisor", || {
            let supervisor = children(front).first().copied();
            (supervisor.is_some() || is_gone(front)).then_some(supervisor)
        });
        self.finish_after(|| {
            wait_for("the supervisor's end", || supervisor.is_none_or(is_gone).then_some(()));
        })
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(self) -> Finished {
        self.finish_after(|| ())
    }

    /// Waits for its end, and until `settled` returns.
    #[track_caller]
    fn finish_after(mut self, settled: impl FnOnce()) -> Finished {
        drop(self.stdin.take());
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(started.elapsed() < DEADLINE, "no end; stderr: {}", self.errors_so_far());
            std::thread::sleep(Duration::from_millis(1));
        };
        for reader in std::mem::take(&mut self.readers) {
            wait_for("the end of its output", || reader.is_finished().then_some(()));
        }
        settled();
        let stdout = self.lines.try_iter().fold(String::new(), |text, line| text + &line + "\n");
        let stderr = self.errors_so_far();
        let trace = self.trace.take().map(|directory| {
            let text = fs::read_to_string(directory.path().join("trace")).expect("the trace");
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
        });
        Finished { status, stdout, stderr, trace: trace.unwrap_or_default() }
    }

    fn errors_so_far(&mut self) -> String {
        for line in self.errors.try_iter() {
            self.seen += &line;
            self.seen.push('\n');
        }
        self.seen.clone()
    }
}

impl Drop for Running {
    /// A test that failed leaves nothing running.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            for supervisor in children(self.front()) {
                kill(supervisor);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn reader(from: impl Read + Send + 'static) -> (Receiver<String>, JoinHandle<()>) {
    let (lines, received) = channel();
    let thread = std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    (received, thread)
}

/// A `devmap serve` that is ready.
pub struct Daemon {
    running: Running,
    socket: String,
    directory: TempDir,
}

impl Daemon {
    /// One with these devices, and a trace.
    #[track_caller]
    pub fn start(devices: &[&str], options: &[&str]) -> Daemon {
        let mut command = Command::new(DEVMAP);
        command.arg("serve").args(options);
        command.args(devices.iter().flat_map(|device| ["--device", device]));
        Daemon::start_by(command, "--socket")
    }

    /// By a command that takes the socket with an option of this name.
    #[track_caller]
    pub fn start_by(mut command: Command, option: &str) -> Daemon {
        let directory = tempfile::tempdir().expect("a directory");
        // Other users come to the socket, which has permissions of its own.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), all).expect("chmod");
        let socket = directory.path().join("socket").to_str().expect("UTF-8").to_owned();
        let trace = directory.path().join("trace");
        command
            .arg(option)
            .arg(&socket)
            .arg("--trace")
            .arg(&trace)
            .args(["--trace-format", "json"]);
        let mut running = start(command);
        let ready = running.hear();
        assert!(ready.starts_with("devmap: serving /") && ready.ends_with(&socket), "{ready}");
        Daemon { running, socket, directory }
    }

    pub fn socket(&self) -> &str {
        &self.socket
    }

    pub fn pid(&self) -> i32 {
        self.running.front()
    }

    /// Waits for a line of its standard error that holds `words`.
    #[track_caller]
    pub fn hear_error(&mut self, words: &str) {
        self.running.hear_error(words);
    }

    /// Waits until it has traced as many of these calls.
    #[track_caller]
    pub fn wait_for_calls(&self, call: &str, count: usize) {
        let what = format!("{count} times {call} in the daemon's trace");
        wait_for(&what, || (self.count(call) >= count).then_some(()));
    }

    /// How many of these calls it has traced.
    pub fn count(&self, call: &str) -> usize {
        let trace = fs::read_to_string(self.directory.path().join("trace")).unwrap_or_default();
        let whole = trace.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let events = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        events.filter(|event| event["call"] == call).count()
    }

    /// Tells it to stop, and waits for its end.
    #[track_caller]
    pub fn stop(self) -> Finished {
        terminate(self.pid());
        let finished = self.running.finish();
        assert!(!Path::new(&self.socket).exists(), "the socket is left");
        finished
    }

    /// Kills it, and waits for its end. The directory of its socket is left.
    pub fn kill(self) -> TempDir {
        kill(self.pid());
        self.running.finish().killed(libc::SIGKILL);
        self.directory
    }
}

/// What a run left.
pub struct Finished {
    pub status: ExitStatus,
    /// What has not been heard before.
    pub stdout: String,
    pub stderr: String,
    pub trace: Vec<Value>,
}

/// As a person reads it.
impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finished { status, stdout, stderr, .. } = self;
        let calls = self.calls().join(" ");
        write!(f, "{status}\nstdout:\n{stdout}\nstderr:\n{stderr}\ntrace: {calls:.1000}")
    }
}

impl Finished {
    /// It ended with status 0.
    #[track_caller]
    pub fn well(self) -> Finished {
        self.exited(0)
    }

    #[track_caller]
    pub fn exited(self, status: i32) -> Finished {
        assert_eq!(self.status.code(), Some(status), "{self:?}");
        self
    }

    #[track_caller]
    pub fn killed(self, signal: i32) -> Finished {
        assert_eq!(self.status.signal(), Some(signal), "{self:?}");
        self
    }

    /// All of these words are on standard error.
    #[track_caller]
    pub fn complains(self, words: &[&str]) -> Finished {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {self:?}");
        }
        self
    }

    /// The calls in the trace, in their order.
    pub fn calls(&self) -> Vec<&str> {
        self.trace.iter().map(|event| event["call"].as_str().expect("a call")).collect()
    }

    /// How often the trace has this call.
    pub fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|other| **other == call).count()
    }
}

/// Looks again and again until there is something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// State letter and parent of a process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether it has ended, with all its threads. Where nobody reaps orphans, it remains as a zombie.
pub fn is_gone(pid: i32) -> bool {
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    matches!(stat(pid), None | Some(('Z' | 'X', _))) && threads() <= 1
}

/// Whether a process or thread waits in a way that no signal ends.
pub fn is_stuck(pid: i32) -> bool {
    matches!(stat(pid), Some(('D', _)))
}

/// The children of a process.
pub fn children(of: i32) -> Vec<i32> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| matches!(stat(pid), Some((_, parent)) if parent == of)).collect()
}

/// Whether a process sleeps in this system call, of which `/proc` may tell anybody who
/// could trace it.
pub fn is_blocked_in(pid: i32, call: i64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/syscall"))
        .is_ok_and(|text| text.split(' ').next() == Some(&call.to_string()))
}

/// Sends SIGKILL. One that is gone already is no error.
pub fn kill(pid: i32) {
    let _ = kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL);
}

/// Sends SIGTERM.
pub fn terminate(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::TERM).expect("kill");
}

/// How a C client is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linking {
    Dynamic,
    Static,
}

/// A compiled program of tests/conformance, or another directory there.
pub struct Client {
    directory: TempDir,
}

impl Client {
    /// Compiles `NAME.c`, without a warning.
    #[track_caller]
    pub fn compile(name: &str, linking: Linking) -> Client {
        Client::compile_linked("tests/conformance", name, linking)
    }

    /// The program that makes a container like Docker's and runs its arguments there.
    #[track_caller]
    pub fn docker() -> Client {
        Client::compile_in("tests/sandbox", "docker")
    }

    /// A program of tests/hostile.
    #[track_caller]
    pub fn hostile(name: &str) -> Client {
        Client::compile_in("tests/hostile", name)
    }

    /// A program of another directory.
    #[track_caller]
    pub fn compile_in(directory: &str, name: &str) -> Client {
        Client::compile_linked(directory, name, Linking::Dynamic)
    }

    #[track_caller]
    fn compile_linked(directory: &str, name: &str, linking: Linking) -> Client {
        let sources = root().join(directory);
        let shared = root().join("tests/conformance");
        let directory = tempfile::tempdir().expect("a directory");
        open_to_all(directory.path());
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-Werror", "-pthread", "-I"]).arg(&shared);
        if linking == Linking::Static {
            compiler.arg("-static");
        }
        compiler.arg("-o").arg(directory.path().join("client"));
        let output = compiler.arg(sources.join(format!("{name}.c"))).output().expect("cc");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}.c: {message}");
        Client { directory }
    }

    /// A command that runs another one by this program.
    pub fn around(&self, program: &OsStr) -> Command {
        let mut command = Command::new(self.path());
        command.arg(program);
        command
    }

    pub fn path(&self) -> String {
        self.directory.path().join("client").to_str().expect("UTF-8").to_owned()
    }
}
