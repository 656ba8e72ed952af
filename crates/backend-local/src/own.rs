//! The only map's own memory. While an object has one map, for reading, its pages need not be
//! in a file that others map too: they are copied into private memory of that map, which costs
//! less to make and to free.
//!
//! The map is laid like any other, but privately (`MAP_PRIVATE`): what `UFFDIO_COPY` puts there
//! is memory of its own, and what is in the file is mapped from there. So once another map
//! comes, the pages are written into the file and dropped from the map, one block after the
//! other, and found again as any cached page is. Nothing else changes, and nobody waits for a
//! driver.

use std::{ops::Range, sync::Arc};

use devmap_sys::span::mark;

use crate::{
    area::Area,
    block::{Block, Pages, State},
    object::Object,
    primitives::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// The maps of an object.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    /// How many there are. Held by who makes one, takes one away, or needs the file.
    pub(crate) count: Mutex<u64>,
    /// Whether there is only one, whose pages may be its own memory.
    is_alone: AtomicBool,
}

impl Maps {
    /// Whether the pages of the map that owns any may still be its own memory.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::Acquire)
    }

    /// The only map, which was just made, has memory of its own.
    pub(crate) fn begin_alone(&self, _count: &u64) {
        self.is_alone.store(true, Ordering::Release);
    }

    /// From now on pages come into the file: who is about to note own ones of a block finds
    /// out when it has locked it. Whether that is new.
    fn end_alone(&self, _count: &u64) -> bool {
        self.is_alone.swap(false, Ordering::AcqRel)
    }
}

impl Object {
    /// The map whose memory own pages are.
    fn owner(&self) -> Option<Arc<Area>> {
        self.areas().into_iter().find(|area| area.is_owner)
    }

    /// Puts all pages into the file, where every map finds them.
    pub(crate) fn share(&self, count: &u64) {
        if !self.maps.end_alone(count) {
            return;
        }
        let Some(area) = self.owner() else { return };
        for (index, block) in self.blocks(&(0..u64::MAX)) {
            let mut state = block.lock();
            let own = std::mem::take(&mut state.own);
            if own.is_empty() {
                continue;
            }
            state.busy.add(own);
            state.resident.remove(own);
            self.core.unsettle(own.count());
            drop(state);

            let given = self.give(&area, index, own);

            let mut state = block.lock();
            state.resident.add(given);
            self.enqueue(index, &mut state);
            block.finish(state, own);
            self.core.settle(own.count(), own.without(given).count());
        }
    }

    /// The map that owns pages is about to go: they stay in the file if anybody could look for
    /// them.
    pub(crate) fn owner_goes(self: &Arc<Object>) {
        let outlast = self.size().is_some() && Arc::strong_count(self) > 1;
        let count = self.maps.count.lock();
        if outlast {
            self.share(&count);
            return;
        }
        if !self.maps.end_alone(&count) {
            return;
        }
        for (index, block) in self.blocks(&(0..u64::MAX)) {
            let state = block.lock();
            let own = state.own;
            if !own.is_empty() {
                // There is nothing to write back, so nothing fails.
                let _ = self.drop_pages(&block, state, index, own);
            }
        }
    }

    /// Frees own pages that this thread is busy with, among others that are claimed and not
    /// there: those that went.
    pub(crate) fn zap(&self, index: u64, own: Pages, claimed: Pages) -> Pages {
        let mut gone = own;
        // Without the map they go with it.
        let Some(area) = self.owner().filter(|_| !own.is_empty()) else { return gone };
        for inside in claimed.runs(index).flat_map(|run| area.inside(run)) {
            let zap = |pages: &Range<u64>| area.span.zap(area.bytes(pages)).is_ok();
            if !zap(&inside) {
                let stay = inside.filter(|at| !zap(&(*at..at + 1)));
                stay.for_each(|at| gone.remove(Pages::one(area.first_page + at)));
            }
        }
        gone
    }

    /// Locks a block, of which pages that this thread is busy with are own memory; in the file,
    /// if the map is no longer alone: which of them are lost.
    pub(crate) fn lock_with_own<'a>(
        &self,
        area: &Area,
        block: &'a Block,
        index: u64,
        own: Pages,
    ) -> (MutexGuard<'a, State>, Pages) {
        let mut state = block.lock();
        if own.is_empty() {
            return (state, Pages::NONE);
        }
        if self.maps.is_alone() {
            state.own.add(own);
            for inside in own.runs(index).flat_map(|run| area.inside(run)) {
                area.set_marks(inside, mark::PRESENT);
            }
            return (state, Pages::NONE);
        }
        drop(state);
        let given = self.give(area, index, own);
        (block.lock(), own.without(given))
    }

    /// As [`Object::lock_with_own`], of pages that could not be dropped.
    pub(crate) fn lock_with_rest<'a>(
        &self,
        block: &'a Block,
        index: u64,
        own: Pages,
    ) -> (MutexGuard<'a, State>, Pages) {
        match self.owner().filter(|_| !own.is_empty()) {
            Some(area) => self.lock_with_own(&area, block, index, own),
            None => (block.lock(), Pages::NONE),
        }
    }

    /// Writes own pages that this thread is busy with into the file, and drops them from their
    /// map: those that are in the file now. The others can be had from the driver again.
    fn give(&self, area: &Area, index: u64, own: Pages) -> Pages {
        let mut given = Pages::NONE;
        for inside in own.runs(index).flat_map(|run| area.inside(run)) {
            area.set_marks(inside.clone(), mark::NOTHING);
            let pages = area.first_page + inside.start..area.first_page + inside.end;
            let (from, to) = (area.bytes(&inside), self.bytes(&pages));
            let saved = area.span.save(from.clone(), &self.pages, to.start).is_ok();
            if saved {
                given.add(Pages::in_block(index, &pages));
            } else {
                // Nobody counts what is there of them.
                let _ = self.pages.punch(to);
            }
            if area.span.zap(from).is_err() && saved {
                let laid = area.lay_anew(inside);
                debug_assert!(laid.is_ok(), "{laid:?}");
            }
        }
        given
    }
}
