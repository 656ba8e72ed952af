//! A driver as the kernel sees it: its methods without its types. Every call of a driver
//! passes here, and its plan is checked here.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use devmap_driver::{
    Device, Errno, Fault, Fsync, Ioctl, Kind, Memory, Metadata, NewArea, NewPage, Open, Plan,
    PollEvents, PollTable, SeekFrom, Source, Store, Supply, Transfer,
};
use devmap_mm::{Content, Layout, Supplied};

use crate::{Failures, PageFrame, SimMemory, SimPlatform, SimQueue};

/// A driver, without its type.
pub(crate) trait Driver: Send + Sync {
    fn open(&self, open: &Open) -> Result<Arc<dyn Opened>, Errno>;
    fn metadata(&self) -> Metadata;
    /// Held while a regular file is written or its length changes.
    fn inode_lock(&self) -> MutexGuard<'_, ()>;
    fn store(&self) -> Store;
    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;
    fn truncate(&self, size: u64) -> Result<(), Errno>;
}

/// An open file of a driver, without its type.
pub(crate) trait Opened: Send + Sync {
    fn mmap(&self, area: &NewArea) -> Result<Plan<SimMemory>, Errno>;
    fn fault(&self, fault: &Fault, page: &mut dyn NewPage) -> Result<Supply<SimMemory>, Errno>;
    fn fsync(&self, what: Fsync) -> Result<(), Errno>;
    fn read(&self, transfer: &Transfer<'_>) -> Result<usize, Errno>;
    fn write(&self, transfer: &Transfer<'_>) -> Result<usize, Errno>;
    fn llseek(&self, to: SeekFrom) -> Result<u64, Errno>;
    fn ioctl(&self, call: &Ioctl<'_>) -> Result<u32, Errno>;
    fn poll(&self) -> PollEvents;
}

pub(crate) struct Typed<D> {
    device: Arc<D>,
    inode_lock: Mutex<()>,
}

impl<D> Typed<D> {
    pub fn new(device: D) -> Typed<D> {
        Typed { device: Arc::new(device), inode_lock: Mutex::new(()) }
    }
}

struct TypedFile<D: Device<SimPlatform>> {
    device: Arc<D>,
    file: D::File,
}

impl<D: Device<SimPlatform>> Driver for Typed<D> {
    fn open(&self, open: &Open) -> Result<Arc<dyn Opened>, Errno> {
        let file = self.device.open(open)?;
        Ok(Arc::new(TypedFile { device: self.device.clone(), file }))
    }

    fn metadata(&self) -> Metadata {
        self.device.metadata()
    }

    fn inode_lock(&self) -> MutexGuard<'_, ()> {
        self.inode_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> Store {
        self.device.store()
    }

    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.device.write_back(offset, bytes)
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.device.truncate(size)
    }
}

/// Any wake may change what a queue's driver says, so nothing has to be kept of it.
struct NoTable;

impl PollTable<SimQueue> for NoTable {
    fn register(&mut self, _queue: &SimQueue) {}
}

impl<D: Device<SimPlatform>> Opened for TypedFile<D> {
    fn mmap(&self, area: &NewArea) -> Result<Plan<SimMemory>, Errno> {
        self.device.mmap(&self.file, area)
    }

    fn fault(&self, fault: &Fault, page: &mut dyn NewPage) -> Result<Supply<SimMemory>, Errno> {
        self.device.fault(&self.file, fault, page)
    }

    fn fsync(&self, what: Fsync) -> Result<(), Errno> {
        self.device.fsync(&self.file, what)
    }

    fn read(&self, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.device.read(&self.file, transfer)
    }

    fn write(&self, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.device.write(&self.file, transfer)
    }

    fn llseek(&self, to: SeekFrom) -> Result<u64, Errno> {
        self.device.llseek(&self.file, to)
    }

    fn ioctl(&self, call: &Ioctl<'_>) -> Result<u32, Errno> {
        self.device.ioctl(&self.file, call)
    }

    fn poll(&self) -> PollEvents {
        self.device.poll(&self.file, &mut NoTable)
    }
}

/// A method that panics answers `EIO`, as in every home; the engine is in order then.
fn guarded<T>(method: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    catch_unwind(AssertUnwindSafe(method)).unwrap_or(Err(Errno::EIO))
}

/// Where the dirty pages of a device with a store go.
pub(crate) struct DeviceStore {
    pub driver: Arc<dyn Driver>,
    pub failures: Failures,
}

impl devmap_mm::Store for DeviceStore {
    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        if self.failures.write_backs().happens() {
            return Err(Errno::EIO);
        }
        guarded(|| self.driver.write_back(offset, bytes))
    }
}

/// What the engine asks of an open file.
pub(crate) struct DeviceContent {
    pub driver: Arc<dyn Driver>,
    pub file: Arc<dyn Opened>,
    pub failures: Failures,
}

impl Content<PageFrame> for DeviceContent {
    fn mmap(&self, area: &NewArea) -> Result<Layout<PageFrame>, Errno> {
        if let Kind::Regular { .. } = self.driver.metadata().kind {
            return Ok(Layout::fault_all());
        }
        let plan = guarded(|| self.file.mmap(area))?;
        if let Err(error) = plan.validate(area, Memory::pages) {
            eprintln!("the driver's plan {error}");
            return Err(Errno::EIO);
        }
        let remapped = plan.extents().filter_map(|extent| match &extent.source {
            Source::Remap { memory, first_page } => {
                let frames = memory.frames(*first_page, extent.pages)?.to_vec();
                Some((extent.at..extent.at + extent.pages, frames))
            }
            Source::Fault => None,
        });
        Ok(Layout { flags: plan.area_flags(), remapped: remapped.collect() })
    }

    fn fault(&self, fault: &Fault, page: &mut dyn NewPage) -> Result<Supplied<PageFrame>, Errno> {
        if self.failures.faults().happens() {
            return Err(Errno::EIO);
        }
        match guarded(|| self.file.fault(fault, page))? {
            Supply::Filled => Ok(Supplied::Filled),
            Supply::Page { memory, page } => {
                let frame = memory.frames(page, 1).and_then(<[PageFrame]>::first);
                frame.cloned().map(Supplied::Frame).ok_or(Errno::EIO)
            }
        }
    }

    fn size(&self) -> Option<u64> {
        match guarded(|| Ok(self.driver.metadata().kind)) {
            Ok(Kind::Regular { size }) => Some(size),
            _ => None,
        }
    }

    fn fsync(&self, what: Fsync) -> Result<(), Errno> {
        guarded(|| self.file.fsync(what))
    }
}
