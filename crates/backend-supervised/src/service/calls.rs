//! Serving the calls of one lane: a driver's method, and its caller's memory.
//!
//! What does not live here: how the joiner makes a call (`remote`).

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use devmap_driver::{
    AreaFlags, Caller, Command, Direction, Errno, Fsync, Ioctl, Open, OpenFlags, Platform,
    PollEvents, PollTable, SeekFrom, Source, Store, Supply, Transfer, UserSlice,
};
use serde_json::Value;

use super::{
    connection::{Connection, Lane, MOST_OPENS, Poller, WAKES_AT_ONCE},
    socket,
    wire::{
        Answer, CHUNK, Copies, LONGEST, Method, Request, Step, WireArea, WireErrno, WireExtent,
        WireMemory, WireMetadata, WirePlace, decode, encode, is_position,
    },
};
use crate::{
    faulted,
    host::{HostMemory, HostWaitQueue, Wake},
    map,
    opens::{DeviceEntry, OpenFile},
    tokens::Token,
    trace::Event,
};

/// The most that one call moves (`MAX_RW_COUNT`).
const MOST_BYTES: u64 = 0x7fff_f000;

/// A joiner gets as much of the daemon's patience again for so many messages: each moves up to
/// [`CHUNK`] bytes, so it may not be slower than 6 MiB a second for long.
const ASKS_OF_PATIENCE: u32 = 1024;

/// Copies out that are kept for the answer, so that they cost no message of their own.
const KEPT: usize = 4096;

/// Serves calls to the lane's end.
pub(super) fn serve(connection: &Arc<Connection>, lane: &Arc<Lane>) {
    let mut buffer = vec![0; LONGEST];
    let answers = RefCell::new(vec![0; LONGEST]);
    let mut out = Vec::with_capacity(2 * KEPT);
    let heard = Cell::new(0);
    loop {
        let request = match socket::receive(&lane.socket, &mut buffer) {
            Ok([]) => return,
            _ if connection.is_over() => return,
            Ok(bytes) => decode::<Request<'_>>(bytes),
            Err(_) => None,
        };
        let Some(Request { call, method }) = request else { return connection.end() };
        let left = Cell::new(connection.daemon.limits.patience);
        let serving = Serving { connection, lane, call, answers: &answers, heard: &heard, left };
        if serving.serve(method, &mut out).is_err() {
            return connection.end();
        }
    }
}

/// The joiner does not keep to the rules, or is gone.
struct Broken;

/// One call.
struct Serving<'a> {
    connection: &'a Arc<Connection>,
    lane: &'a Arc<Lane>,
    call: u32,
    /// Where the joiner's answers are received.
    answers: &'a RefCell<Vec<u8>>,
    /// How many wakes the joiner has heard of, as far as this lane knows.
    heard: &'a Cell<u64>,
    /// How long the joiner may yet be waited for in this call.
    left: Cell<Duration>,
}

