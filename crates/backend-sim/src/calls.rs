//! What a process calls on its descriptors, beside `mmap`. What that does to memory is the
//! engine's.

use std::{cell::RefCell, io, sync::atomic::Ordering};

use devmap_driver::{
    Caller, Command, Errno, Fsync, Ioctl, OpenFlags, PollEvents, SeekFrom, Transfer, UserSlice,
    WaitQueue,
};

use crate::{
    Descriptor, Process,
    device::Opened,
    process::{OpenFile, seen},
};

/// The memory of a call's caller: the process's own, and a buffer of the test's at an
/// address past all of it.
struct Call<'a> {
    process: &'a Process,
    file: &'a OpenFile,
    buffer: RefCell<&'a mut [u8]>,
}

/// Where the test's buffer lies, for the driver.
const BUFFER: u64 = 1 << 62;

impl Call<'_> {
    fn in_buffer(&self, address: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(address.checked_sub(BUFFER)?).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.buffer.borrow().len()).then_some(start..end)
    }
}

impl Caller for Call<'_> {
    fn copy_from(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if let Some(range) = self.in_buffer(address, into.len()) {
            into.copy_from_slice(&self.buffer.borrow()[range]);
            return Ok(());
        }
        self.process.load(address, into).map_err(|_| Errno::EFAULT)
    }

    fn copy_to(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        if let Some(range) = self.in_buffer(address, from.len()) {
            self.buffer.borrow_mut()[range].copy_from_slice(from);
            return Ok(());
        }
        self.process.store(address, from).map_err(|_| Errno::EFAULT)
    }

    fn flags(&self) -> OpenFlags {
        self.file.flags()
    }
}

/// Which way a transfer goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

impl Process {
    /// `read(2)` into a buffer of the test's.
    ///
    /// # Errors
    /// `EBADF`: also if it is not open for reading; what the driver answers, `EINTR` for a
    /// wait that was ended.
    pub fn read(&self, descriptor: Descriptor, into: &mut [u8]) -> Result<usize, Errno> {
        self.transfer(descriptor, Way::Read, None, into)
    }

    /// `write(2)` from a buffer of the test's.
    ///
    /// # Errors
    /// `EBADF`: also if it is not open for writing; what the driver answers, `EINTR` for a
    /// wait that was ended.
    pub fn write(&self, descriptor: Descriptor, from: &[u8]) -> Result<usize, Errno> {
        self.transfer(descriptor, Way::Write, None, &mut from.to_vec())
    }

    /// `pread(2)`: a read from byte `position` on, which leaves the file's own alone.
    ///
    /// # Errors
    /// `EINVAL`: the position is past `i64::MAX`. `ESPIPE`: a stream. As [`Process::read`].
    pub fn pread(
        &self,
        descriptor: Descriptor,
        into: &mut [u8],
        position: u64,
    ) -> Result<usize, Errno> {
        self.transfer(descriptor, Way::Read, Some(position), into)
    }

    /// `pwrite(2)`: a write from byte `position` on, which leaves the file's own alone. With
    /// `O_APPEND` a regular file is written at its end, as on Linux.
    ///
    /// # Errors
    /// `EINVAL`: the position is past `i64::MAX`. `ESPIPE`: a stream. As [`Process::write`].
    pub fn pwrite(
        &self,
        descriptor: Descriptor,
        from: &[u8],
        position: u64,
    ) -> Result<usize, Errno> {
        self.transfer(descriptor, Way::Write, Some(position), &mut from.to_vec())
    }

    /// `fsync(2)` and `fdatasync(2)`.
    ///
    /// # Errors
    /// `EBADF`; as [`devmap_mm::Engine::fsync`].
    pub fn fsync(&self, descriptor: Descriptor, what: Fsync) -> Result<(), Errno> {
        let file = self.file(descriptor)?;
        let mapped = file.mapped.as_ref().ok_or(Errno::EBADF)?;
        self.kernel().engine().fsync(mapped, what)
    }

