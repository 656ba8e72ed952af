//! An area: where an object is mapped, and how its pages get there.

use std::{collections::BTreeSet, io, ops::Range, sync::Arc};

use devmap_driver::{Access, Errno, Fault, Memory, Sharing, Supply};
use devmap_mm::trace::{Detail, Outcome};
use devmap_sys::{
    mapping as map,
    span::{Span, mark},
    userfaultfd::{Install, Userfaultfd},
};

use crate::{
    Error, LocalMemory, OnError,
    block::{PAGES, Pages, State},
    buffer::{self, NewPage},
    core::{Core, count},
    driver::Opened,
    object::Object,
    order::Order,
    platform::MappedMemory,
    primitives::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
        others_may_go_on,
    },
    trace::{self, Details},
};

/// Pages that one fault maps when they are cached (`fault_around_bytes`).
const AROUND: u64 = 16;

/// What may be written, and who sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// Nothing.
    None,
    /// Copies of one's own.
    Private,
    /// The object.
    Shared,
}

/// An area.
pub(crate) struct Area {
    pub(crate) core: Arc<Core>,
    pub(crate) object: Arc<Object>,
    pub(crate) file: Arc<dyn Opened>,
    pub(crate) span: Span,
    /// The page of the device at which it begins (`vm_pgoff`).
    pub(crate) first_page: u64,
    pub(crate) sharing: Sharing,
    pub(crate) writes: Writes,
    /// Whether its pages may be its own memory while it is the only map of the object: see
    /// `own`.
    pub(crate) is_owner: bool,
    /// Whether large memory may be moved in then.
    pub(crate) takes_large: bool,
    pub(crate) on_error: OnError,
    /// The pages that come by faults, counted from the area's start.
    pub(crate) faulted: Vec<Range<u64>>,
    /// Memory of the driver that is mapped.
    pub(crate) memories: Mutex<Vec<MappedMemory>>,
    /// Pages of fault extents that are memory of the driver or of nobody.
    laid: Mutex<BTreeSet<u64>>,
    /// Pages that fail with SIGBUS.
    poisoned: Mutex<BTreeSet<u64>>,
    /// In which order pages are looked for.
    pub(crate) order: Mutex<Order>,
    /// Whether plain accesses have come here, too.
    pub(crate) plain_ones_came: AtomicBool,
    /// Cleared when the driver does not read ahead, and when the area is about to go.
    reads_ahead: AtomicBool,
    /// Runs of resident pages whose faults the kernel serves by itself.
    handed: Mutex<Vec<Range<u64>>>,
    /// Up to which page the page cache is laid: see `fallback`.
    pub(crate) laid_to: AtomicU64,
    /// Held by who changes that.
    pub(crate) resizing: Mutex<()>,
}

/// What is known of an area when it is made.
pub(crate) struct NewlyMapped {
    pub(crate) object: Arc<Object>,
    pub(crate) file: Arc<dyn Opened>,
    pub(crate) span: Span,
    pub(crate) first_page: u64,
    pub(crate) sharing: Sharing,
    pub(crate) writes: Writes,
    pub(crate) is_owner: bool,
    pub(crate) takes_large: bool,
    pub(crate) on_error: OnError,
    pub(crate) faulted: Vec<Range<u64>>,
    pub(crate) memories: Vec<MappedMemory>,
    /// Up to which page the page cache is laid.
    pub(crate) laid_to: u64,
}

/// How a page came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Into the page cache.
    Cached,
    /// Into the page cache and the page table.
    Mapped,
    /// Into own memory, which is mapped: see `own`.
    Own,
    /// It is memory of the driver, and mapped.
    Laid,
}

impl Area {
    pub(crate) fn new(new: NewlyMapped) -> Arc<Area> {
        let area = Arc::new(Area {
            core: new.object.core.clone(),
            object: new.object,
            file: new.file,
            span: new.span,
            first_page: new.first_page,
            sharing: new.sharing,
            writes: new.writes,
            is_owner: new.is_owner,
            takes_large: new.takes_large,
            on_error: new.on_error,
            faulted: new.faulted,
            memories: Mutex::new(new.memories),
            laid: Mutex::default(),
            poisoned: Mutex::default(),
            order: Mutex::default(),
            plain_ones_came: AtomicBool::new(false),
            reads_ahead: AtomicBool::new(true),
            handed: Mutex::default(),
            laid_to: AtomicU64::new(new.laid_to),
            resizing: Mutex::default(),
        });
        area.core.add_area(&area);
        area.object.add_area(&area);
        area
    }

