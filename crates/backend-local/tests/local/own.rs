//! A map that is the only one of its device, whose pages are its own memory, and what becomes
//! of them when others come.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use devmap_backend_local::{Error, File, Local, MapOptions, Mapping, OnError, OpenMode};
use devmap_driver::{Errno, Memory};

use crate::{
    byte,
    disk::{Disk, PAGE, Paged, Trouble, expected},
    eventually,
    fork::in_child,
    limited, open,
    reading_ahead::{self, Gated},
    stress::random,
};

/// That each page of these holds what its device had, past its first `skipped` bytes.
fn check(map: &Mapping, pages: impl IntoIterator<Item = usize>, skipped: usize) {
    let mut page = [0; PAGE];
    for at in pages.into_iter().map(|page| page * PAGE) {
        map.read_at(at, &mut page).unwrap();
        let good = page.iter().enumerate().skip(skipped);
        assert!(good.clone().all(|(i, byte)| *byte == expected(at + i)), "page {}", at / PAGE);
    }
}

fn faults(disk: &Disk) -> u64 {
    disk.faults.load(Ordering::Relaxed)
}

fn held_pages(map: &Mapping) -> u64 {
    map.held_bytes().unwrap() / PAGE as u64
}

fn kinds() -> [MapOptions; 4] {
    let reading = MapOptions::new();
    [reading, reading.writable(), reading.private(), reading.private().writable()]
}

#[test]
fn another_map_of_each_kind_finds_the_pages() {
    for first in [MapOptions::new(), MapOptions::new().private()] {
        for second in kinds() {
            let (home, disk) = (Local::new().unwrap(), Disk::new(200 * PAGE));
            let file = open(&home, &disk);
            let map = file.map(&first).unwrap();
            check(&map, (1..200).step_by(2), 0);
            assert_eq!((held_pages(&map), home.stats().held), (100, 100));
            let other = file.map(&second).unwrap();
            assert_eq!((held_pages(&map), home.stats().held), (100, 100));
            check(&other, (1..200).step_by(2), 0);
            check(&map, (1..200).step_by(2), 0);
            assert_eq!(map.load_plain::<u8>(31 * PAGE + 5), expected(31 * PAGE + 5));
            assert_eq!(faults(&disk), 100, "nothing is asked for twice");
            check(&other, 0..200, 0);
            check(&map, 0..200, 0);
            assert_eq!(faults(&disk), 200);
            assert_eq!((held_pages(&map), home.stats().held), (200, 200));
            if other.store::<u8>(3 * PAGE, 0xaa).is_ok() {
                other.store_plain::<u8>(4 * PAGE, 0xaa);
                let is_shared = byte(&map, 3 * PAGE) == 0xaa;
                assert_eq!(map.load_plain::<u8>(4 * PAGE) == 0xaa, is_shared);
                drop(other);
                assert_eq!(disk.content().bytes[3 * PAGE] == 0xaa, is_shared);
                assert_eq!(byte(&map, 4 * PAGE) == 0xaa, is_shared);
            }
            drop(map);
        }
    }
}

#[test]
fn pages_outlast_the_map_while_the_file_is_open() {
    let (home, disk) = (limited(100), Disk::new(64 * PAGE));
    let file = open(&home, &disk);
    for round in 0..3 {
        let map = file.map(&MapOptions::new()).unwrap();
        check(&map, 0..64, 0);
        assert_eq!((faults(&disk), held_pages(&map), home.stats().held), (64, 64, 64));
        if round == 1 {
            map.evict(0..32 * PAGE).unwrap();
            check(&map, 0..32, 0);
            disk.faults.store(64, Ordering::Relaxed);
        }
        map.unmap().unwrap();
    }
    drop(file);
    assert_eq!(home.stats().held, 0);
    // Nobody could look for them.
    let map = open(&home, &disk).map(&MapOptions::new()).unwrap();
    check(&map, 0..64, 0);
    drop(map);
    assert_eq!(home.stats().held, 0);
}

#[test]
fn the_limit_holds_as_the_kernel_counts() {
    let (home, disk) = (limited(48), Disk::new(1000 * PAGE));
    let map = open(&home, &disk).map(&MapOptions::new()).unwrap();
    let mut seed = 1;
    for round in 0..5000 {
        let at = random(&mut seed) as usize % (1000 * PAGE);
        let found = if round % 3 == 0 { map.load_plain(at) } else { byte(&map, at) };
        assert_eq!(found, expected(at));
        assert!(held_pages(&map) <= 48);
    }
    check(&map, 0..1000, 0);
    assert!(held_pages(&map) <= 48 && home.stats().held_most <= 48, "{:?}", home.stats());
    eventually(|| held_pages(&map) == home.stats().held);
}

