//! `devmap serve`: the process in which the drivers of several runs live.
//!
//! What does not live here: what is said with one joiner (`connection`, `calls`).

use std::{
    collections::{HashMap, hash_map::Entry},
    io::{self, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use parking_lot::Mutex;
use rustix::process::DumpableBehavior;

use super::{
    connection::{Connection, MOST_LANES, MOST_OPENS},
    kept::Kept,
    listener::{Listener, Peer},
    socket,
    wire::{DeviceInfo, LONGEST, News, WireMetadata, encode},
};
use crate::{
    call::{self, Waiter},
    host::Host,
    opens::{DeviceEntry, Opens},
    reaper::Reaper,
    run::{MakeNodes, entries, loosen_limits},
    trace::{Trace, TraceFormat},
};

/// The most joiners of one user at a time.
const MOST_OF_A_USER: usize = 256;

/// How long a clean stop waits for drivers.
const STOPPING: Duration = Duration::from_secs(2);

/// What a daemon shall be.
pub struct Service {
    /// Where joiners find it.
    pub socket: PathBuf,
    /// The permissions of the socket: who may write to it may join.
    pub mode: u32,
    /// Makes the devices.
    pub nodes: MakeNodes,
    /// Where events are written, and how.
    pub trace: Option<(PathBuf, TraceFormat)>,
    /// Counts of calls at the end, on standard error.
    pub stats: bool,
}

/// What joiners may have.
pub(super) struct Limits {
    /// How long a joiner may leave a driver waiting for its caller's memory, or for room to
    /// answer, in all of a call: then it counts as dead. And how long others wait for it to
    /// forget pages.
    pub(super) patience: Duration,
    /// The most lanes of all joiners of a user.
    pub(super) lanes_of_a_user: usize,
    /// The most open files of all joiners of a user.
    pub(super) opens_of_a_user: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            // Long enough for a machine under load.
            patience: Duration::from_secs(10),
            lanes_of_a_user: 4 * MOST_LANES,
            opens_of_a_user: 4 * MOST_OPENS,
        }
    }
}

/// What the threads of a daemon share.
pub(super) struct Daemon {
    pub(super) host: Host,
    pub(super) devices: Vec<Arc<DeviceEntry>>,
    pub(super) opens: Opens,
    pub(super) trace: Arc<Trace>,
    pub(super) reaper: Reaper,
    pub(super) kept: Kept,
    pub(super) limits: Limits,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    /// How many lanes are served for each user; some of joiners that are gone, whose calls a
    /// driver has not ended yet.
    lanes: Mutex<HashMap<u32, usize>>,
    next: AtomicU64,
}

/// Serves devices to the runs that join, until SIGTERM, SIGINT or SIGHUP.
///
/// Must be called while the process has one thread: it blocks signals.
///
/// # Errors
/// Why it cannot serve: a message for the user.
pub fn serve(service: Service) -> Result<(), String> {
    // Files that it may not make longer (`ulimit -f`) are an error and no death.
    let mut errors = SigSet::empty();
    errors.add(Signal::SIGXFSZ);
    let mut stops = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        stops.add(signal);
    }
    let signals = errors
        .thread_block()
        .and_then(|()| stops.thread_block())
        .and_then(|()| SignalFd::with_flags(&stops, SfdFlags::SFD_CLOEXEC))
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    // First, so that a second daemon fails before its devices do anything. Who joins from now
    // on waits to be accepted.
    let listener = Listener::bind(&service.socket, service.mode)?;
    let trace = Trace::create(service.trace.as_ref(), service.stats)?;
    let daemon = Arc::new(Daemon::new(service.nodes, trace, Limits::default())?);
    loosen_limits();
    // Joiners of the same user shall not look into what holds the memory of every device.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("cannot close the daemon to its joiners: {error}"))?;
    let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
        let started = std::thread::Builder::new().name(name.into()).spawn(run);
        started.map(drop).map_err(|error| {
            format!("cannot start the thread {name}: {}", crate::with_remedy(&error))
        })
    };
    let reaping = daemon.clone();
    start(
        "devmap-reaper",
        Box::new(move || {
            reaping.reaper.run(&reaping.opens, || ());
        }),
    )?;
    let listener = Arc::new(listener);
    let (accepting, accepted) = (daemon.clone(), listener.clone());
    start("devmap-accept", Box::new(move || accepting.accept(&accepted)))?;
    daemon.say_ready(&service.socket);
    // An error here is as good as a signal.
    let _ = signals.read_signal();
    // A second one ends the process, should a driver not let go.
    let _ = stops.thread_unblock();
    socket::end(&*listener);
    daemon.stop();
    if let Some(table) = daemon.trace.stats_table() {
        crate::report(format_args!("what was served:\n{table}"));
    }
    // The threads that are left hold it too.
    listener.remove();
    Ok(())
}

