//! System calls of clients that arrive as seccomp notifications.
//!
//! A notification says a descriptor; whether it is a device's is looked up in /proc at
//! that moment. Anything else goes on as if devmap were not there. Should a hostile
//! client change its descriptors in between, the call reaches what FUSE answers by
//! itself: no map of a device's memory is made but here, by its open file.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_driver::{Command, Errno, Ioctl, Kind, SeekFrom};
use devmap_sys::{
    apart,
    arch::{AUDIT_ARCH, COMPAT, nr},
    process,
    seccomp::{Listener, Notification, Reply},
    stat::{self, FileStatus},
};
use parking_lot::{Condvar, Mutex};

use crate::{
    Core,
    attach::{self, NotHeld},
    call::{self, WaitHook, Waiter},
    client, map,
    nodes::FIRST_OPEN,
    opens::OpenFile,
    statfs,
    threads::LazyThread,
    trace::Event,
    trapped,
};

/// A notified call, to be answered once.
pub(crate) struct Call<'a> {
    pub(crate) notification: &'a Notification,
    listener: &'a Arc<Listener>,
}

impl Call<'_> {
    /// Answers the call. A caller that is gone needs no answer.
    pub(crate) fn answer(&self, reply: Reply) {
        let _ = self.send(reply);
    }

    /// Answers the call, and says whether it was there to be answered.
    pub(crate) fn send(&self, reply: Reply) -> io::Result<()> {
        self.listener.reply(self.notification.id, reply)
    }

    /// Whether the caller is there and waits for its answer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.listener.is_valid(self.notification.id)
    }

    /// Gives the caller a descriptor for a moment, at the lowest free number.
    pub(crate) fn add_scratch(&self, file: &OwnedFd) -> io::Result<u32> {
        self.listener.add_fd(self.notification.id, file.as_fd(), None, true)
    }

    /// Gives the caller a descriptor as the result of its call.
    pub(crate) fn give(&self, file: &OwnedFd, close_on_exec: bool) -> io::Result<()> {
        let id = self.notification.id;
        self.listener.add_fd_and_reply(id, file.as_fd(), close_on_exec).map(drop)
    }

    /// Replaces a descriptor of the caller, or gives it one at a number of choice.
    pub(crate) fn replace_descriptor(
        &self,
        file: &OwnedFd,
        at: u32,
        close_on_exec: bool,
    ) -> io::Result<()> {
        let id = self.notification.id;
        self.listener.add_fd(id, file.as_fd(), Some(at), close_on_exec).map(drop)
    }
}

/// Serves one notification. Should a panic be in the way, its caller is answered all the same.
pub(crate) fn serve(core: &Arc<Core>, listener: &Arc<Listener>, notification: &Notification) {
    let call = Call { notification, listener };
    if catch_unwind(AssertUnwindSafe(|| serve_call(core, &call))).is_err() {
        call.answer(Reply::Error(libc::EIO));
    }
}

