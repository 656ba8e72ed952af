//! One joiner, as the daemon sees it: its control connection, its lanes, what it has open.
//!
//! What does not live here: serving a call (`calls`).

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map::Entry},
    io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_driver::Errno;
use parking_lot::{Condvar, Mutex};

use super::{
    calls,
    daemon::{Daemon, refuse},
    listener::Peer,
    socket,
    wire::{Control, LONGEST, News, Step, VERSION, decode, encode},
};
use crate::{
    call::{WaitHook, Waiter},
    host::Wake,
    opens::{self, OpenFile},
    pool,
};

/// The most lanes of a joiner, that is calls in progress.
pub(super) const MOST_LANES: usize = 512;

/// The most open files of a joiner.
pub(super) const MOST_OPENS: usize = 1 << 16;

/// The most wakes that one message tells.
pub(super) const WAKES_AT_ONCE: usize = 1000;

/// A joiner.
pub(super) struct Connection {
    pub(super) daemon: Arc<Daemon>,
    id: u64,
    peer: Peer,
    control: OwnedFd,
    over: AtomicBool,
    lanes: Mutex<HashMap<u32, Arc<Lane>>>,
    /// By the daemon's number. What is not here, the joiner has not opened.
    files: Mutex<HashMap<u64, Arc<OpenFile>>>,
    /// Locked before `wakes`, where both are.
    pages: Mutex<Pages>,
    /// It has forgotten pages, or it is over.
    renewed: Condvar,
    wakes: Mutex<Wakes>,
    some: Condvar,
}

/// Of filled pages and of regular files: what the joiner may have in its page cache, and
/// others have changed. By the devices' indices.
#[derive(Default)]
struct Pages {
    /// It was given some since others changed any.
    held: HashSet<u64>,
    /// It has some that others have changed, and does not know.
    changed: HashSet<u64>,
    /// How often it is told of that.
    told: u64,
    /// How often it has answered.
    answered: u64,
    /// It was waited for in vain, and has not answered since.
    is_late: bool,
}

impl Pages {
    fn owes_answer(&self, number: u64) -> bool {
        self.answered < number && !self.is_late
    }
}

/// Wakes of a joiner's pollers.
#[derive(Default)]
struct Wakes {
    /// Open files whose pollers are to be told.
    opens: BTreeSet<u64>,
    /// How many have been taken from there to be told on the control connection.
    told: u64,
    /// Devices of whose changed pages the joiner is to be told.
    changed: BTreeSet<u64>,
}

/// A lane, as the daemon sees it.
pub(super) struct Lane {
    pub(super) socket: OwnedFd,
    current: Mutex<Current>,
}

/// The call that a lane serves.
#[derive(Default)]
struct Current {
    call: Option<(u32, Arc<Waiter>)>,
    /// A call whose interruption came before it.
    interrupted: Option<u32>,
}

impl Lane {
    /// Interrupts a call, which may not have been received yet.
    fn interrupt(&self, call: u32) {
        let waiter = {
            let mut current = self.current.lock();
            current.interrupted = Some(call);
            current.call.as_ref().filter(|(of, _)| *of == call).map(|(_, waiter)| waiter.clone())
        };
        if let Some(waiter) = waiter {
            waiter.interrupt();
        }
    }

    /// Interrupts the call in progress, whichever it is, and receives no other.
    fn end(&self) {
        socket::end(&self.socket);
        let call = self.current.lock().call.clone();
        if let Some((_, waiter)) = call {
            waiter.interrupt();
        }
    }

    /// Begins a call: what waits for it.
    fn begin(&self, call: u32) -> Arc<Waiter> {
        let waiter = Arc::<Waiter>::default();
        let mut current = self.current.lock();
        current.call = Some((call, waiter.clone()));
        if current.interrupted == Some(call) {
            waiter.interrupt();
        }
        waiter
    }

    fn done(&self) {
        self.current.lock().call = None;
    }
}

/// Tells the joiner when a driver begins to wait.
struct Tells {
    lane: Arc<Lane>,
    patience: Duration,
    told: AtomicBool,
}

