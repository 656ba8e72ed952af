//! Threads that receive requests from one source and serve them.
//!
//! Each thread receives for itself and serves what it got, so a request costs no
//! hand-over. One thread is enough as long as it serves quickly, and is fastest: two
//! that take turns cost a third more. A driver may wait for as long as it likes, so
//! another thread receives as soon as one is known to wait ([`about_to_wait`]), and at
//! the latest when the monitor finds that nobody has been receiving for a while: a driver
//! may block without telling its home. A thread that comes back and finds enough others
//! receiving is kept for the next time.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_sys::arch::nr;
use parking_lot::{Condvar, Mutex};

use crate::{attach, client, threads::LazyThread};

/// What a thread does: receive one request, say so by calling `received` if to serve it may
/// take long, serve it. False when the source is at its end.
pub(crate) type Turn = Box<dyn FnMut(&dyn Fn()) -> bool>;

/// Threads of one source.
pub(crate) struct Pool {
    name: &'static str,
    /// Makes what a thread runs, within that thread.
    make: Box<dyn Fn() -> Turn + Send + Sync>,
    /// How many threads may wait for a request at once, but for moments.
    receivers: usize,
    /// Threads that wait for a request.
    idle: AtomicUsize,
    /// Threads that wait to be asked to receive.
    kept: Mutex<Kept>,
    asked: Condvar,
    /// Requests that were received, so that the monitor sees progress.
    received: AtomicU64,
    /// All threads, by number.
    threads: Mutex<Vec<u32>>,
    over: AtomicBool,
    /// The monitor looks; else it sleeps until a request comes.
    watching: AtomicBool,
    /// How many were received when the monitor last looked.
    seen: AtomicU64,
    /// How often in turn no thread could be started while there was none.
    failed: AtomicUsize,
}

/// Sees to it that each pool has a receiver, and that no thread of a client is held up by being
/// held. Sleeps while nothing happens.
struct Monitor {
    /// Those at which it has to look.
    pools: Mutex<Vec<Arc<Pool>>>,
    work: Condvar,
    thread: LazyThread,
}

static MONITOR: Monitor =
    Monitor { pools: Mutex::new(Vec::new()), work: Condvar::new(), thread: LazyThread::new() };

/// More threads than this are not kept when there is nothing to do.
const KEEP: usize = 2;

/// Times of [`PATIENCE`] that a source may be without any thread. Then the supervisor ends, for
/// those who wait for it would wait for ever.
const MOST: usize = 100;

#[derive(Default)]
struct Kept {
    count: usize,
    /// How many of them shall receive.
    asked: usize,
}

/// How long a source may be without a receiver.
pub(crate) const PATIENCE: Duration = Duration::from_millis(10);

/// This thread's number.
pub(crate) fn own_thread() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

/// Whether a thread of this process is not blocked: it will go on by itself, however long it
/// waits for a processor.
pub(crate) fn is_runnable(tid: u32) -> bool {
    client::blocked_in(tid).is_none()
}

/// Times of [`PATIENCE`] in turn that a thread must be found blocked before it counts as one
/// that will not go on: it may wait for a lock, or for memory.
pub(crate) const BLOCKED: usize = 10;

/// Tries what itself waits for [`PATIENCE`], again as long as those that it waits for are
/// runnable (`Err(true)`) now and then, for a second.
pub(crate) fn patiently<T>(mut attempt: impl FnMut() -> Result<T, bool>) -> Option<T> {
    let mut blocked = 0;
    for _ in 0..MOST {
        match attempt() {
            Ok(done) => return Some(done),
            Err(true) => blocked = 0,
            Err(false) => blocked += 1,
        }
        if blocked == BLOCKED {
            break;
        }
    }
    None
}

/// Waits until it is so, as long as [`patiently`] does: `goes_on` says whether those that it
/// waits for are runnable. Whether it is so.
pub(crate) fn wait_until(is_so: impl Fn() -> bool, goes_on: impl Fn() -> bool) -> bool {
    let so = patiently(|| {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            if Instant::now() > deadline {
                return Err(goes_on());
            }
            std::thread::yield_now();
        }
        Ok(())
    });
    so.is_some()
}

thread_local! {
    /// The pool that this thread is of.
    static OWN: RefCell<Option<Arc<Pool>>> = const { RefCell::new(None) };
}

/// This thread is about to wait for long: another one of its pool shall receive. Whether one
/// does.
pub(crate) fn about_to_wait() -> bool {
    OWN.with_borrow(|pool| {
        pool.as_ref().is_none_or(|pool| {
            // With the lock nobody counts as idle whose thread may not start.
            let mut kept = pool.kept.lock();
            pool.idle.load(Ordering::SeqCst) > 0 || pool.add_receiver(&mut kept)
        })
    })
}

/// The monitor shall look after threads that are about to be held (`attach::relieve`).
pub(crate) fn attend() {
    MONITOR.attend();
}

impl Pool {
    pub(crate) fn start(
        name: &'static str,
        receivers: usize,
        make: impl Fn() -> Turn + Send + Sync + 'static,
    ) -> Result<Arc<Pool>, String> {
        let pool = Arc::new(Pool {
            name,
            make: Box::new(make),
            receivers,
            idle: AtomicUsize::new(0),
            kept: Mutex::default(),
            asked: Condvar::new(),
            received: AtomicU64::new(0),
            threads: Mutex::default(),
            over: AtomicBool::new(false),
            watching: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            failed: AtomicUsize::new(0),
        });
        // Else the monitor starts another.
        let starts = pool.add_receiver(&mut pool.kept.lock());
        if starts || MONITOR.watch(&pool) {
            Ok(pool)
        } else {
            Err(format!("no thread can be started for {name}"))
        }
    }