fn serve_call(core: &Arc<Core>, call: &Call<'_>) {
    let notification = call.notification;
    let callers = core.trapped.as_ref().map(|trapped| &trapped.callers);
    let serving = callers.map(|callers| callers.serve(notification.id, notification.tid));
    if let Some(None) = serving {
        return call.answer(Reply::Error(trapped::ERESTARTNOINTR));
    }
    core.exchanged.put_back(call);
    if notification.arch != AUDIT_ARCH {
        return serve_compat(core, call);
    }
    if let Some(trapped) = &core.trapped
        && trapped::serve(core, trapped, call)
    {
        return;
    }
    let args = notification.args;
    match notification.nr {
        nr::MMAP => on_device(core, call, args[4], |file| {
            let started = Instant::now();
            let (result, plan) = map::mmap(core, call, file);
            core.trace_call(started, || {
                let mut details = map::describe(core, &args);
                details.extend(plan.map(|plan| ("plan", map::describe_plan(&plan).into())));
                Event {
                    device: &file.device.path,
                    tid: notification.tid,
                    call: "mmap",
                    details,
                    result,
                }
            });
        }),
        nr::IOCTL => on_device(core, call, args[0], |file| ioctl(core, call, file)),
        nr::FSTAT => on_device(core, call, args[0], |file| {
            fstat(core, call, file, args[1], stat::stat_bytes);
        }),
        nr::NEWFSTATAT => {
            if !is_empty_path(notification.tid, args[1]) {
                return call.answer(Reply::Continue);
            }
            on_device(core, call, args[0], |file| {
                fstat(core, call, file, args[2], stat::stat_bytes);
            });
        }
        nr::STATX => {
            if !is_empty_path(notification.tid, args[1]) {
                return call.answer(Reply::Continue);
            }
            on_device(core, call, args[0], |file| {
                fstat(core, call, file, args[4], stat::statx_bytes);
            });
        }
        nr::LSEEK => on_device(core, call, args[0], |file| lseek(core, call, file)),
        nr::SENDFILE => refuse_to_move(core, call, [args[0], args[1]]),
        nr::SPLICE | nr::COPY_FILE_RANGE => refuse_to_move(core, call, [args[0], args[2]]),
        // Growing a device's map, or doubling it by old_size 0, would reach pages that
        // the plan did not give. The kernel refuses it by VM_DONTEXPAND.
        nr::MREMAP => refuse_on_memory(core, call, 1, Errno::EFAULT),
        // MADV_REMOVE: only regular files have holes (vfs_fallocate).
        nr::MADVISE => refuse_on_memory(core, call, args[1], Errno::ENODEV),
        nr::PROCESS_MADVISE => refuse_removal(core, call),
        nr::REMAP_FILE_PAGES => refuse_on_memory(core, call, 1, Errno::EINVAL),
        nr::SECCOMP | nr::PRCTL => own_filter(core, call),
        nr::STATFS | nr::FSTATFS => statfs::serve(core, call),
        _ => call.answer(Reply::Continue),
    }
}

/// Serves a call of a 32-bit program, or one that is made as such.
fn serve_compat(core: &Core, call: &Call<'_>) {
    let Notification { nr, args, .. } = *call.notification;
    match nr {
        number if number == COMPAT.mremap => refuse_on_memory(core, call, 1, Errno::EFAULT),
        number if number == COMPAT.madvise => {
            refuse_on_memory(core, call, args[1], Errno::ENODEV);
        }
        nr::PROCESS_MADVISE => refuse_removal(core, call),
        number if number == COMPAT.remap_file_pages => {
            refuse_on_memory(core, call, 1, Errno::EINVAL);
        }
        number if number == COMPAT.seccomp || number == COMPAT.prctl => own_filter(core, call),
        _ => call.answer(Reply::Continue),
    }
}

/// A client installs a filter: from now on what it lets devmap's calls do has to be seen to.
fn own_filter(core: &Core, call: &Call<'_>) {
    core.own_filters.come(call.notification.tid);
    call.answer(Reply::Continue);
}

/// Moving data between two descriptors, of which one is a character device's: what Linux says of a
/// driver with plain `read` and `write` methods.
fn refuse_to_move(core: &Core, call: &Call<'_>, descriptors: [u64; 2]) {
    let is_character = |fd: u64| {
        let file = open_file(core, call.notification.tid, fd as u32)?;
        Ok(file.is_some_and(|file| !file.device.is_regular()))
    };
    let refused = descriptors.into_iter().map(is_character).collect::<Result<Vec<_>, _>>();
    match refused {
        Ok(of) if of.contains(&true) => call.answer(Reply::Error(libc::EINVAL)),
        Ok(_) => call.answer(Reply::Continue),
        Err(errno) => answer(call, Err(errno)),
    }
}

/// Runs `serve` for the open device behind a descriptor; other calls go on.
fn on_device(core: &Core, call: &Call<'_>, fd: u64, serve: impl FnOnce(&Arc<OpenFile>)) {
    // Descriptors are ints: the kernel looks at the low half.
    match open_file(core, call.notification.tid, fd as u32) {
        Ok(Some(file)) => serve(&file),
        Ok(None) => call.answer(Reply::Continue),
        Err(errno) => answer(call, Err(errno)),
    }
}

