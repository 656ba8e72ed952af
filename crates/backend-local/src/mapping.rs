//! Homes, what is in them, and making maps.

use std::{
    num::NonZeroUsize,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use devmap_driver::{
    AreaFlags, Device, Errno, Fsync, Memory, NewArea, Open, OpenFlags, PageSize, Plan, Platform,
    Protection, Sharing, Source,
};
use devmap_mm::trace::Detail;
use devmap_sys::{
    mapping as map, sigbus,
    span::{Access, Span},
    store::Store,
    userfaultfd::{Install, Userfaultfd},
};

use crate::{
    Error, LocalMemory, LocalPlatform, Stats,
    area::{Area, NewlyMapped, Writes, register},
    core::Core,
    driver::{Opened, Typed},
    fallback::lay_end,
    handler::Handlers,
    object::{Object, refused},
    order::WINDOW,
    trace,
};

/// Whether shuttle switches the threads, see `schedules`: none may wait for a fault then.
const UNDER_TEST: bool = cfg!(test);

/// The most pages of a map into which large memory is moved, each of which is an area to the
/// kernel, and of those a process may have 65530.
const MOST_LARGE: u64 = 4096 * WINDOW;

/// What a plain access gets where the device fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// SIGBUS, and a line that says why.
    #[default]
    Fail,
    /// The device is asked again, so often and after such a pause each time; then SIGBUS.
    Retry {
        /// How often.
        times: u32,
        /// How long to wait before each.
        pause: Duration,
    },
    /// Zeros, as if the device had supplied them; they never reach it.
    ZeroFill,
}

/// How a home is made.
#[derive(Clone, Copy, Debug)]
pub struct LocalOptions {
    memory_limit: u64,
    prefill_limit: u64,
    userfaultfd: bool,
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions { memory_limit: u64::MAX, prefill_limit: 256 << 20, userfaultfd: true }
    }
}

impl LocalOptions {
    /// No limit; userfaultfd where it is permitted.
    pub fn new() -> LocalOptions {
        LocalOptions::default()
    }

    /// The most bytes of content that are in memory at once. Memory of drivers, which
    /// exists anyway, does not count, nor do pages of private maps that the program itself
    /// has changed, nor the memory into which threads read ahead: at most a fifth of this,
    /// and 12 MiB, while a file is read in order. What is moved to where others find it is
    /// there twice for a moment, at most 2 MiB.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> LocalOptions {
        self.memory_limit = bytes;
        self
    }

    /// The most bytes of one map that are filled at once where userfaultfd is refused;
    /// `ENOMEM` beyond. 256 MiB unless set.
    #[must_use]
    pub fn prefill_limit(mut self, bytes: u64) -> LocalOptions {
        self.prefill_limit = bytes;
        self
    }

    /// Does without userfaultfd, as where it is refused.
    #[must_use]
    pub fn without_userfaultfd(mut self) -> LocalOptions {
        self.userfaultfd = false;
        self
    }

    /// Makes the home.
    ///
    /// # Errors
    /// Those of its threads and its memory.
    pub fn build(self) -> Result<Local, Error> {
        Local::with(self)
    }
}

/// A home: devices in this process. Clones are the same. It lasts as long as anything
/// in it.
#[derive(Clone)]
pub struct Local(Arc<Owner>);

struct Owner {
    core: Arc<Core>,
    handlers: Option<Arc<Handlers>>,
    next_number: AtomicU64,
    /// A page of which a load ends the threads.
    bell: Access,
}

impl Local {
    /// A home without a memory limit.
    ///
    /// # Errors
    /// Those of its threads and its memory.
    pub fn new() -> Result<Local, Error> {
        Local::with(LocalOptions::default())
    }

