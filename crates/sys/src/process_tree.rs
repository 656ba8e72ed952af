//! What the process tree of `devmap run` needs beyond [`crate::process`]:
//! inherited signal dispositions, any signal through a pidfd, giving up all
//! descriptors but a few.
//!
//! What does not live here: the tree itself, which is made of safe calls.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::check;

/// Whether this process ignores `signal` now (`SIG_IGN`); see sigaction(2).
///
/// # Errors
/// `EINVAL` for numbers that are no signal.
pub fn is_ignored(signal: i32) -> io::Result<bool> {
    // SAFETY: zero is a value of sigaction: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action changes nothing; the old one is written to `action`.
    check(unsafe { libc::sigaction(signal, ptr::null(), &mut action) })?;
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

/// Whether SIGPIPE was ignored when this program was executed. Rust's runtime
/// ignores it before `main`, so [`is_ignored`] cannot tell.
pub fn pipe_was_ignored() -> bool {
    // Naming the constructor keeps the linker from dropping the object it is in.
    std::hint::black_box(&NOTE_PIPE);
    PIPE_WAS_IGNORED.load(Ordering::Relaxed)
}

static PIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

// SAFETY: the C library calls the functions of .init_array once, before `main`
// (where Rust's runtime starts), in a single thread; this one uses nothing but
// sigaction and an atomic, which need no runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_PIPE: extern "C" fn() = note_pipe;

extern "C" fn note_pipe() {
    PIPE_WAS_IGNORED.store(is_ignored(libc::SIGPIPE).unwrap_or(false), Ordering::Relaxed);
}

/// Sends any signal, real-time ones included, to the process of `pidfd`;
/// pidfd_send_signal(2), Linux 5.1.
///
/// # Errors
/// `ESRCH` when the process has been reaped, `EPERM`, `EINVAL`.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed (as kill(2) fills it); nothing is written.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Closes every descriptor above 2 except `keep`; close_range(2), Linux 5.9.
///
/// For a fresh fork, or a thread that has a table of its own, which from here on uses
/// nothing of what its parent had open: values that own one of the closed descriptors must have been
/// leaked ([`std::mem::forget`]), for their drop would close a stranger.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn keep_descriptors(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > from {
            let to = if fd == u32::MAX { fd } else { fd - 1 };
            close_range(from, to)?;
        }
        from = from.max(fd.saturating_add(1));
    }
    Ok(())
}

fn close_range(from: u32, to: u32) -> io::Result<()> {
    // SAFETY: no memory is involved; whose descriptors these are is the contract
    // of keep_descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) })?;
    Ok(())
}
