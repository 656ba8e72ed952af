//! Leaving the name spaces of the parent process. What is mounted in the new ones is the
//! caller's business.

use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io;

/// Gives the process a mount name space of its own: a copy of the present one.
///
/// # Errors
///
/// Those of `unshare(2)`: `EPERM` without `CAP_SYS_ADMIN`.
pub fn unshare_mounts() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)
}

/// Gives the process a user name space of its own, in which it has all capabilities and no ids
/// are mapped yet, and a mount name space that belongs to it.
///
/// # Errors
///
/// Those of `unshare(2)`: `EPERM` when the system forbids user name spaces to ordinary users or
/// the process is in a chroot, `EINVAL` when it has several threads, `ENOSPC` or `EUSERS` at a
/// limit of user name spaces (`user.max_user_namespaces`), `ENOSYS` and `EINVAL` on kernels
/// without them.
pub fn unshare_user_and_mounts() -> io::Result<()> {
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: unshare is unsafe for `UnshareFlags::FILES`, by which threads stop to share
    // descriptors; the two callers above do not pass it, and nobody else can call this function.
    unsafe { unshare_unsafe(flags) }?;
    Ok(())
}
