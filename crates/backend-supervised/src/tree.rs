//! The processes of `devmap run`, and how they start, stop and end as one.
//!
//! ```text
//! shell ── A front ── B supervisor ── L launcher ── C the program ── ...
//! ```
//!
//! * **A, the front**, is the process that was started. It stands for the
//!   program before its parent: it hands on signals, stops and continues with
//!   the program, and ends with its exit status or by its signal.
//! * **B, the supervisor**, runs the [`Role`]: the drivers. It is an ancestor of
//!   the program (Yama lets ancestors attach) but not its parent, whose waitid(2)
//!   would compete with ptrace stops.
//! * **L, the launcher**, is the program's parent and the subreaper of all that
//!   the program leaves behind. It has one thread and, once the program runs,
//!   no descriptor but those it needs.
//! * **C, the program's process**, enters the devices' world and executes it.
//!
//! # Signals
//! All four stay in the process group and session they were started in, so a
//! terminal's Ctrl-C and Ctrl-Z reach C directly, and C may be a shell with job
//! control. A blocks every signal and reads them from a signalfd; B and L block
//! all but those of faults; C has the mask and the ignored signals that A was
//! started with. What A hands on is decided in `front`.
//!
//! When C stops or continues, L stops or continues A; so the last event that L
//! saw is always the one that A follows. When A alone is continued, it
//! continues C.
//!
//! # Ends
//! | who ends | what follows |
//! |---|---|
//! | C, and no process is left | L tells A the status; B sees [`SupervisorSide::program_ended`]; A ends when B has ended |
//! | C, and others go on | the same, but A ends when B has settled; L reaps the others and ends with the last; B serves until then |
//! | B | A says so; C goes on without devices; A ends as C does |
//! | L | A says so, kills C and exits with 125 |
//! | A by SIGKILL | L kills C: nobody is left to answer for it. Its children go on, served by B |
//!
//! A terminating signal that reaches A when C has ended ends A's wait for B.
//!
//! What does not live here: devices, filters, namespaces. Those are the role's.

mod front;
mod inherited;
mod launcher;
mod program;
mod report;
mod state;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use devmap_sys::process::{Fork, exit_now, fork, set_default};
use nix::sys::signal::SigSet;
use rustix::process::{PidfdFlags, WaitOptions, getpid, pidfd_open, waitpid};

use front::Front;
use inherited::Inherited;

/// The exit status of devmap's own failures.
pub const FAILED: i32 = 125;

/// What to execute.
pub struct Program {
    /// The program's file; without a slash it is looked up in `PATH`.
    pub file: OsString,
    /// Its arguments, without `argv[0]`.
    pub args: Vec<OsString>,
}

/// What the supervisor and the program's process do at each step.
///
/// Errors are messages for the user: they are printed after `devmap: `, and the
/// exit status is [`FAILED`].
///
/// The role is copied by each fork. Only the supervisor's copy is ever dropped,
/// so a destructor runs once. All descriptors a role opens must be
/// close-on-exec; those that were open without it when [`run`] was called are
/// the program's, and the supervisor closes them before [`Role::supervise`].
pub trait Role: Sized {
    /// In the supervisor, before anything else is forked: build devices and
    /// mounts. Must leave the process with one thread. A signal sent to the
    /// front kills the supervisor here, and the front with it.
    ///
    /// # Errors
    /// The devices cannot be provided; the program is not started.
    fn prepare(&mut self) -> Result<(), String>;

    /// In the program's process, before it is executed: namespaces, the seccomp
    /// filter. `channel` leads to the supervisor and closes when it is executed.
    /// Standard input, output and error are the program's already.
    ///
    /// # Errors
    /// The program cannot be given its devices; it is not executed.
    fn enter(&mut self, channel: &UnixStream) -> Result<(), String>;

    /// In the supervisor: serves until no process needs it any more, then
    /// returns. Must call [`SupervisorSide::settled`] once the program has ended
    /// and is accounted for. Standard input and output are `/dev/null`. Children
    /// forked here must not keep the supervisor's descriptors.
    ///
    /// # Errors
    /// The devices can no longer be provided; the program goes on without.
    fn supervise(self, channel: UnixStream, tree: SupervisorSide) -> Result<(), String>;
}

/// The supervisor's links to the other processes of the tree.
#[derive(Debug)]
pub struct SupervisorSide {
    /// At end of file when the program itself has ended and been reaped, or
    /// when the launcher has died. Nothing is ever written to it.
    pub program_ended: OwnedFd,
    settled: OwnedFd,
}

impl SupervisorSide {
    /// Lets the front end, now that what the program did is accounted for.
    ///
    /// From here on standard error is `/dev/null`: whoever waits for the end of
    /// the program's output must not have to wait for the supervisor.
    pub fn settled(&self) {
        let _ = io::stderr().flush();
        if let Ok(null) = null() {
            let _ = rustix::stdio::dup2_stderr(null);
        }
        // It fails only when the front has been killed, and then nobody waits.
        let _ = rustix::io::write(&self.settled, &[1]);
    }
}

