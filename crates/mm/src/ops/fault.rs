//! The fault path: `handle_mm_fault` and what it calls, under the kernel's names; and
//! the loads and stores that lead to it.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;

use devmap_driver::{Access, Errno, Fault, NewPage};

use crate::{
    Area, Engine, Entry, File, Flags, Frame, Mmu, PageId, SpaceId, Supplied, Table,
    page::Kind,
    trace::{About, Detail},
};

/// Why an access cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// `SIGSEGV` with `SEGV_MAPERR`: no area is there.
    NotMapped,
    /// `SIGSEGV` with `SEGV_ACCERR`: the area does not permit it.
    NotPermitted,
    /// `SIGBUS` with `BUS_ADRERR`: past the end of the object, or its driver had no
    /// page.
    Bus,
    /// No memory (`VM_FAULT_OOM`).
    OutOfMemory,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fatal::NotMapped => "SIGSEGV: nothing is mapped there",
            Fatal::NotPermitted => "SIGSEGV: the protection does not permit it",
            Fatal::Bus => "SIGBUS: there is no page",
            Fatal::OutOfMemory => "out of memory",
        })
    }
}

impl core::error::Error for Fatal {}

/// The page a driver may fill.
struct NewFrame<'a, M: Mmu> {
    mmu: &'a mut M,
    has_room: bool,
    filled: Option<(M::Frame, Vec<u8>)>,
}

impl<M: Mmu> NewPage for NewFrame<'_, M> {
    fn bytes(&mut self) -> Result<&mut [u8], Errno> {
        if self.filled.is_none() {
            if !self.has_room {
                return Err(Errno::ENOMEM);
            }
            let frame = self.mmu.allocate()?;
            let bytes = alloc::vec![0; self.mmu.page_size().bytes() as usize];
            self.filled = Some((frame, bytes));
        }
        self.filled.as_mut().map(|(_, bytes)| &mut bytes[..]).ok_or(Errno::ENOMEM)
    }
}

impl<M: Mmu> Engine<M> {
    /// A load of `into.len()` bytes: as far as pages, in order.
    ///
    /// # Errors
    /// What the program would die of; pages before are copied.
    pub fn load(&mut self, space: SpaceId, address: u64, into: &mut [u8]) -> Result<(), Fatal> {
        let mut done = 0;
        while done < into.len() {
            let (page, offset, len) =
                self.access(space, address, done, into.len() - done, Access::Read)?;
            self.pages.get(page.0).frame.read(offset, &mut into[done..done + len]);
            done += len;
        }
        Ok(())
    }

    /// A store of `from`: as far as pages, in order.
    ///
    /// # Errors
    /// What the program would die of; pages before are written.
    pub fn store(&mut self, space: SpaceId, address: u64, from: &[u8]) -> Result<(), Fatal> {
        let mut done = 0;
        while done < from.len() {
            let (page, offset, len) =
                self.access(space, address, done, from.len() - done, Access::Write)?;
            self.pages.get(page.0).frame.write(offset, &from[done..done + len]);
            done += len;
        }
        Ok(())
    }

    /// The page of an access, the offset in it, and how many bytes are in it.
    fn access(
        &mut self,
        space: SpaceId,
        address: u64,
        done: usize,
        left: usize,
        access: Access,
    ) -> Result<(PageId, usize, usize), Fatal> {
        let address = address.checked_add(done as u64).ok_or(Fatal::NotMapped)?;
        let offset = address % self.page_bytes();
        let len = left.min((self.page_bytes() - offset) as usize);
        let at = self.page_size().page_of(address);
        loop {
            // As the processor does: the instruction runs again after each fault.
            if let Some(page) = self.space_mut(space).table.walk(at, access) {
                return Ok((page, offset as usize, len));
            }
            self.handle_fault(space, address, access)?;
        }
    }

