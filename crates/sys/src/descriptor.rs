//! Calls on descriptors that no safe wrapper has.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// `_IO(0xda, 0xda)`: devmap's own question to its FUSE server, which open file a
/// descriptor is of. No driver of the kernel has the type 0xda with this number.
pub const WHICH: u32 = 0xdada;

/// The ioctl(2) [`WHICH`], whose argument is a number.
///
/// # Errors
/// The server's; `ENOTTY` where there is no such command.
pub fn which(fd: BorrowedFd<'_>, ticket: u64) -> io::Result<i32> {
    // SAFETY: the command's size is 0, so FUSE moves no memory; and whatever file this
    // is, nobody else knows the command.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(WHICH), ticket) })
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
