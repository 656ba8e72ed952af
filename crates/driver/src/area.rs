//! The area under construction: what `->mmap` is asked to fill or refuse.
//!
//! It is a type of its own, apart from a live area: nothing is mapped yet, so a
//! driver can only look.

use crate::PageSize;

/// `PROT_READ`, `PROT_WRITE` and `PROT_EXEC` of `mmap(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Pages may be read.
    pub read: bool,
    /// Pages may be written.
    pub write: bool,
    /// Pages may be executed.
    pub execute: bool,
}

impl Protection {
    /// `PROT_READ | PROT_WRITE`.
    pub const READ_WRITE: Protection = Protection { read: true, write: true, execute: false };
    /// `PROT_READ`.
    pub const READ: Protection = Protection { read: true, write: false, execute: false };
}

/// `MAP_SHARED` or `MAP_PRIVATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Writes reach the device's memory and every other mapper (`VM_SHARED`).
    Shared,
    /// Copy on write; writes never reach the device.
    Private,
}

/// The area that a program asked for: a `vm_area_struct` that nothing is mapped
/// in yet.
///
/// It has no start address on purpose: a [`Plan`](crate::Plan) is a function of
/// the offset and the length, so it holds wherever the area lands, and a home may
/// ask for it before an address is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewArea {
    page_size: PageSize,
    first_page: u64,
    pages: u64,
    protection: Protection,
    sharing: Sharing,
}

impl NewArea {
    /// An area of `pages` pages that begins at page `first_page` of the device
    /// (`vm_pgoff`). `None` when `pages` is 0 or the end, in bytes, does not fit in
    /// 64 bits: homes refuse those calls themselves, as Linux does.
    pub fn new(
        page_size: PageSize,
        first_page: u64,
        pages: u64,
        protection: Protection,
        sharing: Sharing,
    ) -> Option<NewArea> {
        page_size.offset_of(first_page.checked_add(pages)?)?;
        (pages > 0).then_some(NewArea { page_size, first_page, pages, protection, sharing })
    }

    /// The machine's page size.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The page of the device at which the area begins (`vma->vm_pgoff`).
    pub fn first_page(&self) -> u64 {
        self.first_page
    }

    /// The length in pages: at least 1.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The byte of the device at which the area begins.
    pub fn offset(&self) -> u64 {
        self.first_page * self.page_size.bytes()
    }

    /// The length in bytes: a multiple of the page size (`vm_end - vm_start`).
    pub fn len(&self) -> u64 {
        self.pages * self.page_size.bytes()
    }

    /// Never true: an empty area is refused before a driver sees it.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What the program asked to do with the pages.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Shared or private.
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }
}
