//! The maps of a home as text: the form of `/proc/PID/maps`, then how the pages come, how
//! many are in memory, and how many of those are dirty.
//!
//! ```text
//! 7f2c84e00000-7f2c84e10000 rw-s 00010000 00:00 1   /dev/demo  remap resident=16 dirty=0
//! ```

use std::{
    ops::Range,
    sync::{Arc, Weak},
    thread::JoinHandle,
};

use devmap_driver::Sharing;
use devmap_inspect::{self as inspect, Home, Listener, Method, Wanted};

use crate::{
    Error,
    area::{Area, Writes},
    core::Core,
};

/// While it is there, `devmap maps` finds this process: made by
/// [`Local::answer_maps`](crate::Local::answer_maps).
#[derive(Debug)]
pub struct Answering {
    listener: Arc<Listener>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    pub(crate) fn start(core: Weak<Core>) -> Result<Answering, Error> {
        let failed = |call| move |error| Error::system(call, &error);
        let listener = Arc::new(Listener::new(Home::Local).map_err(failed("bind"))?);
        let serving = listener.clone();
        let answer = move |_, wanted| {
            let core = core.upgrade().ok_or("its home has ended")?;
            Ok(core.areas().iter().flat_map(|area| described(area, wanted)).collect())
        };
        let thread = std::thread::Builder::new().name("devmap-maps".to_owned());
        let thread = thread.spawn(move || serving.serve(answer)).map_err(failed("clone"))?;
        Ok(Answering { listener, thread: Some(thread) })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.listener.end();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

/// The extents of an area, for `devmap maps`.
fn described(area: &Area, wanted: Wanted) -> Vec<inspect::Area> {
    let pages = area.span.marks().len() as u64;
    let mut extents = Vec::new();
    let mut from = 0;
    while from < pages {
        let (to, faulted) = area.extent(from);
        extents.push(extent(area, from..to, faulted, wanted));
        from = to;
    }
    extents
}

fn extent(area: &Area, pages: Range<u64>, faulted: bool, wanted: Wanted) -> inspect::Area {
    let bytes = area.bytes(&pages);
    let start = area.span.address() as u64;
    let page = area.object.core.page_size.bytes();
    let of_device = |pages: Range<u64>| area.first_page + pages.start..area.first_page + pages.end;
    let counts = |pages: Range<u64>| {
        let census = area.object.census(&of_device(pages));
        census.iter().fold((0, 0), |(all, written), (_, held, dirty)| {
            (all + held.count(), written + dirty.count())
        })
    };
    let len = pages.end - pages.start;
    let (resident, dirty) = if faulted { counts(pages.clone()) } else { (len, 0) };
    let count = len.min(u64::from(wanted.cells));
    let cell = |cell: u64| {
        let part = pages.start + cell * len / count..pages.start + (cell + 1) * len / count;
        let held = if faulted { counts(part.clone()).0 } else { part.end - part.start };
        inspect::fullness(held, part.end - part.start)
    };
    inspect::Area {
        start: start + bytes.start as u64,
        end: start + bytes.end as u64,
        permissions: format!(
            "r{}-{}",
            if area.writes == Writes::None { '-' } else { 'w' },
            if area.sharing == Sharing::Shared { 's' } else { 'p' }
        ),
        offset: (area.first_page + pages.start) * page,
        major: 0,
        minor: 0,
        inode: area.object.number,
        name: area.object.name.clone(),
        method: Some(if faulted { Method::Fault } else { Method::Remap }),
        page,
        resident,
        dirty,
        cells: (0..count).map(cell).collect(),
    }
}

/// One line for each extent, in the order of addresses.
pub(crate) fn text(areas: &[Arc<Area>]) -> String {
    let none = Wanted { all: false, cells: 0 };
    areas.iter().flat_map(|area| described(area, none)).map(|area| format!("{area}\n")).collect()
}
