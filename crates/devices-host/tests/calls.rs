//! The camera's calls, without any program: an author's own camera, and any ioctl at all
//! with any argument, from a seed.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_backend_supervised::Host;
use devmap_devices_host::{
    Frame, Pace,
    camera::{Camera, Options},
    capture::{Capture, Description, File},
    controls::WEBCAM,
    format::{Format, Offer, PixelFormat, Size},
    source::{Drawn, Source, Tick},
    trouble::Trouble,
};
use devmap_driver::{
    Caller, Command, Device, Errno, Ioctl, NewArea, Open, OpenFlags, PageSize, Platform, PollTable,
    Protection, Sharing, Transfer, UserSlice,
};

const FLAGS: OpenFlags = OpenFlags { read: true, write: true, nonblocking: true, append: false };

/// A program's memory, from [`Memory::BASE`] on.
struct Memory {
    bytes: RefCell<Vec<u8>>,
    flags: Cell<OpenFlags>,
}

impl Memory {
    const BASE: u64 = 0x1_0000;

    fn new(size: usize) -> Memory {
        Memory { bytes: RefCell::new(vec![0; size]), flags: Cell::new(FLAGS) }
    }

    fn range(&self, address: u64, len: usize) -> Result<std::ops::Range<usize>, Errno> {
        let start =
            usize::try_from(address.wrapping_sub(Memory::BASE)).map_err(|_| Errno::EFAULT)?;
        let end = start.checked_add(len).ok_or(Errno::EFAULT)?;
        if end > self.bytes.borrow().len() { Err(Errno::EFAULT) } else { Ok(start..end) }
    }
}

impl Caller for Memory {
    fn copy_from(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let range = self.range(address, into.len())?;
        into.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn copy_to(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let range = self.range(address, from.len())?;
        self.bytes.borrow_mut()[range].copy_from_slice(from);
        Ok(())
    }

    fn flags(&self) -> OpenFlags {
        self.flags.get()
    }
}

/// Nobody waits.
struct NoPoller;

impl PollTable<<Host as Platform>::WaitQueue> for NoPoller {
    fn register(&mut self, _queue: &<Host as Platform>::WaitQueue) {}
}

/// `_IOC`, as the header has it.
fn command(direction: u32, number: u32, size: u32) -> Command {
    Command(direction << 30 | size << 16 | u32::from(b'V') << 8 | number)
}

/// Calls a command with 32-bit words at its argument; the words afterwards.
fn call<D: Device<Host>>(
    device: &D,
    file: &D::File,
    command: Command,
    words: &[(usize, u32)],
) -> Result<Vec<u32>, Errno> {
    call_by(FLAGS, device, file, command, words)
}

/// The same on a file with these flags.
fn call_by<D: Device<Host>>(
    flags: OpenFlags,
    device: &D,
    file: &D::File,
    command: Command,
    words: &[(usize, u32)],
) -> Result<Vec<u32>, Errno> {
    let memory = Memory::new(command.size());
    memory.flags.set(flags);
    for (at, word) in words {
        memory.bytes.borrow_mut()[at * 4..at * 4 + 4].copy_from_slice(&word.to_ne_bytes());
    }
    device.ioctl(file, &Ioctl::new(command, Memory::BASE, &memory))?;
    let bytes = memory.bytes.into_inner();
    Ok(bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect())
}

fn open<D: Device<Host>>(device: &D) -> D::File {
    device.open(&Open { flags: FLAGS, pid: 1 }).expect("it opens")
}

/// Tries again until there is a frame.
fn eventually<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(Errno::EAGAIN) if started.elapsed() < Duration::from_secs(60) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

/// Requests three buffers, queues them, streams, and takes a frame.
fn stream_one<D: Device<Host>>(device: &D) -> Result<(), Errno> {
    let file = open(device);
    call(device, &file, command(3, 8, 20), &[(0, 3), (1, 1), (2, 1)])?;
    for index in 0..3 {
        call(device, &file, command(3, 15, 88), &[(0, index), (1, 1), (15, 1)])?;
    }
    call(device, &file, command(1, 18, 4), &[(0, 1)])?;
    eventually(|| call(device, &file, command(3, 17, 88), &[(1, 1), (15, 1)]))?;
    Ok(())
}

/// A source that an author wrote: each frame is its number. Its second stream fails to start,
/// and its third to draw.
struct Numbers {
    is_quick: bool,
    streams: u32,
    /// Streams that were started and not stopped.
    running: Arc<AtomicU32>,
}

impl Source for Numbers {
    fn is_quick(&self, _pixels: PixelFormat) -> bool {
        self.is_quick
    }

