//! Both methods, sharing, private copies, slices, what is refused.

use std::sync::atomic::Ordering;

use devmap_backend_local::{
    Error, Local, LocalMemory, LocalOptions, LocalPlatform, MapOptions, OpenMode,
};
use devmap_devices::{NoOptions, demo::Demo, pattern};
use devmap_driver::{Device, Errno, Fault, Memory, NewArea, NewPage, Open, Plan, Platform, Supply};

use crate::{
    byte,
    disk::{Disk, PAGE, Paged, expected},
    eventually, limited, open,
};

#[test]
fn both_methods_are_mapped() {
    let home = Local::new().unwrap();
    assert!(home.is_lazy());
    let demo = Demo::new(home.platform(), &NoOptions).unwrap();
    let demo = home.add("/dev/demo", demo).unwrap().open(OpenMode::ReadWrite).unwrap();
    let map = demo.map(&MapOptions::new().len(PAGE as u64).writable()).unwrap();
    assert_eq!(map.load::<u32>(0), Ok(0xaffe << 16));
    assert_eq!(map.load_plain::<u32>(4), 0xbeef << 16);
    // The driver's memory, and everybody's.
    map.store::<u32>(8, 17).unwrap();
    let second = demo.map(&MapOptions::new().len(PAGE as u64)).unwrap();
    assert_eq!(second.load::<u32>(8), Ok(17));
    let too_long = MapOptions::new().len(17 * PAGE as u64);
    assert_eq!(demo.map(&too_long).err().map(|error| error.errno()), Some(Errno::EIO));

    let pattern =
        pattern::Pattern::new(home.platform(), &pattern::Options { size: 1 << 30 }).unwrap();
    let pattern = home.add("/dev/pattern", pattern).unwrap().open(OpenMode::ReadOnly).unwrap();
    let map = pattern.map(&MapOptions::new().len(1 << 29).offset(PAGE as u64)).unwrap();
    assert_eq!(home.stats().filled, 0, "mapping alone touches no memory");
    assert_eq!(map.load::<u32>(0x5008), Ok(0x6008));
    assert_eq!(map.load_plain::<u32>(0x1500_0010), 0x1500_1010);
    assert_eq!(home.stats().filled, 2);
    assert_eq!((home.stats().faults_in_thread, home.stats().faults_by_handler), (1, 1));
    // The handler thread lets the load go on before it notes that the page is there.
    eventually(|| home.maps().contains("/dev/pattern  fault resident=2 dirty=0\n"));
    let text = home.maps();
    assert!(text.contains(" r--s 00001000 00:00 2"), "{text}");
    assert!(text.contains("/dev/pattern  fault resident=2 dirty=0\n"), "{text}");
    assert!(text.contains("/dev/demo  remap resident=1 dirty=0\n"), "{text}");
}

#[test]
fn a_page_of_the_drivers_memory_answers_a_fault() {
    let home = Local::new().unwrap();
    let device = Paged::new(8);
    let memory = device.memory();
    let file = home.add("paged", device).unwrap().open(OpenMode::ReadWrite).unwrap();
    let map = file.map(&MapOptions::new().len(8 * PAGE as u64).writable()).unwrap();
    assert!(!memory.is_mapped());
    assert_eq!(map.load_plain::<u32>(4 * PAGE), 4);
    assert_eq!(map.load::<u32>(2 * PAGE), Ok(2));
    assert_eq!(map.load::<u8>(3 * PAGE), Ok(0x55));
    map.store::<u32>(2 * PAGE + 4, 77).unwrap();
    assert_eq!(memory.load_u32(2 * PAGE as u64 + 4), Ok(77));
    memory.store_u32(4 * PAGE as u64, 99).unwrap();
    assert_eq!(map.load::<u32>(4 * PAGE), Ok(99));
    assert!(memory.is_mapped());
    drop(map);
    assert!(!memory.is_mapped());
}