impl Serving<'_> {
    fn serve(&self, method: Method<'_>, out: &mut Vec<u8>) -> Result<(), Broken> {
        let result = match method {
            Method::Open { device, flags, pid } => self.open(device, flags.into(), pid),
            Method::Close { open } => self.file(open).map(|file| {
                file.forget_tokens();
                0
            }),
            Method::Release { open } => {
                self.connection.remove_file(open);
                Ok(0)
            }
            Method::Mmap { open, area } => match self.file(open) {
                Ok(file) => return self.mmap(&file, area, out),
                Err(errno) => Err(errno),
            },
            Method::Fault { open, page, .. } => match self.file(open) {
                Ok(file) => return self.fault(&file, page, out),
                Err(errno) => Err(errno),
            },
            Method::Read { open, place, copies } => match self.file(open) {
                Ok(file) => return self.transfer(&file, place, None, copies, out),
                Err(errno) => Err(errno),
            },
            Method::Write { open, place, head, copies } => match self.file(open) {
                Ok(file) => return self.transfer(&file, place, Some(head), copies, out),
                Err(errno) => Err(errno),
            },
            Method::Ioctl { open, command, argument, head, copies } => match self.file(open) {
                Ok(file) => {
                    return self.ioctl(&file, Command(command), argument, head, copies, out);
                }
                Err(errno) => Err(errno),
            },
            Method::Seek { open, to } => {
                self.file(open).and_then(|file| self.seek(&file, to.into()))
            }
            Method::Poll { open, wanted } => {
                self.file(open).map(|file| self.poll(&file, wanted.map(PollEvents::from_bits)))
            }
            Method::Fsync { open, all } => self.file(open).and_then(|file| self.fsync(&file, all)),
            Method::WriteBack { device, offset, bytes } => self.write_back(device, offset, bytes),
            Method::Truncate { device, size } => self.truncate(device, size),
            Method::TakeChanged { device } => self
                .device(device)
                .map(|device| u64::from(self.connection.take_changed(device.index))),
            Method::Metadata { device } => match self.device(device) {
                Ok(device) => return self.metadata(device, out),
                Err(errno) => Err(errno),
            },
        };
        self.done(result, out)
    }

    /// The joiner's open file.
    fn file(&self, open: u64) -> Result<Arc<OpenFile>, Errno> {
        self.connection.file(open).ok_or(Errno::EBADF)
    }

    fn device(&self, index: u32) -> Result<&Arc<DeviceEntry>, Errno> {
        self.connection.daemon.devices.get(index as usize).ok_or(Errno::ENODEV)
    }

    fn step(&self, step: &Step<'_>, out: &mut Vec<u8>) -> Result<(), Broken> {
        self.send(encode(step, out), &[])
    }

    /// Not by the socket's own timeout: the joiner may hold this end of the lane too.
    fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), Broken> {
        let started = Instant::now();
        let sent = socket::send_within(self.lane.socket.as_fd(), bytes, files, self.left.get());
        self.waited(started);
        sent.map_err(|_| Broken)
    }

    /// The joiner was waited for: it has so much less time for the rest of the call.
    fn waited(&self, since: Instant) {
        let earned = self.connection.daemon.limits.patience / ASKS_OF_PATIENCE;
        self.left.set((self.left.get() + earned).saturating_sub(since.elapsed()));
    }

    /// Before the last step: a program that polls after its call must find what the call has
    /// changed.
    fn tell_wakes(&self, out: &mut Vec<u8>) -> Result<(), Broken> {
        // So many messages hold all that there can have been; others may go on waking.
        for _ in 0..=MOST_OPENS / WAKES_AT_ONCE {
            let (opens, heard) = self.connection.wakes_so_far();
            if opens.is_empty() && heard == self.heard.get() {
                break;
            }
            self.heard.set(heard);
            self.step(&Step::Woken { opens, heard }, out)?;
        }
        Ok(())
    }

    /// The last step.
    fn last(&self, step: &Step<'_>, out: &mut Vec<u8>) -> Result<(), Broken> {
        self.tell_wakes(out)?;
        self.step(step, out)
    }

    fn done(&self, result: Result<u64, Errno>, out: &mut Vec<u8>) -> Result<(), Broken> {
        let result = result.map_err(WireErrno::from);
        self.last(&Step::Done { result, address: 0, bytes: &[] }, out)
    }

    fn interruptible<R>(&self, serve: impl FnOnce() -> R) -> R {
        self.connection.interruptible(self.lane, self.call, serve)
    }

    /// Traces a call, by the joiner's process: whose thread it was, the joiner alone knows.
    fn trace(
        &self,
        device: &DeviceEntry,
        call: &'static str,
        started: Instant,
        result: Result<u64, Errno>,
        details: impl FnOnce() -> Vec<(&'static str, Value)>,
    ) {
        let trace = &self.connection.daemon.trace;
        if trace.is_on() {
            let tid = self.connection.peer().pid;
            let result = result.map(Some);
            let event = Event { device: &device.path, tid, call, details: details(), result };
            trace.write(&event, started.elapsed());
        }
    }

    fn open(&self, device: u32, flags: OpenFlags, pid: u32) -> Result<u64, Errno> {
        let device = self.device(device)?;
        let started = Instant::now();
        let opened = self.try_open(device, &Open { flags, pid });
        self.trace(device, "open", started, opened.map(|_| 0), || {
            let OpenFlags { read, write, .. } = flags;
            vec![("read", read.into()), ("write", write.into()), ("open", opened.ok().into())]
        });
        opened
    }

    fn try_open(&self, device: &Arc<DeviceEntry>, open: &Open) -> Result<u64, Errno> {
        self.permitted(device, open.flags)?;
        if !self.connection.may_open() {
            return Err(Errno::ENFILE);
        }
        let opens = &self.connection.daemon.opens;
        self.connection.daemon.reaper.catch_up(opens);
        let id = opens.reserve();
        let file = self.interruptible(|| opens.open(id, device, open))?;
        if !self.connection.add_file(file) {
            opens.close(id);
            return Err(Errno::ENODEV);
        }
        Ok(id)
    }

    /// Whoever may join owns the device, and root may all. A joiner's kernel has looked at
    /// this, if the joiner means well.
    fn permitted(&self, device: &DeviceEntry, flags: OpenFlags) -> Result<(), Errno> {
        let mode = device.metadata.mode;
        let refused = flags.read && mode & 0o400 == 0 || flags.write && mode & 0o200 == 0;
        if refused && self.connection.peer().uid != 0 { Err(Errno::EACCES) } else { Ok(()) }
    }

    fn mmap(&self, file: &Arc<OpenFile>, area: WireArea, out: &mut Vec<u8>) -> Result<(), Broken> {
        let started = Instant::now();
        let mut plan = None;
        let planned = self.plan(file, area, &mut plan);
        self.trace(
            &file.device,
            "mmap",
            started,
            planned.as_ref().map(|_| 0).map_err(|e| *e),
            || {
                let plan = plan.as_ref().map(|plan| ("plan", map::describe_plan(plan).into()));
                let mut details = vec![("open", file.id.into())];
                details.extend(plan);
                details
            },
        );
        match planned {
            Ok(planned) => {
                let Planned { extents, flags, shares } = planned;
                let memories = shares.iter().map(|share| share.described()).collect();
                let step = Step::Planned { extents, flags: flags.into(), memories };
                self.last_with(&step, &shares, out)
            }
            Err(errno) => self.done(Err(errno), out),
        }
    }

    fn plan(
        &self,
        file: &Arc<OpenFile>,
        area: WireArea,
        told: &mut Option<devmap_driver::Plan<HostMemory>>,
    ) -> Result<Planned, Errno> {
        let area = area.area(self.connection.daemon.host.page_size()).ok_or(Errno::EINVAL)?;
        let shared_write =
            area.protection().write && area.sharing() == devmap_driver::Sharing::Shared;
        if !file.flags.read || shared_write && !file.flags.write {
            return Err(Errno::EACCES);
        }
        let plan = self.interruptible(|| map::plan_of(file, &area))?;
        let plan = told.insert(plan);
        let mut memories: Vec<&HostMemory> = Vec::new();
        let mut extents = Vec::new();
        for extent in plan.extents() {
            let remap = match &extent.source {
                Source::Fault => None,
                Source::Remap { memory, first_page } => {
                    let known = memories.iter().position(|other| other.is(memory));
                    let at = known.unwrap_or_else(|| {
                        memories.push(memory);
                        memories.len() - 1
                    });
                    Some((at as u32, *first_page))
                }
            };
            extents.push(WireExtent { at: extent.at, pages: extent.pages, remap });
        }
        file.given.add(extents.iter().filter(|extent| extent.remap.is_none()).map(|extent| {
            let first = area.first_page() + extent.at;
            first..first + extent.pages
        }))?;
        if plan.area_flags().contains(AreaFlags::RESERVED) {
            map::keep_memories_resident(file, memories.iter().copied());
        }
        let shares = memories.into_iter().map(|memory| self.share(file, memory));
        let shares = shares.collect::<Result<Vec<_>, _>>()?;
        Ok(Planned { extents, flags: plan.area_flags(), shares })
    }

    /// The files by which a joiner maps a memory.
    fn share(&self, file: &OpenFile, memory: &HostMemory) -> Result<Share, Errno> {
        let shared = map::token_of(&self.connection.daemon.reaper, file, memory)
            .and_then(|token| Ok(Share { token, look: memory.tokens().look()? }));
        shared.map_err(|error| {
            crate::report(format_args!(
                "{}: cannot open its memory for a map: {error}",
                file.device.path.display()
            ));
            Errno::ENOMEM
        })
    }

    /// The last step, with memories.
    fn last_with(
        &self,
        step: &Step<'_>,
        shares: &[Share],
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        self.tell_wakes(out)?;
        let files: Vec<_> = shares
            .iter()
            .flat_map(|share| [share.token.file.as_fd(), share.look.as_fd()])
            .collect();
        self.send(encode(step, out), &files)
    }

    fn fault(&self, file: &Arc<OpenFile>, page: u64, out: &mut Vec<u8>) -> Result<(), Broken> {
        let started = Instant::now();
        // As the kernel asks a driver: for pages that a plan gave. What else the joiner's kernel
        // reads ahead it does without. Of a regular file who may read it gets all, by whichever
        // open file a page cache is filled.
        let is_given = if file.device.is_regular() {
            let read = OpenFlags { read: true, write: false, nonblocking: false, append: false };
            self.permitted(&file.device, read).is_ok()
        } else {
            file.given.has(page)
        };
        if !is_given {
            return self.done(Err(Errno::EFAULT), out);
        }
        // Said before: what is changed from here on the joiner shall forget.
        self.connection.gives(file.device.index);
        let page_len = self.connection.daemon.host.page_size().bytes();
        let Ok(mut bytes) = faulted::Buffer::new(page_len as usize) else {
            return self.done(Err(Errno::ENOMEM), out);
        };
        let kept = self.connection.daemon.kept.get(file.device.index, page);
        let supplied = match kept {
            Some(kept) => {
                bytes.copy_from_slice(&kept);
                Ok(Supply::Filled)
            }
            None => self.interruptible(|| faulted::ask(file, page, &mut bytes)),
        };
        let supplied = supplied.and_then(|supply| match supply {
            Supply::Filled => Ok(None),
            Supply::Page { memory, page } => Ok(Some((page, self.share(file, &memory)?))),
        });
        let outcome = supplied.as_ref().map(|_| 0).map_err(|errno| *errno);
        self.trace(&file.device, "fault", started, outcome, || {
            vec![("open", file.id.into()), ("page", page.into())]
        });
        match supplied {
            Ok(None) => self.last(&Step::Filled { bytes: &bytes }, out),
            Ok(Some((page, share))) => {
                let step = Step::Supplied { page, memory: share.described() };
                self.last_with(&step, &[share], out)
            }
            Err(errno) => self.done(Err(errno), out),
        }
    }

    fn transfer(
        &self,
        file: &Arc<OpenFile>,
        WirePlace { position, len, flags }: WirePlace,
        head: Option<&[u8]>,
        copies: Copies,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let started = Instant::now();
        let writes = head.is_some();
        let (permitted, name) =
            if writes { (file.flags.write, "write") } else { (file.flags.read, "read") };
        let size = len.min(MOST_BYTES) as usize;
        // A read's buffer is written only, and a write's read only.
        let (readable, writable) = if writes { (0..len, 0..0) } else { (0..0, 0..len) };
        let buffered = if copies == Copies::Buffered { writable.clone() } else { 0..0 };
        let mut caller = Joiner::new(self, (0, head.unwrap_or(&[])), readable, writable);
        caller.buffered = buffered;
        caller.flags = flags.map(OpenFlags::from);
        if writes && file.device.is_regular() {
            // The joiner's kernel keeps what it writes.
            self.connection.gives(file.device.index);
        }
        let result = if !permitted {
            Err(Errno::EBADF)
        } else if !is_position(position.saturating_add(size as u64)) {
            Err(Errno::EINVAL)
        } else {
            self.interruptible(|| {
                file.device.call(name, |driver| {
                    let user = UserSlice::new(&caller, 0, size)?;
                    let transfer = Transfer::new(&caller, user, position);
                    let count = if writes {
                        driver.write(file.state(), &transfer)?
                    } else {
                        driver.read(file.state(), &transfer)?
                    };
                    Ok(file.device.at_most(name, count, size)? as u64)
                })
            })
        };
        if writes && file.device.is_regular() {
            self.connection.changes(file.device.index);
        }
        self.trace(&file.device, name, started, result, || {
            vec![("open", file.id.into()), ("offset", position.into()), ("size", len.into())]
        });
        caller.finish(result, out)
    }

    fn ioctl(
        &self,
        file: &Arc<OpenFile>,
        command: Command,
        argument: u64,
        head: &[u8],
        copies: Copies,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let daemon = &self.connection.daemon;
        daemon.reaper.catch_up(&daemon.opens);
        let started = Instant::now();
        // Only what the command's size says is the joiner's own buffer.
        let comes_out = matches!(command.direction(), Direction::Read | Direction::ReadWrite);
        let size = if comes_out { command.size() as u64 } else { 0 };
        let mut caller = Joiner::new(self, (argument, head), 0..u64::MAX, 0..u64::MAX);
        if copies == Copies::Buffered {
            caller.buffered = argument..argument.saturating_add(size);
        }
        let result = self.interruptible(|| {
            file.device.call("ioctl", |driver| {
                let value = driver.ioctl(file.state(), &Ioctl::new(command, argument, &caller))?;
                Ok(u64::from(file.device.at_most("ioctl", value, i32::MAX as u32)?))
            })
        });
        self.trace(&file.device, "ioctl", started, result, || {
            vec![
                ("open", file.id.into()),
                ("command", format!("{:#x}", command.0).into()),
                ("argument", format!("{argument:#x}").into()),
            ]
        });
        caller.finish(result, out)
    }

    fn seek(&self, file: &Arc<OpenFile>, to: SeekFrom) -> Result<u64, Errno> {
        if let SeekFrom::Current { position, .. } = to
            && !is_position(position)
        {
            return Err(Errno::EINVAL);
        }
        let started = Instant::now();
        let result = self.interruptible(|| {
            file.device.call("llseek", |driver| {
                file.device.at_most("llseek", driver.llseek(file.state(), to)?, i64::MAX as u64)
            })
        });
        self.trace(&file.device, "lseek", started, result, || vec![("open", file.id.into())]);
        result
    }

    fn poll(&self, file: &Arc<OpenFile>, wanted: Option<PollEvents>) -> u64 {
        let started = Instant::now();
        let connection = Arc::downgrade(self.connection);
        let poller = Poller { connection, file: Arc::downgrade(file), open: file.id };
        let mut table = Pollers { poller: Arc::new(poller), wanted };
        let events = self.interruptible(|| file.poll(&mut table));
        self.trace(&file.device, "poll", started, Ok(u64::from(events.bits())), || {
            vec![("open", file.id.into()), ("events", events.to_string().into())]
        });
        u64::from(events.bits())
    }

    fn fsync(&self, file: &Arc<OpenFile>, all: bool) -> Result<u64, Errno> {
        let started = Instant::now();
        let what = if all { Fsync::All } else { Fsync::Data };
        let result = self.interruptible(|| {
            let done =
                file.device.call("fsync", |driver| driver.fsync(file.state(), what).map(|()| 0));
            self.connection.daemon.renew(file.device.index);
            done
        });
        self.trace(&file.device, "fsync", started, result, || vec![("open", file.id.into())]);
        result
    }

    fn write_back(&self, device: u32, offset: u64, bytes: &[u8]) -> Result<u64, Errno> {
        let device = self.device(device)?;
        let end = offset.checked_add(bytes.len() as u64).ok_or(Errno::EINVAL)?;
        let page_len = self.connection.daemon.host.page_size().bytes();
        let pages = offset / page_len..end.div_ceil(page_len);
        self.connection.may_write_back(device.index, pages)?;
        let started = Instant::now();
        let result = self.interruptible(|| {
            device.call("write_back", |driver| match driver.store() {
                Store::Device => driver.write_back(offset, bytes),
                Store::Home => {
                    let kept = &self.connection.daemon.kept;
                    kept.put(self.connection.peer().uid, device.index, page_len, (offset, bytes))
                }
            })
        });
        self.connection.changes(device.index);
        let result = result.map(|()| 0);
        self.trace(device, "write_back", started, result, || {
            vec![("offset", offset.into()), ("size", bytes.len().into())]
        });
        result
    }

    /// By its path too, without an open file.
    fn truncate(&self, device: u32, size: u64) -> Result<u64, Errno> {
        let device = self.device(device)?;
        let write = OpenFlags { read: false, write: true, nonblocking: false, append: false };
        self.permitted(device, write)?;
        let started = Instant::now();
        let result = self
            .interruptible(|| device.call("truncate", |driver| driver.truncate(size).map(|()| 0)));
        self.connection.changes(device.index);
        self.trace(device, "truncate", started, result, || vec![("size", size.into())]);
        result
    }

    fn metadata(&self, device: &DeviceEntry, out: &mut Vec<u8>) -> Result<(), Broken> {
        match device.call("metadata", |driver| Ok(driver.metadata())) {
            Ok(metadata) => {
                let metadata = WireMetadata::new(&metadata, device.number);
                self.last(&Step::Metadata { metadata }, out)
            }
            Err(errno) => self.done(Err(errno), out),
        }
    }
}

