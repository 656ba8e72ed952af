//! What drivers ask of this home: memory, locks, wait queues, a clock that only moves
//! when the test moves it. Not the calls of programs, which are in `kernel`.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

use devmap_driver::{Errno, Interrupted, Lock, Memory, PageSize, Platform, WaitQueue};
use devmap_mm::Frame;

use crate::{Failures, PageFrame};

/// No code of others runs under the locks of this module but a driver's own closure, and
/// a test that saw it panic ends.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The simulated platform. Clones are the same.
#[derive(Clone)]
pub struct SimPlatform {
    page_size: PageSize,
    failures: Failures,
    clock: Arc<Mutex<Duration>>,
    waits: Arc<Waits>,
}

/// Everybody who waits, of all queues.
struct Waits {
    /// The thread that made the platform: the test's own.
    home: ThreadId,
    state: Mutex<WaitState>,
    changed: Condvar,
}

#[derive(Default)]
struct WaitState {
    /// Counts the wakes of all queues.
    wakes: u64,
    /// How many wait now.
    waiting: usize,
    /// Waits to end by a signal: now, or as soon as they begin.
    signals: usize,
}

impl SimPlatform {
    pub(crate) fn new(page_size: PageSize, failures: Failures) -> SimPlatform {
        let home = thread::current().id();
        let waits = Waits { home, state: Mutex::default(), changed: Condvar::new() };
        SimPlatform { page_size, failures, clock: Arc::default(), waits: Arc::new(waits) }
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        *held(&self.clock) += by;
    }

    /// Ends one wait, now or the next, as a signal to its caller would.
    pub fn signal(&self) {
        held(&self.waits.state).signals += 1;
        self.waits.changed.notify_all();
    }

    /// A queue of the home's own, on which every wake of a driver's is seen.
    pub(crate) fn any_queue(&self) -> SimQueue {
        SimQueue(self.waits.clone())
    }

    /// Returns once `count` callers wait.
    pub fn until_waiting(&self, count: usize) {
        let state = held(&self.waits.state);
        let fewer = |state: &mut WaitState| state.waiting < count;
        drop(self.waits.changed.wait_while(state, fewer).unwrap_or_else(PoisonError::into_inner));
    }

    fn memory(&self, bytes: u64) -> Result<SimMemory, Errno> {
        if bytes == 0 {
            return Err(Errno::EINVAL);
        }
        if self.failures.allocations().happens() {
            return Err(Errno::ENOMEM);
        }
        let (pages, len) = (self.page_size.pages_for(bytes), self.page_size.bytes() as usize);
        let frames = (0..pages).map(|_| PageFrame::new(len)).collect();
        Ok(SimMemory { frames, page_size: self.page_size })
    }
}

impl Platform for SimPlatform {
    type Memory = SimMemory;
    type Lock<T: Send + 'static> = SimLock<T>;
    type WaitQueue = SimQueue;

    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn contiguous(&self, bytes: u64) -> Result<SimMemory, Errno> {
        self.memory(bytes)
    }

    fn scattered(&self, bytes: u64) -> Result<SimMemory, Errno> {
        self.memory(bytes)
    }

    fn lock<T: Send + 'static>(&self, value: T) -> Result<SimLock<T>, Errno> {
        if self.failures.allocations().happens() {
            return Err(Errno::ENOMEM);
        }
        Ok(SimLock(Mutex::new(value)))
    }

    fn wait_queue(&self) -> Result<SimQueue, Errno> {
        if self.failures.allocations().happens() {
            return Err(Errno::ENOMEM);
        }
        Ok(SimQueue(self.waits.clone()))
    }

    fn now(&self) -> Duration {
        *held(&self.clock)
    }
}

/// A driver's memory: page frames, which programs map as they are.
#[derive(Clone, Debug)]
pub struct SimMemory {
    frames: Arc<[PageFrame]>,
    page_size: PageSize,
}

impl SimMemory {
    /// The frames of a range of pages; `None` when they are not all inside.
    pub(crate) fn frames(&self, first: u64, pages: u64) -> Option<&[PageFrame]> {
        let first = usize::try_from(first).ok()?;
        self.frames.get(first..first.checked_add(usize::try_from(pages).ok()?)?)
    }

    /// Calls `copy` for each page that the range touches: the frame, the offset in it,
    /// and the part of the range.
    fn each(
        &self,
        offset: u64,
        len: usize,
        mut copy: impl FnMut(&PageFrame, usize, std::ops::Range<usize>),
    ) -> Result<(), Errno> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len()) {
            return Err(Errno::EINVAL);
        }
        let page_bytes = self.page_size.bytes() as usize;
        let mut done = 0;
        while done < len {
            let at = offset as usize + done;
            let part = (page_bytes - at % page_bytes).min(len - done);
            copy(&self.frames[at / page_bytes], at % page_bytes, done..done + part);
            done += part;
        }
        Ok(())
    }
}

impl Memory for SimMemory {
    fn pages(&self) -> u64 {
        self.frames.len() as u64
    }

    fn len(&self) -> u64 {
        self.pages() * self.page_size.bytes()
    }

    fn is_mapped(&self) -> bool {
        // A frame that is mapped has a second handle, in the engine.
        self.frames.iter().any(|frame| frame.handles() > 1)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.each(offset, into.len(), |frame, at, part| frame.read(at, &mut into[part]))
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Errno> {
        self.each(offset, from.len(), |frame, at, part| frame.write(at, &from[part]))
    }
}

/// A driver's lock.
pub struct SimLock<T>(Mutex<T>);

impl<T: Send> Lock<T> for SimLock<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut held(&self.0))
    }
}

/// A driver's wait queue. A wake of one makes the waiters of all look again, which a
/// driver must stand anyway.
pub struct SimQueue(Arc<Waits>);

impl WaitQueue for SimQueue {
    fn wake_all(&self) {
        held(&self.0.state).wakes += 1;
        self.0.changed.notify_all();
    }

    /// The thread that made the platform never waits: its waits end at once, as by a
    /// signal. So a test in one thread never hangs.
    fn wait<T>(&self, mut condition: impl FnMut() -> Option<T>) -> Result<T, Interrupted> {
        loop {
            let seen = held(&self.0.state).wakes;
            if let Some(result) = condition() {
                return Ok(result);
            }
            let mut state = held(&self.0.state);
            state.waiting += 1;
            self.0.changed.notify_all();
            let waits = thread::current().id() != self.0.home;
            let nothing =
                |state: &mut WaitState| waits && state.wakes == seen && state.signals == 0;
            let mut state =
                self.0.changed.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
            if state.wakes != seen {
                continue;
            }
            state.signals = state.signals.saturating_sub(1);
            return Err(Interrupted);
        }
    }
}
