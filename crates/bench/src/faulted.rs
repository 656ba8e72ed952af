//! What is measured of a device's faulted pages, against a file of a bare FUSE server: the
//! first load from a page, a scan, and write-back.

use std::{
    fs::{File, OpenOptions},
    hint::black_box,
    io,
    ops::Range,
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use devmap_sys::{
    mapping::{Mapping, Order, Protection, Sharing},
    memfd,
};
use rustix::io::Errno;

use crate::client::{MEMORY, Work};

/// Bytes of a map that is scanned.
const SCANNED: usize = 256 << 20;

/// Bytes of a device, or of a file, that are written to.
pub(crate) const WRITTEN: u64 = 64 << 20;

/// What is done to pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    /// A load from each, none beside the one before.
    Scattered,
    /// A load from each in their order.
    InOrder,
    /// A store to each, and `msync`, of which the time is taken.
    Written,
}

/// Pages that are not there when they are touched, of a device or of a file as large: each turn
/// has new ones. A scan goes on in its map where it was.
pub(crate) fn pages(path: &Path, what: Touch) -> io::Result<Work> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let page = rustix::param::page_size();
    let len = if what == Touch::InOrder { SCANNED } else { MEMORY };
    let mut next = 0;
    let mut scanned = None;
    Ok(Box::new(move |mut times| {
        let mut took = Duration::ZERO;
        while times > 0 {
            let (map, at) = match scanned.take() {
                Some(scanned) => scanned,
                None => {
                    next += len as u64;
                    if what == Touch::Written {
                        // What is written is kept, so there must be an end to it.
                        next %= WRITTEN;
                    }
                    let (protection, sharing) = (Protection::ReadWrite, Sharing::Shared);
                    (Mapping::new(file.as_fd(), next, len, protection, sharing)?, 0)
                }
            };
            let pages = times.min((len / page - at) as u64);
            let end = at + pages as usize;
            took += touch(&map, at..end, page, what)?;
            times -= pages;
            if what == Touch::InOrder && end < len / page {
                scanned = Some((map, end));
            }
        }
        Ok(took)
    }))
}

fn touch(map: &Mapping, pages: Range<usize>, page: usize, what: Touch) -> io::Result<Duration> {
    if what == Touch::Scattered {
        map.advise(Order::Random)?;
    }
    let mut started = Instant::now();
    for at in pages {
        let at = if what == Touch::Scattered { at * 197 % (MEMORY / page) } else { at };
        if what == Touch::Written {
            map.write(at * page, &[1; 8])?;
        } else {
            let mut word = [0; 8];
            map.read(at * page, &mut word)?;
            black_box(word);
        }
    }
    if what == Touch::Written {
        started = Instant::now();
        match map.sync() {
            // All is written back, and then the driver is found to have no fsync.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            result => result?,
        }
    }
    Ok(started.elapsed())
}

/// The same scan of a memfd that is made, and filled as a driver would, before it is mapped.
pub(crate) fn filled_before() -> io::Result<Work> {
    let page = rustix::param::page_size();
    let content = vec![0x5a; page];
    Ok(Box::new(move |mut times| {
        let mut took = Duration::ZERO;
        while times > 0 {
            let pages = times.min((MEMORY / page) as u64);
            let started = Instant::now();
            let memory: File = memfd::create("devmap-bench", MEMORY as u64)?.into();
            for at in 0..pages {
                std::os::unix::fs::FileExt::write_all_at(&memory, &content, at * page as u64)?;
            }
            let map =
                Mapping::new(memory.as_fd(), 0, MEMORY, Protection::ReadWrite, Sharing::Shared)?;
            touch(&map, 0..pages as usize, page, Touch::InOrder)?;
            took += started.elapsed();
            times -= pages;
        }
        Ok(took)
    }))
}
