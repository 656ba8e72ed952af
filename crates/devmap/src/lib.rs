//! Devices written in safe Rust, for unmodified programs: what a driver author adds
//! to `Cargo.toml`.
//!
//! A driver implements [`driver::Device`]; [`Server`] makes the author's binary a
//! device server with the same options as `devmap run`:
//!
//! ```no_run
//! use devmap::prelude::*;
//!
//! struct Hello;
//!
//! impl<P: Platform> Device<P> for Hello {
//!     type File = ();
//!
//!     fn open(&self, _open: &Open) -> Result<(), Errno> {
//!         Ok(())
//!     }
//!
//!     fn read(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
//!         transfer.read_from(b"Hello from user space.\n")
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Server::new("hello").device("/dev/hello", |_host| Ok(Hello)).main()
//! }
//! ```
//!
//! Here live the registry of the [built-in devices](builtins), the parser of
//! `--device`, and the options of `run`. What does not live here: the driver API
//! (`devmap-driver`), and how a program is served (`devmap-backend-supervised`).

#![forbid(unsafe_code)]

mod builtin;
mod options;
mod serve;
mod server;
mod spec;

pub use builtin::{Builtin, builtins};
pub use devmap_backend_supervised::{Host, probe};
pub use devmap_driver as driver;
pub use options::{DEVMAP_FAILED, EXIT_STATUS, RunOptions};
pub use serve::ServeOptions;
pub use server::{Server, usage};
pub use spec::{DeviceSpec, SpecError};

/// What nearly every driver uses: `use devmap::prelude::*;`.
pub mod prelude {
    pub use std::process::ExitCode;

    pub use devmap_driver::{
        AreaFlags, Class, Command, Device, Direction, Errno, Fault, Fsync, Ioctl, Kind, Lock,
        Memory, Metadata, NewArea, NewPage, Number, Open, PageSize, Plan, Platform, PollEvents,
        PollTable, Store, Supply, Transfer, WaitQueue,
    };

    pub use crate::{Host, Server};
}
