//! Every body on the local home.

use devmap_backend_local::LocalOptions;
use devmap_bodies::{LocalHome, run_all};

#[test]
fn the_device_file() {
    run_all(|| Box::new(LocalHome::fresh(LocalOptions::new())));
}

#[test]
fn the_device_file_without_userfaultfd() {
    run_all(|| Box::new(LocalHome::fresh(LocalOptions::new().without_userfaultfd())));
}
