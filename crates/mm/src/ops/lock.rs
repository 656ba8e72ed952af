//! `mlock(2)`, `munlock(2)`, and making pages present (`__mm_populate`).

use devmap_driver::{Access, Errno};

use crate::{Engine, Fatal, Flags, Mmu, SpaceId};

impl<M: Mmu> Engine<M> {
    /// `mlock(2)`: the pages become resident, and stay so.
    ///
    /// # Errors
    /// `ENOMEM`: a part of the range is not mapped or cannot be made resident. `EAGAIN`:
    /// no memory. `EINVAL`: the range wraps round.
    pub fn lock(&mut self, space: SpaceId, start: u64, len: u64) -> Result<(), Errno> {
        let (start, end) = self.lock_range(start, len)?;
        self.set_locked(space, start, end, Flags::LOCKED)?;
        self.populate(space, start, end).map_err(|fatal| match fatal {
            Fatal::OutOfMemory => Errno::EAGAIN,
            _ => Errno::ENOMEM,
        })
    }

    /// `munlock(2)`.
    ///
    /// # Errors
    /// `ENOMEM`: a part of the range is not mapped. `EINVAL`: the range wraps round.
    pub fn unlock(&mut self, space: SpaceId, start: u64, len: u64) -> Result<(), Errno> {
        let (start, end) = self.lock_range(start, len)?;
        self.set_locked(space, start, end, Flags::NONE)
    }

    /// Whole pages that hold the range.
    fn lock_range(&self, start: u64, len: u64) -> Result<(u64, u64), Errno> {
        let inside = start % self.page_bytes();
        let len = len.checked_add(inside).ok_or(Errno::EINVAL)?;
        let start = start - inside;
        let end = start.checked_add(self.page_align(len)).ok_or(Errno::EINVAL)?;
        Ok((start, end))
    }

    fn set_locked(
        &mut self,
        space: SpaceId,
        start: u64,
        end: u64,
        locked: Flags,
    ) -> Result<(), Errno> {
        let mut at = start;
        while at < end {
            let area = self.space(space).areas.lookup(at).ok_or(Errno::ENOMEM)?;
            let (old, to) = (area.flags, area.end.min(end));
            let flags = old.without(Flags::LOCKED).union(locked);
            if flags != old && !old.intersects(Flags::SPECIAL) {
                self.modify(space, at, to, flags)?;
            }
            at = to;
        }
        Ok(())
    }

    /// Faults every page of a range in, copies of private ones included. Stops at the
    /// first that cannot be had.
    pub(crate) fn populate(&mut self, space: SpaceId, start: u64, end: u64) -> Result<(), Fatal> {
        let mut at = start;
        while at < end {
            let next = self.space(space).areas.find(at).filter(|area| area.start < end);
            let Some(area) = next else { break };
            let (from, to, flags) = (area.start.max(at), area.end.min(end), area.flags);
            at = to;
            if flags.intersects(Flags::IO.union(Flags::PFNMAP)) {
                continue;
            }
            let writes = flags.contains(Flags::WRITE) && !flags.contains(Flags::SHARED);
            let access = if writes { Access::Write } else { Access::Read };
            for page in self.pages_of(from, to) {
                let address = page * self.page_bytes();
                let entry = self.space(space).table_entry(page);
                let present = entry.is_some_and(|entry| entry.user && (!writes || entry.writable));
                if !present {
                    self.handle_fault(space, address, access)?;
                }
            }
        }
        Ok(())
    }
}
