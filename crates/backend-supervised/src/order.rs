//! In which order the requests of FUSE are served: as they come, but that the end of an
//! open file is served before what follows it. Who receives and serves them is not here
//! (`run`, `pool`).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::pool;

/// The order of the ends of open files: each is served before what comes after it is
/// received. `close` does not wait for it, and the program's next call shall find the file
/// gone, as it does in the kernel. A driver that blocks in its release is not waited for.
#[derive(Default)]
pub(crate) struct Order {
    /// Held while a request is received, and while the end of an open file is served.
    turn: Mutex<()>,
    /// Threads that wait for it: they have nothing to serve.
    queued: AtomicUsize,
    /// The thread that serves the end of an open file, or 0.
    releasing: AtomicU32,
    /// That thread is blocked: nobody waits for it any more.
    is_blocked: AtomicBool,
}

impl Order {
    /// Waits to be the one who receives. `None`: without order, for a driver blocks.
    pub(crate) fn enter(&self) -> Option<MutexGuard<'_, ()>> {
        self.queued.fetch_add(1, Ordering::SeqCst);
        let mut blocked = 0;
        let entered = loop {
            if let Some(entered) = self.turn.try_lock() {
                break Some(entered);
            }
            if self.is_blocked.load(Ordering::SeqCst) && self.releasing.load(Ordering::SeqCst) != 0
            {
                break None;
            }
            if let Some(entered) = self.turn.try_lock_for(pool::PATIENCE) {
                break Some(entered);
            }
            let releasing = self.releasing.load(Ordering::SeqCst);
            let runs = releasing == 0 || pool::is_runnable(releasing);
            blocked = if runs { 0 } else { blocked + 1 };
            if blocked == pool::BLOCKED {
                self.is_blocked.store(true, Ordering::SeqCst);
            }
        };
        self.queued.fetch_sub(1, Ordering::SeqCst);
        entered
    }

    /// Serves the end of an open file; with `entered`, before anything else is received.
    pub(crate) fn release(&self, entered: Option<MutexGuard<'_, ()>>, serve: impl FnOnce()) {
        if entered.is_some() {
            self.is_blocked.store(false, Ordering::SeqCst);
            self.releasing.store(pool::own_thread(), Ordering::SeqCst);
        }
        serve();
        if entered.is_some() {
            self.releasing.store(0, Ordering::SeqCst);
        }
    }

    /// Threads that wait to be the one who receives.
    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Ordering::SeqCst)
    }
}
