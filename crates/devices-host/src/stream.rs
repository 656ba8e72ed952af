//! How a running stream is reached, by those who call and by those who draw.
//!
//! What does not live here: drawing (`drawing`), and the thread that does it (`thread`).

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{frame::Running, uapi::Time};

/// When a frame is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One each interval; a frame that finds no buffer is lost, as with a sensor.
    Timer,
    /// As soon as the program queues a buffer; none is lost. Stamped as if they came at the
    /// rate, the first when the stream begins, so that nothing depends on the machine's speed.
    Client,
}

/// Locks; a panic elsewhere has left nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a running stream is reached. Its locks are the innermost: they are taken with the
/// device's state locked, so nothing is called while they are held.
pub(crate) struct Stream {
    has_thread: bool,
    /// When it began (`VIDIOC_STREAMON`).
    pub(crate) began: Time,
    signals: Mutex<Signals>,
    changed: Condvar,
    pub(crate) running: Running,
}

#[derive(Default)]
struct Signals {
    is_stopped: bool,
    /// The thread has ended.
    is_over: bool,
    /// How often a buffer was queued.
    kicks: u64,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The moment has come.
    Moment,
    /// A buffer was queued.
    Kicked,
    /// The stream was stopped.
    Stopped,
}

impl Stream {
    /// A stream whose frames a thread draws, or else those who want them.
    pub(crate) fn new(has_thread: bool) -> Stream {
        let signals = Signals { is_over: !has_thread, ..Signals::default() };
        Stream {
            has_thread,
            began: Time::now(),
            signals: Mutex::new(signals),
            changed: Condvar::new(),
            running: Mutex::new(true),
        }
    }

    /// Whether a thread draws its frames.
    pub(crate) fn has_thread(&self) -> bool {
        self.has_thread
    }

    /// Ends the thread, soon. From here on nothing is written to buffers.
    pub(crate) fn stop(&self) {
        *lock(&self.running) = false;
        lock(&self.signals).is_stopped = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        lock(&self.signals).is_stopped
    }

    /// Waits until the thread of a stopped stream has ended, and with it its source.
    pub(crate) fn until_over(&self) {
        let ended = self.changed.wait_while(lock(&self.signals), |signals| !signals.is_over);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn over(&self) {
        lock(&self.signals).is_over = true;
        self.changed.notify_all();
    }

    /// A buffer was queued.
    pub(crate) fn kick(&self) {
        lock(&self.signals).kicks += 1;
        self.changed.notify_all();
    }

    /// How often a buffer was queued until now.
    pub(crate) fn kicks(&self) -> u64 {
        lock(&self.signals).kicks
    }

    /// Waits for a moment, or for a buffer after those that were `seen`.
    pub(crate) fn until(&self, moment: Instant, seen: Option<u64>) -> Waited {
        let mut signals = lock(&self.signals);
        loop {
            if signals.is_stopped {
                return Waited::Stopped;
            }
            if seen.is_some_and(|seen| signals.kicks != seen) {
                return Waited::Kicked;
            }
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::Moment;
            }
            signals =
                self.changed.wait_timeout(signals, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a buffer after those that were `seen`; false: stopped.
    pub(crate) fn until_kicked(&self, seen: u64) -> bool {
        let waits = |signals: &mut Signals| !signals.is_stopped && signals.kicks == seen;
        let signals = self.changed.wait_while(lock(&self.signals), waits);
        !signals.unwrap_or_else(PoisonError::into_inner).is_stopped
    }
}