/// The open device behind a descriptor of a client.
///
/// # Errors
/// What a call on the descriptor fails with, if it can do nothing.
fn open_file(core: &Core, tid: u32, fd: u32) -> Result<Option<Arc<OpenFile>>, Errno> {
    match &core.trapped {
        Some(trapped) => trapped.open_file(tid, fd),
        None => Ok(open_in_namespace(core, tid, fd)),
    }
}

fn open_in_namespace(core: &Core, tid: u32, fd: u32) -> Option<Arc<OpenFile>> {
    let (device, inode) = client::identity(tid, fd)?;
    if inode < FIRST_OPEN || core.mount_device.get() != Some(&device) {
        return None;
    }
    let devfs = core.devfs.get()?;
    if !devfs.is_shared(inode) {
        return core.opens.get(inode);
    }
    // Opened again through /proc/self/fd: ask the file itself, by a call that comes
    // back to the server.
    static TICKETS: AtomicU64 = AtomicU64::new(0);
    let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
    let file = client::take_descriptor(tid, fd).ok()?;
    apart::which(file.as_fd(), ticket).ok()?;
    core.opens.get(devfs.which(ticket)?)
}

/// Whether a path in the client is the empty string (or NULL, which statx takes since
/// Linux 6.11).
fn is_empty_path(tid: u32, address: u64) -> bool {
    let mut first = [0];
    address == 0 || process::read_memory(tid, address, &mut first).is_ok_and(|()| first == [0])
}

/// Commands that the kernel answers for every file before a driver sees them
/// (`do_vfs_ioctl`), among those that are notified.
fn is_vfs_ioctl(command: Command) -> bool {
    const FIOQSIZE: u32 = 0x5460;
    const FIGETBSZ: u32 = 2;
    const FS_IOC_FIEMAP: u32 = 0xc020_660b;
    const FIFREEZE: u32 = 0xc004_5877;
    const FITHAW: u32 = 0xc004_5878;
    [libc::FIOCLEX, libc::FIONCLEX, libc::FIONBIO]
        .iter()
        .any(|known| *known == libc::Ioctl::from(command.0))
        || [FIOQSIZE, FIGETBSZ, FS_IOC_FIEMAP, FIFREEZE, FITHAW].contains(&command.0)
}

/// `FIOASYNC` of a file whose driver signals nobody (`ioctl_fioasync`).
fn signal_readiness(tid: u32, argument: u64) -> Result<i64, Errno> {
    let mut on = [0; size_of::<libc::c_int>()];
    process::read_memory(tid, argument, &mut on).map_err(|_| Errno::EFAULT)?;
    if on == [0; size_of::<libc::c_int>()] { Ok(0) } else { Err(Errno::ENOTTY) }
}

/// What a driver's ioctl method answers to a command that it does not know (`linux/errno.h`).
const ENOIOCTLCMD: i32 = 515;

fn ioctl(core: &Arc<Core>, call: &Call<'_>, file: &Arc<OpenFile>) {
    let notification = call.notification;
    let [fd, command, argument, ..] = notification.args;
    let command = Command(command as u32);
    if is_vfs_ioctl(command) {
        return call.answer(Reply::Continue);
    }
    if libc::Ioctl::from(command.0) == libc::FIOASYNC {
        return answer(call, signal_readiness(notification.tid, argument));
    }
    core.catch_up(1);
    let started = Instant::now();
    let caller = client::Notified::new(call, fd as u32, file.flags);
    let result = interruptible(core, call, || {
        file.device.call("ioctl", |driver| {
            let value = driver.ioctl(file.state(), &Ioctl::new(command, argument, &caller))?;
            file.device.at_most("ioctl", value, i32::MAX as u32)
        })
    });
    // As `vfs_ioctl`: `ENOIOCTLCMD` is the kernel's own.
    let result =
        result.map_err(|errno| if errno.raw() == ENOIOCTLCMD { Errno::ENOTTY } else { errno });
    core.refresh(&file.device);
    answer(call, result.map(i64::from));
    core.trace_call(started, || Event {
        device: &file.device.path,
        tid: notification.tid,
        call: "ioctl",
        details: vec![
            ("open", file.id.into()),
            ("command", format!("{:#x}", command.0).into()),
            ("argument", format!("{argument:#x}").into()),
        ],
        result: result.map(|value| Some(u64::from(value))),
    });
}

