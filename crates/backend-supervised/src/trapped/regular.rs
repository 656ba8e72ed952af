//! Regular files in trapped mode: there is no FUSE whose page cache could be theirs, so each has
//! a memory file (`cache`), and its descriptors are open files of that. So `read`, `write`,
//! `lseek`, `mmap`, locks and what happens at the end of the file are the kernel's own, and all
//! programs see the same.
//!
//! What they change goes back to the driver by `fsync`, `msync` and `sync`, which are notified; in
//! order, before they return. And when inotify tells of a `write`, a `truncate` or a last
//! close, which it does before these return: a thread looks then, and each call that takes a
//! path waits for it. So who looks at the driver's own file by its path sees what was written
//! before.
//!
//! Descriptors lie below those of devices, where the filter notifies `fstat` alone.

pub(super) mod cache;
mod compare;

use std::{
    io,
    ops::Range,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_driver::{Errno, Fsync, Open};
use devmap_sys::{
    arch::nr,
    seccomp::{Notification, Reply},
};
use parking_lot::{Condvar, Mutex};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
};

use self::cache::{Cache, Opener, State};
use super::{Trapped, numbers::Numbers};
use crate::{
    Core, client,
    notify::{self, Call},
    opens::{DeviceEntry, OpenFile},
    pool,
    threads::{Failures, LazyThread},
    trace::Event,
};

/// How long a driver is waited for that stores nothing.
const LONGEST: Duration = Duration::from_secs(10);

/// How many times of [`pool::PATIENCE`] the end of a program waits for one that is blocked.
const AT_END: usize = 20 * pool::BLOCKED;

/// The regular files of a run.
pub(crate) struct Regular {
    files: Vec<Arc<Watched>>,
    /// How many of them programs have open or mapped.
    used: Arc<AtomicUsize>,
}

/// One of them, and who sees to its changes.
pub(crate) struct Watched {
    pub(crate) cache: Cache,
    used: Arc<AtomicUsize>,
    /// Tells of changes of the memory file.
    inotify: OwnedFd,
    rounds: Mutex<Rounds>,
    ended: Condvar,
    /// The thread that does it, or 0.
    by: AtomicU32,
    /// The driver blocks that thread: nobody waits for it any more.
    is_blocked: AtomicBool,
    thread: LazyThread,
}

/// How often that thread has begun to see to what inotify told, and has ended.
#[derive(Default)]
struct Rounds {
    begun: u64,
    ended: u64,
}

impl Regular {
    pub(super) fn new(devices: &[Arc<DeviceEntry>]) -> io::Result<Regular> {
        let used = Arc::<AtomicUsize>::default();
        let watched = |device: &Arc<DeviceEntry>| {
            Ok(Arc::new(Watched {
                cache: Cache::new(device),
                used: used.clone(),
                inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
                rounds: Mutex::default(),
                ended: Condvar::new(),
                by: AtomicU32::new(0),
                is_blocked: AtomicBool::new(false),
                thread: LazyThread::default(),
            }))
        };
        let regular = devices.iter().filter(|device| device.is_regular());
        let files = regular.map(watched).collect::<io::Result<_>>()?;
        Ok(Regular { files, used })
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(super) fn get(&self, device: &DeviceEntry) -> Option<&Arc<Watched>> {
        self.files.iter().find(|file| file.cache.device.index == device.index)
    }

    /// The file of which this is the memory file.
    pub(super) fn with(&self, identity: (u64, u64)) -> Option<&Arc<Watched>> {
        self.files.iter().find(|file| file.cache.is(identity))
    }

    fn is_used(&self) -> bool {
        self.used.load(Ordering::SeqCst) > 0
    }

    /// The file behind a descriptor of a client.
    pub(super) fn of(&self, tid: u32, fd: u32) -> Option<&Arc<Watched>> {
        if self.is_used() { self.with(client::identity(tid, fd)?) } else { None }
    }

    /// Waits until all that programs have done by now is seen to, unless a driver blocks.
    pub(super) fn settle(&self) {
        if self.is_used() {
            self.files.iter().for_each(|file| file.settle());
        }
    }

    /// The same at the end of a program, with more patience.
    pub(super) fn settle_at_end(&self) {
        for file in &self.files {
            file.is_settled_within(AT_END);
        }
    }

    /// No program is left.
    pub(super) fn end(&self, core: &Core) {
        self.settle_at_end();
        for file in &self.files {
            // A driver that blocks has had its time.
            if file.cache.lock_patiently().is_some() {
                file.tend(core, true);
            }
        }
    }
}

impl Watched {
    fn settle(&self) {
        if !self.is_blocked.load(Ordering::SeqCst) && !self.is_settled_within(pool::BLOCKED) {
            self.is_blocked.store(true, Ordering::SeqCst);
        }
    }

