//! The home for unmodified programs: `devmap run`.
//!
//! A supervisor serves devices to a program and all its children. The parts, each a
//! module:
//!
//! - [`tree`]: the processes of a run, exit statuses, job control;
//! - [`namespace`]: a private `/dev` in which the devices stand; `places`: regular files that
//!   stand elsewhere;
//! - `devfs`, `nodes`: the FUSE file system behind it: open, read, write, poll, close;
//!   `sysfs`: what stands below `/sys` for a device;
//! - `filter`, `notify`: system calls that FUSE cannot answer as a device does, taken by
//!   seccomp notification;
//! - `trapped`: the same without FUSE and without a namespace, where these are refused;
//! - `map`, `attach`, `tokens`, `faulted`: mmap, carried out in the program; `exchange`:
//!   the same where a debugger holds it;
//! - `host`, `call`: what drivers get: memory, wait queues that signals end;
//! - `service`: the same devices for several runs, from a process of their own;
//! - `areas`: what `devmap maps` shows;
//! - `opens`: devices, open files, release; `trace`, `messages`: what a run tells.

#![forbid(unsafe_code)]

mod areas;
mod attach;
mod call;
mod client;
mod devfs;
mod erase;
mod exchange;
mod faulted;
mod filter;
mod handover;
mod host;
mod inotify;
mod map;
mod messages;
pub mod namespace;
mod nodes;
mod notify;
mod opens;
mod order;
mod own_filters;
mod places;
mod pool;
pub mod probe;
mod reaper;
mod run;
mod service;
mod statfs;
mod sysfs;
mod threads;
mod tokens;
mod trace;
mod trapped;
pub mod tree;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub use erase::{AnyDevice, AnyFile, erase};
pub use host::{Host, HostLock, HostMemory, HostWaitQueue};
pub use run::{Mode, Node, Settings, run};
pub use service::{Service, join, serve};
pub use sysfs::ClassEntry;
pub use trace::TraceFormat;

use crate::{
    call::WaitHook,
    devfs::Devfs,
    messages::{report, report_once, watch_remedy, with_remedy},
    notify::Watcher,
    opens::{DeviceEntry, Opens},
    own_filters::OwnFilters,
    reaper::Reaper,
    threads::LazyThread,
    trace::{Event, Trace},
};

/// Everything that the threads of a supervisor share.
struct Core {
    host: Host,
    devices: Vec<Arc<DeviceEntry>>,
    opens: Opens,
    trace: Arc<Trace>,
    faulted: faulted::Faulted,
    exchanged: exchange::Exchanged,
    placed: areas::Placed,
    reaper: Reaper,
    /// The reaper's thread, which is needed from the first map on.
    reaping: LazyThread,
    watcher: Watcher,
    /// What a wait in a FUSE request does.
    fuse_hook: Arc<dyn WaitHook>,
    devfs: OnceLock<Devfs>,
    /// In trapped mode, which has no file system.
    trapped: Option<trapped::Trapped>,
    /// `st_dev` of the file system.
    mount_device: OnceLock<u64>,
    /// Some client has mapped something.
    mapped: AtomicBool,
    own_filters: OwnFilters,
    /// When the run began, since 1970: the time of all nodes.
    started: Duration,
}

impl Core {
    /// Traces a call that began at `started`.
    fn trace_call<'a>(&self, started: Instant, event: impl FnOnce() -> Event<'a>) {
        if self.trace.is_on() {
            self.trace.write(&event(), started.elapsed());
        }
    }

    /// A driver's state may have changed: pollers to whom nothing asks the driver have to
    /// be shown.
    fn refresh(&self, device: &DeviceEntry) {
        if let Some(trapped) = &self.trapped {
            trapped.refresh(device);
        }
    }

    /// Has drivers told of what was closed and unmapped, and of whom was killed, before the call
    /// that is served now, which is on so many open files.
    fn catch_up(&self, held: usize) {
        if let Some(trapped) = &self.trapped {
            for call in self.watcher.interrupt_killed() {
                trapped.callers.await_end(call);
            }
            trapped.catch_up(held);
        }
        self.reaper.catch_up(&self.opens);
    }

    /// Frees what was supplied early of devices that nobody has open or mapped.
    fn forget_unused(&self) {
        self.faulted.forget_early(|device| self.opens.has(device));
    }

    /// Nothing uses the devices any more: releases what is open, and drops the drivers.
    fn end(&self) {
        self.opens.release_all();
        self.devices.iter().for_each(|device| device.end());
    }

    fn set_mapped(&self) {
        self.mapped.store(true, Ordering::SeqCst);
    }

    fn has_mapped(&self) -> bool {
        self.mapped.load(Ordering::SeqCst)
    }
}