    /// Bytes of the span.
    pub(crate) fn bytes(&self, pages: &Range<u64>) -> Range<usize> {
        let page = self.core.page_size.bytes();
        (pages.start * page) as usize..(pages.end * page) as usize
    }

    /// The area's pages among pages of the device, counted from its start.
    pub(crate) fn inside(&self, pages: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let start = pages.start.saturating_sub(self.first_page);
        let end = pages.end.saturating_sub(self.first_page);
        self.faulted.iter().filter_map(move |extent| {
            let (start, end) = (start.max(extent.start), end.min(extent.end));
            (start < end).then_some(start..end)
        })
    }

    pub(crate) fn set_marks(&self, pages: Range<u64>, marks: u8) {
        others_may_go_on();
        for mark in &self.span.marks()[pages.start as usize..pages.end as usize] {
            mark.store(marks, Ordering::Relaxed);
        }
        others_may_go_on();
    }

    /// What a page is marked with once it is mapped like this.
    fn marks(&self, install: Install) -> u8 {
        match (self.writes, install) {
            (Writes::None, _) | (_, Install::WriteProtected) => mark::PRESENT,
            _ => mark::PRESENT | mark::WRITABLE,
        }
    }

    /// Whether the first store to a page can be told.
    pub(crate) fn tells_stores(&self) -> bool {
        self.core.uffd.as_ref().is_some_and(Userfaultfd::can_write_protect)
    }

    /// How pages are mapped that nobody has stored to.
    pub(crate) fn quiet(&self) -> Install {
        if self.writes == Writes::Shared && self.tells_stores() {
            Install::WriteProtected
        } else {
            Install::AsMapped
        }
    }

    /// Whether a page that is mapped like this must be taken for written.
    pub(crate) fn counts_as_written(&self, install: Install) -> bool {
        self.writes == Writes::Shared && install == Install::AsMapped
    }

    /// How pages come that are copied into the page table; `None`: they must not be.
    pub(crate) fn copied(&self) -> Option<Filled> {
        match self.span.sharing() {
            map::Sharing::Shared => Some(Filled::Mapped),
            map::Sharing::Private => {
                (self.is_owner && self.object.maps.is_alone()).then_some(Filled::Own)
            }
        }
    }

    /// A page that is the driver's memory is there.
    pub(crate) fn mark_remapped(&self, at: u64) {
        self.set_marks(at..at + 1, self.marks(Install::AsMapped));
    }

    /// Up to which page the pages come as page `at` does, and whether that is by faults.
    pub(crate) fn extent(&self, at: u64) -> (u64, bool) {
        match self.faulted.iter().find(|extent| extent.contains(&at)) {
            Some(extent) => (extent.end, true),
            None => {
                let later = self.faulted.iter().map(|extent| extent.start);
                let end = later.filter(|start| *start > at).min();
                (end.unwrap_or(self.span.marks().len() as u64), false)
            }
        }
    }

    /// Whether a page, counted from the area's start, comes by faults.
    pub(crate) fn is_faulted(&self, at: u64) -> bool {
        self.faulted.iter().any(|extent| extent.contains(&at))
    }

    /// Supplies page `at`, counted from the area's start, if it is cached and nobody is
    /// busy with it: whether it was.
    ///
    /// # Errors
    /// Those of the kernel.
    pub(crate) fn fault_cached(self: &Arc<Self>, at: u64, access: Access) -> Result<bool, Error> {
        let page = self.first_page + at;
        let bit = Pages::one(page);
        let block = self.object.block(page / PAGES);
        let state = block.lock();
        if !state.resident.has(bit) || !state.busy.and(bit).is_empty() {
            return Ok(false);
        }
        let details = [("page", Detail::Number(page)), ("access", access.into())];
        self.step("handle_mm_fault", &details, || self.install(state, page, access))?;
        Ok(true)
    }

