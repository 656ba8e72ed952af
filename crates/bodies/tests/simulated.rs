//! Every body on the simulated home.

use devmap_bodies::{SimulatedHome, run_all};

#[test]
fn a_file_in_memory() {
    run_all(|| Box::new(SimulatedHome::in_memory()));
}

#[test]
fn the_device_file() {
    run_all(|| Box::new(SimulatedHome::of_file()));
}
