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
mod interrupts;
mod old;
mod opening;
mod regular;

pub(crate) use self::regular::{fault_event, write_back_event};

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{HashMap, HashSet},
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_driver::{
    Command, Errno, Fsync, Ioctl, Open, Platform, PollEvents, Transfer, UserSlice,
};
use devmap_fuse::{
    Attr, Channel, DirBuffer, Entry, Header, Operation, Request, RequestBuffer, Statfs, open_flags,
};
use devmap_sys::{arch::nr, descriptor::WHICH};
use parking_lot::Mutex;

use self::{
    callers::{IoctlCaller, Poller, Pollers, ReadBuffer, WriteBuffer, transfer},
    interrupts::InProgress,
    opening::{is_open, opens},
};
use crate::{
    Core,
    attach::{self, Answer, NotHeld},
    call, client,
    host::Wake,
    namespace::DevEntries,
    nodes::{self, Content, FIRST_OPEN, Nodes},
    trace::Event,
};

/// For what never changes: the kernel need not ask again. Mounts stand on some of
/// these nodes, and stay reachable when this server is gone.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// To be told the number of a thread of this process that opens the file of faulted pages.
type Tell<'a> = dyn Fn(u32) + Sync + 'a;

/// Instead of the number of an open file: a file is opened so that pages of it are forgotten.
pub(crate) const NO_FILE: u64 = 0;

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
    /// Regular files that other runs have changed since this one opened them, by their devices'
    /// indices.
    changed_elsewhere: Mutex<HashSet<u64>>,
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
            changed_elsewhere: Mutex::default(),
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

    /// Runs `open`, which tells the thread in which it opens the file of faulted pages, for an
    /// open file.
    pub(crate) fn opening_backing<T>(&self, file: u64, open: impl FnOnce(&Tell<'_>) -> T) -> T {
        let thread = AtomicU32::new(0);
        let opened = open(&|tid| {
            thread.store(tid, Ordering::SeqCst);
            self.opening.lock().insert(tid, file);
        });
        self.opening.lock().remove(&thread.into_inner());
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

    /// Serves one request. Should a panic be in the way, its caller is answered all the same.
    pub(crate) fn serve(&self, core: &Core, request: Request<'_>) {
        let unique = request.header.unique;
        let serve = AssertUnwindSafe(|| self.serve_request(core, request));
        if catch_unwind(serve).is_err() {
            self.in_progress.lock().retain(|other| other.unique != unique);
            // Who wants no answer is not known by this number.
            let _ = self.channel.reply_error(unique, libc::EIO);
        }
    }

    /// An error of the channel is not the client's: its request has been aborted.
    fn serve_request(&self, core: &Core, request: Request<'_>) {
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
                Some(attr) => channel.reply_attr(unique, &attr, self.validity(nodeid)),
                None => channel.reply_error(unique, libc::ESTALE),
            },
            // As fallocate, ftruncate and chmod on a device: none of it is meant here.
            Operation::Setattr(change) => match self.nodes.content(nodeid) {
                Some(Content::Old(path)) => match old::change(path, nodeid, &change) {
                    Ok(attr) => channel.reply_attr(unique, &attr, Duration::ZERO),
                    Err(error) => channel.reply_error(unique, error.raw_os_error()),
                },
                _ if change.size.is_some() => channel.reply_error(unique, libc::EINVAL),
                _ => channel.reply_error(unique, libc::EPERM),
            },
            Operation::Readlink => match self.link(nodeid) {
                Some(target) => channel.reply_data(unique, target.as_os_str().as_bytes()),
                None => channel.reply_error(unique, libc::EINVAL),
            },
            Operation::Opendir { .. } => {
                let cached = if self.nodes.is_char(nodeid) { 0 } else { open_flags::CACHE_DIR };
                channel.reply_open(unique, 0, cached)
            }
            Operation::Readdirplus { offset, size, .. } => {
                self.readdir(core, unique, nodeid, offset, size)
            }
            Operation::Open { flags } => self.open(core, &request.header, flags),
            Operation::Read { fh, offset, size, .. } if self.is_backing(nodeid) => {
                self.fault(core, &request.header, fh, offset, size)
            }
            Operation::Write { fh, offset, from_cache, data, .. } if self.is_backing(nodeid) => {
                self.write_back(core, &request.header, (fh, from_cache), offset, data)
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
                core.opens.close_whole(fh);
                core.forget_unused();
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
            Operation::Fsync { fh, datasync } => match core.opens.get(fh) {
                Some(file) => self.fsync(core, &request.header, &file, fsync_of(datasync)),
                None => channel.reply_error(unique, libc::EINVAL),
            },
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
        let link = || {
            let node = nodes::link_node(OsStr::from_bytes(name))?;
            (self.nodes.is_char(header.nodeid) && old::link(node).is_some()).then_some(node)
        };
        let found = self.nodes.lookup(header.nodeid, name).or_else(link).or_else(backing);
        let Some(node) = found else {
            return self.channel.reply_error(header.unique, libc::ENOENT);
        };
        let (node, entry_valid) = match self.nodes.content(node) {
            Some(Content::Device(index)) if core.devices[*index].is_regular() => (node, FOR_EVER),
            Some(Content::Device(index)) => {
                let device = *index;
                let call = match client::waits_in(header.pid) {
                    Ok(call) => call,
                    Err(errno) => return self.channel.reply_error(header.unique, errno.raw()),
                };
                let node = if call.is_some_and(|call| opens(header.pid, &call)) {
                    let id = core.opens.reserve();
                    self.nodes.add_open(id, device);
                    id
                } else if let Some((nr::ACCT | nr::SWAPON | nr::SWAPOFF, _)) = call {
                    // They open what they find: the kernel's device of this number, if any.
                    return self.channel.reply_error(header.unique, libc::EACCES);
                } else {
                    node
                };
                (node, Duration::ZERO)
            }
            Some(_) => (node, FOR_EVER),
            None => (node, Duration::ZERO),
        };
        let Some(attr) = self.attr(core, node) else {
            return self.channel.reply_error(header.unique, libc::ENOENT);
        };
        // The size of a regular file may change.
        let is_regular = self.regular(core, node).is_some();
        let attr_valid = if is_regular { Duration::ZERO } else { self.validity(node) };
        let entry = Entry { nodeid: node, generation: 0, entry_valid, attr_valid, attr };
        self.channel.reply_entry(header.unique, &entry)
    }

    /// Where a link leads.
    fn link(&self, node: u64) -> Option<Cow<'_, Path>> {
        match self.nodes.content(node) {
            Some(Content::Symlink(target)) => Some(target.into()),
            _ => old::link(node).map(Cow::Owned),
        }
    }

    /// How long the kernel may take the attributes of a node for true.
    fn validity(&self, node: u64) -> Duration {
        match self.nodes.content(node) {
            Some(Content::Old(_)) => Duration::ZERO,
            _ => FOR_EVER,
        }
    }

    fn attr(&self, core: &Core, node: u64) -> Option<Attr> {
        if let Some(device) = self.regular(core, node) {
            return Some(self.regular_attr(core, device, node));
        }
        let mut attr = if nodes::link_name(node).is_some() {
            Attr::new(node, libc::S_IFLNK | 0o777)
        } else if node >= FIRST_OPEN {
            let device = &core.devices[self.nodes.device_of(node)?];
            Attr::new(node, libc::S_IFREG | u32::from(device.metadata.mode))
        } else {
            match self.nodes.content(node)? {
                Content::Directory(_) => Attr::new(node, libc::S_IFDIR | 0o755),
                Content::Placeholder => Attr::new(node, libc::S_IFREG),
                Content::Old(path) => return old::attr(path, node),
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

    /// Lists a directory, with the nodes of what is bound there: the binds of a new name
    /// space then need no lookups.
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
        let links = if self.nodes.is_char(node) { old::links() } else { Vec::new() };
        let links = links.iter().map(|(name, child)| (name.as_bytes(), *child));
        let entries = dots.into_iter().chain(children).chain(links).zip(1..);
        for ((name, child), next) in entries.skip(offset as usize) {
            let content = self.nodes.content(child);
            let mode = match content {
                Some(Content::Directory(_)) => libc::S_IFDIR,
                Some(Content::Symlink(_)) => libc::S_IFLNK,
                Some(Content::Device(index)) if core.devices[*index].is_regular() => libc::S_IFREG,
                Some(Content::Device(_)) => libc::S_IFCHR,
                Some(Content::Text(_) | Content::Backing) => libc::S_IFREG,
                // What the server does not know: the type of an old entry.
                Some(Content::Placeholder | Content::Old(_)) => 0,
                None => libc::S_IFLNK,
            };
            let entry = match content {
                Some(Content::Directory(_) | Content::Placeholder) => {
                    self.attr(core, child).map(|attr| Entry {
                        nodeid: child,
                        generation: 0,
                        entry_valid: FOR_EVER,
                        attr_valid: FOR_EVER,
                        attr,
                    })
                }
                _ => None,
            };
            if !buffer.push_plus(entry.as_ref(), child, next, mode, name) {
                break;
            }
        }
        self.channel.reply_data(unique, buffer.as_bytes())
    }

    /// Answers an error. FUSE takes none from 512 on, such as the one that asks for a
    /// restart, so the thread is held on its way out of the call and given it there.
    fn reply_errno(&self, header: &Header, errno: Errno) -> io::Result<()> {
        let errno = call::errno(errno);
        if errno.raw() < Errno::ERESTARTSYS.raw() {
            return self.channel.reply_error(header.unique, errno.raw());
        }
        let (channel, unique) = (self.channel.clone(), header.unique);
        let answer = Answer::new(move || channel.reply_error(unique, libc::EINTR));
        match attach::hold_in_fuse(header.pid, &answer) {
            Ok(mut held) => {
                if held.result() == -i64::from(libc::EINTR) {
                    held.set_result(-i64::from(errno.raw()));
                }
                held.release()
            }
            Err(NotHeld::Refused) => answer.send(),
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
                        Some(NO_FILE) => self.reply_renewal(unique),
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
        // Calls are made in the place of a native open alone: not of a 32-bit one, nor of
        // one that io_uring makes.
        let is_native = match is_open(header.pid) {
            Ok(is_native) => is_native,
            Err(errno) => return self.channel.reply_error(unique, errno.raw()),
        };
        // The first open of a node carries its number; /proc/self/fd/N opens it again.
        let first = self.nodes.opened(header.nodeid);
        let id = if first { header.nodeid } else { core.opens.reserve() };
        let open = Open {
            flags: client::open_flags(flags),
            pid: client::process_of(header.pid).unwrap_or(header.pid),
        };
        core.catch_up(0);
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
        let channel = self.channel.clone();
        let answer = Answer::new(move || channel.reply_open(unique, id, how));
        let moved = opening::answer(header.pid, is_native, &answer);
        if answer.send().is_err() {
            // The caller was let go: nobody will ever close the file.
            core.opens.close(id);
        }
        moved
    }

    /// Answers an open by which the kernel forgets pages.
    fn reply_renewal(&self, unique: u64) -> io::Result<()> {
        self.channel.reply_open(unique, NO_FILE, open_flags::NOFLUSH)
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

    /// What programs have stored in faulted pages. What they stored elsewhere, by a descriptor
    /// that was meant for a map, is refused, and the kernel forgets it.
    fn write_back(
        &self,
        core: &Core,
        header: &Header,
        (fh, from_cache): (u64, bool),
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let Header { unique, nodeid, .. } = *header;
        if !from_cache {
            let refused = self.channel.reply_error(unique, libc::EACCES);
            let _ = self.channel.notify_inval_inode(nodeid, offset as i64, data.len() as i64);
            return refused;
        }
        let Some(file) = core.opens.find(fh) else {
            return self.channel.reply_error(unique, libc::EIO);
        };
        let page_len = core.host.page_size().bytes();
        let started = Instant::now();
        let (result, refused) = core.faulted.take_back(core, page_len, &file, offset, data);
        core.trace_call(started, || {
            regular::write_back_event(&file.device, offset, data.len(), result)
        });
        let answered = match result {
            Ok(()) => self.channel.reply_written(unique, data.len() as u32),
            Err(errno) => self.channel.reply_error(unique, errno.raw()),
        };
        for page in refused {
            let (at, len) = ((page * page_len) as i64, page_len as i64);
            let _ = self.channel.notify_inval_inode(nodeid, at, len);
        }
        answered
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
        self.fsync(core, header, &file, fsync_of(datasync))
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
        let events = self.interruptible(core, header, || file.poll(&mut table));
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
        core.catch_up(1);
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
        let result =
            result.map_err(call::errno).map_or_else(|errno| -errno.raw(), u32::cast_signed);
        self.channel.reply_ioctl(header.unique, result, &caller.out.borrow())
    }
}

fn fsync_of(datasync: bool) -> Fsync {
    if datasync { Fsync::Data } else { Fsync::All }
}

/// Whether a request is for a driver, or for one that serves it.
pub(crate) fn may_take_long(request: &Request<'_>) -> bool {
    !matches!(
        request.operation,
        Operation::Lookup { .. }
            | Operation::Forget { .. }
            | Operation::BatchForget(_)
            | Operation::Getattr { .. }
            | Operation::Readlink
            | Operation::Opendir { .. }
            | Operation::Readdirplus { .. }
            | Operation::Releasedir { .. }
            | Operation::Statfs
            // These are refused.
            | Operation::Access { .. }
            | Operation::Getxattr { .. }
            | Operation::Listxattr { .. }
            | Operation::Other { .. }
    )
}
