//! `ioctl(2)`: the command's number and the caller's argument.

use core::fmt;

use crate::{Caller, Errno, OpenFlags, UserSlice};

/// Which way an ioctl's argument goes, seen from the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `_IO`: no argument in memory.
    None,
    /// `_IOW`: the driver reads it.
    Write,
    /// `_IOR`: the driver writes it.
    Read,
    /// `_IOWR`: both.
    ReadWrite,
}

/// An ioctl command, taken apart as `asm-generic/ioctl.h` puts it together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(pub u32);

impl Command {
    /// `_IOC(direction, kind, number, size)`.
    ///
    /// # Panics
    /// When `size` does not fit in 14 bits: a programmer's error, found at compile
    /// time in a constant.
    pub const fn new(direction: Direction, kind: u8, number: u8, size: usize) -> Command {
        assert!(size < 1 << 14, "an ioctl's size has 14 bits");
        let direction = match direction {
            Direction::None => 0,
            Direction::Write => 1,
            Direction::Read => 2,
            Direction::ReadWrite => 3,
        };
        Command(direction << 30 | (size as u32) << 16 | (kind as u32) << 8 | number as u32)
    }

    /// The direction bits.
    pub const fn direction(self) -> Direction {
        match self.0 >> 30 {
            0 => Direction::None,
            1 => Direction::Write,
            2 => Direction::Read,
            _ => Direction::ReadWrite,
        }
    }

    /// The type byte (the "magic").
    pub const fn kind(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The number within the type.
    pub const fn number(self) -> u8 {
        self.0 as u8
    }

    /// The argument's size in bytes.
    pub const fn size(self) -> usize {
        (self.0 >> 16 & 0x3fff) as usize
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({:#010x})", self.0)
    }
}

/// An ioctl call.
pub struct Ioctl<'a> {
    command: Command,
    argument: u64,
    caller: &'a dyn Caller,
}

impl<'a> Ioctl<'a> {
    /// A call of `command` with the third argument `argument`.
    pub fn new(command: Command, argument: u64, caller: &'a dyn Caller) -> Ioctl<'a> {
        Ioctl { command, argument, caller }
    }

    /// The command.
    pub fn command(&self) -> Command {
        self.command
    }

    /// The argument as a plain number.
    pub fn argument(&self) -> u64 {
        self.argument
    }

    /// The argument as a pointer to as many bytes as the command's size says.
    ///
    /// # Errors
    /// `EFAULT` when it wraps round the address space.
    pub fn user(&self) -> Result<UserSlice<'a>, Errno> {
        UserSlice::new(self.caller, self.argument, self.command.size())
    }

    /// Memory elsewhere in the caller: a pointer found in the argument.
    ///
    /// # Errors
    /// `EFAULT` when it wraps round the address space.
    pub fn at(&self, address: u64, len: usize) -> Result<UserSlice<'a>, Errno> {
        UserSlice::new(self.caller, address, len)
    }

    /// The flags of the open file now.
    pub fn flags(&self) -> OpenFlags {
        self.caller.flags()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_match_linux() {
        // VIDIOC_QUERYCAP = _IOR('V', 0, struct v4l2_capability) with 104 bytes.
        let querycap = Command::new(Direction::Read, b'V', 0, 104);
        assert_eq!(querycap.0, 0x8068_5600);
        assert_eq!(querycap.size(), 104);
        assert_eq!(querycap.kind(), b'V');
        assert_eq!(querycap.direction(), Direction::Read);
        assert_eq!(Command(0xc058_5609).direction(), Direction::ReadWrite);
    }
}