#[test]
fn a_file_is_cut_and_grows_under_the_only_map() {
    let (home, disk) = (Local::new().unwrap(), Disk::new(200 * PAGE));
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new()).unwrap();
    check(&map, 0..200, 0);
    let size = 70 * PAGE as u64 + 100;
    file.truncate(size).unwrap();
    assert_eq!(home.stats().held, 70);
    assert_eq!(map.load::<u8>(71 * PAGE), Err(Error::PastEnd { page: 71, size }));
    assert_eq!(byte(&map, 70 * PAGE + 99), expected(70 * PAGE + 99));
    assert_eq!((byte(&map, 70 * PAGE + 100), map.load_plain::<u8>(70 * PAGE + 101)), (0, 0));
    file.truncate(300 * PAGE as u64).unwrap();
    assert_eq!((byte(&map, 100 * PAGE), map.load_plain::<u8>(150 * PAGE)), (0, 0));
    check(&map, 0..70, 0);
    let whole = file.map(&MapOptions::new().writable()).unwrap();
    whole.store::<u8>(150 * PAGE, 7).unwrap();
    assert_eq!(byte(&map, 150 * PAGE), 7);
    file.truncate(PAGE as u64).unwrap();
    assert!(matches!(map.load::<u8>(150 * PAGE), Err(Error::PastEnd { .. })));
}

#[test]
fn slices_are_of_pages_that_every_map_finds() {
    let (home, disk) = (limited(32), Disk::new(64 * PAGE));
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new()).unwrap();
    check(&map, 0..20, 0);
    let slice = map.slice(0..20 * PAGE).unwrap();
    assert_eq!(faults(&disk), 20);
    let other = file.map(&MapOptions::new()).unwrap();
    check(&other, 0..64, 0);
    check(&map, 0..64, 0);
    assert_eq!(map.evict(0..map.len()), Ok(()));
    assert!(slice.iter().zip(0..).all(|(byte, at)| *byte == expected(at)));
    let refused = file.map(&MapOptions::new().writable()).err();
    assert_eq!(refused.map(|error| error.errno()), Some(Errno::ETXTBSY));
    drop(slice);
    let writable = file.map(&MapOptions::new().writable()).unwrap();
    writable.store::<u8>(0, 0xaa).unwrap();
    assert_eq!((byte(&map, 0), byte(&other, 0)), (0xaa, 0xaa));
    assert!(home.stats().held_most <= 32);
}

#[test]
fn a_child_has_nothing_of_the_only_map() {
    let (home, disk) = (limited(40), Disk::new(64 * PAGE));
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new()).unwrap();
    check(&map, 0..40, 0);
    let forked = || map.load::<u8>(39 * PAGE) == Err(Error::Forked);
    assert_eq!(in_child(forked).exit_status(), Some(0));
    let plain = in_child(|| map.load_plain::<u8>(39 * PAGE) == expected(39 * PAGE));
    assert_eq!(plain.terminating_signal(), Some(libc::SIGSEGV));
    let mut dropped = Some((home, file, map));
    let status = in_child(|| {
        dropped = None;
        true
    });
    assert_eq!(status.exit_status(), Some(0));
    let (home, file, map) = dropped.unwrap();
    check(&map, 0..64, 0);
    let other = file.map(&MapOptions::new().writable()).unwrap();
    check(&other, 0..64, 0);
    assert!(home.stats().held_most <= 40);
}

#[test]
fn zeros_for_a_page_that_failed_are_nobody_elses() {
    let (home, disk) = (Local::new().unwrap(), Disk::new(64 * PAGE));
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new().on_error(OnError::ZeroFill)).unwrap();
    disk.trouble(Trouble::Faults(2));
    assert_eq!(map.load::<u8>(5 * PAGE).map_err(|error| error.errno()), Err(Errno::EIO));
    assert_eq!(map.load_plain::<u64>(5 * PAGE + 8), 0);
    check(&map, 6..64, 0);
    let other = file.map(&MapOptions::new()).unwrap();
    check(&other, 0..64, 0);
    assert_eq!(byte(&map, 5 * PAGE + 9), 0, "as long as it is mapped");
}

