//! userfaultfd(2): page faults of this process, told to a thread of it.
//!
//! Every call names a [`Span`] and bytes within it, so no memory but that of spans can
//! be reached. What does not live here: which page is supplied when, and by whom.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::check;
use crate::probe;
use crate::span::Span;

/// `UFFD_API` of linux/userfaultfd.h.
const API: u64 = 0xaa;
const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
const FEATURE_SIGBUS: u64 = 1 << 7;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
/// Linux 6.4, which also brought `UFFDIO_CONTINUE_MODE_WP`.
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
/// Linux 6.6.
const FEATURE_POISON: u64 = 1 << 14;

const REGISTER_MODE_MISSING: u64 = 1 << 0;
const REGISTER_MODE_WP: u64 = 1 << 1;
const REGISTER_MODE_MINOR: u64 = 1 << 2;
/// `UFFDIO_COPY_MODE_WP`, `UFFDIO_CONTINUE_MODE_WP`.
const MODE_WP: u64 = 1 << 1;
/// `UFFDIO_WRITEPROTECT_MODE_WP`.
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

const EVENT_PAGEFAULT: u8 = 0x12;
const PAGEFAULT_FLAG_WRITE: u64 = 1 << 0;
const PAGEFAULT_FLAG_WP: u64 = 1 << 1;

/// `_IOWR(UFFDIO, number, T)`.
const fn iowr<T>(number: u64) -> libc::c_ulong {
    (3 << 30) | ((size_of::<T>() as u64) << 16) | (API << 8) | number
}

/// `_IOR(UFFDIO, number, T)`.
const fn ior<T>(number: u64) -> libc::c_ulong {
    (2 << 30) | ((size_of::<T>() as u64) << 16) | (API << 8) | number
}

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdRange {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: UffdRange,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// `struct uffdio_continue` and `struct uffdio_poison`, which are alike.
#[repr(C)]
struct Continue {
    range: UffdRange,
    mode: u64,
    mapped: i64,
}

#[repr(C)]
struct WriteProtect {
    range: UffdRange,
    mode: u64,
}

/// `struct uffd_msg` as far as page faults go.
#[repr(C)]
#[derive(Default)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

/// Whether the pages that are installed may be written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    /// As the area permits.
    AsMapped,
    /// The first store is told ([`Cause::WriteProtected`]).
    WriteProtected,
}

impl Install {
    fn mode(self) -> u64 {
        match self {
            Install::AsMapped => 0,
            Install::WriteProtected => MODE_WP,
        }
    }
}

/// Why a thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A load from a page that is not there, or not mapped.
    Load,
    /// A store to one.
    Store,
    /// A store to a page that is write-protected.
    WriteProtected,
}

/// A page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The first address of the page.
    pub address: usize,
    /// What was tried.
    pub cause: Cause,
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
    features: u64,
}

impl Userfaultfd {
    /// Asks for one that also takes faults of system calls, and where that is refused, for
    /// one of user-mode faults: a system call then fails with `EFAULT` on such a page.
    ///
    /// # Errors
    /// Those of userfaultfd(2): `EPERM` where a sandbox forbids it, `ENOSYS`; `EINVAL` when
    /// the kernel cannot do shared memory (before 5.14).
    pub fn new() -> io::Result<Userfaultfd> {
        Self::with(0)
    }

    /// One that tells of no fault: a guarded access to a page that is not there fails, any
    /// other gets SIGBUS.
    ///
    /// # Errors
    /// As of [`Userfaultfd::new`].
    pub fn untold() -> io::Result<Userfaultfd> {
        Self::with(FEATURE_SIGBUS)
    }

