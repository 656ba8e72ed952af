//! A, the front: stands for the program before the shell.
//!
//! # Which signals it hands on
//! * Sent by a process (kill(2), sigqueue(3), tgkill(2)): handed on, unless the
//!   program itself is the sender, which means that it signalled its whole
//!   group. A signal that somebody else sends to the group reaches the program
//!   twice: directly and from here; nothing tells the two apart from one that was
//!   sent to each process of the tree.
//! * Sent by the kernel to a terminal's foreground group (Ctrl-C, change of
//!   size): the program has it already, unless it left the group.
//! * A hangup reaches the session's leader alone (`tty_signal_session_leader`):
//!   when this process is that, the program gets it.
//! * Sent by the kernel to this process alone (an alarm set before it was
//!   executed): handed on.
//! * SIGCONT: when it finds the program stopped. Known limit: signals bear no time,
//!   so when SIGCONT is sent to both, and SIGSTOP to the program alone before this
//!   process has been scheduled to read the SIGCONT, the program is continued.
//! * SIGTSTP: the program decides. It may catch it, and in an orphaned process
//!   group it does not stop by it; this process stops only when it has stopped.
//! * SIGKILL and SIGSTOP cannot be seen. The launcher answers the one by killing
//!   the program; the other stops this process alone.
//!
//! Before the program's process exists, a signal that was sent to this process
//! is sent to the supervisor, which it may kill, and is kept for the program.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use devmap_sys::process::die_by_signal;
use devmap_sys::process_tree::send_signal;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, WaitOptions, WaitStatus, getpgid, getpid, getsid,
    pidfd_open, set_dumpable_behavior, waitpid,
};

use super::report::{Ending, Report, Reports};
use super::state::is_stopped;
use super::{FAILED, Program, complain, ready};

/// `SI_USER`: in siginfo, this code and those below it say that a process sent
/// the signal.
const SI_USER: i32 = 0;

pub(super) struct Front<'a> {
    program: &'a Program,
    signals: SignalFd,
    /// What came before there was a program to send it to.
    early: Vec<siginfo>,
    supervisor: Pid,
    /// `None` when the supervisor has been reaped.
    supervisor_pidfd: Option<OwnedFd>,
    /// Readable when it settles, at its end when it dies; `None` after that.
    settler: Option<OwnedFd>,
    settled: bool,
    /// The program left no process behind; then nothing of this run shall be left.
    alone: bool,
    /// The user does not want to wait for the supervisor.
    hurried: bool,
    /// `None` when the launcher has nothing more to report.
    reports: Option<Reports>,
    launched: bool,
    started: Option<Started>,
    ending: Option<Ending>,
}

struct Started {
    program: i32,
    launcher: i32,
    pidfd: OwnedFd,
}

