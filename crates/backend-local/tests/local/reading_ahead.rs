//! Reading ahead: several reads at once, within the limit, and what comes in between.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread,
};

use devmap_backend_local::{
    Error, File, Local, LocalMemory, LocalPlatform, MapOptions, Mapping, OpenMode,
};
use devmap_driver::{Device, Errno, Fault, Kind, Metadata, NewPage, Open, Store, Supply};

use crate::{
    disk::{PAGE, expected},
    eventually, limited,
};

/// A regular file whose reads ahead wait where a test asks them to, with their content.
#[derive(Default)]
pub struct Shared {
    size: AtomicU64,
    /// What every byte differs by; it changes when the file is truncated.
    epoch: AtomicU8,
    waits: Mutex<bool>,
    changed: Condvar,
    fails: AtomicBool,
    under_way: AtomicU64,
    /// Reads ahead that came.
    pub done: AtomicU64,
}

#[derive(Clone, Default)]
pub struct Gated(Arc<Shared>);

impl Gated {
    pub fn new(pages: u64) -> Gated {
        let gated = Gated::default();
        gated.0.size.store(pages * PAGE as u64, Ordering::Relaxed);
        gated
    }

    fn wait(&self) {
        *self.0.waits.lock().unwrap() = true;
    }

    fn go_on(&self) {
        *self.0.waits.lock().unwrap() = false;
        self.0.changed.notify_all();
    }

    fn are_under_way(&self, count: u64) {
        eventually(|| self.0.under_way.load(Ordering::Relaxed) >= count);
    }

    fn fill(&self, page: u64, bytes: &mut [u8]) {
        let epoch = self.0.epoch.load(Ordering::Relaxed);
        let start = page as usize * PAGE;
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = expected(start + at) ^ epoch;
        }
    }
}

impl Device<LocalPlatform> for Gated {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn metadata(&self) -> Metadata {
        let size = self.0.size.load(Ordering::Relaxed);
        Metadata { kind: Kind::Regular { size }, ..Metadata::CHARACTER }
    }

    fn fault(
        &self,
        _file: &(),
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<LocalMemory>, Errno> {
        self.fill(fault.page, page.bytes()?);
        Ok(Supply::Filled)
    }

    fn readahead(&self, _file: &(), first_page: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        self.fill(first_page, bytes);
        let waits = self.0.waits.lock().unwrap();
        drop(self.0.changed.wait_while(waits, |waits| *waits).unwrap());
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        if self.0.fails.load(Ordering::Relaxed) {
            return Err(Errno::EIO);
        }
        self.0.done.fetch_add(1, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn store(&self) -> Store {
        Store::Device
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.0.size.store(size, Ordering::Relaxed);
        self.0.epoch.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

pub fn open(home: &Local, device: &Gated) -> File {
    home.add("gated", device.clone()).unwrap().open(OpenMode::ReadWrite).unwrap()
}

fn map(home: &Local, device: &Gated) -> Mapping {
    open(home, device).map(&MapOptions::new()).unwrap()
}

pub fn check(map: &Mapping, pages: std::ops::Range<usize>, epoch: u8) {
    for at in pages.map(|page| page * PAGE + page % PAGE) {
        assert_eq!(map.load::<u8>(at), Ok(expected(at) ^ epoch), "byte {at}");
    }
}

#[test]
fn reads_ahead_overlap_within_the_limit() {
    let (home, device) = (limited(1024), Gated::new(8192));
    if !home.is_lazy() {
        return;
    }
    let map = map(&home, &device);
    device.wait();
    map.prefetch(0..600 * PAGE).unwrap();
    device.are_under_way(3);
    // Who wants a page that nobody reads does not wait for them.
    check(&map, 8000..8001, 0);
    device.go_on();
    check(&map, 0..8192, 0);
    assert!(device.0.done.load(Ordering::Relaxed) > 0);
    assert!(home.stats().held_most <= 1024, "{:?}", home.stats());
}

#[test]
fn a_scan_has_several_reads_under_way() {
    let (home, device) = (Local::new().unwrap(), Gated::new(4096));
    if !home.is_lazy() {
        return;
    }
    let map = map(&home, &device);
    device.wait();
    check(&map, 0..3, 0);
    device.are_under_way(3);
    device.go_on();
    check(&map, 0..4096, 0);
}

#[test]
fn an_error_of_a_read_ahead_is_nobodys() {
    let (home, device) = (Local::new().unwrap(), Gated::new(1 << 20));
    if !home.is_lazy() {
        return;
    }
    let map = map(&home, &device);
    device.0.fails.store(true, Ordering::Relaxed);
    check(&map, 0..2000, 0);
    device.0.fails.store(false, Ordering::Relaxed);
    // It is tried again further on.
    for page in 2000.. {
        check(&map, page..page + 1, 0);
        if device.0.done.load(Ordering::Relaxed) > 0 {
            break;
        }
    }
}

#[test]
fn a_map_goes_while_much_is_to_be_read() {
    // Which would take days.
    let (home, device) = (limited(4096), Gated::new(1 << 32));
    if !home.is_lazy() {
        return;
    }
    let map = map(&home, &device);
    device.wait();
    map.prefetch(0..map.len()).unwrap();
    device.are_under_way(2);
    let gone = thread::spawn(|| drop(map));
    device.go_on();
    gone.join().unwrap();
    drop(home);
}

#[test]
fn what_was_read_before_a_file_was_cut_is_not_served() {
    let (home, device) = (Local::new().unwrap(), Gated::new(4096));
    if !home.is_lazy() {
        return;
    }
    let file = open(&home, &device);
    let map = file.map(&MapOptions::new()).unwrap();
    device.wait();
    map.prefetch(0..4096 * PAGE).unwrap();
    device.are_under_way(2);
    let cut = file.clone();
    let cuts = thread::spawn(move || cut.truncate(100 * PAGE as u64));
    device.go_on();
    cuts.join().unwrap().unwrap();
    let past = map.load::<u8>(100 * PAGE);
    assert_eq!(past, Err(Error::PastEnd { page: 100, size: 100 * PAGE as u64 }));
    file.truncate(4096 * PAGE as u64).unwrap();
    check(&map, 100..4096, 2);
}

#[test]
fn runs_are_handed_to_the_kernel_while_others_look_there() {
    let (home, device) = (Local::new().unwrap(), Gated::new(2048));
    let file = open(&home, &device);
    let keeper = file.map(&MapOptions::new()).unwrap();
    keeper.populate(0..keeper.len()).unwrap();
    for _ in 0..20 {
        let map = file.map(&MapOptions::new()).unwrap();
        thread::scope(|scope| {
            for parity in [0, 1, 1] {
                let map = &map;
                scope.spawn(move || {
                    for page in 0..2048 {
                        if page % 2 == parity {
                            check(map, page..page + 1, 0);
                        } else {
                            assert_eq!(map.load_plain::<u8>(page * PAGE), expected(page * PAGE));
                        }
                    }
                });
            }
        });
    }
}