    fn with(feature: u64) -> io::Result<Userfaultfd> {
        let fd = probe::userfaultfd(false).or_else(|_| probe::userfaultfd(true))?;
        // Features that the kernel lacks are refused, and another try needs a new one: so
        // ask first which there are.
        let asked = Self::handshake(&fd, 0)?;
        let needed = FEATURE_MISSING_SHMEM | FEATURE_MINOR_SHMEM | feature;
        if asked & needed != needed {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let wanted = needed
            | FEATURE_PAGEFAULT_FLAG_WP
            | FEATURE_WP_HUGETLBFS_SHMEM
            | FEATURE_WP_UNPOPULATED
            | FEATURE_POISON;
        let fd = probe::userfaultfd(false).or_else(|_| probe::userfaultfd(true))?;
        let features = asked & wanted;
        Self::handshake(&fd, features)?;
        Ok(Userfaultfd { fd, features })
    }

    fn handshake(fd: &OwnedFd, features: u64) -> io::Result<u64> {
        let mut api = Api { api: API, features, ioctls: 0 };
        // SAFETY: `api` is the structure of this ioctl, and lives through the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), iowr::<Api>(0x3f), &mut api) })?;
        Ok(api.features)
    }

    /// Whether stores to pages that are there can be told (Linux 6.4 for shared memory).
    pub fn can_write_protect(&self) -> bool {
        self.features & FEATURE_WP_UNPOPULATED != 0
    }

    /// Whether pages can be made to fail with SIGBUS (Linux 6.6).
    pub fn can_poison(&self) -> bool {
        self.features & FEATURE_POISON != 0
    }

    /// Asks for the faults of `bytes` of `span`: missing and unmapped pages, and stores to
    /// write-protected ones where `writes` asks for them.
    ///
    /// # Errors
    /// Those of `UFFDIO_REGISTER`.
    pub fn register(&self, span: &Span, bytes: Range<usize>, writes: Install) -> io::Result<()> {
        let writes = match writes {
            Install::AsMapped => 0,
            Install::WriteProtected => REGISTER_MODE_WP,
        };
        let mode = REGISTER_MODE_MISSING | REGISTER_MODE_MINOR | writes;
        let mut register = Register { range: range(span, &bytes)?, mode, ioctls: 0 };
        self.ioctl(iowr::<Register>(0x00), &mut register)
    }

    /// Leaves the faults of `bytes` to the kernel: a page that is not there becomes zeros.
    ///
    /// # Errors
    /// Those of `UFFDIO_UNREGISTER`.
    pub fn unregister(&self, span: &Span, bytes: Range<usize>) -> io::Result<()> {
        self.ioctl(ior::<UffdRange>(0x01), &mut range(span, &bytes)?)
    }

    /// Lets the threads that wait for `bytes` try again.
    ///
    /// # Errors
    /// Those of `UFFDIO_WAKE`.
    pub fn wake(&self, span: &Span, bytes: Range<usize>) -> io::Result<()> {
        self.ioctl(ior::<UffdRange>(0x02), &mut range(span, &bytes)?)
    }

    /// Supplies missing pages with `content`, whole pages, and lets those who wait go on:
    /// how many bytes, until a page that was there already.
    ///
    /// # Errors
    /// `EEXIST` when the first page was there already; others of `UFFDIO_COPY`.
    pub fn copy(
        &self,
        span: &Span,
        at: usize,
        content: &[u8],
        install: Install,
    ) -> io::Result<usize> {
        let to = range(span, &(at..at.saturating_add(content.len())))?;
        let src = content.as_ptr() as u64;
        let mut copy = Copy { dst: to.start, src, len: to.len, mode: install.mode(), copy: 0 };
        match self.ioctl(iowr::<Copy>(0x03), &mut copy) {
            Err(_) if copy.copy > 0 => Ok(copy.copy as usize),
            Err(error) => Err(error),
            Ok(()) => Ok(content.len()),
        }
    }

    /// Maps pages that are in the file and not mapped here, and lets those who wait go on:
    /// how many bytes, until a page that was mapped already.
    ///
    /// # Errors
    /// `EEXIST` when the first page was mapped already, `EFAULT` when it is not in the
    /// file; others of `UFFDIO_CONTINUE`.
    pub fn map(&self, span: &Span, bytes: Range<usize>, install: Install) -> io::Result<usize> {
        let range = range(span, &bytes)?;
        let mut this = Continue { range, mode: install.mode(), mapped: 0 };
        match self.ioctl(iowr::<Continue>(0x07), &mut this) {
            Err(_) if this.mapped > 0 => Ok(this.mapped as usize),
            Err(error) => Err(error),
            Ok(()) => Ok(bytes.len()),
        }
    }

    /// Has stores to `bytes` told, or permits them and lets those who wait go on.
    ///
    /// # Errors
    /// Those of `UFFDIO_WRITEPROTECT`.
    pub fn write_protect(
        &self,
        span: &Span,
        bytes: Range<usize>,
        install: Install,
    ) -> io::Result<()> {
        let mode = match install {
            Install::AsMapped => 0,
            Install::WriteProtected => WRITEPROTECT_MODE_WP,
        };
        let mut protect = WriteProtect { range: range(span, &bytes)?, mode };
        self.ioctl(iowr::<WriteProtect>(0x06), &mut protect)
    }

    /// Makes accesses to missing pages fail with SIGBUS, those that wait too.
    ///
    /// # Errors
    /// `EEXIST` when a page is there; others of `UFFDIO_POISON`.
    pub fn poison(&self, span: &Span, bytes: Range<usize>) -> io::Result<()> {
        let mut poison = Continue { range: range(span, &bytes)?, mode: 0, mapped: 0 };
        self.ioctl(iowr::<Continue>(0x08), &mut poison)
    }

    /// Waits for the next fault.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn next(&self) -> io::Result<PageFault> {
        loop {
            let mut message = Message::default();
            // SAFETY: `message` is writable for its size, and any bytes are a value of it.
            let got = check(unsafe {
                libc::read(
                    self.fd.as_fd().as_raw_fd(),
                    (&raw mut message).cast(),
                    size_of::<Message>(),
                )
            });
            match got {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) if message.event == EVENT_PAGEFAULT => {
                    let cause = match message.flags {
                        flags if flags & PAGEFAULT_FLAG_WP != 0 => Cause::WriteProtected,
                        flags if flags & PAGEFAULT_FLAG_WRITE != 0 => Cause::Store,
                        _ => Cause::Load,
                    };
                    return Ok(PageFault { address: message.address as usize, cause });
                }
                // No other event was asked for.
                Ok(_) => {}
            }
        }
    }

    fn ioctl<T>(&self, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
        loop {
            // SAFETY: `argument` is the structure of the request, whose size the request
            // number carries; the addresses in it were checked to lie in a span, whose
            // memory is only accessed in ways that stand a page coming or waiting.
            let done =
                check(unsafe { libc::ioctl(self.fd.as_raw_fd(), request, &raw mut *argument) });
            match done {
                // The map was being changed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map(drop),
            }
        }
    }
}

fn range(span: &Span, bytes: &Range<usize>) -> io::Result<UffdRange> {
    let start = span.address_of(bytes)?;
    Ok(UffdRange { start: start as u64, len: bytes.len() as u64 })
}
