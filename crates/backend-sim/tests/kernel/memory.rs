//! What programs say of their memory: what goes first when it is short, what is read ahead,
//! what a call that runs out of memory leaves behind.

use devmap_devices::{NoOptions, zero::Zero};
use devmap_driver::{Errno, PageSize};
use devmap_mm::{Advice, Fatal, Limits, MapRequest, Placement, RemapRequest, RemapTo, Residency};

use crate::{NOW, PAGE, byte, limited, with_file};
use devmap_backend_sim::MockKernel;

#[test]
fn freed_pages_go_when_memory_is_short_unless_written_since() {
    let kernel = limited(4);
    let (process, _, file) = with_file(&kernel, 4);
    let memory = process.mmap_anonymous(&MapRequest::new(4 * PAGE)).unwrap();
    for page in 0..4 {
        process.store(memory + page * PAGE, b"x").unwrap();
    }
    process.madvise(memory, 3 * PAGE, Advice::Free).unwrap();
    assert_eq!(byte(&process, memory), Ok(b'x'), "there is no hurry");
    process.store(memory + PAGE, b"y").unwrap();
    assert_eq!(byte(&process, file + PAGE), Ok(1));
    let left = process.mincore(memory, 4 * PAGE).unwrap();
    assert_eq!(left.iter().filter(|there| **there).count(), 3, "one had to go: {left:?}");
    assert_eq!(byte(&process, file + 2 * PAGE), Ok(2));
    assert_eq!(process.mincore(memory, 4 * PAGE), Ok(vec![false, true, false, true]));
    assert_eq!(byte(&process, memory + PAGE), Ok(b'y'));
    assert_eq!(byte(&process, memory), Ok(0));
    kernel.with_engine(|engine| engine.invariants());
}

#[test]
fn pages_that_are_paged_out_are_written_back_and_come_again() {
    let kernel = MockKernel::new();
    let (process, file, at) = with_file(&kernel, 4);
    for page in 0..3 {
        process.store(at + page * PAGE + 1, &[0]).unwrap();
    }
    process.msync(at, 4 * PAGE, NOW).unwrap();
    process.store(at + PAGE, b"new").unwrap();
    process.mlock(at + 3 * PAGE, PAGE).unwrap();
    process.madvise(at, 3 * PAGE, Advice::PageOut).unwrap();
    assert_eq!(file.written().last(), Some(&PAGE), "the dirty one");
    assert_eq!(file.written().len(), 4);
    assert_eq!(process.mincore(at, 4 * PAGE), Ok(vec![false, false, false, true]));
    assert_eq!(process.madvise(at, 4 * PAGE, Advice::PageOut), Err(Errno::EINVAL), "locked");
    assert_eq!(byte(&process, at + PAGE), Ok(b'n'));
}

#[test]
fn files_are_read_ahead_as_the_advice_says() {
    let faults = |advice| {
        let kernel = MockKernel::new();
        let (process, _, at) = with_file(&kernel, 128);
        process.madvise(at, 128 * PAGE, advice).unwrap();
        assert_eq!(byte(&process, at + 64 * PAGE), Ok(64));
        let resident = process.mincore(at, 128 * PAGE).unwrap();
        let first = resident.iter().position(|there| *there).unwrap();
        (kernel.failures().faults().count(), first)
    };
    assert_eq!(faults(Advice::Random), (1, 64));
    assert_eq!(faults(Advice::Sequential), (32, 64));
    assert_eq!(faults(Advice::Normal), (32, 48));
}

#[test]
fn populated_maps_fault_no_more() {
    let kernel = MockKernel::new();
    kernel.add_file("/data", vec![7; 4 * PAGE as usize]);
    let process = kernel.process().unwrap();
    let file = process.open("/data").unwrap();
    let request = MapRequest::new(4 * PAGE).residency(Residency::Populated);
    let at = process.mmap_with(file, 0, request).unwrap();
    let faults = kernel.failures().faults();
    let before = faults.count();
    faults.fail(1);
    for page in 0..4 {
        assert_eq!(byte(&process, at + page * PAGE), Ok(7));
        process.store(at + page * PAGE, b"x").unwrap();
    }
    assert_eq!(faults.count(), before);
}

/// Each allocation of a move, a fork and a store in turn is refused: what is there stays.
#[test]
fn calls_that_run_out_of_memory_lose_nothing() {
    const PAGES: u64 = 3;
    /// Far enough from each other for page tables of their own.
    const FAR: u64 = 1 << 30;
    for n in 1.. {
        let kernel = MockKernel::new();
        let process = kernel.process().unwrap();
        let at = |number: u64| Placement::Fixed((1 << 40) + number * FAR);
        let here = process.mmap_anonymous(&MapRequest::new(PAGES * PAGE).at(at(0))).unwrap();
        for page in 0..PAGES {
            process.store(here + page * PAGE, &[page as u8 + 1]).unwrap();
        }
        let holds = |process: &devmap_backend_sim::Process, at: u64| {
            (0..PAGES).all(|page| byte(process, at + page * PAGE) == Ok(page as u8 + 1))
        };
        let allocations = kernel.failures().allocations();
        let before = allocations.count();
        allocations.fail(n);
        let request = RemapRequest {
            start: here,
            old_len: PAGES * PAGE,
            new_len: PAGES * PAGE,
            to: RemapTo::Fixed(here + FAR),
        };
        let moved = process.mremap(&request);
        kernel.with_engine(|engine| engine.invariants());
        let here = moved.unwrap_or(here);
        assert!(moved.is_ok() || moved == Err(Errno::ENOMEM), "{moved:?}");
        let child = process.fork();
        kernel.with_engine(|engine| engine.invariants());
        assert!(holds(&process, here), "allocation {n}");
        assert!(child.is_ok() || child.as_ref().err() == Some(&Errno::ENOMEM));
        if let Ok(child) = &child {
            assert!(holds(child, here), "allocation {n}");
            let stored = child.store(here, &[9]);
            assert!(matches!(stored, Ok(()) | Err(Fatal::OutOfMemory)), "{stored:?}");
        }
        assert!(holds(&process, here), "allocation {n}");
        kernel.with_engine(|engine| engine.invariants());
        if allocations.count() - before < n {
            assert!(n > 5, "only {n} allocations were tried");
            return;
        }
    }
}

