//! A call that is being served: which thread serves it, and how a wait in it ends
//! when its program gets a signal.
//!
//! What does not live here: finding out that a signal is pending (`watcher`, and
//! `FUSE_INTERRUPT` in `devfs`).

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use devmap_driver::Errno;
use parking_lot::{Condvar, Mutex};

use crate::pool;

/// What must happen around a wait inside a driver's method.
pub(crate) trait WaitHook: Send + Sync {
    /// The serving thread is about to wait, perhaps for long. Whether somebody will tell the
    /// waiter of its caller's signals; else this is asked again.
    fn begin(&self, waiter: &Arc<Waiter>) -> bool;
    /// It goes on.
    fn end(&self, waiter: &Arc<Waiter>);
    /// Whether the caller has been killed, so that its call shall take nothing any more.
    fn is_gone(&self) -> bool {
        false
    }
    /// How many wait now, where that is counted.
    fn waiting(&self) -> usize {
        0
    }
    /// Whether the caller's buffer is one of the home, so that no copy to it fails.
    fn is_buffered(&self) -> bool {
        false
    }
}

/// Hears at once that a call is interrupted: its thread waits by other means than
/// [`Waiter::park`].
pub(crate) trait Interrupt: Send + Sync {
    /// The call has been interrupted. This does not wait: who tells has others to look after.
    fn interrupt(&self);
}

/// One waiting thread.
#[derive(Default)]
pub(crate) struct Waiter {
    woken: Mutex<bool>,
    wake: Condvar,
    interrupted: AtomicBool,
    hears: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl Waiter {
    /// The waiter of the call that this thread serves; a fresh one, which nothing
    /// interrupts, in a driver's own thread.
    pub(crate) fn current() -> Arc<Waiter> {
        CURRENT
            .with_borrow(|call| call.as_ref().map(|call| call.waiter.clone()))
            .unwrap_or_default()
    }

    pub(crate) fn wake(&self) {
        *self.woken.lock() = true;
        self.wake.notify_one();
    }

    /// Ends the wait, or the next one, of the same call. Who hears is told the first time.
    pub(crate) fn interrupt(&self) {
        let was_before = self.interrupted.swap(true, Ordering::SeqCst);
        self.wake();
        if !was_before {
            self.tell();
        }
    }

    /// Has `hears` told of an interruption, also of one that was before; `None` to end it.
    pub(crate) fn set_hears(&self, hears: Option<Arc<dyn Interrupt>>) {
        *self.hears.lock() = hears;
        if self.is_interrupted() {
            self.tell();
        }
    }

    fn tell(&self) {
        let hears = self.hears.lock().clone();
        if let Some(hears) = hears {
            hears.interrupt();
        }
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    pub(crate) fn park(&self) {
        self.park_until(None);
    }

    /// As [`Waiter::park`], until this moment at the latest.
    pub(crate) fn park_until(&self, end: Option<Instant>) {
        let mut woken = self.woken.lock();
        let mut is_over = false;
        while !*woken && !is_over {
            match end {
                Some(end) => is_over = self.wake.wait_until(&mut woken, end).timed_out(),
                None => self.wake.wait(&mut woken),
            }
        }
        *woken = false;
    }
}

#[derive(Clone)]
struct Call {
    waiter: Arc<Waiter>,
    hook: Arc<dyn WaitHook>,
}

thread_local! {
    static CURRENT: RefCell<Option<Call>> = const { RefCell::new(None) };
    /// A wait of the call was refused.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
    /// The call was interrupted.
    static INTERRUPTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `serve` as a call that `waiter` can interrupt.
pub(crate) fn within<R>(
    waiter: Arc<Waiter>,
    hook: Arc<dyn WaitHook>,
    serve: impl FnOnce() -> R,
) -> R {
    CURRENT.set(Some(Call { waiter: waiter.clone(), hook }));
    REFUSED.set(false);
    let result = serve();
    CURRENT.set(None);
    INTERRUPTED.set(waiter.is_interrupted());
    result
}

/// Whether the caller of the call that this thread serves has been killed.
pub(crate) fn is_gone() -> bool {
    CURRENT.with_borrow(|call| call.as_ref().is_some_and(|call| call.hook.is_gone()))
}

/// Whether the call that this thread serves copies to a buffer of the home's own.
pub(crate) fn is_buffered() -> bool {
    CURRENT.with_borrow(|call| call.as_ref().is_some_and(|call| call.hook.is_buffered()))
}

/// What the caller gets for a driver's errno, in the thread that served the call: a wait that was
/// refused ends as an interrupted one, but no signal is there to restart the call. A driver that
/// says so though there was none would have its caller repeat the call for ever.
pub(crate) fn errno(errno: Errno) -> Errno {
    match errno {
        Errno::ERESTARTSYS if REFUSED.get() => Errno::ENOMEM,
        Errno::ERESTARTSYS if !INTERRUPTED.get() => {
            crate::report_once(format_args!(
                "a driver answered ERESTARTSYS to a call that no signal had interrupted; its \
                 caller gets EINTR"
            ));
            Errno::EINTR
        }
        errno => errno,
    }
}

/// A wait in progress; over when dropped.
pub(crate) struct Waiting(Option<Call>);

/// Tells the call's hook that its thread waits.
///
/// Without a thread that receives meanwhile, and one that looks for signals of the caller, not
/// even who is killed could be let go; so where none can be started for a second, the wait is
/// refused: it is interrupted, and [`errno`] is `ENOMEM`.
pub(crate) fn begin_wait(waiter: &Arc<Waiter>) -> Waiting {
    let call = CURRENT.with_borrow(Clone::clone);
    let mut hears = false;
    let is_served = pool::patiently(|| {
        hears = hears || call.as_ref().is_none_or(|call| call.hook.begin(waiter));
        if pool::about_to_wait() && hears {
            return Ok(());
        }
        std::thread::sleep(pool::PATIENCE);
        Err(true)
    });
    if is_served.is_none() {
        REFUSED.set(true);
        waiter.interrupt();
    }
    Waiting(call)
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(call) = &self.0 {
            call.hook.end(&call.waiter);
        }
    }
}
