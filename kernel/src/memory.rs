//! Pages that a driver owns: `alloc_pages` or `vmalloc`, counted by handles.
//!
//! What does not live here: mapping them (`area`).

use core::{
    ffi::c_void,
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

use devmap_driver::{Errno, Memory};

use crate::{alloc::KBox, platform::page_size, shim};

/// The pages and who uses them.
struct Pages {
    /// How many [`KernelMemory`] there are.
    handles: AtomicUsize,
    /// How many areas have an extent of it.
    areas: AtomicUsize,
    /// Whether a fault method ever supplied a page of it: such maps are in no area's
    /// plan, so only the pages themselves know.
    by_page: AtomicBool,
    address: NonNull<c_void>,
    pages: u64,
    contiguous: bool,
}

/// A handle to pages.
///
/// # Invariants
/// The pointer is to a `Pages` whose `handles` counts this handle; it and its pages
/// live until that count is 0.
pub struct KernelMemory(NonNull<Pages>);

// SAFETY: Pages is atomics and plain values; the bytes themselves are only copied.
unsafe impl Send for KernelMemory {}
// SAFETY: as above.
unsafe impl Sync for KernelMemory {}

impl KernelMemory {
    /// Zeroed pages for `bytes` bytes.
    pub(crate) fn new(bytes: u64, contiguous: bool) -> Result<KernelMemory, Errno> {
        if bytes == 0 {
            return Err(Errno::EINVAL);
        }
        let pages = page_size().pages_for(bytes);
        // SAFETY: any number may be asked for.
        let address = unsafe { shim::devmap_pages_alloc(pages, contiguous) };
        let address = NonNull::new(address).ok_or(Errno::ENOMEM)?;
        let boxed = KBox::new(Pages {
            handles: AtomicUsize::new(1),
            areas: AtomicUsize::new(0),
            by_page: AtomicBool::new(false),
            address,
            pages,
            contiguous,
        });
        let boxed = boxed.inspect_err(|_| {
            // SAFETY: allocated above, and no handle was made.
            unsafe { shim::devmap_pages_free(address.as_ptr(), pages, contiguous) }
        })?;
        // SAFETY: into_raw is never null.
        // INVARIANT: `handles` is 1, for this one.
        Ok(KernelMemory(unsafe { NonNull::new_unchecked(boxed.into_raw()) }))
    }

    fn inner(&self) -> &Pages {
        // SAFETY: by the invariant it lives as long as this handle.
        unsafe { self.0.as_ref() }
    }

    /// Where its pages begin in the kernel's address space.
    pub(crate) fn address(&self) -> *mut c_void {
        self.inner().address.as_ptr()
    }

    /// Whether its pages lie side by side.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.inner().contiguous
    }

    /// A page of it for a page table, with a reference.
    ///
    /// # Errors
    /// `EIO` when it has no such page.
    pub(crate) fn page(&self, page: u64) -> Result<*mut shim::Page, Errno> {
        if page >= self.pages() {
            return Err(Errno::EIO);
        }
        // SAFETY: the page is one of this memory's.
        Ok(unsafe { shim::devmap_pages_get(self.address(), page, self.is_contiguous()) })
    }

    /// Notes that a fault method supplied a page of it.
    pub(crate) fn supplied(&self) {
        self.inner().by_page.store(true, Ordering::Relaxed);
    }

    /// Notes that an area with an extent of it began.
    pub(crate) fn area_begins(&self) {
        self.inner().areas.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that such an area ended.
    pub(crate) fn area_ends(&self) {
        self.inner().areas.fetch_sub(1, Ordering::Relaxed);
    }

    /// The address of `offset..offset + len`.
    fn inside(&self, offset: u64, len: usize) -> Result<*mut c_void, Errno> {
        let end = offset.checked_add(len as u64).ok_or(Errno::EINVAL)?;
        if end > self.len() {
            return Err(Errno::EINVAL);
        }
        // The pages are len() bytes in one run of addresses, so this stays inside.
        Ok(self.address().wrapping_byte_add(offset as usize))
    }
}

impl Memory for KernelMemory {
    fn pages(&self) -> u64 {
        self.inner().pages
    }

    fn len(&self) -> u64 {
        self.inner().pages * page_size().bytes()
    }

    fn is_mapped(&self) -> bool {
        let inner = self.inner();
        inner.areas.load(Ordering::Relaxed) > 0
            || inner.by_page.load(Ordering::Relaxed)
                // SAFETY: by the invariant these are its pages.
                && unsafe {
                    shim::devmap_pages_mapped(self.address(), inner.pages, inner.contiguous)
                }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        let from = self.inside(offset, into.len())?;
        match into.len() {
            4 if offset.is_multiple_of(4) => {
                // SAFETY: inside() says the 4 bytes are the memory's; the address is
                // aligned since pages are; volatile, since programs write it too.
                let word = unsafe { from.cast::<u32>().read_volatile() };
                into.copy_from_slice(&word.to_ne_bytes());
            }
            8 if offset.is_multiple_of(8) => {
                // SAFETY: as above, for 8 bytes.
                let word = unsafe { from.cast::<u64>().read_volatile() };
                into.copy_from_slice(&word.to_ne_bytes());
            }
            // SAFETY: inside() says the bytes are the memory's; `into` is a slice of
            // its own. C copies, in assembly, so that what programs write meanwhile
            // is no data race of Rust's.
            len => unsafe { shim::devmap_copy(into.as_mut_ptr().cast(), from, len) },
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Errno> {
        let to = self.inside(offset, from.len())?;
        match *from {
            [a, b, c, d] if offset.is_multiple_of(4) => {
                let word = u32::from_ne_bytes([a, b, c, d]);
                // SAFETY: as in read().
                unsafe { to.cast::<u32>().write_volatile(word) };
            }
            [a, b, c, d, e, f, g, h] if offset.is_multiple_of(8) => {
                let word = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                // SAFETY: as in read().
                unsafe { to.cast::<u64>().write_volatile(word) };
            }
            // SAFETY: as in read().
            _ => unsafe { shim::devmap_copy(to, from.as_ptr().cast(), from.len()) },
        }
        Ok(())
    }
}

impl Clone for KernelMemory {
    fn clone(&self) -> KernelMemory {
        self.inner().handles.fetch_add(1, Ordering::Relaxed);
        // INVARIANT: counted above.
        KernelMemory(self.0)
    }
}

impl Drop for KernelMemory {
    fn drop(&mut self) {
        if self.inner().handles.fetch_sub(1, Ordering::Release) > 1 {
            return;
        }
        // The other handles' uses come before the end, as for Arc.
        fence(Ordering::Acquire);
        let inner = self.inner();
        // SAFETY: this was the last handle, and areas hold handles, so no page table
        // has a page that is not counted by its own reference count.
        unsafe { shim::devmap_pages_free(self.address(), inner.pages, inner.contiguous) };
        // SAFETY: new() made it by into_raw; the last handle takes it back.
        drop(unsafe { KBox::from_raw(self.0.as_ptr()) });
    }
}

impl fmt::Debug for KernelMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelMemory({} pages)", self.pages())
    }
}
