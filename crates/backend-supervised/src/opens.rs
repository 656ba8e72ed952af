//! Devices and their open files: who opened what, what is mapped through it, and
//! when it is released.
//!
//! Every call into a driver goes through here, so that a driver's panic ends only
//! the call in which it happens.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt::Display,
    io,
    ops::Range,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_driver::{Errno, Fsync, Kind, Metadata, Open, OpenFlags, PollEvents, PollTable};
use parking_lot::Mutex;

use crate::{
    Core,
    erase::{AnyDevice, AnyFile},
    host::{HostMemory, HostWaitQueue},
    pool,
    reaper::Changed,
    sysfs::ClassEntry,
    trace::{Event, Trace},
};

/// A device at its path.
pub(crate) struct DeviceEntry {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    /// Its place among the devices of the run.
    pub(crate) index: u64,
    pub(crate) device: Box<dyn AnyDevice>,
    pub(crate) metadata: Metadata,
    /// Major and minor; 0:0 for a regular file.
    pub(crate) number: (u32, u32),
    pub(crate) class: Option<ClassEntry>,
    /// What it is called below `/sys`, where that is not its path: see `sysfs`.
    pub(crate) sys_name: Option<String>,
}

impl DeviceEntry {
    /// Whether it is a regular file.
    pub(crate) fn is_regular(&self) -> bool {
        matches!(self.metadata.kind, Kind::Regular { .. })
    }

    /// The size of a regular file now.
    ///
    /// # Errors
    /// `EIO`: the driver panicked, or says that it is none any more.
    pub(crate) fn size(&self) -> Result<u64, Errno> {
        self.call("metadata", |driver| match driver.metadata().kind {
            Kind::Regular { size } => Ok(size),
            Kind::Character(_) => Err(Errno::EIO),
        })
    }

    /// Runs a driver's method. A panic is reported and answered with `EIO`.
    pub(crate) fn call<T>(
        &self,
        method: &'static str,
        call: impl FnOnce(&dyn AnyDevice) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        catch_unwind(AssertUnwindSafe(|| call(&*self.device))).unwrap_or_else(|panic| {
            let what = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            let consequence = match method {
                "poll" => "the program sees POLLERR",
                "fault" => "the program gets SIGBUS, or an error where the page is wanted at once",
                "close" | "release" | "drop" => "no program is told",
                _ => "the program gets EIO",
            };
            crate::report(format_args!(
                "{}: the driver {:?} panicked in {method}: {what}; {consequence}",
                self.path.display(),
                self.name
            ));
            Err(Errno::EIO)
        })
    }

    /// See [`AnyDevice::end`].
    pub(crate) fn end(&self) {
        let _ = self.call("drop", |driver| {
            driver.end();
            Ok(())
        });
    }

    /// A driver's answer, unless it is more than any right one. That is reported and
    /// answered with `EIO`.
    pub(crate) fn at_most<T: PartialOrd + Display>(
        &self,
        method: &'static str,
        value: T,
        most: T,
    ) -> Result<T, Errno> {
        if value <= most {
            return Ok(value);
        }
        crate::report(format_args!(
            "{}: the driver {:?} answered {value} to {method}, where {most} is the most; the \
             program gets EIO",
            self.path.display(),
            self.name
        ));
        Err(Errno::EIO)
    }
}

/// One open file of a device (`struct file`).
pub(crate) struct OpenFile {
    pub(crate) id: u64,
    pub(crate) device: Arc<DeviceEntry>,
    pub(crate) flags: OpenFlags,
    state: Option<AnyFile>,
    /// The memories that were mapped through it, each with the token that tells
    /// whether it still is. They are held here, so a driver that lets go of its
    /// memory does not take it from under a program.
    maps: Mutex<Vec<(HostMemory, u64)>>,
    /// The file of its faulted pages.
    backing: Mutex<Backing>,
    /// The pages of fault extents: in a daemon of all, elsewhere of those that come later.
    pub(crate) given: Given,
    trace: Arc<Trace>,
    /// Dropped last: says that it is not released yet.
    _alive: Arc<()>,
}

/// The pages of the device that plans gave to an open file, to be faulted: ranges in order, with
/// gaps between them.
#[derive(Default)]
pub(crate) struct Given(Mutex<Vec<Range<u64>>>);