    /// `do_user_addr_fault` and `handle_mm_fault`: finds the area, and makes an entry
    /// that permits the access.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn handle_fault(
        &mut self,
        space: SpaceId,
        address: u64,
        access: Access,
    ) -> Result<(), Fatal> {
        let details = [("address", Detail::Address(address)), ("access", access.into())];
        self.step(space, "do_user_addr_fault", details, |engine| {
            let details = [("address", Detail::Address(address))];
            let area = engine.step(space, "find_vma", details, |engine| {
                engine.space(space).areas.lookup(address).cloned().ok_or(Fatal::NotMapped)
            })?;
            let object = area.file().map(|file| file.object);
            let about = About { space: Some(space), object };
            engine.step(about, "handle_mm_fault", [], |engine| {
                engine.handle_mm_fault(space, &area, address, access)
            })
        })
    }

    fn handle_mm_fault(
        &mut self,
        space: SpaceId,
        area: &Area<M::Frame>,
        address: u64,
        access: Access,
    ) -> Result<(), Fatal> {
        // What can be written or executed can be read: no processor tells them apart.
        let permitted = match access {
            Access::Read => area.flags.intersects(Flags::ACCESS),
            Access::Write => area.flags.contains(Flags::WRITE),
        };
        if !permitted {
            return Err(Fatal::NotPermitted);
        }
        let at = self.page_size().page_of(address);
        match (self.space(space).table.get(at), &area.file) {
            (Some(entry), _) if access == Access::Write && !entry.writable => {
                self.step(space, "do_wp_page", [], |e| e.do_wp_page(space, area, at, entry))
            }
            (Some(_), _) => Ok(()),
            (None, None) => self.step(space, "do_anonymous_page", [], |engine| {
                engine.do_anonymous_page(space, area, at, access)
            }),
            (None, Some(mapped)) => {
                let file = &mapped.file;
                let index = area.page_offset_at(address, self.page_size());
                let shared = area.flags.contains(Flags::SHARED);
                let details = [("page", Detail::Number(index))];
                match access {
                    Access::Read => self.step(file.object, "do_read_fault", details, |engine| {
                        engine.do_read_fault(space, area, file, at, index)
                    }),
                    Access::Write if shared => {
                        self.step(file.object, "do_shared_fault", details, |engine| {
                            engine.read_around(area, file, index);
                            let page = engine.get_page(file, index, access)?;
                            engine.enter(space, at, page, true)
                        })
                    }
                    Access::Write => self.step(file.object, "do_cow_fault", details, |engine| {
                        engine.do_cow_fault(space, area, file, at, index)
                    }),
                }
            }
        }
    }

    /// Writes the entry; a page that nothing else holds is freed if that fails.
    fn enter(
        &mut self,
        space: SpaceId,
        at: u64,
        page: PageId,
        writable: bool,
    ) -> Result<(), Fatal> {
        self.install(space, at, page, writable).map_err(|_| {
            let state = self.pages.get(page.0);
            if state.mappers.is_empty() && matches!(state.kind, Kind::Anonymous | Kind::Driver) {
                self.free_page(page);
            }
            Fatal::OutOfMemory
        })
    }

    /// The first access to anonymous memory: a load sees the page of zeros.
    fn do_anonymous_page(
        &mut self,
        space: SpaceId,
        area: &Area<M::Frame>,
        at: u64,
        access: Access,
    ) -> Result<(), Fatal> {
        let page = match (access, self.zero) {
            (Access::Write, _) => {
                self.prepare_anon(space, area);
                self.new_page(Kind::Anonymous).map_err(oom)?
            }
            (Access::Read, Some(zero)) => zero,
            (Access::Read, None) => {
                let zero = self.new_page(Kind::Zero).map_err(oom)?;
                *self.zero.insert(zero)
            }
        };
        self.enter(space, at, page, access == Access::Write)
    }

    /// A load of an object's page, and entries for cached pages around it.
    fn do_read_fault(
        &mut self,
        space: SpaceId,
        area: &Area<M::Frame>,
        file: &Arc<File<M::Frame>>,
        at: u64,
        index: u64,
    ) -> Result<(), Fatal> {
        self.read_around(area, file, index);
        let page = self.get_page(file, index, Access::Read)?;
        let writable = area.flags.contains(Flags::SHARED.union(Flags::WRITE));
        self.enter(space, at, page, writable)?;
        self.fault_around(space, area, file, at, index, writable);
        Ok(())
    }

    /// A store to a page of an object that is mapped privately: its copy at once.
    fn do_cow_fault(
        &mut self,
        space: SpaceId,
        area: &Area<M::Frame>,
        file: &Arc<File<M::Frame>>,
        at: u64,
        index: u64,
    ) -> Result<(), Fatal> {
        self.prepare_anon(space, area);
        // The copy first: making room for it must not evict what it is copied from.
        let copy = self.new_page(Kind::Anonymous).map_err(oom)?;
        let source = self.get_page(file, index, Access::Write);
        let source = source.inspect_err(|_| self.free_page(copy))?;
        self.copy_page(source, copy);
        self.drop_unused(source);
        self.enter(space, at, copy, true)
    }

    /// A store to a page whose entry does not permit it.
    fn do_wp_page(
        &mut self,
        space: SpaceId,
        area: &Area<M::Frame>,
        at: u64,
        entry: Entry,
    ) -> Result<(), Fatal> {
        let page = self.pages.get(entry.page.0);
        let exclusive = page.kind == Kind::Anonymous && page.mappers.len() == 1;
        if area.flags.contains(Flags::SHARED) || exclusive {
            let table = &mut self.space_mut(space).table;
            return table.set(at, Entry { writable: true, ..entry }).map_err(oom);
        }
        self.prepare_anon(space, area);
        let copy = self.new_page(Kind::Anonymous).map_err(oom)?;
        // Making room may have evicted the page: then the access faults again.
        if self.space(space).table.get(at).map(|now| now.page) != Some(entry.page) {
            self.free_page(copy);
            return Ok(());
        }
        self.copy_page(entry.page, copy);
        self.enter(space, at, copy, true)
    }

    /// The page of an object (`__do_fault`): from the cache, or from its driver.
    pub(super) fn get_page(
        &mut self,
        file: &Arc<File<M::Frame>>,
        index: u64,
        access: Access,
    ) -> Result<PageId, Fatal> {
        let object = file.object;
        self.refresh_size(file);
        if self.object_pages(object).is_some_and(|pages| index >= pages) {
            return Err(Fatal::Bus);
        }
        let details = [("page", Detail::Number(index))];
        if let Some(page) = self.cache.pages.get(&(object, index)).copied() {
            return self.step(object, "filemap_get_folio", details, |_| Ok(page));
        }
        let Some(content) = &file.content else {
            let page = self.new_page(Kind::Cached(object, index)).map_err(oom)?;
            self.cache.pages.insert((object, index), page);
            return Ok(page);
        };
        self.make_room();
        let has_room = self.has_room();
        let mut new = NewFrame { mmu: &mut self.mmu, has_room, filled: None };
        let supplied = content.fault(&Fault { page: index, access }, &mut new);
        let filled = new.filled;
        // Under the name of the driver's method.
        let answer = supplied.as_ref().map(drop).map_err(|errno| *errno);
        let _ = self.step(object, "fault", details, |_| answer);
        match (supplied, filled) {
            (Ok(Supplied::Frame(frame)), _) => Ok(self.adopt(frame, Kind::Driver)),
            (Ok(Supplied::Filled), filled) => {
                let frame = match filled {
                    Some((frame, bytes)) => {
                        frame.write(0, &bytes);
                        frame
                    }
                    // Filled with nothing is a page of zeros.
                    None if !has_room => return Err(Fatal::OutOfMemory),
                    None => self.mmu.allocate().map_err(oom)?,
                };
                let page = self.adopt(frame, Kind::Cached(object, index));
                self.cache.pages.insert((object, index), page);
                Ok(page)
            }
            (Err(Errno::ENOMEM), _) => Err(Fatal::OutOfMemory),
            (Err(_), _) => Err(Fatal::Bus),
        }
    }

    /// Frees a driver's page that was only looked at.
    pub(super) fn drop_unused(&mut self, page: PageId) {
        let state = self.pages.get(page.0);
        if state.kind == Kind::Driver && state.mappers.is_empty() {
            self.free_page(page);
        }
    }

    /// `__anon_vma_prepare`: before the first private page of an area. A neighbour's is
    /// taken if the two could be one area but for their protection.
    fn prepare_anon(&mut self, space: SpaceId, area: &Area<M::Frame>) {
        let areas = &self.space(space).areas;
        let Some(area) = areas.lookup(area.start).filter(|area| area.anon.is_none()) else {
            return;
        };
        let page_size = self.page_size();
        let compatible = |a: &Area<M::Frame>, b: &Area<M::Frame>| {
            a.end == b.start
                && a.has_file(b.file())
                && a.flags.without(Flags::ACCESS) == b.flags.without(Flags::ACCESS)
                && a.page_offset_at(a.end, page_size) == b.page_offset
        };
        let reusable = |area: &Area<M::Frame>| area.anon.filter(|anon| !anon.inherited);
        let next = areas.lookup(area.end).filter(|next| compatible(area, next));
        let before = areas.previous(area.start).filter(|before| compatible(before, area));
        let found = next.and_then(reusable).or_else(|| before.and_then(reusable));
        let start = area.start;
        let anon = found.unwrap_or_else(|| self.new_anon(false));
        if let Some(area) = self.space_mut(space).areas.get_mut(start) {
            area.anon = Some(anon);
        }
    }
}

fn oom(_: Errno) -> Fatal {
    Fatal::OutOfMemory
}
