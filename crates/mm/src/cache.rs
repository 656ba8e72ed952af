//! The page cache: the pages of objects, shared by all who map them; write-back in
//! order, and eviction under a limit. Not the faults that fill it.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec,
    vec::Vec,
};
use core::{ops::Range, sync::atomic::Ordering};

use devmap_driver::Errno;

use crate::{
    Engine, Entry, File, Flags, Frame, Mmu, ObjectId, PageId, SpaceId, Table, object::Failed,
    page::Kind, trace::Detail,
};

pub(crate) struct Cache {
    /// In order of objects, and of pages within each.
    pub pages: BTreeMap<(ObjectId, u64), PageId>,
    /// Frames in use: of anonymous and of cached pages.
    pub frames: usize,
    /// Private pages that may be taken unless they were written since (`PG_lazyfree`).
    pub lazy: BTreeSet<PageId>,
    /// Where the search for a page to evict goes on: the clock's hand.
    hand: (ObjectId, u64),
}

impl Cache {
    pub fn new() -> Cache {
        Cache { pages: BTreeMap::new(), frames: 0, lazy: BTreeSet::new(), hand: (ObjectId(0), 0) }
    }
}

impl<M: Mmu> Engine<M> {
    /// How many frames are in use: anonymous and cached pages, and the page of zeros.
    pub fn frames(&self) -> usize {
        self.cache.frames
    }

    /// Which pages of an object are cached, in order.
    pub fn cached(&self, object: ObjectId) -> impl Iterator<Item = u64> {
        self.cache.pages.range((object, 0)..=(object, u64::MAX)).map(|(key, _)| key.1)
    }

    /// Which cached pages of an object were written and not written back, in order.
    pub fn dirty(&self, object: ObjectId) -> impl Iterator<Item = u64> {
        let pages = self.cache.pages.range((object, 0)..=(object, u64::MAX));
        pages.filter(|(_, page)| self.is_dirty(**page)).map(|(key, _)| key.1)
    }

    fn is_dirty(&self, page: PageId) -> bool {
        let page = self.pages.get(page.0);
        let dirty = |(space, at): &(SpaceId, u64)| {
            self.space(*space).table.get(*at).is_some_and(|entry| entry.dirty)
        };
        page.dirty || page.mappers.iter().any(dirty)
    }

    /// Changes every entry that names a page.
    fn update_entries(&mut self, page: PageId, change: impl Fn(&mut Entry)) {
        let mappers = self.pages.get(page.0).mappers.clone();
        for (space, at) in mappers {
            let table = &mut self.space_mut(space).table;
            if let Some(mut entry) = table.get(at) {
                change(&mut entry);
                // The table is there, so this does not fail.
                let _ = table.set(at, entry);
            }
        }
    }

    pub(crate) fn cached_in(&self, object: ObjectId, pages: Range<u64>) -> Vec<(u64, PageId)> {
        let range = (object, pages.start)..(object, pages.end);
        self.cache.pages.range(range).map(|(key, page)| (key.1, *page)).collect()
    }

    /// Writes dirty pages of a range back, in order (`filemap_write_and_wait_range`).
    /// Goes on after an error.
    ///
    /// # Errors
    /// The first of the store's; those pages stay dirty. Open files are told by
    /// [`Engine::check_failed`].
    pub(crate) fn write_back(&mut self, object: ObjectId, pages: Range<u64>) -> Result<(), Errno> {
        let mut result = Ok(());
        for (index, page) in self.cached_in(object, pages) {
            result = result.and(self.write_page(object, index, page));
        }
        result
    }

    /// Writes one page back if it is dirty and there is a store.
    fn write_page(&mut self, object: ObjectId, index: u64, page: PageId) -> Result<(), Errno> {
        if self.objects.get(object.0).spec.store.is_none() || !self.is_dirty(page) {
            return Ok(());
        }
        // The marks go first: a store that comes after them is written the next time.
        self.update_entries(page, |entry| entry.dirty = false);
        self.pages.get_mut(page.0).dirty = false;
        let page_bytes = self.page_bytes();
        let spec = &self.objects.get(object.0).spec;
        let left = spec.size.map_or(page_bytes, |size| size.saturating_sub(index * page_bytes));
        let mut bytes = vec![0; left.min(page_bytes) as usize];
        self.pages.get(page.0).frame.read(0, &mut bytes);
        let result = spec
            .store
            .as_ref()
            .map_or(Ok(()), |store| store.write_back(index * page_bytes, &bytes));
        let details =
            [("page", Detail::Number(index)), ("size", Detail::Number(bytes.len() as u64))];
        let _ = self.step(object, "writepages", details, |_| result);
        if let Err(errno) = result {
            self.pages.get_mut(page.0).dirty = true;
            let failed = &mut self.objects.get_mut(object.0).failed;
            *failed = Failed { count: failed.count.wrapping_add(1), errno, told: false };
        }
        result
    }

