//! Threads that fault, store, evict, unmap, fork and fail at once. What they wrote is told
//! from the bytes and sums of what is there in the end.

use std::{collections::hash_map::DefaultHasher, hash::Hasher, thread};

use devmap_backend_sim::{Descriptor, MockKernel, Process};
use devmap_driver::{Errno, Sharing};
use devmap_mm::{Advice, Fatal, MapRequest};

use crate::{NOW, PAGE, limited};

const THREADS: u64 = 4;
const PAGES: u64 = 64;
/// Each thread's part of a page.
const PART: u64 = 64;
const STEPS: u64 = if cfg!(miri) { 60 } else { 6000 };

/// The same numbers every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// An access that is made again after a fault that a test made fail.
fn again(mut access: impl FnMut() -> Result<(), Fatal>) {
    while let Err(fatal) = access() {
        assert_eq!(fatal, Fatal::Bus, "only faults are made to fail");
    }
}

struct Worker<'a> {
    kernel: &'a MockKernel,
    process: Process,
    file: Descriptor,
    scratch: Descriptor,
    at: u64,
    number: u64,
    random: Random,
    /// What its parts of the pages should hold.
    model: Vec<[u8; PART as usize]>,
}

impl<'a> Worker<'a> {
    fn new(kernel: &'a MockKernel, number: u64) -> Worker<'a> {
        let process = kernel.process().unwrap();
        let (file, scratch) = (process.open("/data").unwrap(), process.open("/scratch").unwrap());
        let at = process.mmap(file, 0, PAGES * PAGE).unwrap();
        let model = vec![[0; PART as usize]; PAGES as usize];
        Worker { kernel, process, file, scratch, at, number, random: Random(number), model }
    }

    fn address(&self, page: u64) -> u64 {
        self.at + page * PAGE + self.number * PART
    }

    fn step(&mut self) {
        let page = self.random.below(PAGES);
        let address = self.address(page);
        match self.random.below(40) {
            0 => {
                self.process.munmap(self.at, PAGES * PAGE).unwrap();
                self.at = self.process.mmap(self.file, 0, PAGES * PAGE).unwrap();
            }
            1 => match self.process.msync(self.at, PAGES * PAGE, NOW) {
                // The pages stay dirty.
                Ok(()) | Err(Errno::EIO) => {}
                other => panic!("{other:?}"),
            },
            2 => self.process.madvise(self.at, PAGES * PAGE, Advice::PageOut).unwrap(),
            3 => self.process.madvise(self.at, PAGES * PAGE, Advice::DontNeed).unwrap(),
            4 => self.fork(address, page),
            5 => self.resize(),
            6 => self.kernel.failures().faults().fail(1 + self.random.below(9)),
            7 => self.kernel.failures().write_backs().fail(1 + self.random.below(9)),
            8..=19 => {
                let mut bytes = [0; PART as usize];
                again(|| self.process.load(address, &mut bytes));
                assert_eq!(bytes, self.model[page as usize], "page {page}");
            }
            _ => {
                let from = self.random.below(PART) as usize;
                let to = from + self.random.below(PART - from as u64 + 1) as usize;
                let bytes = vec![self.random.below(256) as u8; to - from];
                again(|| self.process.store(address + from as u64, &bytes));
                self.model[page as usize][from..to].copy_from_slice(&bytes);
            }
        }
    }

    /// A child stores to its shared map, which the parent sees, and to a private one, which
    /// nobody does.
    fn fork(&mut self, address: u64, page: u64) {
        let request = MapRequest::new(PAGE).sharing(Sharing::Private);
        let private = self.process.mmap_with(self.file, page * PAGE, request).unwrap();
        let private = private + self.number * PART;
        let child = self.process.fork().unwrap();
        let mark = [self.random.below(256) as u8];
        // Memory of a child's own may run out: the limit is narrow, and such pages stay.
        match child.store(private, &[!mark[0]]) {
            Ok(()) | Err(Fatal::Bus | Fatal::OutOfMemory) => {}
            Err(other) => panic!("{other}"),
        }
        again(|| child.store(address, &mark));
        self.model[page as usize][0] = mark[0];
        drop(child);
        let mut bytes = [0; PART as usize];
        again(|| self.process.load(private, &mut bytes));
        assert_eq!(bytes, self.model[page as usize], "the child's copy is its own");
        self.process.munmap(private - self.number * PART, PAGE).unwrap();
    }

    /// A file that all of them cut and grow while they touch it: a page is there or not, and
    /// never anything else.
    fn resize(&mut self) {
        let len = self.random.below(8 * PAGE);
        self.process.ftruncate(self.scratch, len).unwrap();
        let at = self.process.mmap(self.scratch, 0, 8 * PAGE).unwrap();
        for page in 0..8 {
            let address = at + page * PAGE + self.number * PART;
            match self.process.store(address, &[1; PART as usize]) {
                Ok(()) | Err(Fatal::Bus) => {}
                Err(other) => panic!("{other}"),
            }
        }
        self.process.munmap(at, 8 * PAGE).unwrap();
    }
}

#[test]
fn threads_lose_nothing() {
    let kernel = limited(24);
    let file = kernel.add_file("/data", vec![0; (PAGES * PAGE) as usize]);
    kernel.add_file("/scratch", vec![0; 8 * PAGE as usize]);
    let work = |number| {
        let kernel = &kernel;
        move || {
            let mut worker = Worker::new(kernel, number);
            for step in 0..STEPS {
                worker.step();
                if step % 100 == 0 {
                    kernel.with_engine(|engine| {
                        engine.invariants();
                        assert!(engine.frames() <= 24);
                    });
                }
            }
            worker.model
        }
    };
    let models: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(work(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    kernel.failures().write_backs().fail(0);
    kernel.failures().faults().fail(0);
    let reader = kernel.process().unwrap();
    let at = reader.mmap(reader.open("/data").unwrap(), 0, PAGES * PAGE).unwrap();
    // A failure that nobody was told of is told to the next who opens the file.
    let told = reader.msync(at, PAGES * PAGE, NOW);
    assert!(matches!(told, Ok(()) | Err(Errno::EIO)), "{told:?}");
    reader.msync(at, PAGES * PAGE, NOW).unwrap();
    let disk = file.bytes();
    let mut mapped = vec![0; disk.len()];
    reader.load(at, &mut mapped).unwrap();
    let mut expected = vec![0; disk.len()];
    for (number, model) in models.iter().enumerate() {
        for (page, part) in model.iter().enumerate() {
            let from = page * PAGE as usize + number * PART as usize;
            expected[from..from + PART as usize].copy_from_slice(part);
        }
    }
    assert_eq!((sum(&disk), sum(&mapped)), (sum(&expected), sum(&expected)));
}
