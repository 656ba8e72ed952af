//! A range of addresses of this process in which maps are laid, and the accesses to it.
//!
//! It comes as two values: a [`Span`], which lays maps and can be cloned, and the one
//! [`Access`], which loads and stores. Nothing of it is ever a reference, but for
//! [`Access::freeze`] and the atomics.
//!
//! What does not live here: which page is supplied when.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MremapFlags, MsyncFlags, ProtFlags, madvise, mmap,
    mmap_anonymous, mprotect, mremap_fixed, msync, munmap,
};

use crate::large::{ALIGNMENT as LARGE, Large};
use crate::mapping::{Protection, Sharing};
use crate::store::{Frozen, Store, Writer};

mod access;

pub use access::{Access, Slice, Word};

/// What is known of a page without asking the kernel. A hint: an access to a page that is
/// marked and not there waits for it, as any access does.
pub mod mark {
    /// Nothing. In a forked child, all that is known of any page.
    pub const NOTHING: u8 = 0;
    /// It is mapped.
    pub const PRESENT: u8 = 1;
    /// Stores to it need not be told.
    pub const WRITABLE: u8 = 2;
}

/// A range of addresses.
#[derive(Clone, Debug)]
pub struct Span(Arc<Inner>);

/// # Invariants
/// `[address, address + len)` is mapped until drop, by this value alone: without any
/// permission where nothing is laid. `marks` holds a byte for each page, and one more, in
/// memory that is zero in a forked child, and only accessed atomically.
#[derive(Debug)]
struct Inner {
    address: NonNull<u8>,
    len: usize,
    protection: Protection,
    sharing: Sharing,
    page_shift: u32,
    marks: NonNull<AtomicU8>,
    parts: Mutex<Vec<Part>>,
}

/// What was laid where. Later ones lie over earlier ones.
#[derive(Debug)]
struct Part {
    bytes: Range<usize>,
    /// The page cache, and its offset; else memory that others write.
    store: Option<(Arc<Store>, u64)>,
    _writer: Option<Writer>,
}

impl Part {
    /// Something was laid over `bytes`: whether anything is left of this. What lies on both
    /// sides of it counts as whole.
    fn lies_beside(&mut self, bytes: &Range<usize>) -> bool {
        if bytes.start <= self.bytes.start && self.bytes.start < bytes.end {
            let covered = bytes.end - self.bytes.start;
            self.bytes.start = bytes.end;
            if let Some((_, offset)) = &mut self.store {
                *offset += covered as u64;
            }
        } else if bytes.start < self.bytes.end && self.bytes.end <= bytes.end {
            self.bytes.end = bytes.start;
        }
        self.bytes.start < self.bytes.end
    }
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Inner {}
// SAFETY: every access is atomic or made by instructions the compiler does not see;
// references to memory that may change are never made.
unsafe impl Sync for Inner {}

impl Span {
    /// Reserves `pages` pages of addresses.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn reserve(
        pages: NonZeroUsize,
        protection: Protection,
        sharing: Sharing,
    ) -> io::Result<(Span, Access)> {
        Self::reserve_beside(0, pages, protection, sharing)
    }