    /// Waits until all that is told by now is seen to: for a driver that goes on, but stores
    /// nothing, [`LONGEST`]; for one that is blocked, so many times of [`pool::PATIENCE`].
    fn is_settled_within(&self, patience: usize) -> bool {
        let round = self.next_round();
        let mut stored = self.cache.stored();
        let mut blocked = 0;
        let mut deadline = Instant::now() + LONGEST;
        while !self.is_settled(round) {
            let goes_on = client::goes_on(self.by.load(Ordering::SeqCst)) || self.cache.goes_on();
            blocked = if goes_on { 0 } else { blocked + 1 };
            let now = self.cache.stored();
            if now != stored {
                (stored, blocked, deadline) = (now, 0, Instant::now() + LONGEST);
            }
            if blocked == patience || Instant::now() > deadline {
                return false;
            }
        }
        true
    }

    /// The first round that sees to all that is told by now.
    fn next_round(&self) -> u64 {
        self.rounds.lock().begun + 1
    }

    /// Waits a while for the end of this round; or for none to be needed.
    fn is_settled(&self, round: u64) -> bool {
        let deadline = Instant::now() + pool::PATIENCE;
        let mut rounds = self.rounds.lock();
        loop {
            // What is told is read within a round.
            let is_told = rustix::io::ioctl_fionread(&self.inotify).is_ok_and(|bytes| bytes > 0);
            if rounds.ended >= round || (rounds.ended == rounds.begun && !is_told) {
                return true;
            }
            if self.ended.wait_until(&mut rounds, deadline).timed_out() {
                return false;
            }
        }
    }

    /// Sees to what inotify tells, for ever; for a thread of its own.
    fn watch(&self, core: &Core) {
        self.by.store(pool::own_thread(), Ordering::SeqCst);
        loop {
            Failures::receive("changes of files", || {
                let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
                rustix::io::retry_on_intr(|| poll(&mut fds, None)).map_err(io::Error::from)
            });
            self.rounds.lock().begun += 1;
            let stored = Failures::receive("changes of files", || self.read_events());
            self.tend(core, stored);
            let mut rounds = self.rounds.lock();
            rounds.ended = rounds.begun;
            self.is_blocked.store(false, Ordering::SeqCst);
            self.ended.notify_all();
        }
    }

    /// Reads what inotify has told. Whether something may have been stored.
    fn read_events(&self) -> io::Result<bool> {
        let mut stored = false;
        crate::inotify::read(&self.inotify, |events, _| {
            stored |= events != ReadFlags::CLOSE_NOWRITE;
        })?;
        Ok(stored)
    }

    /// Gives back what was stored in the file, and ends its use if no program has it any more.
    fn tend(&self, core: &Core, stored: bool) {
        let cache = &self.cache;
        let mut state = cache.lock();
        if state.opens.is_empty() {
            return;
        }
        let is_alone = cache.is_alone();
        if stored || is_alone {
            let before = state.failures;
            cache.give_back(core, &mut state, 0..u64::MAX);
            if let (true, Some(errno)) = (state.failures > before, state.failed) {
                crate::report_once(format_args!(
                    "{}: the driver {:?} fails to store what programs have written: {errno}; who \
                     syncs the file is told, and nobody else",
                    cache.device.path.display(),
                    cache.device.name
                ));
            }
        }
        if !is_alone {
            return;
        }
        if let Some(watch) = state.watch {
            let _ = inotify::remove_watch(&self.inotify, watch);
            self.used.fetch_sub(1, Ordering::SeqCst);
        }
        let ids: Vec<u64> = cache.end(&mut state).into_iter().map(|file| file.id).collect();
        drop(state);
        ids.into_iter().for_each(|id| core.opens.close_whole(id));
    }

