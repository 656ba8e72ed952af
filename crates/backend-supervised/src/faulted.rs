//! Fault extents: pages that a driver supplies at first access.
//!
//! In namespace mode they are the page cache of a FUSE file, one for each device, whose
//! offsets are the device's. The first access to a page arrives as a read of that file,
//! and is answered by the driver's `fault`; what a program stores in a shared map
//! comes back as a write when the kernel needs the page, at `msync` or `munmap`. A device
//! with a store is given it; for others it is kept here, to be given again. So memory is used for pages that were touched alone,
//! and system calls on them work.
//!
//! A page of a driver's own memory (`Supply::Page`) is not copied: a program and the
//! driver must see each other's stores. A driver whose first page of an extent is of
//! that sort is asked for all pages of it when it is mapped; each extent by itself, so that a
//! device may have some of either sort. So is every driver in
//! trapped mode, which has no FUSE: that is what [`LIMIT`] limits.

mod buffer;
mod kept;

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use devmap_driver::{Access, Errno, Fault, Memory, NewArea, NewPage, Platform, Store, Supply};
use devmap_sys::apart;
use parking_lot::Mutex;
use rustix::fs::OFlags;

pub(crate) use self::buffer::Buffer;
use self::kept::{Kept, Part};
use crate::{
    Core,
    devfs::NO_FILE,
    host::HostMemory,
    nodes::BACKING,
    opens::{DeviceEntry, OpenFile},
};

/// The most bytes of fault extents in one map that are supplied before it is handed out.
const LIMIT: u64 = 256 << 20;

/// How far the kernel may read ahead: two requests.
const AHEAD: u64 = 2 * devmap_fuse::MAX_WRITE as u64;

/// What is known of faulted pages.
#[derive(Default)]
pub(crate) struct Faulted {
    /// Pages supplied early, and where they are: by the device's index and the page of the
    /// device.
    early: Mutex<HashMap<(u64, u64), (HostMemory, u64)>>,
    /// Pages that programs have changed and the kernel has given back; and the first
    /// pages of extents, until they are asked for. By the device's index.
    kept: Mutex<HashMap<u64, Kept>>,
    /// First pages of extents that are filled, by the device's index.
    fills: Mutex<HashMap<u64, HashSet<u64>>>,
    /// The directory with the backing files' one.
    directory: OnceLock<OwnedFd>,
}

/// A run of pages that one memory supplies.
pub(crate) struct Run {
    pub(crate) at: u64,
    pub(crate) pages: u64,
    pub(crate) memory: HostMemory,
    pub(crate) first_page: u64,
}

/// How the pages of an extent come.
pub(crate) enum Extent {
    /// At first access, from this file, at the device's offsets.
    Later(Arc<OwnedFd>),
    /// They are there.
    Now(Vec<Run>),
}

/// The home's page, given to the driver to fill: it is a part of the answer.
struct Page<'a> {
    bytes: &'a mut [u8],
    taken: bool,
}

impl NewPage for Page<'_> {
    fn bytes(&mut self) -> Result<&mut [u8], Errno> {
        self.taken = true;
        self.bytes.fill(0);
        Ok(self.bytes)
    }
}

impl Faulted {
    /// Where the file system can be seen.
    pub(crate) fn set_directory(&self, directory: OwnedFd) -> Result<(), OwnedFd> {
        self.directory.set(directory)
    }

    /// Answers a read of a backing file: whole pages, all or none. A short answer would
    /// be the end of the file to the kernel. It reads ahead beyond what a plan gave; of what
    /// lies further away, the driver is not asked.
    pub(crate) fn read(
        &self,
        page_len: u64,
        file: &OpenFile,
        offset: u64,
        size: u32,
    ) -> Result<Buffer, Errno> {
        let device = file.device.index;
        let first = offset / page_len;
        let end = (offset + u64::from(size)).div_ceil(page_len);
        if !file.given.are_near(&(first..end), AHEAD / page_len) {
            return Err(Errno::EFAULT);
        }
        let mut bytes = Buffer::new(((end - first) * page_len) as usize)?;
        let mut at = 0;
        while at < bytes.len() {
            let page = first + at as u64 / page_len;
            let rest = &mut bytes[at..];
            let part = match self.kept.lock().get_mut(&device) {
                Some(kept) => kept.read(page_len, page, rest),
                None => Part::Missing(rest.len()),
            };
            at += match part {
                Part::Kept(len) => len,
                Part::Missing(len) => {
                    fill_pages(
                        file,
                        page,
                        page_len,
                        &mut rest[..len],
                        "with a page of its memory in an extent whose first page it filled; the \
                         program gets SIGBUS",
                    )?;
                    len
                }
            };
        }
        if file.device.device.store() == Store::Device {
            // The first page of an extent, which the driver was asked for already.
            self.remove(device, &(first..end));
        }
        Ok(bytes.part(0..size as usize))
    }

