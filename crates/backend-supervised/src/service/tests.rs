//! A daemon and its joiners in one process: joiners that mean well, and raw sockets that
//! mean ill. What a joiner does must harm that joiner alone.

mod hostile;

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_driver::{
    Caller, Command, Device, Direction, Errno, Fault, Ioctl, Lock, NewArea, NewPage, Open,
    OpenFlags, Plan, Platform, PollEvents, PollTable, Protection, Sharing, Supply, Transfer,
    UserSlice, WaitQueue,
};
use rustix::event::PollFlags;

use super::{
    connection::{MOST_LANES, MOST_OPENS},
    daemon::{Daemon, Limits},
    listener::Peer,
    remote::greet,
    socket,
    wire::{
        Answer, Control, Copies, LONGEST, Method, News, Request, Step, VERSION, WireArea,
        WirePlace, WireSeek, decode, encode,
    },
};
use crate::{AnyFile, Host, HostLock, HostMemory, HostWaitQueue, Node, call, erase, trace::Trace};

/// When something that must happen counts as something that never will.
const DEADLINE: Duration = Duration::from_secs(60);

const READ_WRITE: OpenFlags =
    OpenFlags { read: true, write: true, nonblocking: false, append: false };

/// Waits for a wake that never comes.
const WAIT: Command = Command::new(Direction::None, b'T', 1, 0);
/// Wakes all pollers.
const WAKE: Command = Command::new(Direction::None, b'T', 2, 0);
/// Adds up the bytes that its argument, an address and a length, names.
const SUM: Command = Command::new(Direction::Write, b'T', 3, 16);

/// The device under test, and how many open files it has.
struct Dut {
    memory: HostMemory,
    /// Held while bytes of the caller are copied.
    lock: HostLock<()>,
    queue: Arc<HostWaitQueue>,
    open: Arc<AtomicUsize>,
}

struct File(Arc<AtomicUsize>);

impl Drop for File {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Device<Host> for Dut {
    type File = File;

    fn open(&self, _open: &Open) -> Result<File, Errno> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(File(self.open.clone()))
    }

    /// Four pages of memory, and four that are filled.
    fn mmap(&self, _file: &File, area: &NewArea) -> Result<Plan<HostMemory>, Errno> {
        if area.first_page() < 4 {
            return Ok(Plan::remap_all(area, &self.memory, area.first_page()));
        }
        if area.first_page() + area.pages() > 8 {
            return Err(Errno::EPERM);
        }
        Ok(Plan::new().fault(0..area.pages()))
    }

