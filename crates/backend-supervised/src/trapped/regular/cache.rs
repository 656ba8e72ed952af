//! The content of one regular file: a memory file, which programs have open and mapped as it
//! is. It is filled by the driver before the first of them has it. What they change in it is
//! found by comparison with a second one, which holds what the driver has.
//!
//! What does not live here: when that is done (`regular`).

use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use devmap_driver::{Errno, Platform as _};
use devmap_sys::{memfd, stat::FileStatus};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use super::compare;
use crate::{
    Core, client,
    devfs::{fault_event, write_back_event},
    faulted,
    opens::{DeviceEntry, OpenFile},
    pool,
    trace::Event,
};

/// The most bytes of content, which all have to be in memory.
const LIMIT: u64 = 256 << 20;

/// So many bytes are filled at once.
const CHUNK: u64 = 256 << 10;

/// Flags of an open that the open file of the memory has too.
const KEPT: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::NONBLOCK)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC);

/// So many are remembered who have been told of a failure.
const TOLD: usize = 1024;

/// A process and its descriptor.
pub(super) type Opener = (u32, u32);

/// A regular file.
pub(crate) struct Cache {
    pub(crate) device: Arc<DeviceEntry>,
    memory: OnceLock<Memory>,
    state: Mutex<State>,
    /// The thread that locked the state last.
    holder: AtomicU32,
    /// How often the driver has stored something.
    stored: AtomicU64,
}

struct Memory {
    file: File,
    /// Device and inode number.
    identity: (u64, u64),
}

/// What changes while programs use it.
#[derive(Default)]
pub(super) struct State {
    /// Open files of the driver: one, and one that may write if any program may. Empty: no
    /// program has the file open or mapped, and the memory is empty.
    pub(super) opens: Vec<Arc<OpenFile>>,
    /// Tells of changes.
    pub(super) watch: Option<i32>,
    /// How long the file is that the driver has.
    size: u64,
    /// Its content, from the first open for writing on.
    clean: Option<File>,
    /// When the file was last changed, as long as no program has it open.
    changed: Option<Duration>,
    /// How often the driver failed to store something, and the last reason.
    pub(super) failures: u64,
    pub(super) failed: Option<Errno>,
    /// How many of the failures somebody has been told of.
    told: HashMap<Opener, u64>,
}

impl State {
    fn fail(&mut self, errno: Errno) {
        self.failures += 1;
        self.failed = Some(errno);
    }

    /// The failure that is to be told now: each is told once.
    pub(super) fn tell(&mut self, opener: Opener) -> Result<(), Errno> {
        let known = self.told.get(&opener).copied().unwrap_or(0);
        match self.failed {
            Some(errno) if self.failures > known => {
                self.has_heard(opener);
                Err(errno)
            }
            _ => Ok(()),
        }
    }

    /// Who opens a file hears of no failure that others have heard of (`errseq_sample`).
    pub(super) fn has_opened(&mut self, opener: Opener) {
        if !self.told.is_empty() {
            self.has_heard(opener);
        }
    }

    fn has_heard(&mut self, opener: Opener) {
        if self.told.len() >= TOLD {
            self.told.clear();
        }
        self.told.insert(opener, self.failures);
    }

    /// Nobody uses the file any more. Of a failure that nobody has heard of, who opens it next hears.
    fn begin_anew(&mut self) -> Vec<Arc<OpenFile>> {
        let State { opens, changed, failures, failed, told, .. } = std::mem::take(self);
        self.changed = changed;
        if !told.values().any(|heard| *heard == failures) {
            (self.failures, self.failed) = (failures, failed);
        }
        opens
    }

    /// The open file for a call of the driver's.
    pub(super) fn open_file(&self) -> Option<Arc<OpenFile>> {
        self.opens.iter().find(|file| file.flags.write).or(self.opens.first()).cloned()
    }
}

