//! What clients of the memory engine's figures do, and their peers: maps among many areas,
//! and the search for one of them. Each area is a page with a free page behind it.

use std::{collections::BTreeMap, hint::black_box, io, os::fd::AsFd, time::Instant};

use devmap_backend_sim::{Failures, Machine};
use devmap_driver::{Errno, PageSize, Protection};
use devmap_mm::{Engine, Limits, MapRequest, Placement, SpaceId};
use devmap_sys::{
    mapping::{self, Mapping, Sharing},
    memfd,
};
use memmap2::MmapMut;

use crate::client::Work;

const PAGE: u64 = 4096;
const BASE: u64 = 1 << 40;

fn error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw())
}

fn engine(areas: u64) -> Result<(Engine<Machine>, SpaceId), Errno> {
    let page_size = PageSize::new(PAGE).ok_or(Errno::EINVAL)?;
    let mut engine = Engine::new(Machine::new(page_size, Failures::default()), Limits::default());
    let space = engine.new_space()?;
    for number in 0..areas {
        let at = Placement::Fixed(BASE + 2 * number * PAGE);
        let request = MapRequest::new(PAGE).at(at).protection(Protection::READ);
        engine.map(space, &request)?;
    }
    Ok((engine, space))
}

/// A map of a page and its unmap, in the engine.
pub(crate) fn map(areas: u64) -> io::Result<Work> {
    let (mut engine, space) = engine(areas).map_err(error)?;
    Ok(Box::new(move |times| {
        let started = Instant::now();
        for _ in 0..times {
            let at = engine.map(space, black_box(&MapRequest::new(PAGE))).map_err(error)?;
            engine.unmap(space, at, PAGE).map_err(error)?;
        }
        Ok(started.elapsed())
    }))
}

/// The same by the system calls.
pub(crate) fn map_by_calls(areas: u64) -> io::Result<Work> {
    // Maps of one and the same page do not merge.
    let file = memfd::create("page", PAGE)?;
    let one = |_| {
        let (fd, len) = (file.as_fd(), PAGE as usize);
        Mapping::new(fd, 0, len, mapping::Protection::Read, Sharing::Shared)
    };
    let held = (0..areas).map(one).collect::<io::Result<Vec<_>>>()?;
    Ok(Box::new(move |times| {
        black_box(&held);
        let started = Instant::now();
        for _ in 0..times {
            black_box(MmapMut::map_anon(PAGE as usize)?);
        }
        Ok(started.elapsed())
    }))
}

/// Addresses in no order, the same every time.
fn addresses(areas: u64) -> Vec<u64> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        BASE + (state >> 33) % (2 * areas) * PAGE
    };
    std::iter::repeat_with(next).take(1 << 16).collect()
}

/// `find_vma` in the engine.
pub(crate) fn find(areas: u64) -> io::Result<Work> {
    let (engine, space) = engine(areas).map_err(error)?;
    let addresses = addresses(areas);
    Ok(Box::new(move |times| {
        let areas = engine.areas(space);
        let started = Instant::now();
        for address in addresses.iter().cycle().take(times as usize) {
            black_box(areas.find(black_box(*address)));
        }
        Ok(started.elapsed())
    }))
}

/// A range look-up of the same keys: by their ends, so that it answers the same.
pub(crate) fn find_in_tree(areas: u64) -> io::Result<Work> {
    let (engine, space) = engine(areas).map_err(error)?;
    let tree: BTreeMap<u64, u64> =
        engine.areas(space).from(0).map(|area| (area.end(), area.start())).collect();
    let addresses = addresses(areas);
    Ok(Box::new(move |times| {
        let started = Instant::now();
        for address in addresses.iter().cycle().take(times as usize) {
            black_box(tree.range(black_box(*address) + 1..).next());
        }
        Ok(started.elapsed())
    }))
}
