//! Changing an object's length under its maps (`truncate_setsize`), and holes in it.

use core::ops::Range;

use devmap_driver::Errno;

use crate::{Area, Engine, File, Frame, Mmu, ObjectId, SpaceId, page::Kind};

impl<M: Mmu> Engine<M> {
    /// The length of an object in bytes; `None`: only its driver knows.
    pub fn size(&self, object: ObjectId) -> Option<u64> {
        self.objects.get(object.0).spec.size
    }

    /// `ftruncate(2)`: sets the length. Pages past the new end go, private copies too:
    /// access is `SIGBUS` then. When it becomes shorter, the rest of the last page becomes
    /// zeros; growth leaves what stands there.
    ///
    /// # Errors
    /// `EINVAL` for an object without a length, or one that does not fit.
    pub fn truncate(&mut self, object: ObjectId, size: u64) -> Result<(), Errno> {
        let spec = &mut self.objects.get_mut(object.0).spec;
        if size > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let old = spec.size.ok_or(Errno::EINVAL)?;
        spec.size = Some(size);
        if let Some(store) = &spec.store {
            store.resized(size);
        }
        let kept = self.page_size().pages_for(size);
        self.unmap_private(object, kept..u64::MAX);
        self.forget(object, kept..u64::MAX);
        let used = size % self.page_bytes();
        if let Some(last) = self.cache.pages.get(&(object, kept.wrapping_sub(1)))
            && used > 0
            && size < old
        {
            let zeros = alloc::vec![0; (self.page_bytes() - used) as usize];
            self.pages.get(last.0).frame.write(used as usize, &zeros);
        }
        Ok(())
    }

    /// Takes notice of a length that has changed by itself, as by `ftruncate`.
    pub(crate) fn refresh_size(&mut self, file: &File<M::Frame>) {
        let size = file.content.as_ref().and_then(|content| content.size());
        if let Some(size) = size.filter(|size| self.size(file.object) != Some(*size)) {
            // Only lengths that no file has are refused, and then it stays what it was.
            let _ = self.truncate(file.object, size);
        }
    }

    /// `fallocate(FALLOC_FL_PUNCH_HOLE)` of whole pages: they are zeros again. Private
    /// copies stay.
    pub(crate) fn punch_hole(&mut self, object: ObjectId, pages: Range<u64>) {
        self.forget(object, pages);
    }

    /// Takes private copies of an object's pages out of all areas
    /// (`unmap_mapping_range` with `even_cows`).
    fn unmap_private(&mut self, object: ObjectId, pages: Range<u64>) {
        let maps = |area: &&Area<M::Frame>| area.file().is_some_and(|file| file.object == object);
        let page_size = self.page_size();
        let mut all: alloc::vec::Vec<(SpaceId, u64)> = alloc::vec::Vec::new();
        for (space, state) in self.spaces.iter() {
            let space = SpaceId(space);
            for area in state.areas.from(0).filter(maps) {
                let copies = self.entries(space, self.pages_of(area.start, area.end)).filter(
                    |(at, entry)| {
                        let index = area.page_offset_at(at * page_size.bytes(), page_size);
                        pages.contains(&index)
                            && self.pages.get(entry.page.0).kind == Kind::Anonymous
                    },
                );
                all.extend(copies.map(|(at, _)| (space, at)));
            }
        }
        for (space, at) in all {
            self.zap(space, at);
        }
    }
}
