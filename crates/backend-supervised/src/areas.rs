//! The areas of a program as its devices know them: for `devmap maps`.
//!
//! The kernel says where maps are, and of which file; what of a device stands there is noted
//! when a map is made. What does not live here: who may ask (`devmap-inspect`).

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
};

use devmap_driver::Platform as _;
use devmap_inspect::{Area, Method, Wanted};
use parking_lot::Mutex;

use crate::{Core, host::Host};

/// Bytes of a memory, and what of a device they are.
#[derive(PartialEq, Eq)]
pub(crate) struct Placement {
    /// Device and inode number of the memory.
    pub(crate) memory: (u64, u64),
    /// Bytes of the memory.
    pub(crate) bytes: Range<u64>,
    /// The index of the device.
    pub(crate) device: u64,
    /// The byte of the device at the first of them.
    pub(crate) offset: u64,
    pub(crate) method: Method,
}

impl Placement {
    fn is_as_far_as(&self, other: &Placement) -> bool {
        let distance = |p: &Placement| p.offset.wrapping_sub(p.bytes.start);
        let key = |p: &Placement| (p.memory, p.device, p.method, distance(p));
        key(self) == key(other)
    }

    /// Widens it to the other's bytes too.
    fn include(&mut self, other: &Placement) {
        self.offset = self.offset.min(other.offset);
        self.bytes.start = self.bytes.start.min(other.bytes.start);
        self.bytes.end = self.bytes.end.max(other.bytes.end);
    }
}

/// What of a device was mapped from which memory.
#[derive(Default)]
pub(crate) struct Placed(Mutex<Vec<Placement>>);

/// So many notes are kept without a look at whether their memories are there still.
const NOTES: usize = 256;

impl Placed {
    /// Notes that bytes of a memory, which is of `host`, stand for those of a device. Notes
    /// of one distance between the two are one.
    pub(crate) fn note(&self, host: &Host, placement: Placement) {
        let mut placements = self.0.lock();
        if let Some(known) = placements.iter_mut().find(|known| known.is_as_far_as(&placement)) {
            known.include(&placement);
            return;
        }
        if placements.len() >= NOTES && placements.len().is_power_of_two() {
            placements.retain(|placement| host.has_memory(placement.memory));
        }
        placements.push(placement);
    }

    /// What byte `at` of a memory is: the device's index, its byte, and how it came. Where
    /// a driver shows a page at several offsets, one of them.
    fn find(&self, memory: (u64, u64), at: u64) -> Option<(u64, u64, Method)> {
        let placements = self.0.lock();
        let is_there = |p: &&Placement| p.memory == memory && p.bytes.contains(&at);
        let found = placements.iter().rev().find(is_there)?;
        Some((found.device, found.offset + (at - found.bytes.start), found.method))
    }
}

impl Core {
    /// The areas of a process.
    ///
    /// # Errors
    /// Those of `/proc/PID/smaps`.
    pub(crate) fn areas(&self, pid: u32, wanted: Wanted) -> io::Result<Vec<Area>> {
        let page = self.host.page_size().bytes();
        let mut areas = parse(&fs::read_to_string(format!("/proc/{pid}/smaps"))?, page);
        for area in &mut areas {
            self.name(area);
        }
        areas.retain(|area| wanted.all || area.method.is_some());
        if wanted.cells > 0 {
            let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
            for area in areas.iter_mut().filter(|area| area.method.is_some()) {
                area.cells = cells(&pagemap, area, wanted.cells)?;
            }
        }
        Ok(areas)
    }

    /// Says what of a device an area is, if it is one's.
    fn name(&self, area: &mut Area) {
        let file = (rustix::fs::makedev(area.major, area.minor), area.inode);
        let found = if self.mount_device.get() == Some(&file.0) {
            let device = self.devfs.get().and_then(|devfs| devfs.mapped_device(area.inode));
            device.map(|index| (index, area.offset, Method::Fault))
        } else if let Some(index) =
            self.trapped.as_ref().and_then(|trapped| trapped.regular_file(file))
        {
            Some((index, area.offset, Method::Fault))
        } else {
            self.placed.find(file, area.offset)
        };
        let Some((index, offset, method)) = found else { return };
        let Some(device) = self.devices.get(index as usize) else { return };
        area.method = Some(method);
        area.offset = offset;
        area.name = device.path.display().to_string();
        (area.major, area.minor) = device.number;
        area.inode = self.devfs.get().map_or(0, |devfs| devfs.node_of(index));
    }
}