#[test]
fn memory_of_the_driver_lies_among_own_pages() {
    let home = Local::new().unwrap();
    let device = Paged::new(128);
    let memory = device.memory();
    let file = home.add("paged", device).unwrap().open(OpenMode::ReadOnly).unwrap();
    let options = MapOptions::new().len(128 * PAGE as u64);
    let map = file.map(&options).unwrap();
    let is_right = |map: &Mapping, page: usize| {
        let found = map.load::<u32>(page * PAGE + 64).unwrap();
        found == if page.is_multiple_of(2) { page as u32 * 3 } else { 0x5555_5555 }
    };
    for page in (0..128_u64).step_by(2) {
        memory.store_u32(page * PAGE as u64 + 64, page as u32 * 3).unwrap();
    }
    assert!((0..100).all(|page| is_right(&map, page)));
    assert_eq!(held_pages(&map), 50);
    map.evict(0..64 * PAGE).unwrap();
    assert!((0..100).all(|page| is_right(&map, page)));
    let other = file.map(&options).unwrap();
    assert!((0..128).all(|page| is_right(&map, page) && is_right(&other, page)));
    memory.store_u32(64, 99).unwrap();
    assert_eq!((map.load::<u32>(64), other.load::<u32>(64)), (Ok(99), Ok(99)));
}

/// What the threads of a round share.
struct Round {
    disk: Disk,
    /// Whether the device fails now and then.
    fails: bool,
    file: File,
    map: Mapping,
    is_over: AtomicBool,
    /// What the writing map has stored, a word of each page.
    stored: Vec<AtomicU32>,
}

const PAGES: usize = 300;
/// The first bytes of a page, where it is stored.
const STORED: usize = 8;

impl Round {
    /// One checked load of the only map.
    fn load(&self, at: usize) {
        match self.map.load::<u8>(at) {
            Err(Error::Failed { errno: Errno::EIO, .. }) if self.fails => {}
            found => assert_eq!(found, Ok(expected(at)), "byte {at}"),
        }
    }

    /// Looks at the only map, evicts, reads ahead.
    fn look(&self, mut seed: u64) {
        let mut scanned = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            let page = random(&mut seed) as usize % PAGES;
            let at = page * PAGE + STORED + random(&mut seed) as usize % (PAGE - STORED);
            match random(&mut seed) % 8 {
                0 => assert_eq!(self.map.load_plain::<u8>(at), expected(at)),
                1 => self.map.evict(page * PAGE..(page + 9).min(PAGES) * PAGE).unwrap(),
                2 => self.map.prefetch(page * PAGE..(page + 40).min(PAGES) * PAGE).unwrap(),
                3 => {
                    for _ in 0..30 {
                        scanned = (scanned + 1) % PAGES;
                        self.load(scanned * PAGE + 99);
                    }
                }
                4 if self.fails => self.disk.trouble(Trouble::Faults(3)),
                4 => check(&self.map, [page], STORED),
                _ => self.load(at),
            }
        }
    }

    /// Another map comes, and what it stores is seen by the first.
    fn share(&self, options: &MapOptions, seed: &mut u64) {
        thread::sleep(Duration::from_micros(random(seed) % 3000));
        let other = self.file.map(options).unwrap();
        for number in 0..100 {
            let page = random(seed) as usize % PAGES;
            if self.fails {
                self.load(page * PAGE + 77);
                continue;
            }
            check(&other, [page], STORED);
            let was = self.stored[page].load(Ordering::Relaxed);
            if other.load::<u32>(page * PAGE) == Ok(was)
                && other.store(page * PAGE, was + number).is_ok()
            {
                let seen = self.map.load::<u32>(page * PAGE).unwrap();
                assert!(seen == was + number || seen == was, "page {page}");
                self.stored[page].store(seen, Ordering::Relaxed);
                assert_eq!(self.map.load_plain::<u32>(page * PAGE), seen);
            }
        }
    }
}

