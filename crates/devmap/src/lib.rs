//! Devices written in safe Rust, for unmodified programs.

#![forbid(unsafe_code)]
