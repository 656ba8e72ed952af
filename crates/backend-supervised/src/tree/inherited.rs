//! What the program must find as the front found it: the signal mask, ignored
//! signals, open descriptors.

use std::io;
use std::os::fd::RawFd;

use devmap_sys::process::{set_default, set_ignored};
use devmap_sys::process_tree::{is_ignored, pipe_was_ignored};
use nix::sys::signal::{SigSet, Signal};

/// The signals of faults, and of abort(3): blocked, they would only kill
/// without a word.
const FAULTS: [Signal; 7] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGSYS,
    Signal::SIGABRT,
];

/// Taken by the front before it changes anything.
pub(super) struct Inherited {
    mask: SigSet,
    child_ignored: bool,
    pipe_ignored: bool,
    descriptors: Vec<RawFd>,
}

impl Inherited {
    pub(super) fn take() -> io::Result<Inherited> {
        Ok(Inherited {
            mask: SigSet::thread_get_mask()?,
            child_ignored: is_ignored(libc::SIGCHLD)?,
            pipe_ignored: pipe_was_ignored(),
            descriptors: descriptors()?,
        })
    }

    /// In the program's process: the signal mask.
    pub(super) fn restore_mask(&self) -> io::Result<()> {
        Ok(self.mask.thread_set_mask()?)
    }

    /// In the program's process: the signals that [`super::start`] and Rust's
    /// runtime changed. No other disposition is ever touched.
    pub(super) fn restore_dispositions(&self) -> io::Result<()> {
        for (signal, ignored) in
            [(libc::SIGCHLD, self.child_ignored), (libc::SIGPIPE, self.pipe_ignored)]
        {
            if ignored { set_ignored(&[signal]) } else { set_default(&[signal]) }?;
        }
        Ok(())
    }

    /// In the supervisor while it prepares: it can be killed like the program,
    /// but not stopped, since nobody would tell the front. Files that it may not make
    /// longer (`ulimit -f`) are an error and no death.
    pub(super) fn allow_termination(&self) -> io::Result<()> {
        let mut mask = self.mask;
        for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGXFSZ] {
            mask.add(signal);
        }
        Ok(mask.thread_set_mask()?)
    }

    /// In the supervisor: gives up what only the program has use for, such as
    /// the write end of a pipe whose reader waits for its end.
    pub(super) fn close_descriptors(&self) {
        for &fd in &self.descriptors {
            // It cannot fail in a way that leaves the descriptor open.
            let _ = nix::unistd::close(fd);
        }
    }
}

/// In the supervisor (inherited by its threads) and the launcher: neither ends
/// or stops with the program, whoever sends the signal to the process group.
pub(super) fn block_all_but_faults() -> io::Result<()> {
    let mut mask = SigSet::all();
    for signal in FAULTS {
        mask.remove(signal);
    }
    Ok(mask.thread_set_mask()?)
}

/// The descriptors above 2 that an executed program inherits; see proc_pid_fdinfo(5).
fn descriptors() -> io::Result<Vec<RawFd>> {
    const LISTED: &str = "/proc/self/fdinfo";
    let mut inheritable = Vec::new();
    let entries = std::fs::read_dir(LISTED).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other(format!("{LISTED}: {error}; mount /proc, which devmap needs"))
        }
        _ => error,
    })?;
    for entry in entries {
        let entry = entry?;
        let Ok(fd) = entry.file_name().to_string_lossy().parse::<RawFd>() else { continue };
        if fd <= 2 {
            continue;
        }
        let info = std::fs::read_to_string(entry.path())?;
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        if flags & libc::O_CLOEXEC == 0 {
            inheritable.push(fd);
        }
    }
    Ok(inheritable)
}
