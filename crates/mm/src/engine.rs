//! The engine's state, and what several operations need: address spaces, objects, and
//! the one way in which page table entries come and go.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use devmap_driver::{Errno, PageSize};

use crate::{
    Area, AreaSet, Content, Entry, File, FileMode, Flags, Frame, Mmu, ObjectId, ObjectSpec, PageId,
    Table,
    area::Anon,
    cache::Cache,
    object::{Failed, Object},
    page::{Kind, Page},
    slab::Slab,
    trace::Trace,
};

/// The number of an address space in its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpaceId(pub u32);

/// What an engine does not go beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frames in use: anonymous and cached pages together. Drivers' own memory does not
    /// count. `None`: as many as the machine has.
    pub frames: Option<usize>,
    /// Areas in one address space (`vm.max_map_count`).
    pub areas: usize,
    /// Pages that one fault maps when they are cached (`fault_around_bytes`); 1: only
    /// the one that was asked for.
    pub fault_around: u64,
    /// Pages of a file that are read at once when one is missing (`read_ahead_kb`); 0: only
    /// the one that was asked for.
    pub read_ahead: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { frames: None, areas: 65_530, fault_around: 16, read_ahead: 32 }
    }
}

/// One address space (`mm_struct`).
pub(crate) struct Space<M: Mmu> {
    pub areas: AreaSet<M::Frame>,
    pub table: M::Table,
    /// What new areas are locked with (`def_flags`).
    pub lock_new: Flags,
}

impl<M: Mmu> Space<M> {
    pub fn table_entry(&self, page: u64) -> Option<Entry> {
        self.table.get(page)
    }
}

/// The memory engine.
pub struct Engine<M: Mmu> {
    pub(crate) mmu: M,
    pub(crate) limits: Limits,
    pub(crate) spaces: Slab<Space<M>>,
    pub(crate) objects: Slab<Object>,
    pub(crate) pages: Slab<Page<M::Frame>>,
    pub(crate) cache: Cache,
    /// The page of zeros, once there is one.
    pub(crate) zero: Option<PageId>,
    /// How many shared anonymous maps there were: the inode of each.
    pub(crate) shared_maps: u64,
    /// The steps that it tells, if it shall.
    pub(crate) trace: Option<Trace>,
    next_anon: u64,
}

impl<M: Mmu> Engine<M> {
    /// An engine on a machine.
    pub fn new(mmu: M, limits: Limits) -> Engine<M> {
        Engine {
            mmu,
            limits,
            spaces: Slab::new(),
            objects: Slab::new(),
            pages: Slab::new(),
            cache: Cache::new(),
            zero: None,
            shared_maps: 0,
            trace: None,
            next_anon: 0,
        }
    }

    /// The machine.
    pub fn mmu(&self) -> &M {
        &self.mmu
    }

    /// The machine's page size.
    pub fn page_size(&self) -> PageSize {
        self.mmu.page_size()
    }

