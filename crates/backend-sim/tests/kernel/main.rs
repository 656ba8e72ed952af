//! Drivers and files under the simulated kernel: both methods of mapping, waiting and
//! signals, write-back and eviction, and every failure that can be asked for.

mod calls;
// Their content is in files, which Miri does not see.
#[cfg(not(miri))]
mod files;
mod memory;
mod stress;
mod trace;

use std::thread;

use devmap_backend_sim::{MockKernel, Process, SimMemory, SimPlatform};
use devmap_devices::{
    NoOptions,
    demo::Demo,
    events::{self, Events},
    pattern::{self, Pattern},
    zero::Zero,
};
use devmap_driver::{
    Device, Errno, Fault, NewArea, NewPage, Open, PageSize, Plan, PollEvents, Protection, Sharing,
    Supply,
};
use devmap_mm::{Advice, Fatal, Limits, MapRequest, Placement, RemapRequest, RemapTo, SyncFlags};

const PAGE: u64 = 4096;

fn limited(frames: usize) -> MockKernel {
    let limits = Limits { frames: Some(frames), ..Limits::default() };
    MockKernel::with(PageSize::new(PAGE).unwrap(), limits)
}

/// A process that has mapped a fresh file of `pages` pages, each byte its page's number.
fn with_file(kernel: &MockKernel, pages: u64) -> (Process, devmap_backend_sim::MemoryFile, u64) {
    let bytes = (0..pages * PAGE).map(|at| (at / PAGE) as u8).collect();
    let file = kernel.add_file("/data", bytes);
    let process = kernel.process().unwrap();
    let descriptor = process.open("/data").unwrap();
    let at = process.mmap(descriptor, 0, pages * PAGE).unwrap();
    (process, file, at)
}

fn byte(process: &Process, address: u64) -> Result<u8, Fatal> {
    let mut byte = [0];
    process.load(address, &mut byte).map(|()| byte[0])
}

const NOW: SyncFlags = SyncFlags { now: true, later: false, invalidate: false };

#[test]
fn remapped_memory_is_shared_with_children_and_cannot_grow() {
    let kernel = MockKernel::new();
    kernel.add("/dev/demo", Demo::new(kernel.platform(), &NoOptions).unwrap());
    let parent = kernel.process().unwrap();
    let descriptor = parent.open("/dev/demo").unwrap();
    let at = parent.mmap(descriptor, 16 * PAGE, 16 * PAGE).unwrap();
    assert_eq!(parent.load_u32(at), Ok(0xdead << 16));
    let child = parent.fork().unwrap();
    parent.close(descriptor).unwrap();
    child.store_u32(at + 8, 7).unwrap();
    assert_eq!(parent.load_u32(at + 8), Ok(7));
    assert!(parent.maps().contains("rw-s 00010000 00:05 1 "), "{}", parent.maps());
    let request =
        RemapRequest { start: at, old_len: 16 * PAGE, new_len: 17 * PAGE, to: RemapTo::Anywhere };
    let grown = kernel.with_engine(|engine| engine.remap(parent.space(), &request));
    assert_eq!(grown, Err(Errno::EFAULT), "VM_DONTEXPAND");
    let dropped =
        kernel.with_engine(|engine| engine.advise(parent.space(), at, PAGE, Advice::DontNeed));
    assert_eq!(dropped, Err(Errno::EINVAL), "VM_PFNMAP");
    parent.munmap(at, 16 * PAGE).unwrap();
    assert_eq!(parent.load_u32(at), Err(Fatal::NotMapped));
    assert_eq!(child.load_u32(at + 8), Ok(7));
    kernel.with_engine(|engine| engine.invariants());
}

