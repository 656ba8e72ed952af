//! The only map's own memory. While an object has one map, for reading, its pages need not be
//! in a file that others map too: they are copied into private memory of that map, which costs
//! less to make and to free.
//!
//! The map is laid like any other, but privately (`MAP_PRIVATE`): what `UFFDIO_COPY` puts there
//! is memory of its own, and what is in the file is mapped from there. So once another map
//! comes, the pages are written into the file and dropped from the map, one block after the
//! other, and found again as any cached page is. Nothing else changes, and nobody waits for a
//! driver.
//!
//! Where all of the map fits into memory, large memory that was read into is moved in as a
//! whole (`mremap`), all pages of eight blocks, instead of copied. No fault is told there, which
//! is as well while all pages are there. Before one of them may go, all are written into the
//! file, which is then laid there again: a moment passes until userfaultfd is told of it, in
//! which whoever looks must find all pages.

use std::{ops::Range, sync::Arc};

use devmap_driver::Errno;
use devmap_sys::{large::Large, span::mark};

use crate::{
    Error,
    area::Area,
    block::{Block, PAGES, Pages, State},
    object::{Object, refused},
    order::WINDOW,
    primitives::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// How many blocks large memory has.
const BLOCKS: u64 = WINDOW / PAGES;
/// Of so many windows the first is copied though it could be moved, where plain accesses come.
const COPIED: u64 = 4;

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
    ///
    /// # Errors
    /// There is no memory for it; the map is alone as before.
    pub(crate) fn share(&self, count: &u64) -> Result<(), Error> {
        if !self.maps.end_alone(count) {
            return Ok(());
        }
        let Some(area) = self.owner() else { return Ok(()) };
        for (index, block) in self.blocks(&(0..u64::MAX)) {
            let small = self.in_small(index, block.lock(), || block.lock());
            let mut state = small.inspect_err(|_| self.maps.begin_alone(count))?;
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
            block.finish(&self.core, state, own);
            self.core.settle(own.count(), own.without(given).count());
        }
        Ok(())
    }

    /// The map that owns pages is about to go: they stay in the file if anybody could look for
    /// them.
    pub(crate) fn owner_goes(self: &Arc<Object>) {
        let outlast = self.size().is_some() && Arc::strong_count(self) > 1;
        let count = self.maps.count.lock();
        if outlast && self.share(&count).is_ok() {
            return;
        }
        if !self.maps.end_alone(&count) {
            return;
        }
        for (index, block) in self.blocks(&(0..u64::MAX)) {
            let state = block.lock();
            if state.is_moved {
                drop(state);
                self.forget_large(index);
                continue;
            }
            let own = state.own;
            if !own.is_empty() {
                // There is nothing to write back, so nothing fails.
                let _ = self.drop_pages(&block, state, index, own, None);
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

    /// Goes on with a locked block once it is in no large memory; `lock` locks it again.
    ///
    /// # Errors
    /// There is no memory for the file's pages.
    pub(crate) fn in_small<'a>(
        &self,
        index: u64,
        mut state: MutexGuard<'a, State>,
        lock: impl Fn() -> MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, Error> {
        while state.is_moved {
            drop(state);
            self.split(index)?;
            state = lock();
        }
        Ok(state)
    }

    /// The blocks that large memory has with this one.
    fn beside(&self, index: u64) -> Vec<Arc<Block>> {
        let first = index - index % BLOCKS;
        (first..first + BLOCKS).map(|index| self.block(index)).collect()
    }

    /// Puts all pages of the large memory of a block into the file, if it is in any.
    fn split(&self, index: u64) -> Result<(), Error> {
        let refused = || refused("mremap", Errno::ENOMEM);
        let area = self.owner().ok_or_else(refused)?;
        let blocks = self.beside(index);
        // In order, and nobody else holds two.
        let mut states: Vec<_> = blocks.iter().map(|block| block.lock()).collect();
        if !states.iter().all(|state| state.is_moved) {
            return Ok(());
        }
        for state in &mut states {
            (state.resident, state.own, state.is_moved) = (Pages::NONE, Pages::NONE, false);
            state.busy.add(Pages::ALL);
        }
        self.core.unsettle(WINDOW);
        drop(states);
        let put = self.put_large(&area, index);
        self.note(index, &blocks, put.is_err());
        self.core.settle(WINDOW, 0);
        put
    }

    /// All pages of blocks that this thread is busy with are there: in large memory, or in the
    /// file.
    fn note(&self, index: u64, blocks: &[Arc<Block>], is_moved: bool) {
        let states = blocks.iter().map(|block| block.lock()).collect();
        self.note_locked(index, blocks, states, is_moved);
    }

    /// As [`Object::note`], of blocks that are locked.
    fn note_locked(
        &self,
        index: u64,
        blocks: &[Arc<Block>],
        mut states: Vec<MutexGuard<'_, State>>,
        is_moved: bool,
    ) {
        for (index, state) in (index - index % BLOCKS..).zip(&mut states) {
            (state.resident, state.is_moved) = (Pages::ALL, is_moved);
            state.own = if is_moved { Pages::ALL } else { Pages::NONE };
            self.enqueue(index, state);
        }
        for (block, state) in blocks.iter().zip(states) {
            block.finish(&self.core, state, Pages::ALL);
        }
    }

    /// Writes large memory, all pages of which this thread is busy with, into the file, and lays
    /// that there again.
    fn put_large(&self, area: &Area, index: u64) -> Result<(), Error> {
        let first = (index - index % BLOCKS) * PAGES;
        let (of_device, at) = (first..first + WINDOW, first - area.first_page);
        let (from, to) = (area.bytes(&(at..at + WINDOW)), self.bytes(&of_device));
        area.set_marks(at..at + WINDOW, mark::NOTHING);
        if let Err(error) = area.span.save(from, &self.pages, to.start) {
            // Nobody counts what is there of them.
            let _ = self.pages.punch(to);
            return Err(Error::system("pwrite", &error));
        }
        // Where that fails the file keeps them: it may be laid, and not told of.
        area.lay_anew(at..at + WINDOW)
    }

    /// Moves large memory into the map, if that may be: all pages of it were just read, and this
    /// thread is busy with them. The first is not marked, so that its access is told.
    pub(crate) fn move_in(&self, area: &Area, pages: &Range<u64>, memory: &mut Large) -> bool {
        let is_whole = pages.end - pages.start == WINDOW && pages.start.is_multiple_of(WINDOW);
        let at = pages.start - area.first_page;
        // Plain accesses are told only of what is copied.
        let tells = area.plain_ones_came.load(Ordering::Relaxed)
            && (pages.start / WINDOW).is_multiple_of(COPIED);
        if !is_whole
            || tells
            || !area.takes_large
            || !self.maps.is_alone()
            || !area.is_plain(&(at..at + WINDOW))
        {
            return false;
        }
        let bytes = area.bytes(&(at..at + WINDOW));
        area.span.move_in(bytes.start, memory, bytes.len()).is_ok()
    }

    /// Notes what [`Object::move_in`] has moved, or puts it into the file if the map is no
    /// longer alone.
    pub(crate) fn note_moved(&self, area: &Area, pages: &Range<u64>) {
        let (index, at) = (pages.start / PAGES, pages.start - area.first_page);
        let blocks = self.beside(index);
        // Who ends it looks at the blocks after that.
        let states: Vec<_> = blocks.iter().map(|block| block.lock()).collect();
        if self.maps.is_alone() {
            area.set_marks(at + 1..at + WINDOW, mark::PRESENT);
            self.note_locked(index, &blocks, states, true);
            return;
        }
        drop(states);
        let put = self.put_large(area, index);
        self.note(index, &blocks, put.is_err());
    }

    /// Large memory is about to go with its map.
    fn forget_large(&self, index: u64) {
        let blocks = self.beside(index);
        let mut states: Vec<_> = blocks.iter().map(|block| block.lock()).collect();
        if !states.iter().all(|state| state.is_moved) {
            return;
        }
        for state in &mut states {
            (state.resident, state.own, state.is_moved) = (Pages::NONE, Pages::NONE, false);
        }
        self.core.unsettle(WINDOW);
        drop(states);
        self.core.settle(WINDOW, WINDOW);
    }
}