    fn start(&mut self, _format: Format) -> Result<(), String> {
        self.streams += 1;
        if self.streams == 2 {
            return Err("the source is empty".to_owned());
        }
        assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "two at once");
        Ok(())
    }

    fn draw(&mut self, tick: &Tick, frame: &mut Frame<'_>) -> Result<Drawn, String> {
        assert_ne!(self.streams, 3, "the source breaks, as it is meant to");
        frame.repeat(0, &[tick.sequence as u8], 16 * 8);
        Ok(Drawn::Frame)
    }

    fn stop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A camera of [`Numbers`].
fn numbers(is_quick: bool, pace: Pace) -> (Capture<Host>, Arc<AtomicU32>) {
    let size = Size::new(16, 8);
    let about = Description {
        card: "Numbers".to_owned(),
        bus_info: "platform:numbers".to_owned(),
        minor: 7,
        offer: Offer {
            pixels: vec![PixelFormat::Grey],
            sizes: vec![size],
            rates: vec![60],
            size,
            rate: 60,
        },
        controls: WEBCAM,
        pace,
        trouble: Trouble::default(),
    };
    let running = Arc::new(AtomicU32::new(0));
    let source = Numbers { is_quick, streams: 0, running: running.clone() };
    (Capture::new(&Host::new(), about, Box::new(source)).expect("a camera"), running)
}

/// Whoever draws the frames.
#[test]
fn an_author_builds_a_camera_of_a_source() {
    for is_quick in [false, true] {
        builds_a_camera(is_quick);
    }
}

fn builds_a_camera(is_quick: bool) {
    let (camera, running) = numbers(is_quick, Pace::Client);
    let file = open(&camera);
    for wanted in 0..3 {
        let frame = eventually(|| {
            let memory = Memory::new(1000);
            let user = UserSlice::new(&memory, Memory::BASE, 1000)?;
            let count = camera.read(&file, &Transfer::new(&memory, user, 0))?;
            Ok(memory.bytes.borrow()[..count].to_vec())
        });
        assert_eq!(frame, Ok(vec![wanted; 16 * 8]));
    }
    assert_eq!(running.load(Ordering::SeqCst), 1);
    drop(file);
    assert_eq!(running.load(Ordering::SeqCst), 0);
    // A source that fails or panics ends the stream with EIO, and the next begins anew.
    for _ in 0..2 {
        let file = open(&camera);
        let memory = Memory::new(10);
        let user = || UserSlice::new(&memory, Memory::BASE, 10);
        let failed = eventually(|| camera.read(&file, &Transfer::new(&memory, user()?, 0)));
        assert_eq!(failed, Err(Errno::EIO));
        drop(file);
        assert_eq!(running.load(Ordering::SeqCst), 0);
    }
    assert_eq!(stream_one(&camera), Ok(()));
    assert_eq!(running.load(Ordering::SeqCst), 0);
}

/// Takes frames and queues their buffers again until the stream ends: their numbers.
fn take_until_the_end(camera: &Capture<Host>, file: &File<Host>, count: &AtomicU32) -> Vec<u32> {
    let blocking = OpenFlags { nonblocking: false, ..FLAGS };
    let mut taken = Vec::new();
    loop {
        match call_by(blocking, camera, file, command(3, 17, 88), &[(1, 1), (15, 1)]) {
            Ok(words) => {
                taken.push(words[14]);
                count.fetch_add(1, Ordering::SeqCst);
                let index = (0, words[0]);
                // The stream may have ended in between; a buffer can be queued all the same.
                call(camera, file, command(3, 15, 88), &[index, (1, 1), (15, 1)])
                    .expect("it is the program's");
            }
            // The other one waits.
            Err(Errno::EBUSY) => std::thread::yield_now(),
            Err(errno) => {
                assert_eq!(errno, Errno::EINVAL);
                return taken;
            }
        }
    }
}

/// Two threads take frames, and a third ends the stream, again and again: each frame comes
/// once, and nobody waits for ever.
#[test]
fn threads_share_a_stream_which_another_ends() {
    for (is_quick, pace) in [(true, Pace::Client), (false, Pace::Client), (true, Pace::Timer)] {
        // Those of its streams that fail are behind it.
        let (camera, running) = numbers(is_quick, pace);
        let file = open(&camera);
        let request = [(0, 4), (1, 1), (2, 1)];
        let count = AtomicU32::new(0);
        for stream in 1..=6 {
            call(&camera, &file, command(3, 8, 20), &request).expect("buffers");
            for index in 0..4 {
                call(&camera, &file, command(3, 15, 88), &[(0, index), (1, 1), (15, 1)])
                    .expect("a buffer");
            }
            call(&camera, &file, command(1, 18, 4), &[(0, 1)]).expect("a stream");
            let is_broken = stream == 2 || stream == 3;
            if is_broken {
                let dequeue = || call(&camera, &file, command(3, 17, 88), &[(1, 1), (15, 1)]);
                assert_eq!(eventually(dequeue), Err(Errno::EIO));
                call(&camera, &file, command(1, 19, 4), &[(0, 1)]).expect("it ends");
                continue;
            }
            count.store(0, Ordering::SeqCst);
            let mut taken = std::thread::scope(|scope| {
                let take = || take_until_the_end(&camera, &file, &count);
                let threads = [scope.spawn(take), scope.spawn(take)];
                while count.load(Ordering::SeqCst) < 10 {
                    std::thread::yield_now();
                }
                call(&camera, &file, command(1, 19, 4), &[(0, 1)]).expect("it ends");
                threads.map(|thread| thread.join().expect("it takes frames")).concat()
            });
            taken.sort_unstable();
            assert!(taken.len() >= 10);
            assert!(taken.windows(2).all(|two| two[0] < two[1]), "{taken:?}");
            if pace == Pace::Client {
                // One that was drawn, and that nobody took before the end, is missing at most
                // at the end.
                assert_eq!(taken, (0..taken.len() as u32).collect::<Vec<_>>());
            }
        }
        drop(file);
        assert_eq!(running.load(Ordering::SeqCst), 0);
    }
}

/// However early who waits is woken.
#[test]
fn no_frame_comes_before_its_moment() {
    let (camera, _) = numbers(false, Pace::Timer);
    let file = open(&camera);
    call(&camera, &file, command(3, 8, 20), &[(0, 4), (1, 1), (2, 1)]).expect("buffers");
    for index in 0..4 {
        call(&camera, &file, command(3, 15, 88), &[(0, index), (1, 1), (15, 1)]).expect("a buffer");
    }
    let started = Instant::now();
    call(&camera, &file, command(1, 18, 4), &[(0, 1)]).expect("a stream");
    for _ in 0..30 {
        let blocking = OpenFlags { nonblocking: false, ..FLAGS };
        let words = call_by(blocking, &camera, &file, command(3, 17, 88), &[(1, 1), (15, 1)]);
        let words = words.expect("a frame");
        let moment = Duration::from_secs(1) / 60 * (words[14] + 1);
        assert!(started.elapsed() >= moment, "{} {:?}", words[14], started.elapsed());
        call(&camera, &file, command(3, 15, 88), &[(0, words[0]), (1, 1), (15, 1)])
            .expect("a buffer");
    }
}

fn usual_camera(host: &Host) -> Camera<Host> {
    let mut options = Options::default();
    for (key, value) in [("size", "160x120"), ("pace", "client"), ("minor", "0")] {
        options.set(key, value).expect("an option");
    }
    Camera::new(host, &options).expect("a camera")
}

#[test]
fn one_thread_waits_for_a_frame() {
    const REQBUFS: (u32, u32, u32) = (3, 8, 20);
    const DQBUF: (u32, u32, u32) = (3, 17, 88);
    let camera = usual_camera(&Host::new());
    let file = open(&camera);
    let own = |(direction, number, size), words: &[(usize, u32)]| {
        call(&camera, &file, command(direction, number, size), words).map(|_| ())
    };
    let buffers = |count| own(REQBUFS, &[(0, count), (1, 1), (2, 1)]);
    assert_eq!(buffers(2), Ok(()));
    assert_eq!(own((1, 18, 4), &[(0, 1)]), Ok(()));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let blocking = OpenFlags { nonblocking: false, ..FLAGS };
            call_by(blocking, &camera, &file, command(3, 17, 88), &[(1, 1), (15, 1)]).map(|_| ())
        });
        // No buffer is queued, so none comes; and once the other one waits, nobody else may.
        assert_eq!(eventually(|| own(DQBUF, &[(1, 1), (15, 1)])), Err(Errno::EBUSY));
        assert_eq!(own((1, 19, 4), &[(0, 1)]), Ok(()));
        assert_eq!(waiter.join().expect("it ends"), Err(Errno::EINVAL));
    });
    assert_eq!(buffers(2), Ok(()));
    assert_eq!(own(DQBUF, &[(1, 1), (15, 1)]), Err(Errno::EINVAL));
}

