//! Development tasks: `cargo xtask test` is what CI runs, whole.
//!
//! What does not live here: tests. The one exception is `tidy`, the checks of the
//! source text itself, which `cargo test` runs like all others.

#![forbid(unsafe_code)]

mod aarch64;
mod differential;
mod faults;
mod kernel;
mod packages;
mod run;
mod test;
#[cfg(test)]
mod tidy;
mod user;

use std::{error::Error, process::ExitCode};

use clap::{Parser, Subcommand};

/// What a task answers.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Development tasks of devmap
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that CI checks: format, lints, documentation, all tests, the kernel module
    Test,
    /// Builds the drivers as a kernel module; boots and tests it in QEMU
    Kernel(kernel::KernelArgs),
    /// Compares the memory engine with the kernel, by random operations
    Differential(differential::DifferentialArgs),
    /// Lets each system call of devmap fail in turn
    Faults,
    /// Has clients map, fault, write, fork and die for ten minutes, and looks at what is left
    Soak(faults::SoakArgs),
    /// Has programs call the camera with all kinds of arguments, good and bad
    Fuzz(faults::FuzzArgs),
    /// Type-checks everything for aarch64
    Aarch64,
    /// Installs what the tests need from the system, or prints how
    Packages,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Test => test::run(),
        Task::Kernel(arguments) => kernel::run(&arguments),
        Task::Differential(arguments) => differential::run(&arguments),
        Task::Faults => faults::faults(),
        Task::Soak(arguments) => faults::soak(&arguments),
        Task::Fuzz(arguments) => faults::fuzz(&arguments),
        Task::Aarch64 => aarch64::run(),
        Task::Packages => packages::ensure(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
