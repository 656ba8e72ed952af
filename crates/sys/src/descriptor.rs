//! Calls on descriptors that no safe wrapper has.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// An ioctl(2) whose argument is a number and whose command's size is 0, so that
/// neither a driver nor FUSE takes it for an address.
///
/// # Errors
/// `EINVAL` for a command with a size; else the driver's.
pub fn ioctl_value(fd: BorrowedFd<'_>, command: u32, argument: u64) -> io::Result<i32> {
    if command >> 16 != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: a command without size and direction moves no memory, by the
    // convention that FUSE enforces; the callers' descriptors are of FUSE files.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(command), argument) })
}