#[test]
fn shared_stores_reach_every_map_and_private_ones_none() {
    let home = Local::new().unwrap();
    let disk = Disk::new(8 * PAGE);
    let file = open(&home, &disk);
    let one = file.map(&MapOptions::new().writable()).unwrap();
    let two = file.map(&MapOptions::new().offset(PAGE as u64)).unwrap();
    let private = file.map(&MapOptions::new().writable().private()).unwrap();
    one.store::<u8>(PAGE + 5, 0xaa).unwrap();
    assert_eq!(byte(&two, 5), 0xaa);
    assert_eq!(byte(&private, PAGE + 5), 0xaa);
    private.store::<u8>(PAGE + 5, 0xbb).unwrap();
    private.store_plain::<u8>(3 * PAGE, 0xcc);
    assert_eq!(byte(&one, PAGE + 5), 0xaa);
    assert_eq!(byte(&private, PAGE + 5), 0xbb);
    assert_eq!(byte(&private, 3 * PAGE), 0xcc);
    assert_eq!(byte(&one, 3 * PAGE), expected(3 * PAGE));
    // Copies stay when the page behind them goes.
    one.evict(0..one.len()).unwrap();
    assert_eq!(byte(&private, PAGE + 5), 0xbb);
    assert_eq!(byte(&private, PAGE + 6), expected(PAGE + 6));
    private.store::<u8>(PAGE + 6, 1).unwrap();
    drop(private);
    assert_eq!(disk.content().bytes[PAGE + 5], 0xaa);
    assert_eq!(disk.content().bytes[PAGE + 6], expected(PAGE + 6));
}

#[test]
fn what_is_copied_is_what_is_there() {
    let home = Local::new().unwrap();
    let disk = Disk::new(130 * PAGE + 100);
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new().writable()).unwrap();
    let mut all = vec![0; 130 * PAGE + 100];
    map.read_at(0, &mut all).unwrap();
    assert!(all.iter().enumerate().all(|(at, byte)| *byte == expected(at)));
    let bytes: Vec<u8> = (0..5000).map(|i| i as u8).collect();
    map.write_at(PAGE - 10, &bytes).unwrap();
    let mut back = vec![0; 5000];
    map.read_at(PAGE - 10, &mut back).unwrap();
    assert_eq!(back, bytes);
    // The rest of the last page is zeros, and stays out of the file.
    assert_eq!(map.load::<u8>(130 * PAGE + 100), Ok(0));
    map.store::<u8>(130 * PAGE + 100, 9).unwrap();
    map.sync(0..map.len()).unwrap();
    assert_eq!(disk.content().bytes.len(), 130 * PAGE + 100);
    assert_eq!(disk.content().bytes[PAGE - 10..PAGE - 10 + 5000], bytes);
}

#[test]
fn words_of_every_size_and_what_is_no_word() {
    let home = Local::new().unwrap();
    let file = open(&home, &Disk::of((0..=255).cycle().take(2 * PAGE).collect()));
    let map = file.map(&MapOptions::new().writable()).unwrap();
    assert_eq!(map.load::<u8>(255), Ok(255));
    assert_eq!(map.load::<u16>(254), Ok(0xfffe));
    assert_eq!(map.load::<u32>(252), Ok(0xfffe_fdfc));
    assert_eq!(map.load::<u64>(248), Ok(0xfffe_fdfc_fbfa_f9f8));
    map.store::<u64>(0, u64::MAX).unwrap();
    assert_eq!(map.load::<u64>(0), Ok(u64::MAX));
    map.store::<u16>(0, 1).unwrap();
    map.store::<u32>(4, 2).unwrap();
    map.store::<u8>(2, 3).unwrap();
    assert_eq!(map.load::<u64>(0), Ok(0x0000_0002_ff03_0001));
    let len = map.len();
    for at in [len, len + 8, usize::MAX - 7, usize::MAX & !7] {
        assert_eq!(map.load::<u64>(at), Err(Error::Outside { at, len }));
        assert_eq!(map.store::<u64>(at, 0), Err(Error::Outside { at, len }));
    }
    assert_eq!(map.load::<u16>(1), Err(Error::Misaligned { at: 1 }));
    assert_eq!(map.load::<u64>(4), Err(Error::Misaligned { at: 4 }));
    assert_eq!(map.read_at(len - 1, &mut [0; 2]), Err(Error::Outside { at: len - 1, len }));
    map.atomic_u32(8).unwrap().fetch_add(1, Ordering::Relaxed);
    assert_eq!(map.load::<u8>(8), Ok(9));
}

