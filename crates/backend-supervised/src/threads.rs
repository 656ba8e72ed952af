//! Threads that are started when there is first something for them to do: each costs a
//! short program's run about as much as a system call of the program's own costs a
//! hundred times. And what becomes of a thread for want of memory.
//!
//! What does not live here: threads that receive requests (`pool`).

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

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

/// Errors of a receiver, one after the other.
#[derive(Default)]
pub(crate) struct Failures(u32);

impl Failures {
    /// After which the supervisor ends: those who wait for it would wait for ever.
    const MOST: u32 = 100;

    /// Receives what one attempt gives that does not fail.
    pub(crate) fn receive<T>(what: &str, mut attempt: impl FnMut() -> io::Result<T>) -> T {
        let mut failures = Failures::default();
        loop {
            match attempt() {
                Ok(received) => return received,
                Err(error) => failures.one_more(what, &error),
            }
        }
    }

    /// A lack of memory passes, so it is tried again in a while.
    pub(crate) fn one_more(&mut self, what: &str, error: &io::Error) {
        self.0 += 1;
        if self.0 > Self::MOST {
            crate::report(format_args!("cannot receive {what}: {error}; all devices end"));
            std::process::exit(125);
        }
        crate::report_once(format_args!("cannot receive {what}, and tries again: {error}"));
        std::thread::sleep(Duration::from_millis(10));
    }
}
