//! `msync(2)`, and `fsync(2)`.

use alloc::sync::Arc;
use core::ops::Range;

use devmap_driver::{Errno, Fsync};

use crate::{Engine, File, Flags, Mmu, ObjectId, SpaceId};

/// `MS_ASYNC`, `MS_SYNC`, `MS_INVALIDATE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncFlags {
    /// `MS_ASYNC`: dirty pages are written in due time, which here is when they are
    /// evicted, or the object ends.
    pub later: bool,
    /// `MS_SYNC`: dirty pages are written before the call returns.
    pub now: bool,
    /// `MS_INVALIDATE`: other maps shall see it; they always do.
    pub invalidate: bool,
}

impl<M: Mmu> Engine<M> {
    /// `msync(2)`: writes dirty pages of shared maps back, in order.
    ///
    /// # Errors
    /// `EINVAL`: the address is no multiple of a page, or both now and later. `ENOMEM`:
    /// a part of the range is not mapped; the rest is written. `EBUSY`: to invalidate
    /// locked memory. As [`Engine::fsync`].
    pub fn sync(
        &mut self,
        space: SpaceId,
        start: u64,
        len: u64,
        flags: SyncFlags,
    ) -> Result<(), Errno> {
        if !self.page_size().is_aligned(start) || (flags.later && flags.now) {
            return Err(Errno::EINVAL);
        }
        let end = start.checked_add(self.page_align(len)).ok_or(Errno::ENOMEM)?;
        let mut result = Ok(());
        let mut at = start;
        while at < end {
            let Some(area) = self.space(space).areas.find(at) else { return Err(Errno::ENOMEM) };
            if area.start > at {
                result = Err(Errno::ENOMEM);
                at = area.start;
                continue;
            }
            if flags.invalidate && area.flags.contains(Flags::LOCKED) {
                return Err(Errno::EBUSY);
            }
            let to = area.end.min(end);
            if let Some(file) =
                area.file().filter(|_| flags.now && area.flags.contains(Flags::SHARED))
            {
                let first = area.page_offset_at(at, self.page_size());
                let pages = first..first + self.page_size().page_of(to - at);
                let file = file.clone();
                self.fsync_range(&file, pages, Fsync::Data)?;
            }
            at = to;
        }
        result
    }

    /// `fsync(2)` and `fdatasync(2)`: writes the dirty pages of the file's object back, in
    /// order, and makes them durable.
    ///
    /// # Errors
    /// Of write-backs since the file was told last; what its content answers.
    pub fn fsync(&mut self, file: &Arc<File<M::Frame>>, what: Fsync) -> Result<(), Errno> {
        self.fsync_range(file, 0..u64::MAX, what)
    }

    /// `vfs_fsync_range`.
    fn fsync_range(
        &mut self,
        file: &Arc<File<M::Frame>>,
        pages: Range<u64>,
        what: Fsync,
    ) -> Result<(), Errno> {
        self.refresh_size(file);
        // The object keeps count of what failed, for all of its files.
        let _ = self.write_back(file.object, pages);
        let synced = file.content.as_ref().map_or(Ok(()), |content| content.fsync(what));
        self.check_failed(file).and(synced)
    }

    /// Writes an object's dirty pages back, in order (`filemap_write_and_wait`).
    ///
    /// # Errors
    /// What the store answers; those pages stay dirty.
    pub fn sync_object(&mut self, object: ObjectId) -> Result<(), Errno> {
        let all: Range<u64> = 0..u64::MAX;
        self.write_back(object, all)
    }
}
