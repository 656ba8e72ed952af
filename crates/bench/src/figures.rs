//! The figures: what each is called, what it is measured against, and its goal. How they
//! are measured stands in `measure`.

use clap::ValueEnum;

use crate::Mode;

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Figure {
    /// Loads from mapped memory
    Loads,
    /// Stores to mapped memory
    Stores,
    /// The first load from each page
    TouchLoad,
    /// The first store to each page
    TouchStore,
    /// An ioctl with 88 bytes in and out
    Ioctl,
    /// The same, by two clients at once
    Ioctl2,
    /// The same, by eight clients at once
    Ioctl8,
    /// A map of 64 KiB and its unmap
    Map,
    /// The first load from a page that is faulted
    Fault,
    /// Loads from faulted pages in their order
    Scan,
    /// The same, against memory that is filled before it is mapped
    ScanFilled,
    /// msync of faulted pages that were stored to, a page
    Msync,
    /// A system call that does nothing
    Getpid,
    /// A read of a byte from another file
    Read,
    /// A write of a byte to another file
    Write,
    /// Open and close of another file
    Open,
    /// stat of another file
    Stat,
    /// `find /usr` in a process that devmap serves already
    Find,
    /// `git status` of 30,000 files, likewise
    Git,
    /// `gcc -c` of a small file, likewise
    Gcc,
    /// `devmap run -- find /usr`
    RunFind,
    /// `devmap run -- git status`
    RunGit,
    /// `devmap run -- gcc -c`
    RunGcc,
    /// `devmap run -- true`
    RunTrue,
    /// The same, against `strace -f -o /dev/null true`
    RunTrueStrace,
    /// A page fault of the local home, served by the thread that needs the page
    LocalFault,
    /// A page fault of the local home, served by a handler thread
    LocalHandler,
    /// A scan of cached pages in a fresh map of the local home
    LocalScan,
    /// Checked loads of the local home
    LocalLoads,
    /// Reads anywhere in a file four times as large as memory, by the local home
    LocalRandom,
    /// The same by four threads
    LocalRandom4,
    /// A scan of a file that is not in memory, by the local home
    LocalSequential,
    /// What the local home holds in memory at most
    LocalHeld,
    /// Map and unmap of a page in the memory engine, among 10 areas
    EngineMap10,
    /// The same among 1,000 areas
    EngineMap1000,
    /// The same among 60,000 areas
    EngineMap60000,
    /// The search for an area of the memory engine, of 60,000
    EngineFind,
    /// A finished frame of 1920x1080 from the camera into the program's buffer
    CameraFrame,
    /// The same of a picture in which each line differs from the next
    CameraPicture,
    /// Frames of 640x480 from the camera, as fast as they come
    CameraStream,
    /// ffmpeg recording 1920x1080 at 30 frames a second: processor time
    CameraFfmpeg,
    /// How evenly frames come at 30 a second
    CameraSpread,
}