#[test]
fn another_map_comes_while_threads_fault_read_ahead_and_evict() {
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    for round in 0..32 {
        let limit = [24, 64, 200, 1000][round % 4];
        let home = limited(limit);
        let disk = Disk::new(PAGES * PAGE);
        (0..PAGES).for_each(|page| disk.content().bytes[page * PAGE..][..STORED].fill(0));
        let file = open(&home, &disk);
        let kind = kinds()[round / 4 % 4];
        let is_shared = round / 4 % 4 == 1;
        let retry = OnError::Retry { times: 1000, pause: Duration::ZERO };
        let map = file.map(&MapOptions::new().on_error(retry)).unwrap();
        let stored = (0..PAGES).map(|_| AtomicU32::new(0)).collect();
        let fails = round >= 16 && round % 2 == 0;
        let round =
            Round { disk: disk.clone(), fails, file, map, is_over: AtomicBool::new(false), stored };
        thread::scope(|scope| {
            for _ in 0..4 {
                let (seed, round) = (random(&mut seed), &round);
                scope.spawn(move || round.look(seed));
            }
            for _ in 0..3 {
                round.share(&kind, &mut seed);
            }
            round.is_over.store(true, Ordering::Relaxed);
        });
        disk.trouble(Trouble::None);
        assert!(home.stats().held_most <= limit, "{:?}", home.stats());
        for (page, stored) in round.stored.iter().enumerate() {
            let stored = stored.load(Ordering::Relaxed);
            assert_eq!(round.map.load::<u32>(page * PAGE), Ok(stored), "page {page}");
            assert!(is_shared || stored == 0);
        }
        check(&round.map, 0..PAGES, STORED);
        let Round { file, map, .. } = round;
        // The order in which they go is any.
        if random(&mut seed).is_multiple_of(2) {
            drop(file);
            drop(map);
            assert_eq!(home.stats().held, 0);
        }
    }
}

