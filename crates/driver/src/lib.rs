//! What a driver author writes, and nothing else: the [`Device`] trait and the
//! nouns it speaks of, under the kernel's names.
//!
//! The crate needs only `core`, allocates nothing and depends on nothing, so one
//! driver source builds for every home: a supervised program, the program that
//! links it, a simulation for tests, a kernel module.
//!
//! | here | in the kernel |
//! |---|---|
//! | [`Device`] | `struct file_operations` |
//! | [`Device::File`] | `file->private_data` |
//! | [`Class`] | `struct class`, `struct device_attribute` |
//! | [`NewArea`] | the `vm_area_struct` given to `->mmap` |
//! | [`Plan`], [`Extent`] | what `->mmap` does to it: `remap_pfn_range`, or `vm_ops->fault` |
//! | [`Fault`], [`Supply`] | `struct vm_fault`, `vmf->page` |
//! | [`Device::write_back`], [`Device::truncate`] | `address_space_operations->writepages`, `inode_operations->setattr` |
//! | [`Memory`] | pages from `alloc_pages` (contiguous) or `vmalloc` (scattered) |
//! | [`UserSlice`] | `__user` pointers with `copy_from_user`, `copy_to_user` |
//! | [`PollEvents`], [`PollTable`] | `__poll_t`, `poll_wait` |
//! | [`WaitQueue`] | `wait_queue_head_t`, `wait_event_interruptible` |
//!
//! What does not live here: how a home carries any of this out.

#![no_std]
#![forbid(unsafe_code)]

mod area;
mod device;
mod errno;
mod fault;
mod ioctl;
mod options;
mod page;
mod plan;
mod platform;
mod poll;
mod user;

pub use area::{NewArea, Protection, Sharing};
pub use device::{
    Class, Device, Fsync, Kind, Metadata, Number, Open, OpenFlags, SeekFrom, Store, Transfer,
};
pub use errno::Errno;
pub use fault::{Access, Fault, NewPage, Supply};
pub use ioctl::{Command, Direction, Ioctl};
pub use options::{OptionError, OptionSpec, parse_size};
pub use page::PageSize;
pub use plan::{AreaFlags, Extent, MAX_EXTENTS, Plan, PlanError, Source};
pub use platform::{Interrupted, Lock, Memory, Platform, WaitQueue};
pub use poll::{PollEvents, PollTable};
pub use user::{Caller, UserSlice};