    /// Supplies page `at`, counted from the area's start, for the access that needs it.
    ///
    /// # Errors
    /// Those of the driver and of the kernel; the page is not there then.
    pub(crate) fn fault(self: &Arc<Self>, at: u64, access: Access) -> Result<(), Error> {
        if !self.is_laid(at) {
            self.resize()?;
        }
        self.supply(at, access)
    }

    /// As [`Area::fault`], of a page that may not be laid.
    pub(crate) fn supply(self: &Arc<Self>, at: u64, access: Access) -> Result<(), Error> {
        let details = [("page", Detail::Number(self.first_page + at)), ("access", access.into())];
        self.step("handle_mm_fault", &details, || self.handle_fault(at, access))
    }

    /// A step about what is mapped here.
    pub(crate) fn step<T>(
        &self,
        call: &'static str,
        details: Details<'_>,
        run: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.core.step(&self.object.name, call, details, run)
    }

    /// As [`Area::step`], of a call of the kernel about pages.
    fn told<T>(
        &self,
        call: &'static str,
        pages: &Range<u64>,
        run: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let begun = self.core.begin(&self.object.name, call, &trace::pages(pages));
        let result = run();
        self.core.end(begun, || match &result {
            Ok(_) => Outcome::Done(None),
            Err(error) => Outcome::Failed(Error::system(call, error).errno()),
        });
        result
    }

    fn handle_fault(self: &Arc<Self>, at: u64, access: Access) -> Result<(), Error> {
        let page = self.first_page + at;
        let bit = Pages::one(page);
        let index = page / PAGES;
        let block = self.object.block(index);
        loop {
            let mut state = block.settled(&self.core, bit);
            if state.resident.has(bit) {
                return self.install(state, page, access);
            }
            if self.laid.lock().contains(&at) {
                drop(state);
                return self.wake(at);
            }
            state.busy.add(bit);
            drop(state);
            let trusts_fault = self.object.fault_checks_end;
            let inside = if trusts_fault { Ok(()) } else { self.object.check_end(page) };
            let reserved = inside.and_then(|()| {
                let failed = |errno| Error::Failed { call: "reserve", page, errno };
                self.core.reserve(1).map_err(failed)
            });
            let call = match (self.writes, access) {
                (Writes::Shared, Access::Write) => "do_shared_fault",
                _ => "do_read_fault",
            };
            let filled = reserved
                .and_then(|()| self.step(call, &trace::page(page), || self.fill(at, access)));
            // What it failed of, if it was the end.
            let filled = filled.or_else(|error| self.object.check_end(page).and(Err(error)));
            let own = if filled == Ok(Filled::Own) { bit } else { Pages::NONE };
            let (mut state, lost) = self.object.lock_with_own(self, &block, index, own);
            let came =
                lost.is_empty() && filled.as_ref().is_ok_and(|filled| *filled != Filled::Laid);
            let is_mapped = filled == Ok(Filled::Mapped) || state.own.has(bit);
            if came {
                state.resident.add(bit);
                if self.writes == Writes::Shared
                    && (access == Access::Write || self.counts_as_written(self.quiet()))
                {
                    state.dirty.add(bit);
                }
            }
            self.object.enqueue(index, &mut state);
            block.finish(&self.core, state, bit);
            if reserved.is_ok() {
                self.core.settle(1, u64::from(!came));
            }
            match filled? {
                Filled::Laid => return self.wake(at),
                _ if is_mapped => {
                    self.looked_for(at, at + 1);
                    return Ok(());
                }
                // Mapped by the next round, unless it is gone again by then.
                _ => {}
            }
        }
    }

    fn wake(&self, at: u64) -> Result<(), Error> {
        let Some(uffd) = &self.core.uffd else { return Ok(()) };
        let woken = uffd.wake(&self.span, self.bytes(&(at..at + 1)));
        woken.map_err(|error| Error::system("UFFDIO_WAKE", &error))
    }

