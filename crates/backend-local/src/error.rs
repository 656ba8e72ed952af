//! Why an access, a map or a write-back failed.

use std::io;

use devmap_driver::Errno;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The range is not inside the mapping.
    #[error("byte {at} is outside of the mapping, which has {len}")]
    Outside {
        /// The first byte that was asked for.
        at: usize,
        /// The bytes of the mapping.
        len: usize,
    },
    /// The range ends before it begins.
    #[error("the range begins at byte {start} and ends before that, at {end}")]
    Reversed {
        /// Its first byte.
        start: usize,
        /// The byte after its last.
        end: usize,
    },
    /// The place is not a multiple of the word's size.
    #[error("byte {at} is not a multiple of the word's size")]
    Misaligned {
        /// The byte.
        at: usize,
    },
    /// The mapping was made for reading only.
    #[error("the mapping is read-only")]
    ReadOnly,
    /// The file ends before this page: it is shorter than when it was mapped, or always
    /// was. A plain access gets SIGBUS.
    #[error("page {page} lies past the end of the file, which has {size} bytes")]
    PastEnd {
        /// The page of the file.
        page: u64,
        /// The bytes of the file now.
        size: u64,
    },
    /// The device, or the kernel, refused.
    #[error("{call} of page {page}: {errno}")]
    Failed {
        /// The driver's method, or the system call.
        call: &'static str,
        /// The page of the device.
        page: u64,
        /// What it said.
        errno: Errno,
    },
    /// The device or the kernel refused something that is of no one page.
    #[error("{call}: {errno}")]
    Refused {
        /// The driver's method, or the system call.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },
    /// All of a device was to be mapped that is no regular file.
    #[error(
        "mmap: EINVAL: the device is no regular file, so it has no length of its own: say how \
         much to map by `MapOptions::len`"
    )]
    NoLength,
    /// This is a child that was forked from the process that made the mapping, and does
    /// not have the page.
    #[error("the mapping belongs to the parent of this process")]
    Forked,
}

impl Error {
    /// The errno that a system call would answer.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Outside { .. }
            | Error::Reversed { .. }
            | Error::Misaligned { .. }
            | Error::NoLength => Errno::EINVAL,
            Error::ReadOnly => Errno::EACCES,
            Error::PastEnd { .. } | Error::Forked => Errno::EFAULT,
            Error::Failed { errno, .. } | Error::Refused { errno, .. } => *errno,
        }
    }

    /// A system call's refusal.
    pub(crate) fn system(call: &'static str, error: &io::Error) -> Error {
        let errno = error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO);
        Error::Refused { call, errno }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = io::Error::from_raw_os_error(error.errno().raw()).kind();
        io::Error::new(kind, error)
    }
}