impl<'a> Front<'a> {
    /// All signals are blocked.
    pub(super) fn new(
        program: &'a Program,
        supervisor: Pid,
        reports: Reports,
        settler: OwnedFd,
    ) -> io::Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Front {
            program,
            signals: SignalFd::with_flags(&SigSet::all(), flags)?,
            early: Vec::new(),
            supervisor,
            supervisor_pidfd: Some(pidfd_open(supervisor, PidfdFlags::empty())?),
            settler: Some(settler),
            settled: false,
            alone: false,
            hurried: false,
            reports: Some(reports),
            launched: false,
            started: None,
            ending: None,
        })
    }

    /// Waits until the program has ended and the supervisor has settled. Returns
    /// the exit status, or dies as the program did.
    pub(super) fn watch(mut self) -> io::Result<i32> {
        loop {
            if let (Some(ending), true) = (self.ending, self.hurried || self.supervisor_is_done()) {
                return Ok(end(ending));
            }
            let [signals, reports, settler, supervisor] = ready([
                Some(&self.signals),
                self.reports.as_ref().map(|fd| fd as &dyn AsFd),
                self.settler.as_ref().map(|fd| fd as &dyn AsFd),
                self.supervisor_pidfd.as_ref().map(|fd| fd as &dyn AsFd),
            ])?;
            if signals {
                while let Some(info) = self.signals.read_signal()? {
                    self.signalled(info);
                }
            }
            if reports {
                // What it says comes before what it causes: the supervisor's end.
                self.report()?;
                continue;
            }
            if let Some(settler) = self.settler.take_if(|_| settler) {
                // Its end without a byte is the supervisor's, which is seen next.
                self.settled |= rustix::io::read(settler, &mut [0])? == 1;
            }
            if supervisor {
                self.supervisor_ended()?;
            }
        }
    }

    fn supervisor_is_done(&self) -> bool {
        self.supervisor_pidfd.is_none() || self.settled && !self.alone
    }

    fn signalled(&mut self, info: siginfo) {
        let signal = info.ssi_signo as i32;
        let sent = info.ssi_code <= SI_USER;
        match &self.started {
            _ if self.ending.is_some() => {
                let terminating = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
                if terminating.contains(&signal) {
                    self.hurried = true;
                }
            }
            Some(started) => started.hand_on(&info),
            None => {
                if let (true, Some(supervisor)) = (sent, &self.supervisor_pidfd) {
                    // It fails when the supervisor has just died; that is seen next.
                    let _ = send_signal(supervisor.as_fd(), signal);
                }
                self.early.push(info);
            }
        }
    }

    fn report(&mut self) -> io::Result<()> {
        let Some(reports) = &self.reports else { return Ok(()) };
        match reports.next()? {
            Some(Report::Launched) => self.launched = true,
            Some(Report::NotStarted) => self.ending = Some(Ending::Exited(FAILED)),
            Some(Report::Started { program, launcher, pidfd }) => {
                let started = Started { program, launcher, pidfd };
                for info in self.early.drain(..) {
                    started.hand_on(&info);
                }
                self.started = Some(started);
            }
            Some(Report::Ended { ending, alone }) => {
                self.ending = Some(ending);
                self.alone = alone;
            }
            None => {
                self.reports = None;
                self.launcher_ended();
            }
        }
        Ok(())
    }

    fn launcher_ended(&mut self) {
        // If it was never forked, the supervisor is ending, and that says why.
        if self.ending.is_some() || !self.launched {
            return;
        }
        self.ending = Some(Ending::Exited(FAILED));
        let name = self.program.file.display();
        match &self.started {
            Some(started) => {
                // Nobody could tell how it ends.
                let _ = send_signal(started.pidfd.as_fd(), libc::SIGKILL);
                complain(format_args!("the launcher died; {name} has been killed"));
            }
            None => complain(format_args!("the launcher died before it started {name}")),
        }
    }

    fn supervisor_ended(&mut self) -> io::Result<()> {
        self.supervisor_pidfd = None;
        let status = waitpid(Some(self.supervisor), WaitOptions::empty())?;
        let status = status.map(|(_, status)| status);
        // Whether there is a launcher: now that the supervisor is gone, either it
        // reports or its end of the socket is closed.
        while !self.launched && self.reports.is_some() {
            self.report()?;
        }
        let explained = status.and_then(WaitStatus::exit_status) == Some(FAILED);
        let signal = status.and_then(WaitStatus::terminating_signal);
        let name = self.program.file.display();
        if !self.launched {
            match signal {
                Some(signal) if for_the_program(signal) => {
                    self.ending = Some(Ending::Killed(signal));
                    return Ok(());
                }
                _ if explained => {}
                _ => complain(format_args!("the supervisor died before it started {name}")),
            }
            self.ending = Some(Ending::Exited(FAILED));
        } else if explained {
        } else if self.ending.is_none() {
            complain(format_args!("the supervisor died; {name} goes on without its devices"));
        } else if !self.settled {
            complain("the supervisor died before it had settled");
        }
        Ok(())
    }
}

impl Started {
    /// Hands a signal on to the program; the rules head this file.
    fn hand_on(&self, info: &siginfo) {
        let signal = info.ssi_signo as i32;
        let sent = info.ssi_code <= SI_USER;
        let sender = info.ssi_pid as i32;
        let wanted = match signal {
            libc::SIGCONT => sender != self.launcher && is_stopped(self.program),
            libc::SIGCHLD => sent,
            _ if sent => sender != self.program,
            libc::SIGHUP if getsid(None) == Ok(getpid()) => true,
            libc::SIGHUP
            | libc::SIGINT
            | libc::SIGQUIT
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
            | libc::SIGWINCH => self.left_the_group(),
            _ => true,
        };
        if wanted {
            // ESRCH: it has just ended. EPERM: it became another user.
            let _ = send_signal(self.pidfd.as_fd(), signal);
        }
    }

    fn left_the_group(&self) -> bool {
        getpgid(Pid::from_raw(self.program)).is_ok_and(|group| Ok(group) != getpgid(None))
    }
}

/// Signals that a user sends to end a program; death by another is the
/// supervisor's own mishap.
fn for_the_program(signal: i32) -> bool {
    use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGSYS, SIGTRAP};
    let mishaps = [SIGKILL, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT];
    !mishaps.contains(&signal)
}

fn end(ending: Ending) -> i32 {
    match ending {
        Ending::Exited(status) => status,
        Ending::Killed(signal) => {
            // A limit of 0 does not stop a core_pattern that is a pipe; this does.
            let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
            die_by_signal(signal)
        }
    }
}