    /// Asks the driver for a page that this thread is busy with, and has room for.
    fn fill(&self, at: u64, access: Access) -> Result<Filled, Error> {
        let page = self.first_page + at;
        let page_len = self.core.page_size.bytes() as usize;
        let failed = |errno| Error::Failed { call: "fault", page, errno };
        let mut buffer = buffer::take(page_len).map_err(failed)?;
        let mut new = NewPage::new(&mut buffer, page_len);
        let supply = self.step("fault", &trace::page(page), || {
            self.file.fault(&Fault { page, access }, &mut new).map_err(failed)
        })?;
        let filled = match supply {
            Supply::Filled => {
                count(&self.core.counters.filled, 1);
                self.insert(at, new.content(), access)
            }
            Supply::Page { memory, page } => {
                self.lay_page(at, &memory, page).map(|()| Filled::Laid)
            }
        };
        buffer::give_back(buffer);
        filled
    }

    /// Puts content into the page cache, and into the page table where that is one call.
    fn insert(&self, at: u64, content: &[u8], access: Access) -> Result<Filled, Error> {
        let page = self.first_page + at;
        if let (Some(filled), Some(uffd)) = (self.copied(), &self.core.uffd)
            && !self.poisoned.lock().contains(&at)
        {
            let install = if access == Access::Write { Install::AsMapped } else { self.quiet() };
            let to = self.bytes(&(at..at + 1)).start;
            let copied = self.told("mfill_atomic_copy", &(page..page + 1), || {
                uffd.copy(&self.span, to, content, install)
            });
            match copied {
                Ok(_) => {
                    if filled == Filled::Mapped {
                        self.set_marks(at..at + 1, self.marks(install));
                    }
                    return Ok(filled);
                }
                // It is in the file: a hole that somebody read there.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) => return Err(Error::system("UFFDIO_COPY", &error)),
            }
        }
        let offset = self.object.bytes(&(page..page + 1)).start;
        self.told("shmem_file_write_iter", &(page..page + 1), || {
            self.object.pages.write(offset, content)
        })
        .map_err(|error| Error::system("pwrite", &error))?;
        Ok(Filled::Cached)
    }

    /// Whether pages, counted from the area's start, are laid from the page cache alone, and
    /// none has failed.
    pub(crate) fn is_plain(&self, pages: &Range<u64>) -> bool {
        self.laid.lock().range(pages.clone()).next().is_none()
            && self.poisoned.lock().range(pages.clone()).next().is_none()
    }

    /// Lays a page of the driver's memory.
    fn lay_page(&self, at: u64, memory: &LocalMemory, of_memory: u64) -> Result<(), Error> {
        if of_memory >= memory.pages() {
            eprintln!(
                "devmap: {}: the driver answered a fault with page {of_memory} of a memory of {} \
                 pages",
                self.object.name,
                memory.pages()
            );
            return Err(Error::Failed {
                call: "fault",
                page: self.first_page + at,
                errno: Errno::EIO,
            });
        }
        let mapped = memory.mapped();
        let bytes = self.bytes(&(at..at + 1));
        let offset = of_memory * self.core.page_size.bytes();
        self.told("vmf_insert_pfn", &(of_memory..of_memory + 1), || {
            let fd = std::os::fd::AsFd::as_fd(&mapped);
            self.span.lay_memory(bytes.start, fd, offset, bytes.len())
        })
        .map_err(|error| Error::system("mmap", &error))?;
        self.memories.lock().push(mapped);
        self.laid.lock().insert(at);
        self.set_marks(at..at + 1, self.marks(Install::AsMapped));
        Ok(())
    }

    /// Lays zeros where a page failed, unless it has come meanwhile: who mapped it asked for
    /// that.
    pub(crate) fn lay_zeros(self: &Arc<Self>, at: u64) -> Result<(), Error> {
        let page = self.first_page + at;
        let zeros = devmap_driver::Platform::contiguous(&crate::LocalPlatform, 1);
        let failed = |errno| Error::Failed { call: "memfd_create", page, errno };
        let zeros = zeros.map_err(failed)?;
        let (bit, index) = (Pages::one(page), page / PAGES);
        let block = self.object.block(index);
        let mut state = block.settled(&self.core, bit);
        if state.resident.has(bit) {
            return self.install(state, page, Access::Read);
        }
        state.busy.add(bit);
        drop(state);
        let laid = self.lay_page(at, &zeros, 0);
        let mut state = block.lock();
        self.object.enqueue(index, &mut state);
        block.finish(&self.core, state, bit);
        laid?;
        self.wake(at)
    }

