//! A shared mapping in this process that is only ever copied from and to:
//! others write it at the same time, so it is never a slice.
//!
//! What does not live here: mappings of other processes (`ptrace` injects them).

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, munmap};

use crate::arch;

/// What this process may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
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
