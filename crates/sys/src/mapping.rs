//! A shared mapping in this process that is only ever copied from and to:
//! others write it at the same time, so it is never a slice.
//!
//! What does not live here: mappings of other processes (`ptrace` injects them).

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, MsyncFlags, ProtFlags, madvise, mlock, mmap, mprotect, msync,
    munmap,
};

use crate::arch;

mod large;
mod sweep;

pub use large::MapMemory;

/// What this process may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// `PROT_READ`.
    Read,
    /// `PROT_READ | PROT_WRITE`.
    ReadWrite,
}

/// What `mprotect` permits of a part of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// `PROT_NONE`.
    Nothing,
    /// `PROT_READ`.
    Read,
    /// `PROT_READ | PROT_WRITE`.
    ReadWrite,
}

/// Who sees what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// `MAP_SHARED`: everybody who maps the file.
    Shared,
    /// `MAP_PRIVATE`: this process only.
    Private,
}

/// In which order pages are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In none: `MADV_RANDOM`.
    Random,
    /// One after the other: `MADV_SEQUENTIAL`.
    Sequential,
}

/// A mapping of a file, unmapped on drop.
///
/// Copies of 4 or 8 bytes at an offset that is a multiple of their length are
/// single atomic accesses. Longer copies are not atomic: a byte that another
/// writes meanwhile arrives old or new.
///
/// # Invariants
/// `[address, address + len)` is mapped with `protection` until drop, by this
/// value alone.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    len: usize,
    protection: Protection,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: every access through `&Mapping` is atomic or made by instructions the
