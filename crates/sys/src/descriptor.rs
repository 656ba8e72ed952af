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

/// `_IOWR('E', 5, 88)`, which inverts the bits of 88 bytes on the device `events`, and on
/// any file whose server likes. No driver of the kernel has it.
pub const INVERT: u32 = 0xc058_4505;

/// The ioctl(2) [`INVERT`].
///
/// # Errors
/// The driver's; `ENOTTY` where there is no such command.
pub fn invert(fd: BorrowedFd<'_>, bytes: &mut [u8; 88]) -> io::Result<i32> {
    let argument = bytes.as_mut_ptr();
    // SAFETY: the command says that 88 bytes are read and written at the argument, which
    // is that long. FUSE moves no others, and the device `events` neither.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(INVERT), argument) })
}
