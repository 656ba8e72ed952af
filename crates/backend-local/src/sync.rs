//! Write-back: `msync(2)`, and what comes with the last map.

use std::{ops::Range, sync::Arc};

use devmap_driver::{Fsync, Store as Keeper};

use crate::{
    Error, Mapping,
    area::{Area, Writes},
    block::{Block, Pages},
    object::{Object, refused},
    primitives::thread,
};

impl Object {
    /// Writes back the dirty pages of a range, in order. All are tried; the first error is
    /// the one.
    ///
    /// # Errors
    /// Those of the driver; what failed is still dirty.
    pub(crate) fn sync(&self, pages: &Range<u64>) -> Result<(), Error> {
        if self.keeper == Keeper::Home {
            return Ok(());
        }
        let mut result = Ok(());
        for (index, block) in self.blocks(pages) {
            let synced = self.sync_block(index, &block, Pages::in_block(index, pages));
            result = result.and(synced);
        }
        result
    }

    /// As [`Object::sync`], of all.
    pub(crate) fn sync_all(&self) -> Result<(), Error> {
        self.sync(&(0..u64::MAX))
    }

    /// A store either comes before its page is protected, and is written back now, or is
    /// told after that, and makes the page dirty again.
    fn sync_block(&self, index: u64, block: &Block, wanted: Pages) -> Result<(), Error> {
        let mut state = block.settled(&self.core, wanted);
        let dirty = state.dirty.and(wanted);
        if dirty.is_empty() {
            return Ok(());
        }
        state.busy.add(dirty);
        state.dirty.remove(dirty);
        self.core.unsettle(dirty.count());
        drop(state);

        let mut writes_untold = false;
        let protected = self.areas().iter().try_for_each(|area| {
            writes_untold |= area.writes == Writes::Shared && !area.tells_stores();
            dirty.runs(index).try_for_each(|run| area.protect(run))
        });
        let synced = protected.and_then(|()| {
            let _resizing = self.resizing.read();
            dirty.runs(index).try_for_each(|run| self.write_back(run))
        });

        let mut state = block.lock();
        if synced.is_err() || writes_untold {
            state.dirty.add(dirty);
        }
        self.enqueue(index, &mut state);
        block.finish(&self.core, state, dirty);
        self.core.settle(dirty.count(), 0);
        synced
    }
}

impl Area {
    fn of_device(&self, pages: Range<u64>) -> Range<u64> {
        self.first_page + pages.start..self.first_page + pages.end
    }

    /// What munmap(2) does about what was stored.
    pub(crate) fn sync_at_unmap(&self) {
        if self.writes == Writes::Shared {
            let all = 0..self.span.marks().len() as u64;
            if let Err(error) = self.object.sync(&self.of_device(all)) {
                self.object.keep_error(error);
            }
        }
    }
}

impl Mapping {
    /// Writes back what was stored in a range and makes it durable (`msync(2)` with
    /// `MS_SYNC`): when it returns, it is there, whatever becomes of this process.
    ///
    /// # Errors
    /// Outside of the mapping; those of the driver, also of earlier write-backs that nobody
    /// was told of. `EINVAL` for a device without `fsync`.
    pub fn sync(&self, bytes: Range<usize>) -> Result<(), Error> {
        self.check_bytes(&bytes)?;
        if self.area.writes != Writes::Shared {
            return Ok(());
        }
        let written = self.area.object.sync(&self.area.of_device(self.pages(&bytes)));
        self.area.object.take_error()?;
        written?;
        self.area.file.fsync(Fsync::Data).map_err(|errno| refused("fsync", errno))
    }

    /// Drops the pages of a range from memory, having written back what was stored: the
    /// next access finds them in the device. Pages stay that slices are held of, and those
    /// that were stored to of a device that does not keep them.
    ///
    /// # Errors
    /// Outside of the mapping; those of the driver.
    pub fn evict(&self, bytes: Range<usize>) -> Result<(), Error> {
        self.check_bytes(&bytes)?;
        self.area.object.drop_clean(self.area.of_device(self.pages(&bytes)))
    }

    /// Unmaps it (`munmap(2)`), and says what the write-back said, which a drop cannot.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn unmap(mut self) -> Result<(), Error> {
        self.end();
        if self.area.span.is_forked() { Ok(()) } else { self.area.object.take_error() }
    }

    /// The map is gone but for its addresses, and what it said is kept.
    fn end(&mut self) {
        self.has_ended = true;
        let area = &self.area;
        // In a child the locks may be anyone's, and the content is the parent's.
        if area.span.is_forked() {
            return;
        }
        area.no_read_ahead();
        if area.is_owner {
            area.object.owner_goes();
        }
        area.core.remove_area(area.span.address());
        area.object.remove_area(area);
        // Nobody accesses it, so nobody waits for a page of it; but who has just supplied
        // one, or looks through all areas, may have it in hand for some more instructions,
        // and who reads ahead until that read is done.
        while Arc::strong_count(area) > 1 {
            thread::yield_now();
        }
        area.sync_at_unmap();
        // Held to the end: a map that comes now finds nothing of what goes with this one.
        let mut count = area.object.maps.count.lock();
        *count -= 1;
        area.object.map_gone(&count);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end();
        }
    }
}
