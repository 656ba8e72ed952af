//! The local home, held to what mmap(2) promises: with devices that fail, panic and lose
//! their memory, and with several threads.

mod disk;
mod faults;
mod file;
mod files;
mod fork;
mod maps;
mod own;
mod reading_ahead;
#[cfg(target_arch = "x86_64")]
mod sandbox;
mod stacked;
mod stress;
mod trace;
mod truncate;
mod write_back;

use std::{
    thread,
    time::{Duration, Instant},
};

use devmap_backend_local::{File, Local, LocalOptions, Mapping, OpenMode};

use disk::Disk;

fn open(home: &Local, disk: &Disk) -> File {
    home.add("disk", disk.clone()).unwrap().open(OpenMode::ReadWrite).unwrap()
}

/// A home that drops content beyond so many pages.
fn limited(pages: u64) -> Local {
    LocalOptions::new().memory_limit(pages * disk::PAGE as u64).build().unwrap()
}

fn byte(map: &Mapping, at: usize) -> u8 {
    map.load::<u8>(at).unwrap()
}

/// Waits for what another thread does.
fn eventually(is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "it does not come");
        thread::yield_now();
    }
}
