//! Seccomp filters of the programs' own: they judge the calls that devmap makes in a program's
//! place, too.
//!
//! Whoever installs one is notified, and served before it is there. So what a filter has judged
//! was judged after that, and who looks here behind it knows of the filter.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use crate::client;

/// Which programs have filters of their own.
#[derive(Default)]
pub(crate) struct OwnFilters {
    /// Some have, or had.
    any: AtomicBool,
    /// Processes that have installed some, and live. Their children have them as well.
    installers: Mutex<HashSet<u32>>,
}

impl OwnFilters {
    /// Thread `tid` is about to install one.
    pub(crate) fn come(&self, tid: u32) {
        let mut installers = self.installers.lock();
        installers.retain(|process| client::is_there(*process));
        installers.extend(client::process_of(tid));
        self.any.store(true, Ordering::SeqCst);
    }

    /// Whether any program has some.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// The processes that have installed some.
    pub(crate) fn installers(&self) -> Vec<u32> {
        self.installers.lock().iter().copied().collect()
    }
}
