//! Several threads at once.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use devmap_backend_local::MapOptions;

use crate::{
    disk::{Disk, PAGE},
    limited, open,
};

const PAGES: usize = 64;

/// A generator of numbers, the same every time.
pub fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Threads that load and store, plainly and checked, while pages are dropped beneath them,
/// synced and evicted. Each owns words of every page and knows what they must hold.
#[test]
fn threads_that_fault_write_and_evict_lose_nothing() {
    let home = limited(8);
    let disk = Disk::of(vec![0; PAGES * PAGE]);
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new().writable()).unwrap();
    let reader = file.map(&MapOptions::new().offset(PAGE as u64)).unwrap();
    let expected: Vec<Vec<AtomicU32>> =
        (0..4).map(|_| (0..PAGES).map(|_| AtomicU32::new(0)).collect()).collect();
    thread::scope(|scope| {
        for (number, mine) in expected.iter().enumerate() {
            let (file, map, reader) = (&file, &map, &reader);
            scope.spawn(move || {
                let mut seed = 0x9e37_79b9 + number as u64;
                for round in 1..=2000_u32 {
                    let page = random(&mut seed) as usize % PAGES;
                    let at = page * PAGE + number * 64;
                    match random(&mut seed) % 9 {
                        0 | 1 => {
                            map.store::<u32>(at, round).unwrap();
                            mine[page].store(round, Ordering::Relaxed);
                        }
                        2 => {
                            map.store_plain::<u32>(at, round);
                            mine[page].store(round, Ordering::Relaxed);
                        }
                        3 => map.sync(page * PAGE..(page + 1) * PAGE).unwrap(),
                        4 => map.evict(page * PAGE..(page + 1) * PAGE).unwrap(),
                        5 => {
                            let own = file.map(&MapOptions::new().writable()).unwrap();
                            assert_eq!(own.load::<u32>(at), Ok(mine[page].load(Ordering::Relaxed)));
                        }
                        6 if page > 0 => {
                            let found = reader.load_plain::<u32>(at - PAGE);
                            assert_eq!(found, mine[page].load(Ordering::Relaxed));
                        }
                        7 => {
                            let found = map.load_plain::<u32>(at);
                            assert_eq!(found, mine[page].load(Ordering::Relaxed));
                        }
                        _ => {
                            let found = map.load::<u32>(at).unwrap();
                            assert_eq!(found, mine[page].load(Ordering::Relaxed));
                        }
                    }
                }
            });
        }
    });
    assert!(home.stats().held_most <= 8, "{:?}", home.stats());
    drop((map, reader));
    file.fsync(devmap_driver::Fsync::All).unwrap();
    let content = disk.content();
    for (number, mine) in expected.iter().enumerate() {
        for (page, value) in mine.iter().enumerate() {
            let at = page * PAGE + number * 64;
            let found = u32::from_ne_bytes(content.bytes[at..at + 4].try_into().unwrap());
            assert_eq!(found, value.load(Ordering::Relaxed), "page {page} of thread {number}");
        }
    }
}