    /// As [`Span::reserve`], so that what begins at `offset` of a file has its large pages at
    /// multiples of their size if the file had.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn reserve_beside(
        offset: u64,
        pages: NonZeroUsize,
        protection: Protection,
        sharing: Sharing,
    ) -> io::Result<(Span, Access)> {
        let page = rustix::param::page_size();
        let no_memory = || io::Error::from_raw_os_error(libc::ENOMEM);
        let len = pages.get().checked_mul(page).ok_or_else(no_memory)?;
        // One more byte, which says that this is the process that made it.
        let marks_len = marks_len(pages.get());
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        let reserved =
            if len < LARGE { len } else { len.checked_add(LARGE).ok_or_else(no_memory)? };
        // SAFETY: no address is asked for, so no existing mapping is touched.
        let mut address =
            unsafe { mmap_anonymous(ptr::null_mut(), reserved, ProtFlags::empty(), flags) }?;
        if reserved > len {
            let wanted = (offset % LARGE as u64) as usize;
            let before = wanted.wrapping_sub(address.addr()) % LARGE;
            // SAFETY: less than what was mapped beyond `len` is left out on each side, and
            // nobody else knows the addresses.
            unsafe {
                if before > 0 {
                    munmap(address, before)?;
                }
                address = address.byte_add(before);
                munmap(address.byte_add(len), LARGE - before)?;
            }
        }
        // SAFETY: as above.
        let marks = unsafe { mmap_anonymous(ptr::null_mut(), marks_len, writable, flags) }
            .inspect_err(|_| {
                // SAFETY: just mapped, and nobody else knows the address.
                let _ = unsafe { munmap(address, len) };
            })?;
        let inner = Inner {
            address: NonNull::new(address.cast()).ok_or_else(no_memory)?,
            len,
            protection,
            sharing,
            page_shift: page.trailing_zeros(),
            marks: NonNull::new(marks.cast()).ok_or_else(no_memory)?,
            parts: Mutex::default(),
        };
        // INVARIANT: both just mapped, and nobody else knows the addresses.
        let span = Span(Arc::new(inner));
        // From here on its drop is of this process: should what follows fail.
        span.0.marks()[pages.get()].store(mark::PRESENT, Ordering::Relaxed);
        // SAFETY: the range is the marks' own, and zeros in a child are what they promise.
        unsafe { madvise(marks, marks_len, Advice::LinuxWipeOnFork) }?;
        Ok((span.clone(), Access::new(span)))
    }

    /// Lays `len` bytes of a page cache at byte `at`, over what was there. A forked child
    /// does not have it.
    ///
    /// # Errors
    /// `ETXTBSY` when slices are held of a store that is to be written, or of what was
    /// there; those of mmap(2).
    pub fn lay_store(
        &self,
        at: usize,
        store: &Arc<Store>,
        offset: u64,
        len: usize,
    ) -> io::Result<()> {
        let inner = &self.0;
        let shares_stores =
            inner.sharing == Sharing::Shared && inner.protection == Protection::ReadWrite;
        let writer = shares_stores.then(|| store.writer()).transpose()?;
        let part = Part {
            bytes: at..at.saturating_add(len),
            store: Some((store.clone(), offset)),
            _writer: writer,
        };
        let range = self.lay(part, store.fd(), offset)?;
        // SAFETY: the range is this span's own; what a child does not have it cannot use.
        Ok(unsafe { madvise(range.cast(), len, Advice::LinuxDontFork) }?)
    }

    /// Lays `len` bytes of memory that others write too at byte `at`, over what was there.
    /// The file must not become shorter. A forked child inherits it.
    ///
    /// # Errors
    /// `ETXTBSY` when slices of what was there are held; those of mmap(2).
    pub fn lay_memory(
        &self,
        at: usize,
        memory: BorrowedFd<'_>,
        offset: u64,
        len: usize,
    ) -> io::Result<()> {
        let part = Part { bytes: at..at.saturating_add(len), store: None, _writer: None };
        self.lay(part, memory, offset).map(drop)
    }

    fn lay(&self, part: Part, fd: BorrowedFd<'_>, offset: u64) -> io::Result<*mut u8> {
        let to = self.0.pointer(&part.bytes)?;
        let flags = MapFlags::FIXED
            | MapFlags::NORESERVE
            | match self.0.sharing {
                Sharing::Shared => MapFlags::SHARED,
                Sharing::Private => MapFlags::PRIVATE,
            };
        let protection = match self.0.protection {
            Protection::Read => ProtFlags::READ,
            Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // Held to the end, so that nothing is frozen between the question and the map.
        let mut parts = self.0.parts();
        self.0.check_thawed(&parts, &part.bytes)?;
        // SAFETY: replaces only what lies within this span, of which there are no
        // references but slices, and those were just looked for.
        unsafe { mmap(to.cast(), part.bytes.len(), protection, flags, fd, offset) }?;
        parts.retain_mut(|old| old.lies_beside(&part.bytes));
        parts.push(part);
        Ok(to)
    }

    /// Takes pages out of this process' page table (`MADV_DONTNEED`): the next access
    /// faults. Stores that were made are in the file then; of a private span, pages that were
    /// copied in are gone.
    ///
    /// # Errors
    /// `EINVAL` for a private span that can be written, whose changed pages would be lost;
    /// `ETXTBSY` when slices of a private one are held; those of madvise(2).
    pub fn zap(&self, bytes: Range<usize>) -> io::Result<()> {
        let inner = &self.0;
        let start = inner.pointer(&bytes)?;
        // Held to the end, so that nothing is frozen between the question and the answer.
        let parts;
        if inner.sharing == Sharing::Private {
            if inner.protection == Protection::ReadWrite {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            parts = inner.parts();
            inner.check_thawed(&parts, &bytes)?;
        }
        let take = |advice| {
            // SAFETY: of a shared file no content is lost, and the next access finds it; of
            // the pages of a private span no slice is held, see above.
            unsafe { madvise(start.cast(), bytes.len(), advice) }
        };
        match take(Advice::LinuxDontNeed) {
            // The program has locked its memory.
            Err(rustix::io::Errno::INVAL) => Ok(take(Advice::LinuxDontneedLocked)?),
            taken => Ok(taken?),
        }
    }

    /// Moves the first `len` bytes of memory to byte `at` of a private span, over what was
    /// there: it is this span's own then, as what is copied in. No faults are told there until
    /// something is laid again. `from` is zeroed then.
    ///
    /// # Errors
    /// `EINVAL` for a span that is shared or can be written, where no page cache is laid, or for
    /// not enough memory; `ETXTBSY` when slices are held of what was there; those of mremap(2),
    /// when nothing was done.
    pub fn move_in(&self, at: usize, from: &mut Large, len: usize) -> io::Result<()> {
        let inner = &self.0;
        let bytes = at..at.saturating_add(len);
        let to = inner.pointer(&bytes)?;
        let is_private = inner.sharing == Sharing::Private;
        if !is_private || inner.protection != Protection::Read || len > from.len() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // Held to the end, so that nothing is frozen between the question and the move.
        let parts = inner.parts();
        inner.check_thawed(&parts, &bytes)?;
        // So that who freezes it is known.
        let is_cache = |part: Option<(_, Range<u64>)>| {
            part.is_some_and(|(_, of_store)| of_store.end - of_store.start == len as u64)
        };
        if !inner.stores(&parts, &bytes).any(is_cache) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let flags = MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP;
        let first = from.first();
        // SAFETY: takes pages from memory of which `from` alone is the owner, and nothing is
        // borrowed, and which stays mapped; replaces only what lies within this span, of which
        // there are no references but slices, and those were just looked for.
        let moved = unsafe { mremap_fixed(first.as_ptr().cast(), len, len, flags, to.cast()) };
        if let Err(error) = moved {
            inner.close_gap(&bytes)?;
            return Err(error.into());
        }
        if len == from.len() {
            from.was_left();
        }
        // SAFETY: the range is this span's own, and nobody writes it.
        let protected = unsafe { mprotect(to.cast(), len, MprotectFlags::READ) };
        debug_assert!(protected.is_ok(), "mprotect: {protected:?}");
        Ok(())
    }

    /// Writes pages that are there into a page cache.
    ///
    /// # Errors
    /// `EINVAL` outside of the span, `ETXTBSY` when a slice is held of what would be written;
    /// those of pwrite(2).
    pub fn save(&self, bytes: Range<usize>, store: &Store, offset: u64) -> io::Result<()> {
        let from = self.0.pointer(&bytes)?;
        // SAFETY: mapped while `self` lives (invariant).
        unsafe { store.write_from(offset, from, bytes.len()) }
    }

    /// The bytes of memory that pages take which were copied into a private span, as the
    /// kernel counts them.
    ///
    /// # Errors
    /// Those of reading `/proc/self/pagemap`.
    pub fn held(&self) -> io::Result<u64> {
        const PRESENT: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        const OF_FILE: u64 = 1 << 61;
        let entry = size_of::<u64>() as u64;
        let pagemap = File::open("/proc/self/pagemap")?;
        let first = (self.address() >> self.0.page_shift) as u64;
        let (mut at, end) = (first, first + self.marks().len() as u64);
        let mut entries = vec![0; 1 << 16];
        let mut pages = 0;
        while at < end {
            let len = entries.len().min(((end - at) * entry) as usize);
            pagemap.read_exact_at(&mut entries[..len], at * entry)?;
            let (words, _) = entries[..len].as_chunks::<8>();
            let own = |word: &&[u8; 8]| {
                let word = u64::from_ne_bytes(**word);
                word & (PRESENT | SWAPPED) != 0 && word & OF_FILE == 0
            };
            pages += words.iter().filter(own).count() as u64;
            at += len as u64 / entry;
        }
        Ok(pages << self.0.page_shift)
    }

    /// Leaves pages out of core dumps (`MADV_DONTDUMP`).
    ///
    /// # Errors
    /// Those of madvise(2).
    pub fn leave_out_of_dumps(&self, bytes: Range<usize>) -> io::Result<()> {
        let start = self.0.pointer(&bytes)?;
        // SAFETY: changes neither content nor permissions.
        Ok(unsafe { madvise(start.cast(), bytes.len(), Advice::LinuxDontDump) }?)
    }

    /// Whether what is laid is shared.
    pub fn sharing(&self) -> Sharing {
        self.0.sharing
    }

    /// The first address.
    pub fn address(&self) -> usize {
        self.0.address.as_ptr().addr()
    }

    /// Bytes of addresses.
    #[allow(clippy::len_without_is_empty, reason = "a span is never empty")]
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether this is a child that was forked from the process that made the span.
    pub fn is_forked(&self) -> bool {
        self.0.is_forked()
    }

    /// What is known of each page: [`mark`].
    pub fn marks(&self) -> &[AtomicU8] {
        let marks = self.0.marks();
        &marks[..marks.len() - 1]
    }

    /// The address of a range of bytes.
    pub(crate) fn address_of(&self, bytes: &Range<usize>) -> io::Result<usize> {
        Ok(self.0.pointer(bytes)?.addr())
    }
}

/// Bytes of the marks of so many pages.
fn marks_len(pages: usize) -> usize {
    (pages + 1).next_multiple_of(rustix::param::page_size())
}

impl Inner {
    fn pointer(&self, bytes: &Range<usize>) -> io::Result<*mut u8> {
        if bytes.start > bytes.end || bytes.end > self.len {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: the start is inside the span, or one past it.
        Ok(unsafe { self.address.as_ptr().add(bytes.start) })
    }

    fn marks(&self) -> &[AtomicU8] {
        // SAFETY: mapped for a byte each, and one more, while `self` lives, and only
        // accessed atomically (invariant).
        unsafe {
            std::slice::from_raw_parts(self.marks.as_ptr(), (self.len >> self.page_shift) + 1)
        }
    }

    fn is_forked(&self) -> bool {
        self.marks()[self.len >> self.page_shift].load(Ordering::Relaxed) == mark::NOTHING
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a move has taken away when it failed is reserved again: an access ends the process.
    fn close_gap(&self, bytes: &Range<usize>) -> io::Result<()> {
        let to = self.pointer(bytes)?;
        // SAFETY: asks whether the range is mapped, and touches no memory: no page is locked.
        let is_mapped = unsafe { msync(to.cast(), bytes.len(), MsyncFlags::ASYNC) }.is_ok();
        if !is_mapped {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
            // SAFETY: within this span, and of what is not there nobody has references.
            unsafe { mmap_anonymous(to.cast(), bytes.len(), ProtFlags::empty(), flags) }?;
        }
        Ok(())
    }

    /// That no slices are held of a range.
    fn check_thawed(&self, parts: &[Part], bytes: &Range<usize>) -> io::Result<()> {
        let is_frozen = |part: Option<(&Arc<Store>, Range<u64>)>| {
            part.is_some_and(|(store, bytes)| store.is_frozen(&bytes))
        };
        if self.stores(parts, bytes).any(is_frozen) {
            return Err(io::Error::from_raw_os_error(libc::ETXTBSY));
        }
        Ok(())
    }

    /// The parts that lie in a range and their stores' bytes; `None` for other memory.
    fn stores<'a>(
        &self,
        parts: &'a [Part],
        bytes: &'a Range<usize>,
    ) -> impl Iterator<Item = Option<(&'a Arc<Store>, Range<u64>)>> {
        parts.iter().filter_map(|part| {
            let start = part.bytes.start.max(bytes.start);
            let end = part.bytes.end.min(bytes.end);
            (start < end).then(|| {
                part.store.as_ref().map(|(store, offset)| {
                    let at = offset + (start - part.bytes.start) as u64;
                    (store, at..at + (end - start) as u64)
                })
            })
        })
    }

    /// Freezes what lies in a range.
    fn freeze(&self, bytes: &Range<usize>) -> io::Result<Vec<Frozen>> {
        if self.protection == Protection::ReadWrite {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        let written_by_others = || io::Error::from_raw_os_error(libc::ETXTBSY);
        let parts = self.parts();
        self.stores(&parts, bytes)
            .map(|part| {
                let (store, bytes) = part.ok_or_else(written_by_others)?;
                store.freeze(bytes)
            })
            .collect()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A child does not have all of the range, and may have others' maps there.
        if self.is_forked() {
            return;
        }
        // SAFETY: this value alone owns both ranges (invariant); slices and atomics borrow
        // from the Access, which holds it.
        let results = unsafe {
            [
                munmap(self.address.as_ptr().cast(), self.len),
                munmap(self.marks.as_ptr().cast(), marks_len(self.len >> self.page_shift)),
            ]
        };
        debug_assert!(results.iter().all(Result::is_ok), "munmap: {results:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::userfaultfd::{Install, Userfaultfd};

    /// A span for reading, laid privately, into which pages are copied.
    fn private(store: &Arc<Store>, uffd: &Userfaultfd) -> (Span, Access) {
        let pages = NonZeroUsize::new(8).unwrap();
        let (span, access) = Span::reserve(pages, Protection::Read, Sharing::Private).unwrap();
        span.lay_store(0, store, 0, span.len()).unwrap();
        uffd.register(&span, 0..span.len(), Install::AsMapped).unwrap();
        (span, access)
    }

    #[test]
    fn what_is_copied_into_a_private_span_is_in_no_file() {
        // Where it is refused there is nothing to test.
        let Ok(uffd) = Userfaultfd::new() else { return };
        let page = rustix::param::page_size();
        let store = Store::new("private").unwrap();
        let (span, access) = private(&store, &uffd);
        uffd.copy(&span, page, &vec![7; 3 * page], Install::AsMapped).unwrap();
        assert_eq!((span.held().unwrap(), store.held().unwrap()), (3 * page as u64, 0));
        assert_eq!(access.load_plain::<u8>(3 * page + 5), Some(7));
        // Into the file, and found there.
        span.save(page..2 * page, &store, page as u64).unwrap();
        span.zap(page..2 * page).unwrap();
        assert_eq!((span.held().unwrap(), store.held().unwrap()), (2 * page as u64, page as u64));
        uffd.map(&span, page..2 * page, Install::AsMapped).unwrap();
        assert_eq!(access.load_plain::<u8>(page + 5), Some(7));
        assert_eq!(span.held().unwrap(), 2 * page as u64);
        // Locked memory goes too.
        // SAFETY: changes no content.
        unsafe { rustix::mm::mlock(span.0.pointer(&(0..0)).unwrap().add(2 * page).cast(), page) }
            .unwrap();
        span.zap(0..span.len()).unwrap();
        assert_eq!(span.held().unwrap(), 0);
    }

    #[test]
    fn large_memory_is_moved_into_a_private_span() {
        let Ok(uffd) = Userfaultfd::new() else { return };
        let page = rustix::param::page_size();
        let store = Store::new("private").unwrap();
        let pages = NonZeroUsize::new(3 * LARGE / page).unwrap();
        let (span, access) =
            Span::reserve_beside(page as u64, pages, Protection::Read, Sharing::Private).unwrap();
        assert_eq!(span.address() % LARGE, page);
        let at = LARGE - page;
        span.lay_store(0, &store, 0, span.len()).unwrap();
        uffd.register(&span, 0..span.len(), Install::AsMapped).unwrap();
        let mut large = Large::new(LARGE).unwrap();
        large.bytes().fill(7);
        assert!(span.move_in(at, &mut large, LARGE + page).is_err());
        let (bare, _) = Span::reserve(pages, Protection::Read, Sharing::Private).unwrap();
        assert!(bare.move_in(0, &mut large, LARGE).is_err());
        span.move_in(at, &mut large, LARGE).unwrap();
        assert_eq!(span.held().unwrap(), LARGE as u64);
        assert_eq!(access.load_plain::<u8>(at + LARGE - 1), Some(7));
        assert!(large.bytes().iter().all(|byte| *byte == 0));
        // What is beside it is told of as before.
        uffd.copy(&span, at - page, &vec![8; page], Install::AsMapped).unwrap();
        assert_eq!(access.load_plain::<u8>(at - 1), Some(8));
        // And back into the file.
        span.save(at..at + LARGE, &store, at as u64).unwrap();
        span.lay_store(at, &store, at as u64, LARGE).unwrap();
        assert_eq!(access.load_plain::<u8>(at + LARGE - 1), Some(7));
        assert_eq!((span.held().unwrap(), store.held().unwrap()), (page as u64, LARGE as u64));
        let slice = access.freeze(at..at + 1).unwrap();
        let refused = span.move_in(at, &mut large, LARGE).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ETXTBSY));
        drop(slice);
    }

    #[test]
    fn beyond_its_end_there_is_nothing_to_copy() {
        let (span, access) =
            Span::reserve(NonZeroUsize::MIN, Protection::ReadWrite, Sharing::Private).unwrap();
        for at in [span.len(), usize::MAX / 2, usize::MAX] {
            assert_eq!((access.read(at, &mut [0; 2]), access.write(at, &[0; 2])), (0, 0));
        }
    }

    #[test]
    fn what_a_slice_is_of_is_not_taken_away() {
        let Ok(uffd) = Userfaultfd::new() else { return };
        let page = rustix::param::page_size();
        let store = Store::new("private").unwrap();
        let (span, access) = private(&store, &uffd);
        uffd.copy(&span, 0, &vec![7; 2 * page], Install::AsMapped).unwrap();
        let slice = access.freeze(0..page).unwrap();
        let refused = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ETXTBSY));
        };
        refused(span.zap(0..span.len()));
        refused(span.save(0..page, &store, 0));
        span.zap(page..2 * page).unwrap();
        assert!(slice.iter().all(|byte| *byte == 7));
        drop(slice);
        span.zap(0..span.len()).unwrap();
        let pages = NonZeroUsize::MIN;
        let (written, _) = Span::reserve(pages, Protection::ReadWrite, Sharing::Private).unwrap();
        assert_eq!(written.zap(0..page).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
