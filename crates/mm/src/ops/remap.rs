//! `mremap(2)`: `mm/mremap.c` as of Linux 6.18, which moves a range of several areas.

use devmap_driver::Errno;

use crate::{
    Area, Engine, Flags, Mmu, Placement, SpaceId, Table,
    merge::{Origin, Proposal},
};

/// Where the map may end up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemapTo {
    /// It stays where it is.
    Here,
    /// `MREMAP_MAYMOVE`: anywhere.
    Anywhere,
    /// `MREMAP_MAYMOVE | MREMAP_FIXED`: to this address, in place of what is there.
    Fixed(u64),
    /// `MREMAP_MAYMOVE | MREMAP_DONTUNMAP`: the pages go to this address if it is free, or
    /// anywhere; the old map stays, without them.
    Beside(u64),
    /// `MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED`: the same, to this address in
    /// place of what is there.
    BesideFixed(u64),
}

impl RemapTo {
    /// The address that it names (`vrm_implies_new_addr`).
    fn target(self) -> Option<u64> {
        match self {
            RemapTo::Here | RemapTo::Anywhere => None,
            RemapTo::Fixed(to) | RemapTo::Beside(to) | RemapTo::BesideFixed(to) => Some(to),
        }
    }

    /// `MREMAP_DONTUNMAP`.
    fn keeps(self) -> bool {
        matches!(self, RemapTo::Beside(_) | RemapTo::BesideFixed(_))
    }
}

/// A call of `mremap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemapRequest {
    /// The start of the range.
    pub start: u64,
    /// Its length; 0 asks for a second map of shared memory.
    pub old_len: u64,
    /// Its length afterwards.
    pub new_len: u64,
    /// Where it may end up.
    pub to: RemapTo,
}

impl<M: Mmu> Engine<M> {
    /// `mremap(2)`: the address of the map afterwards.
    ///
    /// # Errors
    /// `EINVAL`: an address is no multiple of a page, the new length is 0 or too long, what is
    /// to go ends past the address space, source and target overlap, a second map of private
    /// memory. `EFAULT`: the range is
    /// not mapped, or not one area where it must be, or must not grow. `ENOMEM`: no
    /// room, or too many areas.
    pub fn remap(&mut self, space: SpaceId, request: &RemapRequest) -> Result<u64, Errno> {
        let old_len = self.page_align(request.old_len);
        let new_len = self.page_align(request.new_len);
        let RemapRequest { start, to, .. } = *request;
        self.check_remap(space, start, old_len, new_len, to)?;
        match to {
            RemapTo::Fixed(_) | RemapTo::BesideFixed(_) if old_len == new_len => {
                self.move_range(space, start, old_len, to)
            }
            RemapTo::Here | RemapTo::Anywhere => {
                self.check_area(space, start, old_len, new_len, to)?;
                self.resize(space, start, old_len, new_len, to)
            }
            _ => {
                self.check_area(space, start, old_len, new_len, to)?;
                self.move_to(space, start, old_len, new_len, to)
            }
        }
    }

