//! The device `file`: the content of a file, to read and map, and with `access=rw` to
//! change too.
//!
//! It is a regular file to programs. What they store in shared maps comes back here by
//! [`Device::write_back`] and goes into the file, whose length stores never change.

use std::{
    fs, io,
    marker::PhantomData,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use devmap_driver::{
    Device, Errno, Fault, Fsync, Kind, Metadata, NewPage, Open, OptionError, OptionSpec, Platform,
    Store, Supply, Transfer,
};

use devmap_sys::probe;
use rustix::fs::OFlags;

/// What `--device PATH=NAME` calls it.
pub const NAME: &str = "file";
/// One line of help.
pub const ABOUT: &str =
    "a file's content as a regular file: read, map, and with access=rw change it";
/// What it takes.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "path",
        value: "PATH",
        default: "",
        help: "the file; `file:PATH` for short",
    },
    OptionSpec {
        name: "access",
        value: "ACCESS",
        default: "ro",
        help: "ro: programs read it, and map it privately; rw: their changes reach the file",
    },
];

/// The most bytes of one `write` that are taken in at once.
const CHUNK: usize = 128 << 10;
/// After so many ranges of which the kernel has nothing cached, it is asked about one in so
/// many.
const SURE: u32 = 16;

/// The options of [`File`].
#[derive(Clone, Debug, Default)]
pub struct Options {
    path: PathBuf,
    access: Access,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Access {
    #[default]
    ReadOnly,
    ReadWrite,
}

impl Options {
    /// A file to be read.
    pub fn read_only(path: impl Into<PathBuf>) -> Options {
        Options { path: path.into(), access: Access::ReadOnly }
    }

    /// A file to be read and changed.
    pub fn read_write(path: impl Into<PathBuf>) -> Options {
        Options { path: path.into(), access: Access::ReadWrite }
    }

    /// Sets one option from text.
    ///
    /// # Errors
    /// [`OptionError`]: no such key, or not such a value; for a path, also what is
    /// there now.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        match key {
            "path" => {
                if !is_regular(Path::new(value)) {
                    return Err(OptionError::BadValue("a regular file that is there"));
                }
                self.path = value.into();
            }
            "access" => {
                self.access = match value {
                    "ro" => Access::ReadOnly,
                    "rw" => Access::ReadWrite,
                    _ => return Err(OptionError::BadValue("ro or rw")),
                }
            }
            _ => return Err(OptionError::Unknown),
        }
        Ok(())
    }
}

