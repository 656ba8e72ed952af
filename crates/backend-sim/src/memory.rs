//! The calls of a process that change its memory, beside `mmap` and `munmap`. What they do
//! is the engine's.

use devmap_driver::{Errno, Protection};
use devmap_mm::{Advice, MapRequest, RemapRequest, SyncFlags};

use crate::{PageFrame, Process};

impl Process {
    /// `mmap(2)` of anonymous memory, as the request says.
    ///
    /// # Errors
    /// As [`devmap_mm::Engine::map`].
    pub fn mmap_anonymous(&self, request: &MapRequest<PageFrame>) -> Result<u64, Errno> {
        self.kernel().engine().map(self.space(), request)
    }

    /// `mprotect(2)`.
    ///
    /// # Errors
    /// As [`devmap_mm::Engine::protect`].
    pub fn mprotect(&self, address: u64, len: u64, protection: Protection) -> Result<(), Errno> {
        self.kernel().engine().protect(self.space(), address, len, protection)
    }

    /// `mremap(2)`.
    ///
    /// # Errors
    /// As [`devmap_mm::Engine::remap`].
    pub fn mremap(&self, request: &RemapRequest) -> Result<u64, Errno> {
        self.kernel().engine().remap(self.space(), request)
    }

    /// `msync(2)`.
    ///
    /// # Errors
    /// As [`devmap_mm::Engine::sync`].
    pub fn msync(&self, address: u64, len: u64, flags: SyncFlags) -> Result<(), Errno> {
        self.kernel().engine().sync(self.space(), address, len, flags)
    }

    /// `madvise(2)`.
    ///
    /// # Errors
    /// As [`devmap_mm::Engine::advise`].
    pub fn madvise(&self, address: u64, len: u64, advice: Advice) -> Result<(), Errno> {
        self.kernel().engine().advise(self.space(), address, len, advice)
    }

    /// `mlock(2)`.
    ///
    /// # Errors
    /// As [`devmap_mm::Engine::lock`].
    pub fn mlock(&self, address: u64, len: u64) -> Result<(), Errno> {
        self.kernel().engine().lock(self.space(), address, len)
    }

    /// `mincore(2)`: for each page whether it is resident.
    ///
    /// # Errors
    /// As [`devmap_mm::Engine::resident`].
    pub fn mincore(&self, address: u64, len: u64) -> Result<Vec<bool>, Errno> {
        self.kernel().engine().resident(self.space(), address, len)
    }
}
