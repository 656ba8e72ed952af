//! The trace of the mmap path and of the fault path: the steps that ran, and no others.

use devmap_backend_sim::MockKernel;
use devmap_devices::{
    NoOptions,
    demo::Demo,
    pattern::{Options, Pattern},
};
use devmap_driver::{Errno, Sharing};
use devmap_mm::{Fatal, MapRequest};

use crate::{NOW, PAGE, byte, with_file};

/// The functions of a trace, each with as many spaces as steps around it.
fn functions(trace: &str) -> Vec<String> {
    let function = |line: &str| {
        let (head, _) = line.split_once('(').expect("a function");
        let (words, name) = head.trim_end().rsplit_once(' ').expect("words before it");
        let spaces = words.len() - words.trim_end().len();
        format!("{:spaces$}{name}", "")
    };
    trace.lines().map(function).collect()
}

fn world() -> (MockKernel, devmap_backend_sim::Process) {
    let kernel = MockKernel::new();
    kernel.add("/dev/demo", Demo::new(kernel.platform(), &NoOptions).unwrap());
    kernel.add("/dev/pattern", Pattern::new(kernel.platform(), &Options::default()).unwrap());
    kernel.start_trace();
    let process = kernel.process().unwrap();
    (kernel, process)
}

#[test]
fn remapped_pages_come_with_the_map() {
    let (kernel, process) = world();
    let at = process.mmap(process.open("/dev/demo").unwrap(), 0, 16 * PAGE).unwrap();
    let trace = kernel.trace();
    assert_eq!(
        functions(&trace),
        ["do_mmap", "  get_unmapped_area", "  call_mmap", "  mmap_region", "    remap_pfn_range",],
        "{trace}"
    );
    let first = trace.lines().next().unwrap();
    assert_eq!(
        first,
        format!(
            "1 pid 1 /dev/demo do_mmap(pages=16, offset_pages=0, mode=shared, to write) = {at:#x}"
        )
    );
    assert_eq!(process.load_u32(at), Ok(0xaffe << 16));
    assert_eq!(kernel.trace(), "", "no fault, no steps");
}

#[test]
fn a_fault_is_followed_to_the_driver_and_back() {
    let (kernel, process) = world();
    let file = process.open("/dev/pattern").unwrap();
    let at = process.mmap(file, 0, 64 * PAGE).unwrap();
    kernel.trace();
    assert_eq!(process.load_u32(at + 5 * PAGE), Ok(5 * PAGE as u32));
    let trace = kernel.trace();
    let path = |last: &str| {
        let path = ["do_user_addr_fault", "  find_vma", "  handle_mm_fault", "    do_read_fault"];
        path.iter().map(|step| (*step).to_owned()).chain([last.to_owned()]).collect::<Vec<_>>()
    };
    assert_eq!(functions(&trace), path("      fault"), "{trace}");
    assert!(trace.contains("/dev/pattern       fault(page=5) = 0"), "{trace}");
    // A second process finds the page in the cache.
    let other = kernel.process().unwrap();
    let at = other.mmap(other.open("/dev/pattern").unwrap(), 0, 64 * PAGE).unwrap();
    kernel.trace();
    byte(&other, at + 5 * PAGE).unwrap();
    assert_eq!(functions(&kernel.trace()), path("      filemap_get_folio"));
    // A store to a private copy of it.
    let request = MapRequest::new(PAGE).sharing(Sharing::Private);
    let at = other.mmap_with(other.open("/dev/pattern").unwrap(), 5 * PAGE, request).unwrap();
    byte(&other, at).unwrap();
    kernel.trace();
    other.store(at, b"x").unwrap();
    let steps = functions(&kernel.trace());
    assert_eq!(steps.last().map(String::as_str), Some("    do_wp_page"), "{steps:?}");
}

#[test]
fn what_fails_says_where() {
    let (kernel, process) = world();
    let file = process.open("/dev/demo").unwrap();
    assert_eq!(process.mmap(file, 3 * PAGE, PAGE), Err(Errno::EIO));
    let trace = kernel.trace();
    assert_eq!(functions(&trace), ["do_mmap", "  get_unmapped_area", "  call_mmap"]);
    assert!(trace.lines().last().unwrap().ends_with("call_mmap(pages=1) = -EIO"), "{trace}");
    assert_eq!(byte(&process, 0x5000), Err(Fatal::NotMapped));
    let trace = kernel.trace_json();
    let steps: Vec<serde_json::Value> =
        trace.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.len(), 2, "{trace}");
    assert_eq!(
        (steps[1]["call"].as_str(), steps[1]["depth"].as_u64()),
        (Some("find_vma"), Some(1))
    );
    assert_eq!((steps[1]["pid"].as_u64(), steps[1]["address"].as_str()), (Some(1), Some("0x5000")));
    assert!(steps[1]["fatal"].as_str().unwrap().contains("SIGSEGV"), "{trace}");
}

#[test]
fn write_back_is_told_in_its_order() {
    let kernel = MockKernel::new();
    let (process, _, at) = with_file(&kernel, 4);
    for page in [3, 1] {
        process.store(at + page * PAGE, b"x").unwrap();
    }
    kernel.start_trace();
    process.msync(at, 4 * PAGE, NOW).unwrap();
    let trace = kernel.trace();
    assert_eq!(
        trace,
        "1 /data writepages(page=1, size=4096) = 0\n2 /data writepages(page=3, size=4096) = 0\n"
    );
}
