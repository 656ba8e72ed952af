//! The page cache and the fault path under every kind of schedule: shuttle decides which
//! thread goes on at each lock, atomic and change of what is known of a page, thousands of
//! times, and prints a schedule that fails so that `shuttle::replay` repeats it.
//!
//! The locks are shuttle's (`primitives`), the system calls are the kernel's: none of them
//! waits. All threads of a test are one thread of the system, which must not wait either:
//! so a page that is not there makes an access fail instead of wait (`UFFD_FEATURE_SIGBUS`),
//! and a checked access then supplies it on its own stack. What does not live here: plain
//! accesses, which wait for a handler thread; `tests/local/stress.rs` has those.

use std::{collections::BTreeMap, sync::Arc};

use devmap_driver::{
    Device, Errno, Fault, Fsync, Kind, Metadata, NewArea, NewPage, Open, Plan, Store, Supply,
};
use devmap_sys::userfaultfd::Userfaultfd;
use shuttle::{
    Config, Runner,
    rand::{Rng, thread_rng},
    scheduler::{PctScheduler, RandomScheduler},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    Error, File, Local, LocalMemory, LocalOptions, LocalPlatform, MapOptions, Mapping, OpenMode,
};

const PAGE: usize = 4096;
/// Pages of a block: pages so far apart have locks of their own.
const BLOCK: usize = 64;
const SCHEDULES: usize = 300;
/// The same schedules each time; the environment may say another.
const SEED: u64 = 0x6465_766d_6170;

/// Runs a model under random schedules, and under such that change threads seldom, where
/// it hurts.
fn explore(model: impl Fn() + Send + Sync + Clone + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    let random = RandomScheduler::new_from_seed(SEED, SCHEDULES);
    Runner::new(random, config.clone()).run(model.clone());
    Runner::new(PctScheduler::new_from_seed(SEED, 3, SCHEDULES), config).run(model);
}

/// As [`explore`], of what needs userfaultfd, which sandboxes refuse.
fn explore_lazy(model: impl Fn() + Send + Sync + Clone + 'static) {
    if Userfaultfd::untold().is_ok() {
        explore(model);
    }
}

/// Words that each page begins with.
const WORDS: usize = 4;
type Words = [u32; WORDS];

/// What is behind the cache: a regular file, or a character device. Its lock is one that schedules are made of.
#[derive(Clone)]
struct Disk {
    platter: Arc<Mutex<Platter>>,
    /// What it says of its faults past the end, and keeps; else those are zeros.
    checks_end: bool,
    is_file: bool,
}

struct Platter {
    pages: usize,
    /// Those that are not zeros.
    written: BTreeMap<usize, Words>,
}

impl Disk {
    /// Of zeros, but for the first word of each page, which is its number and one.
    fn new(pages: usize) -> Disk {
        let written = (0..pages).map(|page| (page, [page as u32 + 1, 0, 0, 0])).collect();
        let platter = Arc::new(Mutex::new(Platter { pages, written }));
        Disk { platter, checks_end: false, is_file: true }
    }

    fn no_file(self) -> Disk {
        Disk { is_file: false, ..self }
    }

    fn checks_end(self) -> Disk {
        Disk { checks_end: true, ..self }
    }

    fn with<R>(&self, look: impl FnOnce(&mut Platter) -> R) -> R {
        look(&mut self.platter.lock().unwrap())
    }

    fn words(&self, page: usize) -> Words {
        self.with(|platter| platter.written.get(&page).copied().unwrap_or_default())
    }
}

impl Platter {
    fn fill(&self, first_page: u64, bytes: &mut [u8]) {
        for (page, bytes) in (first_page as usize..).zip(bytes.chunks_mut(PAGE)) {
            let words = self.written.get(&page).copied().unwrap_or_default();
            for (word, bytes) in words.iter().zip(bytes.chunks_mut(4)) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
        }
    }
}

impl Device<LocalPlatform> for Disk {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn metadata(&self) -> Metadata {
        if !self.is_file {
            return Metadata::CHARACTER;
        }
        let size = self.with(|platter| platter.pages * PAGE) as u64;
        Metadata { kind: Kind::Regular { size }, ..Metadata::CHARACTER }
    }

    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<LocalMemory>, Errno> {
        Ok(Plan::fault_all(area))
    }

