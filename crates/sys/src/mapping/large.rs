//! A memory file that two share: mapped page by page, or at once and in large pages.
//!
//! What does not live here: large pages that a file is read into (`large`).

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::{Mapping, Protection, Sharing};
use crate::large::ALIGNMENT as LARGE;

/// How the first bytes of a memory file are mapped, as many as this: one of
/// [`Mapping::in_small_pages`] and [`Mapping::in_large_pages`].
pub type MapMemory = fn(BorrowedFd<'_>, usize) -> io::Result<Mapping>;

/// More than this is given page by page: to find so many large pages costs a machine more than
/// they gain.
const AT_ONCE: usize = 32 << 20;

impl Mapping {
    /// Maps the first `len` bytes of a memory file, shared, for reading and writing. Its pages
    /// come when they are touched.
    ///
    /// # Errors
    /// Those of mmap(2); `EINVAL` for a `len` of 0.
    pub fn in_small_pages(fd: BorrowedFd<'_>, len: usize) -> io::Result<Mapping> {
        Mapping::new(fd, 0, len, Protection::ReadWrite, Sharing::Shared)
    }

    /// Maps the first `len` bytes of a memory file, shared, for reading and writing, and has the kernel
    /// give as much of it in large pages as it will (`MADV_COLLAPSE`, Linux 6.1), whatever
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says of files that nobody asks for.
    /// Where it has them at hand, a page of 2 MiB takes a tenth of the time that its pages of 4 KiB take, and long copies
    /// into it two thirds. Where none are to be had, and for what is longer than 32 MiB, it is
    /// as [`Mapping::in_small_pages`].
    ///
    /// # Errors
    /// Those of mmap(2); `EINVAL` for a `len` of 0.
    pub fn in_large_pages(fd: BorrowedFd<'_>, len: usize) -> io::Result<Mapping> {
        if !(LARGE..=AT_ONCE).contains(&len) {
            return Mapping::in_small_pages(fd, len);
        }
        let mapping = Mapping::aligned(fd, len)?;
        mapping.collapse();
        Ok(mapping)
    }

    /// At an address that large pages fit, too.
    fn aligned(fd: BorrowedFd<'_>, len: usize) -> io::Result<Mapping> {
        let reserved_len = len + LARGE;
        let (none, private) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: no address is asked for, so no existing mapping is touched.
        let reserved = unsafe { mmap_anonymous(ptr::null_mut(), reserved_len, none, private) }?;
        let before = reserved.addr().wrapping_neg() % LARGE;
        // SAFETY: less than `LARGE` is skipped, which is what was reserved beyond `len`.
        let address = unsafe { reserved.byte_add(before) };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: replaces a part of what was just reserved, which nobody else knows.
        let mapped = unsafe { mmap(address, len, prot, MapFlags::SHARED | MapFlags::FIXED, fd, 0) };
        if let Err(error) = mapped {
            // SAFETY: the reservation is this function's own.
            let _ = unsafe { munmap(reserved, reserved_len) };
            return Err(error.into());
        }
        let whole = len.next_multiple_of(rustix::param::page_size());
        // SAFETY: as above; the two ranges are what is reserved and not mapped, before it and
        // after it. An empty one is refused, which changes nothing.
        unsafe {
            let _ = munmap(reserved, before);
            let _ = munmap(address.byte_add(whole), reserved_len - before - whole);
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::Other)?;
        // INVARIANT: just mapped, and nobody else knows the address.
        Ok(Mapping { address, len, protection: Protection::ReadWrite })
    }

    fn collapse(&self) {
        // A range without any page would be left as it is.
        for offset in (0..self.len).step_by(LARGE) {
            let _ = self.read(offset, &mut [0]);
        }
        // SAFETY: the range is mapped (invariant), and no content changes. Without large pages,
        // or without memory for all, it is refused for the rest, and all works.
        unsafe { libc::madvise(self.address.as_ptr().cast(), self.len, libc::MADV_COLLAPSE) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::memfd;

    fn made(len: usize) -> (Mapping, Mapping) {
        let memory = memfd::create("large", len as u64).unwrap();
        let large = Mapping::in_large_pages(memory.as_fd(), len).unwrap();
        (large, Mapping::in_small_pages(memory.as_fd(), len).unwrap())
    }

    #[test]
    fn is_the_file_zeroed_and_whole() {
        for len in [4096, LARGE - 4096, LARGE, 2 * LARGE + 4096, 5 * LARGE + LARGE / 2] {
            let (large, other) = made(len);
            let mut bytes = vec![1; len];
            large.read(0, &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0), "{len}");
            bytes.fill(7);
            large.write(0, &bytes).unwrap();
            bytes.fill(0);
            other.read(0, &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 7), "{len}");
        }
    }

    /// How much of the process's addresses is mapped, where.
    fn areas() -> Vec<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("/memfd:large-areas")).map(String::from).collect()
    }

    #[test]
    fn drop_unmaps_all_and_the_reservation_goes_at_once() {
        let len = 3 * LARGE + 4096;
        let memory = memfd::create("large-areas", len as u64).unwrap();
        let mapping = Mapping::in_large_pages(memory.as_fd(), len).unwrap();
        let start = mapping.address();
        assert_eq!(start % LARGE, 0);
        let area = format!("{:x}-{:x} ", start, start + len);
        assert!(areas().iter().any(|line| line.starts_with(&area)), "{area}: {:?}", areas());
        drop(mapping);
        assert_eq!(areas(), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_may_not_be_written_is_refused() {
        let memory = memfd::create("refused", LARGE as u64).unwrap();
        let reader = memfd::reopen(memory.as_fd(), true).unwrap();
        let error = Mapping::in_large_pages(reader.as_fd(), LARGE).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
}
