//! The FUSE file system that takes the place of `/dev` and `/sys/dev/char` in the
//! program's mount namespace, and the open files of devices in it.
//!
//! A device has two faces. `stat`, `ls` and `test -c` see a character device with its
//! number: a node that the kernel would not open here, since there is no such driver.
//! `open` must find something that FUSE can open: a regular node, made for that one
//! call. The server tells the two apart by the system call in which the asking thread
//! stands (`/proc/TID/syscall`), and lets no lookup of a device be cached.
//!
//! What does not live here: what is answered by seccomp notification (`notify`).

mod callers;
mod regular;

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    os::unix::ffi::OsStrExt,
    sync::Arc,
    time::{Duration, Instant},
};

use devmap_driver::{
    Command, Errno, Fsync, Ioctl, Open, Platform, PollEvents, Transfer, UserSlice,
};
use devmap_fuse::{
    Attr, Channel, DirBuffer, Entry, Header, Operation, Request, RequestBuffer, Statfs, open_flags,
};
use devmap_sys::{arch::nr, descriptor::WHICH, process};
use parking_lot::Mutex;

use self::callers::{IoctlCaller, Poller, Pollers, ReadBuffer, WriteBuffer};
use crate::{
    Core,
    attach::{self, NotHeld},
    call::{self, Waiter},
    client,
    filter::FIRST_DESCRIPTOR,
    host::Wake,
    namespace::DevEntries,
    nodes::{Content, FIRST_OPEN, Nodes},
    opens::OpenFile,
    trace::Event,
};

/// For what never changes: the kernel need not ask again. Mounts stand on some of
/// these nodes, and stay reachable when this server is gone.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// A request that an interrupt can reach.
#[derive(Clone)]
struct InProgress {
    unique: u64,
    /// The calling thread.
    tid: u32,
    waiter: Arc<Waiter>,
    /// Any signal ends it, not only one that kills.
    by_any_signal: bool,
}

/// The server's state.
pub(crate) struct Devfs {
    channel: Arc<Channel>,
    nodes: Nodes,
    owner: (u32, u32),
    /// Requests in progress that an interrupt can reach.
    in_progress: Mutex<Vec<InProgress>>,
    /// Threads of this process that open the file of faulted pages, for which open file.
    opening: Mutex<HashMap<u32, u64>>,
    /// When regular files were last changed, since 1970, by their devices' indices.
    changed: Mutex<HashMap<u64, Duration>>,
    /// Answers to [`WHICH`], by ticket: which open file a descriptor is of.
    tickets: Mutex<HashMap<u64, u64>>,
}

