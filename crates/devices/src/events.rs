//! A test bed for waiting: blocking calls, readiness, signals.
//!
//! All opens share one queue of [`CAPACITY`] bytes. `write` adds as much as fits and
//! waits while nothing does; `read` takes what is there and waits while nothing is;
//! with `O_NONBLOCK` both answer `EAGAIN` instead. `poll` says `IN|RDNORM` while the
//! queue holds bytes and `OUT|WRNORM` while it has room, unless [`SET_MASK`] fixed
//! the mask: then exactly that.
//!
//! | ioctl | type `E`, number | argument | what it does |
//! |---|---|---|---|
//! | [`SET_MASK`] | 1 | `u32` in | poll says exactly this mask from now on; [`AUTOMATIC`]: as the queue is |
//! | [`GET_MASK`] | 2 | `u32` out | the mask that poll says now |
//! | [`WAIT_MASK`] | 3 | `u32` in and out | waits until the mask has any of these bits (`EAGAIN` with `O_NONBLOCK`); answers those it has |
//! | [`SLEEP`] | 4 | none | waits until a signal comes, whatever `O_NONBLOCK` says |
//! | [`INVERT`] | 5 | 88 bytes in and out | inverts every bit |
//! | [`COPY`] | 6 | `u64 from`, `u64 to`, `u32 len`, `u32 sum` out | copies `len` (at most 4096, else `EINVAL`) of the caller's bytes, adding 1 to each; `sum` of the bytes read |
//! | [`COUNT`] | 7 | none | returns how many bytes are queued |
//! | [`STATS`] | 8 | `u64 waits`, `u64 interrupted`, `u64 waiting` out | waits begun, waits that a signal or death ended, calls that wait now |
//! | [`RESET`] | 9 | none | empties the queue, mask automatic, `waits` and `interrupted` 0 |
//!
//! Any other command: `ENOTTY`. A call that need not wait counts in no statistic.

use devmap_driver::{
    Command, Device, Direction, Errno, Ioctl, Lock, Metadata, Open, OptionSpec, Platform,
    PollEvents, PollTable, Transfer, UserSlice, WaitQueue,
};

pub use crate::NoOptions as Options;

/// What `--device PATH=NAME` calls it.
pub const NAME: &str = "events";
/// One line of help.
pub const ABOUT: &str = "a byte queue with blocking calls and a settable poll mask";
/// No options.
pub const OPTIONS: &[OptionSpec] = &[];

/// How many bytes the queue holds.
pub const CAPACITY: usize = 1024;
/// The mask that makes poll follow the queue.
pub const AUTOMATIC: u32 = u32::MAX;
/// The longest [`COPY`], in bytes.
pub const MAX_COPY: u32 = 4096;

/// Fixes the poll mask.
pub const SET_MASK: Command = Command::new(Direction::Write, b'E', 1, 4);
/// Answers the poll mask.
pub const GET_MASK: Command = Command::new(Direction::Read, b'E', 2, 4);
/// Waits for bits of the poll mask.
pub const WAIT_MASK: Command = Command::new(Direction::ReadWrite, b'E', 3, 4);
/// Waits for a signal.
pub const SLEEP: Command = Command::new(Direction::None, b'E', 4, 0);
/// Inverts 88 bytes.
pub const INVERT: Command = Command::new(Direction::ReadWrite, b'E', 5, 88);
/// Copies memory of the caller, by embedded pointers.
pub const COPY: Command = Command::new(Direction::ReadWrite, b'E', 6, 24);
/// Returns a number.
pub const COUNT: Command = Command::new(Direction::None, b'E', 7, 0);
/// Answers the statistics.
pub const STATS: Command = Command::new(Direction::Read, b'E', 8, 24);
/// Begins anew.
pub const RESET: Command = Command::new(Direction::None, b'E', 9, 0);

/// A ring of bytes. Invariant: `start < CAPACITY` and `len <= CAPACITY`.
struct Queue {
    bytes: [u8; CAPACITY],
    start: usize,
    len: usize,
}

impl Queue {
    /// Copies the oldest bytes to the program; they leave only if that went well.
    fn take(&mut self, user: &UserSlice<'_>) -> Result<usize, Errno> {
        let count = user.len().min(self.len);
        let first = count.min(CAPACITY - self.start);
        user.copy_out(&self.bytes[self.start..self.start + first])?;
        user.slice(first, count - first)?.copy_out(&self.bytes[..count - first])?;
        self.start = (self.start + count) % CAPACITY;
        self.len -= count;
        Ok(count)
    }

    /// Adds what fits of the program's bytes, if all of that can be read.
    fn add(&mut self, user: &UserSlice<'_>) -> Result<usize, Errno> {
        let count = user.len().min(CAPACITY - self.len);
        let end = (self.start + self.len) % CAPACITY;
        let first = count.min(CAPACITY - end);
        user.copy_in(&mut self.bytes[end..end + first])?;
        user.slice(first, count - first)?.copy_in(&mut self.bytes[..count - first])?;
        self.len += count;
        Ok(count)
    }
}

struct State {
    queue: Queue,
    /// What [`SET_MASK`] fixed; `None`: as the queue is.
    fixed: Option<PollEvents>,
    waits: u64,
    interrupted: u64,
    waiting: u64,
}

impl State {
    fn mask(&self) -> PollEvents {
        if let Some(mask) = self.fixed {
            return mask;
        }
        let mut mask = PollEvents::NONE;
        if self.queue.len > 0 {
            mask = mask.union(PollEvents::IN).union(PollEvents::RDNORM);
        }
        if self.queue.len < CAPACITY {
            mask = mask.union(PollEvents::OUT).union(PollEvents::WRNORM);
        }
        mask
    }
}

