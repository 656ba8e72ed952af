//! The local home: devices and files in the memory of the program that links this, without
//! `unsafe` and without a signal handler that does anything of note.
//!
//! ```
//! use devmap_backend_local::{Local, MapOptions, OpenMode};
//! use devmap_devices::pattern::{Options, Pattern};
//!
//! let home = Local::new()?;
//! let device = Pattern::new(home.platform(), &Options::default()).unwrap();
//! let file = home.add("/dev/pattern", device)?.open(OpenMode::ReadOnly)?;
//! let map = file.map(&MapOptions::new().len(16 << 20))?;
//! assert_eq!(map.load::<u32>(0x5008)?, 0x5008);
//! assert_eq!(home.stats().filled, 1);
//! # Ok::<(), devmap_backend_local::Error>(())
//! ```
//!
//! A file, in no more memory than is said, and without SIGBUS where it shrinks:
//!
//! ```
//! use devmap_backend_local::{Local, LocalOptions, MapOptions, OpenMode};
//! use devmap_devices_host::file::{File, Options};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("data");
//! # std::fs::write(&path, [7; 10_000])?;
//! let home: Local = LocalOptions::new().memory_limit(64 << 20).build()?;
//! let file = File::new(home.platform(), &Options::read_write(path))?;
//! let map = home.add("data", file)?.open(OpenMode::ReadWrite)?.map(&MapOptions::new().writable())?;
//! let magic: u32 = map.load(0)?;
//! map.write_at(4096, b"into the file")?;
//! map.sync(0..map.len())?;
//! # assert_eq!(magic, 0x0707_0707);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A *remap* extent is the driver's memory, a memfd, mapped. A *fault* extent is a memfd
//! too, one for each device, the page cache; userfaultfd tells of pages that are not there.
//! Who accesses a page by this library supplies it on its own thread; plain accesses are
//! served by a handler thread. Where userfaultfd is refused, as in some sandboxes, the
//! pages of a map are filled when it is made, up to a limit.
//!
//! A forked child has memory of drivers, as with any map; of fault extents it has nothing:
//! a checked access says so, a plain one is a SIGSEGV.
//!
//! | module | what lives there |
//! |---|---|
//! | `mapping` | homes, open files, making maps |
//! | [`access`] | loads, stores, copies, slices |
//! | `area` | how pages get where they are mapped |
//! | `object` | the page cache of a device, eviction |
//! | `own` | the memory of a map that is the only one of its device |
//! | `block` | what is known of 64 pages, under one lock |
//! | `core` | the memory limit, areas by address |
//! | `order`, `readahead` | filling pages before they are looked for |
//! | `handler` | the threads that serve plain accesses |
//! | `sync` | write-back |
//! | `truncate` | changing the length of a file |
//! | `fallback` | without userfaultfd |
//! | `primitives` | locks and threads, which tests replace |
//! | `trace` | what ran, step by step |
//! | [`maps`] | the text of `/proc/PID/maps` |
//!
//! What does not live here: any system call or memory that needs `unsafe` (`sys`).

#![forbid(unsafe_code)]

pub mod access;
mod area;
mod block;
mod buffer;
mod core;
mod driver;
mod error;
mod fallback;
mod handler;
mod mapping;
pub mod maps;
mod object;
mod order;
mod own;
mod platform;
mod primitives;
mod readahead;
#[cfg(test)]
mod schedules;
mod sync;
mod trace;
mod truncate;

pub use crate::core::Stats;
pub use access::Slice;
pub use error::Error;
pub use mapping::{File, Local, LocalOptions, MapOptions, Mapping, Node, OnError, OpenMode};
pub use platform::{LocalLock, LocalMemory, LocalPlatform, LocalQueue};
