//! What maps of a file must do, as tests that run on native Linux, and on the simulated,
//! local and supervised homes: one text for all. Linux says what is right.
//!
//! | module | what lives there |
//! |---|---|
//! | `bodies` | the tests, over the trait [`Home`] |
//! | `native` | system calls: of Linux itself, or of a program under `devmap run` |
//! | `simulated` | `MockKernel`, with a file of its own or the device `file` |
//! | `local` | `devmap-backend-local`, with the device `file` |
//!
//! What does not live here: what only one home can do.

#![forbid(unsafe_code)]

mod bodies;
mod local;
mod native;
mod simulated;

use std::{fs, path::PathBuf};

use tempfile::TempDir;

pub use bodies::{BODIES, Body};
pub use local::LocalHome;
pub use native::NativeHome;
pub use simulated::SimulatedHome;

/// Whole pages of the file that every test begins with.
pub const PAGES: usize = 4;
/// How many bytes it has in one page more.
pub const TAIL: usize = 100;

/// The content that every test begins with, of pages of this size.
pub fn content(page: usize) -> Vec<u8> {
    (0..PAGES * page + TAIL).map(|at| 1 + (at / page * 31 + at % 199) as u8 % 250).collect()
}

/// Runs every test, each on a home of its own.
pub fn run_all(home: impl Fn() -> Box<dyn Home>) {
    for (name, body) in BODIES {
        eprintln!("{name}");
        body(&*home());
    }
}

/// A file with the content, and the directory that holds it for as long as it is there.
pub(crate) fn fresh_file() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    fs::write(&path, content(rustix::param::page_size())).expect("the file");
    (directory, path)
}

/// What the program would have died of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// `SIGSEGV`.
    Segv,
    /// `SIGBUS`.
    Bus,
}

/// How the file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `O_RDONLY`.
    Read,
    /// `O_RDWR`.
    ReadWrite,
}

/// How a map is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `MAP_SHARED`, `PROT_READ`.
    SharedRead,
    /// `MAP_SHARED`, `PROT_READ | PROT_WRITE`.
    Shared,
    /// `MAP_PRIVATE`, `PROT_READ | PROT_WRITE`.
    Private,
}

/// What `mprotect` permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// `PROT_NONE`.
    Nothing,
    /// `PROT_READ`.
    Read,
    /// `PROT_READ | PROT_WRITE`.
    ReadWrite,
}

/// A number of errno.
pub type Errno = i32;

/// Where a test runs: one file, with [`content`] in the beginning.
pub trait Home {
    /// The size of a page in bytes.
    fn page(&self) -> usize;

    /// Opens the file.
    ///
    /// # Errors
    /// As `open(2)`.
    fn open(&self, mode: Mode) -> Result<Box<dyn Opened>, Errno>;

    /// The file's bytes, by another way than through this home.
    fn stored(&self) -> Vec<u8>;
}

/// The file, open.
pub trait Opened {
    /// Maps `len` bytes from byte `offset` on.
    ///
    /// # Errors
    /// As `mmap(2)`.
    fn map(&self, kind: Kind, offset: u64, len: usize) -> Result<Box<dyn Map>, Errno>;

    /// Sets the length.
    ///
    /// # Errors
    /// As `ftruncate(2)`.
    fn truncate(&self, len: u64) -> Result<(), Errno>;
}

/// A map; unmapped when it is dropped.
pub trait Map {
    /// Loads from byte `at` of the map on.
    ///
    /// # Errors
    /// What the program would have died of.
    fn load(&self, at: usize, into: &mut [u8]) -> Result<(), Gone>;

    /// Stores to byte `at` of the map on.
    ///
    /// # Errors
    /// What the program would have died of.
    fn store(&self, at: usize, from: &[u8]) -> Result<(), Gone>;

    /// `msync(2)` of all, with `MS_SYNC`.
    ///
    /// # Errors
    /// As the call.
    fn sync(&self) -> Result<(), Errno>;

    /// What only a whole address space can do; `None` where there is but the map.
    fn space(&self) -> Option<&dyn Space> {
        None
    }
}

/// What is done to maps of an address space that can be forked.
pub trait Space {
    /// `mprotect(2)` of a page of the map.
    ///
    /// # Errors
    /// As the call.
    fn protect(&self, page: usize, permission: Permission) -> Result<(), Errno>;

    /// `madvise(2)` of all, with `MADV_DONTNEED`.
    ///
    /// # Errors
    /// As the call.
    fn dont_need(&self) -> Result<(), Errno>;

    /// Forks; whether the child, which has this map too, answered that all is well.
    fn fork(&self, child: &mut dyn FnMut(&dyn Map) -> bool) -> bool;
}
