//! How a figure is measured: which two clients, how often, in which order.

use std::{
    ffi::OsString,
    fs, io,
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    Figure, Mode, camera,
    client::Workload,
    group::Group,
    local, programs,
    side::{CAMERA_PATH, EVENTS_PATH, FAULTED_PATH, MEMORY_PATH, Side, under_devmap},
};

/// How long the quicker side's turn should take: long beside the clock's and the pipe's
/// cost, short beside what other work on the machine lasts.
const TURN: Duration = Duration::from_millis(4);
/// The same, of frames: the buffers of a side fill the processor's cache, and whose turn it is
/// finds there what was used last.
const TURN_OF_FRAMES: Duration = Duration::from_millis(50);

/// How many pairs of processes share the rounds of a figure: which pages of the machine's
/// memory a process gets stays with it, and is felt.
const PAIRS: u32 = 5;

/// Reads of a file in a turn.
const READS: u64 = 400;

/// One turn of each side, in nanoseconds for each repetition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) devmap: f64,
    pub(crate) peer: f64,
}

/// Rounds of what takes seconds, at most.
const MOST_RECORDINGS: u32 = 5;

/// What all measurements share.
pub(crate) struct Bench {
    rounds: u32,
    directory: TempDir,
    /// Where clients run, if not where all else does.
    processor: Option<usize>,
}

/// Rounds of whole programs, when there are `rounds` of a single call.
pub(crate) fn program_rounds(rounds: u32) -> u32 {
    (rounds / 5).max(3)
}

impl Bench {
    pub(crate) fn new(rounds: u32, processor: Option<usize>) -> io::Result<Bench> {
        let directory = TempDir::with_prefix("devmap-bench-")?;
        fs::write(directory.path().join("file"), "one line\n")?;
        Ok(Bench { rounds, directory, processor })
    }

    /// The rounds of a figure, or why there are none.
    pub(crate) fn measure(&self, figure: Figure, mode: Mode) -> Result<Vec<Round>, String> {
        let measured = match figure {
            Figure::Loads => self.memory(mode, Workload::Loads),
            Figure::Stores => self.memory(mode, Workload::Stores),
            Figure::TouchLoad => self.memory(mode, Workload::TouchLoad),
            Figure::TouchStore => self.memory(mode, Workload::TouchStore),
            Figure::Map => self.memory(mode, Workload::Map),
            Figure::Ioctl => self.ioctl(mode, 1),
            Figure::Ioctl2 => self.ioctl(mode, 2),
            Figure::Ioctl8 => self.ioctl(mode, 8),
            Figure::Fault => self.faulted(mode, Workload::Fault),
            Figure::Scan => self.faulted(mode, Workload::Scan),
            Figure::ScanFilled => self.take_turns(|| {
                let devmap = Side::start(Some(mode), Workload::Scan, &file(FAULTED_PATH))?;
                let peer = Side::start(None, Workload::ScanFilled, &[])?;
                Ok(Pair { devmap, peer, server: None })
            }),
            Figure::Msync => self.faulted(mode, Workload::Msync),
            Figure::Getpid => self.same(mode, Workload::Getpid, &[]),
            Figure::Read => self.same(mode, Workload::Read, &file("/dev/zero")),
            Figure::Write => self.same(mode, Workload::Write, &file("/dev/null")),
            Figure::Open => {
                self.same(mode, Workload::Open, &file(self.directory.path().join("file")))
            }
            Figure::Stat => {
                self.same(mode, Workload::Stat, &file(self.directory.path().join("file")))
            }
            Figure::Find => self.program(mode, programs::find()),
            Figure::Git => programs::git(&self.directory).and_then(|line| self.program(mode, line)),
            Figure::Gcc => {
                programs::gcc(self.directory.path()).and_then(|line| self.program(mode, line))
            }
            Figure::RunFind => self.whole_run(mode, &programs::find(), &[]),
            Figure::RunGit => {
                programs::git(&self.directory).and_then(|line| self.whole_run(mode, &line, &[]))
            }
            Figure::RunGcc => programs::gcc(self.directory.path())
                .and_then(|line| self.whole_run(mode, &line, &[])),
            Figure::RunTrue => self.whole_run(mode, &["true".into()], &[]),
            Figure::RunTrueStrace => {
                let strace = ["strace", "-f", "-o", "/dev/null"].map(OsString::from);
                self.whole_run(mode, &["true".into()], &strace)
            }
            Figure::LocalFault => self.against_fuse(Workload::LocalFault),
            Figure::LocalHandler => self.against_fuse(Workload::LocalHandler),
            Figure::LocalScan => self.native(Workload::LocalScan, Workload::MemfdScan),
            Figure::LocalLoads => self.native(Workload::LocalLoads, Workload::PlainLoads),
            Figure::LocalRandom => self.random(1),
            Figure::LocalRandom4 => self.random(4),
            Figure::LocalSequential => self.sequential(),
            Figure::LocalHeld => self.held(),
            Figure::EngineMap10 => self.among(10, Workload::EngineMap, Workload::SystemMap),
            Figure::EngineMap1000 => self.among(1000, Workload::EngineMap, Workload::SystemMap),
            Figure::EngineMap60000 => self.among(60_000, Workload::EngineMap, Workload::SystemMap),
            Figure::EngineFind => self.among(60_000, Workload::EngineFind, Workload::TreeFind),
            Figure::CameraFrame => self.camera(mode, Workload::LargeFrames, Workload::Memcpy),
            Figure::CameraPicture => self.camera(mode, Workload::LargePictures, Workload::Memcpy),
            Figure::CameraStream => self.camera(mode, Workload::SmallFrames, Workload::PipedFrames),
            Figure::CameraFfmpeg => self.recording(mode),
            Figure::CameraSpread => self.spread(mode),
        };
        measured.map_err(|error| error.to_string())
    }

