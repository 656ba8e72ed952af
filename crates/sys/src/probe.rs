//! Questions to the kernel about what it permits, that no safe library asks.
//!
//! What does not live here: what an answer means for devmap.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::check;

/// Whether the kernel knows `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19).
/// Installs nothing. See seccomp(2), "Checking for support".
#[must_use]
pub fn has_wait_killable() -> bool {
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the filter is a null pointer, which the kernel refuses to copy from
    // (EFAULT) once it has found that it knows the flags (else EINVAL).
    let refused = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            ptr::null::<libc::sock_fprog>(),
        )
    });
    refused.is_err_and(|error| error.raw_os_error() == Some(libc::EFAULT))
}

/// How many pages of a range of a file are in the kernel's page cache: cachestat(2), Linux
/// 6.5.
///
/// # Errors
/// `ENOSYS` where the kernel has no such call, `EOPNOTSUPP` for what has no page cache.
pub fn cached_pages(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<u64> {
    const SYS_CACHESTAT: libc::c_long = 451;
    let range = [offset, len];
    // nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted.
    let mut counts = [0_u64; 5];
    // SAFETY: both are the structures of the call, as arrays of their fields, and live
    // through it.
    check(unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0)
    })?;
    Ok(counts[0])
}

/// A userfaultfd(2) which nothing is registered with. `user_mode_only` asks for one
/// that handles no faults of system calls.
///
/// # Errors
/// `EPERM` where `vm.unprivileged_userfaultfd` is 0, for other than user-mode faults
/// and without `CAP_SYS_PTRACE`; `ENOSYS` where the kernel was built without it.
pub fn userfaultfd(user_mode_only: bool) -> io::Result<OwnedFd> {
    // UFFD_USER_MODE_ONLY of linux/userfaultfd.h.
    let mode = if user_mode_only { 1 } else { 0 };
    // SAFETY: makes a descriptor and takes no pointer.
    let fd = check(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | mode) })?;
    // SAFETY: the kernel just made this descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