impl Devfs {
    pub(crate) fn new(
        core: &Core,
        channel: Channel,
        entries: &DevEntries,
        owner: (u32, u32),
    ) -> Devfs {
        Devfs {
            channel: Arc::new(channel.with_readdirplus()),
            nodes: Nodes::new(&core.devices, entries),
            owner,
            in_progress: Mutex::default(),
            opening: Mutex::default(),
            changed: Mutex::default(),
            tickets: Mutex::default(),
        }
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The node that shows a device to `stat`.
    pub(crate) fn node_of(&self, device: u64) -> u64 {
        self.nodes.node_of(device).unwrap_or(0)
    }

    /// Whom the nodes belong to.
    pub(crate) fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// The next request; `None` when the file system is gone.
    pub(crate) fn receive<'a>(
        &self,
        buffer: &'a mut RequestBuffer,
    ) -> io::Result<Option<Request<'a>>> {
        self.channel.receive(buffer)
    }

    /// Whether a node number is one of an open file (or several, see
    /// [`Devfs::which`]).
    pub(crate) fn is_shared(&self, node: u64) -> bool {
        self.nodes.opens_of(node) > 1
    }

    /// Runs `open`, which opens the file of faulted pages in this thread, for an open file.
    pub(crate) fn opening_backing<T>(&self, file: u64, open: impl FnOnce() -> T) -> T {
        let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        self.opening.lock().insert(tid, file);
        let opened = open();
        self.opening.lock().remove(&tid);
        opened
    }

    /// The device whose pages a node's maps show.
    pub(crate) fn mapped_device(&self, node: u64) -> Option<u64> {
        self.nodes.mapped_device(node)
    }

    /// Whether a node is the file of a device's faulted pages.
    pub(crate) fn is_backing(&self, node: u64) -> bool {
        self.nodes.is_backing(node)
    }

    /// Takes the answer to the ticket.
    pub(crate) fn which(&self, ticket: u64) -> Option<u64> {
        self.tickets.lock().remove(&ticket)
    }

    /// Serves one request. An error of the channel is not the client's: its request
    /// has been aborted.
    pub(crate) fn serve(&self, core: &Core, request: Request<'_>) {
        let Header { unique, nodeid, .. } = request.header;
        let regular = self.regular(core, nodeid);
        if regular.and_then(|device| self.serve_regular(core, device, &request)).is_some() {
            return;
        }
        let channel = &self.channel;
        let _ = match request.operation {
            Operation::Lookup { name } => self.lookup(core, &request.header, name),
            Operation::Forget { nlookup } => {
                self.nodes.forget(nodeid, nlookup);
                Ok(())
            }
            Operation::BatchForget(forgets) => {
                forgets.for_each(|(node, count)| self.nodes.forget(node, count));
                Ok(())
            }
            Operation::Getattr { .. } => match self.attr(core, nodeid) {
                Some(attr) => channel.reply_attr(unique, &attr, FOR_EVER),
                None => channel.reply_error(unique, libc::ESTALE),
            },
            // As fallocate, ftruncate and chmod on a device: none of it is meant here.
            Operation::Setattr(change) => {
                let errno = if change.size.is_some() { libc::EINVAL } else { libc::EPERM };
                channel.reply_error(unique, errno)
            }
            Operation::Readlink => match self.nodes.content(nodeid) {
                Some(Content::Symlink(target)) => {
                    channel.reply_data(unique, target.as_os_str().as_bytes())
                }
                _ => channel.reply_error(unique, libc::EINVAL),
            },
            Operation::Opendir { .. } => channel.reply_open(unique, 0, open_flags::CACHE_DIR),
            Operation::Readdirplus { offset, size, .. } => {
                self.readdir(core, unique, nodeid, offset, size)
            }
            Operation::Open { flags } => self.open(core, &request.header, flags),
            Operation::Read { fh, offset, size, .. } if self.is_backing(nodeid) => {
                self.fault(core, &request.header, fh, offset, size)
            }
            Operation::Write { fh, offset, data, .. } if self.is_backing(nodeid) => {
                self.write_back(core, unique, fh, offset, data)
            }
            Operation::Fsync { fh, datasync } if self.is_backing(nodeid) => {
                self.sync_backing(core, &request.header, fh, datasync)
            }
            Operation::Release { fh, .. } if self.is_backing(nodeid) => {
                let device = core.opens.find(fh).map(|file| file.device.index);
                let answered = channel.reply_empty(unique);
                if let (true, Some(device)) = (core.opens.backing_released(fh), device) {
                    // Freed at the last unmap: the next program's pages are new ones.
                    core.faulted.forget(device);
                    let _ = channel.notify_inval_inode(nodeid, 0, 0);
                }
                answered
            }
            Operation::Read { fh, offset, size, flags } => {
                self.read(core, &request.header, fh, offset, size, flags)
            }
            Operation::Write { fh, offset, flags, data, .. } => {
                self.write(core, &request.header, fh, offset, flags, data)
            }
            Operation::Release { fh, .. } => {
                core.opens.close(fh);
                channel.reply_empty(unique)
            }
            Operation::Poll { fh, kh, schedule_notify, events } => {
                let kh = schedule_notify.then_some(kh);
                self.poll(core, &request.header, fh, kh, PollEvents::from_bits(events))
            }
            Operation::Ioctl { fh, cmd, arg, in_data, out_size, .. } => {
                let argument = (arg, in_data, out_size);
                self.ioctl(core, &request.header, fh, Command(cmd), argument)
            }
            Operation::Interrupt { unique: other } => {
                if self.interrupt(other) {
                    Ok(())
                } else {
                    // Not known yet, or answered: let the kernel see which.
                    channel.reply_error(unique, libc::EAGAIN)
                }
            }
            Operation::Statfs => channel.reply_statfs(unique, &Statfs::default()),
            Operation::Flush { .. } | Operation::Releasedir { .. } | Operation::Destroy => {
                channel.reply_empty(unique)
            }
            // A device without fsync.
            Operation::Fsync { .. } => channel.reply_error(unique, libc::EINVAL),
            Operation::Lseek { .. } => channel.reply_error(unique, libc::EINVAL),
            // Only regular files have fallocate (vfs_fallocate).
            Operation::Other { opcode: devmap_fuse::FALLOCATE } => {
                channel.reply_error(unique, libc::ENODEV)
            }
            Operation::ChangeTree { .. } => channel.reply_error(unique, libc::EROFS),
            Operation::Access { .. }
            | Operation::Getxattr { .. }
            | Operation::Listxattr { .. }
            | Operation::Readdir { .. }
            | Operation::Other { .. } => channel.reply_error(unique, libc::ENOSYS),
        };
    }

    fn lookup(&self, core: &Core, header: &Header, name: &[u8]) -> io::Result<()> {
        let backing = || {
            let ours = self.opening.lock().contains_key(&header.pid);
            self.nodes.backing(header.nodeid, name).filter(|_| ours)
        };
        let Some(node) = self.nodes.lookup(header.nodeid, name).or_else(backing) else {
            return self.channel.reply_error(header.unique, libc::ENOENT);
        };
        let (node, entry_valid) = match self.nodes.content(node) {
            Some(Content::Device(index)) if core.devices[*index].is_regular() => (node, FOR_EVER),
            Some(Content::Device(index)) => {
                let device = *index;
                let node = if is_open(header.pid) {
                    let id = core.opens.reserve();
                    self.nodes.add_open(id, device);
                    id
                } else {
                    node
                };
                (node, Duration::ZERO)
            }
            _ => (node, FOR_EVER),
        };
        let Some(attr) = self.attr(core, node) else {
            return self.channel.reply_error(header.unique, libc::ENOENT);
        };
        // The size of a regular file may change.
        let attr_valid = if self.regular(core, node).is_some() { Duration::ZERO } else { FOR_EVER };
        let entry = Entry { nodeid: node, generation: 0, entry_valid, attr_valid, attr };
        self.channel.reply_entry(header.unique, &entry)
    }

    fn attr(&self, core: &Core, node: u64) -> Option<Attr> {
        if let Some(device) = self.regular(core, node) {
            return Some(self.regular_attr(core, device, node));
        }
        let mut attr = if node >= FIRST_OPEN {
            let device = &core.devices[self.nodes.device_of(node)?];
            Attr::new(node, libc::S_IFREG | u32::from(device.metadata.mode))
        } else {
            match self.nodes.content(node)? {
                Content::Directory(_) => Attr::new(node, libc::S_IFDIR | 0o755),
                Content::Placeholder => Attr::new(node, libc::S_IFREG),
                // As long as any device: which pages there are is said when mapping.
                Content::Backing => {
                    Attr { size: 1 << 62, ..Attr::new(node, libc::S_IFREG | 0o600) }
                }
                Content::Symlink(target) => {
                    let size = target.as_os_str().len() as u64;
                    Attr { size, ..Attr::new(node, libc::S_IFLNK | 0o777) }
                }
                Content::Text(text) => {
                    Attr { size: text.len() as u64, ..Attr::new(node, libc::S_IFREG | 0o444) }
                }
                Content::Device(index) => {
                    let device = &core.devices[*index];
                    let mode = u32::from(device.metadata.mode);
                    let (major, minor) = device.number;
                    let rdev = devmap_fuse::device_number(major, minor);
                    Attr { rdev, ..Attr::new(node, libc::S_IFCHR | mode) }
                }
            }
        };
        (attr.uid, attr.gid) = self.owner;
        (attr.atime, attr.mtime, attr.ctime) = (core.started, core.started, core.started);
        Some(attr)
    }

    /// Lists a directory, with the nodes of everything but devices: the binds of a new name
    /// space then need no lookups. Devices have to be looked up by whoever wants them.
    fn readdir(
        &self,
        core: &Core,
        unique: u64,
        node: u64,
        offset: u64,
        size: u32,
    ) -> io::Result<()> {
        let Some(Content::Directory(children)) = self.nodes.content(node) else {
            return self.channel.reply_error(unique, libc::ENOTDIR);
        };
        let mut buffer = DirBuffer::new(size);
        let dots = [(&b"."[..], node), (&b".."[..], node)];
        let children = children.iter().map(|(name, child)| (name.as_bytes(), *child));
        let entries = dots.into_iter().chain(children).zip(1..).skip(offset as usize);
        for ((name, child), next) in entries {
            let mode = match self.nodes.content(child) {
                Some(Content::Directory(_)) => libc::S_IFDIR,
                Some(Content::Symlink(_)) => libc::S_IFLNK,
                Some(Content::Device(index)) if core.devices[*index].is_regular() => libc::S_IFREG,
                Some(Content::Device(_)) => libc::S_IFCHR,
                // Covered by the old entry, whose type the server does not know.
                Some(Content::Placeholder) | None => 0,
                Some(Content::Text(_) | Content::Backing) => libc::S_IFREG,
            };
            let entry = match self.nodes.content(child) {
                Some(Content::Device(_)) | None => None,
                Some(_) => self.attr(core, child).map(|attr| Entry {
                    nodeid: child,
                    generation: 0,
                    entry_valid: FOR_EVER,
                    attr_valid: FOR_EVER,
                    attr,
                }),
            };
            if !buffer.push_plus(entry.as_ref(), child, next, mode, name) {
                break;
            }
        }
        self.channel.reply_data(unique, buffer.as_bytes())
    }

    /// Runs a driver's method as the call `unique`, so that a signal can end its waits.
    fn interruptible<R>(&self, core: &Core, header: &Header, serve: impl FnOnce() -> R) -> R {
        self.ended_by(true, core, header, serve)
    }

    /// As [`Devfs::interruptible`], or so that only a signal that kills ends its waits.
    fn ended_by<R>(
        &self,
        by_any_signal: bool,
        core: &Core,
        header: &Header,
        serve: impl FnOnce() -> R,
    ) -> R {
        let Header { unique, pid: tid, .. } = *header;
        let waiter = Arc::<Waiter>::default();
        let call = InProgress { unique, tid, waiter: waiter.clone(), by_any_signal };
        self.in_progress.lock().push(call);
        let result = call::within(waiter, core.fuse_hook.clone(), serve);
        self.in_progress.lock().retain(|other| other.unique != unique);
        result
    }

    /// The caller of a request has a signal. Whether the request is in progress.
    fn interrupt(&self, unique: u64) -> bool {
        let look = || {
            let in_progress = self.in_progress.lock();
            in_progress.iter().find(|other| other.unique == unique).cloned()
        };
        let Some(InProgress { tid, waiter, by_any_signal, .. }) = look() else { return false };
        if by_any_signal {
            waiter.interrupt();
        }
        // A driver that waits by itself does not hear of it. A caller that is killed is let
        // go all the same; the driver's answer then finds nobody.
        while look().is_some() {
            if client::is_killed(tid) {
                waiter.interrupt();
                let _ = self.channel.reply_error(unique, libc::EINTR);
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Answers an error. FUSE takes none from 512 on, such as the one that asks for a
    /// restart, so the thread is held on its way out of the call and given it there.
    fn reply_errno(&self, header: &Header, errno: Errno) -> io::Result<()> {
        if errno.raw() < Errno::ERESTARTSYS.raw() {
            return self.channel.reply_error(header.unique, errno.raw());
        }
        let reply = || self.channel.reply_error(header.unique, libc::EINTR);
        match attach::hold(header.pid, reply) {
            Ok(mut held) => {
                if held.result() == -i64::from(libc::EINTR) {
                    held.set_result(-i64::from(errno.raw()));
                }
                held.release()
            }
            Err(NotHeld::Refused) => reply(),
            Err(NotHeld::Gone) => Ok(()),
        }
    }

    fn open(&self, core: &Core, header: &Header, flags: u32) -> io::Result<()> {
        let unique = header.unique;
        let Some(device) = self.nodes.device_of(header.nodeid) else {
            return match self.nodes.content(header.nodeid) {
                Some(Content::Text(_)) => {
                    self.channel.reply_open(unique, header.nodeid, open_flags::KEEP_CACHE)
                }
                Some(Content::Backing) => {
                    let file = self.opening.lock().get(&header.pid).copied();
                    match file {
                        Some(file) => self.channel.reply_open(
                            unique,
                            file,
                            open_flags::KEEP_CACHE | open_flags::NOFLUSH,
                        ),
                        None => self.channel.reply_error(unique, libc::EACCES),
                    }
                }
                _ => self.channel.reply_error(unique, libc::ENXIO),
            };
        };
        let device = &core.devices[device];
        let started = Instant::now();
        // The first open of a node carries its number; /proc/self/fd/N opens it again.
        let first = self.nodes.opened(header.nodeid);
        let id = if first { header.nodeid } else { core.opens.reserve() };
        let open = Open {
            flags: client::open_flags(flags),
            pid: client::process_of(header.pid).unwrap_or(header.pid),
        };
        let opened = self.interruptible(core, header, || core.opens.open(id, device, &open));
        core.trace_call(started, || Event {
            device: &device.path,
            tid: header.pid,
            call: "open",
            details: vec![("flags", format!("{flags:#o}").into()), ("open", id.into())],
            result: opened.as_ref().map(|_| Some(0)).map_err(|errno| *errno),
        });
        if let Err(errno) = opened {
            return self.reply_errno(header, errno);
        }
        let mut how =
            open_flags::DIRECT_IO | open_flags::NOFLUSH | open_flags::PARALLEL_DIRECT_WRITES;
        if device.metadata.stream {
            how |= open_flags::STREAM | open_flags::NONSEEKABLE;
        }
        let reply = || {
            let replied = self.channel.reply_open(unique, id, how);
            if replied.is_err() {
                // The caller was let go: nobody will ever close the file.
                core.opens.close(id);
            }
            replied
        };
        // Calls are made in the place of a native open alone: not of a 32-bit one, nor of
        // one that io_uring makes.
        if !is_open(header.pid) {
            return reply();
        }
        match attach::hold(header.pid, reply) {
            Ok(held) => move_up(held, header.pid),
            Err(NotHeld::Refused) => reply(),
            Err(NotHeld::Gone) => Ok(()),
        }
    }

    fn read(
        &self,
        core: &Core,
        header: &Header,
        fh: u64,
        offset: u64,
        size: u32,
        flags: u32,
    ) -> io::Result<()> {
        if let Some(Content::Text(text)) = self.nodes.content(fh) {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
            let end = (start + size as usize).min(text.len());
            return self.channel.reply_data(header.unique, &text.as_bytes()[start..end]);
        }
        let Some(file) = core.opens.get(fh) else {
            return self.channel.reply_error(header.unique, libc::EBADF);
        };
        let started = Instant::now();
        let buffer = ReadBuffer {
            bytes: RefCell::new(vec![0; size as usize]),
            flags: client::open_flags(flags),
        };
        let result = self.interruptible(core, header, || {
            file.device.call("read", |driver| {
                let user = UserSlice::new(&buffer, 0, size as usize)?;
                let position = if file.device.metadata.stream { 0 } else { offset };
                let count = driver.read(file.state(), &Transfer::new(&buffer, user, position))?;
                file.device.at_most("read", count, size as usize)
            })
        });
        core.trace_call(started, || {
            transfer(header, &file, "read", (offset, size as usize), result)
        });
        // The program may close it as soon as it has the answer, and its release shall not
        // wait for this thread.
        drop(file);
        match result {
            Ok(count) => self.channel.reply_data(header.unique, &buffer.bytes.borrow()[..count]),
            Err(errno) => self.reply_errno(header, errno),
        }
    }

    fn write(
        &self,
        core: &Core,
        header: &Header,
        fh: u64,
        offset: u64,
        flags: u32,
        data: &[u8],
    ) -> io::Result<()> {
        let Some(file) = core.opens.get(fh) else {
            return self.channel.reply_error(header.unique, libc::EBADF);
        };
        let started = Instant::now();
        let buffer = WriteBuffer { bytes: data, flags: client::open_flags(flags) };
        let result = self.interruptible(core, header, || {
            file.device.call("write", |driver| {
                let user = UserSlice::new(&buffer, 0, data.len())?;
                let position = if file.device.metadata.stream { 0 } else { offset };
                let count = driver.write(file.state(), &Transfer::new(&buffer, user, position))?;
                file.device.at_most("write", count, data.len())
            })
        });
        core.trace_call(started, || transfer(header, &file, "write", (offset, data.len()), result));
        drop(file);
        match result {
            Ok(count) => self.channel.reply_written(header.unique, count as u32),
            Err(errno) => self.reply_errno(header, errno),
        }
    }

    /// First access to faulted pages, and what the kernel reads ahead.
    fn fault(
        &self,
        core: &Core,
        header: &Header,
        fh: u64,
        offset: u64,
        size: u32,
    ) -> io::Result<()> {
        let unique = header.unique;
        let Some(file) = core.opens.find(fh) else {
            return self.channel.reply_error(unique, libc::EIO);
        };
        let started = Instant::now();
        let page_len = core.host.page_size().bytes();
        // An access to memory cannot fail with EINTR: a signal waits until the page is there.
        let result =
            self.ended_by(false, core, header, || core.faulted.read(page_len, &file, offset, size));
        core.trace_call(started, || {
            regular::fault_event(&file, page_len, (offset, size), result.as_ref().map(drop))
        });
        match result {
            Ok(bytes) => self.channel.reply_data(unique, &bytes),
            // The program gets SIGBUS, whatever the number.
            Err(_) => self.channel.reply_error(unique, libc::EIO),
        }
    }

    /// What programs have stored in faulted pages.
    fn write_back(
        &self,
        core: &Core,
        unique: u64,
        fh: u64,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let Some(file) = core.opens.find(fh) else {
            return self.channel.reply_error(unique, libc::EIO);
        };
        let page_len = core.host.page_size().bytes();
        let started = Instant::now();
        let result = core.faulted.write(page_len, &file.device, offset, data);
        core.trace_call(started, || {
            regular::write_back_event(&file.device, offset, data.len(), result)
        });
        match result {
            Ok(()) => self.channel.reply_written(unique, data.len() as u32),
            Err(errno) => self.channel.reply_error(unique, errno.raw()),
        }
    }

    /// `msync` of faulted pages.
    fn sync_backing(
        &self,
        core: &Core,
        header: &Header,
        fh: u64,
        datasync: bool,
    ) -> io::Result<()> {
        let Some(file) = core.opens.find(fh) else {
            return self.channel.reply_error(header.unique, libc::EIO);
        };
        self.fsync(core, header, &file, if datasync { Fsync::Data } else { Fsync::All })
    }

    fn poll(
        &self,
        core: &Core,
        header: &Header,
        fh: u64,
        kh: Option<u64>,
        wanted: PollEvents,
    ) -> io::Result<()> {
        let Some(file) = core.opens.get(fh) else {
            return self.channel.reply_error(header.unique, libc::EBADF);
        };
        let started = Instant::now();
        let poller = kh.map(|kh| {
            let channel = self.channel.clone();
            Arc::new(Poller { channel, kh, file: Arc::downgrade(&file) }) as Arc<dyn Wake>
        });
        let mut table = Pollers { poller, wanted };
        let events = self.interruptible(core, header, || {
            file.device.call("poll", |driver| Ok(driver.poll(file.state(), &mut table)))
        });
        // A poll method that panicked: there is no errno in a mask.
        let events = events.unwrap_or(PollEvents::ERR);
        core.trace_call(started, || Event {
            device: &file.device.path,
            tid: header.pid,
            call: "poll",
            details: vec![("open", file.id.into()), ("events", events.to_string().into())],
            result: Ok(Some(u64::from(events.bits()))),
        });
        drop(file);
        self.channel.reply_poll(header.unique, events.bits())
    }

    /// The kernel has copied in what the command's size says, and will copy out the
    /// answer; whatever else the driver wants of the caller's memory it copies itself.
    fn ioctl(
        &self,
        core: &Core,
        header: &Header,
        fh: u64,
        command: Command,
        (argument, in_data, out_size): (u64, &[u8], u32),
    ) -> io::Result<()> {
        if command.0 == WHICH && client::process_of(header.pid) == Some(std::process::id()) {
            self.tickets.lock().insert(argument, fh);
            return self.channel.reply_ioctl(header.unique, 0, &[]);
        }
        let Some(file) = core.opens.get(fh) else {
            return self.channel.reply_error(header.unique, libc::EBADF);
        };
        let started = core.trace.is_on().then(Instant::now);
        let caller = IoctlCaller {
            tid: header.pid,
            opened: file.flags,
            argument,
            in_data,
            out_size: out_size as usize,
            out: RefCell::default(),
        };
        let result = self.interruptible(core, header, || {
            file.device.call("ioctl", |driver| {
                let value = driver.ioctl(file.state(), &Ioctl::new(command, argument, &caller))?;
                file.device.at_most("ioctl", value, i32::MAX as u32)
            })
        });
        if let Some(started) = started {
            core.trace_call(started, || Event {
                device: &file.device.path,
                tid: header.pid,
                call: "ioctl",
                details: vec![
                    ("open", file.id.into()),
                    ("command", format!("{:#x}", command.0).into()),
                    ("argument", format!("{argument:#x}").into()),
                ],
                result: result.map(|value| Some(u64::from(value))),
            });
        }
        drop(file);
        // As a result, not as an error of FUSE: so ENOSYS and ERESTARTSYS pass, and what
        // was copied out before an error arrives, as on Linux.
        let result = result.map_or_else(|errno| -errno.raw(), u32::cast_signed);
        self.channel.reply_ioctl(header.unique, result, &caller.out.borrow())
    }
}

/// For the trace: a read or a write.
fn transfer<'a>(
    header: &Header,
    file: &'a OpenFile,
    call: &'static str,
    (offset, size): (u64, usize),
    result: Result<usize, Errno>,
) -> Event<'a> {
    Event {
        device: &file.device.path,
        tid: header.pid,
        call,
        details: vec![("open", file.id.into()), ("offset", offset.into()), ("size", size.into())],
        result: result.map(|count| Some(count as u64)),
    }
}

