//! The threads of clients whose waits are ended, or begun anew, since a device has something to
//! say (`waits`): one worker at a time for each, in the order in which it was asked for.
//!
//! A client's thread may not stop for as long as it likes, as in `vfork`, and its memory may be
//! where nobody supplies it (`userfaultfd`). So who asks waits while there is progress, and goes on
//! where there is none: the worker is lost to that one thread of a client, and nobody else.

use std::{
    cell::Cell,
    collections::{
        HashMap, VecDeque,
        hash_map::Entry::{Occupied, Vacant},
    },
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock, Weak},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    Trapped,
    waits::{self, Watch},
};
use crate::{
    Core,
    pool::{self, PATIENCE},
};

/// Times of [`PATIENCE`] that a thread may take, whatever it does.
const MOST: usize = 100;

/// As many workers are kept when there is nothing to do.
const KEEP: usize = 2;

/// What is to be done with a thread.
pub(super) enum Task {
    /// See `waits::end`.
    End(Watch),
    /// See `waits::restart`.
    Restart,
}

impl Task {
    /// Whether this one does what the other is to do, since a thread makes one call at a time.
    fn replaces(&self, other: &Task) -> bool {
        matches!((self, other), (Task::End(_), Task::End(_)) | (Task::Restart, Task::Restart))
    }
}

/// How long who has several threads told waits for those that make no progress.
pub(super) struct Patience(Cell<usize>);

impl Patience {
    pub(super) fn new() -> Patience {
        Patience(Cell::new(2))
    }
}

struct Job {
    task: Task,
    /// Whether the thread waits on, once it is done.
    done: Arc<OnceLock<bool>>,
}

/// A thread of a client.
#[derive(Default)]
struct Told {
    jobs: VecDeque<Job>,
    worker: Option<u32>,
    /// It made no progress: nobody waits for it.
    is_late: bool,
}

#[derive(Default)]
struct State {
    /// Those of which not all jobs are done.
    threads: HashMap<u32, Told>,
    /// Those that have no worker yet.
    queue: VecDeque<u32>,
    /// Workers that wait for one.
    idle: usize,
}

#[derive(Default)]
pub(super) struct Tellers {
    core: OnceLock<Weak<Core>>,
    state: Mutex<State>,
    queued: Condvar,
    done: Condvar,
}

impl Tellers {
    /// Workers are started for this core.
    pub(super) fn serve(&self, core: &Arc<Core>) {
        self.core.get_or_init(|| Arc::downgrade(core));
    }

    /// Has something done with a thread. Whether it waits on, as far as is known.
    pub(super) fn ask(
        &self,
        trapped: &Trapped,
        tid: u32,
        task: Task,
        Patience(left): &Patience,
    ) -> bool {
        let done = Arc::new(OnceLock::new());
        let mut state = self.state.lock();
        let (told, is_new) = match state.threads.entry(tid) {
            Occupied(told) => (told.into_mut(), false),
            Vacant(place) => (place.insert(Told::default()), true),
        };
        told.is_late |= left.get() == 0;
        let is_late = told.is_late;
        if is_late {
            // Who asked for it before may wait for it yet.
            told.jobs.retain(|job| !task.replaces(&job.task) || job.done.set(true).is_err());
            self.done.notify_all();
        }
        told.jobs.push_back(Job { task, done: done.clone() });
        if is_new {
            state.queue.push_back(tid);
            if state.idle < state.queue.len() && !self.start() {
                state.queue.retain(|queued| *queued != tid);
                self.work_for(trapped, &mut state, tid);
            }
            self.queued.notify_one();
        }
        if is_late {
            return true;
        }
        // A thread that runs may run for ever, and its worker be stuck in its memory.
        let mut rounds = 0;
        loop {
            if let Some(waits_on) = done.get() {
                return *waits_on;
            }
            if !self.done.wait_for(&mut state, PATIENCE).timed_out() {
                continue;
            }
            let worker = state.threads.get(&tid).and_then(|told| told.worker);
            let goes_on = || worker.is_none_or(pool::is_runnable) || pool::is_runnable(tid);
            rounds += 1;
            if rounds < MOST && MutexGuard::unlocked(&mut state, goes_on) {
                continue;
            }
            left.set(left.get().saturating_sub(1));
            if left.get() == 0
                && done.get().is_none()
                && let Some(told) = state.threads.get_mut(&tid)
            {
                told.is_late = true;
                return true;
            }
        }
    }

    /// Starts a worker. False where there can be none: who asks does it.
    fn start(&self) -> bool {
        let Some(core) = self.core.get().and_then(Weak::upgrade) else { return false };
        let work = move || {
            if let Some(trapped) = &core.trapped {
                trapped.tellers.work(trapped);
            }
        };
        std::thread::Builder::new().name("devmap-tells".into()).spawn(work).is_ok()
    }

    fn work(&self, trapped: &Trapped) {
        let mut state = self.state.lock();
        loop {
            while let Some(tid) = state.queue.pop_front() {
                self.work_for(trapped, &mut state, tid);
            }
            if state.idle >= KEEP {
                return;
            }
            state.idle += 1;
            while state.queue.is_empty() {
                self.queued.wait(&mut state);
            }
            state.idle -= 1;
        }
    }

    /// Does all that is to be done with a thread.
    fn work_for(&self, trapped: &Trapped, state: &mut MutexGuard<'_, State>, tid: u32) {
        while let Some(told) = state.threads.get_mut(&tid) {
            told.worker = Some(pool::own_thread());
            let Some(job) = told.jobs.pop_front() else {
                state.threads.remove(&tid);
                break;
            };
            let work = || match &job.task {
                Task::End(watch) => waits::end(trapped, watch),
                Task::Restart => {
                    waits::restart(trapped, tid);
                    true
                }
            };
            // Who asks waits for the end of this, whatever it is.
            let waits_on = MutexGuard::unlocked(state, || catch_unwind(AssertUnwindSafe(work)))
                .unwrap_or(false);
            // Nobody else sets it.
            let _ = job.done.set(waits_on);
            self.done.notify_all();
        }
    }
}
