//! Memory for large reads: in large pages where the kernel gives them, so that a direct
//! read holds few pages instead of many. What does not live here: what is read.

use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// What a large page of memory is aligned to on any machine that has them of such a size.
pub(crate) const ALIGNMENT: usize = 2 << 20;

/// Memory of this process, zeroed at first. A child does not have it.
///
/// # Invariants
/// `[address, address + len)` lies in `[mapped, mapped + mapped_len)`, which is mapped for
/// reading and writing until drop, by this value alone.
#[derive(Debug)]
pub struct Large {
    mapped: NonNull<u8>,
    mapped_len: usize,
    address: NonNull<u8>,
    len: usize,
    /// Whether nobody has written since it was zeroed.
    is_zeroed: bool,
}

// SAFETY: the memory belongs to the process, not to a thread.
unsafe impl Send for Large {}
// SAFETY: shared, it lends nothing.
unsafe impl Sync for Large {}

impl Large {
    /// `len` bytes, aligned to pages of any size that large reads gain by.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn new(len: usize) -> io::Result<Large> {
        let no_memory = || io::Error::from_raw_os_error(libc::ENOMEM);
        let mapped_len = len.checked_add(ALIGNMENT).ok_or_else(no_memory)?;
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so no existing mapping is touched.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), mapped_len, writable, flags) }?;
        let mapped: NonNull<u8> = NonNull::new(mapped.cast()).ok_or_else(no_memory)?;
        let skipped = mapped.as_ptr().addr().wrapping_neg() % ALIGNMENT;
        // SAFETY: less than the alignment is skipped, which is what was mapped beyond `len`.
        let address = unsafe { mapped.add(skipped) };
        // SAFETY: the range was just mapped; the advice changes no content. Without large
        // pages it is refused, and all works.
        let _ = unsafe { madvise(address.as_ptr().cast(), len, Advice::LinuxHugepage) };
        // INVARIANT: just mapped, and nobody else knows the address.
        let large = Large { mapped, mapped_len, address, len, is_zeroed: true };
        // SAFETY: the range is this value's own; what a child does not have it cannot use.
        unsafe { madvise(mapped.as_ptr().cast(), mapped_len, Advice::LinuxDontFork) }?;
        Ok(large)
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks for none")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.is_zeroed = false;
        // SAFETY: mapped for reading and writing while `self` lives, and lent to nobody
        // else (invariant).
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len) }
    }

    /// The first `len` bytes, zeroed. `None`: it has fewer.
    pub fn zeroed(&mut self, len: usize) -> Option<&mut [u8]> {
        let was_zeroed = self.is_zeroed;
        let bytes = self.bytes().get_mut(..len)?;
        if !was_zeroed {
            bytes.fill(0);
        }
        Some(bytes)
    }

    /// The first byte of what is about to be moved away.
    pub(crate) fn first(&mut self) -> NonNull<u8> {
        self.address
    }

    /// All that was written was moved away.
    pub(crate) fn was_left(&mut self) {
        self.is_zeroed = true;
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        // SAFETY: this value alone owns the range (invariant), and nothing borrows from it.
        let unmapped = unsafe { munmap(self.mapped.as_ptr().cast(), self.mapped_len) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_whole() {
        let mut large = Large::new(3 << 20).unwrap();
        let bytes = large.bytes();
        assert_eq!(bytes.len(), 3 << 20);
        assert!(bytes.as_ptr().addr().is_multiple_of(ALIGNMENT));
        assert!(bytes.iter().all(|byte| *byte == 0));
        bytes.fill(7);
        assert!(large.bytes().iter().all(|byte| *byte == 7));
    }
}
