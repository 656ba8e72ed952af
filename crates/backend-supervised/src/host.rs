//! What a driver asks of this home: memory that clients can map, locks, wait
//! queues, a clock.
//!
//! What does not live here: how memory gets into a client (`map`), and how a wait is
//! found to be interrupted (`call`).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use devmap_driver::{self as driver, Errno, Interrupted, PageSize, Platform};
use devmap_sys::{
    mapping::{MapMemory, Mapping},
    memfd,
};
use parking_lot::Mutex;
use rustix::fs::SealFlags;

use crate::{
    call,
    tokens::{Holder, Token, Tokens},
};

/// The supervised home's services. Clones are the same home.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

struct Shared {
    page_size: PageSize,
    started: Instant,
    /// Every memory that was made, so that the home can lock, watch and count them.
    memories: Mutex<Vec<Weak<Region>>>,
}

impl Default for Host {
    fn default() -> Self {
        Host::new()
    }
}

impl Host {
    /// A home for this machine.
    pub fn new() -> Host {
        let bytes = rustix::param::page_size() as u64;
        let page_size = PageSize::new(bytes).expect("the kernel's page size is a power of two");
        let shared = Shared { page_size, started: Instant::now(), memories: Mutex::default() };
        Host { shared: Arc::new(shared) }
    }

    fn memory(&self, bytes: u64, map: MapMemory) -> Result<HostMemory, Errno> {
        if bytes == 0 {
            return Err(Errno::EINVAL);
        }
        let page = self.shared.page_size;
        let len = page.offset_of(page.pages_for(bytes)).ok_or(Errno::ENOMEM)?;
        let region = Region::new(len, page.page_of(len), map).map_err(|error| {
            // The one of its calls that makes a file longer.
            let call = if error.raw_os_error() == Some(libc::EFBIG) { "ftruncate: " } else { "" };
            let error = crate::with_remedy(&error);
            crate::report(format_args!("cannot make a memory of {len} bytes: {call}{error}"));
            Errno::ENOMEM
        })?;
        let region = Arc::new(region);
        let mut memories = self.shared.memories.lock();
        memories.retain(|weak| weak.strong_count() > 0);
        memories.push(Arc::downgrade(&region));
        Ok(HostMemory { region, token: None })
    }

    /// A memory of another process, which has given a token to map it by, and a file to
    /// look at its locks. The same memory is the same one here.
    ///
    /// # Errors
    /// Those of fstat(2); `InvalidData` unless it is whole pages that cannot shrink.
    pub(crate) fn foreign_memory(&self, token: Token, look: OwnedFd) -> io::Result<HostMemory> {
        let page = self.shared.page_size;
        let tokens = Tokens::foreign(look)?;
        let len = rustix::fs::fstat(&token.file)?.st_size.cast_unsigned();
        let sealed = rustix::fs::fcntl_get_seals(&token.file)?.contains(SealFlags::SHRINK);
        if !sealed || len == 0 || !page.is_aligned(len) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut memories = self.shared.memories.lock();
        memories.retain(|weak| weak.strong_count() > 0);
        let same = |region: &Arc<Region>| region.tokens.identity() == tokens.identity();
        let region = memories.iter().filter_map(Weak::upgrade).find(same).unwrap_or_else(|| {
            let region = Arc::new(Region {
                mapping: None,
                pages: page.page_of(len),
                len,
                tokens,
                resident: OnceLock::new(),
            });
            memories.push(Arc::downgrade(&region));
            region
        });
        let token = Arc::new(Mutex::new(Some(Arc::new(token))));
        Ok(HostMemory { region, token: Some(token) })
    }

    /// Whether a file, by device and inode number, is a memory of this home.
    pub(crate) fn has_memory(&self, file: (u64, u64)) -> bool {
        let memories = self.shared.memories.lock();
        memories.iter().filter_map(Weak::upgrade).any(|region| region.tokens.identity() == file)
    }
}

impl Platform for Host {
    type Memory = HostMemory;
    type Lock<T: Send + 'static> = HostLock<T>;
    type WaitQueue = HostWaitQueue;

    fn page_size(&self) -> PageSize {
        self.shared.page_size
    }

    /// Every memory is one memfd: side by side in its file, which is what contiguous
    /// means to a program. As large pages, where there are any, it is so in the machine, too.
    fn contiguous(&self, bytes: u64) -> Result<HostMemory, Errno> {
        self.memory(bytes, Mapping::in_large_pages)
    }

    fn scattered(&self, bytes: u64) -> Result<HostMemory, Errno> {
        self.memory(bytes, Mapping::in_small_pages)
    }

    fn lock<T: Send + 'static>(&self, value: T) -> Result<HostLock<T>, Errno> {
        Ok(HostLock(Mutex::new(value)))
    }

    fn wait_queue(&self) -> Result<HostWaitQueue, Errno> {
        Ok(HostWaitQueue::default())
    }

    fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }
}

/// One sealed memfd of exactly its size.
struct Region {
    /// All of it, mapped here; `None` where it is another process's.
    mapping: Option<Mapping>,
    pages: u64,
    /// Bytes.
    len: u64,
    tokens: Tokens,
    resident: OnceLock<bool>,
}

impl Region {
    fn new(len: u64, pages: u64, map: MapMemory) -> io::Result<Region> {
        let size = usize::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let file = memfd::create("devmap", len)?;
        let mapping = map(file.as_fd(), size)?;
        let tokens = Tokens::new(file)?;
        Ok(Region { mapping: Some(mapping), pages, len, tokens, resident: OnceLock::new() })
    }
}

