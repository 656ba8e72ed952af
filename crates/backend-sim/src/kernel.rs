//! The kernel of a test: devices under paths, and processes that open and map them. Not
//! the calls of a process, which are in `process`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use devmap_driver::{Device, Errno, Kind, PageSize, Store};
use devmap_mm::{Engine, File, FileMode, Limits, ObjectSpec};

use crate::{
    Failures, Machine, MemoryFile, PageFrame, Process, SimPlatform,
    device::{DeviceStore, Driver, Typed},
};

/// A kernel for tests. Clones are the same. It needs no privileges and no clock, and does
/// the same every time.
#[derive(Clone)]
pub struct MockKernel(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub platform: SimPlatform,
    pub failures: Failures,
    /// A driver's `fault` runs with it held, as the kernel's holds `mmap_lock`.
    engine: Mutex<Engine<Machine>>,
    nodes: Mutex<BTreeMap<String, Node>>,
}

/// What stands under a path.
#[derive(Clone)]
pub(crate) struct Node {
    /// An object lives while it is open: this keeps it as long as the kernel.
    pub file: Arc<File<PageFrame>>,
    pub what: What,
}

#[derive(Clone)]
pub(crate) enum What {
    Device(Arc<dyn Driver>),
    File(MemoryFile),
}

impl Default for MockKernel {
    fn default() -> Self {
        MockKernel::new()
    }
}

impl MockKernel {
    /// A kernel with pages of 4096 bytes, and Linux's limits.
    pub fn new() -> MockKernel {
        let page_size = PageSize::new(4096).expect("a power of two");
        MockKernel::with(page_size, Limits::default())
    }

    /// A kernel with pages of this size, and these limits.
    pub fn with(page_size: PageSize, limits: Limits) -> MockKernel {
        let failures = Failures::default();
        let engine = Engine::new(Machine::new(page_size, failures.clone()), limits);
        MockKernel(Arc::new(Shared {
            platform: SimPlatform::new(page_size, failures.clone()),
            failures,
            engine: Mutex::new(engine),
            nodes: Mutex::default(),
        }))
    }

    /// What drivers are made with.
    pub fn platform(&self) -> &SimPlatform {
        &self.0.platform
    }

    /// What can be made to fail.
    pub fn failures(&self) -> &Failures {
        &self.0.failures
    }

    /// The memory engine, to look at.
    pub fn with_engine<R>(&self, look: impl FnOnce(&mut Engine<Machine>) -> R) -> R {
        look(&mut self.engine())
    }

    /// A driver that panics in `mmap` or `fault` is caught before the engine. What else may
    /// panic with this lock held is a test's look at the engine, and the test fails then.
    pub(crate) fn engine(&self) -> MutexGuard<'_, Engine<Machine>> {
        self.0.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a device under a path.
    pub fn add<D: Device<SimPlatform>>(&self, path: &str, device: D) {
        let size = match device.metadata().kind {
            Kind::Regular { size } => Some(size),
            Kind::Character(_) => None,
        };
        let driver: Arc<dyn Driver> = Arc::new(Typed::new(device));
        let store = match driver.store() {
            Store::Home => None,
            Store::Device => {
                let (driver, failures) = (driver.clone(), self.0.failures.clone());
                Some(Box::new(DeviceStore { driver, failures }) as Box<dyn devmap_mm::Store>)
            }
        };
        let (device, inode) = (What::Device(driver), self.next_inode());
        let spec =
            ObjectSpec { name: path.into(), device: (0, 5), inode, size, store, refillable: true };
        self.put(path, spec, device);
    }

    /// Puts a file of these bytes under a path.
    pub fn add_file(&self, path: &str, bytes: Vec<u8>) -> MemoryFile {
        let file = MemoryFile::new(bytes, &self.0.failures);
        self.put(path, file.object(path, self.next_inode()), What::File(file.clone()));
        file
    }

    fn next_inode(&self) -> u64 {
        self.nodes().len() as u64 + 1
    }

    fn put(&self, path: &str, spec: ObjectSpec, what: What) {
        let file = self.engine().create(spec, FileMode::READ_WRITE, None);
        self.nodes().insert(path.into(), Node { file, what });
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node(&self, path: &str) -> Result<Node, Errno> {
        self.nodes().get(path).cloned().ok_or(Errno::ENOENT)
    }

    /// A new process without memory or files.
    ///
    /// # Errors
    /// `ENOMEM`, by an injected failure.
    pub fn process(&self) -> Result<Process, Errno> {
        let space = self.engine().new_space()?;
        Ok(Process::new(self.clone(), space))
    }
}
