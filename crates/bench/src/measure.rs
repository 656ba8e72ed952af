//! How a figure is measured: which two clients, how often, in which order.

use std::{
    ffi::OsString,
    fs, io,
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    Figure, Mode,
    client::Workload,
    programs,
    side::{EVENTS_PATH, MEMORY_PATH, Side, under_devmap},
};

/// How long the quicker side's turn should take: long beside the clock's and the pipe's
/// cost, short beside what other work on the machine lasts.
const TURN: Duration = Duration::from_millis(4);

/// One turn of each side, in nanoseconds for each repetition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) devmap: f64,
    pub(crate) peer: f64,
}

/// What all measurements share.
pub(crate) struct Bench {
    rounds: u32,
    directory: TempDir,
}

/// Rounds of whole programs, when there are `rounds` of a single call.
pub(crate) fn program_rounds(rounds: u32) -> u32 {
    (rounds / 5).max(3)
}

impl Bench {
    pub(crate) fn new(rounds: u32) -> io::Result<Bench> {
        let directory = TempDir::with_prefix("devmap-bench-")?;
        fs::write(directory.path().join("file"), "one line\n")?;
        Ok(Bench { rounds, directory })
    }

    /// The rounds of a figure, or why there are none.
    pub(crate) fn measure(&self, figure: Figure, mode: Mode) -> Result<Vec<Round>, String> {
        let measured = match figure {
            Figure::Loads => self.memory(mode, Workload::Loads),
            Figure::Stores => self.memory(mode, Workload::Stores),
            Figure::TouchLoad => self.memory(mode, Workload::TouchLoad),
            Figure::TouchStore => self.memory(mode, Workload::TouchStore),
            Figure::Map => self.memory(mode, Workload::Map),
            Figure::Ioctl => self.ioctl(mode),
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
            Figure::RunFind => self.whole_run(mode, &programs::find()),
            Figure::RunGit => {
                programs::git(&self.directory).and_then(|line| self.whole_run(mode, &line))
            }
            Figure::RunGcc => {
                programs::gcc(self.directory.path()).and_then(|line| self.whole_run(mode, &line))
            }
            Figure::RunTrue => self.whole_run(mode, &["true".into()]),
        };
        measured.map_err(|error| error.to_string())
    }

    /// A device's memory against a memfd.
    fn memory(&self, mode: Mode, workload: Workload) -> io::Result<Vec<Round>> {
        let devmap = Side::start(Some(mode), workload, &file(MEMORY_PATH))?;
        self.take_turns(devmap, Side::start(None, workload, &[])?)
    }

    /// A device against a file of a bare FUSE server.
    fn ioctl(&self, mode: Mode) -> io::Result<Vec<Round>> {
        let devmap = Side::start(Some(mode), Workload::Ioctl, &file(EVENTS_PATH))?;
        let server = Side::start(None, Workload::ServeFuse, &[])?;
        let peer = Side::start(None, Workload::Ioctl, &file(server.greeting()))?;
        self.take_turns(devmap, peer)
    }

    /// The same, with devmap and without.
    fn same(
        &self,
        mode: Mode,
        workload: Workload,
        arguments: &[OsString],
    ) -> io::Result<Vec<Round>> {
        let devmap = Side::start(Some(mode), workload, arguments)?;
        self.take_turns(devmap, Side::start(None, workload, arguments)?)
    }

    /// A program, started by a process that devmap serves already, and by one without.
    fn program(&self, mode: Mode, line: Vec<OsString>) -> io::Result<Vec<Round>> {
        let mut arguments = vec!["--".into()];
        arguments.extend(line);
        let mut devmap = Side::start(Some(mode), Workload::Program, &arguments)?;
        let mut peer = Side::start(None, Workload::Program, &arguments)?;
        alternate(program_rounds(self.rounds), 1, |side| match side {
            Turn::Devmap => devmap.take_turn(1),
            Turn::Peer => peer.take_turn(1),
        })
    }

    /// All of `devmap run` against the program alone.
    fn whole_run(&self, mode: Mode, line: &[OsString]) -> io::Result<Vec<Round>> {
        let mut run = under_devmap(mode)?;
        run.extend_from_slice(line);
        let (mut devmap, mut peer) = (programs::quiet(&run), programs::quiet(line));
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

    fn take_turns(&self, mut devmap: Side, mut peer: Side) -> io::Result<Vec<Round>> {
        let mut times = 1;
        while peer.take_turn(times)?.min(devmap.take_turn(times)?) < TURN.as_nanos() as u64 {
            times *= 2;
        }
        alternate(self.rounds, times, |side| match side {
            Turn::Devmap => devmap.take_turn(times),
            Turn::Peer => peer.take_turn(times),
        })
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
