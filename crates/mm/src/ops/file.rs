//! `read(2)` and `write(2)` of a file whose pages are cached, so that they agree with its maps.

use alloc::sync::Arc;

use devmap_driver::{Access, Errno};

use crate::{Engine, Fatal, File, Frame, Mmu, ObjectId};

impl<M: Mmu> Engine<M> {
    /// `read(2)` from byte `offset` on, by the page cache (`filemap_read`): how many bytes
    /// there were.
    ///
    /// # Errors
    /// `EBADF`: not opened for reading. `EIO`, `ENOMEM`: there is no page; if it is not the
    /// first, the bytes before it are the answer.
    pub fn read(
        &mut self,
        file: &Arc<File<M::Frame>>,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, Errno> {
        if !file.mode.read {
            return Err(Errno::EBADF);
        }
        self.refresh_size(file);
        let size = self.size(file.object).unwrap_or(u64::MAX);
        let len = size.saturating_sub(offset).min(into.len() as u64) as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let page = match self.get_page(file, self.page_size().page_of(at), Access::Read) {
                Ok(page) => page,
                Err(_) if done > 0 => break,
                Err(Fatal::OutOfMemory) => return Err(Errno::ENOMEM),
                Err(_) => return Err(Errno::EIO),
            };
            let start = (at % self.page_bytes()) as usize;
            let count = (len - done).min(self.page_bytes() as usize - start);
            self.pages.get(page.0).frame.read(start, &mut into[done..done + count]);
            self.drop_unused(page);
            done += count;
        }
        Ok(done)
    }

    /// `write(2)` has stored these bytes behind the page cache: the pages that are in it
    /// follow, and so does the length.
    pub fn written(&mut self, object: ObjectId, offset: u64, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len() as u64);
        if self.size(object).is_some_and(|size| size < end) {
            // Only lengths that no file has are refused, and nobody stored there.
            let _ = self.truncate(object, end);
        }
        let pages = self.page_size().page_of(offset)..self.page_size().pages_for(end);
        for (index, page) in self.cached_in(object, pages) {
            let first = index * self.page_bytes();
            let (from, to) = (offset.max(first), end.min(first + self.page_bytes()));
            let part = &bytes[(from - offset) as usize..(to - offset) as usize];
            self.pages.get(page.0).frame.write((from - first) as usize, part);
        }
    }
}
