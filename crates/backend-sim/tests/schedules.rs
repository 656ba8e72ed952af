//! The fault path and the page cache under every kind of schedule: shuttle decides which
//! thread goes on at each lock, thousands of times, and prints a schedule that fails so
//! that `shuttle::replay` repeats it.
//!
//! An access is what it is on a processor: a look at the page table, a fault when that does
//! not permit it, and another look, with anything of others in between. The engine stands
//! behind one lock, as in [`devmap_backend_sim::MockKernel`].

// Its threads are stacks that it switches by itself, which Miri does not know.
#![cfg(not(miri))]

use std::sync::Arc;

use devmap_backend_sim::{Failures, Machine, PageFrame};
use devmap_driver::{Access, Errno, Fault, NewArea, NewPage, PageSize, Sharing};
use devmap_mm::{
    Advice, Content, Engine, Fatal, File, FileMode, Layout, Limits, MapRequest, ObjectSpec,
    SpaceId, Store, Supplied, SyncFlags,
};
use shuttle::{
    Config, Runner,
    scheduler::{PctScheduler, RandomScheduler},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

const PAGE: u64 = 4096;
const SCHEDULES: usize = 1000;

/// Runs a model under random schedules, and under such that change threads seldom, where
/// it hurts.
fn explore(model: impl Fn() + Send + Sync + Clone + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    Runner::new(RandomScheduler::new(SCHEDULES), config.clone()).run(model.clone());
    Runner::new(PctScheduler::new(3, SCHEDULES), config).run(model);
}

/// What is behind the cache. Its lock is one that schedules are made of.
#[derive(Clone)]
struct Disk(Arc<Mutex<Vec<u8>>>);

impl Content<PageFrame> for Disk {
    fn mmap(&self, _area: &NewArea) -> Result<Layout<PageFrame>, Errno> {
        Ok(Layout::fault_all())
    }

    fn fault(&self, fault: &Fault, page: &mut dyn NewPage) -> Result<Supplied<PageFrame>, Errno> {
        let start = (fault.page * PAGE) as usize;
        let disk = self.0.lock().map_err(|_| Errno::EIO)?;
        page.bytes()?.copy_from_slice(&disk[start..start + PAGE as usize]);
        Ok(Supplied::Filled)
    }
}

impl Store for Disk {
    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let start = offset as usize;
        self.0.lock().map_err(|_| Errno::EIO)?[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// A machine of several processors.
struct Shared {
    engine: Mutex<Engine<Machine>>,
    file: Arc<File<PageFrame>>,
    disk: Disk,
}

impl Shared {
    /// A file of so many pages, each filled with its number and one, in a cache of so many
    /// frames.
    fn new(pages: u64, frames: usize) -> Arc<Shared> {
        let page_size = PageSize::new(PAGE).expect("a page size");
        let limits = Limits { frames: Some(frames), read_ahead: 2, ..Limits::default() };
        let mut engine = Engine::new(Machine::new(page_size, Failures::default()), limits);
        let bytes: Vec<u8> = (0..pages * PAGE).map(|at| (at / PAGE) as u8 + 1).collect();
        let disk = Disk(Arc::new(Mutex::new(bytes)));
        let spec = ObjectSpec {
            name: "/data".into(),
            device: (0, 2),
            inode: 1,
            size: Some(pages * PAGE),
            store: Some(Box::new(disk.clone())),
            refillable: true,
        };
        let file = engine.create(spec, FileMode::READ_WRITE, Some(Box::new(disk.clone())));
        Arc::new(Shared { engine: Mutex::new(engine), file, disk })
    }

    fn with<R>(&self, call: impl FnOnce(&mut Engine<Machine>) -> R) -> R {
        let mut engine = self.engine.lock().expect("nobody panics with it");
        let result = call(&mut engine);
        engine.invariants();
        result
    }

    /// A process that maps all of the file.
    fn process(&self, pages: u64, sharing: Sharing) -> (SpaceId, u64) {
        self.with(|engine| {
            let space = engine.new_space().expect("memory");
            let request = MapRequest::new(pages * PAGE).sharing(sharing).file(&self.file, 0);
            (space, engine.map(space, &request).expect("a map"))
        })
    }

    /// One access, which is made when the page table permits it.
    fn access<R>(
        &self,
        (space, address): (SpaceId, u64),
        access: Access,
        made: impl Fn(&mut Engine<Machine>) -> R,
    ) -> Result<R, Fatal> {
        loop {
            let done = self.with(|engine| {
                let entry = engine.entry(space, address).filter(|entry| entry.user);
                let permitted = entry.is_some_and(|e| e.writable || access == Access::Read);
                permitted.then(|| made(engine))
            });
            match done {
                Some(done) => return Ok(done),
                None => self.with(|engine| engine.handle_fault(space, address, access))?,
            }
        }
    }

    fn load(&self, space: SpaceId, address: u64) -> Result<u8, Fatal> {
        self.access((space, address), Access::Read, |engine| {
            let mut byte = [0];
            engine.load(space, address, &mut byte).map(|()| byte[0])
        })?
    }

    fn store(&self, space: SpaceId, address: u64, byte: u8) -> Result<(), Fatal> {
        self.access((space, address), Access::Write, |engine| {
            engine.store(space, address, &[byte])
        })?
    }

    /// Everything of the file is on the disk then.
    fn sync(&self) -> Vec<u8> {
        self.with(|engine| engine.sync_object(self.file.object())).expect("a good disk");
        self.disk.0.lock().expect("nobody panics with it").clone()
    }
}

/// Two processes count in bytes of their own in each page of a file that does not fit the
/// cache, while a third has pages written back and evicted.
#[test]
fn eviction_and_write_back_lose_no_store() {
    const PAGES: u64 = 3;
    explore(|| {
        let shared = Shared::new(PAGES, 2);
        let count = |number: u64| {
            let shared = shared.clone();
            thread::spawn(move || {
                let (space, at) = shared.process(PAGES, Sharing::Shared);
                for round in 0..2 {
                    for page in 0..PAGES {
                        let address = at + page * PAGE + 1 + number;
                        let first = page as u8 + 1;
                        assert_eq!(shared.load(space, address), Ok(first + round));
                        shared.store(space, address, first + round + 1).expect("mapped");
                    }
                }
                shared.with(|engine| engine.drop_space(space));
            })
        };
        let counters = [count(0), count(1)];
        let (space, at) = shared.process(PAGES, Sharing::Shared);
        let now = SyncFlags { now: true, ..SyncFlags::default() };
        shared.with(|engine| engine.sync(space, at, PAGES * PAGE, now)).expect("a good disk");
        assert_eq!(shared.load(space, at), Ok(1));
        shared
            .with(|engine| engine.advise(space, at, PAGES * PAGE, Advice::PageOut))
            .expect("no lock");
        counters.into_iter().for_each(|counter| counter.join().expect("it counted"));
        let disk = shared.sync();
        for page in 0..PAGES {
            let start = (page * PAGE) as usize;
            let last = page as u8 + 3;
            assert_eq!(disk[start..start + 4], [page as u8 + 1, last, last, page as u8 + 1]);
        }
    });
}

/// What is cut off is gone for whoever looks after the cut, until the file has grown again;
/// and what was stored before it in the rest of the file stays.
#[test]
fn a_cut_is_seen_by_every_access_after_it() {
    const PAGES: u64 = 3;
    explore(|| {
        let shared = Shared::new(PAGES, 5);
        let lengths = Arc::new(AtomicU64::new(PAGES));
        let cutter = thread::spawn({
            let (shared, lengths) = (shared.clone(), lengths.clone());
            move || {
                let object = shared.file.object();
                lengths.store(0, Ordering::SeqCst);
                shared.with(|engine| engine.truncate(object, PAGE)).expect("a file");
                lengths.store(1, Ordering::SeqCst);
                lengths.store(0, Ordering::SeqCst);
                shared.with(|engine| engine.truncate(object, 2 * PAGE)).expect("a file");
                lengths.store(2, Ordering::SeqCst);
            }
        });
        let looker = thread::spawn({
            let (shared, lengths) = (shared.clone(), lengths.clone());
            move || {
                let (space, at) = shared.process(PAGES, Sharing::Private);
                for page in [0, 1, 2, 1] {
                    // 0: it is just being changed.
                    let before = lengths.load(Ordering::SeqCst);
                    let seen = shared.store(space, at + page * PAGE, 9);
                    let after = lengths.load(Ordering::SeqCst);
                    if before == after && before > 0 {
                        let expected = if page < before { Ok(()) } else { Err(Fatal::Bus) };
                        assert_eq!(seen, expected, "page {page} of {before}");
                    }
                }
                shared.with(|engine| engine.drop_space(space));
            }
        });
        let (space, at) = shared.process(PAGES, Sharing::Shared);
        shared.store(space, at + 5, 7).expect("never cut");
        cutter.join().expect("it cut");
        looker.join().expect("it looked");
        assert_eq!(shared.load(space, at + 2 * PAGE), Err(Fatal::Bus));
        assert_eq!(shared.sync()[..6], [1, 1, 1, 1, 1, 7]);
    });
}

/// A child has what its parent had at the moment of the fork, whole, and neither sees what
/// the other stores afterwards.
#[test]
fn a_fork_in_the_middle_of_stores_is_one_moment() {
    const PAGES: u64 = 2;
    explore(|| {
        let shared = Shared::new(PAGES, 12);
        let (parent, at) = shared.process(PAGES, Sharing::Private);
        let writer = thread::spawn({
            let shared = shared.clone();
            move || {
                for round in 10..13 {
                    // The first page is always as far as the second, or one step ahead.
                    for page in 0..PAGES {
                        shared.store(parent, at + page * PAGE, round).expect("mapped");
                    }
                }
            }
        });
        let forker = thread::spawn({
            let shared = shared.clone();
            move || {
                let child = shared.with(|engine| engine.fork(parent)).expect("memory");
                let look =
                    || [0, 1].map(|page| shared.load(child, at + page * PAGE).expect("mapped"));
                let first = look();
                let step = |byte: u8| u32::from(byte.max(9)) - 9;
                let (ahead, behind) = (step(first[0]), step(first[1]));
                assert!(ahead == behind || ahead == behind + 1, "{first:?}");
                assert_eq!(look(), first, "the parent's later stores");
                shared.store(child, at, 99).expect("mapped");
                shared.with(|engine| engine.drop_space(child));
            }
        });
        writer.join().expect("it wrote");
        forker.join().expect("it forked");
        assert_eq!(shared.load(parent, at), Ok(12));
        assert_eq!(shared.sync()[0], 1, "private stores reach no disk");
    });
}
