//! Fault extents, supplied before the map is handed out.
//!
//! Each page of the extent is asked of the driver once, at mapping time, and then
//! kept for every later map of the same page: so the extents come out as runs of
//! memory, as remapped ones do. Serving the pages at first access instead, through
//! FUSE, is not done yet; that is why an extent has a limit.

use std::{collections::HashMap, ops::Range, sync::Arc};

use devmap_driver::{Access, Errno, Fault, Memory, NewArea, NewPage, Platform, Supply};
use parking_lot::Mutex;

use crate::{Core, host::HostMemory, opens::OpenFile};

/// The most bytes of fault extents in one map.
pub(crate) const LIMIT: u64 = 256 << 20;

/// Pages that were filled, by device path and page of the device.
#[derive(Default)]
pub(crate) struct Filled(Mutex<HashMap<(u64, u64), (HostMemory, u64)>>);

/// A run of pages that one memory supplies.
pub(crate) struct Run {
    pub(crate) at: u64,
    pub(crate) pages: u64,
    pub(crate) memory: HostMemory,
    pub(crate) first_page: u64,
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

/// The pages `at` of the area, as runs.
pub(crate) fn supply(
    core: &Core,
    file: &Arc<OpenFile>,
    area: &NewArea,
    at: Range<u64>,
) -> Result<Vec<Run>, Errno> {
    let page_len = area.page_size().bytes();
    let bytes = (at.end - at.start) * page_len;
    if bytes > LIMIT {
        crate::report(format_args!(
            "{}: mmap of {bytes} faulted bytes fails with ENOMEM: such memory is filled before it \
             is handed out, up to {LIMIT} bytes a map; map a part of it",
            file.device.path.display()
        ));
        return Err(Errno::ENOMEM);
    }
    let mut runs: Vec<Run> = Vec::new();
    let mut fresh: Option<(HostMemory, u64)> = None;
    let mut buffer = Vec::new();
    for page in at.clone() {
        let fault = Fault::new(area, page, Access::Read);
        let key = (file.device.index, fault.page);
        let known = core.filled.0.lock().get(&key).cloned();
        let (memory, of_memory) = if let Some(known) = known {
            known
        } else {
            let mut new = Page { bytes: &mut buffer, len: page_len as usize };
            let supplied =
                file.device.call("fault", |driver| driver.fault(file.state(), &fault, &mut new))?;
            match supplied {
                Supply::Page { memory, page } if page < memory.pages() => (memory, page),
                Supply::Page { memory, page } => {
                    crate::report(format_args!(
                        "{}: driver {:?} answered a fault with page {page} of a memory of {} pages",
                        file.device.path.display(),
                        file.device.name,
                        memory.pages()
                    ));
                    return Err(Errno::EIO);
                }
                Supply::Filled => {
                    // One memory for the rest of the extent, taken page by page.
                    let (memory, next) = match fresh.take() {
                        Some(fresh) => fresh,
                        None => (core.host.scattered((at.end - page) * page_len)?, 0),
                    };
                    memory.write(next * page_len, &buffer)?;
                    fresh = Some((memory.clone(), next + 1));
                    // Another caller may have been first: its page is the one.
                    core.filled.0.lock().entry(key).or_insert((memory, next)).clone()
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
