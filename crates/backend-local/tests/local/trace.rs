//! The trace of the mmap path and of the fault path: the steps that ran, and no others.

use std::cell::RefCell;

use devmap_backend_local::{Local, LocalOptions, MapOptions, OpenMode};
use devmap_devices::{NoOptions, demo::Demo};

use crate::{
    byte,
    disk::{Disk, PAGE, Trouble, expected},
    eventually, open,
};

/// The functions of a trace, each with as many spaces as steps around it.
fn functions(trace: &str) -> Vec<String> {
    let function = |line: &str| {
        let (head, _) = line.split_once('(').expect("a function");
        let (words, name) = head.rsplit_once(' ').expect("words before it");
        let spaces = words.len() - words.trim_end().len();
        format!("{:spaces$}{name}", "")
    };
    trace.lines().map(function).collect()
}

fn told() -> Local {
    let home = Local::new().unwrap();
    home.start_trace();
    home
}

#[test]
fn remapped_pages_come_with_the_map() {
    let home = told();
    let demo = Demo::new(home.platform(), &NoOptions).unwrap();
    let file = home.add("/dev/demo", demo).unwrap().open(OpenMode::ReadWrite).unwrap();
    let map = file.map(&MapOptions::new().len(16 * PAGE as u64).writable()).unwrap();
    let trace = home.trace();
    assert_eq!(
        functions(&trace),
        ["do_mmap", "  call_mmap", "  get_unmapped_area", "  remap_pfn_range"],
        "{trace}"
    );
    let first = format!(
        "1 /dev/demo do_mmap(pages=16, offset_pages=0, mode=shared, to write) = {:#x}",
        map.address()
    );
    assert_eq!(trace.lines().next(), Some(&*first));
    assert_eq!(map.load_plain::<u32>(0), 0xaffe << 16);
    assert_eq!(home.trace(), "", "no fault, no steps");
    // A map that the driver refuses.
    assert!(file.map(&MapOptions::new().len(17 * PAGE as u64)).is_err());
    let steps: Vec<serde_json::Value> =
        home.trace_json().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.len(), 2, "{steps:?}");
    assert_eq!((&steps[1]["call"], &steps[1]["errno"]), (&"call_mmap".into(), &"EIO".into()));
    assert_eq!((&steps[1]["depth"], &steps[1]["device"]), (&1.into(), &"/dev/demo".into()));
}

#[test]
fn a_fault_is_followed_to_the_driver_and_back() {
    let home = told();
    let disk = Disk::new(64 * PAGE);
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new().writable()).unwrap();
    let trace = home.trace();
    let steps = ["do_mmap", "  get_unmapped_area", "  mmap_region", "  userfaultfd_register"];
    assert_eq!(functions(&trace), steps, "{trace}");
    // On this thread.
    assert_eq!(byte(&map, 5 * PAGE), expected(5 * PAGE));
    let trace = home.trace();
    let steps = ["handle_mm_fault", "  do_read_fault", "    fault", "    mfill_atomic_copy"];
    assert_eq!(functions(&trace), steps, "{trace}");
    assert!(trace.contains("3 disk     fault(page=5) = 0\n"), "{trace}");
    map.store::<u8>(5 * PAGE, 1).unwrap();
    let trace = home.trace();
    let steps = ["  filemap_get_folio", "  mfill_atomic_continue", "  mwriteprotect_range"];
    assert_eq!(functions(&trace)[1..], steps, "{trace}");
    map.sync(0..map.len()).unwrap();
    assert_eq!(home.trace(), format!("1 disk writepages(page=5, size={PAGE}) = 0\n"));
    // On the handler's, which lets the load go on before it has ended.
    assert_eq!(map.load_plain::<u8>(9 * PAGE), expected(9 * PAGE));
    let trace = RefCell::new(String::new());
    eventually(|| {
        *trace.borrow_mut() += &home.trace();
        !trace.borrow().is_empty()
    });
    let steps = ["handle_userfault", "  find_vma", "  handle_mm_fault", "    do_read_fault"];
    assert_eq!(functions(&trace.borrow())[..4], steps, "{trace:?}");
    // By another map, from the page cache.
    let other = file.map(&MapOptions::new()).unwrap();
    home.trace();
    byte(&other, 5 * PAGE);
    let trace = home.trace();
    let steps = ["handle_mm_fault", "  filemap_get_folio", "  mfill_atomic_continue"];
    assert_eq!(functions(&trace)[..3], steps, "{trace}");
    byte(&other, 5 * PAGE);
    assert_eq!(home.trace(), "");
}

#[test]
fn what_fails_says_where() {
    let home = told();
    let disk = Disk::new(8 * PAGE);
    let map = open(&home, &disk).map(&MapOptions::new().len(9 * PAGE as u64)).unwrap();
    home.trace();
    disk.trouble(Trouble::Faults(1));
    map.load::<u8>(3 * PAGE).unwrap_err();
    let trace = home.trace();
    assert!(trace.ends_with("3 disk     fault(page=3) = -EIO\n"), "{trace}");
    map.load::<u8>(8 * PAGE).unwrap_err();
    assert_eq!(
        home.trace(),
        "1 disk handle_mm_fault(page=8, access=read) = SIGBUS: there is no page\n"
    );
}

#[test]
fn nothing_is_told_unless_asked_and_populating_is() {
    let home = LocalOptions::new().without_userfaultfd().build().unwrap();
    let file = open(&home, &Disk::new(2 * PAGE));
    let map = file.map(&MapOptions::new()).unwrap();
    assert_eq!(home.trace(), "");
    drop(map);
    home.start_trace();
    file.truncate(PAGE as u64).unwrap();
    file.truncate(2 * PAGE as u64).unwrap();
    let _map = file.map(&MapOptions::new()).unwrap();
    let trace = home.trace();
    let steps = functions(&trace);
    assert_eq!(steps[..4], ["do_mmap", "  get_unmapped_area", "  mmap_region", "  mm_populate"]);
    assert!(steps.contains(&"        shmem_file_write_iter".into()), "{trace}");
}