    /// Maps a resident page, and its resident neighbours.
    fn install(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        page: u64,
        access: Access,
    ) -> Result<(), Error> {
        let at = page - self.first_page;
        self.step("filemap_get_folio", &trace::page(page), || Ok(()))?;
        let Some(uffd) = &self.core.uffd else {
            // The kernel maps it when it is touched, and tells of no store.
            if self.writes == Writes::Shared {
                state.dirty.add(Pages::one(page));
            }
            if self.is_laid(at) {
                self.set_marks(at..at + 1, self.marks(Install::AsMapped));
            }
            return Ok(());
        };
        let own = state.own;
        let is_own = own.has(Pages::one(page));
        if is_own && !self.is_owner {
            // There was no memory for the file when this map came.
            return Err(Error::Failed { call: "shmem_write", page, errno: Errno::ENOMEM });
        }
        // What it was poisoned for has come since, if it is there.
        if self.poisoned.lock().remove(&at) && !is_own {
            self.lay_anew(at..at + 1)?;
        }
        state.referenced = true;
        let quiet = self.quiet();
        let mut woken = false;
        if self.writes == Writes::Shared && access == Access::Write {
            state.dirty.add(Pages::one(page));
            woken = self.map_run(uffd, at..at + 1, Install::AsMapped, Some(at))?;
            if !woken {
                let bytes = self.bytes(&(at..at + 1));
                self.told("mwriteprotect_range", &(page..page + 1), || {
                    uffd.write_protect(&self.span, bytes, Install::AsMapped)
                })
                .map_err(|error| Error::system("UFFDIO_WRITEPROTECT", &error))?;
                self.set_marks(at..at + 1, mark::PRESENT | mark::WRITABLE);
                woken = true;
            }
        }
        let first = page - page % AROUND;
        let mut pages = state.resident.without(state.busy);
        if self.counts_as_written(quiet) {
            state.dirty.add(Pages::one(page));
            pages = pages.and(Pages::one(page));
        } else {
            pages = pages.and(Pages::in_block(page / PAGES, &(first..first + AROUND)));
        }
        for inside in own.and(pages).runs(page / PAGES).flat_map(|run| self.inside(run)) {
            self.set_marks(inside, mark::PRESENT);
        }
        // What was woken above is mapped, and what is own.
        let wanted = (!woken && !is_own).then_some(at);
        let mut end = at + 1;
        for run in pages.runs(page / PAGES) {
            for inside in self.inside(run) {
                if inside.contains(&at) {
                    end = inside.end;
                }
                woken |= self.map_unmarked(uffd, inside, quiet, wanted)?;
            }
        }
        drop(state);
        if !woken {
            self.wake(at)?;
        }
        self.looked_for(at, end);
        Ok(())
    }

    /// Page `at` was looked for, and all up to `end` are mapped now: what follows from the
    /// order of such.
    fn looked_for(self: &Arc<Self>, at: u64, end: u64) {
        let to_hand = {
            let mut order = self.order.lock();
            let in_order = order.look(at);
            order.mapped_to(end);
            if !in_order {
                return;
            }
            order.to_hand()
        };
        if to_hand > 0 && self.writes != Writes::Shared {
            self.hand_over(end, to_hand);
        }
        self.read_on(at);
    }