    /// An open file for a program.
    fn open(&self, core: &Core, call: &Call<'_>, flags: u32, id: u64) -> Result<OwnedFd, Errno> {
        let cache = &self.cache;
        let tid = call.notification.tid;
        let open =
            Open { flags: client::open_flags(flags), pid: client::process_of(tid).unwrap_or(tid) };
        let file = core.opens.open(id, &cache.device, &open)?;
        let opened = self.open_cache(core, (tid, flags), &file);
        if !matches!(opened, Ok((_, true))) {
            drop(file);
            core.opens.close_whole(id);
        }
        Ok(opened?.0)
    }

    /// Says too whether the driver's open file is kept.
    fn open_cache(
        &self,
        core: &Core,
        (tid, flags): (u32, u32),
        file: &Arc<OpenFile>,
    ) -> Result<(OwnedFd, bool), Errno> {
        let mut state = self.cache.lock();
        let opened = self.open_locked(core, &mut state, (tid, flags), file);
        if opened.is_err() {
            state.opens.retain(|other| other.id != file.id);
            if state.opens.is_empty() {
                self.cache.end(&mut state);
            }
        }
        opened
    }

    fn open_locked(
        &self,
        core: &Core,
        state: &mut State,
        (tid, flags): (u32, u32),
        file: &Arc<OpenFile>,
    ) -> Result<(OwnedFd, bool), Errno> {
        let cache = &self.cache;
        if flags & libc::O_TRUNC.cast_unsigned() != 0 {
            cache.truncate(core, state, tid, 0)?;
        }
        let is_kept = cache.begin(core, state, file)?;
        let client = cache.reopen(flags)?;
        if state.watch.is_none() {
            let what = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::CLOSE_NOWRITE;
            let watch = |path: &str| inotify::add_watch(&self.inotify, path, what);
            let watch = cache.opened(watch).map_err(|error| {
                crate::report_once(format_args!(
                    "{}: open fails with ENOMEM: cannot watch it: {error}",
                    cache.device.path.display()
                ));
                Errno::ENOMEM
            })?;
            state.watch = Some(watch);
            self.used.fetch_add(1, Ordering::SeqCst);
        }
        Ok((client, is_kept))
    }

    /// `fsync` and `msync` of these bytes.
    fn sync(
        &self,
        core: &Arc<Core>,
        call: &Call<'_>,
        bytes: Range<u64>,
        what: Fsync,
        opener: impl FnOnce() -> Opener,
    ) -> Result<(), Errno> {
        let cache = &self.cache;
        let mut state = cache.lock();
        cache.give_back(core, &mut state, bytes);
        if state.failures > 0 {
            state.tell(opener())?;
        }
        let file = state.open_file();
        drop(state);
        let Some(file) = file else { return Ok(()) };
        let tid = call.notification.tid;
        notify::interruptible(core, call, || file.fsync(core, tid, what))
    }

