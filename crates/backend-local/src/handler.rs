//! The threads that serve the faults of plain accesses. No driver method runs anywhere else
//! but there and in calls of this library; in a signal handler none does.
//!
//! One thread at a time waits for faults, and serves those of cached pages at once. Before
//! it asks a driver, it lets another one wait.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use devmap_driver::{Access, Errno};
use devmap_mm::trace::{Detail, Outcome};
use devmap_sys::{
    sigbus,
    userfaultfd::{Cause, Install, PageFault, Userfaultfd},
};
use parking_lot::Mutex;

use crate::{
    Error, OnError,
    area::Area,
    core::{Core, count},
    object::refused,
    trace::Begun,
};

/// So many threads of one home wait for faults at once; those that come back besides end.
const KEPT: usize = 8;
/// The most that there are. Each but one serves a thread that waits, so there are seldom many; but
/// a driver's fault may wait for another one, so there must be one more as long as that can be.
const MOST: usize = 1024;

/// What the threads of a home share.
pub(crate) struct Handlers {
    core: Arc<Core>,
    /// Held by the thread that waits for faults.
    turn: Mutex<()>,
    threads: AtomicUsize,
    /// Threads that wait for their turn.
    idle: AtomicUsize,
    gone: AtomicBool,
}

impl Handlers {
    /// Starts the first thread.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub(crate) fn start(core: Arc<Core>) -> io::Result<Arc<Handlers>> {
        let handlers = Arc::new(Handlers {
            core,
            turn: Mutex::new(()),
            threads: AtomicUsize::new(1),
            idle: AtomicUsize::new(1),
            gone: AtomicBool::new(false),
        });
        handlers.spawn()?;
        Ok(handlers)
    }

    /// Whether there is no thread any more.
    pub(crate) fn are_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Starts a thread that is counted already.
    fn spawn(self: &Arc<Self>) -> io::Result<()> {
        let this = self.clone();
        let thread = thread::Builder::new().name("devmap-fault".into());
        thread.spawn(move || this.run())?;
        Ok(())
    }

    fn run(self: Arc<Self>) {
        let Some(uffd) = &self.core.uffd else { return };
        while let Some((area, at, access, begun)) = self.next_uncached(uffd) {
            self.serve(&area, at, access);
            self.core.end(begun, || Outcome::Done(None));
            if self.idle.fetch_add(1, Ordering::Relaxed) >= KEPT {
                self.idle.fetch_sub(1, Ordering::Relaxed);
                self.threads.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Serves faults of cached pages, until one that needs a driver; `None`: the home is
    /// gone.
    fn next_uncached(
        self: &Arc<Self>,
        uffd: &Userfaultfd,
    ) -> Option<(Arc<Area>, u64, Access, Begun)> {
        let _turn = self.turn.lock();
        self.idle.fetch_sub(1, Ordering::Relaxed);
        loop {
            if self.gone.load(Ordering::Relaxed) {
                return None;
            }
            let fault = match uffd.next() {
                Ok(fault) => fault,
                Err(error) => {
                    eprintln!(
                        "devmap: cannot read page faults: {error}; plain accesses to \
                               pages that are not there wait for ever"
                    );
                    self.gone.store(true, Ordering::Relaxed);
                    return None;
                }
            };
            if fault.address == self.core.bell.address() {
                self.gone.store(true, Ordering::Relaxed);
                let zeros = vec![0; self.core.page_size.bytes() as usize];
                let answered = uffd.copy(&self.core.bell, 0, &zeros, Install::AsMapped);
                debug_assert!(answered.is_ok(), "UFFDIO_COPY: {answered:?}");
                return None;
            }
            let access = if fault.cause == Cause::Load { Access::Read } else { Access::Write };
            let address = ("address", Detail::Address(fault.address as u64));
            let details = [address, ("access", access.into())];
            let begun = self.core.begin("", "handle_userfault", &details);
            // An area that is gone has nobody who waits.
            let Ok((area, at)) = self.place(&fault) else {
                self.core.end(begun, || Outcome::Done(None));
                continue;
            };
            count(&self.core.counters.by_handler, 1);
            area.plain_ones_came.store(true, Ordering::Relaxed);
            match area.fault_cached(at, access) {
                Ok(true) => {}
                Ok(false) => {
                    self.let_another_wait();
                    return Some((area, at, access, begun));
                }
                Err(error) => fail(&area, at, &error),
            }
            self.core.end(begun, || Outcome::Done(None));
        }
    }

    fn place(&self, fault: &PageFault) -> Result<(Arc<Area>, u64), Error> {
        let details = [("address", Detail::Address(fault.address as u64))];
        let start = |area: &Arc<Area>| Some(area.span.address());
        let area = self.core.step_to("", "find_vma", &details, start, || {
            let area = self.core.find_area(fault.address);
            area.ok_or_else(|| refused("find_vma", Errno::EFAULT))
        })?;
        let at = self.core.page_size.page_of((fault.address - area.span.address()) as u64);
        Ok((area, at))
    }

    fn let_another_wait(self: &Arc<Self>) {
        if self.idle.load(Ordering::Relaxed) == 0 && self.threads.load(Ordering::Relaxed) < MOST {
            // Only the thread whose turn it is counts up.
            self.threads.fetch_add(1, Ordering::Relaxed);
            self.idle.fetch_add(1, Ordering::Relaxed);
            if self.spawn().is_err() {
                self.threads.fetch_sub(1, Ordering::Relaxed);
                self.idle.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn serve(&self, area: &Arc<Area>, at: u64, access: Access) {
        let mut tries = match area.on_error {
            OnError::Retry { times, .. } => times,
            OnError::Fail | OnError::ZeroFill => 0,
        };
        loop {
            match area.fault(at, access) {
                Ok(()) => return,
                Err(error) => match area.on_error {
                    OnError::Retry { pause, .. } if tries > 0 => {
                        tries -= 1;
                        thread::sleep(pause);
                    }
                    OnError::ZeroFill => {
                        if let Err(error) = area.lay_zeros(at) {
                            fail(area, at, &error);
                        }
                        return;
                    }
                    OnError::Retry { .. } | OnError::Fail => {
                        fail(area, at, &error);
                        return;
                    }
                },
            }
        }
    }
}

/// A plain access gets SIGBUS, and says why; a checked one that has lost a race fails.
fn fail(area: &Arc<Area>, at: u64, error: &Error) {
    let page = area.bytes(&(at..at + 1));
    let address = area.span.address() + page.start;
    let text = format!("devmap: {}: SIGBUS: {error}\n", area.object.name);
    sigbus::explain(address..address + page.len(), &text);
    if !area.poison(at) && area.fault_cached(at, Access::Read).ok() != Some(true) {
        eprint!("{text}");
        std::process::abort();
    }
}