#[test]
fn maps_that_mmap_refuses() {
    let home = Local::new().unwrap();
    let node = home.add("disk", Disk::new(PAGE)).unwrap();
    let file = node.open(OpenMode::ReadOnly).unwrap();
    let errno = |options: &MapOptions| file.map(options).err().map(|error| error.errno());
    assert_eq!(errno(&MapOptions::new().len(0)), Some(Errno::EINVAL));
    assert_eq!(errno(&MapOptions::new().offset(7)), Some(Errno::EINVAL));
    assert_eq!(errno(&MapOptions::new().writable()), Some(Errno::EACCES));
    assert_eq!(errno(&MapOptions::new().len(1 << 62)), Some(Errno::ENOMEM));
    assert_eq!(errno(&MapOptions::new().writable().private()), None);
    let map = file.map(&MapOptions::new()).unwrap();
    assert_eq!(map.store::<u8>(0, 1), Err(Error::ReadOnly));
    assert_eq!(map.write_at(0, &[1]), Err(Error::ReadOnly));
    assert_eq!(map.atomic_u32(0).err(), Some(Error::ReadOnly));
    let device = home.add("paged", Paged::new(1)).unwrap().open(OpenMode::ReadOnly).unwrap();
    assert_eq!(device.map(&MapOptions::new()).err(), Some(Error::NoLength));
    assert_eq!(Error::NoLength.errno(), Errno::EINVAL);
}

/// A device whose plan has its extents in another order than they are mapped.
struct Shuffled;

impl Device<LocalPlatform> for Shuffled {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn mmap(&self, _file: &(), _area: &NewArea) -> Result<Plan<LocalMemory>, Errno> {
        let memory = LocalPlatform.contiguous(2 * PAGE as u64)?;
        memory.write(0, &[3])?;
        Ok(Plan::new().remap(2..4, &memory, 0).fault(4..6).fault(0..2))
    }

    fn fault(
        &self,
        _file: &(),
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<LocalMemory>, Errno> {
        page.bytes()?.fill(fault.page as u8 + 1);
        Ok(Supply::Filled)
    }

    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        Ok(())
    }
}

#[test]
fn a_plan_has_its_extents_in_any_order() {
    for options in [LocalOptions::new(), LocalOptions::new().without_userfaultfd()] {
        let home = options.build().unwrap();
        let file = home.add("shuffled", Shuffled).unwrap().open(OpenMode::ReadWrite).unwrap();
        let map = file.map(&MapOptions::new().len(6 * PAGE as u64)).unwrap();
        // It has no length that this would change.
        let refused = file.truncate(PAGE as u64).map_err(|error| error.errno());
        assert_eq!(refused, Err(Errno::EINVAL));
        for (page, expected) in [1, 2, 3, 0, 5, 6].into_iter().enumerate() {
            assert_eq!(map.load::<u8>(page * PAGE), Ok(expected), "page {page}");
            assert_eq!(map.load_plain::<u8>(page * PAGE), expected, "page {page}");
        }
    }
}

#[test]
#[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
fn a_range_that_ends_before_it_begins_is_refused() {
    let home = Local::new().unwrap();
    let map = open(&home, &Disk::new(4 * PAGE)).map(&MapOptions::new()).unwrap();
    for range in [2 * PAGE..0, PAGE..PAGE - 1, 9 * PAGE..PAGE] {
        let reversed = Error::Reversed { start: range.start, end: range.end };
        assert_eq!(map.slice(range.clone()).map(|slice| slice.len()), Err(reversed));
        assert_eq!(map.resident(range.clone()), Err(reversed));
        assert_eq!(map.populate(range.clone()), Err(reversed));
        assert_eq!(map.prefetch(range.clone()), Err(reversed));
        assert_eq!(map.evict(range.clone()), Err(reversed));
        assert_eq!(map.sync(range), Err(reversed));
        assert_eq!(reversed.errno(), Errno::EINVAL);
    }
}

