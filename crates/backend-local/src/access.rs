//! How a [`Mapping`] is accessed.
//!
//! | access | a page that is not there | where the device fails |
//! |---|---|---|
//! | checked: [`load`](Mapping::load), [`store`](Mapping::store), [`read_at`](Mapping::read_at), [`write_at`](Mapping::write_at) | supplied by this thread | an error |
//! | plain: [`load_plain`](Mapping::load_plain), [`store_plain`](Mapping::store_plain), [`atomic_u32`](Mapping::atomic_u32) | supplied by a handler thread | what [`OnError`](crate::OnError) says |
//! | [`slice`](Mapping::slice) | supplied before it is handed out | an error |
//!
//! A driver's `fault` may access other maps of its home. Checked accesses are to be preferred: a
//! plain one waits for another thread, and where memory is limited to what is just being filled,
//! for ever; a checked one is an error then.
//!
//! Others may write the same memory at any time, so only a slice is ever a reference to
//! bytes, and only of what nobody can write while it is held.

use std::{
    ops::Range,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use devmap_driver::{Access, Errno};
use devmap_sys::span::{Word, mark};

pub use devmap_sys::span::Slice;

use crate::{
    Error, Mapping,
    area::Writes,
    block::{PAGES, Pages},
    core::count,
};

/// How often an access is tried whose page is dropped again before it is made.
const TRIES: usize = 10_000;
/// How often a slice is.
const SLICE_TRIES: usize = 20;

impl Mapping {
    /// One load, checked.
    ///
    /// # Errors
    /// Outside of the mapping, not at a multiple of the word's size, and those of the page.
    #[inline(always)]
    pub fn load<T: Word>(&self, at: usize) -> Result<T, Error> {
        match self.access.load(at) {
            Some(value) => Ok(value),
            None => self.load_slowly(at),
        }
    }

    /// One store, checked.
    ///
    /// # Errors
    /// As of [`Mapping::load`], and of a mapping for reading only.
    #[inline(always)]
    pub fn store<T: Word>(&self, at: usize, value: T) -> Result<(), Error> {
        match self.access.store(at, value) {
            Some(()) => Ok(()),
            None => self.store_slowly(at, value),
        }
    }

    #[cold]
    fn load_slowly<T: Word>(&self, at: usize) -> Result<T, Error> {
        self.check_word(at, size_of::<T>())?;
        self.with_page(at, Access::Read, || self.access.load(at))
    }

    #[cold]
    fn store_slowly<T: Word>(&self, at: usize, value: T) -> Result<(), Error> {
        self.check_word(at, size_of::<T>())?;
        self.with_page(at, Access::Write, || self.access.store(at, value))
    }

    /// Copies out. Not atomic: a byte that another writes meanwhile arrives old or new.
    ///
    /// # Errors
    /// Outside of the mapping, and those of the pages; what was copied before is there.
    pub fn read_at(&self, at: usize, into: &mut [u8]) -> Result<(), Error> {
        self.check_range(at, into.len())?;
        let mut done = 0;
        while done < into.len() {
            let from = at + done;
            done += match self.access.read(from, &mut into[done..]) {
                0 => self.with_page(from, Access::Read, || {
                    let count = self.access.read(from, &mut into[done..]);
                    (count > 0).then_some(count)
                })?,
                count => count,
            };
        }
        Ok(())
    }

    /// Copies in, as [`Mapping::read_at`] copies out.
    ///
    /// # Errors
    /// As [`Mapping::read_at`], and of a mapping for reading only.
    pub fn write_at(&self, at: usize, from: &[u8]) -> Result<(), Error> {
        self.check_range(at, from.len())?;
        let mut done = 0;
        while done < from.len() {
            let to = at + done;
            done += match self.access.write(to, &from[done..]) {
                0 => self.with_page(to, Access::Write, || {
                    let count = self.access.write(to, &from[done..]);
                    (count > 0).then_some(count)
                })?,
                count => count,
            };
        }
        Ok(())
    }

    /// One plain load.
    ///
    /// # Panics
    /// Outside of the mapping, or not at a multiple of the word's size.
    #[inline(always)]
    pub fn load_plain<T: Word>(&self, at: usize) -> T {
        self.access.load_plain(at).expect("a word inside of the mapping")
    }

    /// One plain store.
    ///
    /// # Panics
    /// As [`Mapping::load_plain`], and of a mapping for reading only.
    #[inline(always)]
    pub fn store_plain<T: Word>(&self, at: usize, value: T) {
        self.access.store_plain(at, value).expect("a word inside of a writable mapping");
    }

    /// A word that is shared with whoever else maps it.
    ///
    /// # Errors
    /// As of [`Mapping::store`]; the page itself is supplied by each plain access.
    pub fn atomic_u32(&self, at: usize) -> Result<&AtomicU32, Error> {
        self.check_word(at, size_of::<u32>())?;
        self.access.atomic_u32(at).ok_or(Error::ReadOnly)
    }

    /// As [`Mapping::atomic_u32`].
    ///
    /// # Errors
    /// As [`Mapping::atomic_u32`].
    pub fn atomic_u64(&self, at: usize) -> Result<&AtomicU64, Error> {
        self.check_word(at, size_of::<u64>())?;
        self.access.atomic_u64(at).ok_or(Error::ReadOnly)
    }

    /// The bytes as a slice, all of them in memory, where they stay while it is held.
    ///
    /// # Errors
    /// Those of the pages; `EACCES` for a mapping that can be written; `ETXTBSY` where the
    /// pages are memory of the driver, which writes it, or where the same device is mapped
    /// shared for writing. Such a map is refused, likewise, while the slice is held, and so is
    /// a [`File::truncate`](crate::File::truncate) that would change its bytes.
    pub fn slice(&self, bytes: Range<usize>) -> Result<Slice<'_>, Error> {
        self.check_bytes(&bytes)?;
        let pages = self.pages(&bytes);
        let fits = pages.end - pages.start <= self.area.core.limit;
        // A slice is of the file's pages.
        self.area.object.share(&self.area.object.maps.count.lock())?;
        // Others may drop pages as quickly as they come; not for ever, then.
        for _ in 0..if fits { SLICE_TRIES } else { 0 } {
            self.populate(bytes.clone())?;
            let missing = {
                // Who cuts the file does it before this or finds it frozen.
                let _truncating = self.area.object.truncating.lock();

                let slice = self
                    .access
                    .freeze(bytes.clone())
                    .map_err(|error| Error::system("slice", &error))?;
                // What is still there now stays.
                match self.missing(&pages) {
                    None => return Ok(slice),
                    Some(page) => page,
                }
            };
            // Its mark may say otherwise until who drops it has done so.
            self.supply(missing, Access::Read)?;
        }
        Err(Error::Refused { call: "slice", errno: Errno::ENOMEM })
    }

    /// The first of these pages that is not resident.
    fn missing(&self, pages: &Range<u64>) -> Option<u64> {
        let first = self.area.first_page;
        let of_device = first + pages.start..first + pages.end;
        (of_device.start / PAGES..of_device.end.div_ceil(PAGES)).find_map(|index| {
            let resident = self.area.object.block(index).lock().resident;
            let missing = Pages::in_block(index, &of_device).without(resident);
            missing.runs(index).next().map(|run| run.start - first)
        })
    }

    /// Has all pages of a range supplied now.
    ///
    /// # Errors
    /// Outside of the mapping, and those of the pages.
    pub fn populate(&self, bytes: Range<usize>) -> Result<(), Error> {
        self.check_bytes(&bytes)?;
        for page in self.pages(&bytes) {
            let marks = self.area.span.marks()[page as usize].load(Ordering::Relaxed);
            if marks & mark::PRESENT == 0 {
                self.supply(page, Access::Read)?;
            }
        }
        Ok(())
    }

    /// Which pages of a range are in memory, in order (`mincore(2)`).
    ///
    /// # Errors
    /// Outside of the mapping.
    pub fn resident(&self, bytes: Range<usize>) -> Result<Vec<bool>, Error> {
        self.check_bytes(&bytes)?;
        let pages = self.pages(&bytes);
        // Memory of the driver is always there.
        let mut resident: Vec<bool> =
            pages.clone().map(|page| !self.area.is_faulted(page)).collect();
        let first = self.area.first_page;
        for (index, held, _) in self.area.object.census(&(first + pages.start..first + pages.end)) {
            for page in held.runs(index).flatten() {
                resident[(page - first - pages.start) as usize] = true;
            }
        }
        Ok(resident)
    }

    /// The pages that a range touches.
    pub(crate) fn pages(&self, bytes: &Range<usize>) -> Range<u64> {
        let page_size = self.area.core.page_size;
        page_size.page_of(bytes.start as u64)..page_size.pages_for(bytes.end as u64)
    }

    pub(crate) fn check_bytes(&self, bytes: &Range<usize>) -> Result<(), Error> {
        let Range { start, end } = *bytes;
        let len = end.checked_sub(start).ok_or(Error::Reversed { start, end })?;
        self.check_range(start, len)
    }

    fn check_range(&self, at: usize, len: usize) -> Result<(), Error> {
        match at.checked_add(len) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(Error::Outside { at, len: self.len() }),
        }
    }

    fn check_word(&self, at: usize, size: usize) -> Result<(), Error> {
        self.check_range(at, size)?;
        if at.is_multiple_of(size) { Ok(()) } else { Err(Error::Misaligned { at }) }
    }

    /// Makes an access once its page is supplied.
    fn with_page<T>(
        &self,
        at: usize,
        access: Access,
        mut once: impl FnMut() -> Option<T>,
    ) -> Result<T, Error> {
        if access == Access::Write && self.area.writes == Writes::None {
            return Err(Error::ReadOnly);
        }
        let page = (at >> self.page_shift) as u64;
        for _ in 0..TRIES {
            self.supply(page, access)?;
            if let Some(value) = once() {
                return Ok(value);
            }
        }
        let page = self.area.first_page + page;
        Err(Error::Failed { call: "access", page, errno: Errno::EFAULT })
    }

    /// Supplies a page on this thread.
    fn supply(&self, page: u64, access: Access) -> Result<(), Error> {
        if !self.area.is_faulted(page) {
            self.area.mark_remapped(page);
            return Ok(());
        }
        if self.area.span.is_forked() {
            return Err(Error::Forked);
        }
        count(&self.area.core.counters.in_thread, 1);
        self.area.fault(page, access)
    }
}