/// What is asked of a buffer is asked in the kernel's order, and a buffer that is handed over
/// says nothing of the frame before (`vb2_fill_vb2_v4l2_buffer`).
#[test]
fn buffers_are_handed_over_as_videobuf2_has_it() {
    const EBADR: i32 = 53;
    let request = (3, 0x0080_0000);
    let camera = usual_camera(&Host::new());
    let (file, other) = (open(&camera), open(&camera));
    let own = |number, words: &[(usize, u32)]| {
        let words = [words, &[(1, 1), (15, 1)]].concat();
        call(&camera, &file, command(3, number, 88), &words)
    };
    let (query, queue, dequeue, prepare) = (9, 15, 17, 93);
    call(&camera, &file, command(3, 8, 20), &[(0, 2), (1, 1), (2, 1)]).unwrap();
    let create = |count| call(&camera, &other, command(3, 92, 256), &[(1, count), (2, 1), (4, 1)]);
    assert_eq!(create(0).map(|words| (words[0], words[1])), Ok((2, 0)), "anybody may ask");
    assert_eq!(create(1).err(), Some(Errno::EBUSY));
    assert_eq!(own(prepare, &[(0, 0), request]).err(), Some(Errno::EINVAL));
    assert_eq!(own(queue, &[(0, 0), request]).err(), Errno::from_raw(EBADR));
    own(queue, &[(0, 0)]).unwrap();
    assert_eq!(own(queue, &[(0, 0), request]).err(), Some(Errno::EINVAL), "it is queued");
    own(queue, &[(0, 1)]).unwrap();
    call(&camera, &file, command(1, 18, 4), &[(0, 1)]).unwrap();
    let of_frame = |words: &[u32]| [words[2], words[6], words[8], words[14]];
    for number in [0, 1] {
        let taken = eventually(|| own(dequeue, &[])).unwrap();
        assert_eq!((taken[0], taken[2], taken[14]), (number, 160 * 120 * 2, number));
        assert_ne!(of_frame(&own(query, &[(0, number)]).unwrap()), [0; 4], "it is still there");
    }
    assert_eq!(of_frame(&own(prepare, &[(0, 0)]).unwrap()), [0; 4]);
    assert_eq!(of_frame(&own(query, &[(0, 0)]).unwrap()), [0; 4]);
    assert_eq!(of_frame(&own(queue, &[(0, 1)]).unwrap()), [0; 4]);
}

