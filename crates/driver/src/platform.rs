//! What a driver may ask of the home it runs in: memory, locks, wait queues, a
//! clock. One trait, so that a driver names its home once: `struct Demo<P: Platform>`.

use core::time::Duration;

use crate::{Errno, PageSize};

/// A home's services. A value, not only a type, so that a simulation can carry its
/// seed and its faults in it; in the kernel it is zero-sized.
pub trait Platform: Clone + Send + Sync + 'static {
    /// Pages that a driver owns.
    type Memory: Memory;
    /// A sleeping lock (`struct mutex`).
    type Lock<T: Send + 'static>: Lock<T>;
    /// A wait queue (`wait_queue_head_t`).
    type WaitQueue: WaitQueue;

    /// The machine's page size.
    fn page_size(&self) -> PageSize;

    /// Memory whose pages lie side by side, as a device's registers and DMA buffers
    /// do (`alloc_pages`); zeroed. The length is `bytes`, rounded up to pages. What will be
    /// used as a whole is best asked for so: a home may give it in large pages.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` when `bytes` is 0.
    fn contiguous(&self, bytes: u64) -> Result<Self::Memory, Errno>;

    /// Memory whose pages may lie anywhere (`vmalloc_user`); zeroed. The length is
    /// `bytes`, rounded up to pages.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` when `bytes` is 0.
    fn scattered(&self, bytes: u64) -> Result<Self::Memory, Errno>;

    /// A lock around `value`.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn lock<T: Send + 'static>(&self, value: T) -> Result<Self::Lock<T>, Errno>;

    /// A wait queue.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn wait_queue(&self) -> Result<Self::WaitQueue, Errno>;

    /// Time since some fixed moment, never going back (`CLOCK_MONOTONIC`).
    fn now(&self) -> Duration;
}

/// Pages that a driver owns and programs may map. A handle: clones share the pages,
/// and the pages are freed with the last handle and the last map.
///
/// Programs write mapped memory at any time, so it is never seen as a slice: bytes
/// go in and out by copies. An aligned copy of exactly 4 or 8 bytes is one access,
/// as for a device's register.
///
/// A memory is what protects: in it belongs what one program may see. A home of unmodified
/// programs gives pages by a plan, but a program that means ill can, by threads of its own or
/// under a debugger, come to the other pages of the same memory, and never to another memory.
pub trait Memory: Clone + Send + Sync + 'static {
    /// The length in pages.
    fn pages(&self) -> u64;

    /// The length in bytes: a multiple of the page size.
    fn len(&self) -> u64;

    /// Never true: homes refuse to make empty memory.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether any program maps any of it now.
    fn is_mapped(&self) -> bool;

    /// Copies out of the memory.
    ///
    /// # Errors
    /// `EINVAL` when the bytes are not all inside; nothing is copied then.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Errno>;

    /// Copies into the memory.
    ///
    /// # Errors
    /// `EINVAL` when the bytes are not all inside; nothing is copied then.
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Errno>;

    /// One little-endian 32-bit word; `offset` is a multiple of 4.
    ///
    /// # Errors
    /// `EINVAL` when it is not inside.
    fn load_u32(&self, offset: u64) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Stores one little-endian 32-bit word; `offset` is a multiple of 4.
    ///
    /// # Errors
    /// `EINVAL` when it is not inside.
    fn store_u32(&self, offset: u64, value: u32) -> Result<(), Errno> {
        self.write(offset, &value.to_le_bytes())
    }
}

/// A lock that may sleep. The closure must not wait on a [`WaitQueue`], nor take the
/// same lock again.
pub trait Lock<T>: Send + Sync {
    /// Runs `f` with the lock held.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

/// The wait ended because a signal for the caller is pending, or it was killed.
/// `?` turns it into `ERESTARTSYS`, as `wait_event_interruptible` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl From<Interrupted> for Errno {
    fn from(_: Interrupted) -> Errno {
        Errno::ERESTARTSYS
    }
}

/// Where callers wait and drivers wake them.
pub trait WaitQueue: Send + Sync + 'static {
    /// Wakes every waiter to look at its condition again, and every poller. From any
    /// thread, with or without a lock held. Change the state first, then wake.
    fn wake_all(&self);

    /// Waits until `condition` answers `Some` (`wait_event_interruptible`). The only
    /// way in which a driver may block: the home can end it, and only this caller
    /// waits.
    ///
    /// The condition may take locks; it is asked once before any waiting, and again
    /// after each wake.
    ///
    /// # Errors
    /// [`Interrupted`]: give it back to the caller by `?`, having undone what was
    /// begun.
    fn wait<T>(&self, condition: impl FnMut() -> Option<T>) -> Result<T, Interrupted>;
}
