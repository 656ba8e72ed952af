//! A regular file in memory that fails where a test asks it to, and remembers what was
//! asked of it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use devmap_backend_local::{LocalMemory, LocalPlatform};
use devmap_driver::{
    Device, Errno, Fault, Fsync, Kind, Metadata, NewPage, Open, Platform, Store, Supply,
};

pub const PAGE: usize = 4096;

/// What a disk does with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// So many faults fail from now on.
    Faults(u64),
    /// So many write-backs fail from now on.
    WriteBacks(u64),
    /// Faults panic.
    Panics,
}

#[derive(Default)]
pub struct Content {
    pub bytes: Vec<u8>,
    /// Where write-backs began, in order.
    pub written: Vec<u64>,
    pub synced: u64,
}

type Meanwhile = Box<dyn FnOnce() + Send>;

/// Clones are the same.
#[derive(Clone)]
pub struct Disk {
    content: Arc<Mutex<Content>>,
    trouble: Arc<Mutex<Trouble>>,
    /// What others do while the length changes, once.
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
    /// Faults so far.
    pub faults: Arc<AtomicU64>,
    /// How often it was asked for its size.
    pub asked: Arc<AtomicU64>,
    /// What it says of its faults past the end, and keeps; else those are zeros.
    checks_end: bool,
}

impl Disk {
    /// Of so many bytes: each page begins with its number, then a pattern.
    pub fn new(len: usize) -> Disk {
        let bytes = (0..len).map(expected).collect();
        Disk::of(bytes)
    }

    pub fn of(bytes: Vec<u8>) -> Disk {
        let content = Content { bytes, ..Content::default() };
        Disk {
            content: Arc::new(Mutex::new(content)),
            trouble: Arc::new(Mutex::new(Trouble::None)),
            meanwhile: Arc::default(),
            faults: Arc::default(),
            asked: Arc::default(),
            checks_end: false,
        }
    }

    pub fn checks_end(self) -> Disk {
        Disk { checks_end: true, ..self }
    }

    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    pub fn on_truncate(&self, meanwhile: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(meanwhile));
    }

    pub fn trouble(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = trouble;
    }
}

/// What byte `at` of a new disk holds.
pub fn expected(at: usize) -> u8 {
    let page = at / PAGE;
    (page as u8).wrapping_mul(31).wrapping_add((at % 251) as u8).wrapping_add((page >> 8) as u8)
}

impl Device<LocalPlatform> for Disk {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn metadata(&self) -> Metadata {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let size = self.content().bytes.len() as u64;
        Metadata { kind: Kind::Regular { size }, ..Metadata::CHARACTER }
    }

    fn fault(
        &self,
        _file: &(),
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<LocalMemory>, Errno> {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let trouble = *self.trouble.lock().unwrap();
        match trouble {
            Trouble::Faults(left) if left > 0 => {
                self.trouble(Trouble::Faults(left - 1));
                return Err(Errno::EIO);
            }
            Trouble::Panics => panic!("a driver that panics, as the test wants it to"),
            _ => {}
        }
        // Others shall meet a page that is being filled.
        thread::yield_now();
        let content = self.content();
        if self.checks_end && fault.page as usize * PAGE >= content.bytes.len() {
            return Err(Errno::EIO);
        }
        let start = (fault.page as usize * PAGE).min(content.bytes.len());
        let end = (start + PAGE).min(content.bytes.len());
        page.bytes()?[..end - start].copy_from_slice(&content.bytes[start..end]);
        Ok(Supply::Filled)
    }

    fn fault_checks_end(&self) -> bool {
        self.checks_end
    }

    fn store(&self) -> Store {
        Store::Device
    }

    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let trouble = *self.trouble.lock().unwrap();
        if let Trouble::WriteBacks(left) = trouble
            && left > 0
        {
            self.trouble(Trouble::WriteBacks(left - 1));
            return Err(Errno::ENOSPC);
        }
        thread::yield_now();
        let mut content = self.content();
        content.written.push(offset);
        let start = offset as usize;
        content.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn fsync(&self, _file: &(), _what: Fsync) -> Result<(), Errno> {
        self.content().synced += 1;
        Ok(())
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        if let Some(meanwhile) = self.meanwhile.lock().unwrap().take() {
            meanwhile();
        }
        self.content().bytes.resize(size as usize, 0);
        Ok(())
    }
}

/// A device whose faults are answered with pages of its memory, every second one.
pub struct Paged {
    memory: LocalMemory,
}

impl Paged {
    pub fn new(pages: u64) -> Paged {
        let memory = LocalPlatform.contiguous(pages * PAGE as u64).unwrap();
        for page in 0..pages {
            devmap_driver::Memory::store_u32(&memory, page * PAGE as u64, page as u32).unwrap();
        }
        Paged { memory }
    }

    pub fn memory(&self) -> LocalMemory {
        self.memory.clone()
    }
}

impl Device<LocalPlatform> for Paged {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn mmap(
        &self,
        _file: &(),
        area: &devmap_driver::NewArea,
    ) -> Result<devmap_driver::Plan<LocalMemory>, Errno> {
        Ok(devmap_driver::Plan::fault_all(area))
    }

    fn fault(
        &self,
        _file: &(),
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<LocalMemory>, Errno> {
        if fault.page.is_multiple_of(2) {
            return Ok(Supply::Page { memory: self.memory.clone(), page: fault.page });
        }
        page.bytes()?.fill(0x55);
        Ok(Supply::Filled)
    }
}
