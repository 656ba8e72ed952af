//! What is stored reaches the device: in order, at the latest when it must, and never less
//! than what was promised.

use devmap_backend_local::{Error, Local, MapOptions, OpenMode};
use devmap_devices::pattern;
use devmap_driver::{Errno, Fsync};

use crate::{
    byte,
    disk::{Disk, PAGE, Trouble, expected},
    limited, open,
};

#[test]
fn pages_are_written_back_in_order_and_once() {
    let home = Local::new().unwrap();
    let disk = Disk::new(200 * PAGE);
    let map = open(&home, &disk).map(&MapOptions::new().writable()).unwrap();
    for page in [150, 3, 70, 4, 199] {
        map.store::<u8>(page * PAGE + 1, 0xee).unwrap();
    }
    map.store_plain::<u8>(5 * PAGE, 0xee);
    assert_eq!(byte(&map, 6 * PAGE), expected(6 * PAGE));
    map.sync(0..map.len()).unwrap();
    let starts =
        |pages: &[usize]| pages.iter().map(|page| (page * PAGE) as u64).collect::<Vec<_>>();
    assert_eq!(disk.content().written, starts(&[3, 70, 150, 199]));
    assert_eq!(disk.content().synced, 1);
    map.sync(0..map.len()).unwrap();
    assert_eq!(disk.content().written.len(), 4);
    // The next store to a page that was written back is seen, by either kind.
    map.store::<u8>(3 * PAGE, 1).unwrap();
    map.store_plain::<u8>(70 * PAGE, 2);
    map.sync(0..map.len()).unwrap();
    assert_eq!(disk.content().written[4..], starts(&[3, 70]));
    assert_eq!(disk.content().bytes[3 * PAGE], 1);
    assert_eq!(disk.content().bytes[70 * PAGE], 2);
    // Only what was asked for.
    map.store::<u8>(3 * PAGE, 3).unwrap();
    map.store::<u8>(9 * PAGE, 3).unwrap();
    map.sync(9 * PAGE..10 * PAGE).unwrap();
    assert_eq!(disk.content().written[6..], starts(&[9]));
    drop(map);
    assert_eq!(disk.content().bytes[3 * PAGE], 3);
}

#[test]
fn a_write_back_that_fails_is_told_and_tried_again() {
    let home = Local::new().unwrap();
    let disk = Disk::new(8 * PAGE);
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new().writable()).unwrap();
    map.store::<u8>(0, 0xaa).unwrap();
    disk.trouble(Trouble::WriteBacks(1));
    let failed = Error::Failed { call: "write_back", page: 0, errno: Errno::ENOSPC };
    assert_eq!(map.sync(0..map.len()), Err(failed));
    assert_eq!(disk.content().bytes[0], expected(0));
    map.sync(0..map.len()).unwrap();
    assert_eq!(disk.content().bytes[0], 0xaa);
    // An unmap tells it too, and a later fsync what a drop could not.
    map.store::<u8>(0, 0xbb).unwrap();
    disk.trouble(Trouble::WriteBacks(1));
    drop(map);
    assert_eq!(file.fsync(Fsync::Data), Err(failed));
    assert_eq!(file.fsync(Fsync::Data), Ok(()));
    assert_eq!(disk.content().bytes[0], 0xbb);
}

/// Also where the device would fail once more.
#[test]
fn what_an_unmap_says_is_said_once() {
    let home = Local::new().unwrap();
    let disk = Disk::new(8 * PAGE);
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new().writable()).unwrap();
    map.store::<u8>(0, 0xaa).unwrap();
    disk.trouble(Trouble::WriteBacks(2));
    let failed = Error::Failed { call: "write_back", page: 0, errno: Errno::ENOSPC };
    assert_eq!(map.unmap(), Err(failed));
    disk.trouble(Trouble::None);
    assert_eq!(file.fsync(Fsync::Data), Ok(()));
    assert_eq!(disk.content().bytes[0], 0xaa);
}

#[test]
fn memory_stays_within_its_limit_and_nothing_is_lost() {
    let home = limited(16);
    let disk = Disk::new(1000 * PAGE);
    let map = open(&home, &disk).map(&MapOptions::new().writable()).unwrap();
    for page in 0..1000 {
        let at = (page * 37 % 1000) * PAGE;
        assert_eq!(byte(&map, at + 9), expected(at + 9));
        map.store::<u8>(at, page as u8).unwrap();
        if page % 3 == 0 {
            map.store_plain::<u8>(at + 1, page as u8);
        }
    }
    assert!(home.stats().held_most <= 16, "{:?}", home.stats());
    for page in 0..1000 {
        let at = (page * 37 % 1000) * PAGE;
        assert_eq!(byte(&map, at), page as u8);
    }
    drop(map);
    for page in 0..1000 {
        assert_eq!(disk.content().bytes[(page * 37 % 1000) * PAGE], page as u8);
    }
}

#[test]
fn a_full_memory_whose_pages_cannot_be_written_back_is_an_error_and_no_loss() {
    let home = limited(4);
    let disk = Disk::new(100 * PAGE);
    let map = open(&home, &disk).map(&MapOptions::new().writable()).unwrap();
    for page in 0..4 {
        map.store::<u8>(page * PAGE, 0xd0).unwrap();
    }
    disk.trouble(Trouble::WriteBacks(u64::MAX));
    assert_eq!(map.load::<u8>(50 * PAGE).map_err(|error| error.errno()), Err(Errno::ENOMEM));
    disk.trouble(Trouble::None);
    assert_eq!(byte(&map, 50 * PAGE), expected(50 * PAGE));
    for page in 0..4 {
        assert_eq!(byte(&map, page * PAGE), 0xd0);
    }
}

#[test]
fn a_device_without_a_store_keeps_what_is_stored_while_it_is_mapped() {
    let home = limited(8);
    let pattern = pattern::Pattern::new(home.platform(), &pattern::Options::default()).unwrap();
    let file = home.add("pattern", pattern).unwrap().open(OpenMode::ReadWrite).unwrap();
    let map = file.map(&MapOptions::new().len(1 << 20).writable()).unwrap();
    map.store::<u32>(0, 0xabcd).unwrap();
    for at in (PAGE..1 << 20).step_by(PAGE) {
        assert_eq!(map.load::<u32>(at), Ok(at as u32));
    }
    assert_eq!(map.load::<u32>(0), Ok(0xabcd));
    // As Linux answers for a character device without fsync.
    assert_eq!(map.sync(0..PAGE).map_err(|error| error.errno()), Err(Errno::EINVAL));
    drop(map);
    let map = file.map(&MapOptions::new().len(1 << 20)).unwrap();
    assert_eq!(map.load::<u32>(0), Ok(0));
}