    fn with(options: LocalOptions) -> Result<Local, Error> {
        let failed = |call| move |error| Error::system(call, &error);
        let page_size = LocalPlatform.page_size();
        sigbus::install().map_err(failed("sigaction"))?;
        // What the refusal costs is in the documentation; how much is `is_lazy`.
        let new = if UNDER_TEST { Userfaultfd::untold } else { Userfaultfd::new };
        let uffd = options.userfaultfd.then(new).and_then(Result::ok);
        let limit = page_size.page_of(options.memory_limit);
        let (span, bell) =
            Span::reserve(NonZeroUsize::MIN, map::Protection::Read, map::Sharing::Shared)
                .map_err(failed("mmap"))?;
        let core = Arc::new(Core::new(span, uffd, page_size, limit, options.prefill_limit));
        let mut handlers = None;
        if let Some(uffd) = core.uffd.as_ref().filter(|_| !UNDER_TEST) {
            let page = 0..page_size.bytes() as usize;
            let store = Store::new("devmap-bell").map_err(failed("memfd_create"))?;
            core.bell.lay_store(0, &store, 0, page.len()).map_err(failed("mmap"))?;
            let registered = uffd.register(&core.bell, page, Install::AsMapped);
            registered.map_err(failed("UFFDIO_REGISTER"))?;
            handlers = Some(Handlers::start(core.clone()).map_err(failed("clone"))?);
        }
        Ok(Local(Arc::new(Owner { core, handlers, next_number: AtomicU64::new(1), bell })))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    /// What drivers of this home ask of it.
    pub fn platform(&self) -> &LocalPlatform {
        &LocalPlatform
    }

    /// Whether pages come at their first access: else userfaultfd is refused, and all
    /// pages of a map are filled when it is made, up to a limit.
    pub fn is_lazy(&self) -> bool {
        self.0.core.uffd.is_some()
    }

    /// What happened so far.
    pub fn stats(&self) -> Stats {
        self.0.core.stats()
    }

    /// All maps of this home, in the form of `/proc/PID/maps` and more: see [`crate::maps`].
    pub fn maps(&self) -> String {
        crate::maps::text(&self.0.core.areas())
    }

    /// Has `devmap maps` show the maps of this home, for as long as what is answered is
    /// kept. Nobody but the same user and root may ask.
    ///
    /// # Errors
    /// `EADDRINUSE`: another home of this process answers already; those of its thread.
    pub fn answer_maps(&self) -> Result<crate::maps::Answering, Error> {
        crate::maps::Answering::start(Arc::downgrade(&self.0.core))
    }

    /// Puts a device here, under a name that messages and [`Local::maps`] show.
    ///
    /// # Errors
    /// Those of memfd_create(2).
    pub fn add<D: Device<LocalPlatform>>(&self, name: &str, device: D) -> Result<Node, Error> {
        // What `/proc/PID/maps` shows, as far as a memfd's name may be long.
        let short: String = name.chars().take(50).collect();
        let pages = Store::new(&format!("devmap-local:{short}"))
            .map_err(|error| Error::system("memfd_create", &error))?;
        let driver = Box::new(Typed(Arc::new(device)));
        let number = self.0.next_number.fetch_add(1, Ordering::Relaxed);
        let object = Object::new(self.0.core.clone(), name, number, driver, pages);
        Ok(Node { home: self.clone(), object })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let rings = self.handlers.as_ref().is_some_and(|handlers| !handlers.are_gone());
        if rings && !self.core.is_forked() {
            // The thread that reads faults sees this one, supplies the page, and ends.
            self.bell.load_plain::<u8>(0);
        }
    }
}

/// A device of a home.
#[derive(Clone)]
pub struct Node {
    home: Local,
    object: Arc<Object>,
}

/// What an open file permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// `O_RDONLY`.
    ReadOnly,
    /// `O_RDWR`.
    ReadWrite,
}

impl Node {
    /// Opens it.
    ///
    /// # Errors
    /// Those of the driver's `open`.
    pub fn open(&self, mode: OpenMode) -> Result<File, Error> {
        let write = mode == OpenMode::ReadWrite;
        let flags = OpenFlags { read: true, write, nonblocking: false, append: false };
        let open = Open { flags, pid: std::process::id() };
        let opened = self.object.driver.open(&open).map_err(|errno| refused("open", errno))?;
        let opened: Arc<dyn Opened> = Arc::from(opened);
        Ok(File { home: self.home.clone(), object: self.object.clone(), opened, mode })
    }
}