    /// Hands the faults of a run of resident pages that begins at `at`, up to `most`, to the
    /// kernel, which maps many at once. Not where stores must be told.
    fn hand_over(&self, at: u64, most: u64) {
        let Some(uffd) = &self.core.uffd else { return };
        let (extent, faulted) = self.extent(at);
        let limit = extent.min(at + most);
        // What was read ahead is mapped already, and to hand over waits for what is being
        // mapped elsewhere.
        let is_mapped = || self.span.marks()[at as usize].load(Ordering::Relaxed) != mark::NOTHING;
        if !faulted || at >= limit || is_mapped() {
            return;
        }
        // Held until the kernel serves them and that is noted: who drops one of the pages
        // takes them back first, see `forget`.
        let mut handed = self.handed.lock();
        let of_device = self.first_page + at..self.first_page + limit;
        let mut end = of_device.start;
        for index in of_device.start / PAGES..of_device.end.div_ceil(PAGES) {
            let wanted = Pages::in_block(index, &of_device);
            let block = self.object.block(index);
            let state = block.lock();
            let cached = state.resident.without(state.own);
            if !cached.has(wanted) || !state.busy.and(wanted).is_empty() {
                break;
            }
            end = ((index + 1) * PAGES).min(of_device.end);
        }
        let run = at..end - self.first_page;
        if run.end - run.start < PAGES || !self.poisoned.lock().is_empty() {
            return;
        }
        if uffd.unregister(&self.span, self.bytes(&run)).is_ok() {
            self.set_marks(run.clone(), self.marks(Install::AsMapped));
            self.order.lock().mapped_to(run.end);
            handed.push(run);
        }
    }

    /// Takes pages back from the kernel.
    fn take_back(&self, pages: &Range<u64>) {
        let mut handed = self.handed.lock();
        let mut at = 0;
        while at < handed.len() {
            let run = handed[at].clone();
            if run.start < pages.end && pages.start < run.end {
                handed.swap_remove(at);
                self.set_marks(run.clone(), mark::NOTHING);
                let registered = self.register(run);
                debug_assert!(registered.is_ok(), "{registered:?}");
            } else {
                at += 1;
            }
        }
    }

    /// Whether the driver may read ahead.
    pub(crate) fn reads_ahead(&self) -> bool {
        self.core.uffd.is_some() && self.reads_ahead.load(Ordering::Relaxed)
    }

    /// Nothing is read ahead from now on.
    pub(crate) fn no_read_ahead(&self) {
        self.reads_ahead.store(false, Ordering::Relaxed);
    }

    /// Pages were mapped like this.
    pub(crate) fn mark_mapped(&self, pages: Range<u64>, install: Install) {
        self.set_marks(pages, self.marks(install));
    }

    /// Maps those pages of a resident run that are not known to be mapped: whether that let
    /// go on who waits for page `wanted`.
    fn map_unmarked(
        &self,
        uffd: &Userfaultfd,
        run: Range<u64>,
        install: Install,
        wanted: Option<u64>,
    ) -> Result<bool, Error> {
        let marks = self.span.marks();
        let is_mapped = |at: u64| {
            Some(at) != wanted && marks[at as usize].load(Ordering::Relaxed) != mark::NOTHING
        };
        let mut woken = false;
        let mut at = run.start;
        while at < run.end {
            let start = (at..run.end).find(|at| !is_mapped(*at)).unwrap_or(run.end);
            let end = (start..run.end).find(|at| is_mapped(*at)).unwrap_or(run.end);
            woken |= self.map_run(uffd, start..end, install, wanted)?;
            at = end;
        }
        Ok(woken)
    }

