//! The maps of a home as text: the form of `/proc/PID/maps`, then how the pages come, how
//! many are in memory, and how many of those are dirty.
//!
//! ```text
//! 7f2c84e00000-7f2c84e10000 rw-s 00010000 00:00 1   /dev/demo  remap resident=16 dirty=0
//! ```

use std::{fmt::Write as _, sync::Arc};

use devmap_driver::Sharing;

use crate::area::{Area, Writes};

/// One line for each extent, in the order of addresses.
pub(crate) fn text(areas: &[Arc<Area>]) -> String {
    let mut text = String::new();
    for area in areas {
        let pages = area.span.marks().len() as u64;
        let mut from = 0;
        while from < pages {
            let (to, faulted) = area.extent(from);
            // A String takes whatever is written to it.
            let _ = line(&mut text, area, from..to, faulted);
            from = to;
        }
    }
    text
}

fn line(
    text: &mut String,
    area: &Area,
    pages: std::ops::Range<u64>,
    faulted: bool,
) -> std::fmt::Result {
    let bytes = area.bytes(&pages);
    let (start, begin) = (area.span.address(), text.len());
    write!(
        text,
        "{:08x}-{:08x} r{}-{} {:08x} 00:00 {} ",
        start + bytes.start,
        start + bytes.end,
        if area.writes == Writes::None { '-' } else { 'w' },
        if area.sharing == Sharing::Shared { 's' } else { 'p' },
        area.object.bytes(&(area.first_page + pages.start..0)).start,
        area.object.number,
    )?;
    // Names begin in one column, as far as the numbers leave it free.
    let used = text.len() - begin;
    write!(text, "{:width$}{}", "", area.object.name, width = 73_usize.saturating_sub(used))?;
    let of_device = area.first_page + pages.start..area.first_page + pages.end;
    let (mut resident, mut dirty) = (0, 0);
    for (_, held, written) in area.object.census(&of_device) {
        resident += held.count();
        dirty += written.count();
    }
    if faulted {
        writeln!(text, "  fault resident={resident} dirty={dirty}")
    } else {
        writeln!(text, "  remap resident={} dirty=0", pages.end - pages.start)
    }
}
