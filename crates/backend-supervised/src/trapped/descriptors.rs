//! Descriptors of devices in trapped mode: each open file of a device is a FIFO of its
//! own, opened by the client with the access mode and the flags that it asked for.
//!
//! Its inode says which open file a descriptor is of. That the supervisor has become alone
//! with it says that the last descriptor is gone. And it shows `poll`, `select` and `epoll`
//! whether the device is ready.
//!
//! What does not live here: how it shows that (`fifo`).

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
};

use devmap_driver::{PollEvents, PollTable};
use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, epoll, poll},
    fs::OFlags,
};

use super::{
    epoll::Place,
    fifo::{Fifo, Filler},
    locks::Locker,
    standins,
    waits::Watch,
};
use crate::{
    client,
    host::{HostWaitQueue, Wake},
    opens::{DeviceEntry, OpenFile},
    pool,
};

/// Status flags of an open that its FIFO keeps for `F_GETFL`.
const KEPT: OFlags = OFlags::APPEND.union(OFlags::NONBLOCK).union(OFlags::RWMODE);

/// A device number and an inode number.
type Identity = (u64, u64);

/// One open file of a device, as its descriptors show it.
pub(crate) struct Descriptor {
    pub(crate) device: Arc<DeviceEntry>,
    /// `None` where it was opened with `O_PATH`: then it can do nothing.
    pub(crate) file: Option<Arc<OpenFile>>,
    /// Bytes from the device's start (`file->f_pos`).
    pub(crate) position: AtomicU64,
    fifo: Fifo,
    /// How many packets are in the FIFO.
    shown: Mutex<usize>,
    /// What `flock` locks.
    pub(super) locker: Locker,
    woken: Arc<Woken>,
    /// The calls that wait for it in the kernel, beside others.
    watches: Mutex<Vec<Watch>>,
    most_watches: Most,
    /// Where it is registered for edges: how many wakes were told there.
    told: Mutex<HashMap<Place, u64>>,
    most_told: Most,
}

/// How many notes there may be before they are looked through for those that are of no use any
/// more, which nobody tells.
struct Most(AtomicUsize);

impl Default for Most {
    fn default() -> Most {
        Most(AtomicUsize::new(Most::FIRST))
    }
}

impl Most {
    const FIRST: usize = 64;

    /// Looks them through if there are so many; next when there are twice as many as remain.
    fn keep<T>(&self, notes: &mut T, len: impl Fn(&T) -> usize, keep: impl FnOnce(&mut T)) {
        if len(notes) >= self.0.load(Ordering::SeqCst) {
            keep(notes);
            self.0.store(Most::FIRST.max(2 * len(notes)), Ordering::SeqCst);
        }
    }
}

/// What the queues do on which a device's pollers wait.
#[derive(Default)]
struct Woken {
    /// One was woken, and the pollers have not been told.
    is_new: AtomicBool,
    /// How often any was.
    wakes: AtomicU64,
}

impl Descriptor {
    /// What the FIFO shows for a mask.
    pub(super) fn shows(&self, mask: PollEvents) -> PollEvents {
        self.fifo.shows(mask)
    }

    /// How often its queues have been woken.
    pub(super) fn wakes(&self) -> u64 {
        self.woken.wakes.load(Ordering::SeqCst)
    }

    /// How many wakes were told where it is registered for edges.
    pub(super) fn told_of(&self, place: Place) -> Option<u64> {
        self.told.lock().get(&place).copied()
    }

    pub(super) fn set_told(&self, place: Place, wakes: u64) {
        let mut told = self.told.lock();
        self.most_told.keep(&mut *told, HashMap::len, |told| {
            told.retain(|(process, ..), _| client::is_there(*process));
        });
        told.insert(place, wakes);
    }

    pub(super) fn forget_told(&self, place: Place) {
        self.told.lock().remove(&place);
    }

    /// Notes a call that is about to wait in the kernel: each thread makes one at a time.
    pub(super) fn watch(&self, watch: Watch) {
        let mut watches = self.watches.lock();
        if let Some(other) = watches.iter_mut().find(|other| other.tid == watch.tid) {
            return other.become_or_join(watch);
        }
        self.most_watches.keep(&mut *watches, Vec::len, |watches| watches.retain(Watch::waits));
        watches.push(watch);
    }

