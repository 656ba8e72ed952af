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
//! that sort is asked for all pages of it when it is mapped. So is every driver in
//! trapped mode, which has no FUSE: that is what [`LIMIT`] limits.

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Range,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use devmap_driver::{Access, Errno, Fault, Memory, NewArea, NewPage, Platform, Store, Supply};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use crate::{
    Core,
    host::HostMemory,
    nodes::BACKING,
    opens::{DeviceEntry, OpenFile},
};

/// The most bytes of fault extents in one map that are supplied before it is handed out.
const LIMIT: u64 = 256 << 20;

/// Something for each page: keys are the device's index and the page of the device.
type PerPage<T> = Mutex<HashMap<(u64, u64), T>>;

/// What is known of faulted pages.
#[derive(Default)]
pub(crate) struct Faulted {
    /// Pages supplied early, and where they are.
    early: PerPage<(HostMemory, u64)>,
    /// Pages that programs have changed and the kernel has given back; and the first
    /// pages of extents, until they are asked for.
    kept: PerPage<Box<[u8]>>,
    /// Devices whose pages are filled.
    fills: Mutex<HashSet<u64>>,
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

/// The home's page, given to the driver to fill.
struct Page<'a> {
    bytes: &'a mut Vec<u8>,
    len: usize,
}

impl NewPage for Page<'_> {
    fn bytes(&mut self) -> Result<&mut [u8], Errno> {
        self.bytes.clear();
        self.bytes.try_reserve(self.len).map_err(|_| Errno::ENOMEM)?;
        self.bytes.resize(self.len, 0);
        Ok(self.bytes)
    }
}

impl Faulted {
    /// Where the file system can be seen.
    pub(crate) fn set_directory(&self, directory: OwnedFd) -> Result<(), OwnedFd> {
        self.directory.set(directory)
    }

    /// Answers a read of a backing file: whole pages, all or none. A short answer would
    /// be the end of the file to the kernel.
    pub(crate) fn read(
        &self,
        page_len: u64,
        file: &OpenFile,
        offset: u64,
        size: u32,
    ) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        bytes.try_reserve(size as usize).map_err(|_| Errno::ENOMEM)?;
        let mut buffer = Vec::new();
        for page in offset / page_len..(offset + u64::from(size)).div_ceil(page_len) {
            let key = (file.device.index, page);
            let kept = match file.device.device.store() {
                Store::Home => self.kept.lock().get(&key).cloned(),
                // The first page of an extent, which the driver was asked for already.
                Store::Device => self.kept.lock().remove(&key),
            };
            if let Some(kept) = kept {
                bytes.extend_from_slice(&kept);
                continue;
            }
            match ask(file, page, page_len, &mut buffer)? {
                Supply::Filled => bytes.extend_from_slice(&buffer),
                Supply::Page { .. } => {
                    crate::report_once(format_args!(
                        "{}: driver {:?} answered a fault with a page of its memory in an extent \
                         whose first page it filled; the program gets SIGBUS",
                        file.device.path.display(),
                        file.device.name
                    ));
                    return Err(Errno::EIO);
                }
            }
        }
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// Takes back what a program has stored. The kernel writes whole pages.
    pub(crate) fn write(
        &self,
        page_len: u64,
        device: &DeviceEntry,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Errno> {
        if device.device.store() == Store::Device {
            let pages = offset / page_len..(offset + data.len() as u64).div_ceil(page_len);
            self.kept.lock().retain(|(of, page), _| *of != device.index || !pages.contains(page));
            return device.call("write_back", |driver| driver.write_back(offset, data));
        }
        if !offset.is_multiple_of(page_len) || !(data.len() as u64).is_multiple_of(page_len) {
            return Err(Errno::EIO);
        }
        let mut kept = self.kept.lock();
        for (bytes, page) in data.chunks(page_len as usize).zip(offset / page_len..) {
            kept.insert((device.index, page), bytes.into());
        }
        Ok(())
    }

    /// Nobody maps pages of the device any more.
    pub(crate) fn forget(&self, device: u64) {
        let mut kept = self.kept.lock();
        let before = kept.len();
        kept.retain(|(of, _), _| *of != device);
        if kept.len() < before {
            kept.shrink_to_fit();
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
        let (Some(directory), Some(devfs)) = (self.directory.get(), core.devfs.get()) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let path = PathBuf::from(BACKING).join(file.device.index.to_string());
        let access = if file.flags.write { OFlags::RDWR } else { OFlags::RDONLY };
        devfs.opening_backing(file.id, || {
            Ok(rustix::fs::openat(directory, path, access | OFlags::CLOEXEC, Mode::empty())?)
        })
    }
}

/// The bytes from `offset` on of a regular file: `size`, or as many as it has there now.
pub(crate) fn fill(
    file: &OpenFile,
    page_len: u64,
    offset: u64,
    size: u64,
) -> Result<Vec<u8>, Errno> {
    let end = file.device.size()?.min(offset.saturating_add(size));
    let mut bytes = Vec::new();
    bytes.try_reserve(end.saturating_sub(offset) as usize).map_err(|_| Errno::ENOMEM)?;
    let mut buffer = Vec::new();
    let mut at = offset;
    while at < end {
        if let Supply::Page { .. } = ask(file, at / page_len, page_len, &mut buffer)? {
            crate::report_once(format_args!(
                "{}: driver {:?} answered a fault of a regular file with a page of its memory, \
                 where a filled one is wanted; the program gets EIO or SIGBUS",
                file.device.path.display(),
                file.device.name
            ));
            return Err(Errno::EIO);
        }
        let start = at % page_len;
        let len = (page_len - start).min(end - at);
        bytes.extend_from_slice(&buffer[start as usize..(start + len) as usize]);
        at += len;
    }
    Ok(bytes)
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
    let fills = core.faulted.fills.lock().contains(&device);
    if !fills {
        let page = area.first_page() + at.start;
        let mut buffer = Vec::new();
        match ask(file, page, area.page_size().bytes(), &mut buffer)? {
            Supply::Page { .. } => return supply_now(core, file, area, at).map(Extent::Now),
            Supply::Filled => {
                core.faulted.kept.lock().insert((device, page), buffer.into());
                core.faulted.fills.lock().insert(device);
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
    core.set_mapped();
    Ok(Extent::Later(backing))
}

/// Asks the driver for one page of the device.
pub(crate) fn ask(
    file: &OpenFile,
    page: u64,
    page_len: u64,
    buffer: &mut Vec<u8>,
) -> Result<Supply<HostMemory>, Errno> {
    let fault = Fault { page, access: Access::Read };
    buffer.clear();
    let mut new = Page { bytes: buffer, len: page_len as usize };
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
        Supply::Filled if buffer.is_empty() => {
            buffer.resize(page_len as usize, 0);
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
    let mut buffer = Vec::new();
    for page in at.clone() {
        let of_device = area.first_page() + page;
        let key = (file.device.index, of_device);
        let known = core.faulted.early.lock().get(&key).cloned();
        let (memory, of_memory) = if let Some(known) = known {
            known
        } else {
            match ask(file, of_device, page_len, &mut buffer)? {
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
