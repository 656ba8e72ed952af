//! Changing the length of a file.
//!
//! The page that a file's end lies in stays where it is, since others may store to it at any
//! time: only what it holds past the end is zeroed (`truncate_inode_partial_folio`). Pages that
//! lie wholly past the end go: after a cut, since they could come again until then, and before
//! the file grows, since others may store to them once it has.

use devmap_driver::{Errno, Kind};

use crate::{
    Error, File, OpenMode,
    block::Pages,
    object::{Object, refused},
};

impl File {
    /// Changes the length of a regular file (`ftruncate(2)`). Pages wholly past it are
    /// gone from every map; what is left of the last one is zeros.
    ///
    /// # Errors
    /// `EINVAL` for what is no regular file, or was opened for reading; `ETXTBSY` while a slice
    /// is held of what lies past the old end or the new one; those of the driver.
    pub fn truncate(&self, size: u64) -> Result<(), Error> {
        if self.mode == OpenMode::ReadOnly {
            return Err(refused("ftruncate", Errno::EINVAL));
        }
        self.object.truncate(size)
    }
}

impl Object {
    fn truncate(&self, size: u64) -> Result<(), Error> {
        let _truncating = self.truncating.lock();
        let Kind::Regular { size: before } = self.driver.metadata().kind else {
            return Err(refused("ftruncate", Errno::EINVAL));
        };
        let end = size.min(before);
        if self.pages.is_frozen(&(end..u64::MAX)) {
            return Err(refused("ftruncate", Errno::ETXTBSY));
        }
        if size > before {
            // What was stored past the old end must not show.
            self.cut(end);
            self.resize(size)?;
            self.areas().iter().for_each(|area| area.truncated());
        } else {
            self.resize(size)?;
            self.cut(end);
        }
        Ok(())
    }

    /// Has the driver do it, while nothing is written back: that would undo a cut.
    fn resize(&self, size: u64) -> Result<(), Error> {
        let none_writes = loop {
            // Who needs room that comes with a write-back waits for this, but not while this
            // waits for who writes back.
            self.core.unsettle(1);
            if let Some(none_writes) = self.resizing.try_write() {
                break none_writes;
            }
            self.core.settle(1, 0);
            drop(self.resizing.write());
        };
        let resized = self.driver.truncate(size).map_err(|errno| refused("ftruncate", errno));
        drop(none_writes);
        self.core.settle(1, 0);
        resized
    }

    /// Drops what is cached past byte `end`, which is the end of the file.
    fn cut(&self, end: u64) {
        let areas = self.areas();
        // Where nobody tells of accesses, the empty file lies there before the pages go.
        areas.iter().for_each(|area| area.truncated());
        self.zero_partial(end);
        let gone = self.core.page_size.pages_for(end)..u64::MAX;
        self.invalidate(gone.clone());
        areas.iter().for_each(|area| area.drop_copies(gone.clone()));
    }

    /// Zeroes what the page in which byte `end` lies holds from there on.
    fn zero_partial(&self, end: u64) {
        let page = self.core.page_size.page_of(end);
        let bytes = self.bytes(&(page..page + 1));
        if end == bytes.start {
            return;
        }
        let bit = Pages::one(page);
        for (index, block) in self.blocks(&(page..page + 1)) {
            let settled = || block.settled(&self.core, bit);
            let Ok(state) = self.in_small(index, settled(), settled) else { return };
            if state.own.has(bit) {
                // Nobody stores to it.
                let _ = self.drop_pages(&block, state, index, bit, None);
            } else if state.resident.has(bit) {
                let zeros = vec![0; (bytes.end - end) as usize];
                let written = self.pages.write(end, &zeros);
                debug_assert!(written.is_ok(), "pwrite: {written:?}");
            }
        }
    }
}
