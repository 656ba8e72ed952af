//! A process of the test's kernel: what it opens and maps, its loads and stores. What they do
//! to memory is the engine's; the calls on what is open are in `calls`.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use devmap_driver::{Errno, Kind, Open, OpenFlags, Sharing};
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
pub(crate) struct OpenFile {
    kernel: MockKernel,
    /// What it was opened by.
    path: String,
    flags: Mutex<OpenFlags>,
    pub position: AtomicU64,
    /// `None`: a file in memory, which is only mapped here.
    pub device: Option<(Arc<dyn Driver>, Arc<dyn Opened>)>,
    /// What areas hold of it; taken when it is closed.
    pub mapped: Option<Arc<File<PageFrame>>>,
}

impl OpenFile {
    /// The flags now.
    pub fn flags(&self) -> OpenFlags {
        *self.flags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.flags.lock().unwrap_or_else(PoisonError::into_inner).nonblocking = nonblocking;
    }

    /// The length of a device that is a regular file, and what is cached of it.
    pub fn regular(&self) -> Option<(u64, &Arc<File<PageFrame>>)> {
        let (driver, _) = self.device.as_ref()?;
        match driver.metadata().kind {
            Kind::Regular { size } => Some((size, self.mapped.as_ref()?)),
            Kind::Character(_) => None,
        }
    }

    /// Whether reads and writes have no position (`stream_open`).
    pub fn is_stream(&self) -> bool {
        self.device.as_ref().is_some_and(|(driver, _)| driver.metadata().stream)
    }

    /// A driver's answer, unless it is more than any right one: `EIO`, as in every home.
    pub fn at_most<T: PartialOrd + Display>(
        &self,
        method: &str,
        value: T,
        most: T,
    ) -> Result<T, Errno> {
        if value <= most {
            return Ok(value);
        }
        eprintln!(
            "{}: the driver answered {value} to {method}, where {most} is the most; the program \
             gets EIO",
            self.path
        );
        Err(Errno::EIO)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(file) = self.mapped.take() {
            self.kernel.engine().close(file);
        }
    }
}

/// A program without `SA_RESTART` sees `EINTR`.
pub(crate) fn seen<T>(result: Result<T, Errno>) -> Result<T, Errno> {
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

    pub(crate) fn file(&self, descriptor: Descriptor) -> Result<Arc<OpenFile>, Errno> {
        self.files().get(&descriptor).cloned().ok_or(Errno::EBADF)
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
        let file = Arc::new(OpenFile {
            kernel: self.kernel.clone(),
            path: path.into(),
            flags: Mutex::new(flags),
            position: AtomicU64::new(0),
            device,
            mapped,
        });
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
        protection.write = self.file(descriptor)?.flags().write;
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
