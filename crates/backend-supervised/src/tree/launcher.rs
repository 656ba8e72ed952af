//! L, the launcher: parent of the program, reaper of all it leaves behind.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use devmap_sys::process::{Fork, fork};
use devmap_sys::process_tree::{keep_descriptors, send_signal};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, WaitOptions, WaitStatus, getpid, pidfd_open,
    set_child_subreaper, set_dumpable_behavior, wait,
};

use super::inherited::Inherited;
use super::report::{Ending, Reporter};
use super::state::is_stopping;
use super::{FAILED, FrontProcess, Program, Role, complain, exit_with, null, program, ready};

pub(super) struct Launch<'a, R> {
    pub(super) program: &'a Program,
    pub(super) role: &'a mut R,
    pub(super) inherited: &'a Inherited,
    /// The program's end of the channel.
    pub(super) channel: UnixStream,
    pub(super) front: FrontProcess,
    pub(super) reporter: Reporter,
    /// Closed when the program ends.
    pub(super) ending: OwnedFd,
}

/// Forks the program's process, then waits until no descendant is left.
/// Returns the launcher's exit status.
pub(super) fn launch(launch: Launch<'_, impl Role>) -> i32 {
    let _ = rustix::thread::set_name(c"devmap-launch");
    match begin(launch).map(Launcher::wait) {
        Ok(Ok(())) => 0,
        // Nobody is left to tell: the front sees that the launcher is gone.
        Ok(Err(_)) => FAILED,
        Err(error) => {
            let error = crate::with_remedy(&error);
            complain(format_args!("cannot start the program's process: {error}"));
            FAILED
        }
    }
}

struct Launcher {
    children: SignalFd,
    program: Pid,
    pidfd: OwnedFd,
    front: FrontProcess,
    /// `None` when the program has ended, or the front.
    reporter: Option<Reporter>,
    /// `None` when the program has ended.
    ending: Option<OwnedFd>,
}

fn begin(launch: Launch<'_, impl Role>) -> io::Result<Launcher> {
    let Launch { program, role, inherited, channel, front, reporter, ending } = launch;
    // The front may be dead already; then the first poll says so.
    let _ = reporter.launched();
    let started = (|| {
        set_child_subreaper(Some(getpid()))?;
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        let children =
            SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok((children, fork()?))
    })();
    let (children, pid) = match started {
        Ok((_, Fork::Child)) => {
            drop((front, reporter, ending));
            exit_with(|| program::execute(program, role, inherited, &channel))
        }
        Ok((children, Fork::Parent(pid))) => (children, pid),
        Err(error) => {
            let _ = reporter.not_started();
            return Err(error);
        }
    };
    drop(channel);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let _ = reporter.started(pid.as_raw_pid(), getpid().as_raw_pid(), &pidfd);
    keep_descriptors(&[
        children.as_fd(),
        pidfd.as_fd(),
        front.pidfd.as_fd(),
        reporter.as_fd(),
        ending.as_fd(),
    ])?;
    // What the role has mapped is not the program's to look into.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Readers of the program's output wait for its end, not for the launcher's.
    let null = null()?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    rustix::process::chdir("/")?;
    let (reporter, ending) = (Some(reporter), Some(ending));
    Ok(Launcher { children, program: pid, pidfd, front, reporter, ending })
}

impl Launcher {
    /// Returns when there is no child left.
    fn wait(mut self) -> io::Result<()> {
        loop {
            let reporter = self.reporter.as_ref().map(|reporter| reporter as &dyn AsFd);
            let [children, front] = ready([Some(&self.children), reporter])?;
            // The front sends nothing, so this is its end. Whoever killed it meant
            // the program, and would wait for its output in vain.
            if front {
                self.reporter = None;
                let _ = send_signal(self.pidfd.as_fd(), libc::SIGKILL);
            }
            if !children {
                continue;
            }
            while self.children.read_signal()?.is_some() {}
            if self.reap()? {
                return Ok(());
            }
        }
    }

    /// Takes note of all that children did; whether none is left.
    fn reap(&mut self) -> io::Result<bool> {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
        let mut ending = None;
        let alone = loop {
            match wait(options) {
                Ok(Some((pid, status))) if pid == self.program => {
                    ending = ending_of(status);
                    self.lead_front(status);
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break false,
                Err(Errno::CHILD) => break true,
                Err(error) => return Err(error.into()),
            }
        };
        if let Some(ending) = ending {
            if let Some(reporter) = self.reporter.take() {
                let _ = reporter.ended(ending, alone);
            }
            self.ending = None;
        }
        Ok(alone)
    }

    /// Stops or continues the front as the program did.
    fn lead_front(&self, status: WaitStatus) {
        let signal = if status.stopped() {
            libc::SIGSTOP
        } else if !status.continued() || is_stopping(self.front.pid) {
            // Also at the program's end: the front must run to see it.
            libc::SIGCONT
        } else {
            // A SIGCONT more would cancel a SIGTSTP that waits in the front.
            return;
        };
        // It fails only when the front is dead.
        let _ = send_signal(self.front.pidfd.as_fd(), signal);
    }
}

fn ending_of(status: WaitStatus) -> Option<Ending> {
    let killed = status.terminating_signal().map(Ending::Killed);
    status.exit_status().map(Ending::Exited).or(killed)
}
