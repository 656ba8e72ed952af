//! A home made of ordinary memory and threads, for the device tests: it maps
//! nothing, can refuse the Nth request, and can interrupt whoever waits.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use devmap_driver::{
    Caller, Command, Device, Errno, Interrupted, Ioctl, Lock, Memory, NewArea, NewPage, OpenFlags,
    PageSize, Platform, PollEvents, PollTable, Protection, Sharing, Transfer, UserSlice, WaitQueue,
};

pub const PAGE: u64 = 4096;

#[derive(Clone)]
pub struct Mock {
    signal: Arc<Signal>,
    /// How many more requests are granted.
    grants: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Default)]
struct SignalState {
    generation: u64,
    waiting: usize,
    interrupts: usize,
}

impl Mock {
    pub fn new() -> Mock {
        Mock::granting(usize::MAX)
    }

    /// Refuses all requests for memory, locks and queues after the first `grants`.
    pub fn granting(grants: usize) -> Mock {
        Mock { signal: Arc::default(), grants: Arc::new(AtomicUsize::new(grants)) }
    }

    fn request(&self) -> Result<(), Errno> {
        let take = |left: usize| left.checked_sub(1);
        let taken = self.grants.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(drop).map_err(|_| Errno::ENOMEM)
    }

    /// Ends one wait, now or to come, as a signal would.
    pub fn interrupt(&self) {
        self.signal.state.lock().unwrap().interrupts += 1;
        self.signal.changed.notify_all();
    }

    /// Returns once `count` callers wait.
    pub fn until_waiting(&self, count: usize) {
        let state = self.signal.state.lock().unwrap();
        drop(self.signal.changed.wait_while(state, |state| state.waiting < count).unwrap());
    }

    fn memory(&self, bytes: u64, contiguous: bool) -> Result<Pages, Errno> {
        if bytes == 0 {
            return Err(Errno::EINVAL);
        }
        self.request()?;
        let len = bytes.next_multiple_of(PAGE) as usize;
        Ok(Pages { bytes: Arc::new(Mutex::new(vec![0; len])), contiguous })
    }
}

impl Platform for Mock {
    type Memory = Pages;
    type Lock<T: Send + 'static> = MockLock<T>;
    type WaitQueue = Queue;

    fn page_size(&self) -> PageSize {
        PageSize::new(PAGE).unwrap()
    }

    fn contiguous(&self, bytes: u64) -> Result<Pages, Errno> {
        self.memory(bytes, true)
    }

    fn scattered(&self, bytes: u64) -> Result<Pages, Errno> {
        self.memory(bytes, false)
    }

