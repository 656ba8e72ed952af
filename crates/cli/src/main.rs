//! The devmap command.

#![forbid(unsafe_code)]

fn main() {}