    /// Arguments of a client of a file.
    fn client_on(&self, path: &str) -> Vec<OsString> {
        [file(path).to_vec(), self.on_processor()].concat()
    }

    /// Arguments of a client: where it runs.
    fn on_processor(&self) -> Vec<OsString> {
        let argument = |processor: usize| ["--processor".into(), processor.to_string().into()];
        self.processor.map(argument).into_iter().flatten().collect()
    }

    /// A device's memory against a memfd.
    fn memory(&self, mode: Mode, workload: Workload) -> io::Result<Vec<Round>> {
        self.take_turns(|| {
            let devmap = Side::start(Some(mode), workload, &file(MEMORY_PATH))?;
            Ok(Pair { devmap, peer: Side::start(None, workload, &[])?, server: None })
        })
    }

    /// A device against a file of a bare FUSE server, each with so many clients.
    fn ioctl(&self, mode: Mode, clients: u32) -> io::Result<Vec<Round>> {
        let clients = ["--clients".into(), clients.to_string().into()];
        let on = |path: &str| [self.client_on(path), clients.to_vec()].concat();
        self.take_turns(|| {
            let devmap = Side::start(Some(mode), Workload::Ioctl, &on(EVENTS_PATH))?;
            let server = Side::start(None, Workload::ServeFuse, &[])?;
            let peer = Side::start(None, Workload::Ioctl, &on(server.greeting()))?;
            Ok(Pair { devmap, peer, server: Some(server) })
        })
    }

    /// Faulted pages of a device against those of a file of a bare FUSE server.
    fn faulted(&self, mode: Mode, workload: Workload) -> io::Result<Vec<Round>> {
        self.take_turns(|| {
            let devmap = Side::start(Some(mode), workload, &self.client_on(FAULTED_PATH))?;
            let server = Side::start(None, Workload::ServeFuse, &[])?;
            let peer = Side::start(None, workload, &self.client_on(server.greeting()))?;
            Ok(Pair { devmap, peer, server: Some(server) })
        })
    }

    /// The same, with devmap and without.
    fn same(
        &self,
        mode: Mode,
        workload: Workload,
        arguments: &[OsString],
    ) -> io::Result<Vec<Round>> {
        self.take_turns(|| {
            let devmap = Side::start(Some(mode), workload, arguments)?;
            Ok(Pair { devmap, peer: Side::start(None, workload, arguments)?, server: None })
        })
    }

    /// The local home against a page fault of a bare FUSE server's file.
    fn against_fuse(&self, workload: Workload) -> io::Result<Vec<Round>> {
        self.take_turns(|| {
            let devmap = Side::start(None, workload, &[])?;
            let server = Side::start(None, Workload::ServeFuse, &[])?;
            let peer = Side::start(None, Workload::FileFault, &file(server.greeting()))?;
            Ok(Pair { devmap, peer, server: Some(server) })
        })
    }