    /// Whether a write-back of the object failed that the file was not told of
    /// (`file_check_and_advance_wb_err`).
    pub(crate) fn check_failed(&mut self, file: &File<M::Frame>) -> Result<(), Errno> {
        let failed = &mut self.objects.get_mut(file.object.0).failed;
        if file.told.swap(failed.count, Ordering::Relaxed) == failed.count {
            return Ok(());
        }
        failed.told = true;
        Err(failed.errno)
    }

    /// Unmaps a page everywhere (`try_to_unmap`).
    fn unmap_page(&mut self, page: PageId) {
        for (space, at) in self.pages.get(page.0).mappers.clone() {
            self.zap(space, at);
        }
    }

    /// Drops cached pages, dirty or not, and their entries
    /// (`truncate_inode_pages_range`).
    pub(crate) fn forget(&mut self, object: ObjectId, pages: Range<u64>) {
        for (index, page) in self.cached_in(object, pages) {
            self.unmap_page(page);
            self.cache.pages.remove(&(object, index));
            self.free_page(page);
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.limits.frames.is_none_or(|most| self.cache.frames < most)
    }

    /// Evicts pages until there is room for one more, or nothing is left to evict.
    pub(crate) fn make_room(&mut self) {
        while !self.has_room() && (self.take_lazy() || self.evict()) {}
    }

    /// Takes a page that its owner said may go. Whether there was one.
    fn take_lazy(&mut self) -> bool {
        while let Some(page) = self.cache.lazy.pop_first() {
            if !self.is_dirty(page) && !self.is_locked(page) {
                // The last entry takes the page with it.
                self.unmap_page(page);
                return true;
            }
        }
        false
    }

    /// Evicts one page: the first behind the hand that was not used since the hand
    /// passed it last. A dirty one is written back before. Whether there was one.
    fn evict(&mut self) -> bool {
        // Twice round: the first may only take accessed bits away.
        for _ in 0..2 * self.cache.pages.len() {
            let hand = self.cache.hand;
            let past = (core::ops::Bound::Excluded(hand), core::ops::Bound::Unbounded);
            let next = self.cache.pages.range(past).next().or(self.cache.pages.first_key_value());
            let Some((&(object, index), &page)) = next else { return false };
            self.cache.hand = (object, index);
            if !self.take_accessed(page) && self.evict_page(page) {
                return true;
            }
        }
        false
    }

    /// Evicts a page that the content can fill again and no area locks, having written it
    /// back. Whether it went.
    pub(crate) fn evict_page(&mut self, page: PageId) -> bool {
        let Kind::Cached(object, index) = self.pages.get(page.0).kind else { return false };
        if !self.objects.get(object.0).spec.refillable || self.is_locked(page) {
            return false;
        }
        if self.write_page(object, index, page).is_err() || self.is_dirty(page) {
            return false;
        }
        self.forget(object, index..index + 1);
        true
    }

    fn is_locked(&self, page: PageId) -> bool {
        self.pages.get(page.0).mappers.iter().any(|(space, at)| {
            let area = self.space(*space).areas.lookup(at * self.page_bytes());
            area.is_some_and(|area| area.flags.contains(Flags::LOCKED))
        })
    }

    /// Whether the page was used since the last call (`folio_referenced`).
    fn take_accessed(&mut self, page: PageId) -> bool {
        let mappers = &self.pages.get(page.0).mappers;
        let accessed = |(space, at): &(SpaceId, u64)| {
            self.space(*space).table.get(*at).is_some_and(|entry| entry.accessed)
        };
        let by_entry = mappers.iter().any(accessed);
        self.update_entries(page, |entry| entry.accessed = false);
        core::mem::take(&mut self.pages.get_mut(page.0).accessed) || by_entry
    }
}
