//! The trait that a driver implements: `struct file_operations`.

use crate::{
    Caller, Errno, Fault, Ioctl, NewArea, NewPage, Plan, Platform, PollEvents, PollTable, Supply,
    UserSlice,
};

/// Flags of `open(2)` that matter to a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags {
    /// Opened for reading (`FMODE_READ`).
    pub read: bool,
    /// Opened for writing (`FMODE_WRITE`).
    pub write: bool,
    /// `O_NONBLOCK`: answer `EAGAIN` where the call would wait.
    pub nonblocking: bool,
    /// `O_APPEND`.
    pub append: bool,
}

/// An open call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The flags.
    pub flags: OpenFlags,
    /// The calling process (its thread group), as the home sees it.
    pub pid: u32,
}

/// A device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// This major and minor.
    Fixed {
        /// `major(dev)`.
        major: u32,
        /// `minor(dev)`.
        minor: u32,
    },
    /// The home chooses one that is free (`alloc_chrdev_region`).
    Dynamic,
}

/// What kind of file `stat(2)` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A character device.
    Character(Number),
    /// A regular file of this many bytes.
    Regular {
        /// `st_size`.
        size: u64,
    },
}

/// What `stat(2)` shows of a device, and how its descriptors behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Character device or regular file.
    pub kind: Kind,
    /// Permission bits, such as `0o666`.
    pub mode: u16,
    /// Reads and writes have no position (`stream_open`): `pread` and `lseek` give
    /// `ESPIPE`, and a blocked read does not hold up a write of the same descriptor.
    pub stream: bool,
}

impl Metadata {
    /// A character device with a number of the home's choice, open to all.
    pub const CHARACTER: Metadata =
        Metadata { kind: Kind::Character(Number::Dynamic), mode: 0o666, stream: false };
}

/// A read or a write.
pub struct Transfer<'a> {
    user: UserSlice<'a>,
    position: u64,
    caller: &'a dyn Caller,
}

impl<'a> Transfer<'a> {
    /// A transfer between the device at byte `position` and `user` of `caller`.
    pub fn new(caller: &'a dyn Caller, user: UserSlice<'a>, position: u64) -> Transfer<'a> {
        Transfer { user, position, caller }
    }

    /// The program's buffer.
    pub fn user(&self) -> &UserSlice<'a> {
        &self.user
    }

    /// The file position in bytes (`*ppos`); 0 for a stream. The home moves it on by
    /// what the method answers.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The flags of the open file now.
    pub fn flags(&self) -> OpenFlags {
        self.caller.flags()
    }

    /// Answers a read with the part of `content` at the position
    /// (`simple_read_from_buffer`): 0 at or past its end.
    ///
    /// # Errors
    /// `EFAULT` as the caller's memory says.
    pub fn read_from(&self, content: &[u8]) -> Result<usize, Errno> {
        let start = usize::try_from(self.position).unwrap_or(usize::MAX).min(content.len());
        let rest = &content[start..];
        let count = rest.len().min(self.user.len());
        self.user.copy_out(&rest[..count])?;
        Ok(count)
    }
}

/// Where `lseek(2)` counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekFrom {
    /// `SEEK_SET`.
    Start(i64),
    /// `SEEK_CUR`: from this position.
    Current {
        /// The position now.
        position: u64,
        /// The distance.
        by: i64,
    },
    /// `SEEK_END`.
    End(i64),
}

impl SeekFrom {
    /// The new position in something of `size` bytes (`fixed_size_llseek`).
    ///
    /// # Errors
    /// `EINVAL` before the start or past the end.
    pub fn within(self, size: u64) -> Result<u64, Errno> {
        let (base, by) = match self {
            SeekFrom::Start(by) => (0, by),
            SeekFrom::Current { position, by } => (position, by),
            SeekFrom::End(by) => (size, by),
        };
        let position = base.checked_add_signed(by).ok_or(Errno::EINVAL)?;
        if position > size { Err(Errno::EINVAL) } else { Ok(position) }
    }
}

/// A device: `struct file_operations` in safe Rust.
///
/// One value serves every program that opens the path, from several threads at
/// once. A method that is left out answers what Linux answers for a character
/// device without it. A method never blocks but by
/// [`WaitQueue::wait`](crate::WaitQueue::wait).
///
/// Errors: a method returns the [`Errno`] that the program shall see.
pub trait Device<P: Platform>: Send + Sync + 'static {
    /// The state of one open file (`file->private_data`). Dropped at release: once,
    /// after the last close of every copy of the descriptor and the last unmap.
    type File: Send + Sync + 'static;

    /// A program opens the path.
    ///
    /// # Errors
    /// The program's `open` fails with it.
    fn open(&self, open: &Open) -> Result<Self::File, Errno>;

    /// What `stat` shows. Must not change for a character device.
    fn metadata(&self) -> Metadata {
        Metadata::CHARACTER
    }

    /// A program maps the device: look at the area, answer a plan. It maps nothing
    /// itself, so it is pure and the same in every home.
    ///
    /// # Errors
    /// The program's `mmap` fails with it. Left out: `ENODEV`.
    fn mmap(&self, _file: &Self::File, _area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        Err(Errno::ENODEV)
    }

    /// The first access to a page of a fault extent: supply the page.
    ///
    /// # Errors
    /// The program gets `SIGBUS` (`VM_FAULT_SIGBUS`). Left out: `EIO`, so that.
    fn fault(
        &self,
        _file: &Self::File,
        _fault: &Fault,
        _page: &mut dyn NewPage,
    ) -> Result<Supply<P::Memory>, Errno> {
        Err(Errno::EIO)
    }

    /// `read(2)`: how many bytes were copied out; 0 at the end.
    ///
    /// # Errors
    /// Left out: `EINVAL`.
    fn read(&self, _file: &Self::File, _transfer: &Transfer<'_>) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    /// `write(2)`: how many bytes were taken in.
    ///
    /// # Errors
    /// Left out: `EINVAL`.
    fn write(&self, _file: &Self::File, _transfer: &Transfer<'_>) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    /// `lseek(2)`: the new position in bytes.
    ///
    /// # Errors
    /// Left out: `ESPIPE`.
    fn llseek(&self, _file: &Self::File, _to: SeekFrom) -> Result<u64, Errno> {
        Err(Errno::ESPIPE)
    }

    /// `ioctl(2)`: the value that the call returns, at most `i32::MAX`.
    ///
    /// # Errors
    /// Left out: `ENOTTY`.
    fn ioctl(&self, _file: &Self::File, _call: &Ioctl<'_>) -> Result<u32, Errno> {
        Err(Errno::ENOTTY)
    }

    /// `poll(2)`, `select(2)`, `epoll(7)`: what is ready now. Register every queue
    /// whose wake may change the answer, first.
    fn poll(&self, _file: &Self::File, _table: &mut dyn PollTable<P::WaitQueue>) -> PollEvents {
        PollEvents::DEFAULT
    }
}
