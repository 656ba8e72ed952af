//! `madvise(2)`: the advice that has a meaning here.

use alloc::vec::Vec;
use core::ops::Range;

use devmap_driver::{Access, Errno};

use crate::{Area, Engine, Entry, Fatal, Flags, Mmu, SpaceId, Table, page::Kind};

/// What a program says of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// `MADV_NORMAL`.
    Normal,
    /// `MADV_RANDOM`.
    Random,
    /// `MADV_SEQUENTIAL`.
    Sequential,
    /// `MADV_WILLNEED`: files are read ahead.
    WillNeed,
    /// `MADV_DONTNEED`: the pages go; anonymous ones are zeros at the next access.
    DontNeed,
    /// `MADV_DONTNEED_LOCKED`: the same, of locked memory too.
    DontNeedLocked,
    /// `MADV_FREE`: private anonymous pages may be taken when memory runs short, unless they
    /// are written before.
    Free,
    /// `MADV_REMOVE`: a hole in the object.
    Remove,
    /// `MADV_DONTFORK`.
    DontFork,
    /// `MADV_DOFORK`.
    DoFork,
    /// `MADV_DONTDUMP`.
    DontDump,
    /// `MADV_DODUMP`.
    DoDump,
    /// `MADV_WIPEONFORK`.
    WipeOnFork,
    /// `MADV_KEEPONFORK`.
    KeepOnFork,
    /// `MADV_COLD`: the first to be evicted.
    Cold,
    /// `MADV_PAGEOUT`: evicted at once, where that can be.
    PageOut,
    /// `MADV_POPULATE_READ`: every page is faulted in as by a load.
    PopulateRead,
    /// `MADV_POPULATE_WRITE`: every page is faulted in as by a store.
    PopulateWrite,
}

impl Advice {
    /// Of Linux's number; `None` for one that has no meaning here.
    pub fn from_raw(number: i32) -> Option<Advice> {
        Some(match number {
            0 => Advice::Normal,
            1 => Advice::Random,
            2 => Advice::Sequential,
            3 => Advice::WillNeed,
            4 => Advice::DontNeed,
            8 => Advice::Free,
            9 => Advice::Remove,
            10 => Advice::DontFork,
            11 => Advice::DoFork,
            16 => Advice::DontDump,
            17 => Advice::DoDump,
            18 => Advice::WipeOnFork,
            19 => Advice::KeepOnFork,
            20 => Advice::Cold,
            21 => Advice::PageOut,
            22 => Advice::PopulateRead,
            23 => Advice::PopulateWrite,
            24 => Advice::DontNeedLocked,
            _ => return None,
        })
    }

    /// The flags that the advice gives an area; `None`: it is no matter of flags.
    fn flags<F>(self, area: &Area<F>) -> Option<Result<Flags, Errno>> {
        let old = area.flags;
        let order = Flags::RAND_READ.union(Flags::SEQ_READ);
        Some(Ok(match self {
            Advice::Normal => old.without(order),
            Advice::Random => old.without(order).union(Flags::RAND_READ),
            Advice::Sequential => old.without(order).union(Flags::SEQ_READ),
            Advice::DontFork => old.union(Flags::DONTCOPY),
            Advice::DoFork if old.contains(Flags::IO) => return Some(Err(Errno::EINVAL)),
            Advice::DoFork => old.without(Flags::DONTCOPY),
            Advice::DontDump => old.union(Flags::DONTDUMP),
            Advice::DoDump if old.intersects(Flags::SPECIAL) => return Some(Err(Errno::EINVAL)),
            Advice::DoDump => old.without(Flags::DONTDUMP),
            Advice::WipeOnFork if area.file.is_some() => return Some(Err(Errno::EINVAL)),
            Advice::WipeOnFork => old.union(Flags::WIPEONFORK),
            Advice::KeepOnFork => old.without(Flags::WIPEONFORK),
            _ => return None,
        }))
    }
}

impl<M: Mmu> Engine<M> {
    /// `madvise(2)`. What no area holds is skipped, and told at the end.
    ///
    /// # Errors
    /// `EINVAL`: the address is no multiple of a page, or the advice does not suit an
    /// area. `ENOMEM`: a part of the range is not mapped, or there would be too many
    /// areas. `EACCES`: a hole in what may not be written. `EFAULT`: a page to be made
    /// present cannot be had.
    pub fn advise(
        &mut self,
        space: SpaceId,
        start: u64,
        len: u64,
        advice: Advice,
    ) -> Result<(), Errno> {
        if !self.page_size().is_aligned(start) {
            return Err(Errno::EINVAL);
        }
        let aligned = self.page_align(len);
        if len > 0 && aligned == 0 {
            return Err(Errno::EINVAL);
        }
        let end = start.checked_add(aligned).ok_or(Errno::EINVAL)?;
        match advice {
            Advice::PopulateRead => return self.fault_in(space, start, end, Access::Read),
            Advice::PopulateWrite => return self.fault_in(space, start, end, Access::Write),
            _ => {}
        }
        let mut result = Ok(());
        let mut at = start;
        while at < end {
            let Some(area) = self.space(space).areas.find(at) else { return Err(Errno::ENOMEM) };
            if area.start > at {
                result = Err(Errno::ENOMEM);
                at = area.start;
                continue;
            }
            let (area, to) = (area.clone(), area.end.min(end));
            self.advise_area(space, &area, at, to, advice)?;
            at = to;
        }
        result
    }

