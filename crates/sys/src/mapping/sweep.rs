//! Tight loops over a mapping, as programs that stream through a device's memory make
//! them. For measurements; whoever wants the bytes copies them (`Mapping::read`).

use std::io;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Mapping, Protection};

impl Mapping {
    /// The sum of all 64-bit words, each loaded once, in order.
    pub fn sum(&self) -> u64 {
        let add = |sum: u64, word: &AtomicU64| sum.wrapping_add(word.load(Ordering::Relaxed));
        self.words().iter().fold(0, add)
    }

    /// Stores `word` to all 64-bit words, in order.
    ///
    /// # Errors
    /// `EACCES` when the mapping was made with [`Protection::Read`].
    pub fn fill(&self, word: u64) -> io::Result<()> {
        if self.protection == Protection::Read {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        self.words().iter().for_each(|to| to.store(word, Ordering::Relaxed));
        Ok(())
    }

    /// The mapping as words that are only accessed atomically; bytes past the last whole
    /// word are left out.
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `len` bytes are mapped and readable while `self` lives (invariant), and
        // page aligned; atomics may be shared with whoever else writes the memory. Without
        // write permission they are only loaded, see `fill`.
        unsafe { slice::from_raw_parts(self.address.as_ptr().cast(), self.len / 8) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use crate::{mapping::Sharing, memfd};

    use super::*;

    #[test]
    fn what_is_filled_is_summed() {
        let memory = memfd::create("test", 4096).unwrap();
        let map = |protection| {
            Mapping::new(memory.as_fd(), 0, 4096, protection, Sharing::Shared).unwrap()
        };
        let (writable, readable) = (map(Protection::ReadWrite), map(Protection::Read));
        writable.fill(3).unwrap();
        assert_eq!(readable.sum(), 3 * 512);
        assert_eq!(readable.fill(1).unwrap_err().raw_os_error(), Some(libc::EACCES));
    }
}