    /// `ftruncate(2)`.
    ///
    /// # Errors
    /// `EBADF`; `EINVAL`: no regular file, or not opened for writing; what the driver answers.
    pub fn ftruncate(&self, descriptor: Descriptor, size: u64) -> Result<(), Errno> {
        let file = self.file(descriptor)?;
        let mapped = file.mapped.as_ref().ok_or(Errno::EBADF)?;
        if !file.flags().write {
            return Err(Errno::EINVAL);
        }
        let _writes = file.device.as_ref().map(|(driver, _)| driver.inode_lock());
        if let Some((driver, _)) = &file.device {
            file.regular().ok_or(Errno::EINVAL)?;
            driver.truncate(size)?;
        }
        self.kernel().engine().truncate(mapped.object(), size)
    }

    /// A read or a write: `at` the file's own position unless one is said.
    fn transfer(
        &self,
        descriptor: Descriptor,
        way: Way,
        at: Option<u64>,
        buffer: &mut [u8],
    ) -> Result<usize, Errno> {
        let file = self.file(descriptor)?;
        let is_stream = file.is_stream();
        let position = match at {
            Some(_) if is_stream => return Err(Errno::ESPIPE),
            None if is_stream => 0,
            Some(position) => position,
            None => file.position.load(Ordering::Relaxed),
        };
        let flags = file.flags();
        if !(if way == Way::Read { flags.read } else { flags.write }) {
            return Err(Errno::EBADF);
        }
        if position > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let (position, count) = match way {
            Way::Read => (position, self.read_at(&file, position, buffer)?),
            Way::Write => self.write_at(&file, position, buffer)?,
        };
        if at.is_none() && !is_stream {
            file.position.store(position + count as u64, Ordering::Relaxed);
        }
        Ok(count)
    }

    fn read_at(&self, file: &OpenFile, position: u64, into: &mut [u8]) -> Result<usize, Errno> {
        if let Some((_, mapped)) = file.regular() {
            return self.kernel().engine().read(mapped, position, into);
        }
        let read = |device: &dyn Opened, transfer: &Transfer<'_>| device.read(transfer);
        self.ask(file, "read", position, into, read)
    }

    /// Where it was written, and how much. Writes of a regular file come one after the other
    /// (`inode_lock`), so what is appended is never at the same place.
    fn write_at(
        &self,
        file: &OpenFile,
        position: u64,
        from: &mut [u8],
    ) -> Result<(u64, usize), Errno> {
        let write = |device: &dyn Opened, transfer: &Transfer<'_>| device.write(transfer);
        let Some((driver, _)) = file.device.as_ref().filter(|_| file.regular().is_some()) else {
            return Ok((position, self.ask(file, "write", position, from, write)?));
        };
        let _writes = driver.inode_lock();
        let (size, mapped) = file.regular().ok_or(Errno::EIO)?;
        let position = if file.flags().append { size } else { position };
        let count = self.ask(file, "write", position, from, write)?;
        self.kernel().engine().written(mapped.object(), position, &from[..count]);
        Ok((position, count))
    }