    /// Maps a resident run: whether that let go on who waits for `wanted`, which a page that
    /// is mapped already does not.
    fn map_run(
        &self,
        uffd: &Userfaultfd,
        mut run: Range<u64>,
        install: Install,
        wanted: Option<u64>,
    ) -> Result<bool, Error> {
        let mut woken = false;
        while !run.is_empty() {
            let of_device = self.first_page + run.start..self.first_page + run.end;
            let mapped = self.told("mfill_atomic_continue", &of_device, || {
                uffd.map(&self.span, self.bytes(&run), install)
            });
            match mapped {
                Ok(bytes) => {
                    let end = run.start + self.core.page_size.page_of(bytes as u64);
                    self.set_marks(run.start..end, self.marks(install));
                    woken |= wanted.is_some_and(|wanted| (run.start..end).contains(&wanted));
                    run.start = end;
                }
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    // Mapped: what may be done with it its own marks say.
                    let known = &self.span.marks()[run.start as usize];
                    let marks = match self.writes {
                        Writes::Shared => mark::PRESENT,
                        Writes::None | Writes::Private => self.marks(install),
                    };
                    known.fetch_or(marks, Ordering::Relaxed);
                    run.start += 1;
                }
                // Being handed to the kernel, or taken back, at this moment: who needs a page
                // of it tries again.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(woken),
                Err(error) => return Err(Error::system("UFFDIO_CONTINUE", &error)),
            }
        }
        Ok(woken)
    }

    /// Takes pages that somebody is busy with out of the page table, if stores to them
    /// might not be told; else it is enough that they leave the file.
    pub(crate) fn forget(&self, index: u64, pages: Pages) {
        for run in pages.runs(index) {
            for inside in self.inside(run) {
                self.take_back(&inside);
                self.set_marks(inside.clone(), mark::NOTHING);
                if self.writes == Writes::Shared {
                    let zapped = self.span.zap(self.bytes(&inside));
                    debug_assert!(zapped.is_ok(), "madvise: {zapped:?}");
                }
            }
        }
    }

    /// Has the next store to pages told, that somebody is busy with.
    pub(crate) fn protect(&self, pages: Range<u64>) -> Result<(), Error> {
        if self.writes != Writes::Shared {
            return Ok(());
        }
        let Some(uffd) = self.core.uffd.as_ref().filter(|uffd| uffd.can_write_protect()) else {
            return Ok(());
        };
        for inside in self.inside(pages) {
            for known in &self.span.marks()[inside.start as usize..inside.end as usize] {
                known.fetch_and(!mark::WRITABLE, Ordering::Relaxed);
            }
            others_may_go_on();
            uffd.write_protect(&self.span, self.bytes(&inside), Install::WriteProtected)
                .map_err(|error| Error::system("UFFDIO_WRITEPROTECT", &error))?;
        }
        Ok(())
    }

    /// Makes a page fail with SIGBUS, unless it is there. False where the kernel cannot.
    pub(crate) fn poison(&self, at: u64) -> bool {
        let Some(uffd) = self.core.uffd.as_ref().filter(|uffd| uffd.can_poison()) else {
            return false;
        };
        self.poisoned.lock().insert(at);
        let page = self.first_page + at;
        let poisoned = self.told("mfill_atomic_poison", &(page..page + 1), || {
            uffd.poison(&self.span, self.bytes(&(at..at + 1)))
        });
        match poisoned {
            // It has come meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => self.wake(at).is_ok(),
            poisoned => poisoned.is_ok(),
        }
    }

    /// Pages that are in the file, and failed here or could not be dropped, shall be looked for
    /// again.
    pub(crate) fn lay_anew(&self, pages: Range<u64>) -> Result<(), Error> {
        let bytes = self.bytes(&pages);
        let first = self.first_page + pages.start;
        let offset = self.object.bytes(&(first..first + 1)).start;
        self.span
            .lay_store(bytes.start, &self.object.pages, offset, bytes.len())
            .map_err(|error| Error::system("mmap", &error))?;
        self.register(pages)
    }

    /// Drops one's own copies of pages that are no longer in the file.
    pub(crate) fn drop_copies(&self, pages: Range<u64>) {
        if self.writes != Writes::Private || self.core.uffd.is_none() {
            return;
        }
        for inside in self.inside(pages) {
            self.take_back(&inside);
            self.set_marks(inside.clone(), mark::NOTHING);
            let bytes = self.bytes(&inside);
            let first = self.first_page + inside.start;
            let offset = self.object.bytes(&(first..first + 1)).start;
            let laid = self.span.lay_store(bytes.start, &self.object.pages, offset, bytes.len());
            let registered = laid.is_ok().then(|| self.register(inside));
            debug_assert!(matches!(registered, Some(Ok(()))), "{registered:?}");
        }
    }

    /// Asks for the faults of pages.
    pub(crate) fn register(&self, pages: Range<u64>) -> Result<(), Error> {
        register(&self.core, &self.span, self.bytes(&pages), self.writes)
    }
}

/// Asks for the faults of bytes of a span.
pub(crate) fn register(
    core: &Core,
    span: &Span,
    bytes: Range<usize>,
    writes: Writes,
) -> Result<(), Error> {
    let Some(uffd) = &core.uffd else { return Ok(()) };
    let tells_stores = writes == Writes::Shared && uffd.can_write_protect();
    let install = if tells_stores { Install::WriteProtected } else { Install::AsMapped };
    uffd.register(span, bytes, install).map_err(|error| Error::system("UFFDIO_REGISTER", &error))
}
