//! The simulated home: a machine of ordinary memory, on which the engine of
//! `devmap-mm` runs.
//!
//! A driver's test needs no privileges and no other process, and gives the same every
//! time. Both methods of mapping, tried:
//!
//! ```
//! use devmap_backend_sim::MockKernel;
//! use devmap_devices::{NoOptions, demo::Demo, pattern::{Options, Pattern}};
//!
//! let kernel = MockKernel::new();
//! kernel.add("/dev/demo", Demo::new(kernel.platform(), &NoOptions)?);
//! kernel.add("/dev/pattern", Pattern::new(kernel.platform(), &Options::default())?);
//! let program = kernel.process()?;
//! let remapped = program.mmap(program.open("/dev/demo")?, 0, 4096)?;
//! assert_eq!(program.load_u32(remapped), Ok(0xaffe << 16));
//! let faulted = program.mmap(program.open("/dev/pattern")?, 0, 1 << 20)?;
//! assert_eq!(program.load_u32(faulted + 0x5008), Ok(0x5008));
//! assert_eq!(kernel.failures().faults().count(), 1);
//! # Ok::<(), devmap_driver::Errno>(())
//! ```
//!
//! [`Machine`] has page frames and four-level page tables, and fails where a test asks
//! it to ([`Failures`]). What does not live here: what `mmap` and its kin do, which is
//! the engine's.

#![forbid(unsafe_code)]

mod calls;
mod device;
mod failures;
mod file;
mod frame;
mod kernel;
mod machine;
mod memory;
mod platform;
mod process;
mod table;
mod trace;

pub use failures::{Failures, Nth};
pub use file::MemoryFile;
pub use frame::PageFrame;
pub use kernel::MockKernel;
pub use machine::Machine;
pub use platform::{SimLock, SimMemory, SimPlatform, SimQueue};
pub use process::{Descriptor, Process};
pub use table::PageTable;
