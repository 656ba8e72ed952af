//! The device `file` in the simulated home: reads, writes and maps that agree, write-back in
//! order, and a length that stores never change. On Linux `tests/conformance/file.c` says the
//! same.

use std::{
    fs,
    io::{SeekFrom, Write},
};

use devmap_backend_sim::{Descriptor, MockKernel, Process};
use devmap_devices_host::file::{File, Options};
use devmap_driver::{Errno, Fsync, OpenFlags, Protection, Sharing};
use devmap_mm::{Fatal, MapRequest};
use tempfile::NamedTempFile;

use crate::{NOW, PAGE, byte, limited};

const TAIL: u64 = 100;
const SIZE: u64 = 5 * PAGE + TAIL;

/// A file of five pages and a piece, each byte its page's number, in a kernel.
struct World {
    kernel: MockKernel,
    process: Process,
    descriptor: Descriptor,
    file: NamedTempFile,
}

impl World {
    fn new(kernel: MockKernel) -> World {
        let mut file = NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at / PAGE) as u8).collect();
        file.write_all(&bytes).unwrap();
        let device = File::new(kernel.platform(), &Options::read_write(file.path())).unwrap();
        kernel.add("/data/x", device);
        let process = kernel.process().unwrap();
        let descriptor = process.open("/data/x").unwrap();
        World { kernel, process, descriptor, file }
    }

    fn shared(&self, pages: u64) -> u64 {
        self.process.mmap(self.descriptor, 0, pages * PAGE).unwrap()
    }

    fn on_disk(&self) -> Vec<u8> {
        fs::read(self.file.path()).unwrap()
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; len];
        self.process.lseek(self.descriptor, SeekFrom::Start(at)).unwrap();
        let count = self.process.read(self.descriptor, &mut bytes).unwrap();
        bytes.truncate(count);
        bytes
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.process.lseek(self.descriptor, SeekFrom::Start(at)).unwrap();
        assert_eq!(self.process.write(self.descriptor, bytes), Ok(bytes.len()));
    }
}

#[test]
fn reads_writes_and_maps_agree() {
    let world = World::new(MockKernel::new());
    let (process, at) = (&world.process, world.shared(6));
    assert_eq!(byte(process, at + 3 * PAGE), Ok(3));
    process.store(at + PAGE - 2, b"STORE").unwrap();
    assert_eq!(world.read(PAGE - 2, 5), b"STORE");
    world.write(2 * PAGE - 2, b"WRITE");
    assert_eq!(byte(process, at + 2 * PAGE), Ok(b'I'));
    assert_eq!(world.on_disk()[2 * PAGE as usize], b'I', "writes go through");
    assert_eq!(world.on_disk()[PAGE as usize], 1, "stores wait");
    assert_eq!(world.read(SIZE - 3, 10), [5; 3]);
    assert!(world.read(SIZE + 5, 10).is_empty());
    world.write(SIZE + PAGE, b"far");
    assert_eq!(world.read(SIZE + PAGE - 1, 10), b"\0far");
    assert_eq!(byte(process, at + 5 * PAGE + TAIL), Ok(0));
    world.kernel.with_engine(|engine| engine.invariants());
}

#[test]
fn stores_never_change_the_length() {
    let world = World::new(MockKernel::new());
    let (process, at) = (&world.process, world.shared(8));
    process.store(at + SIZE - 2, &[9; 50]).unwrap();
    assert_eq!(process.store(at + 6 * PAGE, b"x"), Err(Fatal::Bus));
    assert_eq!(byte(process, at + 7 * PAGE), Err(Fatal::Bus));
    process.msync(at, 8 * PAGE, NOW).unwrap();
    let disk = world.on_disk();
    assert_eq!((disk.len() as u64, &disk[SIZE as usize - 3..]), (SIZE, &[5, 9, 9][..]));
    process.ftruncate(world.descriptor, 7 * PAGE).unwrap();
    assert_eq!(byte(process, at + 6 * PAGE), Ok(0), "it grew under the map");
    process.store(at + 6 * PAGE, b"E").unwrap();
    process.ftruncate(world.descriptor, PAGE + 10).unwrap();
    assert_eq!(byte(process, at + 2 * PAGE), Err(Fatal::Bus), "it was cut");
    assert_eq!(byte(process, at + PAGE + 9), Ok(1));
    assert_eq!(byte(process, at + PAGE + 10), Ok(0));
    // By somebody else, and longer again.
    world.file.as_file().set_len(3 * PAGE).unwrap();
    assert_eq!(byte(process, at + 2 * PAGE + 5), Ok(0));
    world.file.as_file().set_len(100).unwrap();
    assert_eq!(byte(process, at + 3 * PAGE), Err(Fatal::Bus));
    process.store(at + 50, &[7; 100]).unwrap();
    process.munmap(at, 8 * PAGE).unwrap();
    let disk = world.on_disk();
    assert_eq!((disk.len(), disk[49], disk[99]), (100, 0, 7), "the last unmap writes back");
}

#[test]
fn private_copies_stay_private() {
    let world = World::new(MockKernel::new());
    let process = &world.process;
    let request = MapRequest::new(2 * PAGE).sharing(Sharing::Private);
    let at = process.mmap_with(world.descriptor, PAGE, request).unwrap();
    process.store(at + 5, b"#").unwrap();
    assert_eq!(world.read(PAGE + 5, 1), [1]);
    world.write(2 * PAGE + 5, b"%");
    assert_eq!(byte(process, at + PAGE + 5), Ok(b'%'), "what was not copied follows");
    process.munmap(at, 2 * PAGE).unwrap();
    assert_eq!(world.on_disk()[PAGE as usize + 5], 1);
}

