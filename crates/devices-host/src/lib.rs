//! Drivers that need files, threads and pictures, and so run where there is `std`.
//!
//! | module | what it is |
//! |---|---|
//! | [`mod@file`] | the device `file` |
//! | [`camera`] | the device `camera`, by options |
//! | [`capture`] | the V4L2 capture driver, for a camera of one's own |
//! | [`source`] | where frames come from: patterns, pictures, pipes |
//! | [`mod@format`], [`controls`], [`trouble`] | what such a camera offers, and what goes wrong with it |
//!
//! What does not live here: drivers that need nothing but `core`.

#![forbid(unsafe_code)]

pub mod camera;
pub mod capture;
pub mod controls;
mod drawing;
mod events;
pub mod file;
pub mod format;
mod frame;
mod ioctl;
mod ioctl_controls;
mod queue;
pub mod source;
mod stream;
mod taking;
mod thread;
pub mod trouble;
mod uapi;

pub use frame::{Canvas, Frame};
pub use stream::Pace;