/// The device: its state, and one queue for everybody who waits.
pub struct Events<P: Platform> {
    state: P::Lock<State>,
    changed: P::WaitQueue,
}

impl<P: Platform> Events<P> {
    /// Makes an empty queue.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(platform: &P, _options: &Options) -> Result<Events<P>, Errno> {
        let queue = Queue { bytes: [0; CAPACITY], start: 0, len: 0 };
        let state = State { queue, fixed: None, waits: 0, interrupted: 0, waiting: 0 };
        Ok(Events { state: platform.lock(state)?, changed: platform.wait_queue()? })
    }

    /// Changes the state, then wakes everybody to look at it.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = self.state.with(change);
        self.changed.wake_all();
        result
    }

    /// Waits until `attempt` answers `Some`.
    ///
    /// # Errors
    /// `EAGAIN` where that would wait and `nonblocking`; `ERESTARTSYS`.
    fn wait<T>(
        &self,
        nonblocking: bool,
        mut attempt: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, Errno> {
        if let Some(result) = self.state.with(&mut attempt) {
            return Ok(result);
        }
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        self.state.with(|state| {
            state.waits += 1;
            state.waiting += 1;
        });
        let result = self.changed.wait(|| self.state.with(&mut attempt));
        self.state.with(|state| {
            state.waiting -= 1;
            state.interrupted += u64::from(result.is_err());
        });
        Ok(result?)
    }

    /// [`COPY`]: `from`, `to`, `len` in; `sum` out.
    fn copy(&self, call: &Ioctl<'_>) -> Result<u32, Errno> {
        let user = call.user()?;
        let from = u64::from_ne_bytes(user.array()?);
        let to = u64::from_ne_bytes(user.slice(8, 8)?.array()?);
        let len = u32::from_ne_bytes(user.slice(16, 4)?.array()?);
        if len > MAX_COPY {
            return Err(Errno::EINVAL);
        }
        let (from, to) = (call.at(from, len as usize)?, call.at(to, len as usize)?);
        let mut sum: u32 = 0;
        let mut piece = [0; 256];
        for start in (0..from.len()).step_by(piece.len()) {
            let piece = &mut piece[..(from.len() - start).min(256)];
            from.slice(start, piece.len())?.copy_in(piece)?;
            for byte in piece.iter_mut() {
                sum = sum.wrapping_add(u32::from(*byte));
                *byte = byte.wrapping_add(1);
            }
            to.slice(start, piece.len())?.copy_out(piece)?;
        }
        user.slice(20, 4)?.copy_out(&sum.to_ne_bytes())?;
        Ok(0)
    }
}

impl<P: Platform> Device<P> for Events<P> {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn metadata(&self) -> Metadata {
        Metadata { stream: true, ..Metadata::CHARACTER }
    }

    fn read(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        if transfer.user().is_empty() {
            return Ok(0);
        }
        let taken = self.wait(transfer.flags().nonblocking, |state| {
            (state.queue.len > 0).then(|| state.queue.take(transfer.user()))
        })?;
        self.changed.wake_all();
        taken
    }

    fn write(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        if transfer.user().is_empty() {
            return Ok(0);
        }
        let added = self.wait(transfer.flags().nonblocking, |state| {
            (state.queue.len < CAPACITY).then(|| state.queue.add(transfer.user()))
        })?;
        self.changed.wake_all();
        added
    }

    fn ioctl(&self, _file: &(), call: &Ioctl<'_>) -> Result<u32, Errno> {
        match call.command() {
            SET_MASK => {
                let bits = u32::from_ne_bytes(call.user()?.array()?);
                let mask = (bits != AUTOMATIC).then_some(PollEvents::from_bits(bits));
                self.change(|state| state.fixed = mask);
                Ok(0)
            }
            GET_MASK => {
                let mask = self.state.with(|state| state.mask());
                call.user()?.copy_out(&mask.bits().to_ne_bytes())?;
                Ok(0)
            }
            WAIT_MASK => {
                let user = call.user()?;
                let wanted = PollEvents::from_bits(u32::from_ne_bytes(user.array()?));
                let found = self.wait(call.flags().nonblocking, |state| {
                    let found = state.mask().intersection(wanted);
                    (!found.is_empty()).then_some(found)
                })?;
                user.copy_out(&found.bits().to_ne_bytes())?;
                Ok(0)
            }
            SLEEP => self.wait(false, |_| None),
            INVERT => {
                let user = call.user()?;
                let mut bytes = [0; 88];
                user.copy_in(&mut bytes)?;
                for word in bytes.as_chunks_mut().0 {
                    *word = (!u64::from_ne_bytes(*word)).to_ne_bytes();
                }
                user.copy_out(&bytes)?;
                Ok(0)
            }
            COPY => self.copy(call),
            COUNT => Ok(self.state.with(|state| state.queue.len as u32)),
            STATS => {
                let stats = self.state.with(|s| [s.waits, s.interrupted, s.waiting]);
                let mut bytes = [0; 24];
                for (to, from) in bytes.chunks_mut(8).zip(stats) {
                    to.copy_from_slice(&from.to_ne_bytes());
                }
                call.user()?.copy_out(&bytes)?;
                Ok(0)
            }
            RESET => {
                self.change(|state| {
                    state.queue.len = 0;
                    state.fixed = None;
                    state.waits = 0;
                    state.interrupted = 0;
                });
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn poll(&self, _file: &(), table: &mut dyn PollTable<P::WaitQueue>) -> PollEvents {
        table.register(&self.changed);
        self.state.with(|state| state.mask())
    }
}
