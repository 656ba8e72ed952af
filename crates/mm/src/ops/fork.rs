//! `fork(2)`: `dup_mmap`, `copy_page_range`.

use devmap_driver::Errno;

use crate::{Area, Engine, Entry, Flags, Mmu, SpaceId, Table};

impl<M: Mmu> Engine<M> {
    /// `fork(2)`: a copy of an address space. Private pages are shared until one side
    /// stores to them.
    ///
    /// # Errors
    /// `ENOMEM`; there is no copy then.
    pub fn fork(&mut self, parent: SpaceId) -> Result<SpaceId, Errno> {
        let child = self.new_space()?;
        let areas: alloc::vec::Vec<_> = self.space(parent).areas.from(0).cloned().collect();
        for area in areas {
            if area.flags.contains(Flags::DONTCOPY) {
                continue;
            }
            let wipe = area.flags.contains(Flags::WIPEONFORK);
            let anon = area.anon.filter(|_| !wipe).map(|_| self.new_anon(true));
            // Locks are not inherited.
            let flags = area.flags.without(Flags::LOCKS);
            self.space_mut(child).areas.insert(Area { anon, flags, ..area.clone() });
            // What can fault again is not copied (vma_needs_copy).
            let copies = area.flags.contains(Flags::PFNMAP) || area.anon.is_some();
            if copies
                && !wipe
                && let Err(errno) = self.copy_entries(parent, child, &area)
            {
                self.drop_space(child);
                return Err(errno);
            }
        }
        Ok(child)
    }

    /// The same pages in both; of private ones, neither may store without a fault.
    fn copy_entries(
        &mut self,
        parent: SpaceId,
        child: SpaceId,
        area: &Area<M::Frame>,
    ) -> Result<(), Errno> {
        let pages = self.pages_of(area.start, area.end);
        let entries: alloc::vec::Vec<_> = self.entries(parent, pages).collect();
        for (at, entry) in entries {
            let writable = entry.writable && !area.flags.is_cow();
            self.space_mut(parent).table.set(at, Entry { writable, ..entry })?;
            let copy = Entry { writable, dirty: false, accessed: false, ..entry };
            self.space_mut(child).table.set(at, copy)?;
            self.add_mapper(entry.page, child, at);
        }
        Ok(())
    }
}