impl WaitHook for Tells {
    fn begin(&self, _waiter: &Arc<Waiter>) -> bool {
        if !self.told.swap(true, Ordering::Relaxed) {
            let mut buffer = Vec::with_capacity(8);
            // A joiner that is gone does not wait.
            let message = encode(&Step::Waiting, &mut buffer);
            let _ = socket::send_within(self.lane.socket.as_fd(), message, &[], self.patience);
        }
        true
    }

    fn end(&self, _waiter: &Arc<Waiter>) {}
}

impl Connection {
    /// Serves a joiner on threads of its own.
    pub(super) fn start(
        daemon: &Arc<Daemon>,
        id: u64,
        control: OwnedFd,
        peer: Peer,
    ) -> io::Result<Arc<Connection>> {
        socket::limit_sends(&control, daemon.limits.patience)?;
        let connection = Arc::new(Connection {
            daemon: daemon.clone(),
            id,
            peer,
            control,
            over: AtomicBool::new(false),
            lanes: Mutex::default(),
            files: Mutex::default(),
            pages: Mutex::default(),
            renewed: Condvar::new(),
            wakes: Mutex::default(),
            some: Condvar::new(),
        });
        let (hearing, telling) = (connection.clone(), connection.clone());
        spawn("devmap-news", move || telling.tell())?;
        spawn("devmap-control", move || {
            hearing.hear();
            hearing.end();
            hearing.daemon.remove(hearing.id);
        })
        .inspect_err(|_| connection.end())?;
        Ok(connection)
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Ends it: its calls are interrupted, and what it has open is released when they have
    /// ended and nothing is mapped any more.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        socket::end(&self.control);
        let wakes = self.wakes.lock();
        self.some.notify_all();
        drop(wakes);
        let pages = self.pages.lock();
        self.renewed.notify_all();
        drop(pages);
        let lanes: Vec<_> = self.lanes.lock().drain().collect();
        lanes.iter().for_each(|(_, lane)| lane.end());
        let files: Vec<_> = self.files.lock().drain().collect();
        for (id, file) in files {
            self.close(id, file);
        }
    }

    /// Receives what the joiner says, to its end.
    fn hear(self: &Arc<Connection>) {
        let mut buffer = vec![0; LONGEST];
        let mut next = || match socket::receive_files(&self.control, &mut buffer) {
            Ok((bytes, files)) if !bytes.is_empty() => Some((decode::<Control>(bytes)?, files)),
            _ => None,
        };
        match next() {
            Some((Control::Hello { version: VERSION }, _)) => {
                let mut buffer = Vec::new();
                let welcome = self.daemon.welcome(VERSION);
                if socket::send(&self.control, encode(&welcome, &mut buffer), &[]).is_err() {
                    return;
                }
            }
            Some((Control::Hello { version }, _)) => {
                let why = format!("it speaks version {VERSION}, and this devmap {version}");
                return refuse(&self.control, why);
            }
            _ => return,
        }
        while let Some((message, mut files)) = next() {
            let served = match message {
                Control::Lane { lane } => {
                    files.pop().is_some_and(|socket| self.add_lane(lane, socket))
                }
                Control::Interrupt { lane, call } => {
                    let lane = self.lanes.lock().get(&lane).cloned();
                    // One that has ended meanwhile has nothing to interrupt.
                    if let Some(lane) = lane {
                        lane.interrupt(call);
                    }
                    true
                }
                Control::Renewed => self.has_answered(),
                Control::Hello { .. } => false,
            };
            if !served {
                return;
            }
        }
    }