    fn lock<T: Send + 'static>(&self, value: T) -> Result<MockLock<T>, Errno> {
        self.request()?;
        Ok(MockLock(Mutex::new(value)))
    }

    fn wait_queue(&self) -> Result<Queue, Errno> {
        self.request()?;
        Ok(Queue(self.signal.clone()))
    }

    fn now(&self) -> Duration {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

#[derive(Clone, Debug)]
pub struct Pages {
    bytes: Arc<Mutex<Vec<u8>>>,
    pub contiguous: bool,
}

impl PartialEq for Pages {
    /// The same pages, not equal bytes.
    fn eq(&self, other: &Pages) -> bool {
        Arc::ptr_eq(&self.bytes, &other.bytes)
    }
}

impl Memory for Pages {
    fn pages(&self) -> u64 {
        self.len() / PAGE
    }

    fn len(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn is_mapped(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        let bytes = self.bytes.lock().unwrap();
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let end = start.checked_add(into.len()).ok_or(Errno::EINVAL)?;
        into.copy_from_slice(bytes.get(start..end).ok_or(Errno::EINVAL)?);
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Errno> {
        let mut bytes = self.bytes.lock().unwrap();
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let end = start.checked_add(from.len()).ok_or(Errno::EINVAL)?;
        bytes.get_mut(start..end).ok_or(Errno::EINVAL)?.copy_from_slice(from);
        Ok(())
    }
}

pub struct MockLock<T>(Mutex<T>);

impl<T: Send> Lock<T> for MockLock<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }
}

pub struct Queue(Arc<Signal>);

impl WaitQueue for Queue {
    fn wake_all(&self) {
        self.0.state.lock().unwrap().generation += 1;
        self.0.changed.notify_all();
    }

    fn wait<T>(&self, mut condition: impl FnMut() -> Option<T>) -> Result<T, Interrupted> {
        loop {
            let seen = self.0.state.lock().unwrap().generation;
            if let Some(result) = condition() {
                return Ok(result);
            }
            let mut state = self.0.state.lock().unwrap();
            state.waiting += 1;
            self.0.changed.notify_all();
            let same = |state: &mut SignalState| state.generation == seen && state.interrupts == 0;
            let mut state = self.0.changed.wait_while(state, same).unwrap();
            state.waiting -= 1;
            if state.interrupts > 0 {
                state.interrupts -= 1;
                return Err(Interrupted);
            }
        }
    }
}

/// A program whose memory is `bytes`, at address [`Program::BASE`].
pub struct Program {
    pub bytes: RefCell<Vec<u8>>,
    pub nonblocking: bool,
}

impl Program {
    pub const BASE: u64 = 0x10000;

    pub fn new(bytes: &[u8]) -> Program {
        Program { bytes: RefCell::new(bytes.to_vec()), nonblocking: false }
    }

    pub fn with_len(len: usize) -> Program {
        Program::new(&vec![0; len])
    }

    fn len(&self) -> usize {
        self.bytes.borrow().len()
    }

    fn range(&self, address: u64, len: usize) -> Result<std::ops::Range<usize>, Errno> {
        let start = address.checked_sub(Self::BASE).ok_or(Errno::EFAULT)? as usize;
        let end = start.checked_add(len).ok_or(Errno::EFAULT)?;
        if end > self.len() { Err(Errno::EFAULT) } else { Ok(start..end) }
    }

    /// The whole of its memory as the buffer of a transfer of `len` bytes, which may
    /// be longer than the memory.
    fn transfer(&self, position: u64, len: usize) -> Transfer<'_> {
        Transfer::new(self, UserSlice::new(self, Self::BASE, len).unwrap(), position)
    }

    pub fn read<D: Device<Mock, File = ()>>(&self, device: &D, at: u64) -> Result<usize, Errno> {
        device.read(&(), &self.transfer(at, self.len()))
    }

    pub fn write<D: Device<Mock, File = ()>>(&self, device: &D, at: u64) -> Result<usize, Errno> {
        device.write(&(), &self.transfer(at, self.len()))
    }

    /// A read whose buffer reaches past the program's memory.
    pub fn read_past<D: Device<Mock, File = ()>>(
        &self,
        device: &D,
        len: usize,
    ) -> Result<usize, Errno> {
        device.read(&(), &self.transfer(0, len))
    }

    pub fn ioctl<D: Device<Mock, File = ()>>(
        &self,
        device: &D,
        command: Command,
    ) -> Result<u32, Errno> {
        device.ioctl(&(), &Ioctl::new(command, Self::BASE, self))
    }
}

impl Caller for Program {
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
        let nonblocking = self.nonblocking;
        OpenFlags { read: true, write: true, nonblocking, append: false }
    }
}

/// Counts the queues that a poll registers.
#[derive(Default)]
pub struct Table(pub usize);

impl PollTable<Queue> for Table {
    fn register(&mut self, _queue: &Queue) {
        self.0 += 1;
    }
}

pub fn poll(device: &impl Device<Mock, File = ()>) -> PollEvents {
    device.poll(&(), &mut Table::default())
}

/// A page that counts nothing and refuses nothing.
pub struct Page(pub Vec<u8>);

impl NewPage for Page {
    fn bytes(&mut self) -> Result<&mut [u8], Errno> {
        Ok(&mut self.0)
    }
}

/// A shared area of `pages` pages from page `first_page`.
pub fn area(first_page: u64, pages: u64) -> NewArea {
    let page_size = PageSize::new(PAGE).unwrap();
    NewArea::new(page_size, first_page, pages, Protection::READ_WRITE, Sharing::Shared).unwrap()
}