/// The program learns which buffer it was, and has it.
#[test]
fn a_frame_whose_memory_is_gone_is_flagged() {
    const FRAME: u32 = 160 * 120 * 2;
    const ERROR: u32 = 0x40;
    let camera = usual_camera(&Host::new());
    let file = open(&camera);
    let memory = Memory::new(88 + FRAME as usize);
    let of_user = |number, words: &[(usize, u32)]| {
        memory.bytes.borrow_mut()[..88].fill(0);
        for (at, word) in [words, &[(1, 1), (15, 2)]].concat() {
            memory.bytes.borrow_mut()[at * 4..at * 4 + 4].copy_from_slice(&word.to_ne_bytes());
        }
        camera.ioctl(&file, &Ioctl::new(command(3, number, 88), Memory::BASE, &memory))?;
        let bytes = memory.bytes.borrow();
        let word = |at: usize| u32::from_ne_bytes(bytes[at * 4..at * 4 + 4].try_into().unwrap());
        Ok([word(0), word(3) & ERROR])
    };
    call(&camera, &file, command(3, 8, 20), &[(0, 2), (1, 1), (2, 2)]).unwrap();
    call(&camera, &file, command(1, 18, 4), &[(0, 1)]).unwrap();
    let queue =
        |index| of_user(15, &[(0, index), (16, Memory::BASE as u32 + 88), (18, FRAME)]).map(drop);
    let dequeue = || eventually(|| of_user(17, &[]));
    assert_eq!(queue(1), Ok(()));
    assert_eq!(dequeue(), Ok([1, 0]));
    assert_eq!(queue(0), Ok(()));
    memory.bytes.borrow_mut().truncate(88 + FRAME as usize / 2);
    assert_eq!(dequeue(), Ok([0, ERROR]));
    assert_eq!(queue(0), Err(Errno::EFAULT), "it is the program's, who has no memory for it");
}

