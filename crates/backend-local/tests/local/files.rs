//! The device `file`: random sequences beside the kernel's own maps, and what is there when
//! the process is killed.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    process::{Command, Stdio},
};

use devmap_backend_local::{
    self as local, Error, Local, LocalOptions, MapOptions, Mapping, OpenMode,
};
use devmap_devices_host::file;
use devmap_sys::mapping::{self as native, Protection, Sharing};

use crate::{disk::PAGE, limited};

fn open(home: &Local, path: &Path) -> local::File {
    let device = file::File::new(home.platform(), &file::Options::read_write(path)).unwrap();
    home.add(&path.display().to_string(), device).unwrap().open(OpenMode::ReadWrite).unwrap()
}

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

/// The same map, by devmap and by the kernel.
struct Both {
    local: Mapping,
    native: native::Mapping,
    writable: bool,
    first_page: u64,
}

/// What a program can do with a file and its maps, on two files, one mapped by each.
struct Sequence {
    random: Random,
    file: local::File,
    native: File,
    maps: Vec<Both>,
    size: u64,
}

const MOST_PAGES: u64 = 24;

impl Sequence {
    fn map(&mut self) {
        let first_page = self.random.below(MOST_PAGES);
        let pages = 1 + self.random.below(MOST_PAGES);
        let (writable, private) = (self.random.below(4) > 0, self.random.below(3) == 0);
        let offset = first_page * PAGE as u64;
        let mut options = MapOptions::new().offset(offset).len(pages * PAGE as u64);
        let sharing = if private { Sharing::Private } else { Sharing::Shared };
        let protection = if writable { Protection::ReadWrite } else { Protection::Read };
        if writable {
            options = options.writable();
        }
        if private {
            options = options.private();
        }
        let len = pages as usize * PAGE;
        let native =
            native::Mapping::new(self.native.as_fd(), offset, len, protection, sharing).unwrap();
        let local = self.file.map(&options).unwrap();
        self.maps.push(Both { local, native, writable, first_page });
    }

    /// A place in a map: which, the byte, and whether the file has that page.
    fn place(&mut self) -> Option<(usize, usize, bool)> {
        let map = self.random.below(self.maps.len().max(1) as u64) as usize;
        let both = self.maps.get(map)?;
        let at = self.random.below(both.local.len() as u64);
        let page = both.first_page + at / PAGE as u64;
        Some((map, at as usize, page * (PAGE as u64) < self.size))
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0 | 1 => self.map(),
            2 if !self.maps.is_empty() => {
                let map = self.random.below(self.maps.len() as u64) as usize;
                self.maps.swap_remove(map).local.unmap().unwrap();
            }
            3 => {
                let size = self.random.below(MOST_PAGES * PAGE as u64);
                self.file.truncate(size).unwrap();
                self.native.set_len(size).unwrap();
                self.size = size;
            }
            4 => {
                let Some((map, ..)) = self.place() else { return };
                let local = &self.maps[map].local;
                local.evict(0..local.len()).unwrap();
            }
            5 => {
                let Some((map, ..)) = self.place() else { return };
                let local = &self.maps[map].local;
                local.sync(0..local.len()).unwrap();
            }
            6..12 => self.store(),
            _ => self.load(),
        }
    }

    fn store(&mut self) {
        let Some((map, at, is_there)) = self.place() else { return };
        let value = self.random.below(256) as u8;
        let plainly = self.random.below(3) == 0;
        let both = &self.maps[map];
        if !both.writable {
            assert_eq!(both.local.store(at, value), Err(Error::ReadOnly));
        } else if !is_there {
            assert!(matches!(both.local.store(at, value), Err(Error::PastEnd { .. })));
        } else {
            both.native.write(at, &[value]).unwrap();
            if plainly {
                both.local.store_plain(at, value);
            } else {
                both.local.store(at, value).unwrap();
            }
        }
    }

    fn load(&mut self) {
        let Some((map, at, is_there)) = self.place() else { return };
        let plainly = self.random.below(3) == 0;
        let both = &self.maps[map];
        if !is_there {
            assert!(matches!(both.local.load::<u8>(at), Err(Error::PastEnd { .. })));
            return;
        }
        let mut value = [0];
        both.native.read(at, &mut value).unwrap();
        let found =
            if plainly { both.local.load_plain(at) } else { both.local.load::<u8>(at).unwrap() };
        assert_eq!(found, value[0], "byte {at} of a map of page {}", both.first_page);
    }
}

#[test]
fn random_sequences_do_what_the_kernel_does() {
    for seed in 0..18 {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["local", "native"].map(|name| directory.path().join(name));
        let content: Vec<u8> = (0..10 * PAGE as u32 + 77).map(|i| (i * 7 + seed) as u8).collect();
        paths.iter().for_each(|path| fs::write(path, &content).unwrap());
        let home = match seed % 3 {
            0 => Local::new().unwrap(),
            1 => limited(6),
            _ => LocalOptions::new().without_userfaultfd().build().unwrap(),
        };
        let native = File::options().read(true).write(true).open(&paths[1]).unwrap();
        let mut sequence = Sequence {
            random: Random(seed.into()),
            file: open(&home, &paths[0]),
            native,
            maps: Vec::new(),
            size: content.len() as u64,
        };
        for _ in 0..1500 {
            sequence.step();
        }
        drop(sequence.maps);
        sequence.file.fsync(devmap_driver::Fsync::All).unwrap();
        assert!(fs::read(&paths[0]).unwrap() == fs::read(&paths[1]).unwrap(), "seed {seed}");
    }
}