/// Runs a driver's method for a call, so that a signal for its caller can end its waits.
pub(crate) fn interruptible<R>(core: &Arc<Core>, call: &Call<'_>, serve: impl FnOnce() -> R) -> R {
    let waiter = Arc::<Waiter>::default();
    let hook = Arc::new(Watched {
        core: Arc::downgrade(core),
        listener: call.listener.clone(),
        id: call.notification.id,
        tid: call.notification.tid,
    });
    call::within(waiter, hook, serve)
}

/// Answers a call with what a driver's method said.
pub(crate) fn answer(call: &Call<'_>, result: Result<i64, Errno>) {
    match result.map_err(call::errno) {
        Ok(value) => call.answer(Reply::Value(value)),
        Err(Errno::ERESTARTSYS) => restart(call, Errno::ERESTARTSYS.raw()),
        Err(errno) => call.answer(Reply::Error(errno.raw())),
    }
}

/// Ends a call as a signal ends it, with one of the kernel's codes for that. It must not reach
/// the program itself, which it would if another thread of it had taken the signal meanwhile; a
/// thread that is held on its way out always handles it.
pub(crate) fn restart(call: &Call<'_>, code: i32) {
    let reply = || call.send(Reply::Error(code));
    match attach::hold(call.notification.tid, reply) {
        Ok(held) => {
            let _ = held.release();
        }
        Err(NotHeld::Refused) => call.answer(Reply::Error(Errno::EINTR.raw())),
        Err(NotHeld::Gone) => {}
    }
}

fn fstat(
    core: &Core,
    call: &Call<'_>,
    file: &OpenFile,
    address: u64,
    encode: fn(&FileStatus) -> Vec<u8>,
) {
    if let Kind::Regular { .. } = file.device.metadata.kind {
        return call.answer(Reply::Continue);
    }
    let status = core.status_of(&file.device);
    let written = process::write_memory(call.notification.tid, address, &encode(&status));
    call.answer(match written {
        Ok(()) => Reply::Value(0),
        Err(_) => Reply::Error(libc::EFAULT),
    });
}

fn lseek(core: &Arc<Core>, call: &Call<'_>, file: &Arc<OpenFile>) {
    let [fd, offset, whence, ..] = call.notification.args;
    if let Kind::Regular { .. } = file.device.metadata.kind {
        return call.answer(Reply::Continue);
    }
    let started = Instant::now();
    let offset = offset.cast_signed();
    let tid = call.notification.tid;
    let result = interruptible(core, call, || seek(tid, fd as u32, file, offset, whence as i32));
    answer(call, result.map(u64::cast_signed));
    core.trace_call(started, || Event {
        device: &file.device.path,
        tid: call.notification.tid,
        call: "lseek",
        details: vec![
            ("open", file.id.into()),
            ("offset", offset.into()),
            ("whence", whence.into()),
        ],
        result: result.map(Some),
    });
}

