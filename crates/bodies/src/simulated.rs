//! The file on the simulated home: as a file of the test's kernel, or as the device `file`.

use std::{path::PathBuf, sync::Arc};

use devmap_backend_sim::{Descriptor, MemoryFile, MockKernel, Process};
use devmap_devices_host::file::{File, Options};
use devmap_driver::{OpenFlags, Protection, Sharing};
use devmap_mm::{Advice, Fatal, MapRequest, SyncFlags};
use tempfile::TempDir;

use crate::{Errno, Gone, Home, Kind, Map, Mode, Opened, Permission, Space, content};

const PATH: &str = "/data/file";

/// A kernel of its own.
pub struct SimulatedHome {
    kernel: MockKernel,
    process: Arc<Process>,
    stored: Stored,
}

/// Where the content is seen by another way.
enum Stored {
    Memory(MemoryFile),
    File { path: PathBuf, _directory: TempDir },
}

impl SimulatedHome {
    fn with(kernel: MockKernel, stored: Stored) -> SimulatedHome {
        let process = Arc::new(kernel.process().expect("memory"));
        SimulatedHome { kernel, process, stored }
    }

    /// With a file in memory.
    pub fn in_memory() -> SimulatedHome {
        let kernel = MockKernel::new();
        let file = kernel.add_file(PATH, content(4096));
        SimulatedHome::with(kernel, Stored::Memory(file))
    }

    /// With the device `file` for a plain one.
    pub fn of_file() -> SimulatedHome {
        let kernel = MockKernel::new();
        let (_directory, path) = crate::fresh_file();
        let device = File::new(kernel.platform(), &Options::read_write(&path)).expect("the file");
        kernel.add(PATH, device);
        SimulatedHome::with(kernel, Stored::File { path, _directory })
    }
}

impl Home for SimulatedHome {
    fn page(&self) -> usize {
        self.kernel.with_engine(|engine| engine.page_size().bytes() as usize)
    }

    fn open(&self, mode: Mode) -> Result<Box<dyn Opened>, Errno> {
        let write = mode == Mode::ReadWrite;
        let flags = OpenFlags { read: true, write, nonblocking: false, append: false };
        let descriptor = self.process.open_with(PATH, flags).map_err(|errno| errno.raw())?;
        Ok(Box::new(SimulatedFile { process: self.process.clone(), descriptor }))
    }

    fn stored(&self) -> Vec<u8> {
        match &self.stored {
            Stored::Memory(file) => file.bytes(),
            Stored::File { path, .. } => std::fs::read(path).expect("the content can be read"),
        }
    }
}

struct SimulatedFile {
    process: Arc<Process>,
    descriptor: Descriptor,
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        self.process.close(self.descriptor).expect("it is open");
    }
}

impl Opened for SimulatedFile {
    fn map(&self, kind: Kind, offset: u64, len: usize) -> Result<Box<dyn Map>, Errno> {
        let (protection, sharing) = match kind {
            Kind::SharedRead => (Protection::READ, Sharing::Shared),
            Kind::Shared => (Protection::READ_WRITE, Sharing::Shared),
            Kind::Private => (Protection::READ_WRITE, Sharing::Private),
        };
        let request = MapRequest::new(len as u64).protection(protection).sharing(sharing);
        let at = self.process.mmap_with(self.descriptor, offset, request);
        let at = at.map_err(|errno| errno.raw())?;
        Ok(Box::new(SimulatedMap { process: self.process.clone(), at, len: len as u64 }))
    }

    fn truncate(&self, len: u64) -> Result<(), Errno> {
        self.process.ftruncate(self.descriptor, len).map_err(|errno| errno.raw())
    }
}

struct SimulatedMap {
    process: Arc<Process>,
    at: u64,
    len: u64,
}

impl Drop for SimulatedMap {
    fn drop(&mut self) {
        self.process.munmap(self.at, self.len).expect("it is mapped");
    }
}

fn gone(fatal: Fatal) -> Gone {
    match fatal {
        Fatal::NotMapped | Fatal::NotPermitted => Gone::Segv,
        Fatal::Bus => Gone::Bus,
        Fatal::OutOfMemory => panic!("there is memory enough"),
    }
}

impl Map for SimulatedMap {
    fn load(&self, at: usize, into: &mut [u8]) -> Result<(), Gone> {
        self.process.load(self.at + at as u64, into).map_err(gone)
    }

    fn store(&self, at: usize, from: &[u8]) -> Result<(), Gone> {
        self.process.store(self.at + at as u64, from).map_err(gone)
    }

    fn sync(&self) -> Result<(), Errno> {
        let now = SyncFlags { now: true, ..SyncFlags::default() };
        self.process.msync(self.at, self.len, now).map_err(|errno| errno.raw())
    }

    fn space(&self) -> Option<&dyn Space> {
        Some(self)
    }
}

impl Space for SimulatedMap {
    fn protect(&self, page: usize, permission: Permission) -> Result<(), Errno> {
        let protection = match permission {
            Permission::Nothing => Protection { read: false, write: false, execute: false },
            Permission::Read => Protection::READ,
            Permission::ReadWrite => Protection::READ_WRITE,
        };
        let at = self.at + page as u64 * 4096;
        self.process.mprotect(at, 4096, protection).map_err(|errno| errno.raw())
    }

    fn dont_need(&self) -> Result<(), Errno> {
        let done = self.process.madvise(self.at, self.len, Advice::DontNeed);
        done.map_err(|errno| errno.raw())
    }

    fn fork(&self, child: &mut dyn FnMut(&dyn Map) -> bool) -> bool {
        let process = Arc::new(self.process.fork().expect("memory"));
        child(&SimulatedMap { process, at: self.at, len: self.len })
    }
}