#[test]
fn write_back_is_in_order_and_failures_are_told_once_to_each_file() {
    let world = World::new(MockKernel::new());
    let (process, at) = (&world.process, world.shared(6));
    let other = process.open("/data/x").unwrap();
    for page in [4, 0, 2] {
        process.store(at + page * PAGE, b"new").unwrap();
    }
    world.kernel.failures().write_backs().fail(2);
    assert_eq!(process.msync(at, 6 * PAGE, NOW), Err(Errno::EIO));
    let written = |page: u64| &world.on_disk()[(page * PAGE) as usize..][..3] == b"new";
    assert_eq!([0, 2, 4].map(written), [true, false, true], "the second in order failed");
    assert_eq!(process.fsync(other, Fsync::All), Err(Errno::EIO), "each file is told");
    assert_eq!([0, 2, 4].map(written), [true; 3], "and nothing is lost");
    assert_eq!(process.fsync(other, Fsync::All), Ok(()));
    assert_eq!(process.msync(at, 6 * PAGE, NOW), Ok(()));
}

#[test]
fn eviction_writes_back_and_reads_again() {
    let world = World::new(limited(3));
    let (process, at) = (&world.process, world.shared(5));
    for round in 1..4 {
        for page in 0..5 {
            assert_eq!(
                byte(process, at + page * PAGE + 9),
                Ok(if round == 1 { page as u8 } else { round - 1 })
            );
            process.store(at + page * PAGE + 9, &[round]).unwrap();
        }
    }
    process.msync(at, 5 * PAGE, NOW).unwrap();
    let disk = world.on_disk();
    assert_eq!((0..5).map(|page| disk[page * PAGE as usize + 9]).collect::<Vec<_>>(), [3; 5]);
}

#[test]
fn a_read_only_file_is_read_only() {
    let kernel = MockKernel::new();
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), b"content").unwrap();
    let device = File::new(kernel.platform(), &Options::read_only(file.path())).unwrap();
    kernel.add("/data/x", device);
    let process = kernel.process().unwrap();
    assert_eq!(process.open("/data/x"), Err(Errno::EACCES));
    let flags = OpenFlags { read: true, write: false, nonblocking: false, append: false };
    let descriptor = process.open_with("/data/x", flags).unwrap();
    let writable = MapRequest::new(PAGE).sharing(Sharing::Shared);
    assert_eq!(process.mmap_with(descriptor, 0, writable), Err(Errno::EACCES));
    let readable = MapRequest::new(PAGE).sharing(Sharing::Shared).protection(Protection::READ);
    let at = process.mmap_with(descriptor, 0, readable).unwrap();
    assert_eq!(byte(&process, at + 6), Ok(b't'));
    assert_eq!(process.ftruncate(descriptor, 0), Err(Errno::EINVAL));
}

#[test]
fn what_is_appended_goes_to_the_end() {
    let world = World::new(MockKernel::new());
    let flags = OpenFlags { read: true, write: true, nonblocking: false, append: true };
    let process = &world.process;
    let appending = process.open_with("/data/x", flags).unwrap();
    let at = world.shared(6);
    assert_eq!(byte(process, at + SIZE), Ok(0));
    assert_eq!(process.write(appending, b"AB"), Ok(2));
    assert_eq!(byte(process, at + SIZE), Ok(b'A'), "maps follow");
    assert_eq!(process.lseek(appending, SeekFrom::Current(0)), Ok(SIZE + 2));
    assert_eq!(process.lseek(appending, SeekFrom::Start(0)), Ok(0));
    assert_eq!(process.pwrite(appending, b"CD", 5), Ok(2), "there too, as Linux has it");
    assert_eq!(process.lseek(appending, SeekFrom::Current(0)), Ok(0));
    assert_eq!(world.on_disk()[SIZE as usize..], *b"ABCD");
    assert_eq!(world.read(0, 2), [0; 2], "nothing else has changed");
}

#[test]
fn a_file_is_read_and_written_anywhere() {
    let world = World::new(MockKernel::new());
    let (process, file) = (&world.process, world.descriptor);
    let mut bytes = [0xff; 4];
    assert_eq!(process.pread(file, &mut bytes, 2 * PAGE - 2), Ok(4));
    assert_eq!(bytes, [1, 1, 2, 2]);
    assert_eq!(process.pwrite(file, b"x", 3), Ok(1));
    assert_eq!(world.on_disk()[3], b'x');
    assert_eq!(process.lseek(file, SeekFrom::Current(0)), Ok(0), "the position stays");
    assert_eq!(process.lseek(file, SeekFrom::End(-1)), Ok(SIZE - 1));
    assert_eq!(process.lseek(file, SeekFrom::Current(9)), Ok(SIZE + 8));
    for to in [SeekFrom::Current(i64::MAX), SeekFrom::End(i64::MIN), SeekFrom::Start(1 << 63)] {
        assert_eq!(process.lseek(file, to), Err(Errno::EINVAL));
    }
    assert_eq!(process.pread(file, &mut bytes, u64::MAX), Err(Errno::EINVAL));
    assert_eq!(process.lseek(file, SeekFrom::Current(0)), Ok(SIZE + 8));
}