#[test]
fn what_a_driver_refuses_is_refused() {
    let kernel = MockKernel::new();
    kernel.add("/dev/demo", Demo::new(kernel.platform(), &NoOptions).unwrap());
    kernel.add("/dev/events", Events::new(kernel.platform(), &NoOptions).unwrap());
    kernel.add("/dev/zero", Zero::new(kernel.platform(), &NoOptions).unwrap());
    let process = kernel.process().unwrap();
    let demo = process.open("/dev/demo").unwrap();
    assert_eq!(process.mmap(demo, PAGE, PAGE), Err(Errno::EIO));
    assert_eq!(process.mmap(demo, 1, PAGE), Err(Errno::EINVAL));
    let events = process.open("/dev/events").unwrap();
    assert_eq!(process.mmap(events, 0, PAGE), Err(Errno::ENODEV));
    assert_eq!(process.open("/dev/none"), Err(Errno::ENOENT));
    process.close(events).unwrap();
    assert_eq!(process.close(events), Err(Errno::EBADF));
    let zero = process.open("/dev/zero").unwrap();
    assert_eq!(process.read(zero, &mut [1; 8]), Ok(8));
}

#[test]
fn private_stores_stay_private() {
    let kernel = MockKernel::new();
    kernel.add("/dev/demo", Demo::new(kernel.platform(), &NoOptions).unwrap());
    let process = kernel.process().unwrap();
    let demo = process.open("/dev/demo").unwrap();
    let shared = process.mmap(demo, 0, PAGE).unwrap();
    let request = MapRequest::new(PAGE).sharing(Sharing::Private);
    let private = process.mmap_with(demo, 0, request).unwrap();
    process.store_u32(private, 1).unwrap();
    assert_eq!(process.load_u32(private), Ok(1));
    assert_eq!(process.load_u32(shared), Ok(0xaffe << 16));
    let child = process.fork().unwrap();
    child.store_u32(private, 2).unwrap();
    assert_eq!((process.load_u32(private), child.load_u32(private)), (Ok(1), Ok(2)));
    kernel.with_engine(|engine| engine.invariants());
}

#[test]
fn faults_come_once_a_page_and_can_fail() {
    let kernel = MockKernel::new();
    let options = pattern::Options { size: 64 * PAGE };
    kernel.add("/dev/pattern", Pattern::new(kernel.platform(), &options).unwrap());
    let process = kernel.process().unwrap();
    let descriptor = process.open("/dev/pattern").unwrap();
    let at = process.mmap(descriptor, 0, 64 * PAGE).unwrap();
    let faults = kernel.failures().faults();
    assert_eq!(faults.count(), 0, "mapping touches no page");
    faults.fail(2);
    assert_eq!(process.load_u32(at), Ok(0));
    assert_eq!(process.load_u32(at + PAGE), Err(Fatal::Bus));
    assert_eq!(process.load_u32(at + PAGE), Ok(PAGE as u32), "the next time it goes well");
    let other = kernel.process().unwrap();
    let descriptor = other.open("/dev/pattern").unwrap();
    let there = other.mmap(descriptor, PAGE, PAGE).unwrap();
    assert_eq!(other.load_u32(there), Ok(PAGE as u32));
    assert_eq!(faults.count(), 3, "the page was cached");
}

/// A driver whose plan is wrong, or that panics when a page is wanted.
struct Bad;

impl Device<SimPlatform> for Bad {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<SimMemory>, Errno> {
        Ok(if area.first_page() == 0 { Plan::fault_all(area) } else { Plan::new() })
    }

    fn fault(
        &self,
        _file: &(),
        _fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<SimMemory>, Errno> {
        page.bytes()?;
        panic!("as the test wants")
    }
}

#[test]
fn bad_drivers_break_nothing() {
    let kernel = MockKernel::new();
    kernel.add("/dev/bad", Bad);
    let process = kernel.process().unwrap();
    let descriptor = process.open("/dev/bad").unwrap();
    assert_eq!(process.mmap(descriptor, PAGE, PAGE), Err(Errno::EIO));
    let request = MapRequest::new(PAGE).sharing(Sharing::Private);
    let at = process.mmap_with(descriptor, 0, request).unwrap();
    assert_eq!(process.store_u32(at, 1), Err(Fatal::Bus));
    assert_eq!(process.load_u32(at), Err(Fatal::Bus));
    kernel.with_engine(|engine| {
        engine.invariants();
        assert_eq!(engine.frames(), 0);
    });
}

#[test]
fn waits_end_by_wakes_and_by_signals() {
    let kernel = MockKernel::new();
    kernel.add("/dev/events", Events::new(kernel.platform(), &NoOptions).unwrap());
    let process = kernel.process().unwrap();
    let descriptor = process.open("/dev/events").unwrap();
    assert_eq!(process.read(descriptor, &mut [0; 4]), Err(Errno::EINTR), "nobody would wake it");
    assert_eq!(process.poll(descriptor), Ok(PollEvents::OUT.union(PollEvents::WRNORM)));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut bytes = [0; 4];
            process.read(descriptor, &mut bytes).map(|_| bytes)
        });
        kernel.platform().until_waiting(1);
        assert_eq!(process.write(descriptor, b"word"), Ok(4));
        assert_eq!(reader.join().unwrap(), Ok(*b"word"));
        let poller = scope.spawn(|| process.poll_wait(descriptor, PollEvents::IN));
        kernel.platform().until_waiting(1);
        kernel.platform().signal();
        assert_eq!(poller.join().unwrap(), Err(Errno::EINTR));
    });
    let mut count = [0; 24];
    process.ioctl(descriptor, events::STATS, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count[..8].try_into().unwrap()), 2, "two reads waited");
}

