//! Failures on demand: the Nth allocation, the Nth fault, the Nth write-back. Not what
//! fails then.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// One kind of event, counted from 1, of which one may fail.
#[derive(Debug, Default)]
pub struct Nth {
    count: AtomicU64,
    fails: AtomicU64,
}

impl Nth {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The `n`th from now on fails; 1 is the next, 0 none.
    pub fn fail(&self, n: u64) {
        let at = if n == 0 { 0 } else { self.count() + n };
        self.fails.store(at, Ordering::Relaxed);
    }

    /// One happens: whether it fails.
    pub(crate) fn happens(&self) -> bool {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        number == self.fails.load(Ordering::Relaxed)
    }
}

/// What can be made to fail. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Kinds>);

#[derive(Debug, Default)]
struct Kinds {
    allocations: Nth,
    faults: Nth,
    write_backs: Nth,
}

impl Failures {
    /// Allocations: of page frames, page tables, drivers' memory, locks and queues. A
    /// failure is `ENOMEM`.
    pub fn allocations(&self) -> &Nth {
        &self.0.allocations
    }

    /// Calls of a driver's `fault`. A failure is `EIO`, and the driver is not called.
    pub fn faults(&self) -> &Nth {
        &self.0.faults
    }

    /// Pages written back. A failure is `EIO`, and nothing is written.
    pub fn write_backs(&self) -> &Nth {
        &self.0.write_backs
    }
}
