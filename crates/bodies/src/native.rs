//! The file by system calls: what Linux does, or what a program under `devmap run` sees.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use devmap_sys::{
    mapping::{Mapping, Permission as Permitted, Protection, Sharing},
    process,
};
use rustix::process::{WaitOptions, waitpid};
use tempfile::TempDir;

use crate::{Errno, Gone, Home, Kind, Map, Mode, Opened, Permission, Space};

/// A file under a path.
pub struct NativeHome {
    file: PathBuf,
    content: PathBuf,
    _directory: Option<TempDir>,
}

impl NativeHome {
    /// The file to map, and where its content is seen otherwise: the same path for a file
    /// that is no device.
    pub fn new(file: &Path, content: &Path) -> NativeHome {
        NativeHome { file: file.into(), content: content.into(), _directory: None }
    }

    /// A plain file.
    pub fn fresh() -> NativeHome {
        let (directory, path) = crate::fresh_file();
        NativeHome { _directory: Some(directory), ..NativeHome::new(&path, &path) }
    }
}

fn errno(error: io::Error) -> Errno {
    error.raw_os_error().unwrap_or_else(|| panic!("no error of a system call: {error}"))
}

impl Home for NativeHome {
    fn page(&self) -> usize {
        rustix::param::page_size()
    }

    fn open(&self, mode: Mode) -> Result<Box<dyn Opened>, Errno> {
        let writes = mode == Mode::ReadWrite;
        let file = File::options().read(true).write(writes).open(&self.file).map_err(errno)?;
        Ok(Box::new(NativeFile(file)))
    }

    fn stored(&self) -> Vec<u8> {
        fs::read(&self.content).expect("the content can be read")
    }
}

struct NativeFile(File);

impl Opened for NativeFile {
    fn map(&self, kind: Kind, offset: u64, len: usize) -> Result<Box<dyn Map>, Errno> {
        let (protection, sharing) = match kind {
            Kind::SharedRead => (Protection::Read, Sharing::Shared),
            Kind::Shared => (Protection::ReadWrite, Sharing::Shared),
            Kind::Private => (Protection::ReadWrite, Sharing::Private),
        };
        let map = Mapping::new(self.0.as_fd(), offset, len, protection, sharing);
        Ok(Box::new(NativeMap(map.map_err(errno)?)))
    }

    fn truncate(&self, len: u64) -> Result<(), Errno> {
        self.0.set_len(len).map_err(errno)
    }
}

struct NativeMap(Mapping);

impl NativeMap {
    /// Has a child make the access first: what it dies of, this process is spared.
    fn try_first(&self, access: &dyn Fn() -> io::Result<()>) -> Result<(), Gone> {
        let status = in_child(|| access().is_ok());
        match status.terminating_signal() {
            None => Ok(()),
            Some(signal) if signal == rustix::process::Signal::SEGV.as_raw() => Err(Gone::Segv),
            Some(signal) if signal == rustix::process::Signal::BUS.as_raw() => Err(Gone::Bus),
            Some(signal) => panic!("signal {signal}"),
        }
    }
}

fn in_child(child: impl FnOnce() -> bool) -> rustix::process::WaitStatus {
    let pid = process::fork_to(|| u8::from(!child())).expect("a child");
    let ended = waitpid(Some(pid), WaitOptions::empty()).expect("it is ours");
    ended.expect("it was waited for").1
}

impl Map for NativeMap {
    fn load(&self, at: usize, into: &mut [u8]) -> Result<(), Gone> {
        self.try_first(&|| self.0.read(at, &mut vec![0; into.len()]))?;
        self.0.read(at, into).expect("inside the map");
        Ok(())
    }

    fn store(&self, at: usize, from: &[u8]) -> Result<(), Gone> {
        self.try_first(&|| self.0.write(at, from))?;
        self.0.write(at, from).expect("inside the map");
        Ok(())
    }

    fn sync(&self) -> Result<(), Errno> {
        self.0.sync().map_err(errno)
    }

    fn space(&self) -> Option<&dyn Space> {
        Some(self)
    }
}

impl Space for NativeMap {
    fn protect(&self, page: usize, permission: Permission) -> Result<(), Errno> {
        let permitted = match permission {
            Permission::Nothing => Permitted::Nothing,
            Permission::Read => Permitted::Read,
            Permission::ReadWrite => Permitted::ReadWrite,
        };
        let size = rustix::param::page_size();
        self.0.protect(page * size..(page + 1) * size, permitted).map_err(errno)
    }

    fn dont_need(&self) -> Result<(), Errno> {
        self.0.dont_need().map_err(errno)
    }

    fn fork(&self, child: &mut dyn FnMut(&dyn Map) -> bool) -> bool {
        in_child(|| child(self)).exit_status() == Some(0)
    }
}