/// What `ksys_lseek` looks at before the file: `SEEK_MAX`.
pub(crate) fn check_whence(whence: i32) -> Result<(), Errno> {
    if (0..=libc::SEEK_HOLE).contains(&whence) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn seek(tid: u32, fd: u32, file: &OpenFile, offset: i64, whence: i32) -> Result<u64, Errno> {
    check_whence(whence)?;
    if file.device.metadata.stream {
        return Err(Errno::ESPIPE);
    }
    let position = || {
        client::take_descriptor(tid, fd)
            .and_then(|file| Ok((rustix::fs::tell(&file)?, file)))
            .map_err(|_| Errno::EIO)
    };
    let to = match whence {
        libc::SEEK_SET => SeekFrom::Start(offset),
        libc::SEEK_CUR => SeekFrom::Current { position: position()?.0, by: offset },
        libc::SEEK_END => SeekFrom::End(offset),
        _ => return Err(Errno::EINVAL),
    };
    let at = file.device.call("llseek", |driver| {
        file.device.at_most("llseek", driver.llseek(file.state(), to)?, i64::MAX as u64)
    })?;
    rustix::fs::seek(position()?.1, rustix::fs::SeekFrom::Start(at)).map_err(|_| Errno::EIO)?;
    Ok(at)
}

/// Refuses a call when one of the first `len` bytes from its first argument on is in memory
/// of a device.
fn refuse_on_memory(core: &Core, call: &Call<'_>, len: u64, errno: Errno) {
    let Notification { tid, args, .. } = *call.notification;
    if !core.has_mapped() {
        return call.answer(Reply::Continue);
    }
    let is_of_a_device = |(device, inode)| {
        if core.mount_device.get() == Some(&device) {
            return core.devfs.get().is_some_and(|devfs| devfs.is_backing(inode));
        }
        core.host.has_memory((device, inode))
    };
    let range = args[0]..args[0].saturating_add(len);
    call.answer(match client::maps_one(tid, range, is_of_a_device) {
        Ok(true) => Reply::Error(errno.raw()),
        Ok(false) => Reply::Continue,
        // A program that does not let itself be looked at (PR_SET_DUMPABLE).
        Err(_) => Reply::Error(libc::ENOMEM),
    });
}

/// `process_madvise` with `MADV_REMOVE`, which names ranges in memory that may change meanwhile:
/// as before Linux 6.13, which knew no such advice there.
fn refuse_removal(core: &Core, call: &Call<'_>) {
    call.answer(if core.has_mapped() { Reply::Error(libc::EINVAL) } else { Reply::Continue });
}

/// Watches over notified calls whose driver waits: the kernel tells nobody that their
/// caller has a signal, so somebody has to look.
#[derive(Default)]
pub(crate) struct Watcher {
    calls: Mutex<Vec<Watch>>,
    some: Condvar,
    thread: LazyThread,
}

struct Watch {
    id: u64,
    tid: u32,
    listener: Arc<Listener>,
    waiter: Arc<Waiter>,
}

impl Watcher {
    /// How often it looks while anybody waits.
    const PERIOD: Duration = Duration::from_millis(1);

    /// Interrupts the waits of calls whose callers have been killed: the calls' notifications.
    pub(crate) fn interrupt_killed(&self) -> Vec<u64> {
        self.interrupt(|watch| !watch.listener.is_valid(watch.id))
    }

    /// Interrupts the waits of calls for which it is so: the calls' notifications. Others begin
    /// and end their waits meanwhile.
    fn interrupt(&self, is_over: impl Fn(&Watch) -> bool) -> Vec<u64> {
        let calls = self.calls.lock();
        let over = calls.iter().filter(|watch| is_over(watch));
        let over: Vec<_> = over.map(|watch| (watch.id, watch.waiter.clone())).collect();
        drop(calls);
        over.iter().for_each(|(_, waiter)| waiter.interrupt());
        over.into_iter().map(|(id, _)| id).collect()
    }

    /// Looks for ever; for a thread of its own.
    fn run(&self) {
        loop {
            let mut calls = self.calls.lock();
            while calls.is_empty() {
                self.some.wait(&mut calls);
            }
            drop(calls);
            self.interrupt(|watch| {
                client::has_pending_signal(watch.tid).unwrap_or(true)
                    || !watch.listener.is_valid(watch.id)
            });
            std::thread::sleep(Self::PERIOD);
        }
    }
}

/// Puts a notified call under the watcher while it waits.
struct Watched {
    core: Weak<Core>,
    listener: Arc<Listener>,
    id: u64,
    tid: u32,
}

impl WaitHook for Watched {
    fn begin(&self, waiter: &Arc<Waiter>) -> bool {
        if let Some(core) = self.core.upgrade() {
            let watch = Watch {
                id: self.id,
                tid: self.tid,
                listener: self.listener.clone(),
                waiter: waiter.clone(),
            };
            core.watcher.calls.lock().push(watch);
            core.watcher.some.notify_one();
            let watching = core.clone();
            return core.watcher.thread.start("devmap-signals", move || watching.watcher.run());
        }
        // The supervisor ends.
        true
    }

    fn is_gone(&self) -> bool {
        !self.listener.is_valid(self.id)
    }

    fn end(&self, _waiter: &Arc<Waiter>) {
        if let Some(core) = self.core.upgrade() {
            core.watcher.calls.lock().retain(|watch| watch.id != self.id);
        }
    }
}

/// Whether there is something to read. A source at its end has nothing.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().contains(PollFlags::IN)
}