/// Runs `program` under the supervision of `role`; returns the exit status for
/// `main`. When the program died by a signal, so does this process, without a
/// core file.
///
/// Must be called while the process has one thread. 125: devmap failed; 126: the
/// program could not be executed; 127: it was not found.
pub fn run(program: &Program, role: impl Role) -> i32 {
    start(program, role).unwrap_or_else(|error| {
        complain(format_args!("cannot start the supervisor: {}", crate::with_remedy(&error)));
        FAILED
    })
}

fn start(program: &Program, role: impl Role) -> io::Result<i32> {
    let inherited = Inherited::take()?;
    SigSet::all().thread_block()?;
    set_default(&[libc::SIGCHLD])?;
    let this = FrontProcess {
        pid: getpid().as_raw_pid(),
        pidfd: pidfd_open(getpid(), PidfdFlags::empty())?,
    };
    let (reports, reporter) = report::pair()?;
    let (settled, settler) = pipe()?;
    // What is buffered would be written once by each process.
    io::stdout().flush()?;
    match fork()? {
        Fork::Child => {
            drop((reports, settled));
            let links = Links { front: this, reporter, settler };
            exit_with(|| supervise(program, role, &inherited, links))
        }
        Fork::Parent(supervisor) => {
            std::mem::forget(role);
            drop((reporter, settler, this));
            Front::new(program, supervisor, reports, settled)?.watch()
        }
    }
}

/// What the supervisor and the launcher get from the front.
struct Links {
    front: FrontProcess,
    reporter: report::Reporter,
    settler: OwnedFd,
}

/// The front as the launcher sees it.
struct FrontProcess {
    pid: i32,
    pidfd: OwnedFd,
}

fn supervise(program: &Program, mut role: impl Role, inherited: &Inherited, links: Links) -> i32 {
    let Links { front, reporter, settler } = links;
    let _ = rustix::thread::set_name(c"devmap-serve");
    let prepared = inherited
        .allow_termination()
        .map_err(|error| error.to_string())
        .and_then(|()| role.prepare());
    let launched = prepared.and_then(|()| {
        inherited::block_all_but_faults()
            .and_then(|()| {
                let (channel, program_channel) = UnixStream::pair()?;
                let (program_ended, ending) = pipe()?;
                match fork()? {
                    Fork::Child => {
                        drop((channel, program_ended, settler));
                        // Never dropped here, panic or not: it is the supervisor's.
                        let mut role = std::mem::ManuallyDrop::new(role);
                        exit_with(|| {
                            launcher::launch(launcher::Launch {
                                program,
                                role: &mut *role,
                                inherited,
                                channel: program_channel,
                                front,
                                reporter,
                                ending,
                            })
                        })
                    }
                    Fork::Parent(launcher) => {
                        drop((front, reporter, ending, program_channel));
                        inherited.close_descriptors();
                        let null = null()?;
                        rustix::stdio::dup2_stdin(&null)?;
                        rustix::stdio::dup2_stdout(&null)?;
                        // Kept here as well, so that its end is that of this process.
                        let settled = settler.try_clone()?;
                        let side = SupervisorSide { program_ended, settled };
                        Ok((role, channel, side, settler, launcher))
                    }
                }
            })
            .map_err(|error| format!("cannot start the launcher: {}", crate::with_remedy(&error)))
    });
    let supervised = launched.and_then(|(role, channel, side, _settler, launcher)| {
        role.supervise(channel, side)?;
        // It ends as soon as no process is left, and nobody else may reap it.
        let _ = rustix::io::retry_on_intr(|| waitpid(Some(launcher), WaitOptions::empty()));
        Ok(())
    });
    match supervised {
        Ok(()) => 0,
        Err(message) => {
            complain(message);
            FAILED
        }
    }
}

/// Ends this process with the status that `body` returns; a panic must not
/// unwind into what the parent was doing when it forked.
fn exit_with(body: impl FnOnce() -> i32) -> ! {
    let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(FAILED);
    // A driver may have printed something, in the supervisor.
    let _ = io::stdout().flush();
    exit_now(status)
}

fn complain(message: impl Display) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "devmap: {message}");
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn null() -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    Ok(open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Waits until one of these is readable or at its end, and tells which.
pub(crate) fn ready<const N: usize>(of: [Option<&dyn AsFd>; N]) -> io::Result<[bool; N]> {
    use rustix::event::{PollFd, PollFlags, poll};
    let present = of.iter().flatten();
    let mut fds: Vec<_> =
        present.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
    rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
    let mut polled = fds.iter();
    Ok(of.map(|fd| fd.is_some() && polled.next().is_some_and(|fd| !fd.revents().is_empty())))
}
