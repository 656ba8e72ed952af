//! A process of the test's kernel: its system calls, its loads and stores. What they do
//! to memory is the engine's.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use devmap_driver::{
    Caller, Command, Errno, Fsync, Ioctl, Kind, Open, OpenFlags, PollEvents, SeekFrom, Sharing,
    Transfer, UserSlice, WaitQueue,
};
use devmap_mm::{Fatal, File, FileMode, MapRequest, SpaceId};

use crate::{
    MockKernel, PageFrame,
    device::{DeviceContent, Driver, Opened},
    kernel::What,
};

/// The number of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Descriptor(u32);

/// A process. Dropping it is its end: files are closed, memory goes.
pub struct Process {
    kernel: MockKernel,
    space: SpaceId,
    files: Mutex<BTreeMap<Descriptor, Arc<OpenFile>>>,
}

/// An open file description.
struct OpenFile {
    kernel: MockKernel,
    flags: OpenFlags,
    position: AtomicU64,
    /// `None`: a file in memory, which is only mapped here.
    device: Option<(Arc<dyn Driver>, Arc<dyn Opened>)>,
    /// What areas hold of it; taken when it is closed.
    mapped: Option<Arc<File<PageFrame>>>,
}

impl OpenFile {
    /// What is cached of it, if it is a device that is a regular file.
    fn regular(&self) -> Option<&Arc<File<PageFrame>>> {
        let (driver, _) = self.device.as_ref()?;
        matches!(driver.kind(), Kind::Regular { .. }).then_some(self.mapped.as_ref()).flatten()
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(file) = self.mapped.take() {
            self.kernel.engine().close(file);
        }
    }
}

/// The memory of a call's caller: the process's own, and a buffer of the test's at an
/// address past all of it.
struct Call<'a> {
    process: &'a Process,
    flags: OpenFlags,
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
        self.flags
    }
}

/// A program without `SA_RESTART` sees `EINTR`.
fn seen<T>(result: Result<T, Errno>) -> Result<T, Errno> {
    result.map_err(|errno| if errno == Errno::ERESTARTSYS { Errno::EINTR } else { errno })
}

impl Process {
    pub(crate) fn new(kernel: MockKernel, space: SpaceId) -> Process {
        Process { kernel, space, files: Mutex::default() }
    }

    /// Its address space in the kernel's engine.
    pub fn space(&self) -> SpaceId {
        self.space
    }

    pub(crate) fn kernel(&self) -> &MockKernel {
        &self.kernel
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<Descriptor, Arc<OpenFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, descriptor: Descriptor) -> Result<Arc<OpenFile>, Errno> {
        self.files().get(&descriptor).cloned().ok_or(Errno::EBADF)
    }

    fn device(&self, descriptor: Descriptor) -> Result<(OpenFlags, Arc<dyn Opened>), Errno> {
        let file = self.file(descriptor)?;
        let (_, device) = file.device.clone().ok_or(Errno::EINVAL)?;
        Ok((file.flags, device))
    }

    /// `open(2)` with `O_RDWR`.
    ///
    /// # Errors
    /// `ENOENT`; what the driver answers.
    pub fn open(&self, path: &str) -> Result<Descriptor, Errno> {
        let flags = OpenFlags { read: true, write: true, nonblocking: false, append: false };
        self.open_with(path, flags)
    }

    /// `open(2)`.
    ///
    /// # Errors
    /// `ENOENT`; what the driver answers.
    pub fn open_with(&self, path: &str, flags: OpenFlags) -> Result<Descriptor, Errno> {
        let node = self.kernel.node(path)?;
        let mode = FileMode { read: flags.read, write: flags.write };
        let (device, content): (_, Box<dyn devmap_mm::Content<PageFrame>>) = match node.what {
            What::Device(driver) => {
                let file = seen(driver.open(&Open { flags, pid: self.space.0 + 1 }))?;
                let failures = self.kernel.failures().clone();
                let content =
                    DeviceContent { driver: driver.clone(), file: file.clone(), failures };
                (Some((driver, file)), Box::new(content))
            }
            What::File(file) => (None, Box::new(file)),
        };
        let mapped = Some(self.kernel.engine().open(node.file.object(), mode, Some(content)));
        let (kernel, position) = (self.kernel.clone(), AtomicU64::new(0));
        let file = Arc::new(OpenFile { kernel, flags, position, device, mapped });
        let mut files = self.files();
        // The lowest number that is free, from 3 on.
        let mut numbers = (3..).map(Descriptor);
        let free = numbers.find(|number| !files.contains_key(number)).ok_or(Errno::EMFILE)?;
        files.insert(free, file);
        Ok(free)
    }