/// Memory of the supervised home: a sealed memfd of exactly its size.
#[derive(Clone)]
pub struct HostMemory {
    region: Arc<Region>,
    /// The token that another process has given with this handle, until the map is made.
    token: Option<Arc<Mutex<Option<Arc<Token>>>>>,
}

impl HostMemory {
    /// The files through which clients map it.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.region.tokens
    }

    /// The token by which `holder` maps it.
    pub(crate) fn token(&self, holder: Holder) -> io::Result<Arc<Token>> {
        let given = self.token.as_ref().and_then(|token| token.lock().clone());
        given.map_or_else(|| self.region.tokens.get(holder), Ok)
    }

    /// The map has been made: a token that was given with this handle is the map's alone.
    pub(crate) fn let_go(&self) {
        if let Some(token) = &self.token {
            token.lock().take();
        }
    }

    /// A handle to be kept, which holds no token.
    pub(crate) fn kept(&self) -> HostMemory {
        HostMemory { region: self.region.clone(), token: None }
    }

    /// Keeps the pages in memory (`mlock(2)`), as `VM_RESERVED` asks; false where
    /// the limit forbids it. Tried once, where the memory was made.
    pub(crate) fn keep_resident(&self) -> bool {
        let lock = || self.region.mapping.as_ref().is_none_or(Mapping::lock);
        *self.region.resident.get_or_init(lock)
    }

    /// Whether nobody else has a handle.
    pub(crate) fn is_last(&self) -> bool {
        Arc::strong_count(&self.region) == 1
    }

    /// Whether both are handles of one memory.
    pub(crate) fn is(&self, other: &HostMemory) -> bool {
        Arc::ptr_eq(&self.region, &other.region)
    }

    /// Where it is mapped, and an offset in it. Bytes of another process's memory are its
    /// driver's affair.
    fn at(&self, offset: u64) -> Result<(&Mapping, usize), Errno> {
        let mapping = self.region.mapping.as_ref().ok_or(Errno::EINVAL)?;
        Ok((mapping, usize::try_from(offset).map_err(|_| Errno::EINVAL)?))
    }
}

impl driver::Memory for HostMemory {
    fn pages(&self) -> u64 {
        self.region.pages
    }

    fn len(&self) -> u64 {
        self.region.len
    }

    fn is_mapped(&self) -> bool {
        self.region.tokens.is_mapped()
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        let (mapping, offset) = self.at(offset)?;
        mapping.read(offset, into).map_err(|_| Errno::EINVAL)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Errno> {
        let (mapping, offset) = self.at(offset)?;
        mapping.write(offset, from).map_err(|_| Errno::EINVAL)
    }
}

/// A lock of the supervised home.
pub struct HostLock<T>(Mutex<T>);

impl<T: Send> driver::Lock<T> for HostLock<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock())
    }
}

/// Something that a wake reaches besides waiting threads: a poller.
pub(crate) trait Wake: Send + Sync {
    /// The queue was woken. It is registered no more.
    fn wake(&self);
    /// Whether anybody is left to be told.
    fn is_alive(&self) -> bool;
    /// Two registrations with one key are one.
    fn key(&self) -> u64;
}

/// A wait queue of the supervised home.
#[derive(Default)]
pub struct HostWaitQueue {
    waiters: Mutex<Vec<Arc<call::Waiter>>>,
    pollers: Mutex<Vec<Arc<dyn Wake>>>,
}

impl HostWaitQueue {
    pub(crate) fn register(&self, poller: Arc<dyn Wake>) {
        let mut pollers = self.pollers.lock();
        pollers.retain(|other| other.is_alive());
        if !pollers.iter().any(|other| other.key() == poller.key()) {
            pollers.push(poller);
        }
    }
}

impl driver::WaitQueue for HostWaitQueue {
    fn wake_all(&self) {
        for waiter in self.waiters.lock().iter() {
            waiter.wake();
        }
        let woken = std::mem::take(&mut *self.pollers.lock());
        woken.iter().for_each(|poller| poller.wake());
    }

    fn wait<T>(&self, mut condition: impl FnMut() -> Option<T>) -> Result<T, Interrupted> {
        if let Some(value) = condition() {
            return Ok(value);
        }
        let waiter = call::Waiter::current();
        let _listed = Listed::new(&self.waiters, waiter.clone());
        let _waiting = call::begin_wait(&waiter);
        loop {
            // Listed before asking, so a wake after the question is not lost.
            if let Some(value) = condition() {
                return Ok(value);
            }
            if waiter.is_interrupted() {
                return Err(Interrupted);
            }
            waiter.park();
            // It takes nothing that comes for others; nobody may have been told of it yet.
            if call::is_gone() {
                waiter.interrupt();
                return Err(Interrupted);
            }
        }
    }
}

/// A waiter's place in a queue: left when dropped, also by a panicking condition.
struct Listed<'a> {
    waiters: &'a Mutex<Vec<Arc<call::Waiter>>>,
    waiter: Arc<call::Waiter>,
}

impl<'a> Listed<'a> {
    fn new(waiters: &'a Mutex<Vec<Arc<call::Waiter>>>, waiter: Arc<call::Waiter>) -> Listed<'a> {
        waiters.lock().push(waiter.clone());
        Listed { waiters, waiter }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut waiters = self.waiters.lock();
        if let Some(at) = waiters.iter().position(|other| Arc::ptr_eq(other, &self.waiter)) {
            waiters.swap_remove(at);
        }
    }
}
