//! `munmap(2)`: `do_munmap`.

use devmap_driver::Errno;

use crate::{Engine, Mmu, SpaceId};

impl<M: Mmu> Engine<M> {
    /// `munmap(2)`. What no area holds is no error.
    ///
    /// # Errors
    /// `EINVAL`: the length is 0, the address is no multiple of a page, or the range
    /// ends past the address space. `ENOMEM`: it would split an area, and there are too
    /// many.
    pub fn unmap(&mut self, space: SpaceId, start: u64, len: u64) -> Result<(), Errno> {
        let end = self.range_end(start, len)?;
        self.do_unmap(space, start, end)
    }

    /// Splits what reaches out of the range, and removes what is in it.
    pub(crate) fn do_unmap(&mut self, space: SpaceId, start: u64, end: u64) -> Result<(), Errno> {
        let areas = &self.space(space).areas;
        let Some(first) = areas.find(start).filter(|area| area.start < end) else {
            return Ok(());
        };
        let (first_start, first_end) = (first.start, first.end);
        // A hole in the middle makes one area more; heads and tails make none.
        if first_start < start && end < first_end && areas.len() >= self.limits.areas {
            return Err(Errno::ENOMEM);
        }
        if first_start < start {
            self.cut(space, first_start, start);
        }
        let areas = &self.space(space).areas;
        if let Some(last) = areas.lookup(end - 1).filter(|last| last.end > end) {
            let last_start = last.start;
            self.cut(space, last_start, end);
        }
        self.remove_areas(space, start, end);
        Ok(())
    }

    /// A split of which one part goes at once, so that no limit holds.
    fn cut(&mut self, space: SpaceId, start: u64, at: u64) {
        let page_size = self.page_size();
        let areas = &mut self.space_mut(space).areas;
        let area = areas.remove(start).expect("an area to split");
        let page_offset = area.page_offset_at(at, page_size);
        areas.insert(crate::Area { end: at, ..area.clone() });
        areas.insert(crate::Area { start: at, page_offset, ..area });
    }

    /// Removes all areas from `start` to `end`, which are whole ones.
    pub(crate) fn remove_areas(&mut self, space: SpaceId, start: u64, end: u64) {
        loop {
            let areas = &mut self.space_mut(space).areas;
            let next = areas.find(start).map(|area| area.start).filter(|at| *at < end);
            let Some(area) = next.and_then(|at| areas.remove(at)) else { return };
            self.zap_range(space, self.pages_of(area.start, area.end));
            if let Some(file) = &area.file {
                let object = file.file.object;
                drop(area);
                self.reap(object);
            }
        }
    }
}