    fn advise_area(
        &mut self,
        space: SpaceId,
        area: &Area<M::Frame>,
        start: u64,
        end: u64,
        advice: Advice,
    ) -> Result<(), Errno> {
        if let Some(flags) = advice.flags(area) {
            let flags = flags?;
            if flags != area.flags {
                self.modify(space, start, end, flags)?;
            }
            return Ok(());
        }
        let locked = area.flags.contains(Flags::LOCKED) && advice != Advice::DontNeedLocked;
        let pages = self.pages_of(start, end);
        let first = area.page_offset_at(start, self.page_size());
        let indices = first..first + (pages.end - pages.start);
        match advice {
            Advice::WillNeed => {
                // Anonymous pages would come from a swap.
                if let Some(file) = area.file() {
                    self.read_ahead(file, indices);
                }
            }
            Advice::Remove => {
                let file = area.file().filter(|_| !locked).ok_or(Errno::EINVAL)?;
                if !area.flags.contains(Flags::SHARED.union(Flags::MAYWRITE)) {
                    return Err(Errno::EACCES);
                }
                if self.objects.get(file.object.0).spec.size.is_none() || file.content.is_some() {
                    return Err(Errno::EOPNOTSUPP);
                }
                self.punch_hole(file.object, indices);
            }
            _ if locked || area.flags.contains(Flags::PFNMAP) => return Err(Errno::EINVAL),
            Advice::Free if area.file.is_some() => return Err(Errno::EINVAL),
            Advice::Free => self.free_later(space, pages),
            Advice::Cold => self.age(space, pages),
            Advice::PageOut => self.page_out(space, pages),
            _ => self.zap_range(space, pages),
        }
        Ok(())
    }

    /// Faults every page of a range in (`madvise_populate`). Pages before the one that
    /// cannot be had stay.
    fn fault_in(
        &mut self,
        space: SpaceId,
        start: u64,
        end: u64,
        access: Access,
    ) -> Result<(), Errno> {
        let needs = if access == Access::Write { Flags::WRITE } else { Flags::READ };
        for page in self.pages_of(start, end) {
            let address = page * self.page_bytes();
            let area = self.space(space).areas.lookup(address).ok_or(Errno::ENOMEM)?;
            if !area.flags.contains(needs) || area.flags.intersects(Flags::IO.union(Flags::PFNMAP))
            {
                return Err(Errno::EINVAL);
            }
            let entry = self.space(space).table_entry(page);
            if entry.is_none_or(|entry| access == Access::Write && !entry.writable) {
                self.handle_fault(space, address, access).map_err(|fatal| match fatal {
                    Fatal::OutOfMemory => Errno::ENOMEM,
                    _ => Errno::EFAULT,
                })?;
            }
        }
        Ok(())
    }

    /// The pages have not been used (`madvise_cold`).
    fn age(&mut self, space: SpaceId, pages: Range<u64>) {
        let found: Vec<_> = self.entries(space, pages).collect();
        for (at, entry) in found {
            // The table is there, so this does not fail.
            let _ = self.space_mut(space).table.set(at, Entry { accessed: false, ..entry });
            self.pages.get_mut(entry.page.0).accessed = false;
        }
    }

    /// Evicts what this range alone maps and the content can fill again
    /// (`madvise_pageout`).
    fn page_out(&mut self, space: SpaceId, pages: Range<u64>) {
        let found: Vec<_> = self.entries(space, pages).collect();
        for (_, entry) in found {
            // One eviction may take the entries of others with it.
            if self.pages.contains(entry.page.0) && self.pages.get(entry.page.0).mappers.len() == 1
            {
                self.evict_page(entry.page);
            }
        }
    }

    /// Marks private pages as clean, so that they may be taken (`madvise_free_pte_range`).
    fn free_later(&mut self, space: SpaceId, pages: Range<u64>) {
        let found: Vec<_> = self.entries(space, pages).collect();
        for (at, entry) in found {
            let page = self.pages.get_mut(entry.page.0);
            if page.kind != Kind::Anonymous || page.mappers.len() > 1 {
                continue;
            }
            (page.dirty, page.accessed) = (false, false);
            self.cache.lazy.insert(entry.page);
            let clean = Entry { accessed: false, dirty: false, ..entry };
            // The table is there, so this does not fail.
            let _ = self.space_mut(space).table.set(at, clean);
        }
    }
}
