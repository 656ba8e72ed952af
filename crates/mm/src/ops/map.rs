//! `mmap(2)`: `do_mmap`, `mmap_region`. What is mapped later, page by page, is in
//! `fault`.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::ops::Range;

use devmap_driver::{Errno, NewArea, Protection, Sharing};

use crate::{
    Engine, File, FileMode, Flags, Mmu, ObjectSpec, SpaceId,
    area::Mapped,
    merge::{Origin, Proposal},
    page::Kind,
    trace::{About, Detail},
};

/// Where the area shall lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In the page of this address if it is free; the first page or not: wherever there is room.
    Hint(u64),
    /// `MAP_FIXED`: here, in place of what is there.
    Fixed(u64),
    /// `MAP_FIXED_NOREPLACE`: here, or not at all.
    FixedNoReplace(u64),
}

/// A call of `mmap`.
pub struct MapRequest<F> {
    placement: Placement,
    len: u64,
    protection: Protection,
    sharing: Sharing,
    file: Option<(Arc<File<F>>, u64)>,
    residency: Residency,
}

/// What `mmap` does about the pages themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residency {
    /// Nothing: each comes at its first use.
    #[default]
    OnUse,
    /// `MAP_POPULATE`: they are made resident, as far as they can be.
    Populated,
    /// `MAP_LOCKED`: the same, and they stay.
    Locked,
}

impl<F> MapRequest<F> {
    /// Anonymous memory of `len` bytes, private, to read and write, anywhere.
    pub fn new(len: u64) -> MapRequest<F> {
        MapRequest {
            placement: Placement::Hint(0),
            len,
            protection: Protection::READ_WRITE,
            sharing: Sharing::Private,
            file: None,
            residency: Residency::OnUse,
        }
    }

    /// Where it shall lie.
    #[must_use]
    pub fn at(self, placement: Placement) -> Self {
        MapRequest { placement, ..self }
    }

    /// What may be done with the pages.
    #[must_use]
    pub fn protection(self, protection: Protection) -> Self {
        MapRequest { protection, ..self }
    }

    /// `MAP_SHARED` or `MAP_PRIVATE`.
    #[must_use]
    pub fn sharing(self, sharing: Sharing) -> Self {
        MapRequest { sharing, ..self }
    }

    /// `MAP_POPULATE` or `MAP_LOCKED`.
    #[must_use]
    pub fn residency(self, residency: Residency) -> Self {
        MapRequest { residency, ..self }
    }

    /// An open file from byte `offset` on, instead of anonymous memory.
    #[must_use]
    pub fn file(self, file: &Arc<File<F>>, offset: u64) -> Self {
        MapRequest { file: Some((file.clone(), offset)), ..self }
    }
}

/// Pages to map at once: where in the area, and their frames.
type Remapped<F> = Vec<(Range<u64>, Vec<F>)>;

impl<M: Mmu> Engine<M> {
    /// `mmap(2)`: the address of the new map.
    ///
    /// # Errors
    /// `EINVAL`: the length is 0, or address or offset are no multiples of a page.
    /// `ENOMEM`: no room for it, or too many areas. `EOVERFLOW`: the offset's end does
    /// not fit. `EEXIST`: as [`Placement::FixedNoReplace`] says. `EACCES`: the file was
    /// not opened for this. What the driver's `mmap` answers.
    pub fn map(&mut self, space: SpaceId, request: &MapRequest<M::Frame>) -> Result<u64, Errno> {
        let file = request.file.as_ref();
        let about = About { space: Some(space), object: file.map(|(file, _)| file.object) };
        let offset = file.map_or(0, |(_, offset)| *offset);
        let pages = self.page_size().pages_for(request.len);
        let mode = match (request.sharing, request.protection.write) {
            (Sharing::Shared, true) => "shared, to write",
            (Sharing::Shared, false) => "shared",
            (Sharing::Private, true) => "private, to write",
            (Sharing::Private, false) => "private",
        };
        let details = [
            ("pages", Detail::Number(pages)),
            ("offset_pages", Detail::Number(self.page_size().page_of(offset))),
            ("mode", Detail::Word(mode)),
        ];
        self.step(about, "do_mmap", details, |engine| engine.do_mmap(space, request))
    }

    fn do_mmap(&mut self, space: SpaceId, request: &MapRequest<M::Frame>) -> Result<u64, Errno> {
        let page_size = self.page_size();
        let offset = request.file.as_ref().map_or(0, |(_, offset)| *offset);
        if !page_size.is_aligned(offset) || request.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = self.page_align(request.len);
        if len == 0 {
            return Err(Errno::ENOMEM);
        }
        if self.space(space).areas.len() > self.limits.areas {
            return Err(Errno::ENOMEM);
        }
        let pages = Detail::Number(page_size.page_of(len));
        let start = self.step(space, "get_unmapped_area", [("pages", pages)], |engine| {
            engine.get_unmapped_area(space, request.placement, len)
        })?;
        let mut flags =
            Flags::of(request.protection).union(Flags::MAYWRITE).union(self.space(space).lock_new);
        if request.residency == Residency::Locked {
            flags = flags.union(Flags::LOCKED);
        }
        if request.sharing == Sharing::Shared {
            flags = flags.union(Flags::SHARED).union(Flags::MAYSHARE);
        }
        let mut remapped = Vec::new();
        let (file, page_offset) = match &request.file {
            Some((file, _)) => {
                // `file_mmap_ok`; devices may use all of an offset's bits.
                let is_regular = self.size(file.object).is_some();
                let most = if is_regular { i64::MAX as u64 } else { u64::MAX };
                if offset.checked_add(len).is_none_or(|end| end > most) {
                    return Err(Errno::EOVERFLOW);
                }
                flags = may_map(file, flags)?;
                let first_page = page_size.page_of(offset);
                let (plan, pages) = self.call_mmap(file, first_page, len, request)?;
                flags = flags.union(plan);
                remapped = pages;
                (Some(file.clone()), first_page)
            }
            None if request.sharing == Sharing::Shared => (Some(self.shared_memory(len)), 0),
            None => (None, page_size.page_of(start)),
        };
        if !flags.contains(Flags::SHARED) && flags.contains(Flags::WRITE) {
            flags = flags.union(Flags::ACCOUNT);
        }
        if flags.intersects(Flags::SPECIAL) {
            flags = flags.without(Flags::LOCKS);
        }
        let end = start + len;
        let details = [("start", Detail::Address(start)), ("end", Detail::Address(end))];
        self.step(space, "mmap_region", details, |engine| {
            engine.do_unmap(space, start, end)?;
            let file = file.map(|file| {
                let _count = engine.objects.get(file.object.0).maps.clone();
                Mapped { file, _count }
            });
            let (anon, origin) = (None, Origin::Area);
            let area = Proposal { start, end, flags, page_offset, file, anon, origin };
            engine.add_range(space, area);
            engine.remap_frames(space, start, flags, remapped).inspect_err(|_| {
                engine.remove_areas(space, start, end);
            })
        })?;
        if flags.contains(Flags::LOCKED) || request.residency == Residency::Populated {
            // A page that cannot be had is told at its use.
            let _ = self.populate(space, start, end);
        }
        Ok(start)
    }

