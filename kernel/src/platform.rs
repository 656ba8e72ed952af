//! What a driver may ask of the kernel: locks, wait queues, a clock, and (from
//! `memory`) pages.
//!
//! What does not live here: what the kernel asks of a driver (`device`).

use core::{cell::UnsafeCell, ffi::c_void, ptr::NonNull, time::Duration};

use devmap_driver::{Errno, Interrupted, Lock, PageSize, Platform, WaitQueue};

use crate::{memory::KernelMemory, shim};

/// The kernel, as a driver's home.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

impl Platform for Kernel {
    type Memory = KernelMemory;
    type Lock<T: Send + 'static> = Mutex<T>;
    type WaitQueue = Queue;

    fn page_size(&self) -> PageSize {
        page_size()
    }

    fn contiguous(&self, bytes: u64) -> Result<KernelMemory, Errno> {
        KernelMemory::new(bytes, true)
    }

    fn scattered(&self, bytes: u64) -> Result<KernelMemory, Errno> {
        KernelMemory::new(bytes, false)
    }

    fn lock<T: Send + 'static>(&self, value: T) -> Result<Mutex<T>, Errno> {
        let mutex = NonNull::new(shim::devmap_mutex_new()).ok_or(Errno::ENOMEM)?;
        // INVARIANT: a new mutex, which only this lock knows.
        Ok(Mutex { mutex, value: UnsafeCell::new(value) })
    }

    fn wait_queue(&self) -> Result<Queue, Errno> {
        // INVARIANT: a new queue, which only this value knows.
        NonNull::new(shim::devmap_queue_new()).map(Queue).ok_or(Errno::ENOMEM)
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(shim::devmap_now())
    }
}

/// `PAGE_SIZE`.
pub fn page_size() -> PageSize {
    PageSize::new(u64::from(shim::devmap_page_size())).expect("PAGE_SIZE is a power of two")
}

/// `struct mutex` around a value.
///
/// # Invariants
/// `mutex` is an initialised mutex that this value alone owns; `value` is touched
/// only with it held.
pub struct Mutex<T> {
    mutex: NonNull<c_void>,
    value: UnsafeCell<T>,
}

// SAFETY: the value goes with the lock, and a mutex belongs to no thread.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: by the invariant one thread at a time reaches the value.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T: Send> Lock<T> for Mutex<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: by the invariant it is a mutex.
        unsafe { shim::devmap_mutex_lock(self.mutex.as_ptr()) };
        // SAFETY: the mutex is held, so by the invariant nobody else has a
        // reference. A closure that takes the same lock again deadlocks before it
        // gets here; a panic never returns.
        let result = f(unsafe { &mut *self.value.get() });
        // SAFETY: locked above, by this thread.
        unsafe { shim::devmap_mutex_unlock(self.mutex.as_ptr()) };
        result
    }
}

impl<T> Drop for Mutex<T> {
    fn drop(&mut self) {
        // SAFETY: by the invariant it is ours, and &mut self says nobody holds it.
        unsafe { shim::devmap_free(self.mutex.as_ptr()) };
    }
}

/// `wait_queue_head_t`.
///
/// # Invariants
/// The pointer is to an initialised queue that this value alone owns. Nobody waits
/// on it when it is dropped: waiters borrow it, and pollers are gone before the open
/// file or the device that holds it.
pub struct Queue(NonNull<c_void>);

// SAFETY: a wait queue has a lock of its own and belongs to no thread.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// For `poll_wait`.
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.0.as_ptr()
    }
}

impl WaitQueue for Queue {
    fn wake_all(&self) {
        // SAFETY: by the invariant it is a wait queue.
        unsafe { shim::devmap_queue_wake(self.as_ptr()) };
    }

    fn wait<T>(&self, condition: impl FnMut() -> Option<T>) -> Result<T, Interrupted> {
        struct Wait<T, F> {
            condition: F,
            answer: Option<T>,
        }
        unsafe extern "C" fn ready<T, F: FnMut() -> Option<T>>(data: *mut c_void) -> bool {
            // SAFETY: devmap_queue_wait hands back the `wait` given below, which no
            // one else uses before it returns.
            let wait = unsafe { &mut *data.cast::<Wait<T, F>>() };
            wait.answer = (wait.condition)();
            wait.answer.is_some()
        }
        fn ready_of<T, F: FnMut() -> Option<T>>(
            _: &Wait<T, F>,
        ) -> unsafe extern "C" fn(*mut c_void) -> bool {
            ready::<T, F>
        }
        let mut wait = Wait { condition, answer: None };
        let ready = ready_of(&wait);
        let data = (&raw mut wait).cast();
        // SAFETY: by the invariant it is a wait queue; `ready` is given only `data`,
        // and only before this call returns.
        unsafe { shim::devmap_queue_wait(self.as_ptr(), ready, data) };
        wait.answer.ok_or(Interrupted)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: by the invariant it is ours and nobody waits.
        unsafe { shim::devmap_free(self.as_ptr()) };
    }
}