impl Given {
    /// The most ranges with gaps: as many maps as a program may have.
    const MOST: usize = 1 << 16;

    /// Adds ranges.
    ///
    /// # Errors
    /// `ENOMEM`: there are too many.
    pub(crate) fn add(&self, ranges: impl Iterator<Item = Range<u64>>) -> Result<(), Errno> {
        let mut given = self.0.lock();
        for range in ranges {
            // Those that touch it become one with it.
            let from = given.partition_point(|other| other.end < range.start);
            let to = given.partition_point(|other| other.start <= range.end);
            let start = given[from..to].first().map_or(range.start, |at| at.start.min(range.start));
            let end = given[from..to].last().map_or(range.end, |at| at.end.max(range.end));
            if from == to && given.len() >= Self::MOST {
                return Err(Errno::ENOMEM);
            }
            given.splice(from..to, std::iter::once(start..end));
        }
        Ok(())
    }

    /// Makes room for one: the two that are closest to each other, and what lies between them,
    /// are one from now on.
    pub(crate) fn join_closest(&self) {
        let mut given = self.0.lock();
        let gap = |at: &usize| given[*at].start - given[at - 1].end;
        if let Some(at) = (1..given.len()).min_by_key(gap) {
            let end = given.remove(at).end;
            given[at - 1].end = end;
        }
    }

    /// Whether a page is in one of them.
    pub(crate) fn has(&self, page: u64) -> bool {
        self.end(page).is_some()
    }

    /// Where the one ends that a page is in.
    pub(crate) fn end(&self, page: u64) -> Option<u64> {
        let given = self.0.lock();
        let at = given.partition_point(|range| range.end <= page);
        given.get(at).filter(|range| range.contains(&page)).map(|range| range.end)
    }

    /// Whether one of them is no more than `most` pages away from these.
    pub(crate) fn are_near(&self, pages: &Range<u64>, most: u64) -> bool {
        let given = self.0.lock();
        let at = given.partition_point(|range| range.end.saturating_add(most) <= pages.start);
        given.get(at).is_some_and(|range| range.start < pages.end.saturating_add(most))
    }
}

/// Whether plans gave these pages to those of the files that may write.
///
/// # Errors
/// `EFAULT`: not all of them.
pub(crate) fn may_write_back<'a, F: Iterator<Item = &'a Arc<OpenFile>>>(
    files: impl Fn() -> F,
    pages: Range<u64>,
) -> Result<(), Errno> {
    let mut next = pages.start;
    while next < pages.end {
        // Several files may have written what the kernel gives back at once.
        let writers = files().filter(|file| file.flags.write);
        let ends = writers.filter_map(|file| file.given.end(next));
        next = ends.max().ok_or(Errno::EFAULT)?;
    }
    Ok(())
}

/// The file through which clients map the faulted pages of an open file. Like a token,
/// it lives in maps alone once the open file is closed; FUSE tells when it ends.
enum Backing {
    None,
    Open(Arc<OwnedFd>),
    /// Let go of here, and not yet released by the kernel.
    Left,
}

impl OpenFile {
    /// What the driver says of it now. Of a poll method that panicked, `POLLERR`: there is no
    /// errno in a mask.
    pub(crate) fn poll(&self, table: &mut dyn PollTable<HostWaitQueue>) -> PollEvents {
        let mask = self.device.call("poll", |driver| Ok(driver.poll(self.state(), table)));
        mask.unwrap_or(PollEvents::ERR)
    }

    /// Asks the driver to make durable what was written, for thread `tid`.
    pub(crate) fn fsync(&self, core: &Core, tid: u32, what: Fsync) -> Result<(), Errno> {
        let started = Instant::now();
        let result = self.device.call("fsync", |driver| driver.fsync(self.state(), what));
        core.trace_call(started, || Event {
            device: &self.device.path,
            tid,
            call: "fsync",
            details: vec![("open", self.id.into()), ("data", (what == Fsync::Data).into())],
            result: result.map(|()| Some(0)),
        });
        result
    }