/// A plan to be sent.
struct Planned {
    extents: Vec<WireExtent>,
    flags: AreaFlags,
    shares: Vec<Share>,
}

/// A memory to be sent.
struct Share {
    token: Arc<Token>,
    look: std::os::fd::OwnedFd,
}

impl Share {
    fn described(&self) -> WireMemory {
        WireMemory { token: self.token.id }
    }
}

/// Registers a joiner with the queues that a driver names.
struct Pollers {
    poller: Arc<Poller>,
    wanted: Option<PollEvents>,
}

impl PollTable<HostWaitQueue> for Pollers {
    fn register(&mut self, queue: &HostWaitQueue) {
        queue.register(self.poller.clone() as Arc<dyn Wake>);
    }

    fn wanted(&self) -> Option<PollEvents> {
        self.wanted
    }
}

/// The caller of a call, behind a joiner.
struct Joiner<'a> {
    serving: &'a Serving<'a>,
    /// What came with the request: an address, and the bytes there.
    head: (u64, RefCell<Vec<u8>>),
    /// Where the driver may read, and write.
    readable: Range<u64>,
    writable: Range<u64>,
    /// Where copies out cannot fail.
    buffered: Range<u64>,
    /// Such copies that have not been sent: an address, and the bytes.
    kept: RefCell<(u64, Vec<u8>)>,
    /// The flags of the open file, where they came with the request.
    flags: Option<OpenFlags>,
    broken: Cell<bool>,
}