#[test]
fn dirty_pages_are_written_back_in_order() {
    let kernel = MockKernel::new();
    let (process, file, at) = with_file(&kernel, 4);
    for page in [3, 0, 2] {
        process.store(at + page * PAGE, b"new").unwrap();
    }
    assert_eq!(&file.bytes()[..3], [0; 3], "nothing is written before it must be");
    kernel.with_engine(|engine| engine.sync(process.space(), at, 4 * PAGE, NOW)).unwrap();
    assert_eq!(file.written(), [0, 2 * PAGE, 3 * PAGE]);
    assert_eq!(&file.bytes()[2 * PAGE as usize..][..4], b"new\x02");
    kernel.with_engine(|engine| engine.sync(process.space(), at, 4 * PAGE, NOW)).unwrap();
    assert_eq!(file.written().len(), 3, "clean pages are not written again");
    process.store(at, b"more").unwrap();
    kernel.failures().write_backs().fail(1);
    let synced = kernel.with_engine(|engine| engine.sync(process.space(), at, PAGE, NOW));
    assert_eq!(synced, Err(Errno::EIO));
    kernel.with_engine(|engine| engine.sync(process.space(), at, PAGE, NOW)).unwrap();
    assert_eq!(&file.bytes()[..4], b"more", "a failed page stays dirty");
}

#[test]
fn the_limit_holds_and_evicted_pages_come_back() {
    let kernel = limited(8);
    let (process, file, at) = with_file(&kernel, 64);
    for round in 0..3_u64 {
        for page in 0..64 {
            let address = at + page * PAGE;
            if round == 0 && page % 3 == 0 {
                process.store(address + 1, &[0xaa]).unwrap();
            }
            let expected = if page % 3 == 0 { 0xaa } else { page as u8 };
            assert_eq!(byte(&process, address + 1), Ok(expected));
            assert_eq!(byte(&process, address), Ok(page as u8));
            kernel.with_engine(|engine| {
                assert!(engine.frames() <= 8);
                engine.invariants();
            });
        }
    }
    let dirty = (0..64).step_by(3).filter(|page| file.bytes()[page * PAGE as usize + 1] == 0xaa);
    assert_eq!(dirty.count(), 22, "what was evicted was written back");
    kernel.with_engine(|engine| {
        engine.lock(process.space(), at, 7 * PAGE).unwrap();
        assert_eq!(engine.lock(process.space(), at + 7 * PAGE, 2 * PAGE), Err(Errno::EAGAIN));
        let locked = engine.resident(process.space(), at, 7 * PAGE).unwrap();
        assert_eq!(locked, [true; 7]);
    });
}

#[test]
fn private_memory_is_not_evicted_and_runs_out() {
    let kernel = limited(4);
    let (process, _, at) = with_file(&kernel, 4);
    assert_eq!(byte(&process, at), Ok(0));
    let memory = kernel
        .with_engine(|engine| engine.map(process.space(), &MapRequest::new(8 * PAGE)).unwrap());
    for page in 0..4 {
        process.store(memory + page * PAGE, b"x").unwrap();
    }
    assert_eq!(process.store(memory + 4 * PAGE, b"x"), Err(Fatal::OutOfMemory));
    assert_eq!(byte(&process, at), Err(Fatal::OutOfMemory));
    process.munmap(memory, PAGE).unwrap();
    assert_eq!(byte(&process, at), Ok(0));
    kernel.with_engine(|engine| engine.invariants());
}