/// The text of `/proc/PID/smaps`.
fn parse(text: &str, page: u64) -> Vec<Area> {
    let mut areas: Vec<Area> = Vec::new();
    for line in text.lines() {
        if let Some(area) = parse_area(line, page) {
            areas.push(area);
        } else if let (Some(area), Some((key, value))) = (areas.last_mut(), line.split_once(':')) {
            let kilobytes = value.trim().strip_suffix(" kB").and_then(|value| value.parse().ok());
            let pages = |kilobytes: u64| kilobytes * 1024 / page;
            match (key, kilobytes) {
                ("Rss", Some(kilobytes)) => area.resident = pages(kilobytes),
                ("Shared_Dirty" | "Private_Dirty", Some(kilobytes)) => {
                    area.dirty += pages(kilobytes);
                }
                _ => {}
            }
        }
    }
    areas
}

/// A line as in `/proc/PID/maps`.
fn parse_area(line: &str, page: u64) -> Option<Area> {
    let mut rest = line;
    let mut word = || {
        let (word, tail) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = tail.trim_start();
        word
    };
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = word().split_once('-')?;
    let permissions = word().to_owned();
    let offset = hexadecimal(word())?;
    let (major, minor) = word().split_once(':')?;
    Some(Area {
        start: hexadecimal(start)?,
        end: hexadecimal(end)?,
        permissions,
        offset,
        major: hexadecimal(major)? as u32,
        minor: hexadecimal(minor)? as u32,
        inode: word().parse().ok()?,
        name: rest.trim_end().to_owned(),
        method: None,
        page,
        resident: 0,
        dirty: 0,
        cells: Vec::new(),
    })
}

/// How full equal parts of an area are. Of large parts the first pages speak for the rest.
fn cells(pagemap: &File, area: &Area, most: u32) -> io::Result<Vec<u8>> {
    /// Bytes of an entry, and the bit that says that the page is there.
    const ENTRY: u64 = 8;
    const PRESENT: u64 = 1 << 63;
    /// As many pages of a part are looked at.
    const LOOKED_AT: u64 = 1 << 14;
    let (first, pages) = (area.start / area.page, (area.end - area.start) / area.page);
    let count = pages.min(u64::from(most));
    let mut cells = Vec::with_capacity(count as usize);
    for cell in 0..count {
        let (from, to) = (cell * pages / count, (cell + 1) * pages / count);
        let looked_at = (to - from).min(LOOKED_AT);
        let mut entries = vec![0; (looked_at * ENTRY) as usize];
        pagemap.read_exact_at(&mut entries, (first + from) * ENTRY)?;
        let entries = entries
            .chunks_exact(ENTRY as usize)
            .map(|entry| entry.try_into().map_or(0, u64::from_ne_bytes));
        let present = entries.filter(|entry| entry & PRESENT != 0).count() as u64;
        cells.push(devmap_inspect::fullness(present, looked_at));
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_read_with_their_counts() {
        let text = "\
7f0000000000-7f0000010000 rw-s 00010000 00:01 2051                       /memfd:devmap (deleted)
Size:                 64 kB
Rss:                  12 kB
Shared_Dirty:          4 kB
Private_Dirty:         4 kB
VmFlags: rd wr sh mr
7f0000010000-7f0000011000 r--p 00000000 08:01 7                          /a file: with words
Rss:                   4 kB
7fff00000000-7fff00001000 r-xp 00000000 00:00 0 
";
        let areas = parse(text, 4096);
        assert_eq!(areas.len(), 3, "{areas:?}");
        let first = &areas[0];
        assert_eq!((first.start, first.end), (0x7f00_0000_0000, 0x7f00_0001_0000));
        assert_eq!((first.permissions.as_str(), first.offset), ("rw-s", 0x10000));
        assert_eq!((first.major, first.minor, first.inode), (0, 1, 2051));
        assert_eq!((first.resident, first.dirty), (3, 2));
        assert_eq!(first.name, "/memfd:devmap (deleted)");
        assert_eq!((areas[1].name.as_str(), areas[1].resident), ("/a file: with words", 1));
        assert_eq!(areas[2].name, "");
    }
}
