//! The home for unmodified programs.

#![forbid(unsafe_code)]

pub mod namespace;
pub mod probe;
pub mod tree;
