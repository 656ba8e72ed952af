//! `mprotect(2)`: `do_mprotect_pkey`, `mprotect_fixup`.

use devmap_driver::{Errno, Protection};

use crate::{Area, Engine, Flags, Mmu, SpaceId};

impl<M: Mmu> Engine<M> {
    /// `mprotect(2)`. Areas before the one that fails are changed.
    ///
    /// # Errors
    /// `EINVAL`: the address is no multiple of a page. `ENOMEM`: a part of the range is
    /// not mapped, or there would be too many areas. `EACCES`: the file was not opened
    /// for this.
    pub fn protect(
        &mut self,
        space: SpaceId,
        start: u64,
        len: u64,
        protection: Protection,
    ) -> Result<(), Errno> {
        if !self.page_size().is_aligned(start) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let len = self.page_align(len);
        let end = start.checked_add(len).filter(|end| *end > start).ok_or(Errno::ENOMEM)?;
        let mut at = start;
        while at < end {
            let area = self.space(space).areas.lookup(at).ok_or(Errno::ENOMEM)?.clone();
            let flags = area.flags.without(Flags::ACCESS).union(Flags::of(protection));
            if flags.contains(Flags::WRITE) && !flags.contains(Flags::MAYWRITE) {
                return Err(Errno::EACCES);
            }
            let to = area.end.min(end);
            self.protect_area(space, &area, at, to, flags)?;
            at = to;
        }
        Ok(())
    }

    fn protect_area(
        &mut self,
        space: SpaceId,
        area: &Area<M::Frame>,
        start: u64,
        end: u64,
        mut flags: Flags,
    ) -> Result<(), Errno> {
        let old = area.flags;
        if flags == old {
            return Ok(());
        }
        let counted = Flags::ACCOUNT.union(Flags::WRITE).union(Flags::SHARED);
        if flags.contains(Flags::WRITE) {
            if !old.intersects(counted) {
                flags = flags.union(Flags::ACCOUNT);
            }
        } else if area.file.is_none() && area.anon.is_none() {
            flags = flags.without(Flags::ACCOUNT);
        }
        let held = self.modify(space, start, end, flags)?;
        let held = self.space(space).areas.lookup(held).expect("just changed").clone();
        self.change_protection(space, &Area { start, end, ..held });
        let locked = Flags::WRITE.union(Flags::SHARED).union(Flags::LOCKED);
        if !old.intersects(locked.without(Flags::LOCKED))
            && old.contains(Flags::LOCKED)
            && flags.contains(Flags::WRITE)
        {
            // Copies are made now, so that no store has to wait for one.
            let _ = self.populate(space, start, end);
        }
        Ok(())
    }
}
