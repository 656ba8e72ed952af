//! Who looks for open files whose last map has gone: woken by inotify, and asked by calls
//! that come after an unmap, or after the death of who had mapped. A look at one memory takes
//! the square of its tokens' number (`tokens`), so it is for those of which inotify has told.
//!
//! What does not live here: what a map is known by (`tokens`), and what then is released
//! (`opens`).

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify::ReadFlags,
};

use crate::{
    host::HostMemory, inotify, notify::is_readable, opens::Opens, pool, threads::Failures,
};

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

/// When to look again at a memory after the event of a close, which comes a moment before the
/// file's lock goes: each so many milliseconds after the look before.
const PAUSES: [u64; 6] = [0, 1, 4, 16, 64, 256];

/// So long after it the last look comes.
const SETTLED: Duration = Duration::from_millis(300);

/// What inotify tells, in messages.
const TOLD: &str = "closes of files";

/// So often that something was told, all memories are looked at: a lock may go later than that.
const ROUNDS: u32 = 64;

/// The memories of which files were closed a moment ago.
#[derive(Default)]
pub(crate) struct Changed {
    /// When the last event came, by the number of the memory's watch.
    watches: HashMap<i32, Instant>,
    /// When events were lost.
    all: Option<Instant>,
}

impl Changed {
    /// Whether a map of this memory may have gone.
    pub(crate) fn has(&self, memory: &HostMemory) -> bool {
        let watch = memory.tokens().watch_number();
        self.all.is_some() || watch.is_none_or(|number| self.watches.contains_key(&number))
    }

    /// Reads what has been told. Whether anything was.
    fn read(&mut self, closes: &OwnedFd) -> io::Result<bool> {
        let now = Instant::now();
        inotify::read(closes, |events, watch| {
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.all = Some(now);
            } else {
                self.watches.insert(watch, now);
            }
        })
    }

    /// Forgets those for which a look that began `at` was the last one.
    fn settle(&mut self, at: Instant) {
        let is_fresh = |told: &Instant| at.saturating_duration_since(*told) < SETTLED;
        self.watches.retain(|_, told| is_fresh(told));
        self.all = self.all.filter(is_fresh);
    }
}

/// What came of a look.
struct Looked {
    began: Instant,
    /// Something new was told.
    told: bool,
    /// Some closed files are still mapped, of those that map what has changed.
    waiting: bool,
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
    pub(crate) fn run(&self, opens: &Opens, then: impl Fn()) {
        let (mut changed, mut rounds) = (Changed::default(), 0);
        loop {
            Failures::receive(TOLD, || {
                let mut fds = [PollFd::new(&self.closes, PollFlags::IN)];
                rustix::io::retry_on_intr(|| poll(&mut fds, None)).map_err(io::Error::from)
            });
            // Said before the event is taken: who comes after it finds one of the two.
            self.looks.lock().thread = Some(pool::own_thread());
            let mut pauses = PAUSES.iter();
            loop {
                let pause = match pauses.next() {
                    Some(pause) => *pause,
                    None if self.is_done() => break,
                    None => 0,
                };
                let moment = Instant::now() + Duration::from_millis(pause);
                let Looked { began, told, waiting } = self.look(opens, &mut changed, moment);
                changed.settle(began);
                rounds = (rounds + u32::from(told)) % ROUNDS;
                if told && rounds == 0 {
                    opens.sweep();
                }
                then();
                if !waiting {
                    pauses = [].iter();
                } else if told {
                    pauses = PAUSES[1..].iter();
                }
            }
        }
    }

    /// Whether it has seen to all that was told.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.looks.lock().thread.is_none() && !is_readable(self.closes.as_fd())
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

    /// Looks at this moment, and before it whenever it is asked to, until it is told something.
    fn look(&self, opens: &Opens, changed: &mut Changed, moment: Instant) -> Looked {
        let mut told = false;
        loop {
            let mut looks = self.looks.lock();
            while looks.asked == looks.made {
                if self.changed.wait_until(&mut looks, moment).timed_out() {
                    break;
                }
            }
            let (asked, began) = (looks.asked, Instant::now());
            drop(looks);
            // After the question: what it is about may have been told since the look before.
            told |= Failures::receive(TOLD, || changed.read(&self.closes));
            let waiting = opens.reap(changed);
            let mut looks = self.looks.lock();
            looks.made = asked;
            looks.is_blocked = false;
            self.changed.notify_all();
            if looks.asked == asked && (!waiting || told || Instant::now() >= moment) {
                return Looked { began, told, waiting };
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

#[cfg(test)]
mod tests {
    use devmap_driver::Platform;

    use super::*;
    use crate::Host;

    /// To look at the others would make each close dear for all, once somebody has many maps.
    #[test]
    fn what_is_looked_at_is_what_was_told_of() {
        let host = Host::new();
        let reaper = Reaper::new().unwrap();
        let memories = [(); 2].map(|()| host.scattered(1).unwrap());
        for memory in &memories {
            reaper.watch(memory).unwrap();
            memory.token((1, true)).unwrap();
        }
        let mut changed = Changed::default();
        let seen = |changed: &Changed| memories.each_ref().map(|memory| changed.has(memory));
        assert!(!changed.read(&reaper.closes).unwrap());
        assert_eq!(seen(&changed), [false, false]);
        memories[1].tokens().forget(1);
        assert!(changed.read(&reaper.closes).unwrap());
        assert_eq!(seen(&changed), [false, true]);
        // A look that comes soon is not the last one.
        let told = changed.watches.values().copied().next().unwrap();
        changed.settle(told);
        assert_eq!(seen(&changed), [false, true]);
        changed.settle(told + SETTLED);
        assert_eq!(seen(&changed), [false, false]);
        changed.all = Some(told);
        assert_eq!(seen(&changed), [true, true]);
    }
}
