//! Every body on the local home.

use devmap_bodies::{LocalHome, run_all};

#[test]
fn the_device_file() {
    run_all(|| Box::new(LocalHome::fresh()));
}
