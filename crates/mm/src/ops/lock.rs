//! `mlock(2)` and its kin, and making pages present (`__mm_populate`).

use alloc::vec::Vec;

use devmap_driver::{Access, Errno};

use crate::{Engine, Fatal, Flags, Mmu, SpaceId};

/// `MCL_CURRENT`, `MCL_FUTURE`, `MCL_ONFAULT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockAll {
    /// `MCL_CURRENT`: all that is mapped now.
    pub current: bool,
    /// `MCL_FUTURE`: all that is mapped from now on.
    pub future: bool,
    /// `MCL_ONFAULT`: pages stay from their first use on; none is made resident.
    pub on_fault: bool,
}

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

    /// `mlock2(2)` with `MLOCK_ONFAULT`: pages stay resident from their first use on.
    ///
    /// # Errors
    /// `ENOMEM`: a part of the range is not mapped. `EINVAL`: the range wraps round.
    pub fn lock_on_fault(&mut self, space: SpaceId, start: u64, len: u64) -> Result<(), Errno> {
        let (start, end) = self.lock_range(start, len)?;
        self.set_locked(space, start, end, Flags::LOCKS)
    }

    /// `munlock(2)`.
    ///
    /// # Errors
    /// `ENOMEM`: a part of the range is not mapped. `EINVAL`: the range wraps round.
    pub fn unlock(&mut self, space: SpaceId, start: u64, len: u64) -> Result<(), Errno> {
        let (start, end) = self.lock_range(start, len)?;
        self.set_locked(space, start, end, Flags::NONE)
    }

    /// `mlockall(2)`. What cannot be made resident is no error.
    ///
    /// # Errors
    /// `EINVAL`: neither what is mapped now nor what will be.
    pub fn lock_all(&mut self, space: SpaceId, which: LockAll) -> Result<(), Errno> {
        if !which.current && !which.future {
            return Err(Errno::EINVAL);
        }
        let locks = if which.on_fault { Flags::LOCKS } else { Flags::LOCKED };
        self.space_mut(space).lock_new = if which.future { locks } else { Flags::NONE };
        if which.current {
            self.set_all_locked(space, locks);
            let areas: Vec<_> = self.space(space).areas.from(0).map(|a| (a.start, a.end)).collect();
            for (start, end) in areas {
                // The rest of an area is left where one page cannot be had.
                let _ = self.populate(space, start, end);
            }
        }
        Ok(())
    }

    /// `munlockall(2)`.
    pub fn unlock_all(&mut self, space: SpaceId) {
        self.space_mut(space).lock_new = Flags::NONE;
        self.set_all_locked(space, Flags::NONE);
    }

    /// Areas that there are too many of to split or merge keep what they have.
    fn set_all_locked(&mut self, space: SpaceId, locks: Flags) {
        let mut at = 0;
        while let Some((start, end)) =
            self.space(space).areas.find(at).map(|area| (area.start, area.end))
        {
            let _ = self.set_locked(space, start, end, locks);
            at = end;
        }
    }

    /// Whole pages that hold the range. A length that wraps when it is made whole is 0, as
    /// Linux has it.
    fn lock_range(&self, start: u64, len: u64) -> Result<(u64, u64), Errno> {
        let inside = start % self.page_bytes();
        let start = start - inside;
        let len = self.page_align(len.wrapping_add(inside));
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        Ok((start, end))
    }

    fn set_locked(
        &mut self,
        space: SpaceId,
        start: u64,
        end: u64,
        locks: Flags,
    ) -> Result<(), Errno> {
        let mut at = start;
        while at < end {
            let area = self.space(space).areas.lookup(at).ok_or(Errno::ENOMEM)?;
            let (old, to) = (area.flags, area.end.min(end));
            let flags = old.without(Flags::LOCKS).union(locks);
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
            if flags.intersects(Flags::IO.union(Flags::PFNMAP).union(Flags::LOCKONFAULT)) {
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
