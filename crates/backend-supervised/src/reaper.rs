//! Who looks for open files whose last map has gone: woken by inotify, and asked by calls
//! that come after an unmap, or after the death of who had mapped.
//!
//! What does not live here: what a map is known by (`tokens`), and what then is released
//! (`opens`).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{host::HostMemory, notify::is_readable, opens::Opens, pool};

/// Watches for the close of memory files that clients mapped.
pub(crate) struct Reaper {
    closes: OwnedFd,
    looks: Mutex<Looks>,
    changed: Condvar,
}

#[derive(Default)]
struct Looks {
    /// The thread that looks, between an event and the last look that follows from it.
    thread: Option<u32>,
    /// How many looks have been asked for.
    asked: u64,
    /// How many of them have been made.
    made: u64,
    /// A driver blocks in its release: nobody waits for a look any more.
    is_blocked: bool,
}

impl Reaper {
    pub(crate) fn new() -> io::Result<Reaper> {
        let flags = rustix::fs::inotify::CreateFlags::CLOEXEC;
        let closes = rustix::fs::inotify::init(flags)?;
        Ok(Reaper { closes, looks: Mutex::default(), changed: Condvar::new() })
    }

    pub(crate) fn watch(&self, memory: &HostMemory) -> io::Result<()> {
        memory.tokens().watch(self.closes.as_fd())
    }

    /// Releases open files as their last maps go, for ever; for a thread of its own.
    /// After each look comes `then`.
    pub(crate) fn run(&self, opens: &Opens, then: impl Fn()) -> io::Result<()> {
        let mut events = [0; 4096];
        loop {
            let mut fds = [PollFd::new(&self.closes, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
            // Said before the event is taken: who comes after it finds one of the two.
            self.looks.lock().thread = Some(pool::own_thread());
            rustix::io::retry_on_intr(|| rustix::io::read(&self.closes, &mut events))?;
            // The event comes a moment before the file's lock goes: look again for a
            // while, in which a new event may come.
            for pause in [0, 1, 4, 16, 64, 256] {
                let waiting = self.look(opens, Instant::now() + Duration::from_millis(pause));
                if !waiting || is_readable(self.closes.as_fd()) {
                    break;
                }
            }
            while !self.is_done() {
                self.look(opens, Instant::now());
            }
            then();
        }
    }

    /// Whether nobody has asked for another look; then none is to be expected.
    fn is_done(&self) -> bool {
        let mut looks = self.looks.lock();
        let is_done = looks.asked == looks.made;
        if is_done {
            looks.thread = None;
        }
        is_done
    }

    /// Looks at this moment, and before it whenever it is asked to. True when some open files
    /// are still mapped.
    fn look(&self, opens: &Opens, moment: Instant) -> bool {
        loop {
            let mut looks = self.looks.lock();
            while looks.asked == looks.made {
                if self.changed.wait_until(&mut looks, moment).timed_out() {
                    break;
                }
            }
            let asked = looks.asked;
            drop(looks);
            let waiting = opens.reap();
            let mut looks = self.looks.lock();
            looks.made = asked;
            looks.is_blocked = false;
            self.changed.notify_all();
            if looks.asked == asked && (!waiting || Instant::now() >= moment) {
                return waiting;
            }
        }
    }

    /// Has what was unmapped until now released, as the kernel has before `munmap` or the
    /// `wait` for its process returns. A driver that blocks in its release is not waited for.
    pub(crate) fn catch_up(&self, opens: &Opens) {
        if opens.are_released() {
            return;
        }
        let mut looks = self.looks.lock();
        if looks.is_blocked || looks.thread.is_none() && !is_readable(self.closes.as_fd()) {
            return;
        }
        looks.asked += 1;
        let ask = looks.asked;
        self.changed.notify_all();
        drop(looks);
        let made = pool::patiently(|| {
            let deadline = Instant::now() + pool::PATIENCE;
            let mut looks = self.looks.lock();
            while looks.made < ask {
                if self.changed.wait_until(&mut looks, deadline).timed_out() {
                    return Err(looks.thread.is_none_or(pool::is_runnable));
                }
            }
            Ok(())
        });
        if made.is_none() {
            self.looks.lock().is_blocked = true;
        }
    }
}