    /// `close(2)`. The driver's release comes with the last close and the last unmap.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&self, descriptor: Descriptor) -> Result<(), Errno> {
        let file = self.files().remove(&descriptor).ok_or(Errno::EBADF)?;
        drop(file);
        Ok(())
    }

    /// `fork(2)`: a copy of the memory, and the same open files.
    ///
    /// # Errors
    /// `ENOMEM`, by an injected failure.
    pub fn fork(&self) -> Result<Process, Errno> {
        let space = self.kernel.engine().fork(self.space)?;
        let child = Process::new(self.kernel.clone(), space);
        child.files().clone_from(&self.files());
        Ok(child)
    }

    /// `mmap(2)` of `len` bytes from `offset` on, shared, to read and write as far as the
    /// file was opened for it.
    ///
    /// # Errors
    /// `EBADF`; as [`devmap_mm::Engine::map`].
    pub fn mmap(&self, descriptor: Descriptor, offset: u64, len: u64) -> Result<u64, Errno> {
        let mut protection = devmap_driver::Protection::READ_WRITE;
        protection.write = self.file(descriptor)?.flags.write;
        let request = MapRequest::new(len).sharing(Sharing::Shared).protection(protection);
        self.mmap_with(descriptor, offset, request)
    }

    /// `mmap(2)` as the request says, of a file from `offset` on.
    ///
    /// # Errors
    /// `EBADF`; as [`devmap_mm::Engine::map`].
    pub fn mmap_with(
        &self,
        descriptor: Descriptor,
        offset: u64,
        request: MapRequest<PageFrame>,
    ) -> Result<u64, Errno> {
        let file = self.file(descriptor)?;
        let request = match &file.mapped {
            Some(mapped) => request.file(mapped, offset),
            None => return Err(Errno::EBADF),
        };
        self.kernel.engine().map(self.space, &request)
    }

    /// `munmap(2)`.
    ///
    /// # Errors
    /// As [`devmap_mm::Engine::unmap`].
    pub fn munmap(&self, address: u64, len: u64) -> Result<(), Errno> {
        self.kernel.engine().unmap(self.space, address, len)
    }

    /// A load.
    ///
    /// # Errors
    /// What the program would die of.
    pub fn load(&self, address: u64, into: &mut [u8]) -> Result<(), Fatal> {
        self.kernel.engine().load(self.space, address, into)
    }

    /// A store.
    ///
    /// # Errors
    /// What the program would die of.
    pub fn store(&self, address: u64, from: &[u8]) -> Result<(), Fatal> {
        self.kernel.engine().store(self.space, address, from)
    }

    /// A load of a little-endian word.
    ///
    /// # Errors
    /// What the program would die of.
    pub fn load_u32(&self, address: u64) -> Result<u32, Fatal> {
        let mut bytes = [0; 4];
        self.load(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// A store of a little-endian word.
    ///
    /// # Errors
    /// What the program would die of.
    pub fn store_u32(&self, address: u64, value: u32) -> Result<(), Fatal> {
        self.store(address, &value.to_le_bytes())
    }

    /// `read(2)` into a buffer of the test's.
    ///
    /// # Errors
    /// `EBADF`; what the driver answers, `EINTR` for a wait that was ended.
    pub fn read(&self, descriptor: Descriptor, into: &mut [u8]) -> Result<usize, Errno> {
        let file = self.file(descriptor)?;
        if let Some(mapped) = file.regular() {
            let position = file.position.load(Ordering::Relaxed);
            let count = self.kernel.engine().read(mapped, position, into)?;
            file.position.store(position + count as u64, Ordering::Relaxed);
            return Ok(count);
        }
        self.transfer(descriptor, into, |device, transfer| device.read(transfer))
    }

    /// `write(2)` from a buffer of the test's.
    ///
    /// # Errors
    /// `EBADF`; what the driver answers, `EINTR` for a wait that was ended.
    pub fn write(&self, descriptor: Descriptor, from: &[u8]) -> Result<usize, Errno> {
        let file = self.file(descriptor)?;
        let position = file.position.load(Ordering::Relaxed);
        let write = |device: &dyn Opened, transfer: &Transfer<'_>| device.write(transfer);
        let count = self.transfer(descriptor, &mut from.to_vec(), write)?;
        if let Some(mapped) = file.regular() {
            let written = from.get(..count).ok_or(Errno::EIO)?;
            self.kernel.engine().written(mapped.object(), position, written);
        }
        Ok(count)
    }

    /// `fsync(2)` and `fdatasync(2)`.
    ///
    /// # Errors
    /// `EBADF`; as [`devmap_mm::Engine::fsync`].
    pub fn fsync(&self, descriptor: Descriptor, what: Fsync) -> Result<(), Errno> {
        let file = self.file(descriptor)?;
        let mapped = file.mapped.as_ref().ok_or(Errno::EBADF)?;
        self.kernel.engine().fsync(mapped, what)
    }

    /// `ftruncate(2)`.
    ///
    /// # Errors
    /// `EBADF`; `EINVAL`: no regular file, or not opened for writing; what the driver answers.
    pub fn ftruncate(&self, descriptor: Descriptor, size: u64) -> Result<(), Errno> {
        let file = self.file(descriptor)?;
        let mapped = file.mapped.as_ref().ok_or(Errno::EBADF)?;
        if !file.flags.write {
            return Err(Errno::EINVAL);
        }
        if let Some((driver, _)) = &file.device {
            file.regular().ok_or(Errno::EINVAL)?;
            driver.truncate(size)?;
        }
        self.kernel.engine().truncate(mapped.object(), size)
    }

    fn transfer(
        &self,
        descriptor: Descriptor,
        buffer: &mut [u8],
        method: impl FnOnce(&dyn Opened, &Transfer<'_>) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let file = self.file(descriptor)?;
        let (_, device) = file.device.as_ref().ok_or(Errno::EINVAL)?;
        let len = buffer.len();
        let call = Call { process: self, flags: file.flags, buffer: RefCell::new(buffer) };
        let user = UserSlice::new(&call, BUFFER, len)?;
        let position = file.position.load(Ordering::Relaxed);
        let count = seen(method(device.as_ref(), &Transfer::new(&call, user, position)))?;
        file.position.store(position + count as u64, Ordering::Relaxed);
        Ok(count)
    }

    /// `lseek(2)` from the start.
    ///
    /// # Errors
    /// `EBADF`; what the driver answers.
    pub fn seek(&self, descriptor: Descriptor, to: i64) -> Result<u64, Errno> {
        let file = self.file(descriptor)?;
        let (_, device) = file.device.as_ref().ok_or(Errno::ESPIPE)?;
        let position = match file.regular() {
            Some(_) => u64::try_from(to).map_err(|_| Errno::EINVAL)?,
            None => seen(device.llseek(SeekFrom::Start(to)))?,
        };
        file.position.store(position, Ordering::Relaxed);
        Ok(position)
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
        let (flags, device) = self.device(descriptor)?;
        let call = Call { process: self, flags, buffer: RefCell::new(argument) };
        seen(device.ioctl(&Ioctl::new(command, BUFFER, &call)))
    }

    /// `poll(2)` without waiting: what is ready now.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn poll(&self, descriptor: Descriptor) -> Result<PollEvents, Errno> {
        Ok(self.device(descriptor)?.1.poll())
    }

    /// `poll(2)`: waits until any of `wanted` is ready, and answers those that are.
    ///
    /// # Errors
    /// `EBADF`; `EINTR`: a signal came before.
    pub fn poll_wait(
        &self,
        descriptor: Descriptor,
        wanted: PollEvents,
    ) -> Result<PollEvents, Errno> {
        let (_, device) = self.device(descriptor)?;
        let ready = || Some(device.poll().intersection(wanted)).filter(|ready| !ready.is_empty());
        seen(self.kernel.platform().any_queue().wait(ready).map_err(Errno::from))
    }

    /// The text of `/proc/PID/maps`.
    pub fn maps(&self) -> String {
        self.kernel.engine().maps(self.space)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let files = std::mem::take(&mut *self.files());
        drop(files);
        self.kernel.engine().drop_space(self.space);
    }
}