    /// Whether the joiner is served on.
    fn add_lane(self: &Arc<Connection>, id: u32, socket: OwnedFd) -> bool {
        // Else it could be one that does not end with the connection.
        if !socket::is_of_a_pair(&socket) {
            return false;
        }
        let Some(place) = self.daemon.lane_place(self.peer.uid) else {
            return refuse_lane(&socket);
        };
        let lane = Arc::new(Lane { socket, current: Mutex::default() });
        {
            let mut lanes = self.lanes.lock();
            if lanes.len() >= MOST_LANES || self.is_over() {
                return refuse_lane(&lane.socket);
            }
            match lanes.entry(id) {
                // The one that is there has to end with the connection.
                Entry::Occupied(_) => return false,
                Entry::Vacant(place) => drop(place.insert(lane.clone())),
            }
        }
        let (connection, serving) = (self.clone(), lane.clone());
        let serve = move || {
            let _place = place;
            let serve = AssertUnwindSafe(|| calls::serve(&connection, &serving));
            if catch_unwind(serve).is_err() {
                connection.end();
            }
            connection.lanes.lock().remove(&id);
        };
        if spawn("devmap-lane", serve).is_err() {
            self.lanes.lock().remove(&id);
            return refuse_lane(&lane.socket);
        }
        true
    }

    /// Runs a driver's method as a call of a lane, so that the joiner can interrupt it.
    pub(super) fn interruptible<R>(
        &self,
        lane: &Arc<Lane>,
        call: u32,
        serve: impl FnOnce() -> R,
    ) -> R {
        let waiter = lane.begin(call);
        // Its end may have missed this one.
        if self.is_over() {
            waiter.interrupt();
        }
        let (patience, told) = (self.daemon.limits.patience, AtomicBool::new(false));
        let hook = Arc::new(Tells { lane: lane.clone(), patience, told });
        let result = crate::call::within(waiter, hook, serve);
        lane.done();
        result
    }

    /// The joiner's open file of this number.
    pub(super) fn file(&self, id: u64) -> Option<Arc<OpenFile>> {
        self.files.lock().get(&id).cloned()
    }

    /// Whether it may open one more file.
    pub(super) fn may_open(&self) -> bool {
        let of_user = self.daemon.opens_of(self.peer.uid);
        self.opens() < MOST_OPENS && of_user < self.daemon.limits.opens_of_a_user
    }

    /// How many open files it has.
    pub(super) fn opens(&self) -> usize {
        self.files.lock().len()
    }

    /// Notes an open file. False if the joiner is gone, and nobody will close it.
    pub(super) fn add_file(&self, file: Arc<OpenFile>) -> bool {
        let mut files = self.files.lock();
        if self.is_over() {
            return false;
        }
        files.insert(file.id, file);
        true
    }

    /// The joiner is done with an open file.
    pub(super) fn remove_file(&self, id: u64) {
        let file = self.files.lock().remove(&id);
        if let Some(file) = file {
            self.close(id, file);
        }
    }

    fn close(&self, id: u64, file: Arc<OpenFile>) {
        let device = file.device.index;
        drop(file);
        self.daemon.opens.close(id);
        self.daemon.released(device);
        self.daemon.tell_changed(device);
    }

    /// Whether it may give back these pages of the device. The file by which they were written is
    /// open until they have come back, and a plan gave them to it; but those of a regular file
    /// no plan gives.
    ///
    /// # Errors
    /// `EBADF`: it does not have the device open for writing. `EFAULT`: no plan gave the pages.
    pub(super) fn may_write_back(&self, device: u64, pages: Range<u64>) -> Result<(), Errno> {
        let files = self.files.lock();
        let writers =
            || files.values().filter(|file| file.device.index == device && file.flags.write);
        if writers().next().ok_or(Errno::EBADF)?.device.is_regular() {
            return Ok(());
        }
        opens::may_write_back(writers, pages)
    }

    /// The joiner is about to get pages of the device: it has them until it is told to forget
    /// them.
    pub(super) fn gives(&self, device: u64) {
        self.pages.lock().held.insert(device);
    }

    /// The joiner has changed what others may have pages of.
    pub(super) fn changes(&self, device: u64) {
        self.daemon.changed(self.id, device);
    }

    /// Another joiner has changed pages of the device.
    pub(super) fn others_changed(&self, device: u64) {
        let mut pages = self.pages.lock();
        if pages.held.remove(&device) {
            pages.changed.insert(device);
        }
    }

