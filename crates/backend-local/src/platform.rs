//! What a driver asks of this home: memory, locks, wait queues, a clock.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_driver::{self as driver, Errno, Interrupted, PageSize, Platform};
use devmap_sys::{
    mapping::{MapMemory, Mapping},
    memfd,
};
use parking_lot::{Condvar, Mutex};

/// The platform of the local home. All are the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalPlatform;

fn memory(bytes: u64, map: MapMemory) -> Result<LocalMemory, Errno> {
    if bytes == 0 {
        return Err(Errno::EINVAL);
    }
    let page = LocalPlatform.page_size();
    let len = page.offset_of(page.pages_for(bytes)).ok_or(Errno::ENOMEM)?;
    let region = Region::new(len, map).map_err(|_| Errno::ENOMEM)?;
    Ok(LocalMemory(Arc::new(region)))
}

impl Platform for LocalPlatform {
    type Memory = LocalMemory;
    type Lock<T: Send + 'static> = LocalLock<T>;
    type WaitQueue = LocalQueue;

    fn page_size(&self) -> PageSize {
        let bytes = rustix::param::page_size() as u64;
        PageSize::new(bytes).expect("the kernel's page size is a power of two")
    }

    /// Side by side in its file, which is what contiguous means to a program. As large
    /// pages, where there are any, it is so in the machine, too.
    fn contiguous(&self, bytes: u64) -> Result<LocalMemory, Errno> {
        memory(bytes, Mapping::in_large_pages)
    }

    fn scattered(&self, bytes: u64) -> Result<LocalMemory, Errno> {
        memory(bytes, Mapping::in_small_pages)
    }

    fn lock<T: Send + 'static>(&self, value: T) -> Result<LocalLock<T>, Errno> {
        Ok(LocalLock(Mutex::new(value)))
    }

    fn wait_queue(&self) -> Result<LocalQueue, Errno> {
        Ok(LocalQueue::default())
    }

    fn now(&self) -> Duration {
        static STARTED: OnceLock<Instant> = OnceLock::new();
        STARTED.get_or_init(Instant::now).elapsed()
    }
}

/// One sealed memfd of exactly its size, mapped here as a whole.
#[derive(Debug)]
struct Region {
    file: OwnedFd,
    mapping: Mapping,
    mapped: AtomicUsize,
}

impl Region {
    fn new(len: u64, map: MapMemory) -> io::Result<Region> {
        let size = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let file = memfd::create("devmap", len)?;
        let mapping = map(file.as_fd(), size)?;
        Ok(Region { file, mapping, mapped: AtomicUsize::new(0) })
    }
}

/// Memory of a driver: a sealed memfd of exactly its size.
#[derive(Clone, Debug)]
pub struct LocalMemory(Arc<Region>);

impl LocalMemory {
    /// A handle that counts as a map.
    pub(crate) fn mapped(&self) -> MappedMemory {
        self.0.mapped.fetch_add(1, Ordering::Relaxed);
        MappedMemory(self.clone())
    }
}

/// A memory that an area maps.
#[derive(Debug)]
pub(crate) struct MappedMemory(LocalMemory);

impl MappedMemory {
    /// Keeps the pages in memory, as `VM_RESERVED` asks, as far as `RLIMIT_MEMLOCK` permits.
    pub(crate) fn keep_resident(&self) {
        self.0.0.mapping.lock();
    }
}

impl AsFd for MappedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.file.as_fd()
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        self.0.0.mapped.fetch_sub(1, Ordering::Relaxed);
    }
}

impl driver::Memory for LocalMemory {
    fn pages(&self) -> u64 {
        LocalPlatform.page_size().page_of(self.len())
    }

    fn len(&self) -> u64 {
        self.0.mapping.len() as u64
    }

    fn is_mapped(&self) -> bool {
        self.0.mapped.load(Ordering::Relaxed) > 0
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        let offset = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        self.0.mapping.read(offset, into).map_err(|_| Errno::EINVAL)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Errno> {
        let offset = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        self.0.mapping.write(offset, from).map_err(|_| Errno::EINVAL)
    }
}

/// A driver's lock.
pub struct LocalLock<T>(Mutex<T>);

impl<T: Send> driver::Lock<T> for LocalLock<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock())
    }
}

/// A driver's wait queue. A wait goes on until its condition is met: the caller is a
/// thread of this program, which no signal takes out of a method.
#[derive(Default)]
pub struct LocalQueue {
    wakes: Mutex<u64>,
    woken: Condvar,
}

impl driver::WaitQueue for LocalQueue {
    fn wake_all(&self) {
        *self.wakes.lock() += 1;
        self.woken.notify_all();
    }

    fn wait<T>(&self, mut condition: impl FnMut() -> Option<T>) -> Result<T, Interrupted> {
        loop {
            let seen = *self.wakes.lock();
            if let Some(value) = condition() {
                return Ok(value);
            }
            let mut wakes = self.wakes.lock();
            self.woken.wait_while(&mut wakes, |wakes| *wakes == seen);
        }
    }
}