    fn fault(
        &self,
        _file: &(),
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<LocalMemory>, Errno> {
        let bytes = page.bytes()?;
        self.with(|platter| {
            if self.checks_end && fault.page >= platter.pages as u64 {
                return Err(Errno::EIO);
            }
            platter.fill(fault.page, bytes);
            Ok(Supply::Filled)
        })
    }

    fn fault_checks_end(&self) -> bool {
        self.checks_end
    }

    fn readahead(&self, _file: &(), first_page: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        self.with(|platter| platter.fill(first_page, bytes));
        // What it read may be old by the time it is answered.
        thread::yield_now();
        Ok(bytes.len())
    }

    fn store(&self) -> Store {
        Store::Device
    }

    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.with(|platter| {
            for (page, bytes) in (offset as usize / PAGE..).zip(bytes.chunks(PAGE)) {
                let word = |at: usize| u32::from_ne_bytes(bytes[4 * at..][..4].try_into().unwrap());
                platter.written.insert(page, std::array::from_fn(word));
                platter.pages = platter.pages.max(page + 1);
            }
        });
        Ok(())
    }

    fn fsync(&self, _file: &(), _what: Fsync) -> Result<(), Errno> {
        Ok(())
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.with(|platter| {
            platter.pages = size as usize / PAGE;
            platter.written.split_off(&platter.pages);
        });
        Ok(())
    }
}

fn open(home: &Local, disk: &Disk) -> File {
    home.add("disk", disk.clone()).unwrap().open(OpenMode::ReadWrite).unwrap()
}

/// A home that drops content beyond so many pages.
fn limited(pages: usize) -> Local {
    LocalOptions::new().memory_limit((pages * PAGE) as u64).build().unwrap()
}

fn to_write(file: &File) -> Mapping {
    file.map(&MapOptions::new().writable()).unwrap()
}

fn page(page: usize) -> std::ops::Range<usize> {
    page * PAGE..(page + 1) * PAGE
}

/// That no more is in memory than the limit, nor ever was, of a home of one device.
fn check_held(home: &Local, map: &Mapping, limit: u64) {
    let held = map.held_bytes().unwrap() / PAGE as u64;
    assert!(held <= limit, "{held} pages are held");
    assert!(home.stats().held_most <= limit, "{:?}", home.stats());
}

/// Threads count in words of their own in pages that do not fit, while a third has them
/// written back, dropped and read ahead.
#[test]
fn eviction_and_write_back_lose_no_store() {
    const PAGES: [usize; 4] = [0, 1, 2, BLOCK];
    explore_lazy(|| {
        let (home, disk) = (limited(3), Disk::new(2 * BLOCK));
        let file = open(&home, &disk);
        let map = to_write(&file);
        thread::scope(|scope| {
            for number in 0..2 {
                let (file, map) = (&file, &map);
                scope.spawn(move || {
                    // One of its own, and one that is shared.
                    let own = (number == 0).then(|| to_write(file));
                    let map = own.as_ref().unwrap_or(map);
                    for round in 0..2_u32 {
                        for page in PAGES {
                            let at = page * PAGE + 4 * (1 + number);
                            if round == 0 {
                                assert_eq!(map.load::<u32>(at), Ok(round));
                                map.store(at, round + 1).unwrap();
                            } else {
                                let mut found = [0; 4];
                                map.read_at(at, &mut found).unwrap();
                                assert_eq!(u32::from_ne_bytes(found), round);
                                map.write_at(at, &(round + 1).to_ne_bytes()).unwrap();
                            }
                        }
                    }
                });
            }
            scope.spawn(|| {
                map.sync(page(0)).unwrap();
                map.evict(page(BLOCK)).unwrap();
                map.prefetch(0..2 * PAGE).unwrap();
                check_held(&home, &map, 3);
                file.fsync(Fsync::All).unwrap();
                map.evict(0..map.len()).unwrap();
            });
        });
        check_held(&home, &map, 3);
        map.sync(0..map.len()).unwrap();
        for page in PAGES {
            assert_eq!(disk.words(page), [page as u32 + 1, 2, 2, 0]);
        }
    });
}