/// A file that shrinks and grows while a private map has copies, and a child has them too.
#[test]
fn a_file_changes_its_length_under_private_copies_and_a_fork() {
    let kernel = MockKernel::new();
    kernel.add_file("/data", (0..4 * PAGE).map(|at| (at / PAGE) as u8).collect());
    let process = kernel.process().unwrap();
    let file = process.open("/data").unwrap();
    let at = process.mmap_with(file, 0, MapRequest::new(4 * PAGE)).unwrap();
    for page in 1..4 {
        process.store(at + page * PAGE, &[0x50 + page as u8]).unwrap();
    }
    let child = process.fork().unwrap();
    child.store(at + PAGE, &[0x61]).unwrap();
    process.ftruncate(file, 2 * PAGE).unwrap();
    for who in [&process, &child] {
        assert_eq!(byte(who, at), Ok(0));
        assert_eq!(byte(who, at + 2 * PAGE), Err(Fatal::Bus), "private copies go too");
    }
    assert_eq!((byte(&process, at + PAGE), byte(&child, at + PAGE)), (Ok(0x51), Ok(0x61)));
    process.ftruncate(file, 4 * PAGE).unwrap();
    assert_eq!(byte(&child, at + 3 * PAGE), Ok(0), "what was cut is gone");
    kernel.with_engine(|engine| engine.invariants());
}

/// What the differential test cannot see: the window has no low addresses, and its files are
/// regular ones.
#[test]
fn arguments_at_the_edges_are_linuxs() {
    let kernel = MockKernel::new();
    let process = kernel.process().unwrap();
    let memory =
        |hint| process.mmap_anonymous(&MapRequest::new(PAGE).at(Placement::Hint(hint))).unwrap();
    let first = memory(0);
    assert_eq!(memory(5), first - PAGE, "an address in the first page is none");
    assert_eq!(memory(PAGE - 1), first - 2 * PAGE);
    assert_eq!(memory(PAGE), 0x10000, "vm.mmap_min_addr");
    assert_eq!(process.madvise(first, PAGE, Advice::WillNeed), Ok(()), "of a kernel with swap");
    kernel.add("/dev/zero", Zero::new(kernel.platform(), &NoOptions).unwrap());
    let zero = process.open("/dev/zero").unwrap();
    for offset in [(1 << 63) - PAGE, 1 << 63, (2 * PAGE).wrapping_neg()] {
        let at = process.mmap(zero, offset, PAGE).unwrap();
        assert_eq!(process.load_u32(at), Ok(0), "a device has more offsets than a file");
    }
    let last = process.mmap(zero, PAGE.wrapping_neg(), PAGE);
    assert_eq!(last, Err(Errno::EOVERFLOW));
    let taken = MapRequest::new(PAGE).at(Placement::FixedNoReplace(first));
    let taken = process.mmap_with(zero, PAGE.wrapping_neg(), taken);
    assert_eq!(taken, Err(Errno::EEXIST), "the address is looked at first");
}

/// `vm.max_map_count` may be less than a move wants to be left.
#[test]
fn few_areas_leave_no_room_for_a_move() {
    let limits = Limits { areas: 2, ..Limits::default() };
    let kernel = MockKernel::with(PageSize::new(PAGE).unwrap(), limits);
    let process = kernel.process().unwrap();
    let start = process.mmap_anonymous(&MapRequest::new(PAGE)).unwrap();
    for to in [RemapTo::Fixed(1 << 32), RemapTo::Anywhere] {
        let request = RemapRequest { start, old_len: PAGE, new_len: 2 * PAGE, to };
        assert_eq!(process.mremap(&request), Err(Errno::ENOMEM));
    }
    assert_eq!(process.store_u32(start, 1), Ok(()));
}

/// Nothing goes by a length that no map has.
#[test]
fn shrinking_takes_no_more_than_there_is() {
    let kernel = MockKernel::new();
    let process = kernel.process().unwrap();
    let start = process.mmap_anonymous(&MapRequest::new(2 * PAGE)).unwrap();
    for old_len in [1 << 63, PAGE.wrapping_neg()] {
        for to in [RemapTo::Here, RemapTo::Fixed(1 << 32)] {
            let request = RemapRequest { start, old_len, new_len: PAGE, to };
            assert_eq!(process.mremap(&request), Err(Errno::EINVAL), "{request:x?}");
            assert_eq!(process.store_u32(start + PAGE, 1), Ok(()));
        }
    }
}
