//! Pages: `struct page` of the kernel. Whose a frame is, and where it is mapped.

use alloc::vec::Vec;

use crate::{ObjectId, SpaceId};

/// The number of a page: what a page table entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// Whose page it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The one page of zeros that loads of untouched anonymous memory see. Its
    /// mappers are not listed.
    Zero,
    /// Private to the areas that map it.
    Anonymous,
    /// In the page cache.
    Cached(ObjectId, u64),
    /// A driver's own memory.
    Driver,
}

pub(crate) struct Page<F> {
    pub frame: F,
    pub kind: Kind,
    /// The entries that name it (the reverse map): the address space, and the page
    /// there.
    pub mappers: Vec<(SpaceId, u64)>,
    /// Written since it was last written back, apart from what the entries' dirty
    /// bits say.
    pub dirty: bool,
    /// As `dirty`, for the accessed bit.
    pub accessed: bool,
}