/// Who needs room waits for the page that another writes back or drops, and does not fail.
#[test]
fn room_is_waited_for() {
    explore_lazy(|| {
        let (home, disk) = (limited(1), Disk::new(2 * BLOCK));
        let map = to_write(&open(&home, &disk));
        thread::scope(|scope| {
            for pages in [[BLOCK, 0], [0, BLOCK]] {
                let map = &map;
                scope.spawn(move || {
                    for page in pages {
                        assert_eq!(map.load::<u32>(page * PAGE), Ok(page as u32 + 1));
                    }
                });
            }
            scope.spawn(|| {
                map.store::<u32>(4, 1).unwrap();
                map.sync(page(0)).unwrap();
                map.evict(0..map.len()).unwrap();
            });
        });
        check_held(&home, &map, 1);
    });
}

/// What is cut off is gone for whoever looks after the cut, until the file has grown again,
/// with zeros; what was stored before it in the rest of the file stays.
fn cut(options: LocalOptions, disk: impl Fn() -> Disk + Send + Sync + Clone + 'static) {
    /// What the cutter has made of the file, once it has.
    const WHOLE: u64 = 0;
    const CUT: u64 = 1;
    const GROWN: u64 = 2;
    const CHANGING: u64 = 3;
    explore(move || {
        let (home, disk) = (options.build().unwrap(), disk());
        let pages = disk.with(|platter| platter.pages);
        let last = pages - 1;
        let file = open(&home, &disk);
        let map = to_write(&file);
        let state = AtomicU64::new(WHOLE);
        let look = |map: &Mapping, page: usize| {
            let before = state.load(Ordering::SeqCst);
            let found = map.load::<u32>(page * PAGE);
            if before != state.load(Ordering::SeqCst) {
                return;
            }
            let past = Error::PastEnd { page: page as u64, size: PAGE as u64 };
            match before {
                CUT if page > 0 => assert_eq!(found, Err(past), "page {page}"),
                GROWN if page > 0 => assert_eq!(found, Ok(0), "page {page}"),
                WHOLE | CUT | GROWN => assert_eq!(found, Ok(page as u32 + 1)),
                _ => {}
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                map.store::<u32>(4, 7).unwrap();
                map.store::<u32>(last * PAGE + 4, 9).unwrap();
                let grows: bool = thread_rng().r#gen();
                for (left, then) in
                    [(1, CUT), (pages, GROWN)].into_iter().take(1 + usize::from(grows))
                {
                    state.store(CHANGING, Ordering::SeqCst);
                    file.truncate((left * PAGE) as u64).unwrap();
                    state.store(then, Ordering::SeqCst);
                }
            });
            scope.spawn(|| [0, 1, last, 1].into_iter().for_each(|page| look(&map, page)));
            scope.spawn(|| {
                let all = MapOptions::new().len((pages * PAGE) as u64);
                let private = file.map(&all.writable().private()).unwrap();
                private.prefetch(0..private.len()).unwrap();
                [1, last, 0, last].into_iter().for_each(|page| look(&private, page));
            });
        });
        [1, last].into_iter().for_each(|page| look(&map, page));
        map.sync(0..map.len()).unwrap();
        assert_eq!(disk.words(0), [1, 7, 0, 0]);
        assert_eq!(disk.words(last), [0; WORDS]);
    });
}

#[test]
fn a_cut_is_seen_by_every_access_after_it() {
    cut(LocalOptions::new(), || Disk::new(BLOCK + 2));
}

#[test]
fn a_cut_is_seen_where_faults_check_the_end() {
    cut(LocalOptions::new(), || Disk::new(BLOCK + 2).checks_end());
}

#[test]
fn a_cut_is_seen_without_userfaultfd() {
    cut(LocalOptions::new().without_userfaultfd(), || Disk::new(3));
}