    /// Chooses the address (`get_unmapped_area`).
    pub(crate) fn get_unmapped_area(
        &self,
        space: SpaceId,
        placement: Placement,
        len: u64,
    ) -> Result<u64, Errno> {
        let task_size = self.mmu.task_size();
        let fits = |start: u64| len <= task_size && start <= task_size - len;
        let areas = &self.space(space).areas;
        let is_free = |start: u64| areas.find(start).is_none_or(|area| area.start >= start + len);
        match placement {
            Placement::Fixed(start) | Placement::FixedNoReplace(start) => {
                if !fits(start) {
                    return Err(Errno::ENOMEM);
                }
                if !self.page_size().is_aligned(start) {
                    return Err(Errno::EINVAL);
                }
                if matches!(placement, Placement::FixedNoReplace(_)) && !is_free(start) {
                    return Err(Errno::EEXIST);
                }
                Ok(start)
            }
            Placement::Hint(hint) => {
                // The lowest pages are for no one (vm.mmap_min_addr).
                let low = self.page_align(0x10000);
                let page = hint - hint % self.page_bytes();
                let near = page.max(low);
                if page > 0 && fits(near) && is_free(near) {
                    return Ok(near);
                }
                areas.highest_gap(low, task_size, len).ok_or(Errno::ENOMEM)
            }
        }
    }

    /// Asks the driver's `mmap` method.
    fn call_mmap(
        &mut self,
        file: &Arc<File<M::Frame>>,
        first_page: u64,
        len: u64,
        request: &MapRequest<M::Frame>,
    ) -> Result<(Flags, Remapped<M::Frame>), Errno> {
        let Some(content) = &file.content else { return Ok((Flags::NONE, Vec::new())) };
        let page_size = self.page_size();
        let pages = page_size.page_of(len);
        let area = NewArea::new(page_size, first_page, pages, request.protection, request.sharing)
            .ok_or(Errno::EOVERFLOW)?;
        let details = [("pages", Detail::Number(pages))];
        let layout = self.step(file.object, "call_mmap", details, |_| content.mmap(&area))?;
        let mut flags = Flags::of_plan(layout.flags);
        if !layout.remapped.is_empty() {
            flags = flags.union(Flags::PFNMAP);
        }
        Ok((flags, layout.remapped))
    }

    /// The object of a shared anonymous map (`shmem_zero_setup`).
    fn shared_memory(&mut self, len: u64) -> Arc<File<M::Frame>> {
        self.shared_maps += 1;
        let spec = ObjectSpec::memory(String::from("/dev/zero (deleted)"), self.shared_maps, len);
        self.create(spec, FileMode::READ_WRITE, None)
    }

    /// `remap_pfn_range`: all entries at once. A store to a private area still faults,
    /// for its copy.
    fn remap_frames(
        &mut self,
        space: SpaceId,
        start: u64,
        flags: Flags,
        remapped: Remapped<M::Frame>,
    ) -> Result<(), Errno> {
        let first = self.page_size().page_of(start);
        let writable = flags.contains(Flags::SHARED.union(Flags::WRITE));
        for (at, frames) in remapped {
            let details =
                [("page", Detail::Number(at.start)), ("pages", Detail::Number(at.end - at.start))];
            self.step(space, "remap_pfn_range", details, |engine| {
                at.zip(frames).try_for_each(|(at, frame)| {
                    let page = engine.adopt(frame, Kind::Driver);
                    let installed = engine.install(space, first + at, page, writable);
                    installed.inspect_err(|_| engine.free_page(page))
                })
            })?;
        }
        if flags.intersects(Flags::ACCESS) {
            return Ok(());
        }
        if let Some(area) = self.space(space).areas.lookup(start).cloned() {
            self.change_protection(space, &area);
        }
        Ok(())
    }
}

/// What the mode of the open file permits: the area's flags, or `EACCES`.
fn may_map<F>(file: &File<F>, flags: Flags) -> Result<Flags, Errno> {
    if !file.mode.read {
        return Err(Errno::EACCES);
    }
    if !flags.contains(Flags::MAYSHARE) || file.mode.write {
        return Ok(flags);
    }
    if flags.contains(Flags::WRITE) {
        return Err(Errno::EACCES);
    }
    Ok(flags.without(Flags::MAYWRITE.union(Flags::SHARED)))
}
