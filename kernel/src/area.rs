//! Mapping: carrying out a driver's plan, and answering faults.
//!
//! One contiguous extent that is the whole of a shared area is mapped by
//! `remap_pfn_range` (`VM_PFNMAP`); everything else is pages with reference counts
//! under `VM_MIXEDMAP`. The two never meet in one area: the kernel would BUG. Private
//! areas are not for `remap_pfn_range`: it would change their offset in
//! `/proc/PID/maps`, and once the program has written the first page, x86 fails its
//! `fork` with `ENOMEM` (`get_pat_info`).
//!
//! What does not live here: the page tables (shim.c).

use core::{
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicUsize, Ordering, fence},
};

use devmap_driver::{
    Access, AreaFlags, Device, Errno, Extent, Fault, Memory, NewArea, NewPage, Plan, Protection,
    Sharing, Source, Supply,
};

use crate::{
    alloc::KBox,
    device::check,
    log::Line,
    memory::KernelMemory,
    platform::{Kernel, page_size},
    shim,
};

/// What all areas of one `mmap` call share: those that `fork` and splitting make of
/// the first. `vma->vm_private_data`.
pub struct Mapping {
    /// How many areas there are.
    areas: AtomicUsize,
    area: NewArea,
    extents: Extents,
}

/// A plan's extents. Nearly all plans have one, and are not worth the bytes of eight.
enum Extents {
    One(Extent<KernelMemory>),
    Many(KBox<Plan<KernelMemory>>),
}

