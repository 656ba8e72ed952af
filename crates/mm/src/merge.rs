//! When areas merge, and how they split: the rules of `mm/vma.c` as of Linux 6.18.

use alloc::sync::Arc;

use devmap_driver::Errno;

use crate::{
    Area, Engine, File, Flags, Mmu, SpaceId,
    area::{Anon, Mapped},
};

/// What kind of range asks to be merged with its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A new area, a changed one, or one that moves here.
    Area,
    /// The growth of the area on the left.
    Growth,
}

/// A range that shall be an area, or part of one (`vma_merge_struct`).
pub(crate) struct Proposal<F> {
    pub start: u64,
    pub end: u64,
    pub flags: Flags,
    pub page_offset: u64,
    pub file: Option<Mapped<F>>,
    pub anon: Option<Anon>,
    pub origin: Origin,
}

impl<F> Proposal<F> {
    fn file(&self) -> Option<&Arc<File<F>>> {
        self.file.as_ref().map(|mapped| &mapped.file)
    }

    /// Whether all but the place lets it merge into `target` (`is_mergeable_vma`,
    /// `is_mergeable_anon_vma`).
    fn is_alike(&self, target: &Area<F>) -> bool {
        let anon = match (target.anon, self.anon) {
            (None, Some(own)) => !own.inherited || self.origin == Origin::Growth,
            (Some(theirs), None) => !theirs.inherited,
            (theirs, own) => theirs.map(|a| a.id) == own.map(|a| a.id),
        };
        anon && target.flags == self.flags && target.has_file(self.file())
    }
}

impl<M: Mmu> Engine<M> {
    /// Whether the range merges with the area on its left, and with that on its right.
    /// `beside` says which sides to look at.
    fn mergeable(
        &self,
        space: SpaceId,
        proposal: &Proposal<M::Frame>,
        beside: (bool, bool),
    ) -> (Option<u64>, Option<u64>) {
        if proposal.flags.intersects(Flags::SPECIAL) {
            return (None, None);
        }
        let page_size = self.page_size();
        let areas = &self.space(space).areas;
        let left = areas.previous(proposal.start).filter(|left| {
            beside.0
                && left.end == proposal.start
                && proposal.is_alike(left)
                && left.page_offset_at(left.end, page_size) == proposal.page_offset
        });
        let right = areas.lookup(proposal.end).filter(|right| {
            let pages = page_size.page_of(proposal.end - proposal.start);
            let both = |left: &Area<M::Frame>| match (left.anon, right.anon) {
                (Some(one), Some(other)) => one.id == other.id,
                _ => true,
            };
            beside.1
                && right.start == proposal.end
                && proposal.is_alike(right)
                && proposal.page_offset.checked_add(pages) == Some(right.page_offset)
                && left.is_none_or(both)
        });
        (left.map(|area| area.start), right.map(|area| area.start))
    }

    /// Puts a range that no area holds into its neighbours, or makes an area of it
    /// (`vma_merge_new_range`). The start of the area that holds it then.
    pub(crate) fn add_range(&mut self, space: SpaceId, proposal: Proposal<M::Frame>) -> u64 {
        self.merge_range(space, &proposal).unwrap_or_else(|| {
            let Proposal { start, end, flags, page_offset, file, anon, .. } = proposal;
            self.space_mut(space).areas.insert(Area { start, end, flags, page_offset, file, anon });
            start
        })
    }

    /// As [`Engine::add_range`], but only by merging.
    pub(crate) fn merge_range(
        &mut self,
        space: SpaceId,
        proposal: &Proposal<M::Frame>,
    ) -> Option<u64> {
        let (left, right) = self.mergeable(space, proposal, (true, true));
        if left.is_none() && right.is_none() {
            return None;
        }
        let areas = &mut self.space_mut(space).areas;
        let left = left.and_then(|start| areas.remove(start));
        let right = right.and_then(|start| areas.remove(start));
        let anon = [&left, &right].into_iter().flatten().find_map(|area| area.anon);
        let area = Area {
            start: left.as_ref().map_or(proposal.start, |area| area.start),
            end: right.as_ref().map_or(proposal.end, |area| area.end),
            flags: proposal.flags,
            page_offset: left.as_ref().map_or(proposal.page_offset, |area| area.page_offset),
            file: proposal.file.clone(),
            anon: anon.or(proposal.anon),
        };
        let start = area.start;
        areas.insert(area);
        Some(start)
    }

    /// Gives `start..end`, part of one area, new flags: by merging with its neighbours
    /// if that can be, else by splitting (`vma_modify`). The start of the area that
    /// holds the range then.
    ///
    /// # Errors
    /// `ENOMEM` when a split would make too many areas.
    pub(crate) fn modify(
        &mut self,
        space: SpaceId,
        start: u64,
        end: u64,
        flags: Flags,
    ) -> Result<u64, Errno> {
        let page_size = self.page_size();
        let whole = self.space(space).areas.lookup(start).expect("an area to change").clone();
        let proposal = Proposal {
            start,
            end,
            flags,
            page_offset: whole.page_offset_at(start, page_size),
            file: whole.file.clone(),
            anon: whole.anon,
            origin: Origin::Area,
        };
        let beside = (whole.start == start, whole.end == end);
        if let (None, None) = self.mergeable(space, &proposal, beside) {
            if whole.start < start {
                self.split(space, whole.start, start)?;
            }
            if end < whole.end {
                self.split(space, start, end)?;
            }
            let area = self.space_mut(space).areas.get_mut(start).expect("split here");
            area.flags = flags;
            return Ok(start);
        }
        let areas = &mut self.space_mut(space).areas;
        let area = areas.remove(whole.start).expect("an area to change");
        if whole.start < start {
            areas.insert(Area { end: start, ..area.clone() });
        }
        if end < whole.end {
            let page_offset = area.page_offset_at(end, page_size);
            areas.insert(Area { start: end, page_offset, ..area });
        }
        // What is left of the area has other flags, so it is no neighbour to merge with.
        Ok(self.add_range(space, proposal))
    }

    /// Splits the area that starts at `start` in two at `at` (`__split_vma`).
    ///
    /// # Errors
    /// `ENOMEM` when there are too many areas.
    pub(crate) fn split(&mut self, space: SpaceId, start: u64, at: u64) -> Result<(), Errno> {
        let (page_size, most) = (self.page_size(), self.limits.areas);
        let areas = &mut self.space_mut(space).areas;
        if areas.len() >= most {
            return Err(Errno::ENOMEM);
        }
        let area = areas.remove(start).expect("an area to split");
        let page_offset = area.page_offset_at(at, page_size);
        areas.insert(Area { end: at, ..area.clone() });
        areas.insert(Area { start: at, page_offset, ..area });
        Ok(())
    }
}