#[test]
fn only_controls_that_are_there_can_be_subscribed_to() {
    let camera = usual_camera(&Host::new());
    let file = open(&camera);
    let subscribe = |id| call(&camera, &file, command(1, 90, 32), &[(0, 3), (1, id)]).map(|_| ());
    assert_eq!(subscribe(0x98_0900), Ok(()));
    // In a query this is the next one.
    for id in [0x8000_0000, 0x8098_0999, 0xc000_0001, 0x98_0999] {
        assert_eq!(subscribe(id), Err(Errno::EINVAL), "{id:#x}");
    }
}

/// `splitmix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A word such as programs pass, or one that no program should.
    fn word(&mut self) -> u32 {
        match self.below(8) {
            0..=3 => self.below(4) as u32,
            4 => [0x98_0900, 0x9a_0901, 0x8000_0000, 0x98_0001][self.below(4) as usize],
            5 => [640, 480, 160, 120, 0x5659_5559, 30][self.below(6) as usize],
            6 => Memory::BASE as u32,
            _ => self.next() as u32,
        }
    }
}

/// All commands that the driver knows: direction, number, size.
const KNOWN: [(u32, u32, u32); 39] = [
    (2, 0, 104),
    (3, 2, 64),
    (3, 4, 208),
    (3, 5, 208),
    (3, 8, 20),
    (3, 9, 88),
    (3, 15, 88),
    (3, 17, 88),
    (1, 18, 4),
    (1, 19, 4),
    (3, 21, 204),
    (3, 22, 204),
    (3, 26, 80),
    (3, 27, 8),
    (3, 28, 8),
    (3, 36, 68),
    (3, 37, 44),
    (2, 38, 4),
    (3, 39, 4),
    (3, 58, 44),
    (3, 59, 20),
    (3, 64, 208),
    (2, 67, 4),
    (1, 68, 4),
    (3, 71, 32),
    (3, 72, 32),
    (3, 73, 32),
    (3, 74, 44),
    (3, 75, 52),
    (2, 89, 136),
    (1, 90, 32),
    (1, 91, 32),
    (3, 92, 256),
    (3, 93, 88),
    (3, 94, 64),
    (3, 95, 64),
    (3, 16, 64),
    (3, 103, 232),
    (0, 99, 0),
];

#[test]
fn any_call_with_any_argument_is_answered() {
    let host = Host::new();
    for seed in 0..8 {
        let camera = usual_camera(&host);
        let mut random = Random(seed);
        let mut files = vec![open(&camera), open(&camera)];
        for _ in 0..4000 {
            let at = random.below(2) as usize;
            if random.below(200) == 0 {
                files[at] = open(&camera);
            }
            let file = &files[at];
            let (direction, number, size) = KNOWN[random.below(KNOWN.len() as u64) as usize];
            // Short memory: what does not fit is EFAULT.
            let memory = Memory::new(random.below(1024) as usize);
            for word in memory.bytes.borrow_mut().as_chunks_mut().0 {
                *word = random.word().to_ne_bytes();
            }
            let argument = if random.below(50) == 0 { random.next() } else { Memory::BASE };
            let call = Ioctl::new(command(direction, number, size), argument, &memory);
            match camera.ioctl(file, &call) {
                Ok(value) => assert_eq!(value, 0, "seed {seed}: {call:?}", call = call.command()),
                Err(errno) => assert_ne!(errno, Errno::ERESTARTSYS),
            }
            camera.poll(file, &mut NoPoller);
            let page = PageSize::new(4096).expect("a size");
            let first = random.below(64);
            let pages = 1 + random.below(16);
            let area = NewArea::new(page, first, pages, Protection::READ_WRITE, Sharing::Shared);
            if let Ok(plan) = camera.mmap(file, &area.expect("an area")) {
                let checked = plan.validate(&area.expect("an area"), devmap_driver::Memory::pages);
                assert_eq!(checked, Ok(()), "seed {seed}");
            }
            if random.below(20) == 0
                && let Ok(user) = UserSlice::new(&memory, Memory::BASE, 512)
            {
                let _ = camera.read(file, &Transfer::new(&memory, user, 0));
            }
        }
        files.clear();
        assert_eq!(stream_one(&camera), Ok(()), "seed {seed}");
    }
}