/// Whether a thread stands in a system call that opens a file for use. Where it
/// cannot be looked at, it gets the character device, which does not open.
fn is_open(tid: u32) -> bool {
    let Some((call, args)) = client::waits_in(tid) else { return false };
    let is_path = |flags: u64| flags & libc::O_PATH as u64 != 0;
    match call {
        nr::OPENAT => !is_path(args[2]),
        nr::OPENAT2 => {
            let mut flags = [0; 8];
            let read = process::read_memory(tid, args[2], &mut flags);
            read.is_ok() && !is_path(u64::from_ne_bytes(flags))
        }
        call if Some(call) == nr::OPEN => !is_path(args[1]),
        call => Some(call) == nr::CREAT,
    }
}

/// Moves the descriptor that an open has just made to the range that the filter
/// looks at. Where it cannot be moved it stays: then `fstat` shows a regular file.
fn move_up(mut held: attach::Held, tid: u32) -> io::Result<()> {
    let descriptor = held.result();
    let movable = (3..i64::from(FIRST_DESCRIPTOR)).contains(&descriptor) && has_room(tid);
    let moved = if movable { copy_up(&mut held, descriptor as u64) } else { Ok(descriptor) };
    if let Ok(number) = moved {
        held.set_result(number);
    }
    // Also after an error: the thread gets its registers and its signal mask back.
    held.release()
}

/// The copy that takes a descriptor's place, or the descriptor itself.
fn copy_up(held: &mut attach::Held, low: u64) -> io::Result<i64> {
    let close_on_exec = held.inject(nr::FCNTL, [low, libc::F_GETFD as u64, 0, 0, 0, 0])?;
    let duplicate = if close_on_exec & i64::from(libc::FD_CLOEXEC) != 0 {
        libc::F_DUPFD_CLOEXEC
    } else {
        libc::F_DUPFD
    };
    let args = [low, duplicate as u64, u64::from(FIRST_DESCRIPTOR), 0, 0, 0];
    let high = held.inject(nr::FCNTL, args)?;
    if high < 0 {
        return Ok(low.cast_signed());
    }
    held.inject(nr::CLOSE, [low, 0, 0, 0, 0, 0])?;
    Ok(high)
}

/// Whether the soft limit of descriptors allows the range.
fn has_room(tid: u32) -> bool {
    client::descriptor_limit(tid).is_some_and(|limit| limit > u64::from(FIRST_DESCRIPTOR))
}