impl Cache {
    pub(super) fn new(device: &Arc<DeviceEntry>) -> Cache {
        Cache {
            device: device.clone(),
            memory: OnceLock::new(),
            state: Mutex::default(),
            holder: AtomicU32::new(0),
            stored: AtomicU64::new(0),
        }
    }

    fn memory(&self) -> io::Result<&Memory> {
        if let Some(memory) = self.memory.get() {
            return Ok(memory);
        }
        // Late, so that no process but the supervisor has it.
        let file = memfd::create_open_ended("devmap", self.device.metadata.mode)?;
        let stat = rustix::fs::fstat(&file)?;
        let memory = Memory { file: file.into(), identity: (stat.st_dev, stat.st_ino) };
        Ok(self.memory.get_or_init(|| memory))
    }

    /// Whether this is its memory file.
    pub(super) fn is(&self, identity: (u64, u64)) -> bool {
        self.memory.get().is_some_and(|memory| memory.identity == identity)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        let state = self.state.lock();
        self.holder.store(pool::own_thread(), Ordering::SeqCst);
        state
    }

    /// `None` where a driver blocks meanwhile.
    pub(super) fn lock_patiently(&self) -> Option<MutexGuard<'_, State>> {
        let state = pool::patiently(|| {
            let locked = self.state.try_lock_for(pool::PATIENCE);
            locked.ok_or_else(|| self.goes_on())
        })?;
        self.holder.store(pool::own_thread(), Ordering::SeqCst);
        Some(state)
    }

    /// What `stat` shows, but mode and owner.
    pub(crate) fn status(&self, core: &Core, status: &mut FileStatus) {
        let Ok(memory) = self.memory() else { return };
        (status.device, status.inode) = memory.identity;
        let is_used = match self.lock_patiently() {
            Some(state) if state.opens.is_empty() => {
                status.time = state.changed.unwrap_or(core.started);
                false
            }
            Some(mut state) => {
                self.follow(core, &mut state);
                true
            }
            None => true,
        };
        if !is_used {
            status.size = self.device.size().unwrap_or(0);
        } else if let Ok(now) = rustix::fs::fstat(&memory.file) {
            status.size = now.st_size.unsigned_abs();
            status.time = Duration::new(now.st_mtime.unsigned_abs(), now.st_mtime_nsec as u32);
        }
    }

    /// A path to the memory file.
    pub(super) fn path(&self) -> io::Result<String> {
        Ok(format!("/proc/self/fd/{}", self.memory()?.file.as_raw_fd()))
    }

    /// An open file of it for a program.
    pub(super) fn reopen(&self, flags: u32) -> Result<OwnedFd, Errno> {
        let kept = OFlags::from_bits_retain(flags) & KEPT;
        self.opened(|path| rustix::fs::open(path, kept | OFlags::CLOEXEC, Mode::empty()))
            .map_err(|_| Errno::ENFILE)
    }

    /// What `open` makes of its path, whatever mode a program has given the memory file by a
    /// descriptor of it.
    pub(super) fn opened<T>(&self, open: impl Fn(&str) -> rustix::io::Result<T>) -> io::Result<T> {
        let (path, memory) = (self.path()?, self.memory()?);
        memfd::permitted(memory.file.as_fd(), self.device.metadata.mode, || Ok(open(&path)?))
    }

    /// How often the driver has stored something.
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Ordering::SeqCst)
    }

    /// Whether no program has it open or mapped.
    pub(super) fn is_alone(&self) -> bool {
        let is_alone = self.memory().and_then(|memory| memfd::is_alone(memory.file.as_fd()));
        is_alone.unwrap_or_else(|error| {
            crate::report_once(format_args!(
                "{}: cannot tell when nobody has it open: {error}; its content stays in memory",
                self.device.path.display()
            ));
            false
        })
    }

    /// Whether the thread goes on that locked the state last.
    pub(super) fn goes_on(&self) -> bool {
        client::goes_on(self.holder.load(Ordering::SeqCst))
    }

    /// Notes an open file of the driver's, and fills the memory if it is the first. False: it
    /// is not needed beside the others.
    pub(super) fn begin(
        &self,
        core: &Core,
        state: &mut State,
        file: &Arc<OpenFile>,
    ) -> Result<bool, Errno> {
        let is_needed = match state.open_file() {
            Some(other) => file.flags.write && !other.flags.write,
            None => true,
        };
        if is_needed {
            state.opens.push(file.clone());
        }
        if state.watch.is_none() {
            self.fill(core, state, self.device.size()?)?;
            let time = state.changed.unwrap_or(core.started);
            let time = Timespec {
                tv_sec: time.as_secs().cast_signed(),
                tv_nsec: time.subsec_nanos().into(),
            };
            let times = Timestamps { last_access: time, last_modification: time };
            let memory = self.memory().map_err(|_| Errno::ENFILE)?;
            let _ = rustix::fs::futimens(&memory.file, &times);
        } else {
            self.follow(core, state);
        }
        if file.flags.write && state.clean.is_none() {
            state.clean = Some(self.copy().map_err(errno)?);
        }
        Ok(is_needed)
    }

    /// A copy of the memory, which nobody can have changed yet.
    fn copy(&self) -> io::Result<File> {
        let copy = memfd::create_open_ended("devmap-clean", 0o600)?.into();
        compare::copy(&self.memory()?.file, &copy)?;
        Ok(copy)
    }

    /// No program has it any more: the open files of the driver, to be closed.
    pub(super) fn end(&self, state: &mut State) -> Vec<Arc<OpenFile>> {
        let opens = state.begin_anew();
        if let Ok(memory) = self.memory() {
            if let Ok(now) = rustix::fs::fstat(&memory.file) {
                let time = Duration::new(now.st_mtime.unsigned_abs(), now.st_mtime_nsec as u32);
                state.changed = Some(time);
            }
            let _ = memory.file.set_len(0);
        }
        opens
    }

    /// Fills the memory from where it ends up to `end`. No program sees a byte before it is
    /// filled.
    fn fill(&self, core: &Core, state: &mut State, end: u64) -> Result<(), Errno> {
        if end > LIMIT {
            crate::report_once(format_args!(
                "{}: in trapped mode the whole file has to be in memory, and it has {end} bytes, \
                 where {LIMIT} is the most: open fails with ENOMEM, and who has it open does not \
                 see what came",
                self.device.path.display()
            ));
            return Err(Errno::ENOMEM);
        }
        let memory = &self.memory().map_err(errno)?.file;
        let file = state.open_file().ok_or(Errno::EIO)?;
        let page_len = core.host.page_size().bytes();
        while state.size < end {
            let (at, size) = (state.size, CHUNK.min(end - state.size));
            let started = Instant::now();
            let filled = faulted::fill(&file, page_len, at, size);
            core.trace_call(started, || {
                fault_event(&file, page_len, (at, size as u32), filled.as_ref().map(drop))
            });
            let bytes = filled?;
            if bytes.is_empty() {
                // It has become shorter.
                break;
            }
            if let Some(clean) = &state.clean {
                clean.write_all_at(&bytes, at).map_err(errno)?;
            }
            memory.write_all_at(&bytes, at).map_err(errno)?;
            state.size += bytes.len() as u64;
        }
        Ok(())
    }

    /// Takes over the length that others have given the file. If programs have changed it too,
    /// theirs will be given to the driver.
    pub(super) fn follow(&self, core: &Core, state: &mut State) {
        let (Ok(memory), Ok(size)) = (self.memory(), self.device.size()) else { return };
        let len = memory.file.metadata().map(|metadata| metadata.len());
        if size == state.size || len.is_ok_and(|len| len != state.size) {
            return;
        }
        if size < state.size {
            self.set_len(state, size);
        } else {
            // Who cannot have more of it goes on with what there is.
            let _ = self.fill(core, state, size);
        }
    }

    fn set_len(&self, state: &mut State, size: u64) {
        if let Ok(memory) = self.memory() {
            let _ = memory.file.set_len(size);
        }
        if let Some(clean) = &state.clean {
            let _ = clean.set_len(size);
        }
        state.size = size;
    }

    /// Gives the file another length.
    pub(super) fn truncate(
        &self,
        core: &Core,
        state: &mut State,
        tid: u32,
        size: u64,
    ) -> Result<(), Errno> {
        self.truncate_device(core, tid, size)?;
        if state.watch.is_some() {
            self.set_len(state, size);
        } else {
            state.changed = Some(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
        }
        Ok(())
    }

    fn truncate_device(&self, core: &Core, tid: u32, size: u64) -> Result<(), Errno> {
        let started = Instant::now();
        let result = self.device.call("truncate", |driver| driver.truncate(size));
        core.trace_call(started, || Event {
            device: &self.device.path,
            tid,
            call: "truncate",
            details: vec![("size", size.into())],
            result: result.map(|()| Some(0)),
        });
        result
    }

    /// Gives the driver what programs have changed in these bytes, in order, and the length.
    /// What it fails to store is not tried again, as in Linux; those who ask are told.
    pub(super) fn give_back(&self, core: &Core, state: &mut State, bytes: Range<u64>) {
        let Ok(memory) = self.memory() else { return };
        self.follow(core, state);
        let Ok(len) = memory.file.metadata().map(|metadata| metadata.len()) else { return };
        let had = state.size;
        if len != had {
            match self.truncate_device(core, 0, len) {
                Ok(()) => {
                    state.size = len;
                    if let Some(clean) = &state.clean {
                        let _ = clean.set_len(len);
                    }
                }
                Err(errno) => {
                    // What the driver does not have, the file does not show.
                    state.fail(errno);
                    self.set_len(state, len.min(had));
                    let _ = self.fill(core, state, had);
                }
            }
        }
        let Some(clean) = state.clean.take() else { return };
        let end = bytes.end.min(state.size);
        if let Err(error) = self.store(core, state, &clean, bytes.start..end) {
            crate::report_once(format_args!(
                "{}: cannot look for what programs stored: {error}",
                self.device.path.display()
            ));
            state.fail(Errno::EIO);
        }
        state.clean = Some(clean);
    }

    fn store(
        &self,
        core: &Core,
        state: &mut State,
        clean: &File,
        bytes: Range<u64>,
    ) -> io::Result<()> {
        let memory = &self.memory()?.file;
        let page_len = core.host.page_size().bytes();
        compare::changes(memory, clean, bytes, page_len, |offset, bytes| {
            let started = Instant::now();
            let result = self.device.call("write_back", |driver| driver.write_back(offset, bytes));
            core.trace_call(started, || {
                write_back_event(&self.device, offset, bytes.len(), result)
            });
            self.stored.fetch_add(1, Ordering::SeqCst);
            if let Err(errno) = result {
                state.fail(errno);
            }
            clean.write_all_at(bytes, offset)
        })
    }
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::ENOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_to_each_and_not_to_those_who_come_later() {
        let mut state = State::default();
        state.has_opened((1, 5));
        state.fail(Errno::EIO);
        assert_eq!(state.tell((1, 5)), Err(Errno::EIO));
        assert_eq!(state.tell((1, 5)), Ok(()));
        assert_eq!(state.tell((1, 6)), Err(Errno::EIO));
        state.has_opened((2, 5));
        assert_eq!(state.tell((2, 5)), Ok(()));
        state.fail(Errno::ENOSPC);
        assert_eq!(state.tell((2, 5)), Err(Errno::ENOSPC));
    }

    #[test]
    fn a_failure_that_nobody_has_heard_of_is_told_to_who_comes_next() {
        let mut state = State::default();
        state.has_opened((1, 5));
        state.fail(Errno::EIO);
        state.begin_anew();
        state.has_opened((2, 5));
        assert_eq!(state.tell((2, 5)), Err(Errno::EIO));
        state.begin_anew();
        assert_eq!(state.tell((3, 5)), Ok(()));
    }
}
