//! Memory for the pages of one answer, which its thread uses again for the next: a request
//! of the kernel's reads up to 1 MiB, which would be mapped, faulted in and unmapped for each.
//! It begins with a page: the kernel looks up each page that it copies from, and copies into
//! whole ones.

use std::{
    cell::Cell,
    ops::{Deref, DerefMut, Range},
};

use devmap_driver::Errno;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes of any content, to be overwritten.
pub(crate) struct Buffer {
    memory: Vec<u8>,
    /// Which of them are the content.
    used: Range<usize>,
}

impl Buffer {
    /// `len` bytes.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(len: usize) -> Result<Buffer, Errno> {
        let mut memory = SPARE.take();
        let page = rustix::param::page_size();
        if memory.len() < len + page {
            // What it holds need not be moved.
            memory.clear();
            memory.try_reserve_exact(len + page).map_err(|_| Errno::ENOMEM)?;
            memory.resize(len + page, 0);
        }
        let start = memory.as_ptr().align_offset(page);
        Ok(Buffer { memory, used: start..start + len })
    }

    /// Only this part of it.
    pub(super) fn part(self, part: Range<usize>) -> Buffer {
        let mut buffer = self;
        buffer.used = buffer.used.start + part.start..buffer.used.start + part.end;
        buffer
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.used.clone()]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.used.clone()]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        SPARE.set(std::mem::take(&mut self.memory));
    }
}
