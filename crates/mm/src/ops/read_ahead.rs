//! More than was asked for: pages of a file around the one that faults (`filemap_fault`'s
//! read-ahead), entries for what is cached around it (`do_fault_around`), and
//! `MADV_WILLNEED`. Not the fault itself.

use alloc::{sync::Arc, vec::Vec};
use core::ops::Range;

use devmap_driver::Access;

use crate::{Area, Engine, File, Flags, Mmu, SpaceId, Table};

impl<M: Mmu> Engine<M> {
    /// Maps cached pages in the neighbourhood too (`do_fault_around`).
    pub(super) fn fault_around(
        &mut self,
        space: SpaceId,
        area: &Area<M::Frame>,
        file: &Arc<File<M::Frame>>,
        at: u64,
        index: u64,
        writable: bool,
    ) {
        let width = self.limits.fault_around.max(1);
        let own = self.pages_of(area.start, area.end);
        let from = (at - at % width).max(own.start).max(at.saturating_sub(index));
        let to = (at - at % width + width).min(own.end);
        let first = index - (at - from);
        let keys = (file.object, first)..(file.object, first + (to - from));
        let around: Vec<_> =
            self.cache.pages.range(keys).map(|(key, page)| (key.1, *page)).collect();
        for (index, page) in around {
            let at = from + (index - first);
            if self.space(space).table.get(at).is_none() {
                // Only a favour: without, the page faults when it is used.
                let _ = self.install(space, at, page, writable);
            }
        }
    }

    /// Reads the neighbours of a page of a file that is not cached: those behind it when the
    /// area is read in order, those around it otherwise, none when it is read at random
    /// (`do_sync_mmap_readahead`). Devices are asked for no page that nobody wants.
    pub(super) fn read_around(
        &mut self,
        area: &Area<M::Frame>,
        file: &Arc<File<M::Frame>>,
        index: u64,
    ) {
        let spec = &self.objects.get(file.object.0).spec;
        let cached = self.cache.pages.contains_key(&(file.object, index));
        let is_file = spec.refillable && spec.size.is_some();
        if cached || !is_file || area.flags.contains(Flags::RAND_READ) {
            return;
        }
        // Of a small cache, no more than a part.
        let most = self.limits.frames.map_or(u64::MAX, |frames| frames as u64 / 4);
        let width = self.limits.read_ahead.min(most);
        let first = if area.flags.contains(Flags::SEQ_READ) {
            index
        } else {
            index.saturating_sub(width / 2)
        };
        let end = self.object_pages(file.object).unwrap_or(0).min(first + width);
        for wanted in (first..end).filter(|page| *page != index) {
            // The page that is wanted comes last, so that none of these takes its place.
            self.read_ahead(file, wanted..wanted + 1);
        }
    }

    /// `MADV_WILLNEED`: what can be had goes into the cache.
    pub(crate) fn read_ahead(&mut self, file: &Arc<File<M::Frame>>, pages: Range<u64>) {
        if file.content.is_none() {
            return;
        }
        for index in pages {
            match self.get_page(file, index, Access::Read) {
                Ok(page) => self.drop_unused(page),
                Err(_) => return,
            }
        }
    }
}
