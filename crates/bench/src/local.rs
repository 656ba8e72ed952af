//! What clients of the local home's figures do, and their peers: page faults, scans, loads
//! and reads of more than fits in memory.

use std::{
    fs::File,
    hint::black_box,
    io,
    os::fd::AsFd,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use devmap_backend_local::{
    Local, LocalMemory, LocalOptions, LocalPlatform, MapOptions, Mapping, OpenMode,
};
use devmap_devices_host::file;
use devmap_driver::{Device, Errno, Fault, NewArea, NewPage, Open, Plan, Supply};
use devmap_sys::{
    mapping::{self, Order, Protection, Sharing},
    memfd,
};

use crate::client::{MEMORY, Work};

/// What a scan goes through.
const SCANNED: usize = 1 << 30;
/// What is loaded again and again.
const STEADY: usize = 256 << 10;
/// The memory that reads have: of the home, and of the control group.
pub(crate) const GROUP: u64 = 64 << 20;
/// What a process takes besides content.
const OVERHEAD: u64 = 2 << 20;
/// The file that is read: four times as much.
pub(crate) const FILE: u64 = 4 * GROUP;

const PAGE: usize = 4096;
const WORD: usize = size_of::<u64>();

/// A device whose content is at hand.
struct AtHand;

static CONTENT: [u8; PAGE] = [0x5a; PAGE];

impl Device<LocalPlatform> for AtHand {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<LocalMemory>, Errno> {
        Ok(Plan::fault_all(area))
    }

    fn fault(
        &self,
        _file: &(),
        _fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<LocalMemory>, Errno> {
        page.bytes()?.copy_from_slice(&CONTENT);
        Ok(Supply::Filled)
    }
}

fn at_hand(home: &Local, len: usize) -> io::Result<Mapping> {
    let file = home.add("at-hand", AtHand)?.open(OpenMode::ReadOnly)?;
    Ok(file.map(&MapOptions::new().len(len as u64))?)
}

/// Who serves a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    InThread,
    ByHandler,
}

/// Loads from pages that are not there; their going takes no part.
pub(crate) fn fault(served: Served) -> io::Result<Work> {
    let home = Local::new()?;
    let map = at_hand(&home, MEMORY)?;
    batches(move |pages| {
        map.evict(0..MEMORY)?;
        let started = Instant::now();
        for page in 0..pages {
            match served {
                Served::InThread => black_box(map.load::<u64>(scattered(page) * PAGE)?),
                Served::ByHandler => black_box(map.load_plain::<u64>(scattered(page) * PAGE)),
            };
        }
        Ok(started.elapsed())
    })
}

/// The same of a file.
pub(crate) fn fault_of_file(path: &Path) -> io::Result<Work> {
    let file = File::open(path)?;
    batches(move |pages| {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        let map =
            mapping::Mapping::new(file.as_fd(), 0, MEMORY, Protection::Read, Sharing::Shared)?;
        map.advise(Order::Random)?;
        let started = Instant::now();
        for page in 0..pages {
            black_box(load(&map, scattered(page) * PAGE)?);
        }
        Ok(started.elapsed())
    })
}

/// All pages of [`MEMORY`], none beside the one before.
fn scattered(page: usize) -> usize {
    page * 197 % (MEMORY / PAGE)
}

fn load(map: &mapping::Mapping, at: usize) -> io::Result<[u8; 8]> {
    let mut word = [0; 8];
    map.read(at, &mut word)?;
    Ok(word)
}

/// So many pages in batches of at most [`MEMORY`].
fn batches(mut batch: impl FnMut(usize) -> io::Result<Duration> + 'static) -> io::Result<Work> {
    Ok(Box::new(move |mut times| {
        let mut took = Duration::ZERO;
        while times > 0 {
            let pages = times.min((MEMORY / PAGE) as u64);
            took += batch(pages as usize)?;
            times -= pages;
        }
        Ok(took)
    }))
}

/// Loads from each page of a fresh map, whose pages are cached.
pub(crate) fn scan() -> io::Result<Work> {
    let home = Local::new()?;
    let file = home.add("at-hand", AtHand)?.open(OpenMode::ReadOnly)?;
    let options = MapOptions::new().len(SCANNED as u64);
    let keeper = file.map(&options)?;
    keeper.populate(0..SCANNED)?;
    scans(move || {
        // It keeps the pages.
        let _ = &keeper;
        let map = file.map(&options)?;
        Ok(Box::new(move |at| {
            black_box(map.load_plain::<u64>(at));
            Ok(())
        }))
    })
}

/// The same of a memfd that is full.
pub(crate) fn scan_of_memfd() -> io::Result<Work> {
    let memory = memfd::create("devmap-bench", SCANNED as u64)?;
    let map = move |protection| {
        mapping::Mapping::new(memory.as_fd(), 0, SCANNED, protection, Sharing::Shared)
    };
    map(Protection::ReadWrite)?.fill(1)?;
    scans(move || {
        let map = map(Protection::Read)?;
        Ok(Box::new(move |at| {
            black_box(load(&map, at)?);
            Ok(())
        }))
    })
}

type Touch = Box<dyn Fn(usize) -> io::Result<()>>;

fn scans(fresh: impl Fn() -> io::Result<Touch> + 'static) -> io::Result<Work> {
    Ok(Box::new(move |mut times| {
        let mut took = Duration::ZERO;
        while times > 0 {
            let pages = times.min((SCANNED / PAGE) as u64);
            let touch = fresh()?;
            let started = Instant::now();
            for page in 0..pages as usize {
                touch(page * PAGE)?;
            }
            took += started.elapsed();
            times -= pages;
        }
        Ok(took)
    }))
}

/// Checked loads of every word of resident pages. Four a turn, here and in the peer: a loop of
/// one plain load takes one cycle or two, by where the linker has put it.
pub(crate) fn loads() -> io::Result<Work> {
    let home = Local::new()?;
    let map = at_hand(&home, STEADY)?;
    map.populate(0..STEADY)?;
    Ok(Box::new(move |times| {
        let started = Instant::now();
        for _ in 0..times {
            for at in (0..STEADY).step_by(4 * WORD) {
                black_box(map.load::<u64>(at)?);
                black_box(map.load::<u64>(at + WORD)?);
                black_box(map.load::<u64>(at + 2 * WORD)?);
                black_box(map.load::<u64>(at + 3 * WORD)?);
            }
        }
        Ok(started.elapsed())
    }))
}

/// The same of memory that needs no check; each is one instruction.
pub(crate) fn plain_loads() -> io::Result<Work> {
    let words = vec![0x5a5a_u64; STEADY / WORD];
    Ok(Box::new(move |times| {
        let started = Instant::now();
        for _ in 0..times {
            for [first, second, third, fourth] in words.as_chunks::<4>().0 {
                black_box(*first);
                black_box(*second);
                black_box(*third);
                black_box(*fourth);
            }
        }
        Ok(started.elapsed())
    }))
}

fn mapped_file(path: &Path, limit: Option<u64>) -> io::Result<Mapping> {
    let options =
        limit.map_or(LocalOptions::new(), |limit| LocalOptions::new().memory_limit(limit));
    let home = options.build()?;
    let device = file::File::new(home.platform(), &file::Options::read_only(path))
        .map_err(|errno| io::Error::from_raw_os_error(errno.raw()))?;
    Ok(home.add("file", device)?.open(OpenMode::ReadOnly)?.map(&MapOptions::new())?)
}

fn kernel_map(path: &Path, order: Order) -> io::Result<(File, mapping::Mapping)> {
    let file = File::open(path)?;
    let len = file.metadata()?.len() as usize;
    let map = mapping::Mapping::new(file.as_fd(), 0, len, Protection::Read, Sharing::Shared)?;
    map.advise(order)?;
    Ok((file, map))
}

/// Reads of 4 KiB anywhere in a file, of which a quarter fits.
pub(crate) fn random(path: &Path, threads: usize) -> io::Result<Work> {
    let map = mapped_file(path, Some(GROUP - OVERHEAD))?;
    let len = map.len();
    reads(len, threads, move |at, into| Ok(map.read_at(at, into)?))
}

/// The same of the kernel's map.
pub(crate) fn random_of_kernel(path: &Path, threads: usize) -> io::Result<Work> {
    let (_, map) = kernel_map(path, Order::Random)?;
    let len = map.len();
    reads(len, threads, move |at, into| map.read(at, into))
}

fn reads(
    len: usize,
    threads: usize,
    read: impl Fn(usize, &mut [u8]) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<Work> {
    let read = Arc::new(read);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut run = move |times: u64| {
        seed = seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(1);
        let seed = seed;
        thread::scope(|scope| {
            let reader = |number: u64| {
                let read = read.clone();
                move || {
                    let mut state = seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let mut into = [0; PAGE];
                    for _ in 0..times / threads as u64 {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        read(state as usize % (len / PAGE) * PAGE, &mut into)?;
                        black_box(&into);
                    }
                    io::Result::Ok(())
                }
            };
            let started = Instant::now();
            let workers: Vec<_> = (0..threads as u64).map(|n| scope.spawn(reader(n))).collect();
            for worker in workers {
                worker.join().map_err(|_| io::Error::other("a reader panicked"))??;
            }
            Ok(started.elapsed())
        })
    };
    // Until memory is full.
    run(2 * GROUP / PAGE as u64)?;
    Ok(Box::new(run))
}

/// A word of each page of a file that is not in memory, in order. No side has a limit.
pub(crate) fn sequential(path: &Path) -> io::Result<Work> {
    let path = path.to_owned();
    scan_file(path.clone(), move || {
        let map = mapped_file(&path, None)?;
        Ok(Box::new(move |at| {
            black_box(map.load::<u64>(at)?);
            Ok(())
        }))
    })
}

/// The same of the kernel's map.
pub(crate) fn sequential_of_kernel(path: &Path) -> io::Result<Work> {
    let path = path.to_owned();
    scan_file(path.clone(), move || {
        let (_, map) = kernel_map(&path, Order::Sequential)?;
        Ok(Box::new(move |at| {
            black_box(load(&map, at)?);
            Ok(())
        }))
    })
}

fn scan_file(
    path: std::path::PathBuf,
    fresh: impl Fn() -> io::Result<Touch> + 'static,
) -> io::Result<Work> {
    let file = File::open(path)?;
    let len = file.metadata()?.len() as usize;
    Ok(Box::new(move |times| {
        let mut took = Duration::ZERO;
        for _ in 0..times {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            let touch = fresh()?;
            let started = Instant::now();
            for at in (0..len).step_by(PAGE) {
                touch(at)?;
            }
            took += started.elapsed();
        }
        Ok(took)
    }))
}

/// The most bytes of memory that the pages of a file take while it is read at random, as
/// the kernel counts them, with a limit of [`GROUP`].
pub(crate) fn held_most(path: &Path) -> io::Result<u64> {
    let map = mapped_file(path, Some(GROUP))?;
    let (mut state, mut most) = (0x2545_f491_4f6c_dd1d_u64, 0);
    let pages = (map.len() / PAGE) as u64;
    for number in 0..2 * GROUP / PAGE as u64 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        black_box(map.load::<u64>((state % pages) as usize * PAGE)?);
        if number % 64 == 0 {
            most = most.max(map.held_bytes()?);
        }
    }
    Ok(most)
}
