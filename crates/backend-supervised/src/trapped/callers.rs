//! Which threads make a notified call now, and which are stopped because a device has become
//! ready for them (`waits`): they exclude each other. A thread that waits for the answer to a
//! notification does not stop until it has it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// `ERESTARTNOINTR`: the call is made again, whatever signal comes.
pub(crate) const ERESTARTNOINTR: i32 = 513;

#[derive(Default)]
pub(crate) struct Callers {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The calls that are served.
    served: Vec<Served>,
    /// The threads that are to stop, and whether they have been told to.
    stopping: HashMap<u32, bool>,
}

struct Served {
    /// Of the notification.
    id: u64,
    tid: u32,
    /// It waits for devices here.
    is_waiting: bool,
}

/// A call that is being served.
pub(crate) struct Serving<'a> {
    callers: &'a Callers,
    id: u64,
}

impl Callers {
    /// A call of this thread is to be served. `None`: the thread is about to stop, and does so
    /// on its way out of this call; it is to be told to make it again ([`ERESTARTNOINTR`]).
    pub(crate) fn serve(&self, id: u64, tid: u32) -> Option<Serving<'_>> {
        let mut state = self.state.lock();
        loop {
            match state.stopping.get(&tid) {
                Some(true) => return None,
                Some(false) => self.changed.wait(&mut state),
                None => break,
            }
        }
        state.served.push(Served { id, tid, is_waiting: false });
        Some(Serving { callers: self, id })
    }

    /// The call is going to wait for devices, in the place of its caller.
    pub(super) fn waits(&self, id: u64) {
        let mut state = self.state.lock();
        if let Some(served) = state.served.iter_mut().find(|served| served.id == id) {
            served.is_waiting = true;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The call has been answered: who goes on to stop threads says so before.
    pub(super) fn answered(&self, id: u64) {
        self.state.lock().served.retain(|served| served.id != id);
        self.changed.notify_all();
    }

    /// Waits for the end of a call that was interrupted; not for a driver that waits on.
    pub(crate) fn await_end(&self, id: u64) {
        const PATIENCE: Duration = Duration::from_millis(100);
        let end = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        while state.served.iter().any(|served| served.id == id) {
            if self.changed.wait_until(&mut state, end).timed_out() {
                break;
            }
        }
    }

    /// Begins to stop a thread, once no call of it is served, until [`Callers::stopped`]; one
    /// caller for each thread (`tellers`). False when it waits in a call that is, or when it `is_elsewhere` by
    /// now, in a call that may take long.
    pub(super) fn stop(&self, tid: u32, is_elsewhere: impl Fn() -> bool) -> bool {
        const PERIOD: Duration = Duration::from_millis(1);
        let mut state = self.state.lock();
        while let Some(served) = state.served.iter().find(|served| served.tid == tid) {
            if served.is_waiting {
                return false;
            }
            let is_late = self.changed.wait_for(&mut state, PERIOD).timed_out();
            if is_late && MutexGuard::unlocked(&mut state, &is_elsewhere) {
                return false;
            }
        }
        state.stopping.insert(tid, false);
        true
    }

    /// The thread is on its way to its stop: a call that it makes now stops it.
    pub(super) fn told(&self, tid: u32) {
        self.state.lock().stopping.insert(tid, true);
        self.changed.notify_all();
    }

    /// It has stopped, or does not.
    pub(super) fn stopped(&self, tid: u32) {
        self.state.lock().stopping.remove(&tid);
        self.changed.notify_all();
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.callers.answered(self.id);
    }
}
