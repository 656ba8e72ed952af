//! The operations, one file each, as methods of the engine. Here: nothing but their
//! list.

pub(crate) mod advise;
pub(crate) mod fault;
mod file;
mod fork;
pub(crate) mod lock;
pub(crate) mod map;
mod mincore;
mod protect;
mod read_ahead;
pub(crate) mod remap;
pub(crate) mod sync;
mod truncate;
mod unmap;