/// What is written back of what was cut off meanwhile does not bring it back, whoever writes it.
#[test]
fn what_is_written_back_undoes_no_cut() {
    const PAGES: usize = BLOCK + 2;
    explore_lazy(|| {
        let (home, disk) = (limited(2), Disk::new(PAGES));
        let file = open(&home, &disk);
        let map = to_write(&file);
        map.store::<u32>(4, 7).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for size in [PAGES - 1, 1] {
                    file.truncate((size * PAGE) as u64).unwrap();
                    assert_eq!(disk.with(|platter| platter.pages), size);
                }
            });
            scope.spawn(|| {
                for page in [PAGES - 1, PAGES - 2] {
                    let stored = map.store::<u32>(page * PAGE + 4, 9);
                    assert!(matches!(stored, Ok(()) | Err(Error::PastEnd { .. })), "{stored:?}");
                }
                map.sync(0..map.len()).unwrap();
            });
            scope.spawn(|| {
                assert_eq!(map.load::<u32>(0), Ok(1));
                map.evict(page(PAGES - 2)).unwrap();
                assert_eq!(map.load::<u32>(4), Ok(7));
            });
        });
        drop(map);
        file.fsync(Fsync::All).unwrap();
        assert_eq!(disk.with(|platter| platter.pages), 1);
        assert_eq!(disk.words(0), [1, 7, 0, 0]);
    });
}

/// A slice is of what it was, or refused; and what is cut off is gone where it was not held.
#[test]
fn a_file_is_cut_or_a_slice_is_held() {
    for options in [LocalOptions::new(), LocalOptions::new().without_userfaultfd()] {
        explore(move || {
            let (home, disk) = (options.build().unwrap(), Disk::new(3));
            let file = open(&home, &disk);
            let map = file.map(&MapOptions::new()).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let slice = match map.slice(page(1).start..3 * PAGE) {
                        Ok(slice) => slice,
                        // The empty file that lies there meanwhile is not the device's.
                        Err(Error::PastEnd { .. }) => return,
                        Err(error) => return assert_eq!(error.errno(), Errno::ETXTBSY),
                    };
                    thread::yield_now();
                    assert_eq!(slice[..4], 2_u32.to_ne_bytes());
                    assert_eq!(slice[PAGE..][..4], 3_u32.to_ne_bytes());
                });
                scope.spawn(|| {
                    let cut = file.truncate(2 * PAGE as u64).map_err(|error| error.errno());
                    assert!(matches!(cut, Ok(()) | Err(Errno::ETXTBSY)), "{cut:?}");
                    let past = Error::PastEnd { page: 2, size: 2 * PAGE as u64 };
                    let found = map.load::<u32>(2 * PAGE);
                    assert_eq!(found, if cut.is_ok() { Err(past) } else { Ok(3) });
                });
            });
            file.truncate(PAGE as u64).unwrap();
            file.truncate(3 * PAGE as u64).unwrap();
            assert_eq!((map.load::<u32>(0), map.load::<u32>(PAGE)), (Ok(1), Ok(0)));
        });
    }
}

/// Each page begins with the first word of one of another map, a block further each.
struct Over(Mapping);

impl Device<LocalPlatform> for Over {
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
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<LocalMemory>, Errno> {
        let word = self.0.load::<u32>(fault.page as usize * BLOCK * PAGE);
        let word = word.map_err(|error| error.errno())?;
        page.bytes()?[..4].copy_from_slice(&word.to_ne_bytes());
        Ok(Supply::Filled)
    }
}

