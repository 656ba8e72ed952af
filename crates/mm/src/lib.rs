//! The memory engine: what `mmap(2)` and its kin do, as a library.
//!
//! An [`Engine`] holds address spaces ([`SpaceId`]), what they map ([`File`],
//! [`ObjectId`]), a page cache, and pages. Below it stands a machine, the trait
//! [`Mmu`]: page frames and page tables. The engine decides as Linux decides; the
//! names are the kernel's.
//!
//! | module | what lives there |
//! |---|---|
//! | `area` | `vm_area_struct`, its flags |
//! | `set` | the areas of one address space in order, with the gaps between |
//! | `merge` | `mm/vma.c`: when areas merge, and how they split |
//! | `object` | what is mapped: files, devices, shared anonymous memory |
//! | `page` | `struct page`: who maps a frame, and whose it is |
//! | `cache` | the page cache: write-back in order, eviction under a limit |
//! | `ops` | one file for each operation |
//! | `maps` | the text of `/proc/PID/maps` |
//! | [`trace`] | what an engine tells of its operations, step by step |
//! | `invariants` | what holds after every operation |
//!
//! There is no lock in here: each operation takes `&mut Engine`, and whoever shares an
//! engine between threads puts one lock around it. What does not live here: system
//! calls, descriptors, processes, and any real memory.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod area;
mod cache;
mod engine;
mod invariants;
mod maps;
mod merge;
mod mmu;
mod object;
mod ops;
mod page;
mod set;
mod slab;
pub mod trace;

pub use area::{Area, Flags};
pub use engine::{Engine, Limits, SpaceId};
pub use mmu::{Entry, Frame, Mmu, Table};
pub use object::{Content, File, FileMode, Layout, ObjectId, ObjectSpec, Store, Supplied};
pub use ops::advise::Advice;
pub use ops::fault::Fatal;
pub use ops::lock::LockAll;
pub use ops::map::{MapRequest, Placement, Residency};
pub use ops::remap::{RemapRequest, RemapTo};
pub use ops::sync::SyncFlags;
pub use page::PageId;
pub use set::AreaSet;
