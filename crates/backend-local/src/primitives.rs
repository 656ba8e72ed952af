//! Locks, atomics and threads: parking_lot's and the standard library's. In unit tests
//! shuttle's, in the same form, so that a test decides which thread goes on at each: see
//! `schedules`.

#[cfg(not(test))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
#[cfg(test)]
pub(crate) use shuttle::{sync::atomic, thread, thread_local};
#[cfg(test)]
pub(crate) use shuttled::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};
#[cfg(not(test))]
pub(crate) use std::{sync::atomic, thread, thread_local};

/// Others may go on here, as they may anywhere: for the tests, next to what is neither a lock
/// nor an atomic of this module.
#[inline(always)]
pub(crate) fn others_may_go_on() {
    #[cfg(test)]
    atomic::AtomicBool::new(false).load(atomic::Ordering::Relaxed);
}

#[cfg(test)]
mod shuttled {
    use std::{
        ops::{Deref, DerefMut},
        sync::PoisonError,
        time::Duration,
    };

    use shuttle::{
        rand::{Rng, thread_rng},
        sync::{self, RwLockWriteGuard},
        thread,
    };

    pub(crate) use shuttle::sync::RwLockReadGuard;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    pub(crate) struct MutexGuard<'a, T> {
        mutex: &'a Mutex<T>,
        /// `None` while the thread waits, and does not hold it.
        held: Option<sync::MutexGuard<'a, T>>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            MutexGuard { mutex: self, held: Some(held) }
        }
    }

    impl<T> MutexGuard<'_, T> {
        pub(crate) fn unlocked(this: &mut Self, run: impl FnOnce()) {
            this.held = None;
            run();
            this.held = this.mutex.lock().held;
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.held.as_ref().expect("held")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.held.as_mut().expect("held")
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(sync::Condvar);

    pub(crate) struct Waited {
        is_over: bool,
    }

    impl Waited {
        pub(crate) fn timed_out(&self) -> bool {
            self.is_over
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Condvar {
            Condvar::default()
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let held = guard.held.take().expect("held");
            guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
        }

        pub(crate) fn wait_while<T>(
            &self,
            guard: &mut MutexGuard<'_, T>,
            mut condition: impl FnMut(&mut T) -> bool,
        ) {
            while condition(guard) {
                self.wait(guard);
            }
        }

        /// Whether the time is over is part of the schedule.
        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> Waited {
            let is_over = thread_rng().r#gen();
            if is_over {
                MutexGuard::unlocked(guard, thread::yield_now);
            } else {
                self.wait(guard);
            }
            Waited { is_over }
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn try_read_recursive(&self) -> Option<RwLockReadGuard<'_, T>> {
            self.0.try_read().ok()
        }

        pub(crate) fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
            self.0.try_write().ok()
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