/// Who holds room and needs more waits for nobody who waits for that room, nor does anybody
/// whose page it needs.
#[test]
fn devices_upon_one_another_do_not_wait_for_themselves() {
    for room in 1..=3 {
        explore_lazy(move || {
            let (home, disk) = (limited(room), Disk::new(BLOCK + 1));
            let file = open(&home, &disk);
            let [below, also_below] = [(); 2].map(|()| file.map(&MapOptions::new()).unwrap());
            let over = home.add("over", Over(below)).unwrap().open(OpenMode::ReadOnly).unwrap();
            let over = over.map(&MapOptions::new().len(2 * PAGE as u64)).unwrap();
            let expects = |found: Result<u32, Error>, page: usize| match found {
                Ok(word) => assert_eq!(word, page as u32 + 1),
                Err(error) => {
                    assert!(error.errno() == Errno::ENOMEM && room < 3, "{room}: {error}");
                }
            };
            thread::scope(|scope| {
                for page in 0..2 {
                    let over = &over;
                    scope.spawn(move || expects(over.load(page * PAGE), page * BLOCK));
                }
                scope.spawn(|| expects(also_below.load(BLOCK * PAGE), BLOCK));
            });
            check_held(&home, &over, room as u64);
        });
    }
}

/// What is known of pages that are gone, and of devices that are, is forgotten.
#[test]
fn what_is_gone_is_forgotten() {
    const BLOCKS: usize = 16;
    explore_lazy(|| {
        let (home, disk) = (limited(2), Disk::new(BLOCKS * BLOCK));
        let file = open(&home, &disk);
        let map = to_write(&file);
        thread::scope(|scope| {
            for number in 1..=2 {
                let map = &map;
                scope.spawn(move || {
                    for block in 0..BLOCKS {
                        map.store(block * BLOCK * PAGE + 4 * number, 1_u32).unwrap();
                    }
                });
            }
        });
        // But for those that one thread had in hand just when another dropped the last page.
        let known = map.area.object.known();
        assert!(known < BLOCKS / 2, "{known} blocks");
        map.sync(0..map.len()).unwrap();
        for page in (0..BLOCKS).map(|block| block * BLOCK) {
            assert_eq!(disk.words(page), [page as u32 + 1, 1, 1, 0]);
        }
        for limit in [limited(BLOCK), Local::new().unwrap()] {
            for _ in 0..3 {
                let map = to_write(&open(&limit, &disk));
                assert_eq!(map.load::<u32>(0), Ok(1));
            }
            assert!(limit.core().queued() <= 1, "{} blocks", limit.core().queued());
        }
    });
}

/// Maps come and go while their pages are looked for, read ahead, written and dropped; when
/// the last is gone nothing is held, and nothing lost.
#[test]
fn maps_come_and_go() {
    const PAGES: usize = BLOCK + 2;
    explore_lazy(|| {
        // So much that two pages are read ahead at once.
        let (home, disk) = (limited(64), Disk::new(PAGES));
        let file = open(&home, &disk);
        thread::scope(|scope| {
            for number in 1..=2 {
                let (home, file) = (&home, &file);
                scope.spawn(move || {
                    for round in 0..2 {
                        let map = to_write(file);
                        map.prefetch(page(BLOCK - 1).start..PAGES * PAGE).unwrap();
                        for page in BLOCK - 1..PAGES {
                            let at = page * PAGE + 4 * number;
                            assert_eq!(map.load::<u32>(at), Ok(round));
                            map.store(at, round + 1).unwrap();
                        }
                        check_held(home, &map, 64);
                        map.unmap().unwrap();
                    }
                });
            }
            scope.spawn(|| {
                let map = file.map(&MapOptions::new()).unwrap();
                map.populate(page(BLOCK)).unwrap();
                map.evict(0..map.len()).unwrap();
                assert_eq!(map.load::<u32>(BLOCK * PAGE), Ok(BLOCK as u32 + 1));
            });
        });
        drop(file);
        assert_eq!(home.stats().held, 0);
        for page in BLOCK - 1..PAGES {
            assert_eq!(disk.words(page), [page as u32 + 1, 2, 2, 0]);
        }
    });
}

