//! Loads, stores and copies that fail where a page fails, at the cost of a plain access
//! where it is there.

use std::io;
use std::num::NonZeroU8;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Span, mark};
use crate::arch::{self, guarded};
use crate::mapping::Protection;
use crate::store::Frozen;

/// The accesses to a span.
#[derive(Debug)]
pub struct Access {
    span: Span,
    address: *mut u8,
    marks: *const std::sync::atomic::AtomicU8,
    pages: usize,
    page_shift: u32,
}

// SAFETY: as for the span, whose memory it accesses.
unsafe impl Send for Access {}
// SAFETY: as for the span: every access is atomic or unseen by the compiler.
unsafe impl Sync for Access {}

mod sealed {
    pub trait Sealed {}
}

/// What one instruction loads or stores.
pub trait Word: Copy + sealed::Sealed {
    /// # Safety
    /// As the loads of `arch::guarded`.
    #[doc(hidden)]
    unsafe fn load(base: *const u8, at: usize, witness: NonZeroU8) -> Option<Self>;
    /// # Safety
    /// As the stores of `arch::guarded`.
    #[doc(hidden)]
    unsafe fn store(to: *mut Self, value: Self) -> bool;
}

macro_rules! word {
    ($type:ty, $load:ident, $store:ident) => {
        impl sealed::Sealed for $type {}
        impl Word for $type {
            #[inline(always)]
            unsafe fn load(base: *const u8, at: usize, witness: NonZeroU8) -> Option<Self> {
                // SAFETY: the caller keeps the same contract.
                unsafe { guarded::$load(base, at, witness) }
            }
            #[inline(always)]
            unsafe fn store(to: *mut Self, value: Self) -> bool {
                // SAFETY: the caller keeps the same contract.
                unsafe { guarded::$store(to, value) }
            }
        }
    };
}

word!(u8, load_u8, store_u8);
word!(u16, load_u16, store_u16);
word!(u32, load_u32, store_u32);
word!(u64, load_u64, store_u64);

impl Access {
    pub(super) fn new(span: Span) -> Access {
        let (address, marks) = (span.0.address.as_ptr(), span.0.marks.as_ptr());
        let (page_shift, pages) = (span.0.page_shift, span.0.len >> span.0.page_shift);
        Access { span, address, marks, pages, page_shift }
    }

    /// The span.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// One load at byte `at`. `None` when it is not inside or not a multiple of the word's
    /// size, when the page is not marked [`mark::PRESENT`], or when it failed.
    #[inline(always)]
    pub fn load<T: Word>(&self, at: usize) -> Option<T> {
        let marks = self.check::<T>(at, mark::PRESENT)?;
        // SAFETY: inside and aligned (check); mapped while `self` lives, and accessed in no
        // other ways than these (the span's invariant). Where nothing is laid nothing is
        // marked by whoever lays; an access there would end the process.
        unsafe { T::load(self.address, at, marks) }
    }

    /// One store at byte `at`. `None` as for a load, or when the page is not marked
    /// [`mark::WRITABLE`].
    #[inline(always)]
    pub fn store<T: Word>(&self, at: usize, value: T) -> Option<()> {
        self.check::<T>(at, mark::WRITABLE)?;
        // SAFETY: as for a load. No slice is of this memory: those are only made of spans
        // that cannot be written, and of files that no other span writes.
        unsafe { T::store(self.address.add(at).cast(), value) }.then_some(())
    }

    /// The marks of the page of a word at `at` that is inside, aligned, and on a page marked so.
    /// In plain steps, of which the compiler leaves out what it knows: of several words in a row
    /// most. A constant shift is much cheaper than one by a register.
    #[inline(always)]
    fn check<T: Word>(&self, at: usize, mark: u8) -> Option<NonZeroU8> {
        let page_shift = arch::PAGE_SHIFT.unwrap_or(self.page_shift);
        let page = at >> page_shift;
        if page >= self.pages || !at.is_multiple_of(size_of::<T>()) {
            return None;
        }
        // SAFETY: there is a mark for each page (the span's invariant).
        let marks = unsafe { &*self.marks.add(page) }.load(Ordering::Relaxed);
        if marks & mark == 0 { None } else { NonZeroU8::new(marks) }
    }

    /// Copies out from byte `at` on, as far as pages are marked and do not fail: how many
    /// bytes. Not atomic: a byte that another writes meanwhile arrives old or new.
    pub fn read(&self, at: usize, into: &mut [u8]) -> usize {
        let len = self.marked(at, into.len(), mark::PRESENT);
        if len == 0 {
            return 0;
        }
        // SAFETY: inside the span (marked); `into` is a live exclusive slice, so it is not
        // part of it.
        let rest = unsafe { guarded::copy(self.address.add(at), into.as_mut_ptr(), len) };
        len - rest
    }