    /// The local home against what the kernel has.
    fn native(&self, devmap: Workload, peer: Workload) -> io::Result<Vec<Round>> {
        self.take_turns(|| {
            let devmap = Side::start(None, devmap, &[])?;
            Ok(Pair { devmap, peer: Side::start(None, peer, &[])?, server: None })
        })
    }

    /// The memory engine against its peer, with so many areas.
    fn among(&self, areas: u64, devmap: Workload, peer: Workload) -> io::Result<Vec<Round>> {
        let arguments = ["--areas".into(), areas.to_string().into()];
        self.take_turns(|| {
            let devmap = Side::start(None, devmap, &arguments)?;
            Ok(Pair { devmap, peer: Side::start(None, peer, &arguments)?, server: None })
        })
    }

    /// A file on a disk, nothing of which is in memory.
    fn file_on_disk(&self, name: &str) -> io::Result<OsString> {
        let path = self.directory.path().join(name);
        if !path.exists() {
            let mut file = fs::File::create(&path)?;
            let mut block = vec![0; 1 << 20];
            for number in 0..local::FILE >> 20 {
                block.fill(number as u8);
                io::Write::write_all(&mut file, &block)?;
            }
            file.sync_all()?;
        }
        rustix::fs::fadvise(fs::File::open(&path)?, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(path.into())
    }

    /// Reads of more than fits, each side in a control group of the same memory.
    fn random(&self, threads: usize) -> io::Result<Vec<Round>> {
        let groups = [Group::new("devmap")?, Group::new("peer")?];
        // Each its own file: what one has in memory is no help to the other.
        let start = |workload, group: &Group, name| {
            let path = self.file_on_disk(name)?;
            let mut arguments = vec!["--file".into(), path, "--threads".into()];
            arguments.extend([threads.to_string().into(), "--group".into(), group.path().into()]);
            Side::start(None, workload, &arguments)
        };
        let devmap = start(Workload::LocalRandom, &groups[0], "content")?;
        let peer = start(Workload::KernelRandom, &groups[1], "copy")?;
        let mut pair = Pair { devmap, peer, server: None };
        alternate(self.rounds, READS, |side| pair.take_turn(side, READS))
    }

    /// Scans of a file that is not in memory.
    fn sequential(&self) -> io::Result<Vec<Round>> {
        let arguments = file(self.file_on_disk("content")?);
        let devmap = Side::start(None, Workload::LocalSequential, &arguments)?;
        let peer = Side::start(None, Workload::KernelSequential, &arguments)?;
        let mut pair = Pair { devmap, peer, server: None };
        alternate(program_rounds(self.rounds), 1, |side| pair.take_turn(side, 1))
    }

    /// The most bytes that are held while a file is read at random, as the kernel counts
    /// them, beside the limit.
    fn held(&self) -> io::Result<Vec<Round>> {
        let path = self.file_on_disk("content")?;
        let round = |_| {
            let devmap = local::held_most(path.as_ref())?;
            Ok(Round { devmap: devmap as f64, peer: local::GROUP as f64 })
        };
        (0..program_rounds(self.rounds)).map(round).collect()
    }

    /// A camera against what gives the same frames otherwise.
    fn camera(&self, mode: Mode, taken: Workload, otherwise: Workload) -> io::Result<Vec<Round>> {
        self.take_turns_of(TURN_OF_FRAMES, || {
            let devmap = Side::start(Some(mode), taken, &self.client_on(CAMERA_PATH))?;
            let peer = Side::start(None, otherwise, &self.on_processor())?;
            Ok(Pair { devmap, peer, server: None })
        })
    }

    /// The processor's time for each frame that ffmpeg records, of all processes together.
    fn recording(&self, mode: Mode) -> io::Result<Vec<Round>> {
        let [mut devmap, mut peer] = camera::recordings(mode)?;
        alternate(program_rounds(self.rounds).min(MOST_RECORDINGS), camera::RECORDED, |side| {
            camera::time_of_frames(match side {
                Turn::Devmap => &mut devmap,
                Turn::Peer => &mut peer,
            })
        })
    }

    /// A camera and a timer, both at once.
    fn spread(&self, mode: Mode) -> io::Result<Vec<Round>> {
        let mut devmap = Side::start(Some(mode), Workload::FrameSpread, &file(CAMERA_PATH))?;
        let mut peer = Side::start(None, Workload::TimerSpread, &[])?;
        let rounds = program_rounds(self.rounds).min(MOST_RECORDINGS);
        let round = |_| {
            devmap.begin_turn(camera::SPREAD)?;
            peer.begin_turn(camera::SPREAD)?;
            let (devmap, peer) = (devmap.end_turn()?, peer.end_turn()?);
            Ok(Round { devmap: devmap as f64, peer: peer as f64 })
        };
        (0..rounds).map(round).collect()
    }

    /// A program, started by a process that devmap serves already, and by one without.
    fn program(&self, mode: Mode, line: Vec<OsString>) -> io::Result<Vec<Round>> {
        let mut arguments = vec!["--".into()];
        arguments.extend(line);
        let devmap = Side::start(Some(mode), Workload::Program, &arguments)?;
        let peer = Side::start(None, Workload::Program, &arguments)?;
        let mut pair = Pair { devmap, peer, server: None };
        alternate(program_rounds(self.rounds), 1, |side| pair.take_turn(side, 1))
    }

    /// All of `devmap run` against the program under `peer`, which may be nothing.
    fn whole_run(
        &self,
        mode: Mode,
        line: &[OsString],
        peer: &[OsString],
    ) -> io::Result<Vec<Round>> {
        let run = [&under_devmap(mode)?, line].concat();
        let (mut devmap, mut peer) =
            (programs::quiet(&run), programs::quiet(&[peer, line].concat()));
        let time = |command: &mut Command| {
            let started = Instant::now();
            programs::finish(command)?;
            Ok(started.elapsed().as_nanos() as u64)
        };
        alternate(program_rounds(self.rounds), 1, |side| match side {
            Turn::Devmap => time(&mut devmap),
            Turn::Peer => time(&mut peer),
        })
    }

    /// Rounds of the pairs that `start` makes, one pair after the other.
    fn take_turns(&self, start: impl Fn() -> io::Result<Pair>) -> io::Result<Vec<Round>> {
        self.take_turns_of(TURN, start)
    }

    fn take_turns_of(
        &self,
        turn: Duration,
        start: impl Fn() -> io::Result<Pair>,
    ) -> io::Result<Vec<Round>> {
        let mut rounds = Vec::new();
        let pairs = PAIRS.min(self.rounds);
        for number in 0..pairs {
            let mut pair = start()?;
            let mut times = 1;
            while pair.quicker(times)? < turn {
                times *= 2;
            }
            let share = (self.rounds + number) / pairs;
            rounds.extend(alternate(share, times, |side| pair.take_turn(side, times))?);
        }
        Ok(rounds)
    }
}

/// Two clients, and what they need.
struct Pair {
    devmap: Side,
    peer: Side,
    /// The peer's server. Dropped after the peer, which has a file of it open.
    #[expect(dead_code, reason = "it lives as long as the pair")]
    server: Option<Side>,
}

impl Pair {
    fn take_turn(&mut self, side: Turn, times: u64) -> io::Result<u64> {
        match side {
            Turn::Devmap => self.devmap.take_turn(times),
            Turn::Peer => self.peer.take_turn(times),
        }
    }

    fn quicker(&mut self, times: u64) -> io::Result<Duration> {
        let peer = self.take_turn(Turn::Peer, times)?;
        Ok(Duration::from_nanos(peer.min(self.take_turn(Turn::Devmap, times)?)))
    }
}

#[derive(Clone, Copy)]
enum Turn {
    Devmap,
    Peer,
}

/// Rounds of `times` repetitions, each with one turn of both sides; which is first
/// changes from round to round. A first round, which warms caches, is not counted.
fn alternate(
    rounds: u32,
    times: u64,
    mut take: impl FnMut(Turn) -> io::Result<u64>,
) -> io::Result<Vec<Round>> {
    let mut round = |number| {
        let (devmap, peer) = if number % 2 == 0 {
            let devmap = take(Turn::Devmap)?;
            (devmap, take(Turn::Peer)?)
        } else {
            let peer = take(Turn::Peer)?;
            (take(Turn::Devmap)?, peer)
        };
        let each = |nanoseconds| nanoseconds as f64 / times as f64;
        Ok(Round { devmap: each(devmap), peer: each(peer) })
    };
    round(0)?;
    (0..rounds).map(round).collect()
}

fn file(path: impl Into<OsString>) -> [OsString; 2] {
    ["--file".into(), path.into()]
}
