//! The machine below the engine: page frames, and page tables. What the engine needs
//! of it, and nothing of how it is done.

use devmap_driver::{Access, Errno, PageSize};

use crate::PageId;

/// A page frame: a handle, clones of which are the same bytes. Freed with the last.
pub trait Frame: Clone {
    /// Copies bytes out. `offset + into.len()` is at most a page.
    fn read(&self, offset: usize, into: &mut [u8]);

    /// Copies bytes in. `offset + from.len()` is at most a page.
    fn write(&self, offset: usize, from: &[u8]);
}

/// A page table entry that is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which page stands here.
    pub page: PageId,
    /// Stores are permitted.
    pub writable: bool,
    /// The program may use it at all; without, the page is kept for `PROT_NONE`.
    pub user: bool,
    /// It was used since this bit was cleared.
    pub accessed: bool,
    /// It was written since this bit was cleared.
    pub dirty: bool,
}

/// The page table of one address space. Pages are counted from address 0.
pub trait Table {
    /// Writes an entry, over any that is there.
    ///
    /// # Errors
    /// `ENOMEM` when a table for it could not be made; nothing changed then.
    fn set(&mut self, page: u64, entry: Entry) -> Result<(), Errno>;

    /// The entry of a page.
    fn get(&self, page: u64) -> Option<Entry>;

    /// Takes an entry out.
    fn clear(&mut self, page: u64) -> Option<Entry>;

    /// The first present entry at or after `page`, and its page.
    fn next(&self, page: u64) -> Option<(u64, Entry)>;

    /// What the processor does at each access: finds the entry, and marks it accessed,
    /// and dirty for a store. `None` is a page fault.
    fn walk(&mut self, page: u64, access: Access) -> Option<PageId>;
}

/// The machine.
pub trait Mmu {
    /// Its page frames.
    type Frame: Frame;
    /// Its page tables.
    type Table: Table;

    /// The size of its pages.
    fn page_size(&self) -> PageSize;

    /// The end of the part of the address space that programs have (`TASK_SIZE`).
    fn task_size(&self) -> u64;

    /// A frame of zeros (`alloc_page`).
    ///
    /// # Errors
    /// `ENOMEM`.
    fn allocate(&mut self) -> Result<Self::Frame, Errno>;

    /// An empty table (`mm_alloc`).
    ///
    /// # Errors
    /// `ENOMEM`.
    fn table(&mut self) -> Result<Self::Table, Errno>;
}