    /// Has each call told that this mask has something for which the FIFO does not show; `tell`
    /// says whether it waits on.
    pub(super) fn tell(&self, mask: PollEvents, tell: &dyn Fn(&Watch) -> bool) {
        self.tell_each(&self.missing(mask, |_| true), tell);
    }

    /// The calls for which this mask has something for which the FIFO does not show.
    fn missing(&self, mask: PollEvents, is_one: impl Fn(&Watch) -> bool) -> Vec<Watch> {
        let shown = self.shows(mask);
        let misses = |watch: &&Watch| watch.misses(mask, shown) && is_one(watch);
        self.watches.lock().iter().filter(misses).cloned().collect()
    }

    fn tell_each(&self, watches: &[Watch], tell: &dyn Fn(&Watch) -> bool) {
        for watch in watches.iter().filter(|watch| !tell(watch)) {
            self.watches.lock().retain(|other| other.id != watch.id || other.tid != watch.tid);
        }
    }
}

/// All descriptors of devices.
pub(crate) struct Descriptors {
    live: Mutex<Live>,
    /// Says which were closed: an event, with the key, for each end that is alone.
    closes: OwnedFd,
    /// From the first open on.
    filler: Mutex<Option<Arc<Filler>>>,
    /// How many FIFOs are being changed: the supervisor may have another end of each open, so
    /// that it does not see that it is alone.
    changing: AtomicUsize,
    /// Of open files whose pollers are to be told.
    wakes: Sender<u64>,
    /// The other end, for one thread at a time.
    woken: Mutex<Receiver<u64>>,
}

/// What clients have.
#[derive(Default)]
struct Live {
    /// By what a client's descriptor is open on.
    files: HashMap<Identity, Arc<Descriptor>>,
    /// The supervisor's ends: of FIFOs and of stand-ins.
    ends: HashMap<u64, End>,
    next_key: u64,
    /// The threads that release what was closed.
    releasing: Vec<Releasing>,
}

struct Releasing {
    thread: u32,
    /// It blocks: who comes after it does not wait for it.
    is_blocked: bool,
}

struct End {
    identity: Identity,
    /// Of a stand-in.
    peer: Option<OwnedFd>,
}

impl Live {
    fn devices(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        let ends = self.ends.values().filter(|end| end.peer.is_none());
        ends.filter_map(|end| self.files.get(&end.identity))
    }
}

impl Descriptors {
    pub(crate) fn new() -> io::Result<Descriptors> {
        let (wakes, woken) = mpsc::channel();
        Ok(Descriptors {
            live: Mutex::default(),
            filler: Mutex::default(),
            changing: AtomicUsize::new(0),
            closes: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wakes,
            woken: Mutex::new(woken),
        })
    }

    fn filler(&self) -> io::Result<Arc<Filler>> {
        let mut filler = self.filler.lock();
        if let Some(filler) = &*filler {
            return Ok(filler.clone());
        }
        Ok(filler.insert(Arc::new(Filler::new()?)).clone())
    }

    /// Makes the descriptor of a new open file: the client's end.
    pub(crate) fn add(
        &self,
        device: &Arc<DeviceEntry>,
        file: Option<Arc<OpenFile>>,
        flags: u32,
    ) -> io::Result<OwnedFd> {
        let access = client::open_flags(flags);
        let mut kept = OFlags::from_bits_truncate(flags) & KEPT;
        if !access.read && !access.write {
            // For ioctl alone; no FIFO can be opened so.
            kept -= OFlags::RWMODE;
        }
        let (client, fifo) = Fifo::new(self.filler()?, access, kept)?;
        let descriptor = Arc::new(Descriptor {
            device: device.clone(),
            file,
            position: AtomicU64::new(0),
            fifo,
            shown: Mutex::new(0),
            locker: Locker::default(),
            woken: Arc::default(),
            watches: Mutex::default(),
            most_watches: Most::default(),
            told: Mutex::default(),
            most_told: Most::default(),
        });
        self.watch(&mut self.live.lock(), identity_of(&client)?, &descriptor, None)?;
        // Nobody waits for it yet.
        self.refresh(&descriptor, &|_| false);
        Ok(client)
    }