/// The pages of a character device go with its last map, and take with them nothing that a map
/// stores which comes or goes at that moment.
#[test]
fn the_last_map_of_a_device_goes_while_others_come_and_go() {
    explore_lazy(|| {
        let disk = Disk::new(4).no_file();
        let home = Local::new().unwrap();
        let file = open(&home, &disk);
        let options = MapOptions::new().len(4 * PAGE as u64).writable();
        thread::scope(|scope| {
            for number in 1..=2 {
                let file = &file;
                scope.spawn(move || {
                    for round in 1..=2 {
                        let map = file.map(&options).unwrap();
                        let at = number * PAGE + 4;
                        assert_eq!(map.load::<u32>(at), Ok(round - 1));
                        map.store(at, round).unwrap();
                        thread::yield_now();
                        assert_eq!(map.load::<u32>(at), Ok(round));
                    }
                });
            }
        });
        assert_eq!(home.stats().held, 0);
        for page in 1..=2 {
            assert_eq!(disk.words(page), [page as u32 + 1, 2, 0, 0]);
        }
    });
}

/// Who looks at pages in order has runs of them handed to the kernel, which others take back
/// as they drop them, and is served what was written meanwhile.
#[test]
fn runs_are_handed_over_and_taken_back() {
    const PAGES: usize = 4 * BLOCK;
    const DROPPED: [usize; 2] = [3 * BLOCK - 1, BLOCK + 1];
    explore_lazy(|| {
        let (home, disk) = (Local::new().unwrap(), Disk::new(PAGES));
        let file = open(&home, &disk);
        let map = to_write(&file);
        map.populate(0..map.len()).unwrap();
        let written = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let map = file.map(&MapOptions::new()).unwrap();
                    for page in (0..PAGES).step_by(16) {
                        let before = written.load(Ordering::SeqCst) as u32;
                        let found = map.load::<u32>(page * PAGE + 4).unwrap();
                        assert_eq!(map.load::<u32>(page * PAGE), Ok(page as u32 + 1));
                        let after = written.load(Ordering::SeqCst) as u32 + 1;
                        assert!((before..=after).contains(&found), "{found} of {before}");
                    }
                    for page in DROPPED {
                        assert_eq!(map.load::<u32>(page * PAGE), Ok(page as u32 + 1));
                    }
                });
            }
            scope.spawn(|| {
                for round in 1..=2 {
                    for page in (0..PAGES).step_by(16) {
                        map.store::<u32>(page * PAGE + 4, round).unwrap();
                    }
                    written.store(round.into(), Ordering::SeqCst);
                    DROPPED.iter().for_each(|dropped| map.evict(page(*dropped)).unwrap());
                }
            });
        });
        // Zeros that the kernel made would be there, and not be known.
        assert!(map.held_bytes().unwrap() <= home.stats().held * PAGE as u64);
    });
}

/// Another map comes, of any kind, or a slice is asked for, while threads look for the pages of
/// the only map, drop them and read them ahead: each is found, and what is stored is seen.
#[test]
fn another_map_comes() {
    const PAGES: [usize; 4] = [0, 1, BLOCK - 1, BLOCK];
    explore_lazy(|| {
        let (home, disk) = (limited(64), Disk::new(2 * BLOCK));
        let file = open(&home, &disk);
        let map = file.map(&MapOptions::new()).unwrap();
        let stored = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for page in PAGES.into_iter().chain(PAGES) {
                    let before = stored.load(Ordering::SeqCst) as u32;
                    let found = map.load::<u32>(page * PAGE + 4).unwrap();
                    assert!((before..=1).contains(&found), "{found} after {before}");
                    assert_eq!(map.load::<u32>(page * PAGE), Ok(page as u32 + 1));
                }
            });
            scope.spawn(|| {
                map.prefetch(page(BLOCK - 2).start..(BLOCK + 2) * PAGE).unwrap();
                map.populate(page(1)).unwrap();
                map.evict(page(BLOCK - 1)).unwrap();
                check_held(&home, &map, 64);
                map.evict(0..map.len()).unwrap();
            });
            scope.spawn(|| {
                let reading = MapOptions::new();
                let other = match thread_rng().gen_range(0..5) {
                    0 => {
                        let slice = map.slice(page(1)).unwrap();
                        assert_eq!(slice[..4], 2_u32.to_ne_bytes());
                        return;
                    }
                    1 => reading,
                    2 => reading.writable(),
                    3 => reading.private(),
                    _ => reading.private().writable(),
                };
                let other = file.map(&other).unwrap();
                for page in PAGES {
                    assert_eq!(other.load::<u32>(page * PAGE), Ok(page as u32 + 1));
                    // Not seen by others, if they are private.
                    let is_written = other.store::<u32>(page * PAGE + 4, 1).is_ok();
                    assert_eq!(other.load::<u32>(page * PAGE + 4), Ok(u32::from(is_written)));
                }
                if other.area.writes == crate::area::Writes::Shared {
                    stored.store(1, Ordering::SeqCst);
                }
            });
        });
        check_held(&home, &map, 64);
        let stored = stored.load(Ordering::SeqCst) as u32;
        for page in PAGES {
            assert_eq!(map.load::<u32>(page * PAGE), Ok(page as u32 + 1));
            assert_eq!(map.load::<u32>(page * PAGE + 4), Ok(stored));
        }
        let keeps: bool = thread_rng().r#gen();
        let file = keeps.then_some(file);
        drop(map);
        if let Some(file) = &file {
            let map = file.map(&MapOptions::new()).unwrap();
            assert_eq!(map.load::<u32>(4), Ok(stored));
        }
        drop(file);
        assert_eq!(home.stats().held, 0);
    });
}