fn is_regular(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// The device.
pub struct File<P> {
    file: fs::File,
    /// The same file, read past the kernel's page cache: the home has one of its own. `None`
    /// where its file system has no such reads.
    direct: Option<fs::File>,
    /// So many ranges in a row of which the kernel's page cache had nothing.
    uncached: AtomicU32,
    access: Access,
    platform: PhantomData<fn() -> P>,
    page_len: u64,
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
}

impl<P: Platform> File<P> {
    /// # Errors
    /// As `open(2)` of the file; `EINVAL` unless it is a regular one.
    pub fn new(platform: &P, options: &Options) -> Result<File<P>, Errno> {
        let writable = options.access == Access::ReadWrite;
        if !is_regular(&options.path) {
            // Before it is opened: opening a pipe would wait for its other end.
            return Err(fs::metadata(&options.path).err().map_or(Errno::EINVAL, errno));
        }
        let file =
            fs::File::options().read(true).write(writable).open(&options.path).map_err(errno)?;
        let direct = fs::File::options()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(&options.path)
            .ok();
        let page_len = platform.page_size().bytes();
        let uncached = AtomicU32::new(0);
        Ok(File { direct, file, uncached, access: options.access, platform: PhantomData, page_len })
    }

    fn size(&self) -> Result<u64, Errno> {
        // The shorter call of the two there are: it comes with each page.
        let stat = rustix::fs::fstat(&self.file).map_err(|error| errno(error.into()))?;
        u64::try_from(stat.st_size).map_err(|_| Errno::EIO)
    }

    fn may_write(&self) -> Result<(), Errno> {
        if self.access == Access::ReadWrite { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Whether all pages of a range are in the kernel's page cache. A direct read finds what is
    /// there too, only not as fast: so where nothing was for a while, it is not asked each
    /// time.
    fn is_cached(&self, offset: u64, pages: u64) -> bool {
        let uncached = self.uncached.load(Ordering::Relaxed);
        if uncached >= SURE && !uncached.is_multiple_of(SURE) {
            self.uncached.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        match probe::cached_pages(self.file.as_fd(), offset, pages * self.page_len) {
            Ok(0) => {
                self.uncached.fetch_add(1, Ordering::Relaxed);
                false
            }
            Ok(cached) => {
                self.uncached.store(0, Ordering::Relaxed);
                cached == pages
            }
            // Then as every reader does.
            Err(_) => true,
        }
    }

    /// Fills whole pages from the file as far as it goes: how many bytes. What the kernel has
    /// cached is copied; else, into memory that direct reads take, it is not cached twice.
    fn read_pages(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let pages = into.len() as u64 / self.page_len;
        let aligned = into.as_ptr().addr().is_multiple_of(self.page_len as usize);
        let mut done = 0;
        if let Some(direct) = self.direct.as_ref().filter(|_| aligned)
            && !self.is_cached(offset, pages)
        {
            // What it leaves, at the latest at the file's end, is read as ever.
            done = direct.read_at(into, offset).unwrap_or(0);
        }
        while done < into.len() {
            match self.file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(done)
    }
}

impl<P: Platform> Device<P> for File<P> {
    type File = ();

    fn open(&self, open: &Open) -> Result<(), Errno> {
        if open.flags.write { self.may_write() } else { Ok(()) }
    }

    fn metadata(&self) -> Metadata {
        let mode = if self.access == Access::ReadWrite { 0o666 } else { 0o444 };
        // A file that cannot be asked has no page to give.
        let size = self.size().unwrap_or(0);
        Metadata { kind: Kind::Regular { size }, mode, ..Metadata::CHARACTER }
    }

    fn fault(
        &self,
        _file: &(),
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<P::Memory>, Errno> {
        let offset = fault.page.checked_mul(self.page_len).ok_or(Errno::EIO)?;
        match self.read_pages(offset, page.bytes()?)? {
            0 => Err(Errno::EIO),
            _ => Ok(Supply::Filled),
        }
    }

    /// The read itself says where the file ends.
    fn fault_checks_end(&self) -> bool {
        true
    }

    fn readahead(&self, _file: &(), first_page: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        let offset = first_page.checked_mul(self.page_len).ok_or(Errno::EIO)?;
        let read = self.read_pages(offset, bytes)?;
        // What is left of the last page is zeros.
        Ok(read.next_multiple_of(self.page_len as usize).min(bytes.len()))
    }

    fn store(&self) -> Store {
        Store::Device
    }

    /// Nothing past the end, though the file may have become shorter since the home looked.
    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let left = self.size()?.saturating_sub(offset).min(bytes.len() as u64);
        self.file.write_all_at(&bytes[..left as usize], offset).map_err(errno)
    }

    fn fsync(&self, _file: &(), what: Fsync) -> Result<(), Errno> {
        match what {
            Fsync::Data => self.file.sync_data(),
            Fsync::All => self.file.sync_all(),
        }
        .map_err(errno)
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.may_write()?;
        self.file.set_len(size).map_err(errno)
    }

    fn write(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.may_write()?;
        let len = transfer.user().len();
        let mut chunk = vec![0; len.min(CHUNK)];
        let mut done = 0;
        while done < len {
            let part = &mut chunk[..(len - done).min(CHUNK)];
            transfer.user().slice(done, part.len())?.copy_in(part)?;
            match self.file.write_at(part, transfer.position() + done as u64) {
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What went before is written.
                Err(_) if done > 0 => break,
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(done)
    }
}