    /// Copies in, as [`Access::read`] copies out, to pages marked writable.
    pub fn write(&self, at: usize, from: &[u8]) -> usize {
        let len = self.marked(at, from.len(), mark::WRITABLE);
        if len == 0 {
            return 0;
        }
        // SAFETY: inside the span (marked), which no slice is of, see store; `from` is a
        // live slice, so it is not part of it.
        let rest = unsafe { guarded::copy(from.as_ptr(), self.address.add(at), len) };
        len - rest
    }

    /// How many bytes from `at` on, of `len`, lie on pages marked so.
    fn marked(&self, at: usize, len: usize, mark: u8) -> usize {
        let end = at.saturating_add(len).min(self.span.len());
        if at >= end {
            return 0;
        }
        let (first, last) = (at >> self.page_shift, (end - 1) >> self.page_shift);
        let marks = &self.span.marks()[first..=last];
        match marks.iter().position(|page| page.load(Ordering::Relaxed) & mark == 0) {
            Some(0) => 0,
            Some(pages) => ((first + pages) << self.page_shift) - at,
            None => end - at,
        }
    }

    /// A word that is shared with whoever else maps it; an access waits for the page, as
    /// any does that is not checked. `None` when it is not inside or not aligned, or the
    /// span cannot be written.
    pub fn atomic_u32(&self, at: usize) -> Option<&AtomicU32> {
        let to = self.word(at, size_of::<u32>())?;
        // SAFETY: inside, aligned and writable (word), and only ever accessed atomically or
        // by instructions that the compiler does not see.
        Some(unsafe { AtomicU32::from_ptr(to.cast()) })
    }

    /// As [`Access::atomic_u32`].
    pub fn atomic_u64(&self, at: usize) -> Option<&AtomicU64> {
        let to = self.word(at, size_of::<u64>())?;
        // SAFETY: as for 32 bits.
        Some(unsafe { AtomicU64::from_ptr(to.cast()) })
    }

    fn word(&self, at: usize, size: usize) -> Option<*mut u8> {
        let writable = self.span.0.protection == Protection::ReadWrite;
        let inside = at.checked_add(size).is_some_and(|end| end <= self.span.len());
        // SAFETY: inside the span, where it is evaluated.
        (writable && inside && at.is_multiple_of(size)).then(|| unsafe { self.address.add(at) })
    }

    /// One plain load: a page that is not there is waited for, and one that fails is a
    /// SIGBUS. `None` when it is not inside or not aligned.
    #[inline(always)]
    pub fn load_plain<T: Word>(&self, at: usize) -> Option<T> {
        let inside = at.checked_add(size_of::<T>()).is_some_and(|end| end <= self.span.len());
        if !inside || !at.is_multiple_of(size_of::<T>()) {
            return None;
        }
        // SAFETY: inside and aligned, and readable while `self` lives (the span's
        // invariant); volatile, so that others' stores are no data race to the compiler.
        Some(unsafe { self.address.add(at).cast::<T>().read_volatile() })
    }

    /// One plain store, see [`Access::load_plain`]. `None` too when the span cannot be
    /// written.
    #[inline(always)]
    pub fn store_plain<T: Word>(&self, at: usize, value: T) -> Option<()> {
        let to = self.word(at, size_of::<T>())?;
        // SAFETY: inside, aligned and writable (word); volatile, as for a load.
        unsafe { to.cast::<T>().write_volatile(value) };
        Some(())
    }

    /// The bytes as a slice, which do not change while it is held: the span cannot be
    /// written, nobody maps the same pages for shared writing or can meanwhile, and pages
    /// that are there are not replaced. Pages that are not there are waited for as in a
    /// plain load.
    ///
    /// # Errors
    /// `EINVAL` when it is not inside, `EACCES` for a span that can be written, `ETXTBSY`
    /// when the pages are memory of a driver or mapped for shared writing.
    pub fn freeze(&self, bytes: Range<usize>) -> io::Result<Slice<'_>> {
        let from = self.span.0.pointer(&bytes)?;
        let frozen = self.span.0.freeze(&bytes)?;
        // SAFETY: mapped and readable while `self` lives (the span's invariant), and nobody
        // changes what was laid there while it is frozen (the store's invariant).
        let bytes = unsafe { std::slice::from_raw_parts(from, bytes.len()) };
        Ok(Slice { bytes, _frozen: frozen })
    }
}

/// Bytes of a span that do not change while this is held.
#[derive(Debug)]
pub struct Slice<'a> {
    bytes: &'a [u8],
    _frozen: Vec<Frozen>,
}

impl Deref for Slice<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}