impl Extents {
    fn of(plan: &Plan<KernelMemory>) -> Result<Extents, Errno> {
        let mut extents = plan.extents();
        match (extents.next(), extents.next()) {
            (Some(one), None) => Ok(Extents::One(one.clone())),
            _ => Ok(Extents::Many(KBox::new(plan.clone())?)),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Extent<KernelMemory>> {
        let (one, many) = match self {
            Extents::One(extent) => (Some(extent), None),
            Extents::Many(plan) => (None, Some(plan.extents())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// The memory and its first page, if one remap extent is all.
    fn whole(&self) -> Option<(&KernelMemory, u64)> {
        match self {
            Extents::One(Extent { source: Source::Remap { memory, first_page }, .. }) => {
                Some((memory, *first_page))
            }
            _ => None,
        }
    }
}

impl Mapping {
    fn memories(&self) -> impl Iterator<Item = &KernelMemory> {
        self.extents.iter().filter_map(|extent| match &extent.source {
            Source::Remap { memory, .. } => Some(memory),
            Source::Fault => None,
        })
    }
}

/// One more area: `vm_ops->open`.
///
/// # Safety
/// `mapping` is the `vm_private_data` of a live area.
#[unsafe(no_mangle)]
unsafe extern "C" fn devmap_mapping_open(mapping: *mut c_void) {
    // SAFETY: a live area keeps its mapping.
    let mapping = unsafe { &*mapping.cast::<Mapping>() };
    mapping.areas.fetch_add(1, Ordering::Relaxed);
    mapping.memories().for_each(KernelMemory::area_begins);
}

/// One area fewer: `vm_ops->close`. Its pages are out of the page table.
///
/// # Safety
/// `mapping` is the `vm_private_data` of an area that ends, or what `mmap` answered.
#[unsafe(no_mangle)]
unsafe extern "C" fn devmap_mapping_close(mapping: *mut c_void) {
    let pointer = mapping.cast::<Mapping>();
    // SAFETY: the area that ends still counts.
    let mapping = unsafe { &*pointer };
    mapping.memories().for_each(KernelMemory::area_ends);
    if mapping.areas.fetch_sub(1, Ordering::Release) > 1 {
        return;
    }
    fence(Ordering::Acquire);
    // SAFETY: map() made it by into_raw; this was the last area.
    drop(unsafe { KBox::from_raw(pointer) });
}

/// The area that the caller asked for.
///
/// # Errors
/// `EINVAL` for one whose end does not fit in 64 bits.
pub fn new_area(first_page: u64, pages: u64, bits: u32) -> Result<NewArea, Errno> {
    let protection = Protection {
        read: bits & shim::area::READ != 0,
        write: bits & shim::area::WRITE != 0,
        execute: bits & shim::area::EXEC != 0,
    };
    let sharing = if bits & shim::area::SHARED != 0 { Sharing::Shared } else { Sharing::Private };
    NewArea::new(page_size(), first_page, pages, protection, sharing).ok_or(Errno::EINVAL)
}

/// Carries out `plan` in `vma`. Answers the mapping, with its first area counted,
/// and whether the area needs the fault method.
///
/// # Errors
/// `EIO` for a plan that does not hold; `ENOMEM`.
///
/// # Safety
/// `vma` is the area under construction that `area` describes, of the open file
/// `open`.
pub unsafe fn map(
    open: *mut shim::OpenFile,
    vma: *mut shim::VmArea,
    area: NewArea,
    plan: &Plan<KernelMemory>,
) -> Result<(*mut Mapping, bool), Errno> {
    if let Err(error) = plan.validate(&area, KernelMemory::pages) {
        let line = Line::format(format_args!("{error}"));
        let text = line.text();
        // SAFETY: the caller's promise for `open`; the text is a slice.
        unsafe { shim::devmap_refused(open, text.as_ptr(), text.len()) };
        return Err(Errno::EIO);
    }
    let flags = [
        (AreaFlags::IO, shim::area_flag::IO),
        (AreaFlags::DONTEXPAND, shim::area_flag::DONTEXPAND),
        (AreaFlags::DONTDUMP, shim::area_flag::DONTDUMP),
    ];
    let flags = flags.iter().filter(|(flag, _)| plan.area_flags().contains(*flag));
    let flags = flags.fold(0, |bits, (_, bit)| bits | bit);

    let mapping =
        KBox::new(Mapping { areas: AtomicUsize::new(1), area, extents: Extents::of(plan)? })?;
    // SAFETY: the caller's promise for `vma`.
    unsafe { shim::devmap_area_flags(vma, flags) };
    let by_page = match mapping.extents.whole() {
        Some((memory, first_page))
            if memory.is_contiguous() && mapping.area.sharing() == Sharing::Shared =>
        {
            let offset = first_page * page_size().bytes();
            let address = memory.address().wrapping_byte_add(offset as usize);
            // SAFETY: validate() says that this extent is the whole area and that so
            // many pages of the memory follow. `mapping` holds the memory: until the
            // area is gone, or to the end of this function if this fails, and then
            // the pages are out of the page table again.
            check(unsafe { shim::devmap_area_remap(vma, address) })?;
            false
        }
        _ => {
            for extent in mapping.extents.iter() {
                // SAFETY: validate() says that the pages are the area's and the
                // memory's. Each page table entry counts in its page.
                check(unsafe {
                    match &extent.source {
                        Source::Remap { memory, first_page } => shim::devmap_area_insert(
                            vma,
                            extent.at,
                            memory.address(),
                            *first_page,
                            extent.pages,
                            memory.is_contiguous(),
                        ),
                        // Nothing now; but it makes the area what it must be.
                        Source::Fault => {
                            shim::devmap_area_insert(vma, extent.at, ptr::null_mut(), 0, 0, false)
                        }
                    }
                })?;
            }
            true
        }
    };
    mapping.memories().for_each(KernelMemory::area_begins);
    Ok((mapping.into_raw(), by_page))
}

/// Answers a fault at page `wanted` of the device (`vmf->pgoff`) with a page that
/// carries a reference. Also for a page of a remap extent: `MADV_DONTNEED` takes
/// those out of the page table.
///
/// # Errors
/// The driver's; `EIO` past the area's first length (`mremap` made it longer) or for
/// a page that a memory does not have. The program gets `SIGBUS` for each.
///
/// # Safety
/// `mapping` is the `vm_private_data` of a live area of the open file `open`, whose
/// state is `file`.
pub unsafe fn fault<D: Device<Kernel>>(
    device: &D,
    file: &D::File,
    open: *mut shim::OpenFile,
    mapping: *mut Mapping,
    wanted: u64,
    access: Access,
) -> Result<*mut shim::Page, Errno> {
    // SAFETY: a live area keeps its mapping.
    let mapping = unsafe { &*mapping };
    let at = wanted.checked_sub(mapping.area.first_page()).ok_or(Errno::EIO)?;
    let mut extents = mapping.extents.iter();
    let extent = extents.find(|e| e.at <= at && at - e.at < e.pages).ok_or(Errno::EIO)?;
    if let Source::Remap { memory, first_page } = &extent.source {
        return memory.page(first_page + (at - extent.at));
    }
    // SAFETY: the caller's promise for `open`.
    let cached = unsafe { shim::devmap_filled_get(open, wanted) };
    if !cached.is_null() {
        return Ok(cached);
    }
    let mut new_page = KernelPage { page: ptr::null_mut(), address: ptr::null_mut() };
    match device.fault(file, &Fault::new(&mapping.area, at, access), &mut new_page)? {
        Supply::Page { memory, page } => {
            let page = memory.page(page)?;
            memory.supplied();
            Ok(page)
        }
        Supply::Filled => {
            // A driver that filled nothing gets a page of zeros.
            new_page.bytes()?;
            let mut page = core::mem::replace(&mut new_page.page, ptr::null_mut());
            // SAFETY: the caller's promise for `open`; the cache takes the page.
            check(unsafe { shim::devmap_filled_add(open, wanted, &raw mut page) })?;
            Ok(page)
        }
    }
}

/// A page for a driver to fill.
///
/// # Invariants
/// Both are null, or `page` is a page that only this value knows and `address` is
/// where its bytes are.
struct KernelPage {
    page: *mut shim::Page,
    address: *mut c_void,
}

impl NewPage for KernelPage {
    fn bytes(&mut self) -> Result<&mut [u8], Errno> {
        if self.address.is_null() {
            // SAFETY: asked for one page, which it writes to `page`.
            // INVARIANT: null, or a new page and its bytes.
            self.address = unsafe { shim::devmap_filled_alloc(&raw mut self.page) };
        }
        if self.address.is_null() {
            return Err(Errno::ENOMEM);
        }
        let len = page_size().bytes() as usize;
        // SAFETY: by the invariant these bytes are the page's, zeroed when it was
        // made, and nobody else has them while it is not in the cache.
        Ok(unsafe { core::slice::from_raw_parts_mut(self.address.cast(), len) })
    }
}

impl Drop for KernelPage {
    fn drop(&mut self) {
        if !self.page.is_null() {
            // SAFETY: by the invariant it is ours.
            unsafe { shim::devmap_filled_free(self.page) };
        }
    }
}
