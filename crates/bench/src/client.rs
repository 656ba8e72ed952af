//! The program that is measured: does one thing as often as it is told, and says how
//! long that took. It knows nothing of devmap, only of paths.
//!
//! It talks by lines: `ready TYPE` (the type of the file system of /dev) when it is set
//! up, then for each number on its input that many repetitions, and the nanoseconds they
//! took on its output. It ends with its input.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    hint::black_box,
    io::{self, BufRead, BufReader, Write},
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use devmap_sys::{
    descriptor,
    mapping::{Mapping, Protection, Sharing},
    memfd,
};
use rustix::fs::{CWD, Mode, OFlags};

use crate::{
    camera, engine,
    faulted::{self, Touch},
    local, machine,
};

/// The memory that is mapped, in bytes: what the device must have.
pub(crate) const MEMORY: usize = 2 << 20;
/// What [`Workload::Loads`] and [`Workload::Stores`] go through.
const STEADY: usize = 256 << 10;
/// What [`Workload::Map`] maps.
const MAPPED: usize = 64 << 10;

/// The program that `devmap bench` runs
#[derive(Clone, Debug, Args)]
pub struct ClientOptions {
    /// What to do
    #[arg(value_enum)]
    workload: Workload,
    /// The file to do it to; without it, a memfd
    #[arg(long)]
    file: Option<PathBuf>,
    /// How many processes share the work, at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    clients: u64,
    /// The processor to run on
    #[arg(long)]
    processor: Option<usize>,
    /// The control group to be in, by its directory
    #[arg(long)]
    group: Option<PathBuf>,
    /// Areas that are there
    #[arg(long, default_value_t = 10)]
    areas: u64,
    /// Threads that read
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The program to run
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// What is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Load every word of a mapping
    Loads,
    /// Store every word of a mapping
    Stores,
    /// Load from a page for the first time
    TouchLoad,
    /// Store to a page for the first time
    TouchStore,
    /// Call ioctl
    Ioctl,
    /// Map and unmap
    Map,
    /// Load from a page that is not there
    Fault,
    /// Load from pages that are not there, in their order
    Scan,
    /// The same of memory that is filled before
    ScanFilled,
    /// Store to pages, and call msync
    Msync,
    /// Call getpid
    Getpid,
    /// Read a byte
    Read,
    /// Write a byte
    Write,
    /// Open and close
    Open,
    /// Call stat
    Stat,
    /// Run a program to its end
    Program,
    /// Load from a page of the local home that is not there, served by this thread
    LocalFault,
    /// The same, served by a handler thread
    LocalHandler,
    /// Load from a page of a file that is not there
    FileFault,
    /// Load from each page of a fresh map of the local home, cached
    LocalScan,
    /// Load from each page of a fresh map of a memfd, filled
    MemfdScan,
    /// Load every word of a mapping of the local home, checked
    LocalLoads,
    /// Load every word of memory that needs no check
    PlainLoads,
    /// Read anywhere in a file by the local home
    LocalRandom,
    /// Read anywhere in a file by the kernel's map
    KernelRandom,
    /// Load from each page of a file by the local home
    LocalSequential,
    /// Load from each page of a file by the kernel's map
    KernelSequential,
    /// Map and unmap a page in the memory engine
    EngineMap,
    /// Map and unmap a page by system calls
    SystemMap,
    /// Look for an area in the memory engine
    EngineFind,
    /// Look for an area in a map of the standard library
    TreeFind,
    /// Serve the FUSE file that the ioctl and faults are compared with
    ServeFuse,
    /// Take finished frames of 1920x1080 from a camera
    LargeFrames,
    /// The same, of a picture in which each line differs from the next
    LargePictures,
    /// Copy as many bytes as such a frame has
    Memcpy,
    /// Take frames of 640x480 from a camera
    SmallFrames,
    /// Read the same frames from a pipe
    PipedFrames,
    /// How unevenly frames come
    FrameSpread,
    /// How unevenly a timer fires
    TimerSpread,
    /// Draw frames of the size in --file, and write them to the output for ever
    MakeFrames,
}

