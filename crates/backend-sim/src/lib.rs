//! The simulated home: a machine of ordinary memory, on which the engine of
//! `devmap-mm` runs.
//!
//! [`Machine`] has page frames and four-level page tables, and fails where a test asks
//! it to ([`Failures`]). What does not live here: what `mmap` and its kin do, which is
//! the engine's.

#![forbid(unsafe_code)]

mod failures;
mod frame;
mod machine;
mod table;

pub use failures::{Failures, Nth};
pub use frame::PageFrame;
pub use machine::Machine;
pub use table::PageTable;