    fn fault(
        &self,
        _file: &File,
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<HostMemory>, Errno> {
        page.bytes()?.fill(fault.page as u8);
        Ok(Supply::Filled)
    }

    fn read(&self, _file: &File, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.lock.with(|()| {
            let (user, part) = (transfer.user(), [7; 5000]);
            for offset in (0..user.len()).step_by(part.len()) {
                let len = part.len().min(user.len() - offset);
                user.slice(offset, len)?.copy_out(&part[..len])?;
            }
            Ok(user.len())
        })
    }

    fn write(&self, _file: &File, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.lock.with(|()| {
            let mut bytes = vec![0; transfer.user().len()];
            transfer.user().copy_in(&mut bytes)?;
            if bytes.iter().zip(0..).any(|(byte, at)| *byte != at as u8) {
                return Err(Errno::EINVAL);
            }
            Ok(bytes.len())
        })
    }

    fn ioctl(&self, _file: &File, call: &Ioctl<'_>) -> Result<u32, Errno> {
        match call.command() {
            WAIT => Ok(self.queue.wait(|| None::<u32>)?),
            WAKE => {
                self.queue.wake_all();
                Ok(0)
            }
            SUM => {
                let argument: [u8; 16] = call.user()?.array()?;
                let word = |at| u64::from_le_bytes(std::array::from_fn(|i| argument[at + i]));
                let mut bytes = vec![0; word(8) as usize];
                call.at(word(0), bytes.len())?.copy_in(&mut bytes)?;
                Ok(bytes.iter().map(|byte| u32::from(*byte)).sum())
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn poll(&self, _file: &File, table: &mut dyn PollTable<HostWaitQueue>) -> PollEvents {
        table.register(&self.queue);
        PollEvents::OUT
    }
}

/// A daemon with the device under test.
struct Served {
    daemon: Arc<Daemon>,
    open: Arc<AtomicUsize>,
    queue: Arc<HostWaitQueue>,
}

impl Served {
    /// That waits this long for a joiner.
    fn new(patience: Duration) -> Served {
        Served::within(Limits { patience, ..Limits::default() })
    }

    fn within(limits: Limits) -> Served {
        let (open, queue) = (Arc::<AtomicUsize>::default(), Arc::<HostWaitQueue>::default());
        let (of_device, woken) = (open.clone(), queue.clone());
        let nodes = move |host: &Host| {
            let memory = host.contiguous(4 * host.page_size().bytes()).expect("memory");
            let lock = host.lock(()).expect("a lock");
            let device = erase(Dut { memory, lock, queue: woken, open: of_device });
            Ok(vec![Node { path: "/dev/dut".into(), name: "dut".into(), device }])
        };
        let trace = Trace::create(None, false).expect("no file");
        let daemon = Daemon::new(Box::new(nodes), trace, limits).expect("a daemon");
        let daemon = Arc::new(daemon);
        let reaping = daemon.clone();
        std::thread::spawn(move || reaping.reaper.run(&reaping.opens, || ()));
        Served { daemon, open, queue }
    }

    /// A new connection of a user.
    fn connect(&self, uid: u32) -> OwnedFd {
        let (ours, theirs) = socket::pair().expect("a socket pair");
        self.daemon.admit(theirs, Peer { pid: 1, uid });
        ours
    }

    /// A joiner that means well, with the device open.
    fn honest(&self) -> Honest {
        let host = Host::new();
        let mut nodes =
            greet(&host, Path::new("/test"), self.connect(0), DEADLINE).expect("it joins");
        let node = nodes.pop().expect("a device");
        let file = node.device.open(&Open { flags: READ_WRITE, pid: 1 }).expect("it opens");
        Honest { node, file, page_size: host.page_size().bytes() }
    }

    /// A raw joiner that has said hello.
    fn raw(&self) -> Raw {
        let raw = Raw { control: self.connect(1000), buffer: vec![0; LONGEST], next: 0 };
        raw.control(&Control::Hello { version: VERSION }, None);
        let mut raw = raw;
        let bytes = socket::receive(&raw.control, &mut raw.buffer).expect("an answer");
        assert!(matches!(decode(bytes), Some(News::Welcome { .. })));
        raw
    }

    fn wait_for_opens(&self, count: usize) {
        wait_for("open files", || self.open.load(Ordering::SeqCst) == count);
    }
}

#[track_caller]
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Honest {
    node: Node,
    file: AnyFile,
    page_size: u64,
}

impl Honest {
    /// Bytes go in and out, under the driver's lock.
    #[track_caller]
    fn moves(&self, len: usize) {
        let caller = Bytes(std::cell::RefCell::new(vec![0; len]));
        let user = UserSlice::new(&caller, 0, len).expect("a slice");
        let read = self.node.device.read(&self.file, &Transfer::new(&caller, user, 0));
        assert_eq!(read, Ok(len));
        assert!(caller.0.borrow().iter().all(|byte| *byte == 7));
        for (byte, at) in caller.0.borrow_mut().iter_mut().zip(0..) {
            *byte = at as u8;
        }
        let written = self.node.device.write(&self.file, &Transfer::new(&caller, user, 0));
        assert_eq!(written, Ok(len));
    }

    /// As by FUSE: nothing is asked back, so that no patience of the daemon's matters.
    #[track_caller]
    fn moves_by_itself(&self) {
        struct Buffered;
        impl call::WaitHook for Buffered {
            fn begin(&self, _waiter: &Arc<call::Waiter>) -> bool {
                true
            }
            fn end(&self, _waiter: &Arc<call::Waiter>) {}
            fn is_buffered(&self) -> bool {
                true
            }
        }
        call::within(Arc::default(), Arc::new(Buffered), || self.moves(20_000));
    }

    /// All of the device serves.
    #[track_caller]
    fn is_served(&self) {
        self.moves(200_000);
        let caller = Bytes(std::cell::RefCell::new(vec![0; 2000]));
        caller.0.borrow_mut()[..16]
            .copy_from_slice(&[1000_u64.to_le_bytes(), 3_u64.to_le_bytes()].concat());
        caller.0.borrow_mut()[1000..1003].copy_from_slice(&[1, 2, 3]);
        let sum = self.node.device.ioctl(&self.file, &Ioctl::new(SUM, 0, &caller));
        assert_eq!(sum, Ok(6));
        let page_size = devmap_driver::PageSize::new(self.page_size).expect("a page size");
        let area = NewArea::new(page_size, 0, 4, Protection::READ_WRITE, Sharing::Shared);
        let plan = self.node.device.mmap(&self.file, &area.expect("an area"));
        assert_eq!(plan.expect("a plan").extents().count(), 1);
    }
}

/// A caller whose memory is here.
struct Bytes(std::cell::RefCell<Vec<u8>>);

impl Caller for Bytes {
    fn copy_from(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let bytes = self.0.borrow();
        let from = bytes.get(address as usize..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(from.ok_or(Errno::EFAULT)?);
        Ok(())
    }

    fn copy_to(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let mut bytes = self.0.borrow_mut();
        let into = bytes.get_mut(address as usize..).and_then(|rest| rest.get_mut(..from.len()));
        into.ok_or(Errno::EFAULT)?.copy_from_slice(from);
        Ok(())
    }

    fn flags(&self) -> OpenFlags {
        READ_WRITE
    }
}

/// A joiner that says what it likes.
struct Raw {
    control: OwnedFd,
    buffer: Vec<u8>,
    next: u32,
}

impl Raw {
    fn control(&self, message: &Control, file: Option<&OwnedFd>) {
        let files: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        // It may have been hung up on.
        let _ = socket::send(&self.control, encode(message, &mut Vec::new()), &files);
    }

    fn lane(&mut self) -> OwnedFd {
        let (ours, theirs) = socket::pair().expect("a socket pair");
        self.control(&Control::Lane { lane: self.next }, Some(&theirs));
        self.next += 1;
        ours
    }

    /// A lane, a file opened by it, and the token that a map of it gives.
    fn mapped(&mut self, area: WireArea) -> (OwnedFd, u64, OwnedFd) {
        let lane = self.lane();
        let open = self.open(&lane);
        send(&lane, Method::Mmap { open, area });
        let (_, files) = socket::receive_files(&lane, &mut self.buffer).expect("a plan");
        (lane, open, files.into_iter().next().expect("a token"))
    }

    /// Sends a request and receives a step.
    fn ask(&mut self, lane: &OwnedFd, method: Method<'_>) -> Option<Step<'_>> {
        send(lane, method);
        decode(socket::receive(lane, &mut self.buffer).ok()?)
    }

    /// The number that a call answers.
    fn value(&mut self, lane: &OwnedFd, method: Method<'_>) -> Result<u64, Errno> {
        match self.ask(lane, method) {
            Some(Step::Done { result, .. }) => result.map_err(Errno::from),
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, lane: &OwnedFd) -> u64 {
        let method = Method::Open { device: 0, flags: READ_WRITE.into(), pid: 1 };
        self.value(lane, method).expect("it opens")
    }

    /// Whether the daemon hangs up.
    #[track_caller]
    fn is_hung_up_on(&self, what: &str) {
        let mut buffer = vec![0; LONGEST];
        loop {
            let control = self.control.as_fd();
            assert!(socket::is_ready_within(control, PollFlags::IN, DEADLINE), "{what}: no end");
            match socket::receive(&self.control, &mut buffer) {
                Ok(bytes) if !bytes.is_empty() => {}
                _ => return,
            }
        }
    }
}

fn send(lane: &OwnedFd, method: Method<'_>) {
    let _ = socket::send(lane, encode(&Request { call: 1, method }, &mut Vec::new()), &[]);
}

fn place(len: u64) -> WirePlace {
    WirePlace { position: 0, len, flags: None }
}

/// As the kernel sees to it (`rw_verify_area`).
#[test]
fn positions_are_those_of_a_file() {
    let served = Served::new(DEADLINE);
    let mut raw = served.raw();
    let lane = raw.lane();
    let open = raw.open(&lane);
    for position in [i64::MAX as u64, 1 << 63, u64::MAX] {
        let (place, copies) = (WirePlace { position, ..place(1) }, Copies::Buffered);
        assert_eq!(raw.value(&lane, Method::Read { open, place, copies }), Err(Errno::EINVAL));
        let write = Method::Write { open, place, head: b"x", copies };
        assert_eq!(raw.value(&lane, write), Err(Errno::EINVAL));
    }
    let to = WireSeek::Current { position: 1 << 63, by: 0 };
    assert_eq!(raw.value(&lane, Method::Seek { open, to }), Err(Errno::EINVAL));
}

#[test]
fn nonsense_ends_its_sender_alone() {
    let served = Served::new(DEADLINE);
    let honest = served.honest();
    let mut seed = 7_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize
    };
    for round in 0..200 {
        let mut raw = served.raw();
        let lane = raw.lane();
        let open = raw.open(&lane);
        // A length of its own, and bytes that begin like a message now and then.
        let mut bytes: Vec<u8> = (0..1 + random() % 100).map(|_| random() as u8).collect();
        if round % 2 == 0 {
            bytes[0] = 1;
            bytes.extend_from_slice(encode(&open, &mut Vec::new()));
        }
        let target = if round % 3 == 0 { &raw.control } else { &lane };
        let _ = socket::send(target, &bytes, &[]);
        drop((lane, raw));
    }
    served.wait_for_opens(1);
    honest.is_served();
}

/// What is no message at all: the joiner is hung up on, at once.
#[test]
fn what_is_no_message_is_the_end() {
    let served = Served::new(DEADLINE);
    let honest = served.honest();
    let long = vec![0; 2 * LONGEST];
    for bytes in [&[0xff][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &long] {
        let stranger = Raw { control: served.connect(1), buffer: Vec::new(), next: 0 };
        socket::send(&stranger.control, bytes, &[]).expect("sent");
        stranger.is_hung_up_on("no hello");
        let raw = served.raw();
        socket::send(&raw.control, bytes, &[]).expect("sent");
        raw.is_hung_up_on("control");
        let mut raw = served.raw();
        let lane = raw.lane();
        raw.open(&lane);
        socket::send(&lane, bytes, &[]).expect("sent");
        raw.is_hung_up_on("a lane");
    }
    // A second hello, a lane without a socket.
    for wrong in [Control::Hello { version: VERSION }, Control::Lane { lane: 9 }] {
        let raw = served.raw();
        raw.control(&wrong, None);
        raw.is_hung_up_on("what makes no sense");
    }
    // Another version is told why.
    let mut raw = Raw { control: served.connect(1), buffer: vec![0; LONGEST], next: 0 };
    raw.control(&Control::Hello { version: VERSION + 1 }, None);
    let bytes = socket::receive(&raw.control, &mut raw.buffer).expect("an answer");
    assert!(matches!(decode(bytes), Some(News::Refused { .. })));
    served.wait_for_opens(1);
    honest.is_served();
}

#[test]
fn what_a_joiner_has_not_opened_it_cannot_use() {
    let served = Served::new(DEADLINE);
    let honest = served.honest();
    let (mut one, mut two) = (served.raw(), served.raw());
    let (lane, other) = (one.lane(), two.lane());
    let open = one.open(&lane);
    for id in [open, 0, u64::MAX] {
        let area = served.area();
        assert_eq!(two.value(&other, Method::Poll { open: id, wanted: None }), Err(Errno::EBADF));
        assert_eq!(two.value(&other, Method::Mmap { open: id, area }), Err(Errno::EBADF));
        let read = Method::Read { open: id, place: place(1), copies: Copies::Buffered };
        assert_eq!(two.value(&other, read), Err(Errno::EBADF));
        // Releasing what is not its own releases nothing.
        assert_eq!(two.value(&other, Method::Release { open: id }), Ok(0));
    }
    let bytes = [0; 4096];
    let write_back = Method::WriteBack { device: 0, offset: 0, bytes: &bytes };
    assert_eq!(two.value(&other, write_back), Err(Errno::EBADF));
    let nowhere = Method::Open { device: 1, flags: READ_WRITE.into(), pid: 1 };
    assert_eq!(two.value(&other, nowhere), Err(Errno::ENODEV));
    assert_eq!(one.value(&lane, Method::Poll { open, wanted: None }), Ok(4));
    assert_eq!(served.open.load(Ordering::SeqCst), 2);
    assert_eq!(one.value(&lane, Method::Release { open }), Ok(0));
    assert_eq!(one.value(&lane, Method::Release { open }), Ok(0));
    served.wait_for_opens(1);
    honest.is_served();
}

impl Served {
    /// Four pages, to read and write.
    fn area(&self) -> WireArea {
        let page_size = self.daemon.host.page_size();
        let area = NewArea::new(page_size, 0, 4, Protection::READ_WRITE, Sharing::Shared);
        WireArea::from(&area.expect("an area"))
    }
}

/// Who opens for reading cannot map for writing; nor can the file that is given be written.
#[test]
fn rights_are_those_of_the_open_file() {
    let served = Served::new(DEADLINE);
    let mut raw = served.raw();
    let lane = raw.lane();
    let flags = OpenFlags { write: false, ..READ_WRITE };
    let method = Method::Open { device: 0, flags: flags.into(), pid: 1 };
    let open = raw.value(&lane, method).expect("it opens");
    let area = served.area();
    assert_eq!(raw.value(&lane, Method::Mmap { open, area }), Err(Errno::EACCES));
    let write = Method::Write { open, place: place(1), head: &[0], copies: Copies::Buffered };
    assert_eq!(raw.value(&lane, write), Err(Errno::EBADF));
    let page_size = served.daemon.host.page_size();
    let area = NewArea::new(page_size, 0, 1, Protection::READ, Sharing::Shared);
    send(&lane, Method::Mmap { open, area: WireArea::from(&area.expect("an area")) });
    let (_, files) = socket::receive_files(&lane, &mut raw.buffer).expect("a plan");
    assert_eq!(files.len(), 2);
    for file in files {
        assert_eq!(rustix::io::write(&file, b"x"), Err(rustix::io::Errno::BADF));
        // Another user than the daemon's cannot open it anew for writing.
        let mode = rustix::fs::fstat(&file).expect("fstat").st_mode;
        assert_eq!(mode & 0o777, 0o644);
    }
}

#[test]
fn limits_are_each_joiners_own() {
    let served = Served::new(DEADLINE);
    let honest = served.honest();
    let mut raw = served.raw();
    let lanes: Vec<_> = (0..MOST_LANES).map(|_| raw.lane()).collect();
    // Served: all of them are there.
    let open = raw.open(&lanes[0]);
    raw.value(&lanes[MOST_LANES - 1], Method::Poll { open, wanted: None })
        .expect("the last is served");
    let more = raw.lane();
    assert!(matches!(raw.ask(&more, Method::Poll { open, wanted: None }), Some(Step::Refused)));
    for _ in 1..MOST_OPENS {
        raw.open(&lanes[0]);
    }
    let method = Method::Open { device: 0, flags: READ_WRITE.into(), pid: 1 };
    assert_eq!(raw.value(&lanes[0], method), Err(Errno::ENFILE));
    assert_eq!(served.open.load(Ordering::SeqCst), 1 + MOST_OPENS);
    honest.is_served();
    // Its lanes are still held here, and yet all ends with the connection.
    drop(raw);
    served.wait_for_opens(1);
    honest.is_served();
}

/// A user has so many joiners, and no more; others are served.
#[test]
fn one_user_cannot_take_all_connections() {
    let served = Served::new(DEADLINE);
    let honest = served.honest();
    let taken: Vec<_> = (0..256).map(|_| served.connect(5)).collect();
    let mut buffer = vec![0; LONGEST];
    let refused = served.connect(5);
    let bytes = socket::receive(&refused, &mut buffer).expect("an answer");
    assert!(matches!(decode(bytes), Some(News::Refused { .. })));
    drop(served.raw());
    drop(taken);
    honest.is_served();
}

/// The driver holds its lock while it copies: a joiner that stalls then is dropped, and the
/// others go on.
#[test]
fn a_joiner_that_stalls_is_dropped() {
    let served = Served::new(Duration::from_millis(50));
    let honest = served.honest();
    type Makes = fn(u64) -> Method<'static>;
    let stalls: [(&str, Makes); 4] = [
        ("a read, checked", |open| Method::Read {
            open,
            place: place(10),
            copies: Copies::Checked,
        }),
        ("a read, never received", |open| Method::Read {
            open,
            place: place(u64::MAX),
            copies: Copies::Buffered,
        }),
        ("a write without its bytes", |open| Method::Write {
            open,
            place: place(10),
            head: &[],
            copies: Copies::Buffered,
        }),
        ("an argument without its bytes", |open| Method::Ioctl {
            open,
            command: SUM.0,
            argument: 0,
            head: &[],
            copies: Copies::Buffered,
        }),
    ];
    for (what, method) in stalls {
        let mut raw = served.raw();
        let lane = raw.lane();
        let open = raw.open(&lane);
        send(&lane, method(open));
        raw.is_hung_up_on(what);
        honest.moves_by_itself();
    }
    served.wait_for_opens(1);
}

/// Answers that are none, to what the daemon asks.
#[test]
fn wrong_answers_end_the_joiner() {
    let served = Served::new(DEADLINE);
    let honest = served.honest();
    let answer = |answer: &Answer<'_>| encode(answer, &mut Vec::new()).to_vec();
    let answers = [
        answer(&Answer::Copied(Ok(b"too short"))),
        answer(&Answer::Wrote(Ok(()))),
        answer(&Answer::Flags(READ_WRITE.into())),
        vec![0xee; 100],
    ];
    for answer in answers {
        let mut raw = served.raw();
        let lane = raw.lane();
        let open = raw.open(&lane);
        let copies = Copies::Checked;
        let step = raw.ask(&lane, Method::Write { open, place: place(100), head: &[], copies });
        assert!(matches!(step, Some(Step::CopyIn { address: 0, len: 100 })), "{step:?}");
        socket::send(&lane, &answer, &[]).expect("sent");
        raw.is_hung_up_on("a wrong answer");
    }
    served.wait_for_opens(1);
    honest.is_served();
}

/// A joiner that is never told of wakes keeps nobody waiting.
#[test]
fn who_does_not_listen_for_wakes_blocks_nobody() {
    let served = Served::new(DEADLINE);
    let honest = served.honest();
    let mut raw = served.raw();
    let lane = raw.lane();
    let opens: Vec<_> = (0..3000).map(|_| raw.open(&lane)).collect();
    for round in 0..5 {
        for open in &opens {
            send(&lane, Method::Poll { open: *open, wanted: None });
            // What was woken comes first.
            while let Step::Woken { .. } =
                decode(socket::receive(&lane, &mut raw.buffer).expect("an answer")).expect("a step")
            {
            }
        }
        served.queue.wake_all();
        assert!(round < 5);
    }
    honest.is_served();
    drop((lane, raw));
    served.wait_for_opens(1);
}

/// A call that waits ends with its joiner, by a signal, and by one that came before it.
#[test]
fn waits_end() {
    let served = Served::new(DEADLINE);
    let mut raw = served.raw();
    let lane = raw.lane();
    let open = raw.open(&lane);
    let wait = |open| Method::Ioctl {
        open,
        command: WAIT.0,
        argument: 0,
        head: &[],
        copies: Copies::Buffered,
    };
    assert!(matches!(raw.ask(&lane, wait(open)), Some(Step::Waiting)));
    raw.control(&Control::Interrupt { lane: 0, call: 1 }, None);
    let bytes = socket::receive(&lane, &mut raw.buffer).expect("an answer");
    let Some(Step::Done { result: Err(errno), .. }) = decode(bytes) else { panic!("no end") };
    assert_eq!(Errno::from(errno), Errno::ERESTARTSYS);
    // Interruptions of other calls, other lanes, and lanes that are none.
    raw.control(&Control::Interrupt { lane: 0, call: 77 }, None);
    raw.control(&Control::Interrupt { lane: 5, call: 1 }, None);
    // The first call's number again: its interruption is still known.
    assert_eq!(raw.value(&lane, Method::Poll { open, wanted: None }), Ok(4));
    let other = raw.lane();
    raw.control(&Control::Interrupt { lane: 1, call: 1 }, None);
    // Heard when a lane that came after it is served.
    let later = raw.lane();
    raw.value(&later, Method::Poll { open, wanted: None }).expect("served");
    match raw.ask(&other, wait(open)) {
        Some(Step::Waiting) => {
            let bytes = socket::receive(&other, &mut raw.buffer).expect("an answer");
            assert!(matches!(decode(bytes), Some(Step::Done { result: Err(_), .. })));
        }
        Some(Step::Done { result: Err(_), .. }) => {}
        step => panic!("{step:?}"),
    }
    // Killed.
    assert!(matches!(raw.ask(&later, wait(open)), Some(Step::Waiting)));
    drop(raw);
    served.wait_for_opens(0);
}

/// The same of a joiner that means well: the waiter of its call hears of a signal.
#[test]
fn an_interruption_crosses() {
    let served = Served::new(DEADLINE);
    let honest = served.honest();
    let waiter = Arc::<call::Waiter>::default();
    struct Interrupts;
    impl call::WaitHook for Interrupts {
        fn begin(&self, waiter: &Arc<call::Waiter>) -> bool {
            waiter.interrupt();
            true
        }
        fn end(&self, _waiter: &Arc<call::Waiter>) {}
    }
    let caller = Bytes(std::cell::RefCell::default());
    let result = call::within(waiter, Arc::new(Interrupts), || {
        honest.node.device.ioctl(&honest.file, &Ioctl::new(WAIT, 0, &caller))
    });
    assert_eq!(result, Err(Errno::ERESTARTSYS));
    honest.is_served();
}

/// Locks of a program's own on the memory keep nobody from mapping it.
#[test]
fn a_lock_on_the_memory_denies_nothing() {
    let served = Served::new(DEADLINE);
    let mut raw = served.raw();
    let (lane, _, token) = raw.mapped(served.area());
    let all = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&token, nix::fcntl::FcntlArg::F_OFD_SETLK(&all)).expect("locked");
    let honest = served.honest();
    honest.is_served();
    // Others' opens are not released while they may be mapped, as far as anybody can tell.
    drop((token, honest));
    drop((lane, raw));
    served.wait_for_opens(0);
}

/// The lock of a map may go long after inotify told of the close: of other memories some other
/// is told.
#[test]
fn a_map_whose_end_nobody_tells_ends_at_last() {
    let served = Served::new(DEADLINE);
    let mut raw = served.raw();
    let (lane, open, token) = raw.mapped(served.area());
    assert_eq!(raw.value(&lane, Method::Release { open }), Ok(0));
    let Daemon { reaper, host, .. } = &*served.daemon;
    wait_for("the last look", || reaper.is_idle());
    assert_eq!(served.open.load(Ordering::SeqCst), 1);
    let none = libc::flock {
        l_type: libc::F_UNLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&token, nix::fcntl::FcntlArg::F_OFD_SETLK(&none)).expect("unlocked");
    let other = host.scattered(1).expect("memory");
    reaper.watch(&other).expect("a watch");
    wait_for("a look at all", || {
        other.token((0, true)).expect("a token");
        other.tokens().forget(0);
        served.open.load(Ordering::SeqCst) == 0
    });
}

#[test]
fn a_daemon_that_ends_leaves_no_call_waiting() {
    let served = Served::new(DEADLINE);
    let honest = served.honest();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let caller = Bytes(std::cell::RefCell::default());
            honest.node.device.ioctl(&honest.file, &Ioctl::new(WAIT, 0, &caller))
        });
        served.daemon.stop();
        assert_eq!(waits.join().expect("no panic"), Err(Errno::ENODEV));
    });
    assert!(honest.node.device.open(&Open { flags: READ_WRITE, pid: 1 }).is_err());
    served.wait_for_opens(0);
}