impl Workload {
    /// As the command line calls it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl ClientOptions {
    /// Is the client, until its input ends.
    ///
    /// # Errors
    /// Those of what is measured, told as a line `error ...` too, and of the output.
    pub fn run(self) -> io::Result<ExitCode> {
        if self.workload == Workload::ServeFuse {
            crate::peer_fuse::serve()?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.workload == Workload::MakeFrames {
            camera::make(&self.file.unwrap_or_default())?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = io::stdout();
        let processor = self.processor;
        let mut work = match self.prepare_all() {
            Ok(work) => work,
            Err(error) => {
                writeln!(out, "error {error}")?;
                return Ok(ExitCode::FAILURE);
            }
        };
        // Not before: who serves it may be of its making.
        if let Some(processor) = processor {
            machine::pin_to(processor)?;
        }
        writeln!(out, "ready {:x}", rustix::fs::statfs("/dev")?.f_type)?;
        for line in io::stdin().lock().lines() {
            let times = line?.parse().map_err(io::Error::other)?;
            match work(times) {
                Ok(took) => writeln!(out, "{}", took.as_nanos())?,
                Err(error) => {
                    writeln!(out, "error {error}")?;
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The work of this process, and of others beside it.
    fn prepare_all(self) -> io::Result<Work> {
        let others = (1..self.clients).map(|_| Other::start(&self));
        let mut others = others.collect::<io::Result<Vec<_>>>()?;
        let clients = self.clients;
        let mut own = self.prepare()?;
        if others.is_empty() {
            return Ok(own);
        }
        Ok(Box::new(move |times| {
            let share = times.div_ceil(clients);
            let started = Instant::now();
            others.iter_mut().try_for_each(|other| writeln!(other.turn, "{share}"))?;
            own(share)?;
            others.iter_mut().try_for_each(|other| other.hear().map(drop))?;
            Ok(started.elapsed())
        }))
    }

    fn prepare(self) -> io::Result<Work> {
        let path = self.file.clone().unwrap_or_default();
        if let Some(group) = &self.group {
            fs::write(group.join("cgroup.procs"), "0")?;
        }
        match self.workload {
            Workload::Loads => {
                let map = map(&self.memory()?, STEADY)?;
                repeat(move || {
                    black_box(map.sum());
                    Ok(())
                })
            }
            Workload::Stores => {
                let map = map(&self.memory()?, STEADY)?;
                let mut word = 0;
                repeat(move || {
                    word += 1;
                    map.fill(word)
                })
            }
            Workload::TouchLoad => touch(self.memory()?, |map, page| {
                let mut word = [0; 8];
                map.read(page, &mut word)?;
                black_box(word);
                Ok(())
            }),
            Workload::TouchStore => touch(self.memory()?, |map, page| map.write(page, &[1; 8])),
            Workload::Ioctl => {
                let file = open(&path)?;
                let mut bytes = [0x5a; 88];
                descriptor::invert(file.as_fd(), &mut bytes)?;
                if bytes != [!0x5a; 88] {
                    return Err(io::Error::other("the ioctl did not invert"));
                }
                repeat(move || descriptor::invert(file.as_fd(), &mut bytes).map(drop))
            }
            Workload::Map => {
                let memory = self.memory()?;
                repeat(move || map(&memory, MAPPED).map(drop))
            }
            Workload::Fault => faulted::pages(&path, Touch::Scattered),
            Workload::Scan => faulted::pages(&path, Touch::InOrder),
            Workload::ScanFilled => faulted::filled_before(),
            Workload::Msync => faulted::pages(&path, Touch::Written),
            Workload::Getpid => repeat(|| {
                black_box(rustix::process::getpid());
                Ok(())
            }),
            Workload::Read => {
                let file = open(&path)?;
                repeat(move || file.read_exact_at(&mut [0], 0))
            }
            Workload::Write => {
                let file = open(&path)?;
                repeat(move || rustix::io::write(&file, &[0]).map(drop).map_err(Into::into))
            }
            Workload::Open => {
                let path = plain(&path)?;
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                repeat(move || {
                    // openat(2), as C libraries do.
                    drop(rustix::fs::openat(CWD, &*path, flags, Mode::empty())?);
                    Ok(())
                })
            }
            Workload::Stat => {
                let path = plain(&path)?;
                repeat(move || {
                    black_box(rustix::fs::stat(&*path)?);
                    Ok(())
                })
            }
            Workload::Program => {
                let [program, args @ ..] = &*self.command else {
                    return Err(io::Error::other("no program"));
                };
                let mut command = Command::new(program);
                command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
                repeat(move || crate::programs::finish(&mut command))
            }
            Workload::EngineMap => engine::map(self.areas),
            Workload::SystemMap => engine::map_by_calls(self.areas),
            Workload::EngineFind => engine::find(self.areas),
            Workload::TreeFind => engine::find_in_tree(self.areas),
            Workload::LocalFault => local::fault(local::Served::InThread),
            Workload::LocalHandler => local::fault(local::Served::ByHandler),
            Workload::FileFault => local::fault_of_file(&path),
            Workload::LocalScan => local::scan(),
            Workload::MemfdScan => local::scan_of_memfd(),
            Workload::LocalLoads => local::loads(),
            Workload::PlainLoads => local::plain_loads(),
            Workload::LocalRandom => local::random(&path, self.threads),
            Workload::KernelRandom => local::random_of_kernel(&path, self.threads),
            Workload::LocalSequential => local::sequential(&path),
            Workload::KernelSequential => local::sequential_of_kernel(&path),
            Workload::LargeFrames | Workload::LargePictures => camera::taken(&path, camera::LARGE),
            Workload::Memcpy => repeat(camera::memcpy()?),
            Workload::SmallFrames => camera::taken(&path, camera::SMALL),
            Workload::PipedFrames => repeat(camera::piped()?),
            Workload::FrameSpread => {
                let mut camera = camera::start(&path, camera::SMALL)?;
                Ok(Box::new(move |frames| camera::spread(frames, || camera.next_frame())))
            }
            Workload::TimerSpread => {
                let mut next = camera::timer()?;
                Ok(Box::new(move |frames| camera::spread(frames, &mut next)))
            }
            Workload::ServeFuse | Workload::MakeFrames => {
                Err(io::Error::other("does not take turns"))
            }
        }
    }

    /// The file, or a memfd of which all pages are there, as a device's are.
    fn memory(&self) -> io::Result<File> {
        match &self.file {
            Some(path) => open(path),
            None => {
                let memory = memfd::create("devmap-bench", MEMORY as u64)?;
                map(&memory, MEMORY)?.fill(1)?;
                Ok(memory.into())
            }
        }
    }
}

/// Another process that does the same.
struct Other {
    turn: ChildStdin,
    result: BufReader<ChildStdout>,
    /// Ends with its input.
    _child: Child,
}

impl Other {
    fn start(options: &ClientOptions) -> io::Result<Other> {
        let line = command()?;
        let file = options.file.clone().ok_or(io::ErrorKind::InvalidInput)?;
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .arg(options.workload.name())
            .args(["--file".into(), file])
            .args(options.processor.map(|processor| format!("--processor={processor}")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let turn = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let result = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let mut other = Other { turn, result, _child: child };
        other.hear()?;
        Ok(other)
    }

    /// Its next line, which is no error.
    fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.result.read_line(&mut line)?;
        if line.is_empty() || line.starts_with("error ") {
            return Err(io::Error::other(format!("another process: {}", line.trim_end())));
        }
        Ok(line)
    }
}

/// Repeats so many times, and says how long it took.
pub(crate) type Work = Box<dyn FnMut(u64) -> io::Result<Duration>>;

fn repeat(mut once: impl FnMut() -> io::Result<()> + 'static) -> io::Result<Work> {
    Ok(Box::new(move |times| {
        let started = Instant::now();
        for _ in 0..times {
            once()?;
        }
        Ok(started.elapsed())
    }))
}

/// Touches pages of fresh mappings; making and dropping those takes no part.
fn touch(memory: File, once: fn(&Mapping, usize) -> io::Result<()>) -> io::Result<Work> {
    let page = rustix::param::page_size();
    Ok(Box::new(move |mut times| {
        let mut took = Duration::ZERO;
        while times > 0 {
            let map = map(&memory, MEMORY)?;
            let pages = times.min((MEMORY / page) as u64);
            let started = Instant::now();
            for at in 0..pages as usize {
                once(&map, at * page)?;
            }
            took += started.elapsed();
            times -= pages;
        }
        Ok(took)
    }))
}

fn map(memory: &impl AsFd, len: usize) -> io::Result<Mapping> {
    Mapping::new(memory.as_fd(), 0, len, Protection::ReadWrite, Sharing::Shared)
}

pub(crate) fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|error| io::Error::other(format!("cannot open {}: {error}", path.display())))
}

/// A path as the kernel takes it, of a file that is there.
fn plain(path: &Path) -> io::Result<std::ffi::CString> {
    fs::metadata(path)?;
    std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other)
}

/// This very command, to be run as a client.
pub(crate) fn command() -> io::Result<Vec<OsString>> {
    Ok(vec![env::current_exe()?.into(), "bench-client".into()])
}
