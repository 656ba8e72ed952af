//! A regular file in memory, with content of its own behind the page cache: what is
//! written back is there, and what is not is not. For tests of write-back and eviction.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devmap_driver::{Errno, Fault, NewArea, NewPage};
use devmap_mm::{Content, Layout, ObjectSpec, Store, Supplied};

use crate::{Failures, PageFrame};

/// The content of a file. Clones are the same.
#[derive(Clone)]
pub struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    failures: Failures,
}

struct Disk {
    bytes: Vec<u8>,
    /// Where pages were written back, in order.
    written: Vec<u64>,
}

impl MemoryFile {
    /// A file of these bytes.
    pub fn new(bytes: Vec<u8>, failures: &Failures) -> MemoryFile {
        let disk = Arc::new(Mutex::new(Disk { bytes, written: Vec::new() }));
        MemoryFile { disk, failures: failures.clone() }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on the disk.
    pub fn bytes(&self) -> Vec<u8> {
        self.disk().bytes.clone()
    }

    /// At which offsets pages were written back so far, in order.
    pub fn written(&self) -> Vec<u64> {
        self.disk().written.clone()
    }

    /// The object for the engine.
    pub fn object(&self, name: &str, inode: u64) -> ObjectSpec {
        ObjectSpec {
            name: name.into(),
            device: (0, 2),
            inode,
            size: Some(self.disk().bytes.len() as u64),
            store: Some(Box::new(self.clone())),
            refillable: true,
        }
    }
}

impl Content<PageFrame> for MemoryFile {
    fn mmap(&self, _area: &NewArea) -> Result<Layout<PageFrame>, Errno> {
        Ok(Layout::fault_all())
    }

    fn fault(&self, fault: &Fault, page: &mut dyn NewPage) -> Result<Supplied<PageFrame>, Errno> {
        if self.failures.faults().happens() {
            return Err(Errno::EIO);
        }
        let into = page.bytes()?;
        let disk = self.disk();
        let start = usize::try_from(fault.page).map_err(|_| Errno::EIO)? * into.len();
        let from = disk.bytes.get(start..).unwrap_or_default();
        let len = from.len().min(into.len());
        into[..len].copy_from_slice(&from[..len]);
        Ok(Supplied::Filled)
    }
}

impl Store for MemoryFile {
    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        if self.failures.write_backs().happens() {
            return Err(Errno::EIO);
        }
        let mut disk = self.disk();
        let start = usize::try_from(offset).map_err(|_| Errno::EIO)?;
        if disk.bytes.len() < start + bytes.len() {
            disk.bytes.resize(start + bytes.len(), 0);
        }
        disk.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        disk.written.push(offset);
        Ok(())
    }
    fn resized(&self, size: u64) {
        // The engine refuses lengths that no file has.
        self.disk().bytes.resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
    }
}
