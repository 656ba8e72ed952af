//! Devices that live in a process of their own: `devmap serve`, and the runs that join it.
//!
//! ```text
//! daemon ◄── control ──► joiner's supervisor ──► its program
//!        ◄── lane ─────►
//!        ◄── lane ─────►
//! ```
//!
//! The drivers run in the daemon. A joiner is a run of its own, with a supervisor, since
//! only an ancestor may enter the program; in it stands a proxy for each of the daemon's
//! devices, which hands every method's call on. What crosses the socket:
//!
//! - The **control** connection lives as long as the joiner. It brings new lanes,
//!   interruptions, and wakes of pollers. Its end ends all opens of the joiner.
//! - A **lane** is a socket pair that serves one call at a time, from its request to its
//!   answer. While a driver runs it may ask for bytes of the caller's memory, and the
//!   joiner's thread that waits for the answer serves it. There are as many lanes as there
//!   are calls in progress, so none waits for another.
//! - **Memory** goes as descriptors: the token by which the program maps (see `tokens`),
//!   which the daemon makes, and with it a second file to ask for its lock.
//!
//! The daemon believes nothing: each message is decoded within bounds, an open file is
//! looked up among the joiner's own, rights are checked again, and each wait for a joiner
//! has an end. The modules:
//!
//! - `wire`, `socket`: messages, and how they are sent;
//! - `daemon`, `listener`, `connection`, `calls`, `kept`: the daemon;
//! - `link`, `remote`: the joiner.

mod calls;
mod connection;
mod daemon;
mod kept;
mod link;
mod listener;
mod remote;
mod socket;
#[cfg(test)]
mod tests;
mod wire;

pub use daemon::{Service, serve};
pub use remote::join;