    /// Whether all threads but `waiting` ones wait for a request. A thread that has just
    /// received one counts as waiting: look at the threads themselves too.
    pub(crate) fn is_quiet(&self, waiting: usize) -> bool {
        let threads = self.threads.lock();
        let receives =
            |tid: &&u32| client::blocked_in(**tid).is_some_and(|(call, _)| call == nr::READ);
        let kept = self.kept.lock().count;
        threads.iter().filter(receives).count() + kept + waiting >= threads.len()
    }

    /// Whether the source is at its end.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn add_receiver(self: &Arc<Pool>, kept: &mut Kept) -> bool {
        self.idle.fetch_add(1, Ordering::SeqCst);
        if kept.count > kept.asked {
            kept.asked += 1;
            self.asked.notify_one();
            return true;
        }
        let pool = self.clone();
        let spawned = spawn(self.name.into(), move || pool.run());
        if !spawned {
            self.idle.fetch_sub(1, Ordering::SeqCst);
        }
        spawned
    }

    fn run(self: &Arc<Pool>) {
        let tid = own_thread();
        self.threads.lock().push(tid);
        OWN.set(Some(self.clone()));
        let mut turn = (self.make)();
        let busy = Cell::new(false);
        let received = || {
            busy.set(true);
            self.idle.fetch_sub(1, Ordering::SeqCst);
            self.received.fetch_add(1, Ordering::SeqCst);
            if !self.watching.load(Ordering::SeqCst) {
                MONITOR.watch(self);
            }
        };
        'turns: loop {
            if !turn(&received) {
                // It was idle to the end.
                self.idle.fetch_sub(1, Ordering::SeqCst);
                let _kept = self.kept.lock();
                self.over.store(true, Ordering::SeqCst);
                self.asked.notify_all();
                break;
            }
            if !busy.replace(false) {
                continue;
            }
            // Whoever it was that received may have received meanwhile.
            while self.idle.fetch_add(1, Ordering::SeqCst) >= self.receivers {
                if self.idle.fetch_sub(1, Ordering::SeqCst) > self.receivers {
                    if !self.is_asked() {
                        break 'turns;
                    }
                    break;
                }
            }
        }
        self.threads.lock().retain(|other| *other != tid);
    }

    /// Waits to be asked to receive, counted as idle by who asks; false: not needed.
    fn is_asked(&self) -> bool {
        let mut kept = self.kept.lock();
        if kept.count >= KEEP {
            return false;
        }
        kept.count += 1;
        while kept.asked == 0 && !self.is_over() {
            self.asked.wait(&mut kept);
        }
        kept.count -= 1;
        let is_asked = kept.asked > 0;
        kept.asked -= usize::from(is_asked);
        is_asked
    }

    /// Adds a receiver if there is none. Whether the monitor has to look again. Its lock is
    /// held, without which nobody but this sets `watching`.
    fn look(self: &Arc<Pool>) -> bool {
        let received = self.received.load(Ordering::SeqCst);
        if self.seen.swap(received, Ordering::SeqCst) == received {
            if self.idle.load(Ordering::SeqCst) > 0 || self.is_over() {
                self.watching.store(false, Ordering::SeqCst);
                // A request that came meanwhile may have found it watching.
                let missed = self.received.load(Ordering::SeqCst) != received;
                self.watching.store(missed, Ordering::SeqCst);
                return missed;
            }
            // Its lock is not held together with that of `threads`, in this order.
            let is_added = self.add_receiver(&mut self.kept.lock());
            if is_added || !self.threads.lock().is_empty() {
                self.failed.store(0, Ordering::SeqCst);
            } else if self.failed.fetch_add(1, Ordering::SeqCst) >= MOST {
                let name = self.name;
                crate::report(format_args!("no thread can be started for {name}; all devices end"));
                std::process::exit(125);
            }
        }
        true
    }
}

impl Monitor {
    /// Whether it does.
    fn watch(&'static self, pool: &Arc<Pool>) -> bool {
        let mut pools = self.pools.lock();
        let runs = self.thread.start("devmap-watch", || self.run());
        if runs && !pool.watching.swap(true, Ordering::SeqCst) {
            pools.push(pool.clone());
            self.work.notify_one();
        }
        runs
    }

    fn attend(&'static self) {
        // With the lock it does not go to sleep meanwhile.
        let _pools = self.pools.lock();
        self.thread.start("devmap-watch", || self.run());
        self.work.notify_one();
    }

    fn run(&self) {
        loop {
            let mut pools = self.pools.lock();
            while pools.is_empty() && !attach::relieve() {
                self.work.wait(&mut pools);
            }
            drop(pools);
            std::thread::sleep(PATIENCE);
            attach::relieve();
            self.pools.lock().retain(Pool::look);
        }
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> bool {
    let spawned = std::thread::Builder::new().name(name).spawn(run);
    if let Err(error) = &spawned {
        crate::report_once(format_args!(
            "cannot start another thread: {}; while a driver waits, other programs wait",
            crate::with_remedy(error)
        ));
    }
    spawned.is_ok()
}