    /// Asks the driver's method, which answers no more than there is.
    fn ask(
        &self,
        file: &OpenFile,
        name: &str,
        position: u64,
        buffer: &mut [u8],
        method: impl FnOnce(&dyn Opened, &Transfer<'_>) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let (_, device) = file.device.as_ref().ok_or(Errno::EINVAL)?;
        let len = buffer.len();
        let call = Call { process: self, file, buffer: RefCell::new(buffer) };
        let user = UserSlice::new(&call, BUFFER, len)?;
        let count = seen(method(device.as_ref(), &Transfer::new(&call, user, position)))?;
        file.at_most(name, count, len)
    }

    /// `lseek(2)`: the position from now on.
    ///
    /// # Errors
    /// `EBADF`; `ESPIPE`: a stream, or a file in memory. Of a regular file `EINVAL`: before its
    /// start. What the driver answers.
    pub fn lseek(&self, descriptor: Descriptor, to: io::SeekFrom) -> Result<u64, Errno> {
        let file = self.file(descriptor)?;
        let (_, device) =
            file.device.as_ref().filter(|_| !file.is_stream()).ok_or(Errno::ESPIPE)?;
        let position = file.position.load(Ordering::Relaxed);
        let to = match to {
            io::SeekFrom::Start(at) => SeekFrom::Start(at.cast_signed()),
            io::SeekFrom::Current(by) => SeekFrom::Current { position, by },
            io::SeekFrom::End(by) => SeekFrom::End(by),
        };
        let position = match file.regular() {
            Some((size, _)) => {
                let (base, by) = match to {
                    SeekFrom::Start(by) => (0, by),
                    SeekFrom::Current { position, by } => (position, by),
                    SeekFrom::End(by) => (size, by),
                };
                let at = base.checked_add_signed(by).filter(|at| *at <= i64::MAX as u64);
                at.ok_or(Errno::EINVAL)?
            }
            None => file.at_most("llseek", seen(device.llseek(to))?, i64::MAX as u64)?,
        };
        file.position.store(position, Ordering::Relaxed);
        Ok(position)
    }

    /// `fcntl(2)` with `F_SETFL`: `O_NONBLOCK` of the open file, and so of all copies of the
    /// descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_nonblocking(&self, descriptor: Descriptor, nonblocking: bool) -> Result<(), Errno> {
        self.file(descriptor)?.set_nonblocking(nonblocking);
        Ok(())
    }

    /// `ioctl(2)` whose argument is a buffer of the test's, of at least the command's
    /// size. Pointers in it are addresses of the process.
    ///
    /// # Errors
    /// `EBADF`; what the driver answers, `EINTR` for a wait that was ended.
    pub fn ioctl(
        &self,
        descriptor: Descriptor,
        command: Command,
        argument: &mut [u8],
    ) -> Result<u32, Errno> {
        self.ioctl_with(descriptor, command, BUFFER, argument)
    }

    /// `ioctl(2)` whose argument is a number, or an address of the process.
    ///
    /// # Errors
    /// As [`Process::ioctl`].
    pub fn ioctl_value(
        &self,
        descriptor: Descriptor,
        command: Command,
        argument: u64,
    ) -> Result<u32, Errno> {
        self.ioctl_with(descriptor, command, argument, &mut [])
    }

    fn ioctl_with(
        &self,
        descriptor: Descriptor,
        command: Command,
        argument: u64,
        buffer: &mut [u8],
    ) -> Result<u32, Errno> {
        let file = self.file(descriptor)?;
        let (_, device) = file.device.as_ref().ok_or(Errno::EINVAL)?;
        let call = Call { process: self, file: &file, buffer: RefCell::new(buffer) };
        let value = seen(device.ioctl(&Ioctl::new(command, argument, &call)))?;
        file.at_most("ioctl", value, i32::MAX.cast_unsigned())
    }

    /// `poll(2)` without waiting: what is ready now.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn poll(&self, descriptor: Descriptor) -> Result<PollEvents, Errno> {
        let file = self.file(descriptor)?;
        let (_, device) = file.device.as_ref().ok_or(Errno::EINVAL)?;
        Ok(device.poll())
    }

    /// `poll(2)`: waits until any of `wanted` is ready, and answers those that are. An error
    /// and a hang-up count whether wanted or not.
    ///
    /// # Errors
    /// `EBADF`; `EINTR`: a signal came before.
    pub fn poll_wait(
        &self,
        descriptor: Descriptor,
        wanted: PollEvents,
    ) -> Result<PollEvents, Errno> {
        let file = self.file(descriptor)?;
        let (_, device) = file.device.as_ref().ok_or(Errno::EINVAL)?;
        let wanted = wanted.union(PollEvents::ERR).union(PollEvents::HUP);
        let ready = || Some(device.poll().intersection(wanted)).filter(|ready| !ready.is_empty());
        seen(self.kernel().platform().any_queue().wait(ready).map_err(Errno::from))
    }
}
