//! `cargo xtask differential`: the memory engine against the kernel, for as long as wanted.
//! CI runs a million operations of the same.

use clap::Args;

use crate::{
    Result,
    run::{cargo, check},
};

/// How many operations, and which.
#[derive(Args)]
pub struct DifferentialArgs {
    /// Operations to try; the last sequence is finished
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    operations: u64,
    /// The seed of the first sequence
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
}

/// Runs the sequences.
///
/// # Errors
/// The kernel and the simulation differ, or they could not be compared.
pub fn run(arguments: &DifferentialArgs) -> Result {
    check(
        cargo(&["test", "-p", "devmap-backend-sim", "--test", "differential"])
            .args(["--", "agrees_with_the_kernel"])
            .env("DEVMAP_MM_OPERATIONS", arguments.operations.to_string())
            .env("DEVMAP_MM_SEED", arguments.seed.to_string()),
    )
}