    fn check_remap(
        &self,
        space: SpaceId,
        start: u64,
        old_len: u64,
        new_len: u64,
        to: RemapTo,
    ) -> Result<(), Errno> {
        let page_size = self.page_size();
        let task_size = self.mmu.task_size();
        if !page_size.is_aligned(start) || new_len == 0 || new_len > task_size {
            return Err(Errno::EINVAL);
        }
        let Some(target) = to.target() else { return Ok(()) };
        // It may wrap, and then nothing overlaps and nothing is found there.
        let old_end = start.wrapping_add(old_len);
        if target > task_size - new_len
            || !page_size.is_aligned(target)
            || (to.keeps() && old_len != new_len)
            || (old_end > target && target + new_len > start)
        {
            return Err(Errno::EINVAL);
        }
        if self.space(space).areas.len() + 2 >= self.limits.areas.saturating_sub(3) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// Whether the area may be changed so (`check_prep_vma`).
    fn check_area(
        &self,
        space: SpaceId,
        start: u64,
        mut old_len: u64,
        new_len: u64,
        to: RemapTo,
    ) -> Result<(), Errno> {
        let area = self.space(space).areas.lookup(start).ok_or(Errno::EFAULT)?;
        if new_len <= old_len && to.target().is_none() {
            return Ok(());
        }
        let fixed = area.flags.intersects(Flags::DONTEXPAND.union(Flags::PFNMAP));
        if old_len == 0 && !area.flags.intersects(Flags::SHARED.union(Flags::MAYSHARE)) {
            return Err(Errno::EINVAL);
        }
        if to.keeps() && fixed {
            return Err(Errno::EINVAL);
        }
        old_len = old_len.min(new_len);
        if old_len > area.end - start {
            return Err(Errno::EFAULT);
        }
        if new_len > old_len && fixed {
            return Err(Errno::EFAULT);
        }
        Ok(())
    }

    /// Moves all areas of a range, and the gaps between them (`remap_move`).
    fn move_range(
        &mut self,
        space: SpaceId,
        start: u64,
        len: u64,
        to: RemapTo,
    ) -> Result<u64, Errno> {
        let end = start.wrapping_add(len);
        let target = to.target().ok_or(Errno::EINVAL)?;
        let mut at = start;
        let mut seen = false;
        while at < end {
            let next = self.space(space).areas.find(at).filter(|area| area.start < end);
            let Some(area) = next else { break };
            let (from, until) = (area.start.max(at), area.end.min(end));
            if !seen && from > start {
                return Err(Errno::EFAULT);
            }
            let (len, target) = (until - from, target + (from - start));
            let to = if to.keeps() { RemapTo::BesideFixed(target) } else { RemapTo::Fixed(target) };
            self.check_area(space, from, len, len, to)?;
            self.move_to(space, from, len, len, to)?;
            seen = true;
            at = until;
        }
        if seen { Ok(target) } else { Err(Errno::EFAULT) }
    }

    /// Moves a part of an area to where the caller says (`mremap_to`).
    fn move_to(
        &mut self,
        space: SpaceId,
        start: u64,
        mut old_len: u64,
        new_len: u64,
        to: RemapTo,
    ) -> Result<u64, Errno> {
        let target = match to {
            RemapTo::Beside(hint) => {
                self.get_unmapped_area(space, Placement::Hint(hint), new_len)?
            }
            to => to.target().ok_or(Errno::EINVAL)?,
        };
        self.do_unmap(space, target, target + new_len)?;
        if self.space(space).areas.lookup(start).is_none() {
            return Err(Errno::EFAULT);
        }
        if old_len > new_len {
            self.unmap(space, start + new_len, old_len - new_len)?;
            old_len = new_len;
        }
        self.move_area(space, (start, old_len), (target, new_len), to)
    }

    /// Resizes in place, or by a move if that is permitted (`mremap_at`).
    fn resize(
        &mut self,
        space: SpaceId,
        start: u64,
        old_len: u64,
        new_len: u64,
        to: RemapTo,
    ) -> Result<u64, Errno> {
        if old_len >= new_len {
            if old_len > new_len {
                self.unmap(space, start + new_len, old_len - new_len)?;
            }
            return Ok(start);
        }
        let areas = &self.space(space).areas;
        let area = areas.lookup(start).ok_or(Errno::EFAULT)?.clone();
        let grown = start + new_len;
        let is_free = areas.find(area.end).is_none_or(|next| next.start >= grown);
        if area.end == start + old_len && is_free && grown <= self.mmu.task_size() {
            return self.grow(space, &area, grown).map(|()| start);
        }
        if to == RemapTo::Here {
            return Err(Errno::ENOMEM);
        }
        let target = self.get_unmapped_area(space, Placement::Hint(0), new_len)?;
        self.move_area(space, (start, old_len), (target, new_len), to)
    }

    /// `vma_merge_extend`.
    fn grow(&mut self, space: SpaceId, area: &Area<M::Frame>, end: u64) -> Result<(), Errno> {
        let proposal = Proposal {
            start: area.end,
            end,
            flags: area.flags,
            page_offset: area.page_offset_at(area.end, self.page_size()),
            file: area.file.clone(),
            anon: area.anon,
            origin: Origin::Growth,
        };
        self.merge_range(space, &proposal).ok_or(Errno::ENOMEM)?;
        if area.flags.contains(Flags::LOCKED) {
            let _ = self.populate(space, area.end, end);
        }
        Ok(())
    }

    /// `move_vma`: the new area, the entries, and the end of the old one. Ranges are where
    /// they start, and how long they are.
    fn move_area(
        &mut self,
        space: SpaceId,
        (start, old_len): (u64, u64),
        (target, new_len): (u64, u64),
        to: RemapTo,
    ) -> Result<u64, Errno> {
        if self.space(space).areas.len() >= self.limits.areas.saturating_sub(3) {
            return Err(Errno::ENOMEM);
        }
        let page_size = self.page_size();
        let area = self.space(space).areas.lookup(start).ok_or(Errno::EFAULT)?.clone();
        // Anonymous memory that was never written may count its pages anew, and so
        // merge with its new neighbours.
        let page_offset = if area.file.is_none() && area.anon.is_none() {
            page_size.page_of(target)
        } else {
            area.page_offset_at(start, page_size)
        };
        let proposal = Proposal {
            start: target,
            end: target + new_len,
            flags: area.flags,
            page_offset,
            file: area.file.clone(),
            anon: area.anon,
            origin: Origin::Area,
        };
        self.copy_entries_to(space, start, old_len, target)?;
        let holder = self.add_range(space, proposal);
        self.zap_range(space, self.pages_of(start, start + old_len));
        if to.keeps() {
            self.keep_empty(space, (start, old_len), holder);
        } else if old_len > 0 {
            self.do_unmap(space, start, start + old_len)?;
        }
        if new_len > old_len && area.flags.contains(Flags::LOCKED) {
            let _ = self.populate(space, target + old_len, target + new_len);
        }
        Ok(target)
    }

    /// The old area, without its pages: it is not locked any more, and if all of it moved it
    /// is as new (`dontunmap_complete`).
    fn keep_empty(&mut self, space: SpaceId, (start, len): (u64, u64), holder: u64) {
        let old = self.space(space).areas.lookup(start).map(|area| area.start);
        let area = old.and_then(|old| self.space_mut(space).areas.get_mut(old));
        let Some(area) = area else { return };
        area.flags = area.flags.without(Flags::LOCKS);
        if area.start != holder && (area.start, area.end) == (start, start + len) {
            area.anon = None;
        }
    }

    /// The entries of a range at `target` too, or none of them (`move_page_tables`).
    fn copy_entries_to(
        &mut self,
        space: SpaceId,
        start: u64,
        len: u64,
        target: u64,
    ) -> Result<(), Errno> {
        let (from, to) = (self.page_size().page_of(start), self.page_size().page_of(target));
        let pages = self.pages_of(start, start + len);
        let entries: alloc::vec::Vec<_> = self.entries(space, pages).collect();
        for (at, entry) in entries {
            let new = to + (at - from);
            if let Err(errno) = self.space_mut(space).table.set(new, entry) {
                self.zap_range(space, to..new);
                return Err(errno);
            }
            self.add_mapper(entry.page, space, new);
        }
        Ok(())
    }
}
