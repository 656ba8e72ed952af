//! The FUSE kernel protocol, as far as a device needs it.
//!
//! Here live: the messages of `linux/fuse.h` ([`Operation`], [`Attr`], [`Entry`],
//! [`DirBuffer`]) and the descriptor they travel over ([`Channel`]). Here do not live: mounting
//! (the owner of a name space does that), inodes, files and any policy. A caller receives one
//! request at a time, answers it whenever it likes and from whichever thread it likes.
//!
//! # Why not the `fuser` crate
//!
//! As of `fuser` 0.18, the newest release at the time of writing:
//! - it answers every `FUSE_INTERRUPT` with `ENOSYS` itself, after which the kernel never sends
//!   another one. A device that blocks in `read` must see them, or no signal could end the read;
//! - its session owns the loop that receives and the threads that serve. A supervisor wants to
//!   choose which of its threads takes a request, and to keep requests unanswered for long;
//! - it holds about thirty `unsafe` spots and about a dozen dependencies, for a protocol of which a
//!   device needs two dozen fixed structures.
//!
//! What it could give is a full file system's worth of operations, none of which a device has.
//! It does know `FOPEN_STREAM`, `FOPEN_NOFLUSH` and poll notifications, and can serve a
//! descriptor that somebody else mounted.
//!
//! # Example
//!
//! ```no_run
//! use devmap_fuse::{Attr, Channel, Operation, RequestBuffer};
//! use std::time::Duration;
//!
//! # fn serve(mounted: std::os::fd::OwnedFd) -> std::io::Result<()> {
//! let channel = Channel::new(mounted);
//! let mut buffer = RequestBuffer::new();
//! while let Some(request) = channel.receive(&mut buffer)? {
//!     let unique = request.header.unique;
//!     match request.operation {
//!         Operation::Getattr { .. } if request.header.nodeid == devmap_fuse::ROOT_ID => {
//!             let attr = Attr::new(devmap_fuse::ROOT_ID, 0o040755);
//!             channel.reply_attr(unique, &attr, Duration::MAX)?;
//!         }
//!         Operation::Forget { .. } | Operation::BatchForget(_) | Operation::Interrupt { .. } => {}
//!         _ => channel.reply_error(unique, 38)?, // ENOSYS
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod abi;
mod channel;
mod reply;
mod request;

pub use channel::{Channel, RequestBuffer};
pub use reply::{Attr, DirBuffer, Entry, Statfs, device_number};
pub use request::{Forgets, Header, Operation, Request, Setattr};

/// The node of the root directory of every FUSE file system (`FUSE_ROOT_ID`).
pub const ROOT_ID: u64 = 1;

/// The largest amount of data in one `FUSE_WRITE` or `FUSE_READ`, in bytes, when pages are of
/// 4 KiB: `max_write` and 256 `max_pages`.
pub const MAX_WRITE: usize = 1 << 20;

/// The opcode of `fallocate`, which comes as [`Operation::Other`].
pub const FALLOCATE: u32 = 43;

/// Flags of [`Channel::reply_open`]. A kernel that does not know one ignores it.
pub mod open_flags {
    /// Reads and writes go to the server one by one, past the page cache (`FOPEN_DIRECT_IO`).
    pub const DIRECT_IO: u32 = 1 << 0;
    /// Opening does not drop what the page cache holds of the file (`FOPEN_KEEP_CACHE`).
    pub const KEEP_CACHE: u32 = 1 << 1;
    /// `lseek` gives `ESPIPE` (`FOPEN_NONSEEKABLE`).
    pub const NONSEEKABLE: u32 = 1 << 2;
    /// The kernel may cache the listing of this directory (`FOPEN_CACHE_DIR`).
    pub const CACHE_DIR: u32 = 1 << 3;
    /// The file has no position at all, as a terminal or a pipe: reads and writes do not take
    /// the position's lock, so a blocked read does not block a write (`FOPEN_STREAM`).
    pub const STREAM: u32 = 1 << 4;
    /// `close` sends no `FUSE_FLUSH` (`FOPEN_NOFLUSH`, Linux 5.16).
    pub const NOFLUSH: u32 = 1 << 5;
    /// Direct writes to one inode do not exclude each other
    /// (`FOPEN_PARALLEL_DIRECT_WRITES`, Linux 6.2).
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}
