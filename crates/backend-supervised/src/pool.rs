//! Threads that receive requests from one source and serve them.
//!
//! Each thread receives for itself and serves what it got, so a request costs no
//! hand-over. A driver may wait for as long as it likes: before a request is served,
//! another thread stands ready to receive the next.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use devmap_sys::arch::nr;
use parking_lot::Mutex;

use crate::client;

/// What a thread does: receive one request, say so by calling `received`, serve it.
/// False when the source is at its end.
pub(crate) type Turn = Box<dyn FnMut(&dyn Fn()) -> bool>;

/// Threads of one source.
pub(crate) struct Pool {
    name: &'static str,
    /// Makes what a thread runs, within that thread.
    make: Box<dyn Fn() -> Turn + Send + Sync>,
    /// Threads that wait for a request.
    idle: AtomicUsize,
    /// All threads, by number.
    threads: Mutex<Vec<u32>>,
    over: AtomicBool,
}

/// More threads than this do not stay when there is nothing to do.
const KEEP_IDLE: usize = 4;

impl Pool {
    pub(crate) fn start(
        name: &'static str,
        make: impl Fn() -> Turn + Send + Sync + 'static,
    ) -> Arc<Pool> {
        let pool = Arc::new(Pool {
            name,
            make: Box::new(make),
            idle: AtomicUsize::new(0),
            threads: Mutex::default(),
            over: AtomicBool::new(false),
        });
        pool.spawn();
        pool
    }

    /// Whether all threads but `waiting` ones wait for a request. A thread that has just
    /// received one counts as waiting: look at the threads themselves too.
    pub(crate) fn is_quiet(&self, waiting: usize) -> bool {
        let threads = self.threads.lock();
        let receiving = threads.iter().filter(|tid| client::blocked_in(**tid).is_some_and(|(call, _)| call == nr::READ));
        receiving.count() + waiting >= threads.len()
    }

    /// Whether the source is at its end.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn spawn(self: &Arc<Pool>) {
        self.idle.fetch_add(1, Ordering::SeqCst);
        let pool = self.clone();
        let spawned = std::thread::Builder::new().name(self.name.into()).spawn(move || pool.run());
        if let Err(error) = spawned {
            self.idle.fetch_sub(1, Ordering::SeqCst);
            crate::report_once(format_args!(
                "cannot start another thread: {error}; while a driver waits, other programs wait"
            ));
        }
    }

    fn run(self: &Arc<Pool>) {
        let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        self.threads.lock().push(tid);
        let mut turn = (self.make)();
        loop {
            let received = || {
                if self.idle.fetch_sub(1, Ordering::SeqCst) == 1 {
                    self.spawn();
                }
            };
            let more = turn(&received);
            if !more {
                self.over.store(true, Ordering::SeqCst);
            }
            // At its end the source gave no request, so this thread is idle still.
            let idle = if more { self.idle.fetch_add(1, Ordering::SeqCst) } else { usize::MAX };
            if idle >= KEEP_IDLE {
                self.idle.fetch_sub(1, Ordering::SeqCst);
                self.threads.lock().retain(|other| *other != tid);
                return;
            }
        }
    }
}