#[test]
fn a_file_that_others_shrink_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, vec![7; 8 * PAGE]).unwrap();
    let home = Local::new().unwrap();
    let map = open(&home, &path).map(&MapOptions::new()).unwrap();
    assert_eq!(map.load::<u8>(PAGE), Ok(7));
    assert_eq!(map.load::<u8>(6 * PAGE), Ok(7));
    File::options().write(true).open(&path).unwrap().set_len(2 * PAGE as u64).unwrap();
    let past = Error::PastEnd { page: 5, size: 2 * PAGE as u64 };
    assert_eq!(map.load::<u8>(5 * PAGE), Err(past));
    assert!(map.read_at(0, &mut vec![0; 8 * PAGE]).is_err());
    assert!(map.slice(0..8 * PAGE).is_err());
    assert_eq!(map.slice(0..2 * PAGE).unwrap()[..], [7; 2 * PAGE]);
    // What was there before stays until it is dropped.
    assert_eq!(map.load::<u8>(6 * PAGE), Ok(7));
    map.evict(0..map.len()).unwrap();
    assert_eq!(map.load::<u8>(6 * PAGE), Err(Error::PastEnd { page: 6, size: 2 * PAGE as u64 }));
}

#[test]
fn what_others_write_is_seen_when_a_page_is_filled() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, vec![7; 2 * PAGE]).unwrap();
    let home = Local::new().unwrap();
    let map = open(&home, &path).map(&MapOptions::new()).unwrap();
    assert_eq!(map.load::<u8>(0), Ok(7));
    File::options().write(true).open(&path).unwrap().write_all_at(&[8; 2 * PAGE], 0).unwrap();
    assert_eq!((map.load::<u8>(0), map.load::<u8>(PAGE)), (Ok(7), Ok(8)));
    map.evict(0..PAGE).unwrap();
    assert_eq!(map.load::<u8>(0), Ok(8));
}

#[test]
fn what_msync_promised_is_there_after_a_kill() {
    const SAID: &str = "synced";
    if let Some(path) = env::var_os("DEVMAP_TEST_KILLED") {
        let home = limited(16);
        let map = open(&home, Path::new(&path)).map(&MapOptions::new().writable()).unwrap();
        for page in 0..64 {
            map.store(page * PAGE + 3, page as u8).unwrap();
        }
        map.sync(0..map.len()).unwrap();
        map.store(5, 99_u8).unwrap();
        eprintln!("{SAID}");
        loop {
            std::thread::park();
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, vec![0xff; 64 * PAGE]).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "files::what_msync_promised_is_there_after_a_kill", "--nocapture"])
        .env("DEVMAP_TEST_KILLED", &path)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == SAID), "the child ended early");
    child.kill().unwrap();
    child.wait().unwrap();
    let file = File::open(&path).unwrap();
    for page in 0..64 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, page * PAGE as u64 + 3).unwrap();
        assert_eq!(byte[0], page as u8);
    }
    assert_eq!(file.metadata().unwrap().len(), 64 * PAGE as u64);
}

#[test]
fn files_are_read_ahead_and_at_random_within_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    const PAGES: usize = 2000;
    let content: Vec<u8> = (0..PAGES * PAGE).map(|i| (i / PAGE * 13 + i % 256) as u8).collect();
    fs::write(&path, &content).unwrap();
    let home = limited(512);
    let file = open(&home, &path);
    let map = file.map(&MapOptions::new()).unwrap();
    map.prefetch(0..32 * PAGE).unwrap();
    for at in (0..PAGES * PAGE).step_by(PAGE) {
        let found = if at % (2 * PAGE) == 0 {
            map.load::<u8>(at + 9).unwrap()
        } else {
            map.load_plain(at + 9)
        };
        assert_eq!(found, content[at + 9], "byte {at}");
    }
    let mut random = Random(1);
    let mut page = vec![0; PAGE];
    for _ in 0..2000 {
        let at = random.below(PAGES as u64) as usize * PAGE;
        map.read_at(at, &mut page).unwrap();
        assert!(page == content[at..at + PAGE], "page {}", at / PAGE);
    }
    let mut all = vec![0; content.len()];
    map.read_at(0, &mut all).unwrap();
    assert!(all == content);
    assert!(home.stats().held_most <= 512);
    // A run that is in memory is handed to the kernel, and taken back before it goes.
    let home = Local::new().unwrap();
    let file = open(&home, &path);
    let first = file.map(&MapOptions::new()).unwrap();
    first.populate(0..first.len()).unwrap();
    let map = file.map(&MapOptions::new()).unwrap();
    for round in 0..2 {
        for at in (0..PAGES * PAGE).step_by(PAGE) {
            assert_eq!(map.load_plain::<u8>(at + 5), content[at + 5], "byte {at}, round {round}");
            if at == PAGES / 2 * PAGE {
                first.evict(PAGES / 4 * PAGE..PAGES / 3 * PAGE).unwrap();
                assert_eq!(map.load_plain::<u8>(PAGES / 4 * PAGE), content[PAGES / 4 * PAGE]);
            }
        }
    }
}
