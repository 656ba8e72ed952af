//! A driver as the home sees it: its methods without its types. Every call of a driver
//! passes here: one that panics answers `EIO`, as in every home.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use devmap_driver::{
    Device, Errno, Fault, Fsync, Metadata, NewArea, NewPage, Open, Plan, Store, Supply,
};

use crate::{LocalMemory, LocalPlatform};

/// A driver, without its type.
pub(crate) trait Driver: Send + Sync {
    fn open(&self, open: &Open) -> Result<Box<dyn Opened>, Errno>;
    fn metadata(&self) -> Metadata;
    fn store(&self) -> Store;
    fn fault_checks_end(&self) -> bool;
    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;
    fn truncate(&self, size: u64) -> Result<(), Errno>;
}

/// An open file of a driver, without its type.
pub(crate) trait Opened: Send + Sync {
    fn mmap(&self, area: &NewArea) -> Result<Plan<LocalMemory>, Errno>;
    fn fault(&self, fault: &Fault, page: &mut dyn NewPage) -> Result<Supply<LocalMemory>, Errno>;
    fn readahead(&self, first_page: u64, bytes: &mut [u8]) -> Result<usize, Errno>;
    fn fsync(&self, what: Fsync) -> Result<(), Errno>;
}

pub(crate) struct Typed<D>(pub Arc<D>);

struct TypedFile<D: Device<LocalPlatform>> {
    device: Arc<D>,
    file: D::File,
}

/// What the driver was doing is its own affair; the home is in order.
fn guarded<T>(method: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    catch_unwind(AssertUnwindSafe(method)).unwrap_or(Err(Errno::EIO))
}

impl<D: Device<LocalPlatform>> Driver for Typed<D> {
    fn open(&self, open: &Open) -> Result<Box<dyn Opened>, Errno> {
        let file = guarded(|| self.0.open(open))?;
        Ok(Box::new(TypedFile { device: self.0.clone(), file }))
    }

    fn metadata(&self) -> Metadata {
        guarded(|| Ok(self.0.metadata())).unwrap_or(Metadata::CHARACTER)
    }

    fn store(&self) -> Store {
        guarded(|| Ok(self.0.store())).unwrap_or(Store::Home)
    }

    fn fault_checks_end(&self) -> bool {
        guarded(|| Ok(self.0.fault_checks_end())).unwrap_or(false)
    }

    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        guarded(|| self.0.write_back(offset, bytes))
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        guarded(|| self.0.truncate(size))
    }
}

impl<D: Device<LocalPlatform>> Opened for TypedFile<D> {
    fn mmap(&self, area: &NewArea) -> Result<Plan<LocalMemory>, Errno> {
        guarded(|| self.device.mmap(&self.file, area))
    }

    fn fault(&self, fault: &Fault, page: &mut dyn NewPage) -> Result<Supply<LocalMemory>, Errno> {
        guarded(|| self.device.fault(&self.file, fault, page))
    }

    fn readahead(&self, first_page: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        guarded(|| self.device.readahead(&self.file, first_page, bytes))
    }

    fn fsync(&self, what: Fsync) -> Result<(), Errno> {
        guarded(|| self.device.fsync(&self.file, what))
    }
}