impl<'a> Joiner<'a> {
    fn new(
        serving: &'a Serving<'a>,
        (address, head): (u64, &[u8]),
        readable: Range<u64>,
        writable: Range<u64>,
    ) -> Joiner<'a> {
        Joiner {
            serving,
            head: (address, RefCell::new(head.to_vec())),
            readable,
            writable,
            buffered: 0..0,
            kept: RefCell::default(),
            flags: None,
            broken: Cell::new(false),
        }
    }

    /// Answers the request.
    fn finish(self, result: Result<u64, Errno>, out: &mut Vec<u8>) -> Result<(), Broken> {
        if self.broken.get() {
            return Err(Broken);
        }
        let (address, bytes) = &*self.kept.borrow();
        let result = result.map_err(WireErrno::from);
        self.serving.last(&Step::Done { result, address: *address, bytes }, out)
    }

    /// Sends a step, and uses its answer.
    fn ask<R>(
        &self,
        step: &Step<'_>,
        answered: impl FnOnce(Answer<'_>) -> Option<Result<R, Errno>>,
    ) -> Result<R, Errno> {
        if self.broken.get() {
            return Err(Errno::EFAULT);
        }
        let lane = self.serving.lane.socket.as_fd();
        let answer = self.serving.step(step, &mut Vec::new()).ok().and_then(|()| {
            let mut answers = self.serving.answers.borrow_mut();
            // The driver may hold a lock: the joiner may not keep it waiting for ever.
            let started = Instant::now();
            let received = socket::receive_within(lane, &mut answers, self.serving.left.get());
            self.serving.waited(started);
            answered(decode(received.ok()?)?)
        });
        answer.unwrap_or_else(|| {
            self.broken.set(true);
            Err(Errno::EFAULT)
        })
    }

    /// Sends the copies that were kept.
    fn flush(&self) -> Result<(), Errno> {
        let mut kept = self.kept.borrow_mut();
        let (address, bytes) = &mut *kept;
        if bytes.is_empty() {
            return Ok(());
        }
        let copies = Copies::Buffered;
        let step = Step::CopyOut { address: *address, bytes, copies };
        let sent = self.serving.step(&step, &mut Vec::new());
        bytes.clear();
        sent.map_err(|Broken| {
            self.broken.set(true);
            Errno::EFAULT
        })
    }

    /// Keeps a copy out for the answer, or sends it.
    fn keep(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let fits = {
            let kept = self.kept.borrow();
            let follows = kept.1.is_empty() || kept.0 + kept.1.len() as u64 == address;
            follows && kept.1.len() + from.len() <= KEPT
        };
        if !fits {
            self.flush()?;
        }
        for (chunk, address) in from.chunks(CHUNK).zip((address..).step_by(CHUNK)) {
            let mut kept = self.kept.borrow_mut();
            if kept.1.is_empty() {
                kept.0 = address;
            }
            kept.1.extend_from_slice(chunk);
            let long = kept.1.len() > KEPT;
            drop(kept);
            if long {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// The place of bytes in the head.
    fn in_head(&self, address: u64, len: usize, head: usize) -> Option<Range<usize>> {
        let start = usize::try_from(address.checked_sub(self.head.0)?).ok()?;
        let end = start.checked_add(len)?;
        (end <= head).then_some(start..end)
    }

    /// What the driver writes is what it reads again.
    fn patch_head(&self, address: u64, from: &[u8]) {
        let (start, head) = (self.head.0, &mut *self.head.1.borrow_mut());
        let first = address.max(start);
        let last = (address + from.len() as u64).min(start + head.len() as u64);
        if first < last {
            let into = (first - start) as usize..(last - start) as usize;
            head[into]
                .copy_from_slice(&from[(first - address) as usize..(last - address) as usize]);
        }
    }
}

/// Whether `len` bytes at `address` lie in a range.
fn within(range: &Range<u64>, address: u64, len: usize) -> bool {
    address.checked_add(len as u64).is_some_and(|end| range.start <= address && end <= range.end)
}

impl Caller for Joiner<'_> {
    fn copy_from(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if !within(&self.readable, address, into.len()) {
            return Err(Errno::EFAULT);
        }
        {
            let head = self.head.1.borrow();
            if let Some(place) = self.in_head(address, into.len(), head.len()) {
                into.copy_from_slice(&head[place]);
                return Ok(());
            }
        }
        self.flush()?;
        for (chunk, address) in into.chunks_mut(CHUNK).zip((address..).step_by(CHUNK)) {
            let step = Step::CopyIn { address, len: chunk.len() as u32 };
            self.ask(&step, |answer| match answer {
                Answer::Copied(Ok(bytes)) if bytes.len() == chunk.len() => {
                    chunk.copy_from_slice(bytes);
                    Some(Ok(()))
                }
                Answer::Copied(Err(errno)) => Some(Err(errno.into())),
                _ => None,
            })?;
        }
        Ok(())
    }

    fn copy_to(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        if !within(&self.writable, address, from.len()) {
            return Err(Errno::EFAULT);
        }
        if within(&self.buffered, address, from.len()) {
            self.patch_head(address, from);
            return self.keep(address, from);
        }
        self.flush()?;
        for (bytes, address) in from.chunks(CHUNK).zip((address..).step_by(CHUNK)) {
            let step = Step::CopyOut { address, bytes, copies: Copies::Checked };
            self.ask(&step, |answer| match answer {
                Answer::Wrote(result) => Some(result.map_err(Errno::from)),
                _ => None,
            })?;
            self.patch_head(address, bytes);
        }
        Ok(())
    }

    fn flags(&self) -> OpenFlags {
        if let Some(flags) = self.flags {
            return flags;
        }
        let asked = self.ask(&Step::Flags, |answer| match answer {
            Answer::Flags(flags) => Some(Ok(flags.into())),
            _ => None,
        });
        // The answer of a joiner that breaks off reaches nobody.
        asked.unwrap_or(OpenFlags { read: false, write: false, nonblocking: true, append: false })
    }
}
