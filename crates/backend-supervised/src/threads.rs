//! Threads that are started when there is first something for them to do: each costs a
//! short program's run about as much as a system call of the program's own costs a
//! hundred times.
//!
//! What does not live here: threads that receive requests (`pool`).

use std::sync::atomic::{AtomicBool, Ordering};

/// A thread that runs for ever, once it was needed.
#[derive(Default)]
pub(crate) struct LazyThread(AtomicBool);

impl LazyThread {
    /// One that does not run yet.
    pub(crate) const fn new() -> LazyThread {
        LazyThread(AtomicBool::new(false))
    }

    /// Starts the thread unless it runs. Where it cannot be started, that is said once, and
    /// the next caller tries again. Whether it runs.
    pub(crate) fn start(&self, name: &'static str, run: impl FnOnce() + Send + 'static) -> bool {
        if self.0.load(Ordering::Acquire) || self.0.swap(true, Ordering::AcqRel) {
            return true;
        }
        let started = std::thread::Builder::new().name(name.into()).spawn(run);
        if let Err(error) = &started {
            self.0.store(false, Ordering::Release);
            let error = crate::with_remedy(error);
            crate::report_once(format_args!("cannot start the thread {name}: {error}"));
        }
        started.is_ok()
    }
}
