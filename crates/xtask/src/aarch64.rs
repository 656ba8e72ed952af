//! `cargo xtask aarch64`: type-checks everything for aarch64, which no test runs on.
//!
//! The standard library for that target is built from the distribution's source, by
//! the distribution's compiler of the same release, so nothing but the packages of
//! `ci/packages.txt` is needed.

use crate::{
    Result, packages,
    run::{cargo, check, root},
};

/// Checks the workspace but for this crate.
///
/// # Errors
/// A package is missing, or the check failed.
pub fn run() -> Result {
    packages::ensure()?;
    check(
        cargo(&[
            "check",
            "-Zbuild-std=std,panic_abort",
            "--target=aarch64-unknown-linux-gnu",
            "--workspace",
            "--exclude=xtask",
            "--locked",
        ])
        .env("RUSTC", "/usr/bin/rustc")
        // Lets a released compiler, and cargo, take an unstable option.
        .env("RUSTC_BOOTSTRAP", "1")
        // Another compiler must not share the build directory.
        .env("CARGO_TARGET_DIR", root().join("target/aarch64")),
    )
}