#[test]
fn files_shrink_and_grow_under_their_maps() {
    let kernel = MockKernel::new();
    let (process, file, at) = with_file(&kernel, 4);
    let object = kernel.with_engine(|engine| {
        engine.areas(process.space()).lookup(at).unwrap().file().unwrap().object()
    });
    process.store(at + PAGE, &[9; 16]).unwrap();
    kernel.with_engine(|engine| engine.truncate(object, PAGE + 8)).unwrap();
    assert_eq!(byte(&process, at + PAGE + 7), Ok(9));
    assert_eq!(byte(&process, at + PAGE + 8), Ok(0), "the rest of the page is zeros");
    assert_eq!(byte(&process, at + 2 * PAGE), Err(Fatal::Bus));
    process.store(at + PAGE + 12, &[5]).unwrap();
    kernel.with_engine(|engine| engine.sync_object(object)).unwrap();
    let (page, end) = (PAGE as usize, PAGE as usize + 8);
    assert_eq!(file.bytes()[page..], [9; 8], "nothing past the end is written");
    assert_eq!(file.bytes().len(), end);
}

/// Not about memory, and Miri sees no files.
#[cfg(not(miri))]
#[test]
fn the_readme_shows_the_example() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let source = read("src/lib.rs");
    let lines = source.lines().map(|line| line.trim_start_matches("//!").trim_start_matches(' '));
    let example = lines.skip_while(|line| *line != "```").skip(1).take_while(|line| *line != "```");
    let example: Vec<_> = example.filter(|line| !line.starts_with("# ")).collect();
    assert!((5..15).contains(&example.len()), "a test of both methods in under 15 lines");
    assert!(read("../../README.md").contains(&example.join("\n")), "the example is in README.md");
}

/// Every allocation in turn is refused: each call then fails cleanly, or does without.
#[test]
fn every_failed_allocation_leaves_all_in_order() {
    for n in 1.. {
        let kernel = MockKernel::new();
        let options = pattern::Options { size: 8 * PAGE };
        let pattern = Pattern::new(kernel.platform(), &options).unwrap();
        kernel.add("/dev/pattern", pattern);
        kernel.failures().allocations().fail(n);
        let result = everything(&kernel);
        kernel.with_engine(|engine| engine.invariants());
        if kernel.failures().allocations().count() < n {
            assert_eq!(result, Ok(()));
            assert!(n > 10, "only {n} allocations were tried");
            return;
        }
    }
}

fn everything(kernel: &MockKernel) -> Result<(), Errno> {
    let memory = |fatal: Fatal| {
        assert_eq!(fatal, Fatal::OutOfMemory);
        Errno::ENOMEM
    };
    if let Ok(demo) = Demo::new(kernel.platform(), &NoOptions) {
        kernel.add("/dev/demo", demo);
    }
    let process = kernel.process()?;
    let pattern = process.open("/dev/pattern")?;
    let shared = process.mmap(pattern, 0, 8 * PAGE)?;
    let request = MapRequest::new(8 * PAGE).sharing(Sharing::Private);
    let private = process.mmap_with(pattern, 0, request)?;
    process.load_u32(shared).map_err(memory)?;
    process.store_u32(private, 1).map_err(memory)?;
    let far = MapRequest::new(PAGE).at(Placement::Fixed(1 << 40)).protection(Protection::READ);
    let far = kernel.with_engine(|engine| engine.map(process.space(), &far))?;
    process.load_u32(far).map_err(memory)?;
    let child = process.fork()?;
    child.store_u32(private, 2).map_err(memory)?;
    assert_eq!(process.load_u32(private), Ok(1));
    match process.open("/dev/demo") {
        Ok(demo) => process.mmap(demo, 0, PAGE).map(drop),
        Err(_) => Err(Errno::ENOMEM),
    }
}