    /// Keeps these pages no longer, of a device with a store: what is kept are single pages.
    fn remove(&self, device: u64, pages: &Range<u64>) {
        if let Some(kept) = self.kept.lock().get_mut(&device) {
            kept.remove(pages);
        }
    }

    /// Takes back what programs have stored in maps, in pages that plans gave: what came of it,
    /// and which pages are others. Of those nothing is taken.
    pub(crate) fn take_back(
        &self,
        core: &Core,
        page_len: u64,
        file: &Arc<OpenFile>,
        offset: u64,
        data: &[u8],
    ) -> (Result<(), Errno>, Vec<u64>) {
        let end = offset + data.len() as u64;
        let pages = offset / page_len..end.div_ceil(page_len);
        if core.opens.may_write_back(file, pages.clone()).is_ok() {
            return (self.write(page_len, &file.device, offset, data), Vec::new());
        }
        let (mut result, mut refused) = (Err(Errno::EFAULT), Vec::new());
        for page in pages {
            let start = offset.max(page * page_len);
            let part =
                (start - offset) as usize..(end.min((page + 1) * page_len) - offset) as usize;
            match core.opens.may_write_back(file, page..page + 1) {
                // A want of room, say, is worth more.
                Ok(()) => {
                    if let Err(errno) = self.write(page_len, &file.device, start, &data[part]) {
                        result = Err(errno);
                    }
                }
                Err(_) => refused.push(page),
            }
        }
        (result, refused)
    }

