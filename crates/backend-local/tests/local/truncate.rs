//! The length of a file changes while others store to it, write it back and hold slices of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use devmap_backend_local::{Error, LocalOptions, MapOptions, OpenMode};
use devmap_driver::Errno;

use crate::{
    byte,
    disk::{Disk, PAGE, Paged},
    open,
};

const SIZE: usize = 2 * PAGE + 1000;
/// Of the page that the file ends in, before all ends.
const AT: usize = 2 * PAGE + 8;

fn homes() -> [LocalOptions; 2] {
    [LocalOptions::new(), LocalOptions::new().without_userfaultfd()]
}

/// A store of another thread that comes while the driver changes the length.
#[test]
fn what_is_stored_before_the_end_meanwhile_stays() {
    for options in homes() {
        for size in [SIZE - 500, SIZE, SIZE + 500, SIZE + 4 * PAGE] {
            let home = options.build().unwrap();
            let disk = Disk::of(vec![b'.'; SIZE]);
            let file = open(&home, &disk);
            let map = file.map(&MapOptions::new().len(4 * PAGE as u64).writable()).unwrap();
            map.store::<u8>(AT, b'a').unwrap();
            map.store::<u8>(SIZE + 100, b'p').unwrap();
            let map = Arc::new(map);
            let store = map.clone();
            disk.on_truncate(move || store.store::<u8>(AT + 1, b'X').unwrap());
            file.truncate(size as u64).unwrap();
            assert_eq!((byte(&map, AT), byte(&map, AT + 1)), (b'a', b'X'), "to {size}");
            assert_eq!(map.load_plain::<u8>(SIZE + 100), 0, "to {size}");
            assert_eq!(byte(&map, SIZE - 501), b'.');
            assert_eq!(byte(&map, SIZE - 500), if size < SIZE { 0 } else { b'.' });
            map.sync(0..map.len()).unwrap();
            let content = disk.content();
            assert_eq!((content.bytes.len(), &content.bytes[AT..AT + 2]), (size, &b"aX"[..]));
        }
    }
}

/// Nor is that page ever anything else, where nobody tells of accesses to it.
#[test]
fn the_page_that_the_end_is_in_stays_where_it_is() {
    for options in homes() {
        let home = options.build().unwrap();
        let disk = Disk::of(vec![b'A'; SIZE]);
        let file = open(&home, &disk);
        let map = file.map(&MapOptions::new().writable()).unwrap();
        map.populate(0..map.len()).unwrap();
        let faults = disk.faults.load(Ordering::Relaxed);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!((map.load_plain(AT), map.load(AT)), (b'A', Ok(b'A')));
                }
            });
            for _ in 0..500 {
                file.truncate(SIZE as u64 - 500).unwrap();
                file.truncate(SIZE as u64).unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(disk.faults.load(Ordering::Relaxed), faults);
        assert_eq!(byte(&map, SIZE - 500), 0);
    }
}

#[test]
fn what_a_slice_is_held_of_is_not_cut() {
    for options in homes() {
        let home = options.build().unwrap();
        let file = open(&home, &Disk::of(vec![b'A'; SIZE]));
        let map = file.map(&MapOptions::new()).unwrap();
        let slice = map.slice(PAGE..AT).unwrap();
        let errno = |size: usize| file.truncate(size as u64).map_err(|error| error.errno());
        for size in [0, PAGE, 2 * PAGE, AT - 1] {
            assert_eq!(errno(size), Err(Errno::ETXTBSY));
        }
        assert_eq!(file.size(), Some(SIZE as u64));
        // What is past it changes.
        assert_eq!((errno(AT), byte(&map, AT)), (Ok(()), 0));
        assert_eq!((errno(SIZE), byte(&map, AT)), (Ok(()), 0));
        assert!(slice.iter().all(|byte| *byte == b'A'));
        drop(slice);
        // Also what the file would grow by.
        let slice = map.slice(0..map.len()).unwrap();
        assert_eq!(errno(SIZE + 1), Err(Errno::ETXTBSY));
        drop(slice);
        assert_eq!(errno(0), Ok(()));
        let past = Error::PastEnd { page: 0, size: 0 };
        assert_eq!(map.load::<u8>(0), Err(past));
        assert_eq!(map.slice(0..PAGE).map(|slice| slice.len()), Err(past));
        assert_eq!((errno(SIZE), byte(&map, 0)), (Ok(()), 0));
        let other = file.map(&MapOptions::new().writable()).unwrap();
        assert_eq!(other.load::<u8>(1), Ok(0));
    }
}

#[test]
fn what_has_no_length_keeps_it() {
    for options in homes() {
        let home = options.build().unwrap();
        let device = home.add("paged", Paged::new(2)).unwrap().open(OpenMode::ReadWrite).unwrap();
        let refused = device.truncate(PAGE as u64).map_err(|error| error.errno());
        assert_eq!(refused, Err(Errno::EINVAL));
    }
}
