//! What is mapped, and its page cache, which all who map it share.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Arc, Weak},
};

use devmap_driver::{Errno, Kind, Store as Keeper};
use devmap_mm::trace::Detail;
use devmap_sys::store::Store;

use crate::{
    Error,
    area::Area,
    block::{Block, PAGES, Pages, State},
    core::{Core, Spare, count},
    driver::Driver,
    own::Maps,
    primitives::{Mutex, MutexGuard, RwLock, RwLockReadGuard},
};

/// A device with its page cache.
pub(crate) struct Object {
    pub(crate) core: Arc<Core>,
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) driver: Box<dyn Driver>,
    /// The content of resident pages, at the device's offsets, but for those that are the only
    /// map's own.
    pub(crate) pages: Arc<Store>,
    pub(crate) keeper: Keeper,
    /// Whether a fault past the end fails by itself.
    pub(crate) fault_checks_end: bool,
    this: Weak<Object>,
    blocks: RwLock<BTreeMap<u64, Arc<Block>>>,
    areas: RwLock<Vec<Weak<Area>>>,
    pub(crate) maps: Maps,
    /// A write-back that nobody could be told of yet.
    failed: Mutex<Option<Error>>,
    /// Held by who changes the length of the file, or has pages frozen.
    pub(crate) truncating: Mutex<()>,
    /// Read while pages are written back, written while the driver changes the length.
    pub(crate) resizing: RwLock<()>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Object {
    pub(crate) fn new(
        core: Arc<Core>,
        name: &str,
        number: u64,
        driver: Box<dyn Driver>,
        pages: Arc<Store>,
    ) -> Arc<Object> {
        let (keeper, fault_checks_end) = (driver.store(), driver.fault_checks_end());
        Arc::new_cyclic(|this| Object {
            core,
            name: name.into(),
            number,
            driver,
            pages,
            keeper,
            fault_checks_end,
            this: this.clone(),
            blocks: RwLock::default(),
            areas: RwLock::default(),
            maps: Maps::default(),
            failed: Mutex::default(),
            truncating: Mutex::default(),
            resizing: RwLock::default(),
        })
    }

    /// The length of a regular file in bytes, now.
    pub(crate) fn size(&self) -> Option<u64> {
        match self.driver.metadata().kind {
            Kind::Regular { size } => Some(size),
            Kind::Character(_) => None,
        }
    }

    /// The first page that lies wholly past the end of a regular file, now.
    pub(crate) fn end(&self) -> u64 {
        self.size().map_or(u64::MAX, |size| self.core.page_size.pages_for(size))
    }

    /// That `page` does not lie wholly past the end of a regular file.
    pub(crate) fn check_end(&self, page: u64) -> Result<(), Error> {
        match self.size() {
            Some(size) if page >= self.core.page_size.pages_for(size) => {
                Err(Error::PastEnd { page, size })
            }
            _ => Ok(()),
        }
    }

    /// The block of this number, made if there is none.
    pub(crate) fn block(&self, index: u64) -> Arc<Block> {
        if let Some(block) = self.blocks.read().get(&index) {
            return block.clone();
        }
        self.blocks.write().entry(index).or_default().clone()
    }

    /// The blocks with pages of a range, in order.
    pub(crate) fn blocks(&self, pages: &Range<u64>) -> Vec<(u64, Arc<Block>)> {
        if pages.is_empty() {
            return Vec::new();
        }
        let wanted = pages.start / PAGES..=(pages.end - 1) / PAGES;
        let blocks = self.blocks.read();
        blocks.range(wanted).map(|(index, block)| (*index, block.clone())).collect()
    }

    /// Forgets a block of which nothing is known any more, unless others have it in hand.
    fn forget_block(&self, index: u64, block: &Arc<Block>) {
        if !block.lock().is_blank() {
            return;
        }
        // Nobody gets it meanwhile: then only the table and this thread have it.
        let mut blocks = self.blocks.write();
        if Arc::strong_count(block) == 2 && block.lock().is_blank() {
            blocks.remove(&index);
        }
    }

    /// How many blocks there are.
    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.blocks.read().len()
    }

    /// Whether no page is resident, nor about to be or to be dropped.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.read().values().all(|block| {
            let state = block.lock();
            state.resident.is_empty() && state.busy.is_empty()
        })
    }

    /// Has eviction pass at a block.
    pub(crate) fn enqueue(&self, index: u64, state: &mut State) {
        let passes = self.core.uffd.is_some() && self.core.is_limited();
        if passes && !state.queued && !state.resident.is_empty() {
            state.queued = true;
            self.core.enqueue(self.this.clone(), index);
        }
    }

    pub(crate) fn add_area(&self, area: &Arc<Area>) {
        self.areas.write().push(Arc::downgrade(area));
    }

    pub(crate) fn remove_area(&self, area: &Arc<Area>) {
        let this = Arc::downgrade(area);
        self.areas.write().retain(|other| !Weak::ptr_eq(other, &this));
    }

    /// A map is gone, and has written back what was stored. The pages of a device last as long
    /// as its maps, those of a file as long as it is open.
    pub(crate) fn map_gone(&self, count: &u64) {
        if *count == 0 && self.size().is_none() {
            self.invalidate(0..u64::MAX);
        }
    }

    pub(crate) fn areas(&self) -> Vec<Arc<Area>> {
        self.areas.read().iter().filter_map(Weak::upgrade).collect()
    }

    /// Bytes of the device.
    pub(crate) fn bytes(&self, pages: &Range<u64>) -> Range<u64> {
        pages.start * self.core.page_size.bytes()..pages.end * self.core.page_size.bytes()
    }

    /// Drops the pages of a block, having written back those that need it, unless it is to
    /// be spared: whether any were dropped.
    ///
    /// No access is lost: pages that may be written are taken out of all page tables
    /// before they are read for the last time, and whoever touches one then waits until it
    /// is gone, and gets it anew.
    pub(crate) fn evict(&self, index: u64, spare: Spare) -> bool {
        let block = self.block(index);
        let mut state = block.lock();
        state.queued = false;
        if std::mem::take(&mut state.referenced) && spare == Spare::Referenced {
            self.enqueue(index, &mut state);
            return false;
        }
        // Where that fails nothing is lost.
        let Ok(mut state) = self.in_small(index, state, || block.lock()) else { return false };
        let mut victims = state.resident.without(state.busy);
        // Not waited for: what it waits for may be this room.
        let resizing = self.resizing.try_read_recursive();
        if self.keeper == Keeper::Home || resizing.is_none() {
            victims.remove(state.dirty);
        }
        if victims.is_empty() {
            // Whoever is busy with the rest puts the block back.
            if state.busy.is_empty() {
                self.enqueue(index, &mut state);
            }
            drop(state);
            self.forget_block(index, &block);
            return false;
        }
        match self.drop_pages(&block, state, index, victims, resizing) {
            Ok(any) => {
                self.forget_block(index, &block);
                any
            }
            Err(error) => {
                self.keep_error(error);
                false
            }
        }
    }

    /// Drops resident pages that are not busy: whether any went. `resizing` is read if any are to
    /// be written back.
    ///
    /// # Errors
    /// Those of the driver's `write_back`; all pages stay then.
    pub(crate) fn drop_pages(
        &self,
        block: &Block,
        mut state: MutexGuard<'_, State>,
        index: u64,
        victims: Pages,
        resizing: Option<RwLockReadGuard<'_, ()>>,
    ) -> Result<bool, Error> {
        let (dirty, own) = (state.dirty.and(victims), state.own.and(victims));
        // Nobody shall fill what lies between them, so that they go in few calls.
        let gaps = victims.span().without(state.resident).without(state.busy);
        let mut claimed = victims;
        claimed.add(gaps);
        state.busy.add(claimed);
        state.resident.remove(victims);
        state.dirty.remove(victims);
        state.own.remove(victims);
        self.core.unsettle(victims.count());
        drop(state);

        for area in self.areas() {
            area.forget(index, victims);
        }
        let writes = !dirty.is_empty();
        let resizing = resizing.or_else(|| writes.then(|| self.resizing.read()));
        let written = dirty.runs(index).try_for_each(|run| self.write_back(run));
        drop(resizing);
        let mut gone = Pages::NONE;
        if written.is_ok() {
            gone.add(self.zap(index, own, claimed));
            gone.add(self.punch(index, victims.without(own), claimed));
        }
        count(&self.core.counters.evicted, gone.count());

        let (mut state, lost) = self.lock_with_rest(block, index, own.without(gone));
        gone.add(lost);
        state.resident.add(victims.without(gone));
        if written.is_err() {
            state.dirty.add(dirty);
        }
        self.enqueue(index, &mut state);
        block.finish(&self.core, state, claimed);
        if gone.is_empty() {
            self.core.give_up(victims.count());
        } else {
            self.core.settle(victims.count(), gone.count());
        }
        written.map(|()| !gone.is_empty())
    }

    /// Frees pages that somebody is busy with, among others that are claimed and not there:
    /// those that went. What a slice is held of stays.
    fn punch(&self, index: u64, pages: Pages, claimed: Pages) -> Pages {
        let mut gone = pages;
        if pages.is_empty() {
            return gone;
        }
        let punch = |run: &Range<u64>| self.pages.punch(self.bytes(run)).is_ok();
        for run in claimed.runs(index).filter(|run| !punch(run)) {
            let stay = run.filter(|page| !punch(&(*page..page + 1)));
            stay.for_each(|page| gone.remove(Pages::one(page)));
        }
        gone
    }

    /// Gives pages that do not change now to the device, while `resizing` is read.
    pub(crate) fn write_back(&self, pages: Range<u64>) -> Result<(), Error> {
        let mut bytes = self.bytes(&pages);
        if let Some(size) = self.size() {
            // Bytes past the end are never written back.
            bytes.end = bytes.end.min(size);
            if bytes.is_empty() {
                return Ok(());
            }
        }
        let mut content = vec![0; (bytes.end - bytes.start) as usize];
        self.pages
            .read(bytes.start, &mut content)
            .map_err(|error| Error::system("pread", &error))?;
        let failed = |errno| Error::Failed { call: "write_back", page: pages.start, errno };
        let size = ("size", Detail::Number(bytes.end - bytes.start));
        let details = [("page", Detail::Number(pages.start)), size];
        self.core.step(&self.name, "writepages", &details, || {
            self.driver.write_back(bytes.start, &content).map_err(failed)
        })?;
        count(&self.core.counters.written_back, pages.end - pages.start);
        Ok(())
    }

    /// Keeps an error of a write-back for the next who asks.
    pub(crate) fn keep_error(&self, error: Error) {
        self.failed.lock().get_or_insert(error);
    }

    /// The error of a write-back that nobody was told of yet.
    pub(crate) fn take_error(&self) -> Result<(), Error> {
        self.failed.lock().take().map_or(Ok(()), Err)
    }

    /// Drops the pages of a range without writing them back: what is cached there is no
    /// longer so. Pages of which slices are held stay.
    pub(crate) fn invalidate(&self, pages: Range<u64>) {
        for (index, block) in self.blocks(&pages) {
            let wanted = Pages::in_block(index, &pages);
            let settled = || block.settled(&self.core, wanted);
            let Ok(mut state) = self.in_small(index, settled(), settled) else { continue };
            let victims = state.resident.and(wanted);
            state.dirty.remove(victims);
            if !victims.is_empty() {
                // What fails is a slice's, and goes with eviction.
                let _ = self.drop_pages(&block, state, index, victims, None);
                self.forget_block(index, &block);
            }
        }
    }

    /// Drops the pages of a range, having written back those that need it.
    ///
    /// # Errors
    /// Those of the driver's `write_back`.
    pub(crate) fn drop_clean(&self, pages: Range<u64>) -> Result<(), Error> {
        for (index, block) in self.blocks(&pages) {
            let wanted = Pages::in_block(index, &pages);
            let settled = || block.settled(&self.core, wanted);
            let state = self.in_small(index, settled(), settled)?;
            let mut victims = state.resident.and(wanted);
            if self.keeper == Keeper::Home {
                victims.remove(state.dirty);
            }
            if self.core.uffd.is_some() && !victims.is_empty() {
                self.drop_pages(&block, state, index, victims, None)?;
                self.forget_block(index, &block);
            }
        }
        Ok(())
    }

    /// Which pages of a range are resident, and which of those dirty.
    pub(crate) fn census(&self, pages: &Range<u64>) -> Vec<(u64, Pages, Pages)> {
        let look = |(index, block): (u64, Arc<Block>)| {
            let wanted = Pages::in_block(index, pages);
            let state = block.lock();
            (index, state.resident.and(wanted), state.dirty.and(wanted))
        };
        self.blocks(pages).into_iter().map(look).collect()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // A child has neither the content nor the right to say what is in it.
        if self.core.is_forked() {
            return;
        }
        if let Err(error) = self.sync_all() {
            // Nobody is left who could be told, so it is told aloud.
            eprintln!("devmap: {}: what was stored is lost: {error}", self.name);
        }
        let (mut held, mut queued) = (0, 0);
        for block in self.blocks.get_mut().values() {
            let state = block.lock();
            held += state.resident.count();
            queued += usize::from(state.queued);
        }
        self.core.unsettle(held);
        self.core.settle(held, held);
        self.core.gone_from_queue(queued);
    }
}

/// A refusal of the home itself.
pub(crate) fn refused(call: &'static str, errno: Errno) -> Error {
    Error::Refused { call, errno }
}
