//! The local home in a container like Docker's, which refuses userfaultfd in truth.

use std::{env, path::Path, process::Command};

use devmap_backend_local::{LocalOptions, MapOptions};
use devmap_driver::Errno;

use crate::{
    byte,
    disk::{Disk, PAGE, expected},
    open,
};

/// Set in the container.
const INSIDE: &str = "DEVMAP_TEST_SANDBOX";

/// What must hold there too, with no word of userfaultfd.
const TESTS: [&str; 5] = [
    "sandbox::what_refuses_userfaultfd_gets_maps_that_are_filled",
    "file::stores_reach_the_file_and_never_change_its_length",
    "file::the_file_is_cut_and_grows_under_the_map",
    "file::private_stores_stay_here",
    "file::a_read_only_file_is_not_opened_to_write",
];

#[test]
fn what_refuses_userfaultfd_gets_maps_that_are_filled() {
    if env::var_os(INSIDE).is_none() {
        run_inside();
        return;
    }
    let home = LocalOptions::new().prefill_limit(8 * PAGE as u64).build().unwrap();
    assert!(!home.is_lazy(), "userfaultfd is refused");
    let disk = Disk::new(8 * PAGE);
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new().writable()).unwrap();
    assert_eq!(home.stats().filled, 8);
    assert_eq!(map.load_plain::<u8>(3 * PAGE), expected(3 * PAGE));
    assert_eq!(byte(&map, 5 * PAGE), expected(5 * PAGE));
    map.store_plain::<u8>(3 * PAGE, 7);
    map.sync(0..map.len()).unwrap();
    assert_eq!(disk.content().bytes[3 * PAGE], 7);
    let too_long = file.map(&MapOptions::new().len(9 * PAGE as u64)).err();
    assert_eq!(too_long.map(|error| error.errno()), Some(Errno::ENOMEM));
}

fn run_inside() {
    let directory = tempfile::tempdir().unwrap();
    let docker = directory.path().join("docker");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sandbox/docker.c");
    let compiled = Command::new("cc").arg("-o").arg(&docker).arg(source).status().unwrap();
    assert!(compiled.success());
    let mut inside = Command::new(&docker);
    inside.arg(env::current_exe().unwrap()).args(["--exact", "--nocapture"]).args(TESTS);
    let output = inside.env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let ran = format!("running {} tests", TESTS.len());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(&ran), "{said}{errors}");
}