/// A page that is filled for the only map is found by another one that comes at that moment.
#[test]
fn another_map_comes_while_a_page_is_filled() {
    for ahead in [false, true] {
        explore_lazy(move || {
            let (home, disk) = (limited(64), Disk::new(BLOCK));
            let file = open(&home, &disk);
            let map = file.map(&MapOptions::new()).unwrap();
            if ahead {
                map.prefetch(0..2 * PAGE).unwrap();
            }
            thread::scope(|scope| {
                scope.spawn(|| {
                    for page in usize::from(ahead)..2 {
                        assert_eq!(map.load::<u32>(page * PAGE), Ok(page as u32 + 1));
                    }
                });
                scope.spawn(|| {
                    let other = to_write(&file);
                    for page in 0..2 {
                        assert_eq!(other.load::<u32>(page * PAGE), Ok(page as u32 + 1));
                        other.store::<u32>(page * PAGE + 4, 1).unwrap();
                        assert_eq!(map.load::<u32>(page * PAGE + 4), Ok(1));
                    }
                });
            });
            check_held(&home, &map, 2);
        });
    }
}

/// Large memory is moved into the only map while threads look for its pages, drop some of them
/// and cut the file, and another map comes.
#[test]
fn large_memory_is_moved_in_and_put_into_the_file() {
    const LARGE: usize = 512;
    explore_lazy(|| {
        let (home, disk) = (Local::new().unwrap(), Disk::new(3 * LARGE));
        let file = open(&home, &disk);
        let map = file.map(&MapOptions::new()).unwrap();
        map.prefetch(LARGE * PAGE..2 * LARGE * PAGE).unwrap();
        let pages = [LARGE, LARGE + 1, LARGE + BLOCK, 2 * LARGE - 1];
        let is_cut: bool = thread_rng().r#gen();
        thread::scope(|scope| {
            scope.spawn(|| {
                for page in pages {
                    assert_eq!(map.load::<u32>(page * PAGE), Ok(page as u32 + 1));
                }
            });
            scope.spawn(|| {
                map.evict(page(LARGE + 1)).unwrap();
                if is_cut {
                    file.truncate((2 * LARGE * PAGE) as u64).unwrap();
                }
                map.evict(page(2 * LARGE - 1)).unwrap();
            });
            scope.spawn(|| {
                let other = to_write(&file);
                for page in pages {
                    assert_eq!(other.load::<u32>(page * PAGE), Ok(page as u32 + 1));
                    other.store::<u32>(page * PAGE + 4, 1).unwrap();
                    assert_eq!(map.load::<u32>(page * PAGE + 4), Ok(1));
                }
            });
        });
        // What is being read is counted already.
        assert!(map.held_bytes().unwrap() <= home.stats().held * PAGE as u64);
        for page in pages {
            assert_eq!(map.load::<u32>(page * PAGE + 4), Ok(1));
        }
        drop(map);
        drop(file);
        assert_eq!(home.stats().held, 0);
    });
}