    /// The descriptor by which a process has the file, the first that an open gave it: a map
    /// does not tell through which it was made.
    fn opener(&self, process: u32, first: u32) -> Opener {
        let directory = std::fs::read_dir(format!("/proc/{process}/fd"));
        let numbers = directory.into_iter().flatten();
        let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let of_file = numbers.filter(|fd| {
            client::identity(process, *fd).is_some_and(|identity| self.cache.is(identity))
        });
        // Lower ones are copies.
        (process, of_file.min_by_key(|fd| (*fd < first, *fd)).unwrap_or(u32::MAX))
    }
}

/// Opens a regular file for a program. The answer has been given.
pub(super) fn open(
    core: &Arc<Core>,
    trapped: &Trapped,
    call: &Call<'_>,
    file: &Arc<Watched>,
    flags: u32,
) {
    let cache = &file.cache;
    let (watching, watched) = (core.clone(), file.clone());
    if !file.thread.start("devmap-file", move || watched.watch(&watching)) {
        return notify::answer(call, Err(Errno::ENOMEM));
    }
    let tid = call.notification.tid;
    let started = Instant::now();
    let id = core.opens.reserve();
    let opened = notify::interruptible(core, call, || file.open(core, call, flags, id));
    core.trace_call(started, || Event {
        device: &cache.device.path,
        tid,
        call: "open",
        details: vec![("flags", format!("{flags:#o}").into()), ("open", id.into())],
        result: opened.as_ref().map(|_| Some(0)).map_err(|errno| *errno),
    });
    match opened {
        Ok(client) => {
            // Programs close standard input to have an open give its number.
            let numbers = Numbers { standard: true, lowest: trapped.first_regular() };
            if let Some(given) = trapped.put(call, &cache.device, client, flags, numbers) {
                let process = client::process_of(tid).unwrap_or(tid);
                cache.lock().has_opened((process, given.number));
                given.tell();
            }
        }
        Err(errno) => notify::answer(call, Err(errno)),
    }
}

/// `truncate` of a path.
pub(super) fn truncate(core: &Arc<Core>, call: &Call<'_>, cache: &Cache) {
    let Notification { tid, args: [_, size, ..], .. } = *call.notification;
    if size.cast_signed() < 0 {
        return notify::answer(call, Err(Errno::EINVAL));
    }
    let result =
        notify::interruptible(core, call, || cache.truncate(core, &mut cache.lock(), tid, size));
    notify::answer(call, result.map(|()| 0));
}

/// Serves a call that has what was stored written back. What is the kernel's to check of it,
/// the kernel checks afterwards.
pub(super) fn serve_sync(core: &Arc<Core>, trapped: &Trapped, call: &Call<'_>) -> bool {
    let regular = &trapped.regular;
    let Notification { tid, nr, args, .. } = *call.notification;
    let result = match nr {
        nr::FSYNC | nr::FDATASYNC => {
            let fd = args[0] as u32;
            let what = if nr == nr::FSYNC { Fsync::All } else { Fsync::Data };
            let opener = || (client::process_of(tid).unwrap_or(tid), fd);
            match regular.of(tid, fd) {
                Some(file) => file.sync(core, call, 0..u64::MAX, what, opener),
                None => return false,
            }
        }
        nr::MSYNC => sync_maps(core, trapped, call),
        nr::SYNC | nr::SYNCFS | nr::SYNC_FILE_RANGE => {
            for file in &regular.files {
                let mut state = file.cache.lock();
                if !state.opens.is_empty() {
                    file.cache.give_back(core, &mut state, 0..u64::MAX);
                }
            }
            Ok(())
        }
        _ => return false,
    };
    match result {
        Ok(()) => call.answer(Reply::Continue),
        Err(errno) => notify::answer(call, Err(errno)),
    }
    true
}

fn sync_maps(core: &Arc<Core>, trapped: &Trapped, call: &Call<'_>) -> Result<(), Errno> {
    let regular = &trapped.regular;
    let Notification { tid, args: [start, len, flags, ..], .. } = *call.notification;
    let (sync, invalidate) = (libc::MS_SYNC as u64, libc::MS_INVALIDATE as u64);
    let is_sync = flags & !invalidate == sync;
    if !is_sync || !regular.is_used() {
        return Ok(());
    }
    let maps = client::maps_in(tid, start..start.saturating_add(len)).unwrap_or_default();
    for map in maps.into_iter().filter(|map| map.is_shared) {
        let Some(file) = regular.with(map.file) else { continue };
        let process = || client::process_of(tid).unwrap_or(tid);
        let opener = || file.opener(process(), trapped.first_regular());
        file.sync(core, call, map.bytes, Fsync::Data, opener)?;
    }
    Ok(())
}
