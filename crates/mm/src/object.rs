//! What areas map: objects (inodes and devices) and open files. Not their cached
//! pages, which are in `cache`.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::{ops::Range, sync::atomic::AtomicU32};

use devmap_driver::{AreaFlags, Errno, Fault, Fsync, NewArea, NewPage};

/// The number of an object in its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u32);

/// How an open file was opened (`f_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode {
    /// `FMODE_READ`.
    pub read: bool,
    /// `FMODE_WRITE`.
    pub write: bool,
}

impl FileMode {
    /// `O_RDWR`.
    pub const READ_WRITE: FileMode = FileMode { read: true, write: true };
    /// `O_RDONLY`.
    pub const READ: FileMode = FileMode { read: true, write: false };
}

/// An open file (`struct file`). Areas hold it: what it holds ends with the last close
/// and the last unmap.
pub struct File<F> {
    pub(crate) object: ObjectId,
    pub(crate) mode: FileMode,
    /// `None`: pages begin as zeros, and the cache is their only home (`shmem`).
    pub(crate) content: Option<Box<dyn Content<F>>>,
    /// How many of the object's failed write-backs it has been told of (`f_wb_err`).
    pub(crate) told: AtomicU32,
    /// Counts the open files of the object.
    pub(crate) _count: Arc<()>,
}

impl<F> File<F> {
    /// The object.
    pub fn object(&self) -> ObjectId {
        self.object
    }

    /// How it was opened.
    pub fn mode(&self) -> FileMode {
        self.mode
    }
}

/// What a driver, or a file system, does for a map of an open file.
pub trait Content<F>: Send + Sync {
    /// `->mmap`: refuses the area, or says how it is filled.
    ///
    /// # Errors
    /// `mmap` fails with it.
    fn mmap(&self, area: &NewArea) -> Result<Layout<F>, Errno>;

    /// `vm_ops->fault`: supplies a page.
    ///
    /// # Errors
    /// `ENOMEM`: out of memory. Any other: `SIGBUS`.
    fn fault(&self, fault: &Fault, page: &mut dyn NewPage) -> Result<Supplied<F>, Errno>;

    /// The object's length in bytes now, where that changes by itself; `None`: it is what
    /// the engine knows.
    fn size(&self) -> Option<u64> {
        None
    }

    /// `->fsync`: makes durable what was written back.
    ///
    /// # Errors
    /// `fsync` and `msync` fail with it.
    fn fsync(&self, _what: Fsync) -> Result<(), Errno> {
        Ok(())
    }
}

/// How an area is filled.
pub struct Layout<F> {
    /// What the driver's plan set.
    pub flags: AreaFlags,
    /// Pages of the area, counted from its start, that are mapped at once
    /// (`remap_pfn_range`), with their frames. The rest faults.
    pub remapped: Vec<(Range<u64>, Vec<F>)>,
}

impl<F> Layout<F> {
    /// Every page faults.
    pub fn fault_all() -> Layout<F> {
        Layout { flags: AreaFlags::NONE, remapped: Vec::new() }
    }
}

/// How a fault was answered.
pub enum Supplied<F> {
    /// The bytes are in the new page, which goes into the page cache.
    Filled,
    /// This frame of the driver's.
    Frame(F),
}

/// Where dirty pages of an object go (`->writepages`).
pub trait Store: Send + Sync {
    /// Writes a page back, which begins at byte `offset`. `bytes` is a page, or less at the
    /// end of the object.
    ///
    /// # Errors
    /// The page stays dirty, and the next `msync` or `fsync` of each open file fails with it.
    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// The object has `size` bytes from now on; new ones are zeros.
    fn resized(&self, _size: u64) {}
}

/// What an object is, for its maker to say.
pub struct ObjectSpec {
    /// The last column of the maps text.
    pub name: String,
    /// Major and minor number of the device column.
    pub device: (u32, u32),
    /// The inode column.
    pub inode: u64,
    /// The length in bytes; `None`: the driver judges each fault.
    pub size: Option<u64>,
    /// Where dirty pages go; `None`: they stay in the cache.
    pub store: Option<Box<dyn Store>>,
    /// Pages can be had again from the content, so clean ones may be evicted, and all
    /// go with the last unmap unless there is a store.
    pub refillable: bool,
}

impl ObjectSpec {
    /// Memory of `size` bytes with a name, as of `memfd_create(2)`.
    pub fn memory(name: impl Into<String>, inode: u64, size: u64) -> ObjectSpec {
        ObjectSpec {
            name: name.into(),
            device: (0, 1),
            inode,
            size: Some(size),
            store: None,
            refillable: false,
        }
    }
}

/// Failed write-backs of an object (`errseq_t`): each open file is told once of those since
/// it was told last.
#[derive(Clone, Copy)]
pub(crate) struct Failed {
    /// How many there were.
    pub count: u32,
    /// The last.
    pub errno: Errno,
    /// Some file was told of it. If not, files that are opened later are.
    pub told: bool,
}

impl Failed {
    pub const NONE: Failed = Failed { count: 0, errno: Errno::EIO, told: true };

    /// What a file that is opened now knows of already (`errseq_sample`).
    pub fn sample(self) -> AtomicU32 {
        AtomicU32::new(if self.told { self.count } else { 0 })
    }
}

/// An object (`struct inode` with its `address_space`).
pub(crate) struct Object {
    pub spec: ObjectSpec,
    /// Failed write-backs, if there were any.
    pub failed: Failed,
    /// Cloned into every open file.
    pub opens: Arc<()>,
    /// Cloned into every area.
    pub maps: Arc<()>,
}
