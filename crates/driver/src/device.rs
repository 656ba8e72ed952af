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
    /// A regular file of this many bytes, whose content is pages: the home answers
    /// `read`, `lseek` and `mmap` from its page cache, as `generic_file_read_iter`,
    /// `generic_file_llseek` and `generic_file_mmap` do, and asks the driver for pages by
    /// [`Device::fault`]. Its `read`, `llseek` and `mmap` are not asked.
    Regular {
        /// `st_size`: asked anew whenever it matters. Pages wholly past it are `SIGBUS`,
        /// and bytes past it are never written back.
        size: u64,
    },
}

/// Who keeps what programs store in [`Supply::Filled`] pages of shared maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// The home, for as long as anybody maps the page: it never drops a page that was
    /// written before.
    Home,
    /// The device: it is given such pages by [`Device::write_back`], and asked for them
    /// again by [`Device::fault`].
    Device,
}

/// How much [`Device::fsync`] shall make durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// The content, and the size where it is needed to find it: `fdatasync(2)`, and
    /// `msync(2)` with `MS_SYNC`.
    Data,
    /// All of it: `fsync(2)`.
    All,
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

/// What `/sys/class` shows of a device (`struct class`).
///
/// The home makes the directory `/sys/class/CLASS/NAME`, where NAME is the device's path
/// below `/dev`, unless [`Class::node`] says otherwise, with `dev`, `uevent` and the link
/// `subsystem`; the attributes are the driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its name, such as `video4linux`.
    pub name: &'static str,
    /// What the kernel calls each device of it, with a number behind, such as `video`: wherever
    /// its node stands, programs find `video0` here. With `None` the path is the name.
    pub node: Option<&'static str>,
    /// Names of files, each with a text of [`Device::show`].
    pub attributes: &'static [&'static str],
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

    /// What `stat` shows. Of a regular file the size may change, and nothing else.
    fn metadata(&self) -> Metadata {
        Metadata::CHARACTER
    }

    /// The class that programs find the device by, if it has one. Must not change.
    fn class(&self) -> Option<Class> {
        None
    }

    /// The text of an attribute of the class (`device_attribute.show`), with the line's
    /// end. It is asked once, before any program runs.
    ///
    /// # Errors
    /// That of `text`, to be passed on.
    fn show(&self, _attribute: &str, _text: &mut dyn core::fmt::Write) -> core::fmt::Result {
        Ok(())
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
    /// A home may ask sooner, and for more than a program touches: for the first page of an extent
    /// when it is mapped, which says how the others come, and for pages around one that is
    /// touched, of this device (read-ahead). An error then is nobody's; who touches the page
    /// makes it ask again.
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

    /// Whether [`Device::fault`] of a regular file fails for a page that lies wholly past the
    /// end, as the kernel's file systems have it (`filemap_fault`). A home then asks for the
    /// size only where a fault failed, else before each. Must not change. Left out: it may not.
    fn fault_checks_end(&self) -> bool {
        false
    }

    /// Fills pages before anybody looks for them (`address_space_operations->readahead`):
    /// `bytes`, one or more whole pages, zeroed, stand from page `first_page` on. Answers how
    /// many bytes from the front are filled, whole pages. Only asked where pages are looked
    /// for in order, or by a program that says that it will need them.
    ///
    /// # Errors
    /// Nobody is told: [`Device::fault`] is asked for a page when it is needed. Left out: 0.
    fn readahead(
        &self,
        _file: &Self::File,
        _first_page: u64,
        _bytes: &mut [u8],
    ) -> Result<usize, Errno> {
        Ok(0)
    }

    /// Whether the device has a store for what programs write to its filled pages. Must
    /// not change. Left out: the home keeps it.
    fn store(&self) -> Store {
        Store::Home
    }

    /// Stores what programs wrote to [`Supply::Filled`] pages of shared maps
    /// (`address_space_operations->writepages`). Only asked of a device with
    /// [`Store::Device`].
    ///
    /// `bytes` stand from byte `offset` of the device on: one or more whole pages, or less
    /// at the end of a regular file, whose length they never change. It comes at the latest
    /// with `msync`, `fsync`, the last unmap and the last close, earlier when memory is
    /// short; in the order of offsets each time. When it answers `Ok`, [`Device::fault`]
    /// must find the bytes; whether they are durable is [`Device::fsync`]'s affair. Pages
    /// belong to all who map the device, so no open file comes with them, and none need be
    /// open any more.
    ///
    /// # Errors
    /// Reported as Linux does: by the next `msync`, `fsync` or `close` of each open file,
    /// once. Left out: `EIO`.
    fn write_back(&self, _offset: u64, _bytes: &[u8]) -> Result<(), Errno> {
        Err(Errno::EIO)
    }

    /// `fsync(2)`, `fdatasync(2)`, and `msync(2)` with `MS_SYNC`: makes durable what was
    /// written. The home has given back all dirty pages before.
    ///
    /// # Errors
    /// Left out: `EINVAL`.
    fn fsync(&self, _file: &Self::File, _what: Fsync) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    /// `truncate(2)` and `ftruncate(2)` of a regular file: it has `size` bytes from now on
    /// (`inode_operations->setattr`). The home drops what it holds past them.
    ///
    /// # Errors
    /// Left out: `EINVAL`.
    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    /// `read(2)`: how many bytes were copied out; 0 at the end. Not asked of a regular file.
    ///
    /// # Errors
    /// Left out: `EINVAL`.
    fn read(&self, _file: &Self::File, _transfer: &Transfer<'_>) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }

    /// `write(2)`: how many bytes were taken in. A regular file grows by it as needed, and
    /// the home changes the pages that it holds to match. Or the home changes only those, and
    /// calls [`Device::truncate`] and [`Device::write_back`] afterwards.
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
