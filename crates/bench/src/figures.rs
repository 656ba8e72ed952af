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
    /// A map of 64 KiB and its unmap
    Map,
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
            Figure::RunTrue => "devmap run -- true",
        }
    }

    /// What it is compared with.
    pub(crate) fn peer(self) -> &'static str {
        match self {
            Figure::Loads | Figure::Stores | Figure::TouchLoad | Figure::TouchStore => {
                "memfd map, filled"
            }
            Figure::Map => "memfd",
            Figure::Ioctl => "bare FUSE loop",
            Figure::RunFind | Figure::RunGit | Figure::RunGcc | Figure::RunTrue => "the program",
            _ => "no supervisor",
        }
    }

    /// The most that the ratio should be; `None` where it is only stated.
    pub(crate) fn goal(self, mode: Mode) -> Option<f64> {
        match (self, mode) {
            (Figure::Loads | Figure::Stores, _) => Some(1.02),
            (Figure::TouchLoad | Figure::TouchStore, _) => Some(1.1),
            (Figure::Ioctl, _) => Some(0.8),
            (Figure::Map, _) => Some(8.0),
            (Figure::Getpid, _) => Some(1.3),
            (Figure::Read | Figure::Write, _) => Some(1.1),
            (Figure::Open, Mode::Trapped) => Some(4.5),
            (Figure::Stat, Mode::Namespace) => Some(1.05),
            (Figure::Find | Figure::RunFind, Mode::Namespace) => Some(1.1),
            (Figure::Git | Figure::RunGit, Mode::Namespace) => Some(1.1),
            (Figure::Gcc | Figure::RunGcc, Mode::Namespace) => Some(1.25),
            _ => None,
        }
    }

    /// As `--only` calls it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