    /// Makes what stands for a device at a number that the filter does not look at: the
    /// client's end.
    pub(crate) fn add_standin(
        &self,
        descriptor: &Arc<Descriptor>,
        nonblocking: bool,
    ) -> io::Result<OwnedFd> {
        let (client, peer) = standins::make(nonblocking)?;
        let mut live = self.live.lock();
        if !live.files.values().any(|other| Arc::ptr_eq(other, descriptor)) {
            // Closed since the caller asked.
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        self.watch(&mut live, identity_of(&client)?, descriptor, Some(peer))?;
        Ok(client)
    }

    /// Notes what a client will have, and waits for its close.
    fn watch(
        &self,
        live: &mut Live,
        identity: Identity,
        descriptor: &Arc<Descriptor>,
        peer: Option<OwnedFd>,
    ) -> io::Result<()> {
        let key = live.next_key;
        live.next_key += 1;
        // Errors and hang-ups are always told.
        let (data, none) = (epoll::EventData::new_u64(key), epoll::EventFlags::empty());
        epoll::add(&self.closes, peer.as_ref().unwrap_or(descriptor.fifo.held()), data, none)?;
        live.files.insert(identity, descriptor.clone());
        live.ends.insert(key, End { identity, peer });
        Ok(())
    }

    /// Whether a client has any.
    pub(super) fn has_any(&self) -> bool {
        !self.live.lock().files.is_empty()
    }

    /// The open file behind a descriptor of a client, if it is a device's.
    pub(crate) fn of(&self, tid: u32, fd: u32) -> Option<Arc<Descriptor>> {
        self.on(client::identity(tid, fd)?)
    }

    /// The open file of a device that is this file in truth.
    pub(super) fn on(&self, identity: Identity) -> Option<Arc<Descriptor>> {
        self.live.lock().files.get(&identity).cloned()
    }

    /// Waits until an open file has no descriptor left.
    pub(crate) fn next_closed(&self) -> io::Result<Arc<Descriptor>> {
        loop {
            let mut fds = [PollFd::new(&self.closes, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
            if let Some(descriptor) = self.closed()? {
                return Ok(descriptor);
            }
        }
    }

    /// An open file that has no descriptor left by now, given out once: it is to be
    /// released, and then [`Descriptors::released`] to be called.
    pub(crate) fn closed(&self) -> io::Result<Option<Arc<Descriptor>>> {
        loop {
            let mut live = self.live.lock();
            let Some(key) = self.hung_up()? else { return Ok(None) };
            let Some(end) = live.ends.remove(&key) else { continue };
            let Some(descriptor) = live.files.remove(&end.identity) else { continue };
            // The end of a FIFO lives as long as what stands for it.
            if end.peer.is_none() {
                epoll::delete(&self.closes, descriptor.fifo.held())?;
            }
            if !live.files.values().any(|other| Arc::ptr_eq(other, &descriptor)) {
                let thread = pool::own_thread();
                live.releasing.push(Releasing { thread, is_blocked: false });
                return Ok(Some(descriptor));
            }
        }
    }

    /// The key of an end that is alone.
    fn hung_up(&self) -> io::Result<Option<u64>> {
        let mut events = Vec::with_capacity(1);
        let now = rustix::event::Timespec::default();
        rustix::io::retry_on_intr(|| {
            epoll::wait(&self.closes, rustix::buffer::spare_capacity(&mut events), Some(&now))
        })?;
        Ok(events.first().map(|event| event.data.u64()))
    }

    /// What [`Descriptors::next_closed`] gave has been released.
    pub(crate) fn released(&self) {
        let tid = pool::own_thread();
        let mut live = self.live.lock();
        if let Some(place) = live.releasing.iter().position(|other| other.thread == tid) {
            live.releasing.swap_remove(place);
        }
    }

    /// Nobody has any of them any more, whatever the kernel has told.
    pub(crate) fn clear(&self) {
        let mut live = self.live.lock();
        let files = std::mem::take(&mut live.files);
        let ends = std::mem::take(&mut live.ends);
        drop(live);
        // Drivers' releases.
        drop((files, ends));
    }

    /// Whether nothing was closed that has not been released.
    pub(crate) fn is_settled(&self) -> bool {
        let live = self.live.lock();
        live.releasing.is_empty() && self.hung_up().is_ok_and(|key| key.is_none())
    }

    /// As [`Descriptors::is_settled`], but for releases that were given up. So many open files
    /// are `held`.
    pub(crate) fn are_caught_up(&self, held: usize) -> bool {
        let live = self.live.lock();
        live.releasing.iter().all(|releasing| releasing.is_blocked)
            && (live.ends.len() <= held
                || self.changing.load(Ordering::SeqCst) == 0
                    && self.hung_up().is_ok_and(|key| key.is_none()))
    }

    /// Whether what was closed is being released by threads that are not all blocked.
    pub(crate) fn are_being_released(&self) -> bool {
        let live = self.live.lock();
        let waited_for = || live.releasing.iter().filter(|releasing| !releasing.is_blocked);
        waited_for().next().is_none() || waited_for().any(|other| pool::is_runnable(other.thread))
    }

    /// Nobody waits any more for what is being released now.
    pub(crate) fn give_up(&self) {
        self.live.lock().releasing.iter_mut().for_each(|releasing| releasing.is_blocked = true);
    }

    /// Shows what a device's driver says now to everybody who has it open; `tell`: see
    /// [`Descriptor::tell`].
    pub(crate) fn refresh_device(&self, device: u64, tell: &dyn Fn(&Watch) -> bool) {
        let of_device = |descriptor: &&Arc<Descriptor>| descriptor.device.index == device;
        let all: Vec<_> = self.live.lock().devices().filter(of_device).cloned().collect();
        all.iter().for_each(|descriptor| self.refresh(descriptor, tell));
    }

    /// Waits for a wake and tells the pollers of it. False when there will be no more.
    pub(crate) fn tell_next(&self, received: &dyn Fn(), tell: &dyn Fn(&Watch) -> bool) -> bool {
        let Ok(id) = self.woken.lock().recv() else { return false };
        received();
        let has_id = |descriptor: &&Arc<Descriptor>| {
            descriptor.file.as_ref().is_some_and(|file| file.id == id)
        };
        let descriptor = self.live.lock().devices().find(has_id).cloned();
        if let Some(descriptor) = descriptor
            && descriptor.woken.is_new.load(Ordering::SeqCst)
        {
            self.refresh(&descriptor, tell);
        }
        true
    }

    /// What the driver of an open file says now; `wanted`: what it is told that is asked for.
    pub(super) fn ask(
        &self,
        descriptor: &Descriptor,
        file: &Arc<OpenFile>,
        wanted: Option<PollEvents>,
    ) -> PollEvents {
        let poller = Arc::new(Poller {
            wakes: self.wakes.clone(),
            woken: descriptor.woken.clone(),
            file: Arc::downgrade(file),
            id: file.id,
        });
        file.poll(&mut Register { poller, wanted })
    }

    /// Takes back what the FIFO shows and the driver says no more: to be asked what somebody waits
    /// for may have begun something, such as a camera's stream for `read`.
    ///
    /// For a call that is being served: a driver that is being asked by somebody else may wait until
    /// that call is answered, so it is not waited for.
    pub(super) fn hide(&self, descriptor: &Descriptor, file: &Arc<OpenFile>) {
        let Some(mut shown) = descriptor.shown.try_lock() else { return };
        if *shown > 0 {
            let mask = self.ask(descriptor, file, None);
            self.change(file, || descriptor.fifo.hide(&mut shown, mask));
        }
    }

    /// Shows what the driver says now: first, to those whom the FIFO would tell only a part.
    fn refresh(&self, descriptor: &Arc<Descriptor>, tell: &dyn Fn(&Watch) -> bool) {
        let Some(file) = &descriptor.file else { return };
        let (mut told, mut woken) = (HashSet::new(), false);
        loop {
            let mut shown = descriptor.shown.lock();
            // Taken before asking: a wake after the answer is told by another refresh.
            woken |= descriptor.woken.is_new.swap(false, Ordering::SeqCst);
            let mask = self.ask(descriptor, file, None);
            let is_untold = |watch: &Watch| !told.contains(&(watch.id, watch.tid));
            let watches = descriptor.missing(mask, is_untold);
            if watches.is_empty() {
                return self.change(file, || descriptor.fifo.show(&mut shown, mask, woken));
            }
            // To tell them may take long, and others have something to show meanwhile.
            drop(shown);
            told.extend(watches.iter().map(|watch| (watch.id, watch.tid)));
            descriptor.tell_each(&watches, tell);
        }
    }

    /// Changes what a FIFO shows.
    fn change(&self, file: &OpenFile, show: impl FnOnce() -> io::Result<()>) {
        self.changing.fetch_add(1, Ordering::SeqCst);
        let changed = show();
        self.changing.fetch_sub(1, Ordering::SeqCst);
        if let Err(error) = changed {
            crate::report_once(format_args!(
                "{}: cannot show poll whether it is ready: {error}",
                file.device.path.display()
            ));
        }
    }
}

fn identity_of(fd: impl AsFd) -> io::Result<Identity> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// What a queue wakes for the pollers of one open file. The driver may hold its locks,
/// so it is asked on another thread.
struct Poller {
    wakes: Sender<u64>,
    woken: Arc<Woken>,
    file: Weak<OpenFile>,
    id: u64,
}

impl Wake for Poller {
    fn wake(&self) {
        self.woken.wakes.fetch_add(1, Ordering::SeqCst);
        if !self.woken.is_new.swap(true, Ordering::SeqCst) {
            // It fails when nobody takes them any more: at the end.
            let _ = self.wakes.send(self.id);
        }
    }

    fn is_alive(&self) -> bool {
        self.file.strong_count() > 0
    }

    fn key(&self) -> u64 {
        self.id
    }
}

struct Register {
    poller: Arc<Poller>,
    wanted: Option<PollEvents>,
}

impl PollTable<HostWaitQueue> for Register {
    fn register(&mut self, queue: &HostWaitQueue) {
        queue.register(self.poller.clone());
    }

    fn wanted(&self) -> Option<PollEvents> {
        self.wanted
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsRawFd, path::Path};

    use super::{super::testing, *};
    use crate::{opens::Opens, trace::Trace};
    use devmap_driver::{Open, WaitQueue};
    use rustix::io::Errno;

    fn opens() -> Opens {
        Opens::new(1, Arc::new(Trace::create(None, false).unwrap()))
    }

    fn open(opens: &Opens, device: &Arc<DeviceEntry>, flags: i32) -> Arc<OpenFile> {
        let flags = client::open_flags(flags.cast_unsigned());
        opens.open(opens.reserve(), device, &Open { flags, pid: 1 }).unwrap()
    }

    fn shows(client: &OwnedFd) -> PollFlags {
        let mut fds = [PollFd::new(client, PollFlags::IN | PollFlags::OUT | PollFlags::PRI)];
        poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap();
        fds[0].revents()
    }

    #[test]
    fn every_mask_is_shown_as_far_as_a_fifo_can() {
        let (device, state) = testing::device(Path::new("/dev/x"), 0);
        let (descriptors, opens) = (Descriptors::new().unwrap(), opens());
        for (flags, access) in [
            (libc::O_RDONLY, PollFlags::IN),
            (libc::O_WRONLY, PollFlags::OUT),
            (libc::O_RDWR, PollFlags::IN | PollFlags::OUT),
        ] {
            let file = open(&opens, &device, flags);
            let client = descriptors.add(&device, Some(file), flags.cast_unsigned()).unwrap();
            // From every mask to every other.
            for (before, mask) in (0..32).flat_map(|before| (0..32).map(move |m| (before, m))) {
                for mask in [before, mask] {
                    state.mask.store(mask, Ordering::SeqCst);
                    descriptors.refresh_device(0, &|_| false);
                }
                let mask = PollEvents::from_bits(mask);
                let has = |event| mask.contains(event);
                let mut shown = PollFlags::empty();
                let error = has(PollEvents::ERR);
                shown.set(PollFlags::IN, has(PollEvents::IN) || has(PollEvents::HUP) || error);
                shown.set(PollFlags::OUT, has(PollEvents::OUT) || error);
                if flags == libc::O_RDWR && shown.is_empty() {
                    shown = PollFlags::OUT;
                }
                assert_eq!(shows(&client), shown & access, "{mask} after {before}, {flags:#o}");
            }
        }
    }

    #[test]
    fn a_wake_is_told_to_those_who_wait_for_edges() {
        let (device, state) = testing::device(Path::new("/dev/x"), 0);
        let (descriptors, opens) = (Descriptors::new().unwrap(), opens());
        let file = open(&opens, &device, libc::O_RDWR);
        let client = descriptors.add(&device, Some(file), libc::O_RDWR as u32).unwrap();
        let waiter = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&waiter, &client, epoll::EventData::new_u64(1), edges).unwrap();
        let told = || {
            let mut events = Vec::with_capacity(2);
            let now = rustix::event::Timespec::default();
            epoll::wait(&waiter, rustix::buffer::spare_capacity(&mut events), Some(&now)).unwrap()
        };
        assert_eq!(told(), 0);
        for mask in [PollEvents::IN, PollEvents::IN.union(PollEvents::OUT)] {
            state.mask.store(mask.bits(), Ordering::SeqCst);
            for _ in 0..10 {
                state.queue.wake_all();
                descriptors.refresh_device(0, &|_| false);
                assert_eq!((told(), told()), (1, 0), "{mask}");
                descriptors.refresh_device(0, &|_| false);
                assert_eq!(told(), 0, "{mask}: nothing was woken");
            }
        }
    }

    #[test]
    fn notes_of_threads_that_are_gone_are_given_up() {
        let (device, _) = testing::device(Path::new("/dev/x"), 0);
        let (descriptors, opens) = (Descriptors::new().unwrap(), opens());
        let file = open(&opens, &device, libc::O_RDWR);
        let client = descriptors.add(&device, Some(file), libc::O_RDWR as u32).unwrap();
        let descriptor = descriptors.on(identity_of(&client).unwrap()).unwrap();
        for id in 0..10_000_u32 {
            // No thread has such a number (`PID_MAX_LIMIT`).
            let tid = (1 << 22) + id;
            descriptor.watch(Watch::new(id.into(), tid, (0, [0; 6]), PollEvents::PRI));
            descriptor.set_told((tid, 3, 4), 0);
        }
        assert!(descriptor.watches.lock().len() <= Most::FIRST);
        assert!(descriptor.told.lock().len() <= Most::FIRST);
    }

    #[test]
    fn the_last_close_is_told_once() {
        let (device, _) = testing::device(Path::new("/dev/x"), 0);
        let (descriptors, opens) = (Descriptors::new().unwrap(), opens());
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_ACCMODE] {
            let file = open(&opens, &device, flags);
            let id = file.id;
            let client = descriptors.add(&device, Some(file), flags.cast_unsigned()).unwrap();
            let copy = client.try_clone().unwrap();
            let tid = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
            let descriptor = descriptors.of(tid, client.as_raw_fd().cast_unsigned()).unwrap();
            let standin = descriptors.add_standin(&descriptor, false).unwrap();
            let stands_for = descriptors.of(tid, standin.as_raw_fd().cast_unsigned()).unwrap();
            assert!(Arc::ptr_eq(&stands_for, &descriptor));
            assert_eq!(rustix::io::read(&standin, &mut [0]), Err(Errno::INVAL));
            assert_eq!(rustix::io::write(&standin, &[0]), Err(Errno::NOTCONN));
            drop(client);
            assert!(descriptors.closed().unwrap().is_none());
            drop(copy);
            assert!(descriptors.closed().unwrap().is_none());
            descriptors.refresh_device(0, &|_| false);
            drop(standin);
            assert!(!descriptors.is_settled());
            let closed = descriptors.next_closed().unwrap();
            assert_eq!(closed.file.as_ref().map(|file| file.id), Some(id), "{flags:#o}");
            assert!(!descriptors.is_settled());
            descriptors.released();
            assert!(descriptors.is_settled());
            assert!(descriptors.closed().unwrap().is_none());
            assert!(descriptors.add_standin(&descriptor, false).is_err());
        }
    }
}