/// An open device. Its release comes with the last of it and its maps.
#[derive(Clone)]
pub struct File {
    home: Local,
    pub(crate) object: Arc<Object>,
    opened: Arc<dyn Opened>,
    pub(crate) mode: OpenMode,
}

/// What to map, and how. All of a regular file, for reading, shared, unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct MapOptions {
    offset: u64,
    len: Option<u64>,
    protection: Protection,
    sharing: Sharing,
    on_error: OnError,
}

impl Default for MapOptions {
    fn default() -> Self {
        MapOptions {
            offset: 0,
            len: None,
            protection: Protection::READ,
            sharing: Sharing::Shared,
            on_error: OnError::Fail,
        }
    }
}

impl MapOptions {
    /// All of a regular file, for reading, shared.
    pub fn new() -> MapOptions {
        MapOptions::default()
    }

    /// From this byte of the device on, a multiple of the page size.
    #[must_use]
    pub fn offset(mut self, bytes: u64) -> MapOptions {
        self.offset = bytes;
        self
    }

    /// So many bytes; what is left of the last page is mapped too.
    #[must_use]
    pub fn len(mut self, bytes: u64) -> MapOptions {
        self.len = Some(bytes);
        self
    }

    /// For writing too (`PROT_WRITE`).
    #[must_use]
    pub fn writable(mut self) -> MapOptions {
        self.protection = Protection::READ_WRITE;
        self
    }

    /// What is stored stays here (`MAP_PRIVATE`).
    #[must_use]
    pub fn private(mut self) -> MapOptions {
        self.sharing = Sharing::Private;
        self
    }

    /// As the trace calls it.
    fn mode(&self) -> &'static str {
        match (self.sharing, self.protection.write) {
            (Sharing::Shared, true) => "shared, to write",
            (Sharing::Shared, false) => "shared",
            (Sharing::Private, true) => "private, to write",
            (Sharing::Private, false) => "private",
        }
    }

    /// What plain accesses get where the device fails.
    #[must_use]
    pub fn on_error(mut self, on_error: OnError) -> MapOptions {
        self.on_error = on_error;
        self
    }
}

/// A device in the memory of this process. How it is accessed stands in
/// [`access`](crate::access).
pub struct Mapping {
    pub(crate) access: Access,
    pub(crate) area: Arc<Area>,
    pub(crate) page_shift: u32,
    /// Whether all is done that comes with the unmap.
    pub(crate) has_ended: bool,
    /// The home lasts as long as its maps.
    _home: Local,
}

impl File {
    /// The length in bytes of a regular file, now.
    pub fn size(&self) -> Option<u64> {
        self.object.size()
    }

    /// Maps it. Of fault extents nothing is asked for yet, where pages come at their first
    /// access.
    ///
    /// # Errors
    /// As mmap(2): `EINVAL` for no bytes or an offset within a page, `EACCES` for a shared
    /// map for writing of a file that was opened for reading; what the driver's `mmap`
    /// answers; `EIO` for a plan that breaks the rules.
    pub fn map(&self, options: &MapOptions) -> Result<Mapping, Error> {
        let page_size = self.object.core.page_size;
        let len = match (options.len, self.object.size()) {
            (Some(len), _) => len,
            (None, Some(size)) => size.saturating_sub(options.offset),
            (None, None) => return Err(Error::NoLength),
        };
        let details = [
            ("pages", Detail::Number(page_size.pages_for(len))),
            ("offset_pages", Detail::Number(page_size.page_of(options.offset))),
            ("mode", Detail::Word(options.mode())),
        ];
        let address = |map: &Mapping| Some(map.address());
        self.step_to("do_mmap", &details, address, || self.do_mmap(len, options))
    }

    /// A step about this file.
    fn step_to<T>(
        &self,
        call: &'static str,
        details: trace::Details<'_>,
        address: impl FnOnce(&T) -> Option<usize>,
        run: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.object.core.step_to(&self.object.name, call, details, address, run)
    }