    /// Whether it may have pages of the device that others have changed; from here on it knows.
    pub(super) fn take_changed(&self, device: u64) -> bool {
        let mut pages = self.pages.lock();
        // Those of which it is being told it may have yet.
        pages.changed.remove(&device) || pages.answered < pages.told
    }

    /// Has it told to forget pages of the device, if others have changed any: the number of the
    /// answer after which it has none of those.
    pub(super) fn tell_changed(&self, device: u64) -> u64 {
        let mut pages = self.pages.lock();
        if pages.changed.remove(&device) && self.wakes.lock().changed.insert(device) {
            pages.told += 1;
            self.some.notify_one();
        }
        pages.told
    }

    /// Whether the answer of this number is worth waiting for.
    pub(super) fn owes_answer(&self, number: u64) -> bool {
        self.pages.lock().owes_answer(number) && !self.is_over()
    }

    /// Waits for the answer of this number, unless it has not come by `deadline`.
    pub(super) fn await_answer(&self, number: u64, deadline: Instant, waiter: &Waiter) {
        let mut pages = self.pages.lock();
        while pages.owes_answer(number) && !self.is_over() {
            pages.is_late = Instant::now() >= deadline;
            if waiter.is_interrupted() {
                break;
            }
            self.renewed.wait_for(&mut pages, pool::PATIENCE);
        }
    }

    /// Whether there was something to answer.
    fn has_answered(&self) -> bool {
        let mut pages = self.pages.lock();
        pages.answered += 1;
        pages.is_late = false;
        self.renewed.notify_all();
        pages.answered <= pages.told
    }

    /// The wakes of which the joiner must have heard before a call ends now: some that
    /// nobody has told it of, and how many it was told of. There may be more.
    pub(super) fn wakes_so_far(&self) -> (Vec<u64>, u64) {
        let mut wakes = self.wakes.lock();
        let mut some = Vec::new();
        while some.len() < WAKES_AT_ONCE
            && let Some(open) = wakes.opens.pop_first()
        {
            some.push(open);
        }
        (some, wakes.told)
    }

    /// Tells the joiner of wakes and of changed pages. A thread of its own, since whoever wakes a
    /// queue must never wait for a joiner.
    fn tell(&self) {
        let mut buffer = Vec::new();
        loop {
            let (woken, changed) = {
                let mut wakes = self.wakes.lock();
                while wakes.opens.is_empty() && wakes.changed.is_empty() && !self.is_over() {
                    self.some.wait(&mut wakes);
                }
                if self.is_over() {
                    return;
                }
                wakes.told += wakes.opens.len() as u64;
                (std::mem::take(&mut wakes.opens), std::mem::take(&mut wakes.changed))
            };
            let woken = woken.into_iter().map(|open| News::Wake { open });
            let changed = changed.into_iter().map(|at| News::Changed { device: at as u32 });
            for news in woken.chain(changed) {
                if socket::send(&self.control, encode(&news, &mut buffer), &[]).is_err() {
                    return self.end();
                }
            }
        }
    }
}

/// Says on a lane that it cannot be served; the joiner is served on.
fn refuse_lane(socket: &OwnedFd) -> bool {
    let mut buffer = Vec::new();
    let message = encode(&Step::Refused, &mut buffer);
    // On one where nothing was sent there is room.
    let _ = socket::send_within(socket.as_fd(), message, &[], Duration::ZERO);
    true
}

/// A joiner that polls an open file.
pub(super) struct Poller {
    pub(super) connection: Weak<Connection>,
    pub(super) file: Weak<OpenFile>,
    pub(super) open: u64,
}

impl Wake for Poller {
    fn wake(&self) {
        let Some(connection) = self.connection.upgrade() else { return };
        connection.wakes.lock().opens.insert(self.open);
        connection.some.notify_one();
    }

    fn is_alive(&self) -> bool {
        self.file.strong_count() > 0
            && self.connection.upgrade().is_some_and(|connection| !connection.is_over())
    }

    /// Open files have numbers of their own in the whole daemon.
    fn key(&self) -> u64 {
        self.open
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}