#[test]
fn the_only_map_goes_and_comes_while_another_home_needs_room() {
    let (home, disk) = (limited(48), Disk::new(200 * PAGE));
    let keeper = open(&home, &disk);
    let other = Disk::new(200 * PAGE);
    let others = open(&home, &other).map(&MapOptions::new()).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut seed = 77;
            while !is_over.load(Ordering::Relaxed) {
                check(&others, [random(&mut seed) as usize % 200], 0);
            }
        });
        for round in 0..200 {
            let map = keeper.map(&MapOptions::new()).unwrap();
            check(&map, (round % 7..200).step_by(7), 0);
            map.prefetch(0..100 * PAGE).unwrap();
            drop(map);
            if round % 5 == 0 {
                // Alone again.
                keeper.truncate(0).unwrap();
                *disk.content() = crate::disk::Content::default();
                disk.content().bytes.extend((0..200 * PAGE).map(expected));
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(home.stats().held_most <= 48, "{:?}", home.stats());
    assert!(held_pages(&others) <= home.stats().held);
}

/// Pages that the kernel maps as one, and that are read ahead at once.
const LARGE: usize = 512;

/// How many areas the kernel has where this is mapped.
fn areas_within(map: &Mapping) -> usize {
    let (start, end) = (map.address(), map.address() + map.len());
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let address = |line: &str| usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    maps.lines().filter(|line| (start..end).contains(&address(line))).count()
}

#[test]
fn what_is_read_ahead_is_moved_in_as_a_whole_and_goes_page_by_page() {
    let (home, device) = (Local::new().unwrap(), Gated::new(5 * LARGE as u64));
    let file = reading_ahead::open(&home, &device);
    let map = file.map(&MapOptions::new()).unwrap();
    let is_held = || held_pages(&map) == home.stats().held;
    map.prefetch(LARGE * PAGE..3 * LARGE * PAGE).unwrap();
    eventually(|| home.stats().held == 2 * LARGE as u64 && is_held());
    assert_eq!(areas_within(&map), 4, "a part that is not moved, two that are, and the rest");
    reading_ahead::check(&map, LARGE..3 * LARGE, 0);
    // A page of it goes, and all others are there still.
    map.evict((LARGE + 7) * PAGE..(LARGE + 8) * PAGE).unwrap();
    assert_eq!((home.stats().held, held_pages(&map)), (2 * LARGE as u64 - 1, 2 * LARGE as u64 - 1));
    let filled = home.stats().filled;
    // From the last one, so that nothing is read ahead.
    for page in (LARGE..2 * LARGE).rev().filter(|page| *page != LARGE + 7) {
        reading_ahead::check(&map, page..page + 1, 0);
    }
    assert_eq!(home.stats().filled, filled);
    assert_eq!(map.load_plain::<u8>((LARGE + 7) * PAGE), expected((LARGE + 7) * PAGE));
    let other = file.map(&MapOptions::new().writable()).unwrap();
    reading_ahead::check(&other, 0..5 * LARGE, 0);
    reading_ahead::check(&map, 0..5 * LARGE, 0);
    assert_eq!((home.stats().held, held_pages(&map)), (5 * LARGE as u64, 5 * LARGE as u64));
    other.store::<u8>(2 * LARGE * PAGE, 9).unwrap();
    assert_eq!(map.load_plain::<u8>(2 * LARGE * PAGE), 9);
    drop((map, other, file));
    assert_eq!(home.stats().held, 0);
}

/// A map whose second and third piece of large memory were moved in.
fn with_large() -> (Local, File, Mapping) {
    let (home, device) = (Local::new().unwrap(), Gated::new(5 * LARGE as u64));
    let file = reading_ahead::open(&home, &device);
    let map = file.map(&MapOptions::new()).unwrap();
    map.prefetch(LARGE * PAGE..3 * LARGE * PAGE).unwrap();
    eventually(|| held_pages(&map) == 2 * LARGE as u64);
    eventually(|| {
        map.resident(0..map.len()).unwrap().iter().filter(|is| **is).count() == 2 * LARGE
    });
    (home, file, map)
}

#[test]
fn a_file_is_cut_where_large_memory_is() {
    let (home, file, map) = with_large();
    let size = (2 * LARGE + 7) * PAGE;
    file.truncate(size as u64).unwrap();
    assert_eq!((home.stats().held, held_pages(&map)), (LARGE as u64 + 7, LARGE as u64 + 7));
    reading_ahead::check(&map, LARGE..2 * LARGE + 7, 0);
    let past = Error::PastEnd { page: 2 * LARGE as u64 + 7, size: size as u64 };
    assert_eq!(map.load::<u8>(size), Err(past));
    file.truncate(map.len() as u64).unwrap();
    reading_ahead::check(&map, 2 * LARGE + 7..3 * LARGE, 2);
    assert_eq!(map.load_plain::<u8>(size + 1), expected(size + 1) ^ 2);
}

#[test]
fn slices_and_children_where_large_memory_is() {
    let (home, file, map) = with_large();
    let at = 2 * LARGE * PAGE;
    assert_eq!(in_child(|| map.load::<u8>(at) == Err(Error::Forked)).exit_status(), Some(0));
    let plain = in_child(|| map.load_plain::<u8>(at) == expected(at));
    assert_eq!(plain.terminating_signal(), Some(libc::SIGSEGV));
    let filled = home.stats().filled;
    // Too few for any to be read ahead.
    let slice = map.slice(at..at + 2 * PAGE).unwrap();
    assert!(slice.iter().zip(at..).all(|(byte, at)| *byte == expected(at)));
    assert_eq!(home.stats().filled, filled);
    let refused = file.map(&MapOptions::new().writable()).err();
    assert_eq!(refused.map(|error| error.errno()), Some(Errno::ETXTBSY));
    drop(slice);
    file.map(&MapOptions::new().writable()).unwrap().store::<u8>(at, 9).unwrap();
    assert_eq!(byte(&map, at), 9);
}

#[test]
fn another_map_comes_while_much_is_read_ahead() {
    const PAGES: usize = 6 * LARGE + 100;
    let mut seed = 0x2545_f491_4f6c_dd1d;
    for round in 0..20 {
        let home = if round % 3 == 0 { limited(PAGES as u64) } else { Local::new().unwrap() };
        let device = Gated::new(PAGES as u64);
        let file = reading_ahead::open(&home, &device);
        // Not at a large page's start.
        let first = [0, 3 * PAGE][round % 2];
        let map = file.map(&MapOptions::new().offset(first as u64)).unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for number in 0..3 {
                let (mut seed, map, is_over) = (random(&mut seed), &map, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let page = random(&mut seed) as usize % (map.len() / PAGE - 100);
                        for at in (page..page + 100).map(|page| page * PAGE + 9) {
                            let found =
                                if number == 0 { map.load_plain(at) } else { byte(map, at) };
                            assert_eq!(found, expected(first + at));
                        }
                        match random(&mut seed) % 4 {
                            0 => map.prefetch(0..map.len()).unwrap(),
                            1 => map.evict(page * PAGE..(page + 90) * PAGE).unwrap(),
                            2 => map.evict(0..map.len()).unwrap(),
                            _ => {}
                        }
                    }
                });
            }
            thread::sleep(Duration::from_micros(random(&mut seed) % 60_000));
            let other = file.map(&kinds()[round % 4]).unwrap();
            reading_ahead::check(&other, 0..PAGES, 0);
            is_over.store(true, Ordering::Relaxed);
        });
        for at in (0..map.len()).step_by(PAGE) {
            assert_eq!(map.load_plain::<u8>(at + 5), expected(first + at + 5));
        }
        eventually(|| held_pages(&map) == home.stats().held);
        drop(file);
        map.unmap().unwrap();
        assert_eq!(home.stats().held, 0);
    }
}
