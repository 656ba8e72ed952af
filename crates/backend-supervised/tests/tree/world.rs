//! What the tests see of the world: processes in /proc, a process under test, a
//! terminal with a shell. Everything waits for conditions, with one deadline.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// When a condition that must come true counts as one that never will.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Looks again and again until `condition` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

pub fn this_program() -> PathBuf {
    std::env::current_exe().expect("current_exe")
}

/// The state letter and the parent of a process, from /proc/PID/stat.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether it is stopped by job control.
pub fn is_stopped(pid: i32) -> bool {
    matches!(stat(pid), Some(('T', _)))
}

/// Whether it waits for something in the kernel.
pub fn is_asleep(pid: i32) -> bool {
    matches!(stat(pid), Some(('S', _)))
}

/// Whether it has ended. Where nobody reaps orphans, it remains as a zombie.
pub fn is_gone(pid: i32) -> bool {
    matches!(stat(pid), None | Some(('Z' | 'X', _)))
}

/// Whether there is no trace of it left, not even a zombie.
pub fn is_reaped(pid: i32) -> bool {
    stat(pid).is_none()
}

pub fn parent(pid: i32) -> i32 {
    stat(pid).expect("the process lives").1
}

pub fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

pub fn children(of: i32) -> Vec<i32> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| matches!(stat(pid), Some((_, parent)) if parent == of)).collect()
}

#[track_caller]
pub fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("kill");
}

/// The processes of a tree.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    pub front: i32,
    pub supervisor: i32,
    pub launcher: i32,
    pub program: i32,
}

impl Tree {
    /// Waits until the program below `front` is executed under this name.
    #[track_caller]
    pub fn of(front: i32, executed: &str) -> Tree {
        let only = |of| match children(of)[..] {
            [one] => Some(one),
            _ => None,
        };
        wait_for("the tree", || {
            let supervisor = only(front)?;
            let launcher = only(supervisor)?;
            let program = only(launcher)?;
            (name(program) == executed).then_some(Tree { front, supervisor, launcher, program })
        })
    }
}

/// A process under test, with pipes for its standard input and output. Killed
/// when dropped; so are all processes that it left behind.
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// This program in a mode of [`crate::bare`].
    pub fn start(mode: &str, program: &[&str]) -> Running {
        let mut command = Command::new(this_program());
        command.arg(mode).args(program);
        Running::spawn(&mut command)
    }

    pub fn spawn(command: &mut Command) -> Running {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("spawn");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Running { child, input, output }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits until the program is executed under this name.
    #[track_caller]
    pub fn tree(&self, executed: &str) -> Tree {
        Tree::of(self.pid(), executed)
    }

    /// The next line of output; empty at its end.
    #[track_caller]
    pub fn line(&mut self) -> String {
        read_line(&mut self.output).trim_end().to_owned()
    }

    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// The end, and what it wrote to standard error.
    #[track_caller]
    pub fn end(&mut self) -> (ExitStatus, String) {
        let status = wait_for("the end", || self.child.try_wait().expect("wait"));
        let mut errors = String::new();
        let from = &mut BufReader::new(self.child.stderr.as_mut().expect("piped"));
        loop {
            match read_line(from) {
                line if line.is_empty() => return (status, errors),
                line => errors.push_str(&line),
            }
        }
    }
}

/// The next line with its end; empty at the end of file.
#[track_caller]
fn read_line<R: Read + AsFd>(from: &mut BufReader<R>) -> String {
    let start = Instant::now();
    let mut line = Vec::new();
    // Read byte by byte: each read may have to wait.
    while line.last() != Some(&b'\n') {
        if from.buffer().is_empty() {
            let left = DEADLINE.saturating_sub(start.elapsed());
            let left = Timespec::try_from(left).expect("short");
            let mut fds = [PollFd::new(from.get_ref(), PollFlags::IN)];
            let ready = poll(&mut fds, Some(&left)).expect("poll");
            assert_eq!(ready, 1, "no more after {:?}", String::from_utf8_lossy(&line));
        }
        let Some(byte) = from.bytes().next() else { break };
        line.push(byte.expect("read"));
    }
    String::from_utf8_lossy(&line).into_owned()
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// An interactive bash, leader of a session with a terminal of its own.
pub struct Terminal {
    master: OwnedFd,
    shell: Child,
    seen: Vec<u8>,
    /// How much of `seen` was expected already.
    passed: usize,
}

impl Terminal {
    /// `$TREE PROGRAM` runs a program in a bare tree.
    pub fn open() -> Terminal {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("openpt");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let path = ptsname(&master, Vec::new()).expect("ptsname");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(path, flags, Mode::empty()).expect("the terminal");
        let clone = || Stdio::from(slave.try_clone().expect("dup"));
        let tree =
            [this_program().as_os_str(), OsStr::new(crate::bare::PLAIN)].join(OsStr::new(" "));
        let shell = Command::new("setsid")
            .args(["--ctty", "bash", "--noediting", "--norc", "--noprofile", "-i"])
            .env("TREE", tree)
            .env("PS1", "$ ")
            .env("HISTFILE", "/dev/null")
            .stdin(clone())
            .stdout(clone())
            .stderr(clone())
            .spawn()
            .expect("setsid from util-linux, and bash");
        let mut terminal = Terminal { master, shell, seen: Vec::new(), passed: 0 };
        // What is typed is not to be taken for output.
        terminal.line("stty -echo; echo read''y");
        terminal.expect("ready");
        terminal.expect("$ ");
        terminal
    }

    pub fn shell(&self) -> i32 {
        self.shell.id() as i32
    }

    pub fn line(&mut self, text: &str) {
        self.keys(format!("{text}\n").as_bytes());
    }

    pub fn keys(&mut self, keys: &[u8]) {
        assert_eq!(rustix::io::write(&self.master, keys), Ok(keys.len()));
    }

    /// Waits until `text` is output, after all that was expected before. Returns
    /// what came before it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let new = &self.seen[self.passed..];
            if let Some(at) = new.windows(text.len()).position(|w| w == text.as_bytes()) {
                let before = String::from_utf8_lossy(&new[..at]).into_owned();
                self.passed += at + text.len();
                return before;
            }
            let seen = String::from_utf8_lossy(&self.seen);
            let left = DEADLINE.checked_sub(start.elapsed());
            let left = left.unwrap_or_else(|| panic!("no {text:?} in {seen:?}"));
            let left = Timespec::try_from(left).expect("short");
            let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
            if poll(&mut fds, Some(&left)) == Ok(1) {
                let mut bytes = [0; 4096];
                let read = rustix::io::read(&self.master, &mut bytes[..]);
                let read = read.unwrap_or_else(|error| panic!("{error}: no {text:?} in {seen:?}"));
                self.seen.extend_from_slice(&bytes[..read]);
            }
        }
    }

    /// Waits until the shell says that the last job ended with this status.
    #[track_caller]
    pub fn expect_status(&mut self, status: i32) {
        self.line("echo status=$?.");
        self.expect(&format!("status={status}."));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        // The hangup that follows ends the jobs.
    }
}