    /// The file of its faulted pages, which `open` opens the first time.
    pub(crate) fn backing(
        &self,
        open: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<Arc<OwnedFd>> {
        let mut backing = self.backing.lock();
        if let Backing::Open(file) = &*backing {
            return Ok(file.clone());
        }
        let file = Arc::new(open()?);
        *backing = Backing::Open(file.clone());
        Ok(file)
    }

    /// Whether it has, or had, a file of faulted pages that is not released.
    /// So it does while it is being opened: who asks may be whom that opening waits for.
    pub(crate) fn has_backing(&self) -> bool {
        self.backing.try_lock().is_none_or(|backing| !matches!(*backing, Backing::None))
    }

    /// The driver's state.
    pub(crate) fn state(&self) -> &AnyFile {
        self.state.as_ref().expect("there until drop")
    }

    /// Notes a map through the token `id` of `memory`.
    pub(crate) fn note_map(&self, memory: &HostMemory, id: u64) {
        let mut maps = self.maps.lock();
        if !maps.iter().any(|(other, other_id)| *other_id == id && other.is(memory)) {
            // A driver may make a new memory for each map, and let go of it.
            maps.retain(|(other, other_id)| {
                if other.is_last() {
                    other.tokens().forget(self.id);
                }
                other.tokens().is_live(*other_id)
            });
            maps.push((memory.kept(), id));
        }
    }

    /// Keeps no token at hand: from here on only maps hold them.
    pub(crate) fn forget_tokens(&self) {
        let mut backing = self.backing.lock();
        if let Backing::Open(_) = *backing {
            *backing = Backing::Left;
        }
        drop(backing);
        for (memory, _) in self.maps.lock().iter() {
            memory.tokens().forget(self.id);
        }
    }

    fn is_mapped(&self) -> bool {
        let mut maps = self.maps.lock();
        maps.retain(|(memory, id)| memory.tokens().is_live(*id));
        !maps.is_empty() || self.has_backing()
    }

    /// Whether a map of it may have gone.
    fn may_have_changed(&self, changed: &Changed) -> bool {
        self.maps.lock().iter().any(|(memory, _)| changed.has(memory))
    }
}

impl Drop for OpenFile {
    /// The driver's release.
    fn drop(&mut self) {
        let state = self.state.take();
        let _ = self.device.call("release", |_| {
            drop(state);
            Ok(())
        });
        let event = Event {
            device: &self.device.path,
            tid: 0,
            call: "release",
            details: vec![("open", self.id.into())],
            result: Ok(Some(0)),
        };
        self.trace.write(&event, Duration::ZERO);
    }
}

/// The open files of a run.
pub(crate) struct Opens {
    next: AtomicU64,
    files: Mutex<HashMap<u64, Arc<OpenFile>>>,
    /// Closed by the program, still mapped by it.
    closed: Mutex<HashMap<u64, Arc<OpenFile>>>,
    /// How many that were among them are being released.
    releasing: AtomicUsize,
    /// Held by each open file until it is released.
    alive: Arc<()>,
    trace: Arc<Trace>,
}

impl Opens {
    /// Open files are numbered from `first` on.
    pub(crate) fn new(first: u64, trace: Arc<Trace>) -> Opens {
        Opens {
            next: AtomicU64::new(first),
            files: Mutex::default(),
            closed: Mutex::default(),
            releasing: AtomicUsize::new(0),
            alive: Arc::default(),
            trace,
        }
    }

