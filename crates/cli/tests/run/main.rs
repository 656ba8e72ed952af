//! The main job: unmodified programs under `devmap run`, in C, Python, Rust and shell.
//!
//! What each test asks of the machine is in `ci/packages.txt`. Where root runs these
//! tests, `cargo xtask test` runs them once more as an ordinary user. What does not live
//! here: the process tree by itself and the namespace by itself, which are tested with
//! the home; the command line, in `command.rs`.

mod bodies;
mod cameras;
mod conformance;
mod container;
mod debuggers;
mod drivers;
mod exhausted;
mod faults;
mod files;
mod gaps;
mod harness;
mod hostile;
mod inputs;
mod killed;
mod lifetime;
mod maps;
mod paths;
mod renewal;
mod serve;
mod soak;
mod supervisor;
mod supplied;
mod tools;
