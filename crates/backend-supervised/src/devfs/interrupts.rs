//! Requests in progress, and what becomes of one whose caller has a signal.
//!
//! What does not live here: how a wait ends (`call`).

use std::{sync::Arc, time::Duration};

use devmap_fuse::Header;

use super::Devfs;
use crate::{
    Core,
    call::{self, Waiter},
    client, pool,
};

/// A request that an interrupt can reach.
#[derive(Clone)]
pub(super) struct InProgress {
    pub(super) unique: u64,
    /// The calling thread.
    tid: u32,
    /// The thread of devmap's that serves it.
    thread: u32,
    waiter: Arc<Waiter>,
    /// Any signal ends it, not only one that kills.
    by_any_signal: bool,
}

impl Devfs {
    /// Runs a driver's method as the call `unique`, so that a signal can end its waits.
    pub(super) fn interruptible<R>(
        &self,
        core: &Core,
        header: &Header,
        serve: impl FnOnce() -> R,
    ) -> R {
        self.ended_by(true, core, header, serve)
    }

    /// As [`Devfs::interruptible`], or so that only a signal that kills ends its waits.
    pub(super) fn ended_by<R>(
        &self,
        by_any_signal: bool,
        core: &Core,
        header: &Header,
        serve: impl FnOnce() -> R,
    ) -> R {
        let Header { unique, pid: tid, .. } = *header;
        let waiter = Arc::<Waiter>::default();
        let thread = pool::own_thread();
        let call = InProgress { unique, tid, thread, waiter: waiter.clone(), by_any_signal };
        self.in_progress.lock().push(call);
        let result = call::within(waiter, core.fuse_hook.clone(), serve);
        self.in_progress.lock().retain(|other| other.unique != unique);
        result
    }

    /// The caller of a request has a signal. Whether the request is in progress.
    pub(super) fn interrupt(&self, unique: u64) -> bool {
        let look = || {
            let in_progress = self.in_progress.lock();
            in_progress.iter().find(|other| other.unique == unique).cloned()
        };
        let Some(call) = look() else { return false };
        let InProgress { tid, thread, waiter, by_any_signal, .. } = call;
        if by_any_signal {
            waiter.interrupt();
        }
        // A driver that waits by itself does not hear of it. A caller that is killed is let
        // go all the same; the driver's answer then finds nobody. One that hears of it ends
        // first: else it could take what is there for others once the caller is gone.
        while look().is_some() {
            if client::is_killed(tid) {
                waiter.interrupt();
                if !pool::wait_until(|| look().is_none(), || pool::is_runnable(thread)) {
                    let _ = self.channel.reply_error(unique, libc::EINTR);
                }
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}