    /// A number for an open file that may come.
    pub(crate) fn reserve(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Calls the driver's open and keeps the file under `id`.
    pub(crate) fn open(
        &self,
        id: u64,
        device: &Arc<DeviceEntry>,
        open: &Open,
    ) -> Result<Arc<OpenFile>, Errno> {
        let state = device.call("open", |driver| driver.open(open))?;
        let file = Arc::new(OpenFile {
            id,
            device: device.clone(),
            flags: open.flags,
            state: Some(state),
            maps: Mutex::default(),
            backing: Mutex::new(Backing::None),
            given: Given::default(),
            trace: self.trace.clone(),
            _alive: self.alive.clone(),
        });
        self.files.lock().insert(id, file.clone());
        Ok(file)
    }

    /// Whether a device is open, or mapped by an open file that is closed.
    pub(crate) fn has(&self, device: u64) -> bool {
        let has = |files: &HashMap<u64, Arc<OpenFile>>| {
            files.values().any(|file| file.device.index == device)
        };
        has(&self.files.lock()) || has(&self.closed.lock())
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<OpenFile>> {
        self.files.lock().get(&id).cloned()
    }

    /// The open file, though it may be closed and only mapped.
    pub(crate) fn find(&self, id: u64) -> Option<Arc<OpenFile>> {
        self.get(id).or_else(|| self.closed.lock().get(&id).cloned())
    }

    /// Whether plans gave these pages of the file's device to open files that may write. The
    /// kernel gives back by any of them, and none is released before its pages have come back.
    ///
    /// # Errors
    /// `EFAULT`: not all of them.
    pub(crate) fn may_write_back(
        &self,
        file: &Arc<OpenFile>,
        pages: Range<u64>,
    ) -> Result<(), Errno> {
        // Mostly the file by which they come.
        if may_write_back(|| std::iter::once(file), pages.clone()).is_ok() {
            return Ok(());
        }
        let (closed, files) = (self.closed.lock(), self.files.lock());
        let all = || files.values().chain(closed.values());
        may_write_back(|| all().filter(|other| other.device.index == file.device.index), pages)
    }

    /// The kernel has released the file of the faulted pages of an open file. True when
    /// no open file of the device has one any more.
    pub(crate) fn backing_released(&self, id: u64) -> bool {
        let Some(file) = self.find(id) else { return true };
        *file.backing.lock() = Backing::None;
        let device = file.device.index;
        drop(file);
        self.sweep_file(id);
        let has = |files: &HashMap<u64, Arc<OpenFile>>| {
            files.values().any(|file| file.device.index == device && file.has_backing())
        };
        !has(&self.files.lock()) && !has(&self.closed.lock())
    }

    /// The last descriptor is gone. The driver's release follows when nothing is
    /// mapped through the file any more.
    pub(crate) fn close(&self, id: u64) {
        // Found in one of the two at any moment: the end of its faulted pages' file may
        // be told before this is over.
        let mut closed = self.closed.lock();
        let Some(file) = self.files.lock().remove(&id) else { return };
        closed.insert(id, file.clone());
        drop(closed);
        file.forget_tokens();
        let _ = file.device.call("close", |driver| {
            driver.closed(file.state());
            Ok(())
        });
        drop(file);
        self.sweep_file(id);
    }

    /// [`Opens::close`], and waits for the release as [`Opens::await_release`] does.
    pub(crate) fn close_whole(&self, id: u64) {
        let file = self.get(id).map(|file| Arc::downgrade(&file));
        self.close(id);
        if let Some(file) = file {
            self.await_release(&file);
        }
    }

    /// Waits for the release of a closed file: who has answered a call on it a moment ago may
    /// still hold it. One that is mapped is not waited for; a call that goes on, for a second.
    pub(crate) fn await_release(&self, file: &Weak<OpenFile>) {
        let is_mapped =
            || file.upgrade().is_some_and(|file| self.closed.lock().contains_key(&file.id));
        pool::wait_until(|| file.strong_count() == 0 || is_mapped(), || true);
    }

    /// A map through `file` has been made: had the file been closed meanwhile, its
    /// tokens must not stay at hand, and its release waits for the unmap.
    pub(crate) fn after_map(&self, file: &Arc<OpenFile>) {
        if self.get(file.id).is_none() {
            file.forget_tokens();
            if file.is_mapped() {
                self.closed.lock().insert(file.id, file.clone());
            }
            // The unmap may have been told before it stood there.
            self.sweep_file(file.id);
        }
    }

    /// Releases closed files whose last map is gone.
    pub(crate) fn sweep(&self) {
        self.release(self.take_unmapped(|_| true).0);
    }

    /// Releases this file if it is closed and its last map is gone. The others are the reaper's:
    /// to look at all would take the longer the more there are.
    fn sweep_file(&self, id: u64) {
        self.release(self.take_if_unmapped(id).into_iter().collect());
    }

    fn release(&self, files: Vec<Arc<OpenFile>>) {
        let count = files.len();
        drop(files);
        self.releasing.fetch_sub(count, Ordering::SeqCst);
    }

    /// Releases closed files whose last map of changed memories is gone, and waits for that as
    /// [`Opens::await_release`] does: who has made a map a moment ago may still hold its file.
    /// True when some that map those still wait.
    pub(crate) fn reap(&self, changed: &Changed) -> bool {
        let (files, waiting) = self.take_unmapped(|file| file.may_have_changed(changed));
        let left: Vec<_> = files.iter().map(Arc::downgrade).collect();
        drop(files);
        left.iter().for_each(|file| self.await_release(file));
        self.releasing.fetch_sub(left.len(), Ordering::SeqCst);
        waiting
    }

    /// Closed files of these whose last map is gone, and whether some still wait.
    fn take_unmapped(&self, which: impl Fn(&OpenFile) -> bool) -> (Vec<Arc<OpenFile>>, bool) {
        let all = self.closed.lock();
        let ids: Vec<u64> = all.iter().filter(|(_, file)| which(file)).map(|(id, _)| *id).collect();
        drop(all);
        // One by one: others have files to close meanwhile.
        let files = ids.iter().filter_map(|id| self.take_if_unmapped(*id)).collect();
        let closed = self.closed.lock();
        (files, ids.iter().any(|id| closed.contains_key(id)))
    }

    /// A closed file whose last map is gone. Until it is released it counts as being so.
    fn take_if_unmapped(&self, id: u64) -> Option<Arc<OpenFile>> {
        let mut closed = self.closed.lock();
        match closed.entry(id) {
            Entry::Occupied(file) if !file.get().is_mapped() => {
                self.releasing.fetch_add(1, Ordering::SeqCst);
                Some(file.remove())
            }
            _ => None,
        }
    }

    /// Whether no closed file is mapped, or being released after that.
    pub(crate) fn are_released(&self) -> bool {
        self.closed.lock().is_empty() && self.releasing.load(Ordering::SeqCst) == 0
    }

    /// Releases everything: no program is left. Another thread may be about to release one, or
    /// have just answered a call on it; a driver that blocks is not waited for.
    pub(crate) fn release_all(&self) {
        let files = std::mem::take(&mut *self.files.lock());
        let closed = std::mem::take(&mut *self.closed.lock());
        drop((files, closed));
        let is_releasing = || self.releasing.load(Ordering::SeqCst) > 0;
        pool::wait_until(|| Arc::strong_count(&self.alive) == 1, is_releasing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let given = Given::default();
        let add = |range| given.add(std::iter::once(range)).unwrap();
        let all = || given.0.lock().iter().map(|at| (at.start, at.end)).collect::<Vec<_>>();
        add(10..12);
        add(4..6);
        add(20..30);
        assert_eq!(all(), [(4, 6), (10, 12), (20, 30)]);
        let has = |pages: &[u64]| pages.iter().map(|page| given.has(*page)).collect::<Vec<_>>();
        assert_eq!(has(&[3, 4, 5, 6, 12, 29, 30]), [false, true, true, false, false, true, false]);
        let near = |pages| given.are_near(&pages, 3);
        assert!(near(0..2) && near(14..15) && near(32..40) && near(0..100));
        assert!(!near(0..1) && !near(15..17) && !near(33..40));
        add(6..8);
        add(9..10);
        assert_eq!(all(), [(4, 8), (9, 12), (20, 30)]);
        add(5..7);
        add(7..20);
        assert_eq!(all(), [(4, 30)]);
        for page in 100..100 + 2 * (Given::MOST as u64 - 1) {
            add(page / 2 * 3..page / 2 * 3 + 1);
        }
        assert_eq!(given.add(std::iter::once(1_000_000..1_000_001)), Err(Errno::ENOMEM));
        // What touches another one is no more.
        add(30..31);
    }

    #[test]
    fn there_is_room_for_one_more_range_when_two_are_joined() {
        let given = Given::default();
        let scattered = (0..Given::MOST as u64).map(|at| 10 * at..10 * at + 1);
        given.add(scattered).expect("as many as may be");
        given.add(std::iter::once(5..6)).expect_err("one more");
        given.add(std::iter::once(1..4)).expect("it touches another");
        given.join_closest();
        given.add(std::iter::once(6_000_000..6_000_001)).expect("one more");
        // The gap from 4 to 10 was the smallest.
        assert!((0..11).all(|page| given.has(page)) && !given.has(11) && given.has(6_000_000));
    }
}