impl Daemon {
    pub(super) fn new(nodes: MakeNodes, trace: Trace, limits: Limits) -> Result<Daemon, String> {
        let host = Host::new();
        let devices = entries(nodes(&host)?)?;
        let trace = Arc::new(trace);
        Ok(Daemon {
            host,
            devices,
            opens: Opens::new(1, trace.clone()),
            trace,
            reaper: Reaper::new().map_err(|error| format!("cannot use inotify: {error}"))?,
            kept: Kept::default(),
            limits,
            connections: Mutex::default(),
            lanes: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// The line for those who wait until it serves.
    fn say_ready(&self, socket: &std::path::Path) {
        let paths: Vec<_> = self.devices.iter().map(|d| d.path.display().to_string()).collect();
        let (paths, socket) = (paths.join(", "), socket.display());
        let mut out = io::stdout();
        // Whoever closed it does not wait.
        let _ = writeln!(out, "devmap: serving {paths} at {socket}").and_then(|()| out.flush());
    }

    /// What a joiner has to know of the devices.
    pub(super) fn welcome(&self, version: u32) -> News {
        let devices = self.devices.iter().map(|device| DeviceInfo {
            path: device.path.clone(),
            name: device.name.clone(),
            metadata: WireMetadata::new(&device.metadata, device.number),
            class: device.class.clone(),
        });
        News::Welcome { version, devices: devices.collect() }
    }

    fn accept(self: &Arc<Daemon>, listener: &Listener) {
        loop {
            match listener.accept() {
                Ok((socket, peer)) => self.admit(socket, peer),
                // It stops.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
                Err(error) => {
                    crate::report_once(format_args!("cannot accept a joiner: {error}"));
                    // Descriptors or memory may come back.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// Serves a joiner, unless its user has too many.
    pub(super) fn admit(self: &Arc<Daemon>, socket: OwnedFd, peer: Peer) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut connections = self.connections.lock();
        let of_user = of_user(&connections, peer.uid).count();
        if of_user >= MOST_OF_A_USER {
            refuse(&socket, format!("{MOST_OF_A_USER} runs of your user have joined already"));
            return;
        }
        match Connection::start(self, id, socket, peer) {
            Ok(connection) => drop(connections.insert(id, connection)),
            Err(error) => {
                let error = crate::with_remedy(&error);
                crate::report(format_args!("cannot serve a joiner: {error}"));
            }
        }
    }

    /// A place for one more lane of a user's joiners, if there is one.
    pub(super) fn lane_place(self: &Arc<Daemon>, uid: u32) -> Option<LanePlace> {
        let mut lanes = self.lanes.lock();
        let of_user = lanes.entry(uid).or_default();
        if *of_user >= self.limits.lanes_of_a_user {
            return None;
        }
        *of_user += 1;
        Some(LanePlace { daemon: self.clone(), uid })
    }

    /// How many open files a user's joiners have.
    pub(super) fn opens_of(&self, uid: u32) -> usize {
        of_user(&self.connections.lock(), uid).map(|joiner| joiner.opens()).sum()
    }

    /// A joiner has released an open file of the device.
    pub(super) fn released(&self, device: u64) {
        if !self.opens.has(device) {
            self.kept.forget(device);
        }
    }

    /// A joiner has changed filled pages of a device, or a regular file.
    pub(super) fn changed(&self, by: u64, device: u64) {
        let connections = self.connections.lock();
        let others = connections.iter().filter(|(id, _)| **id != by);
        others.for_each(|(_, joiner)| joiner.others_changed(device));
    }

    /// Has all joiners told of what others have changed of a device: who has pages to forget,
    /// and the number of its answer.
    pub(super) fn tell_changed(&self, device: u64) -> Vec<(Arc<Connection>, u64)> {
        let connections: Vec<_> = self.connections.lock().values().cloned().collect();
        let told = |joiner: Arc<Connection>| {
            let number = joiner.tell_changed(device);
            (joiner, number)
        };
        connections.into_iter().map(told).collect()
    }

    /// The same, and waits until they have forgotten the pages. Not for one that does not answer
    /// in time: a page that it has been asking for may be one for which a driver waits.
    pub(super) fn renew(&self, device: u64) {
        let mut told = self.tell_changed(device);
        told.retain(|(joiner, number)| joiner.owes_answer(*number));
        if told.is_empty() {
            return;
        }
        let waiter = Waiter::current();
        let _waiting = call::begin_wait(&waiter);
        let deadline = Instant::now() + self.limits.patience;
        for (joiner, number) in told {
            joiner.await_answer(number, deadline, &waiter);
        }
    }

    /// A joiner is gone.
    pub(super) fn remove(&self, id: u64) {
        self.connections.lock().remove(&id);
    }

    /// Ends all joiners' calls, and releases what they had open. A driver that blocks is not
    /// waited for beyond a while.
    pub(super) fn stop(&self) {
        let connections: Vec<_> = self.connections.lock().values().cloned().collect();
        connections.iter().for_each(|connection| connection.end());
        drop(connections);
        let deadline = Instant::now() + STOPPING;
        while !self.connections.lock().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.opens.release_all();
        self.devices.iter().for_each(|device| device.end());
    }
}

/// A lane's place among those of its user, for as long as its thread lives.
pub(super) struct LanePlace {
    daemon: Arc<Daemon>,
    uid: u32,
}

impl Drop for LanePlace {
    fn drop(&mut self) {
        let mut lanes = self.daemon.lanes.lock();
        if let Entry::Occupied(mut of_user) = lanes.entry(self.uid) {
            *of_user.get_mut() -= 1;
            if *of_user.get() == 0 {
                of_user.remove();
            }
        }
    }
}

/// A user's joiners.
fn of_user(
    connections: &HashMap<u64, Arc<Connection>>,
    uid: u32,
) -> impl Iterator<Item = &Arc<Connection>> {
    connections.values().filter(move |joiner| joiner.peer().uid == uid)
}

/// Tells a joiner why it is not served.
pub(super) fn refuse(socket: &OwnedFd, why: String) {
    let mut buffer = Vec::with_capacity(LONGEST);
    // There is room: nothing was sent before.
    let _ = socket::send(socket, encode(&News::Refused { why }, &mut buffer), &[]);
}
