//! Method two: supplying one page at first access.

use crate::{Errno, NewArea};

/// What the program did that needed the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load, or an instruction fetch.
    Read,
    /// A store (`FAULT_FLAG_WRITE`).
    Write,
}

/// A page fault in a fault extent (`struct vm_fault`).
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The page of the device that is wanted: `vmf->pgoff`, that is the area's
    /// [`first_page`](NewArea::first_page) plus the page's place in the area.
    pub page: u64,
    /// Load or store, where the home can tell; else [`Access::Read`].
    pub access: Access,
}

impl Fault {
    /// The fault of page `at` (counted from the area's start) of `area`.
    pub fn new(area: &NewArea, at: u64, access: Access) -> Fault {
        Fault { page: area.first_page() + at, access }
    }
}

/// A page that the home owns and a driver may fill: see [`Supply::Filled`].
pub trait NewPage {
    /// The page's bytes, one page long and zeroed. Taken only when asked for, so a
    /// driver that answers [`Supply::Page`] costs no allocation.
    ///
    /// # Errors
    /// `ENOMEM` when the home has no page to give, or is at its stated limit.
    fn bytes(&mut self) -> Result<&mut [u8], Errno>;
}

/// How a driver answers a fault.
///
/// Who owns what: a `Page` stays the driver's (the home holds a handle to the
/// memory for as long as it is mapped, and frees nothing); a `Filled` page is the
/// home's, cached for every later fault of the same page of the device, and freed
/// at the last unmap or under memory pressure.
///
/// Pages of both sorts belong in extents of their own: in the supervised home a `Page`
/// is `SIGBUS` in an extent whose first page is `Filled`.
#[derive(Clone, Debug)]
pub enum Supply<M> {
    /// This page of this memory: shared, so that each side sees every later write of
    /// the other.
    Page {
        /// The memory that holds the page.
        memory: M,
        /// Which page of it.
        page: u64,
    },
    /// The bytes that the driver wrote into the [`NewPage`].
    Filled,
}
