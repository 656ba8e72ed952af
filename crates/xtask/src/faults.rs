//! `cargo xtask faults`, `soak` and `fuzz`: devmap with each of its system calls failing,
//! under load, and under programs that mean ill, for as long as wanted. CI runs a sample, or
//! a minute at most, of the same.

use clap::Args;

use crate::{
    Result,
    run::{cargo, check},
};

/// How long.
#[derive(Args)]
pub struct SoakArgs {
    /// Seconds in each mode
    #[arg(long, value_name = "N", default_value_t = 600)]
    seconds: u64,
}

/// How long, and which calls.
#[derive(Args)]
pub struct FuzzArgs {
    /// Seconds in each mode
    #[arg(long, value_name = "N", default_value_t = 600)]
    seconds: u64,
    /// The seed of the first program; the next one has the next
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Lets each system call of devmap fail in turn, in both modes.
///
/// # Errors
/// Something hung, took zeros for data, or said nothing.
pub fn faults() -> Result {
    check(of_runs("faults").env("DEVMAP_ALL_FAULTS", "1"))
}

/// Has twenty clients map, fault, write, fork and die.
///
/// # Errors
/// Devmap does not return to where it began.
pub fn soak(arguments: &SoakArgs) -> Result {
    check(of_runs("soak").env("DEVMAP_SOAK_SECONDS", arguments.seconds.to_string()))
}

/// Has programs call the camera with whatever their seeds make them.
///
/// # Errors
/// Devmap has less or more than before, or the next program has no camera.
pub fn fuzz(arguments: &FuzzArgs) -> Result {
    let mut test = of_runs("a_client_that_means_ill");
    test.env("DEVMAP_FUZZ_SECONDS", arguments.seconds.to_string());
    check(test.env("DEVMAP_FUZZ_SEED", arguments.seed.to_string()))
}

fn of_runs(module: &str) -> std::process::Command {
    cargo(&["test", "-p", "devmap-cli", "--test", "run", "--", module, "--nocapture"])
}