// compiler does not see; no reference to the memory is ever handed out.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from byte `offset`, a multiple of the page size.
    ///
    /// The file must not become shorter while mapped, else an access ends this
    /// process by SIGBUS; files of [`crate::memfd::create`] cannot.
    ///
    /// # Errors
    /// Those of mmap(2); `EINVAL` for a `len` of 0.
    pub fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        protection: Protection,
        sharing: Sharing,
    ) -> io::Result<Self> {
        let prot = match protection {
            Protection::Read => ProtFlags::READ,
            Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        let flags = match sharing {
            Sharing::Shared => MapFlags::SHARED,
            Sharing::Private => MapFlags::PRIVATE,
        };
        // SAFETY: no address is asked for, so no existing mapping is touched.
        let address = unsafe { mmap(ptr::null_mut(), len, prot, flags, fd, offset) }?;
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::Other)?;
        // INVARIANT: just mapped, and nobody else knows the address.
        Ok(Self { address, len, protection })
    }

    /// The first address, for diagnostics and for kernel calls that take one.
    pub fn address(&self) -> usize {
        self.address.as_ptr() as usize
    }

    /// Bytes mapped; never 0.
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies from the mapping.
    ///
    /// # Errors
    /// `EINVAL` when the range leaves the mapping.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> io::Result<()> {
        let range = self.range(offset, into.len())?;
        // SAFETY: range() has checked that offset is inside the mapping.
        let from = unsafe { self.address.as_ptr().add(range.start) };
        match into.len() {
            4 if from.addr() % 4 == 0 => {
                // SAFETY: four readable bytes (invariant, range), aligned, and
                // accessed only atomically or by instructions unseen by the compiler.
                let word = unsafe { AtomicU32::from_ptr(from.cast()) };
                into.copy_from_slice(&word.load(Ordering::Acquire).to_ne_bytes());
            }
            8 if from.addr() % 8 == 0 => {
                // SAFETY: as for four bytes.
                let word = unsafe { AtomicU64::from_ptr(from.cast()) };
                into.copy_from_slice(&word.load(Ordering::Acquire).to_ne_bytes());
            }
            // SAFETY: readable for into.len() bytes (invariant, range); `into` is a
            // live exclusive slice, so it is not part of this mapping.
            _ => unsafe { arch::copy_from_shared(from, into) },
        }
        Ok(())
    }

    /// Copies to the mapping.
    ///
    /// # Errors
    /// `EINVAL` when the range leaves the mapping, `EACCES` when it was made
    /// with [`Protection::Read`].
    pub fn write(&self, offset: usize, from: &[u8]) -> io::Result<()> {
        let range = self.range(offset, from.len())?;
        if self.protection == Protection::Read {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        // SAFETY: range() has checked that offset is inside the mapping.
        let to = unsafe { self.address.as_ptr().add(range.start) };
        match *from {
            [a, b, c, d] if to.addr() % 4 == 0 => {
                // SAFETY: four writable bytes (invariant, range, protection), aligned,
                // and accessed only atomically or by instructions unseen by the compiler.
                let word = unsafe { AtomicU32::from_ptr(to.cast()) };
                word.store(u32::from_ne_bytes([a, b, c, d]), Ordering::Release);
            }
            [a, b, c, d, e, f, g, h] if to.addr() % 8 == 0 => {
                // SAFETY: as for four bytes.
                let word = unsafe { AtomicU64::from_ptr(to.cast()) };
                word.store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), Ordering::Release);
            }
            // SAFETY: writable for from.len() bytes (invariant, range, protection);
            // `from` is a live slice, so it is not part of this mapping.
            _ => unsafe { arch::copy_to_shared(to, from) },
        }
        Ok(())
    }

    /// Keeps the pages in memory (mlock(2)), which also makes all of them
    /// present. Best effort: false when the limit `RLIMIT_MEMLOCK` forbids it.
    pub fn lock(&self) -> bool {
        // SAFETY: the range is mapped (invariant); locking changes no content.
        unsafe { mlock(self.address.as_ptr().cast(), self.len) }.is_ok()
    }

    /// Writes what was stored to a shared mapping to its file (`msync(2)`, `MS_SYNC`).
    ///
    /// # Errors
    /// Those of msync(2).
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is mapped (invariant); writing back changes no content.
        Ok(unsafe { msync(self.address.as_ptr().cast(), self.len, MsyncFlags::SYNC) }?)
    }

    /// Permits this for whole pages (`mprotect(2)`). An access that is not permitted then
    /// ends this process by SIGSEGV.
    ///
    /// # Errors
    /// `EINVAL` when the range leaves the mapping; those of mprotect(2).
    pub fn protect(&self, bytes: Range<usize>, permission: Permission) -> io::Result<()> {
        let range = self.range(bytes.start, bytes.len())?;
        let flags = match permission {
            Permission::Nothing => MprotectFlags::empty(),
            Permission::Read => MprotectFlags::READ,
            Permission::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        // SAFETY: range() has checked that all is inside the mapping, which is this
        // value's own (invariant) and of which no reference is ever handed out; an access
        // without permission is a signal, not undefined.
        let from = unsafe { self.address.as_ptr().add(range.start) };
        // SAFETY: as above.
        Ok(unsafe { mprotect(from.cast(), range.len(), flags) }?)
    }

    /// Drops the pages, private copies too: the next access finds those of the file
    /// (`madvise(2)`, `MADV_DONTNEED`).
    ///
    /// # Errors
    /// Those of madvise(2).
    pub fn dont_need(&self) -> io::Result<()> {
        let advice = Advice::LinuxDontNeed;
        // SAFETY: the range is this value's own (invariant), and its bytes may change at any
        // time for all who access it.
        Ok(unsafe { madvise(self.address.as_ptr().cast(), self.len, advice) }?)
    }

    /// Tells the kernel in which order pages will be looked for (madvise(2)).
    ///
    /// # Errors
    /// Those of madvise(2).
    pub fn advise(&self, order: Order) -> io::Result<()> {
        let advice = match order {
            Order::Random => Advice::Random,
            Order::Sequential => Advice::Sequential,
        };
        // SAFETY: the range is mapped (invariant); the advice changes no content.
        Ok(unsafe { madvise(self.address.as_ptr().cast(), self.len, advice) }?)
    }

    fn range(&self, offset: usize, len: usize) -> io::Result<Range<usize>> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(offset..end),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value alone owns the range (invariant) and hands out no reference.
        let result = unsafe { munmap(self.address.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok(), "munmap: {result:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::memfd;

    const LEN: usize = 8192;

    fn mappings(protection: Protection) -> (Mapping, Mapping) {
        let memory = memfd::create("test", LEN as u64).unwrap();
        let map = |protection| Mapping::new(memory.as_fd(), 0, LEN, protection, Sharing::Shared);
        (map(Protection::ReadWrite).unwrap(), map(protection).unwrap())
    }

    fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
        result.unwrap_err().raw_os_error()
    }

    #[test]
    fn what_is_written_is_read_at_every_alignment_and_length() {
        let (one, two) = mappings(Protection::Read);
        for offset in (0..9).chain([4090, 4096]) {
            for len in (0..80).chain([4000, 4096]) {
                let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + offset * 3 + 1) as u8).collect();
                one.write(0, &[0; LEN]).unwrap();
                one.write(offset, &bytes).unwrap();
                let mut all = vec![0xff; LEN];
                two.read(0, &mut all).unwrap();
                let mut expected = vec![0; LEN];
                expected[offset..offset + len].copy_from_slice(&bytes);
                assert!(all == expected, "{len} bytes at {offset}");
                let mut part = vec![0xff; len];
                two.read(offset, &mut part).unwrap();
                assert_eq!(part, bytes);
            }
        }
    }

    #[test]
    fn ranges_outside_are_refused() {
        let (mapping, _) = mappings(Protection::Read);
        for (offset, len) in [(LEN, 1), (LEN - 3, 4), (0, LEN + 1), (usize::MAX, 1)] {
            assert_eq!(errno(mapping.read(offset, &mut vec![0; len])), Some(libc::EINVAL));
            assert_eq!(errno(mapping.write(offset, &vec![0; len])), Some(libc::EINVAL));
        }
        mapping.read(LEN, &mut []).unwrap();
        assert_eq!(mapping.len(), LEN);
    }

    #[test]
    fn a_read_only_mapping_refuses_writes() {
        let (_, mapping) = mappings(Protection::Read);
        assert_eq!(errno(mapping.write(0, &[1])), Some(libc::EACCES));
    }

    #[test]
    fn private_writes_stay_private() {
        let memory = memfd::create("test", LEN as u64).unwrap();
        let map = |sharing| {
            Mapping::new(memory.as_fd(), 4096, 4096, Protection::ReadWrite, sharing).unwrap()
        };
        let (private, shared) = (map(Sharing::Private), map(Sharing::Shared));
        private.write(0, b"mine").unwrap();
        let mut bytes = [1; 4];
        shared.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4]);
    }

    #[test]
    fn bad_mappings_are_refused() {
        let memory = memfd::create("test", LEN as u64).unwrap();
        let map = |offset, len| {
            Mapping::new(memory.as_fd(), offset, len, Protection::Read, Sharing::Shared)
        };
        assert_eq!(errno(map(0, 0)), Some(libc::EINVAL));
        assert_eq!(errno(map(1, 4096)), Some(libc::EINVAL));
    }

    #[test]
    fn drop_unmaps() {
        // The name tells this mapping from those of other tests.
        let memory = memfd::create("drop-unmaps", LEN as u64).unwrap();
        let mapping =
            Mapping::new(memory.as_fd(), 0, LEN, Protection::Read, Sharing::Shared).unwrap();
        let mapped = || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines().find(|line| line.contains("/memfd:drop-unmaps")).map(String::from)
        };
        assert!(mapped().unwrap().starts_with(&format!("{:x}-", mapping.address())));
        drop(mapping);
        assert_eq!(mapped(), None);
    }

    /// A word is never seen half written.
    #[test]
    fn words_are_whole() {
        let (writer, reader) = mappings(Protection::Read);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..200_000 {
                    writer.write(8, &[i as u8; 8]).unwrap();
                    writer.write(20, &[i as u8; 4]).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let (mut eight, mut four) = ([0; 8], [0; 4]);
                reader.read(8, &mut eight).unwrap();
                reader.read(20, &mut four).unwrap();
                assert_eq!(eight, [eight[0]; 8]);
                assert_eq!(four, [four[0]; 4]);
            }
        });
    }
}
