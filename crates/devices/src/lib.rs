//! Drivers that need nothing but `core`: they run in every home, the kernel
//! included.
//!
//! Each module is one device and has the same four names beside it, so that a home
//! can list and make them alike: `NAME`, `ABOUT` (one line), `OPTIONS`, and
//! `Options` with `set`. The constructor is `new(&platform, &options)`.
//!
//! | module | what it shows |
//! |---|---|
//! | [`hello`] | the smallest device: text to read |
//! | [`demo`] | two memories to map, scattered and contiguous |
//! | [`mem`] | one contiguous block to map, read and write |
//! | [`zero`] | anonymous memory by way of a device |
//! | [`events`] | waiting: blocking calls, poll, signals |
//! | [`pattern`] | pages supplied at first access |
//!
//! What does not live here: drivers that need files, networks or threads of their
//! own.

#![no_std]
#![forbid(unsafe_code)]

mod copy;
pub mod demo;
pub mod events;
pub mod hello;
pub mod mem;
pub mod pattern;
pub mod zero;

use devmap_driver::OptionError;

/// The options of a device that has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOptions;

impl NoOptions {
    /// Refuses every key.
    ///
    /// # Errors
    /// [`OptionError::Unknown`], always.
    pub fn set(&mut self, _key: &str, _value: &str) -> Result<(), OptionError> {
        Err(OptionError::Unknown)
    }
}