impl Figure {
    /// One line for people.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Figure::Loads => "loads from mapped memory, 256 KiB",
            Figure::Stores => "stores to mapped memory, 256 KiB",
            Figure::TouchLoad => "first load from a page",
            Figure::TouchStore => "first store to a page",
            Figure::Ioctl => "ioctl, 88 bytes in and out",
            Figure::Ioctl2 => "the same, two clients",
            Figure::Ioctl8 => "the same, eight clients",
            Figure::Map => "mmap + munmap of 64 KiB",
            Figure::Getpid => "getpid",
            Figure::Read => "read 1 byte of /dev/zero",
            Figure::Write => "write 1 byte to /dev/null",
            Figure::Open => "open + close of another file",
            Figure::Stat => "stat of another file",
            Figure::Find => "find /usr",
            Figure::Git => "git status, 30,000 files",
            Figure::Gcc => "gcc -c, a small file",
            Figure::RunFind => "devmap run -- find /usr",
            Figure::RunGit => "devmap run -- git status",
            Figure::RunGcc => "devmap run -- gcc -c",
            Figure::RunTrue | Figure::RunTrueStrace => "devmap run -- true",
            Figure::Fault => "first load from a faulted page",
            Figure::Scan | Figure::ScanFilled => "scan of faulted pages, a page",
            Figure::Msync => "msync of faulted pages, a page",
            Figure::LocalFault => "page fault, in thread",
            Figure::LocalHandler => "page fault, handler thread",
            Figure::LocalScan => "scan of 1 GiB, cached, a page",
            Figure::LocalLoads => "checked loads, 256 KiB",
            Figure::LocalRandom => "random 4 KiB, 1/4 fits, 1 thread",
            Figure::LocalRandom4 => "random 4 KiB, 1/4 fits, 4 threads",
            Figure::LocalSequential => "sequential scan of a cold file",
            Figure::LocalHeld => "memory held at most, bytes",
            Figure::EngineMap10 => "map + unmap among 10 areas",
            Figure::EngineMap1000 => "map + unmap among 1,000 areas",
            Figure::EngineMap60000 => "map + unmap among 60,000 areas",
            Figure::EngineFind => "find_vma of 60,000 areas",
            Figure::CameraFrame => "camera: a finished 1080p frame",
            Figure::CameraPicture => "the same, each line another",
            Figure::CameraStream => "camera: a drawn 640x480 frame",
            Figure::CameraFfmpeg => "camera: ffmpeg, 1080p, processor",
            Figure::CameraSpread => "camera: arrival at 30/s, p99",
        }
    }

    /// What it is compared with.
    pub(crate) fn peer(self) -> &'static str {
        match self {
            Figure::Loads | Figure::Stores | Figure::TouchLoad | Figure::TouchStore => {
                "memfd map, filled"
            }
            Figure::Map => "memfd",
            Figure::Ioctl | Figure::Ioctl2 | Figure::Ioctl8 => "bare FUSE loop",
            Figure::Fault | Figure::Scan | Figure::Msync => "bare FUSE loop",
            Figure::ScanFilled => "filled memfd",
            Figure::LocalFault | Figure::LocalHandler => "bare FUSE file",
            Figure::LocalScan => "memfd, filled",
            Figure::LocalLoads => "plain loads",
            Figure::LocalRandom | Figure::LocalRandom4 => "MADV_RANDOM",
            Figure::LocalSequential => "MADV_SEQUENTIAL",
            Figure::LocalHeld => "the limit",
            Figure::EngineMap10 | Figure::EngineMap1000 | Figure::EngineMap60000 => {
                "the system calls"
            }
            Figure::EngineFind => "BTreeMap",
            Figure::RunFind | Figure::RunGit | Figure::RunGcc | Figure::RunTrue => "the program",
            Figure::RunTrueStrace => "strace -f",
            Figure::CameraFrame | Figure::CameraPicture => "memcpy of it",
            Figure::CameraStream | Figure::CameraFfmpeg => "the same by a pipe",
            Figure::CameraSpread => "timerfd loop",
            _ => "no supervisor",
        }
    }

    /// The most that the ratio should be; `None` where it is only stated.
    pub(crate) fn goal(self, mode: Mode) -> Option<f64> {
        match (self, mode) {
            (Figure::Loads | Figure::Stores, _) => Some(1.02),
            (Figure::TouchLoad | Figure::TouchStore, _) => Some(1.1),
            (Figure::Ioctl | Figure::Ioctl2 | Figure::Ioctl8, _) => Some(0.8),
            (Figure::Map, _) => Some(8.0),
            (Figure::Fault | Figure::Msync, Mode::Namespace) => Some(1.1),
            (Figure::Scan, Mode::Namespace) => Some(0.8),
            (Figure::Getpid, _) => Some(1.3),
            (Figure::Read | Figure::Write, _) => Some(1.1),
            (Figure::Open, Mode::Trapped) => Some(4.5),
            (Figure::Stat, Mode::Namespace) => Some(1.05),
            (Figure::Find | Figure::RunFind, Mode::Namespace) => Some(1.1),
            (Figure::Git | Figure::RunGit, Mode::Namespace) => Some(1.1),
            (Figure::Gcc | Figure::RunGcc, Mode::Namespace) => Some(1.25),
            (Figure::RunTrueStrace, _) => Some(0.5),
            (Figure::LocalFault, _) => Some(0.5),
            (Figure::LocalHandler, _) => Some(1.0),
            (Figure::LocalScan, _) => Some(1.5),
            (Figure::LocalLoads, _) => Some(2.0),
            // Times: at least the peer's throughput.
            (Figure::LocalRandom | Figure::LocalRandom4 | Figure::LocalSequential, _) => Some(1.0),
            (Figure::LocalHeld, _) => Some(1.05),
            (Figure::EngineMap10 | Figure::EngineMap1000 | Figure::EngineMap60000, _) => Some(0.3),
            (Figure::EngineFind, _) => Some(1.5),
            (Figure::CameraFrame | Figure::CameraPicture, _) => Some(1.1),
            (Figure::CameraStream, _) => Some(0.5),
            (Figure::CameraFfmpeg, _) => Some(0.7),
            (Figure::CameraSpread, _) => Some(1.5),
            _ => None,
        }
    }

    /// The one home, or mode, that it is of; `None`: the supervised one, in each mode.
    pub(crate) fn home(self) -> Option<Mode> {
        match self {
            Figure::LocalFault
            | Figure::LocalHandler
            | Figure::LocalScan
            | Figure::LocalLoads
            | Figure::LocalRandom
            | Figure::LocalRandom4
            | Figure::LocalSequential
            | Figure::LocalHeld => Some(Mode::Local),
            Figure::EngineMap10
            | Figure::EngineMap1000
            | Figure::EngineMap60000
            | Figure::EngineFind => Some(Mode::Simulated),
            // What is supplied when it is mapped is never faulted.
            Figure::Fault | Figure::Scan | Figure::ScanFilled | Figure::Msync => {
                Some(Mode::Namespace)
            }
            _ => None,
        }
    }

    /// Whether on both sides a client is served by another process, so that the two may run at
    /// once.
    pub(crate) fn is_served(self) -> bool {
        use Figure::{CameraStream, Fault, Ioctl, Ioctl2, Ioctl8, Msync, Scan};
        matches!(self, Ioctl | Ioctl2 | Ioctl8 | Fault | Scan | Msync | CameraStream)
    }

    /// As `--only` calls it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
