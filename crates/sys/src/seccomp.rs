//! Seccomp user notification (seccomp_unotify(2)): writing a filter, installing
//! it, receiving and answering the calls it reports.
//!
//! What does not live here: which calls are reported, and what is answered.

mod assembler;
mod listener;

pub use assembler::{Action, AssembleError, Assembler, Filter, Label};
pub use listener::{Listener, Notification, Reply, install};
