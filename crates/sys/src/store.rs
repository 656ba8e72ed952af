//! The file behind a page cache: a memfd that only its spans map, as sparse as what it
//! caches. What does not live here: which pages are in it, and why.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::{FallocateFlags, fallocate, fstat};

use crate::{check, memfd};

/// A page cache's file, at the offsets of what it caches.
///
/// # Invariants
/// Bytes of a frozen range that are there do not change until it thaws: [`Store::write`]
/// and [`Store::punch`] refuse it, no span maps the file for shared writing, and nobody
/// else has the descriptor.
#[derive(Debug)]
pub struct Store {
    file: OwnedFd,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Spans that map the file for shared writing.
    writers: usize,
    /// What [`Frozen`] values hold.
    frozen: Vec<Range<u64>>,
}

impl State {
    fn check(&self, bytes: &Range<u64>) -> io::Result<()> {
        let overlaps = |frozen: &Range<u64>| frozen.start < bytes.end && bytes.start < frozen.end;
        if self.frozen.iter().any(overlaps) { Err(busy()) } else { Ok(()) }
    }
}

fn busy() -> io::Error {
    io::Error::from_raw_os_error(libc::ETXTBSY)
}

/// A range that does not change until this is dropped.
#[derive(Debug)]
pub(crate) struct Frozen {
    store: Arc<Store>,
    bytes: Range<u64>,
}

/// The right to map a store for shared writing.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Store>);

impl Store {
    /// An empty one, in which every offset that mmap(2) takes exists. `name` is what
    /// `/proc/PID/maps` shows after `/memfd:`.
    ///
    /// # Errors
    /// Those of memfd_create(2) and ftruncate(2).
    pub fn new(name: &str) -> io::Result<Arc<Store>> {
        let whole_pages = i64::MAX as u64 & !(rustix::param::page_size() as u64 - 1);
        let file = memfd::create(name, whole_pages)?;
        Ok(Arc::new(Store { file, state: RwLock::default() }))
    }

    /// Supplies content.
    ///
    /// # Errors
    /// `ETXTBSY` when a slice of it is held; those of pwrite(2).
    pub fn write(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        let state = self.shared();
        state.check(&(offset..offset + bytes.len() as u64))?;
        while !bytes.is_empty() {
            let written = rustix::io::pwrite(&self.file, bytes, offset)?;
            bytes = &bytes[written..];
            offset += written as u64;
        }
        Ok(())
    }

    /// As [`Store::write`], of memory that others may write.
    ///
    /// # Safety
    /// `from` is mapped for `len` bytes.
    pub(crate) unsafe fn write_from(
        &self,
        offset: u64,
        from: *const u8,
        len: usize,
    ) -> io::Result<()> {
        let state = self.shared();
        state.check(&(offset..offset + len as u64))?;
        let mut done = 0;
        while done < len {
            let to = libc::off_t::try_from(offset + done as u64)
                .map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
            // SAFETY: the kernel reads memory that is mapped (the caller's contract).
            let written = check(unsafe {
                libc::pwrite(self.file.as_raw_fd(), from.add(done).cast(), len - done, to)
            });
            match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => done += written? as usize,
            }
        }
        Ok(())
    }

    /// Copies content out; what is not there is zeros.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            match rustix::io::pread(&self.file, &mut into[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Drops pages, from every span too (`FALLOC_FL_PUNCH_HOLE`).
    ///
    /// # Errors
    /// `ETXTBSY` when a slice of it is held; those of fallocate(2).
    pub fn punch(&self, bytes: Range<u64>) -> io::Result<()> {
        let state = self.shared();
        state.check(&bytes)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, bytes.start, bytes.end - bytes.start)?)
    }

    /// The bytes of memory that the pages take, as the kernel counts them.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn held(&self) -> io::Result<u64> {
        Ok(fstat(&self.file)?.st_blocks as u64 * 512)
    }

    /// Whether bytes of it are lent as slices.
    pub fn is_frozen(&self, bytes: &Range<u64>) -> bool {
        self.shared().check(bytes).is_err()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn freeze(self: &Arc<Self>, bytes: Range<u64>) -> io::Result<Frozen> {
        let mut state = self.exclusive();
        if state.writers > 0 {
            return Err(busy());
        }
        state.frozen.push(bytes.clone());
        Ok(Frozen { store: self.clone(), bytes })
    }

    pub(crate) fn writer(self: &Arc<Self>) -> io::Result<Writer> {
        let mut state = self.exclusive();
        if !state.frozen.is_empty() {
            return Err(busy());
        }
        state.writers += 1;
        Ok(Writer(self.clone()))
    }

    // The state is whole between any two statements, so a panic of a holder harms nothing.
    fn shared(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let mut state = self.store.exclusive();
        if let Some(at) = state.frozen.iter().position(|frozen| *frozen == self.bytes) {
            state.frozen.swap_remove(at);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.exclusive().writers -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_frozen_stays() {
        let page = rustix::param::page_size() as u64;
        let store = Store::new("frozen").unwrap();
        store.write(page, &[7; 16]).unwrap();
        let frozen = store.freeze(page..2 * page).unwrap();
        assert!(store.is_frozen(&(page + 3..page + 4)));
        let refused = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ETXTBSY));
        };
        refused(store.write(page + 8, b"x"));
        refused(store.punch(0..2 * page));
        refused(store.writer().map(drop));
        store.write(0, b"beside").unwrap();
        drop(frozen);
        store.punch(0..2 * page).unwrap();
        assert_eq!(store.held().unwrap(), 0);
        let writer = store.writer().unwrap();
        refused(store.freeze(0..page).map(drop));
        drop(writer);
        drop(store.freeze(0..page).unwrap());
    }
}