    fn do_mmap(&self, len: u64, options: &MapOptions) -> Result<Mapping, Error> {
        let page_size = self.object.core.page_size;
        let refuse = |errno| refused("mmap", errno);
        if len == 0 || !page_size.is_aligned(options.offset) {
            return Err(refuse(Errno::EINVAL));
        }
        let shares_stores = options.sharing == Sharing::Shared && options.protection.write;
        if shares_stores && self.mode == OpenMode::ReadOnly {
            return Err(refuse(Errno::EACCES));
        }
        let first_page = page_size.page_of(options.offset);
        let pages = page_size.pages_for(len);
        let area = NewArea::new(page_size, first_page, pages, options.protection, options.sharing)
            .ok_or_else(|| refuse(Errno::EOVERFLOW))?;
        let plan = match self.object.size() {
            // Its content is pages: `generic_file_mmap`.
            Some(_) => Plan::fault_all(&area),
            None => {
                let details = [("pages", Detail::Number(pages))];
                let call_mmap = || self.opened.mmap(&area).map_err(refuse);
                self.step_to("call_mmap", &details, |_| None, call_mmap)?
            }
        };
        if let Err(error) = plan.validate(&area, Memory::pages) {
            eprintln!("devmap: {}: the driver's plan {error}", self.object.name);
            return Err(refuse(Errno::EIO));
        }
        self.carry_out(&area, &plan, options)
    }

    fn carry_out(
        &self,
        new: &NewArea,
        plan: &Plan<LocalMemory>,
        options: &MapOptions,
    ) -> Result<Mapping, Error> {
        let core = &self.object.core;
        let system = |call| move |error| Error::system(call, &error);
        let (protection, writes) = match (options.protection.write, options.sharing) {
            (false, _) => (map::Protection::Read, Writes::None),
            (true, Sharing::Private) => (map::Protection::ReadWrite, Writes::Private),
            (true, Sharing::Shared) => (map::Protection::ReadWrite, Writes::Shared),
        };
        // Held to the end: from then on others see this one.
        let mut maps = self.object.maps.count.lock();
        self.object.share(&maps)?;
        let has_faults = plan.extents().any(|extent| matches!(extent.source, Source::Fault));
        let is_owner = writes == Writes::None
            && has_faults
            && core.uffd.is_some()
            && *maps == 0
            && self.object.is_empty();
        let takes_large =
            is_owner && new.pages() <= core.limit.min(MOST_LARGE) && self.object.size().is_some();
        let sharing = match options.sharing {
            Sharing::Shared if !is_owner => map::Sharing::Shared,
            Sharing::Shared | Sharing::Private => map::Sharing::Private,
        };
        let pages = usize::try_from(new.pages()).ok().and_then(NonZeroUsize::new);
        let pages = pages.ok_or_else(|| refused("mmap", Errno::ENOMEM))?;
        let details = [("pages", Detail::Number(new.pages()))];
        let address = |(span, _): &(Span, Access)| Some(span.address());
        let (span, access) = self.step_to("get_unmapped_area", &details, address, || {
            let offset = new.first_page() * core.page_size.bytes();
            Span::reserve_beside(offset, pages, protection, sharing).map_err(system("mmap"))
        })?;
        let bytes = |at: &Range<u64>| {
            let page = core.page_size.bytes();
            (at.start * page) as usize..(at.end * page) as usize
        };
        let (mut faulted, mut memories) = (Vec::new(), Vec::new());
        let mut laid_to = 0;
        // A plan may have them in any order.
        let mut extents: Vec<_> = plan.extents().collect();
        extents.sort_unstable_by_key(|extent| extent.at);
        for extent in extents {
            let at = extent.at..extent.at + extent.pages;
            let to = bytes(&at);
            match &extent.source {
                Source::Remap { memory, first_page } => {
                    let offset = first_page * core.page_size.bytes();
                    let mapped = memory.mapped();
                    let fd = std::os::fd::AsFd::as_fd(&mapped);
                    let of_memory = *first_page..first_page + extent.pages;
                    let details = trace::pages(&of_memory);
                    self.step_to(
                        "remap_pfn_range",
                        &details,
                        |()| None,
                        || span.lay_memory(to.start, fd, offset, to.len()).map_err(system("mmap")),
                    )?;
                    memories.push(mapped);
                    laid_to = at.end;
                }
                Source::Fault => {
                    laid_to = self.laid_end(new.first_page(), &at);
                    let to = bytes(&(at.start..laid_to));
                    if !to.is_empty() {
                        let offset = core.page_size.bytes() * (new.first_page() + at.start);
                        let of_device = new.first_page() + at.start..new.first_page() + laid_to;
                        let details = trace::pages(&of_device);
                        self.step_to(
                            "mmap_region",
                            &details,
                            |()| None,
                            || {
                                let pages = &self.object.pages;
                                span.lay_store(to.start, pages, offset, to.len())
                                    .map_err(system("mmap"))
                            },
                        )?;
                        if core.uffd.is_some() {
                            self.step_to(
                                "userfaultfd_register",
                                &details,
                                |()| None,
                                || register(core, &span, to, writes),
                            )?;
                        }
                    }
                    lay_end(&span, bytes(&(laid_to..at.end)))?;
                    faulted.push(at);
                }
            }
        }
        let flags = plan.area_flags();
        if flags.is_dump_excluded() {
            // Best effort: a kernel without it dumps them.
            let _ = span.leave_out_of_dumps(0..span.len());
        }
        if flags.contains(AreaFlags::RESERVED) {
            memories.iter().for_each(|memory| memory.keep_resident());
        }
        let area = Area::new(NewlyMapped {
            object: self.object.clone(),
            file: self.opened.clone(),
            span,
            first_page: new.first_page(),
            sharing: options.sharing,
            writes,
            is_owner,
            takes_large,
            on_error: options.on_error,
            faulted,
            memories,
            laid_to,
        });
        let page_shift = core.page_size.bytes().trailing_zeros();
        let mapping =
            Mapping { access, area, page_shift, has_ended: false, _home: self.home.clone() };
        if is_owner {
            self.object.maps.begin_alone(&maps);
        }
        *maps += 1;
        drop(maps);
        if core.uffd.is_none() {
            let details = [("pages", Detail::Number(new.pages()))];
            self.step_to("mm_populate", &details, |()| None, || mapping.area.prefill())?;
        }
        Ok(mapping)
    }

