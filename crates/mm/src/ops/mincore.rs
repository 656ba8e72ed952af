//! `mincore(2)`: which pages are resident.

use alloc::vec::Vec;

use devmap_driver::Errno;

use crate::{Engine, Mmu, SpaceId};

impl<M: Mmu> Engine<M> {
    /// `mincore(2)`: for each page whether it can be used without waiting. Of a file,
    /// that is whether it is cached; of private pages, whether they are there.
    ///
    /// # Errors
    /// `EINVAL`: the address is no multiple of a page. `ENOMEM`: a part of the range is
    /// not mapped.
    pub fn resident(&self, space: SpaceId, start: u64, len: u64) -> Result<Vec<bool>, Errno> {
        let page_size = self.page_size();
        if !page_size.is_aligned(start) {
            return Err(Errno::EINVAL);
        }
        let task_size = self.mmu.task_size();
        if start > task_size || len > task_size - start {
            return Err(Errno::ENOMEM);
        }
        let end = start + self.page_align(len);
        let mut resident = Vec::new();
        for page in self.pages_of(start, end) {
            let address = page * page_size.bytes();
            let area = self.space(space).areas.lookup(address).ok_or(Errno::ENOMEM)?;
            let present = self.space(space).table_entry(page).is_some();
            let cached = |file: &crate::area::Mapped<_>| {
                let key = (file.file.object, area.page_offset_at(address, page_size));
                self.cache.pages.contains_key(&key)
            };
            resident.push(present || area.file.as_ref().is_some_and(cached));
        }
        Ok(resident)
    }
}