    /// Takes back pages. The kernel writes whole ones.
    fn write(
        &self,
        page_len: u64,
        device: &DeviceEntry,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Errno> {
        if device.device.store() == Store::Device {
            let pages = offset / page_len..(offset + data.len() as u64).div_ceil(page_len);
            self.remove(device.index, &pages);
            return device.call("write_back", |driver| driver.write_back(offset, data));
        }
        if !offset.is_multiple_of(page_len) || !(data.len() as u64).is_multiple_of(page_len) {
            return Err(Errno::EIO);
        }
        let mut kept = self.kept.lock();
        kept.entry(device.index).or_default().write(page_len, offset / page_len, data);
        Ok(())
    }

    /// Other runs have changed pages of the device: has the kernel give back those that programs
    /// have stored to, and forget all that it has. It waits for pages that are being asked for.
    pub(crate) fn renew(&self, core: &Core, device: u64) {
        // Where nothing can be opened, nothing has been asked for.
        if let Err(error) = self.open_pages(core, device, OFlags::RDONLY, NO_FILE)
            && error.kind() != io::ErrorKind::Unsupported
        {
            let error = crate::with_remedy(&error);
            crate::report_once(format_args!("pages that other runs change stay here: {error}"));
        }
    }

    /// Nobody maps pages of the device any more.
    pub(crate) fn forget(&self, device: u64) {
        self.fills.lock().remove(&device);
        let kept = self.kept.lock().remove(&device);
        if kept.is_some() {
            drop(kept);
            devmap_sys::process::trim_memory();
        }
    }

    /// Forgets pages supplied early, but of devices that are in use. Under the lock: a device
    /// that is opened meanwhile has no page yet.
    pub(crate) fn forget_early(&self, is_used: impl Fn(u64) -> bool) {
        let mut early = self.early.lock();
        if early.is_empty() {
            return;
        }
        let devices: HashSet<u64> = early.keys().map(|(device, _)| *device).collect();
        let unused: HashSet<u64> = devices.into_iter().filter(|device| !is_used(*device)).collect();
        if !unused.is_empty() {
            early.retain(|(device, _), _| !unused.contains(device));
            early.shrink_to_fit();
        }
    }

    fn open_backing(&self, core: &Core, file: &OpenFile) -> io::Result<OwnedFd> {
        let access = if file.flags.write { OFlags::RDWR } else { OFlags::RDONLY };
        self.open_pages(core, file.device.index, access, file.id)
    }

    /// Opens the file of a device's pages for an open file, or for [`NO_FILE`].
    fn open_pages(
        &self,
        core: &Core,
        device: u64,
        access: OFlags,
        file: u64,
    ) -> io::Result<OwnedFd> {
        let (Some(directory), Some(devfs)) = (self.directory.get(), core.devfs.get()) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let path = PathBuf::from(BACKING).join(device.to_string());
        devfs.opening_backing(file, |tell| {
            apart::openat(directory.as_fd(), &path, access | OFlags::CLOEXEC, tell)
        })
    }
}

/// The bytes from `offset` on of a regular file: `size`, or as many as it has there now.
pub(crate) fn fill(
    file: &OpenFile,
    page_len: u64,
    offset: u64,
    size: u64,
) -> Result<Buffer, Errno> {
    let end = file.device.size()?.min(offset.saturating_add(size)).max(offset);
    let first = offset / page_len;
    let mut bytes = Buffer::new(((end.div_ceil(page_len) - first) * page_len) as usize)?;
    let ahead = fill_ahead(file, first, page_len, &mut bytes);
    fill_pages(
        file,
        first + ahead as u64 / page_len,
        page_len,
        &mut bytes[ahead..],
        "of a regular file with a page of its memory, where a filled one is wanted; the program \
         gets EIO or SIGBUS",
    )?;
    let start = first * page_len;
    Ok(bytes.part((offset - start) as usize..(end - start) as usize))
}

/// Asks the driver for several pages at once, which are wanted now: how many bytes it filled.
fn fill_ahead(file: &OpenFile, first: u64, page_len: u64, bytes: &mut [u8]) -> usize {
    if bytes.len() as u64 <= page_len {
        return 0;
    }
    bytes.fill(0);
    let filled = file.device.call("readahead", |driver| {
        let count = driver.readahead(file.state(), first, bytes)?;
        file.device.at_most("readahead", count, bytes.len())
    });
    // Why not is said by `fault`.
    let pages = filled.unwrap_or(0) as u64 / page_len;
    (pages * page_len) as usize
}

/// Asks the driver for pages from `first` on, which it has to fill: `else_report` says what is
/// wrong with a fault answered otherwise.
fn fill_pages(
    file: &OpenFile,
    first: u64,
    page_len: u64,
    bytes: &mut [u8],
    else_report: &str,
) -> Result<(), Errno> {
    for (bytes, page) in bytes.chunks_mut(page_len as usize).zip(first..) {
        if let Supply::Page { .. } = ask(file, page, bytes)? {
            crate::report_once(format_args!(
                "{}: driver {:?} answered a fault {else_report}",
                file.device.path.display(),
                file.device.name
            ));
            return Err(Errno::EIO);
        }
    }
    Ok(())
}

/// How the pages `at` of the area come.
pub(crate) fn supply(
    core: &Core,
    file: &Arc<OpenFile>,
    area: &NewArea,
    at: Range<u64>,
) -> Result<Extent, Errno> {
    let device = file.device.index;
    if core.devfs.get().is_none() {
        return supply_now(core, file, area, at).map(Extent::Now);
    }
    let page = area.first_page() + at.start;
    let is_known = |fills: &HashMap<_, HashSet<_>>| {
        fills.get(&device).is_some_and(|pages| pages.contains(&page))
    };
    if !is_known(&core.faulted.fills.lock()) {
        let page_len = area.page_size().bytes();
        let mut buffer = Buffer::new(page_len as usize)?;
        match ask(file, page, &mut buffer) {
            Ok(Supply::Page { .. }) => return supply_now(core, file, area, at).map(Extent::Now),
            // Whoever touches the page is told; it may be there by then.
            Err(_) => {}
            Ok(Supply::Filled) => {
                let mut fills = core.faulted.fills.lock();
                let pages = fills.entry(device).or_default();
                // Of the very first extent alone: else the page may have been stored to, and
                // is asked for again if it is not there. So may others', by other runs.
                if pages.is_empty() && !file.device.device.is_shared() {
                    let mut kept = core.faulted.kept.lock();
                    kept.entry(device).or_default().write(page_len, page, &buffer);
                }
                pages.insert(page);
            }
        }
    }
    let backing = file.backing(|| core.faulted.open_backing(core, file)).map_err(|error| {
        crate::report(format_args!(
            "{}: cannot open the file of its faulted pages: {error}; mmap fails with ENOMEM",
            file.device.path.display()
        ));
        Errno::ENOMEM
    })?;
    let pages = page..page + (at.end - at.start);
    if file.given.add(std::iter::once(pages.clone())).is_err() {
        // Of what the program had mapped here and there before.
        file.given.join_closest();
        file.given.add(std::iter::once(pages))?;
    }
    core.set_mapped();
    Ok(Extent::Later(backing))
}

/// Asks the driver for one page of the device, which may be written to `bytes`.
pub(crate) fn ask(
    file: &OpenFile,
    page: u64,
    bytes: &mut [u8],
) -> Result<Supply<HostMemory>, Errno> {
    let fault = Fault { page, access: Access::Read };
    let mut new = Page { bytes, taken: false };
    let supplied =
        file.device.call("fault", |driver| driver.fault(file.state(), &fault, &mut new))?;
    match &supplied {
        Supply::Page { memory, page } if *page >= memory.pages() => {
            crate::report(format_args!(
                "{}: driver {:?} answered a fault with page {page} of a memory of {} pages",
                file.device.path.display(),
                file.device.name,
                memory.pages()
            ));
            Err(Errno::EIO)
        }
        // Filled with nothing is a page of zeros.
        Supply::Filled if !new.taken => {
            new.bytes.fill(0);
            Ok(supplied)
        }
        _ => Ok(supplied),
    }
}

/// The pages `at` of the area, as runs of memory.
fn supply_now(
    core: &Core,
    file: &Arc<OpenFile>,
    area: &NewArea,
    at: Range<u64>,
) -> Result<Vec<Run>, Errno> {
    let page_len = area.page_size().bytes();
    let bytes = (at.end - at.start) * page_len;
    if bytes > LIMIT {
        crate::report(format_args!(
            "{}: mmap of {bytes} faulted bytes fails with ENOMEM: they are supplied before the \
             map is handed out here, up to {LIMIT} bytes a map; map a part of it",
            file.device.path.display()
        ));
        return Err(Errno::ENOMEM);
    }
    let mut runs: Vec<Run> = Vec::new();
    let mut fresh: Option<(HostMemory, u64)> = None;
    let mut buffer = Buffer::new(page_len as usize)?;
    for page in at.clone() {
        let of_device = area.first_page() + page;
        let key = (file.device.index, of_device);
        let known = core.faulted.early.lock().get(&key).cloned();
        let (memory, of_memory) = if let Some(known) = known {
            known
        } else {
            match ask(file, of_device, &mut buffer)? {
                Supply::Page { memory, page } => (memory, page),
                Supply::Filled => {
                    // One memory for the rest of the extent, taken page by page.
                    let (memory, next) = match fresh.take() {
                        Some(fresh) => fresh,
                        None => (core.host.scattered((at.end - page) * page_len)?, 0),
                    };
                    memory.write(next * page_len, &buffer)?;
                    fresh = Some((memory.clone(), next + 1));
                    // Another caller may have been first: its page is the one.
                    core.faulted.early.lock().entry(key).or_insert((memory, next)).clone()
                }
            }
        };
        match runs.last_mut() {
            Some(run) if run.memory.is(&memory) && run.first_page + run.pages == of_memory => {
                run.pages += 1;
            }
            _ => runs.push(Run { at: page, pages: 1, memory, first_page: of_memory }),
        }
    }
    Ok(runs)
}