#[test]
fn slices_are_of_what_nobody_changes() {
    let home = limited(32);
    let disk = Disk::new(64 * PAGE);
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new()).unwrap();
    let slice = map.slice(PAGE..20 * PAGE).unwrap();
    assert!(slice.iter().zip(PAGE..).all(|(byte, at)| *byte == expected(at)));
    // Nobody can write it meanwhile, and nothing drops it.
    let refused = file.map(&MapOptions::new().writable()).err();
    assert_eq!(refused.map(|error| error.errno()), Some(Errno::ETXTBSY));
    map.evict(0..map.len()).unwrap();
    map.read_at(0, &mut vec![0; 64 * PAGE]).unwrap();
    let resident = map.resident(PAGE..20 * PAGE).unwrap();
    assert!(resident.iter().all(|resident| *resident));
    let filled = home.stats().filled;
    assert!(slice.iter().zip(PAGE..).all(|(byte, at)| *byte == expected(at)));
    assert_eq!(home.stats().filled, filled);
    // More than fits is an error, not a wait.
    assert_eq!(map.slice(0..40 * PAGE).err().map(|error| error.errno()), Some(Errno::ENOMEM));
    drop(slice);
    let writable = file.map(&MapOptions::new().writable()).unwrap();
    assert_eq!(map.slice(0..1).err().map(|error| error.errno()), Some(Errno::ETXTBSY));
    assert_eq!(writable.slice(0..1).err().map(|error| error.errno()), Some(Errno::EACCES));
    drop(writable);
    map.slice(0..1).unwrap();
}

#[test]
fn without_userfaultfd_pages_are_there_from_the_start() {
    let options = LocalOptions::new().without_userfaultfd().prefill_limit(16 * PAGE as u64);
    let home = options.build().unwrap();
    assert!(!home.is_lazy());
    let disk = Disk::new(8 * PAGE);
    let file = open(&home, &disk);
    let too_long = MapOptions::new().len(17 * PAGE as u64);
    assert_eq!(file.map(&too_long).err().map(|error| error.errno()), Some(Errno::ENOMEM));
    let map = file.map(&MapOptions::new().writable().len(10 * PAGE as u64)).unwrap();
    assert_eq!(home.stats().filled, 8);
    assert_eq!(map.load_plain::<u8>(3 * PAGE), expected(3 * PAGE));
    map.store_plain::<u8>(3 * PAGE, 0x77);
    map.store::<u8>(4 * PAGE, 0x78).unwrap();
    map.sync(0..map.len()).unwrap();
    map.store_plain::<u8>(5 * PAGE, 0x79);
    map.evict(0..map.len()).unwrap();
    assert_eq!(byte(&map, 3 * PAGE), 0x77);
    map.sync(0..map.len()).unwrap();
    for (page, value) in [(3, 0x77), (4, 0x78), (5, 0x79)] {
        assert_eq!(disk.content().bytes[page * PAGE], value);
    }
    let past = Error::PastEnd { page: 8, size: 8 * PAGE as u64 };
    assert_eq!(map.load::<u8>(8 * PAGE), Err(past));
    let private = file.map(&MapOptions::new().private().writable()).unwrap();
    private.store::<u8>(0, 1).unwrap();
    assert_eq!((byte(&private, 0), byte(&map, 0)), (1, expected(0)));
}

/// What `devmap maps` would print of this process.
#[test]
fn another_process_can_ask_for_the_maps() {
    use devmap_inspect::{AreasError, Method, Wanted, areas};
    let (own, wanted) = (std::process::id(), Wanted { all: false, cells: 4 });
    let disk = Disk::new(64 * PAGE);
    let home = Local::new().unwrap();
    let map = open(&home, &disk).map(&MapOptions::new().writable()).unwrap();
    map.store::<u8>(5 * PAGE, 1).unwrap();
    let before = areas(own, wanted);
    assert_eq!(before, Err(AreasError::NoHome(own)), "nobody is told what is not answered");
    let answering = home.answer_maps().unwrap();
    assert!(home.answer_maps().is_err(), "one home of a process answers");
    let found = areas(own, wanted).unwrap();
    let text: String = found.iter().map(|area| format!("{area}\n")).collect();
    assert_eq!(text, home.maps());
    assert_eq!((found.len(), found[0].start), (1, map.address() as u64), "{text}");
    assert_eq!((found[0].method, found[0].name.as_str()), (Some(Method::Fault), "disk"));
    assert!(found[0].dirty >= 1 && found[0].resident >= found[0].dirty, "{text}");
    assert_eq!((found[0].cells.len(), found[0].cells[0] > 0), (4, true));
    drop(answering);
    assert_eq!(areas(own, wanted), before);
}