    /// Up to which page of a fault extent the page cache is laid: see `fallback`.
    fn laid_end(&self, first_page: u64, at: &Range<u64>) -> u64 {
        let end = match self.object.core.uffd {
            Some(_) => at.end,
            None => self.object.end().saturating_sub(first_page),
        };
        end.clamp(at.start, at.end)
    }

    /// Writes back what was stored in shared maps, and makes it durable (`fsync(2)`).
    ///
    /// # Errors
    /// Those of the driver, also of earlier write-backs that nobody was told of.
    pub fn fsync(&self, what: Fsync) -> Result<(), Error> {
        let written = self.object.sync_all();
        self.object.take_error()?;
        written?;
        self.opened.fsync(what).map_err(|errno| refused("fsync", errno))
    }
}

impl Mapping {
    /// Bytes: whole pages.
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.area.span.len()
    }

    /// The bytes of memory that the content of its device takes now, as the kernel counts
    /// them.
    ///
    /// # Errors
    /// Those of fstat(2), and of `/proc/self/pagemap`.
    pub fn held_bytes(&self) -> Result<u64, Error> {
        let object = &self.area.object;
        let areas = object.areas();
        let cached = object.pages.held().map_err(|error| Error::system("fstat", &error))?;
        let own = areas.iter().filter(|area| area.is_owner).map(|area| area.span.held());
        let own = own.sum::<std::io::Result<u64>>();
        Ok(cached + own.map_err(|error| Error::system("pagemap", &error))?)
    }

    /// The first address, for diagnostics.
    pub fn address(&self) -> usize {
        self.area.span.address()
    }

    /// The page size.
    pub fn page_size(&self) -> PageSize {
        self.area.core.page_size
    }
}
