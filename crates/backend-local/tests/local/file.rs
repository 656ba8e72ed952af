//! The device `file` in the local home: what `tests/conformance/file.c` says of Linux, with
//! errors in the place of signals.

use std::{fs, io::Write};

use devmap_backend_local::{Error, File, Local, LocalOptions, MapOptions, OpenMode};
use devmap_devices_host::file::{self, Options};
use devmap_driver::{Errno, Fsync};
use tempfile::NamedTempFile;

const TAIL: usize = 100;

fn page() -> usize {
    rustix::param::page_size()
}

/// A file of five pages and a piece, each byte its page's number, opened in a home.
fn opened(options: LocalOptions) -> (NamedTempFile, Local, File) {
    let mut disk = NamedTempFile::new().expect("a file");
    let bytes: Vec<u8> = (0..5 * page() + TAIL).map(|at| (at / page()) as u8).collect();
    disk.write_all(&bytes).expect("its content");
    let home = options.build().expect("a home");
    let options = Options::read_write(disk.path());
    let device = file::File::new(home.platform(), &options).expect("the device");
    let node = home.add("/data/x", device).expect("a node");
    let file = node.open(OpenMode::ReadWrite).expect("opened");
    (disk, home, file)
}

fn byte(map: &devmap_backend_local::Mapping, at: usize) -> Result<u8, Error> {
    let mut byte = [0];
    map.read_at(at, &mut byte).map(|()| byte[0])
}

#[test]
fn stores_reach_the_file_and_never_change_its_length() {
    let (disk, _home, file) = opened(LocalOptions::new());
    let (page, size) = (page(), 5 * page() + TAIL);
    let map = file.map(&MapOptions::new().len(8 * page as u64).writable()).expect("a map");
    assert_eq!(byte(&map, 3 * page), Ok(3));
    map.write_at(page - 2, b"STORE").expect("a store");
    map.write_at(size - 2, &[9; 50]).expect("past the end, in the last page");
    assert!(matches!(byte(&map, 6 * page), Err(Error::PastEnd { page: 6, .. })));
    assert!(matches!(map.write_at(7 * page, b"x"), Err(Error::PastEnd { page: 7, .. })));
    map.sync(0..6 * page).expect("msync");
    let content = fs::read(disk.path()).expect("the file");
    assert_eq!((content.len(), &content[page - 2..page + 3]), (size, &b"STORE"[..]));
    assert_eq!(content[size - 3..], [5, 9, 9]);
    // What was not asked for by msync comes with the last unmap.
    map.write_at(4 * page, b"LAST").expect("a store");
    map.unmap().expect("unmapped");
    assert_eq!(&fs::read(disk.path()).expect("the file")[4 * page..][..4], b"LAST");
    file.fsync(Fsync::All).expect("fsync");
}

#[test]
fn the_file_is_cut_and_grows_under_the_map() {
    cut_and_grow(LocalOptions::new());
}

#[test]
fn the_file_is_cut_and_grows_under_the_map_without_userfaultfd() {
    cut_and_grow(LocalOptions::new().without_userfaultfd());
}

fn cut_and_grow(options: LocalOptions) {
    let (disk, _home, file) = opened(options);
    let page = page();
    let map = file.map(&MapOptions::new().len(8 * page as u64).writable()).expect("a map");
    assert_eq!(byte(&map, 4 * page), Ok(4));
    map.write_at(5 * page + TAIL, b"past the end").expect("a store");
    file.truncate(7 * page as u64).expect("grown");
    assert_eq!(byte(&map, 5 * page + TAIL), Ok(0));
    assert_eq!(map.load_plain::<u8>(6 * page), 0);
    assert_eq!(byte(&map, 6 * page), Ok(0));
    file.truncate(page as u64 + 10).expect("cut");
    assert!(matches!(byte(&map, 4 * page), Err(Error::PastEnd { .. })));
    assert_eq!((byte(&map, page + 9), byte(&map, page + 10)), (Ok(1), Ok(0)));
    assert_eq!(file.size(), Some(page as u64 + 10));
    // By somebody else.
    disk.as_file().set_len(3 * page as u64).expect("grown");
    assert_eq!(byte(&map, 2 * page), Ok(0));
    // Further than ever, and read at random.
    disk.as_file().set_len(8 * page as u64).expect("grown");
    map.write_at(7 * page + 3, b"!").expect("a store");
    assert_eq!((byte(&map, 7 * page + 3), map.load_plain(6 * page + 1)), (Ok(b'!'), 0_u8));
    map.sync(0..8 * page).expect("msync");
    assert_eq!(fs::read(disk.path()).expect("the file")[7 * page + 3], b'!');
}

#[test]
fn private_stores_stay_here() {
    let (disk, _home, file) = opened(LocalOptions::new());
    let page = page();
    let options = MapOptions::new().len(2 * page as u64).writable().private();
    let map = file.map(&options).expect("a map");
    map.write_at(page + 5, b"#").expect("a store");
    assert_eq!(byte(&map, page + 5), Ok(b'#'));
    map.unmap().expect("unmapped");
    assert_eq!(fs::read(disk.path()).expect("the file")[page + 5], 1);
}

#[test]
fn pages_come_and_go_under_a_limit() {
    let (disk, _home, file) = opened(LocalOptions::new().memory_limit(64 * page() as u64));
    let page = page();
    let map = file.map(&MapOptions::new().len(5 * page as u64).writable()).expect("a map");
    for round in 1..4 {
        for at in 0..5 {
            let expected = if round == 1 { at as u8 } else { round - 1 };
            assert_eq!(byte(&map, at * page + 9), Ok(expected));
            map.write_at(at * page + 9, &[round]).expect("a store");
        }
        map.evict(0..5 * page).expect("evicted");
    }
    let content = fs::read(disk.path()).expect("the file");
    assert_eq!((0..5).map(|at| content[at * page + 9]).collect::<Vec<_>>(), [3; 5]);
}

#[test]
fn a_read_only_file_is_not_opened_to_write() {
    let disk = NamedTempFile::new().expect("a file");
    fs::write(disk.path(), b"content").expect("its content");
    let home = Local::new().expect("a home");
    let device = file::File::new(home.platform(), &Options::read_only(disk.path()));
    let node = home.add("/data/x", device.expect("the device")).expect("a node");
    let refused = node.open(OpenMode::ReadWrite).err().expect("refused");
    assert_eq!(refused.errno(), Errno::EACCES);
    let file = node.open(OpenMode::ReadOnly).expect("opened");
    let map = file.map(&MapOptions::new().len(page() as u64)).expect("a map");
    assert_eq!(byte(&map, 6), Ok(b't'));
}