    /// A new address space without areas.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new_space(&mut self) -> Result<SpaceId, Errno> {
        let table = self.mmu.table()?;
        Ok(SpaceId(self.spaces.insert(Space {
            areas: AreaSet::default(),
            table,
            lock_new: Flags::NONE,
        })))
    }

    /// Ends an address space (`exit_mmap`).
    ///
    /// # Panics
    /// When there is none of this number, as all operations do.
    pub fn drop_space(&mut self, space: SpaceId) {
        while let Some(area) = self.space(space).areas.find(0) {
            let (start, end) = (area.start, area.end);
            self.remove_areas(space, start, end);
        }
        self.spaces.remove(space.0);
    }

    /// The areas of an address space.
    pub fn areas(&self, space: SpaceId) -> &AreaSet<M::Frame> {
        &self.space(space).areas
    }

    /// The page table entry of the page that holds `address`.
    pub fn entry(&self, space: SpaceId, address: u64) -> Option<Entry> {
        self.space(space).table.get(self.page_size().page_of(address))
    }

    /// A new object, and the first open file of it.
    pub fn create(
        &mut self,
        spec: ObjectSpec,
        mode: FileMode,
        content: Option<Box<dyn Content<M::Frame>>>,
    ) -> Arc<File<M::Frame>> {
        let (opens, maps) = (Arc::new(()), Arc::new(()));
        let object = Object { spec, failed: Failed::NONE, opens, maps };
        let object = ObjectId(self.objects.insert(object));
        self.open(object, mode, content)
    }

    /// Opens an object once more.
    pub fn open(
        &mut self,
        object: ObjectId,
        mode: FileMode,
        content: Option<Box<dyn Content<M::Frame>>>,
    ) -> Arc<File<M::Frame>> {
        let state = self.objects.get(object.0);
        let (told, _count) = (state.failed.sample(), state.opens.clone());
        Arc::new(File { object, mode, content, told, _count })
    }

    /// Gives a reference to an open file back: the last close of a descriptor. The file
    /// itself ends when no area maps it either, and the object with its last file.
    pub fn close(&mut self, file: Arc<File<M::Frame>>) {
        let object = file.object;
        drop(file);
        self.reap(object);
    }

    /// Drops an object that nothing refers to. Of one that is not mapped any more dirty
    /// pages are written back, or without a store all dropped if they can be filled again.
    pub(crate) fn reap(&mut self, id: ObjectId) {
        let object = self.objects.get(id.0);
        let is_open = Arc::strong_count(&object.opens) > 1;
        let is_mapped = Arc::strong_count(&object.maps) > 1;
        if is_mapped {
            return;
        }
        let (refillable, has_store) = (object.spec.refillable, object.spec.store.is_some());
        if has_store {
            // What fails is told to the files that are open; if none is, to nobody.
            let _ = self.write_back(id, 0..u64::MAX);
        }
        if !is_open {
            self.forget(id, 0..u64::MAX);
            self.objects.remove(id.0);
        } else if refillable && !has_store {
            self.forget(id, 0..u64::MAX);
        }
    }

    /// The length of an object in pages; `None`: unknown.
    pub(crate) fn object_pages(&self, object: ObjectId) -> Option<u64> {
        Some(self.page_size().pages_for(self.objects.get(object.0).spec.size?))
    }

    pub(crate) fn space(&self, space: SpaceId) -> &Space<M> {
        self.spaces.get(space.0)
    }

    pub(crate) fn space_mut(&mut self, space: SpaceId) -> &mut Space<M> {
        self.spaces.get_mut(space.0)
    }

    pub(crate) fn new_anon(&mut self, inherited: bool) -> Anon {
        self.next_anon += 1;
        Anon { id: self.next_anon, inherited }
    }

    /// The page size in bytes.
    pub(crate) fn page_bytes(&self) -> u64 {
        self.page_size().bytes()
    }

    /// `PAGE_ALIGN`: 0 when that does not fit.
    pub(crate) fn page_align(&self, len: u64) -> u64 {
        len.checked_next_multiple_of(self.page_bytes()).unwrap_or(0)
    }

    /// The pages from `start` to `end`.
    pub(crate) fn pages_of(&self, start: u64, end: u64) -> core::ops::Range<u64> {
        self.page_size().page_of(start)..self.page_size().page_of(end)
    }

    /// Checks `start` and `len` of `munmap` and its kin: the end of the range.
    pub(crate) fn range_end(&self, start: u64, len: u64) -> Result<u64, Errno> {
        let task_size = self.mmu.task_size();
        if !self.page_size().is_aligned(start) || start > task_size || len > task_size - start {
            return Err(Errno::EINVAL);
        }
        match self.page_align(len) {
            0 => Err(Errno::EINVAL),
            len => Ok(start + len),
        }
    }

    /// Writes an entry for `page`, over any that is there, and keeps the reverse map.
    ///
    /// # Errors
    /// `ENOMEM`; nothing changed then.
    pub(crate) fn install(
        &mut self,
        space: SpaceId,
        at: u64,
        page: PageId,
        writable: bool,
    ) -> Result<(), Errno> {
        let entry = Entry { page, writable, user: true, accessed: false, dirty: false };
        let old = self.space(space).table.get(at);
        self.space_mut(space).table.set(at, entry)?;
        self.add_mapper(page, space, at);
        if let Some(old) = old {
            self.put_entry(space, at, old);
        }
        Ok(())
    }

    /// Takes an entry out, if there is one (`zap_pte_range`).
    pub(crate) fn zap(&mut self, space: SpaceId, at: u64) {
        if let Some(entry) = self.space_mut(space).table.clear(at) {
            self.put_entry(space, at, entry);
        }
    }

    /// Takes out all entries of a range of pages.
    pub(crate) fn zap_range(&mut self, space: SpaceId, pages: core::ops::Range<u64>) {
        let mut from = pages.start;
        while let Some((at, _)) = self.space(space).table.next(from).filter(|e| e.0 < pages.end) {
            self.zap(space, at);
            from = at + 1;
        }
    }

    /// The entries of a range of pages.
    pub(crate) fn entries(
        &self,
        space: SpaceId,
        pages: core::ops::Range<u64>,
    ) -> impl Iterator<Item = (u64, Entry)> {
        let table = &self.space(space).table;
        let mut from = pages.start;
        core::iter::from_fn(move || {
            let found = table.next(from).filter(|(at, _)| *at < pages.end)?;
            from = found.0 + 1;
            Some(found)
        })
    }

    pub(crate) fn add_mapper(&mut self, page: PageId, space: SpaceId, at: u64) {
        let page = self.pages.get_mut(page.0);
        if page.kind != Kind::Zero {
            page.mappers.push((space, at));
        }
    }

    /// An entry that was taken out gives up its page, and what it knew of it.
    pub(crate) fn put_entry(&mut self, space: SpaceId, at: u64, entry: Entry) {
        let page = self.pages.get_mut(entry.page.0);
        page.dirty |= entry.dirty;
        page.accessed |= entry.accessed;
        if let Some(index) = page.mappers.iter().position(|mapper| *mapper == (space, at)) {
            page.mappers.swap_remove(index);
        }
        if page.mappers.is_empty() && matches!(page.kind, Kind::Anonymous | Kind::Driver) {
            self.free_page(entry.page);
        }
    }

    pub(crate) fn free_page(&mut self, id: PageId) {
        let page = self.pages.remove(id.0);
        if page.kind == Kind::Anonymous {
            self.cache.lazy.remove(&id);
        }
        if page.kind != Kind::Driver {
            self.cache.frames -= 1;
        }
    }

    /// A page of a new frame, zeros, having made room for it.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new_page(&mut self, kind: Kind) -> Result<PageId, Errno> {
        self.make_room();
        if !self.has_room() {
            return Err(Errno::ENOMEM);
        }
        let frame = self.mmu.allocate()?;
        Ok(self.adopt(frame, kind))
    }

    /// A page of this frame.
    pub(crate) fn adopt(&mut self, frame: M::Frame, kind: Kind) -> PageId {
        if kind != Kind::Driver {
            self.cache.frames += 1;
        }
        let page = Page { frame, kind, mappers: Vec::new(), dirty: false, accessed: false };
        PageId(self.pages.insert(page))
    }

    pub(crate) fn copy_page(&self, from: PageId, to: PageId) {
        let mut bytes = alloc::vec![0; self.page_bytes() as usize];
        self.pages.get(from.0).frame.read(0, &mut bytes);
        self.pages.get(to.0).frame.write(0, &bytes);
    }

    /// Sets what the entries of a range permit, after the area's flags changed
    /// (`change_protection`). Stores are permitted again by a fault.
    pub(crate) fn change_protection(&mut self, space: SpaceId, area: &Area<M::Frame>) {
        let pages = self.pages_of(area.start, area.end);
        let user = area.flags.intersects(Flags::ACCESS);
        let write = area.flags.contains(Flags::WRITE);
        let table = &mut self.space_mut(space).table;
        let mut from = pages.start;
        while let Some((at, entry)) = table.next(from).filter(|(at, _)| *at < pages.end) {
            let new = Entry { user, writable: entry.writable && write, ..entry };
            // The table is there, so this does not fail.
            let _ = table.set(at, new);
            from = at + 1;
        }
    }
}
