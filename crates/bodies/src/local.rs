//! The file on the local home, by its checked accessors.

use std::path::PathBuf;

use devmap_backend_local::{Error, File, LocalOptions, MapOptions, Mapping, Node, OpenMode};
use devmap_devices_host::file::{self, Options};
use tempfile::TempDir;

use crate::{Errno, Gone, Home, Kind, Map, Mode, Opened};

/// A home in this process, with the device `file`.
pub struct LocalHome {
    node: Node,
    path: PathBuf,
    _directory: TempDir,
}

impl LocalHome {
    /// A home made so, with the device `file` for a plain one.
    pub fn fresh(options: LocalOptions) -> LocalHome {
        let (_directory, path) = crate::fresh_file();
        let home = options.build().expect("a home");
        let device = file::File::new(home.platform(), &Options::read_write(&path));
        let node = home.add("/data/file", device.expect("the file")).expect("a device");
        LocalHome { node, path, _directory }
    }
}

fn errno(error: &Error) -> Errno {
    error.errno().raw()
}

impl Home for LocalHome {
    fn page(&self) -> usize {
        rustix::param::page_size()
    }

    fn open(&self, mode: Mode) -> Result<Box<dyn Opened>, Errno> {
        let mode = match mode {
            Mode::Read => OpenMode::ReadOnly,
            Mode::ReadWrite => OpenMode::ReadWrite,
        };
        Ok(Box::new(LocalFile(self.node.open(mode).map_err(|error| errno(&error))?)))
    }

    fn stored(&self) -> Vec<u8> {
        std::fs::read(&self.path).expect("the content can be read")
    }
}

struct LocalFile(File);

impl Opened for LocalFile {
    fn map(&self, kind: Kind, offset: u64, len: usize) -> Result<Box<dyn Map>, Errno> {
        let options = MapOptions::new().offset(offset).len(len as u64);
        let options = match kind {
            Kind::SharedRead => options,
            Kind::Shared => options.writable(),
            Kind::Private => options.writable().private(),
        };
        Ok(Box::new(LocalMap(self.0.map(&options).map_err(|error| errno(&error))?)))
    }

    fn truncate(&self, len: u64) -> Result<(), Errno> {
        self.0.truncate(len).map_err(|error| errno(&error))
    }
}

struct LocalMap(Mapping);

/// A checked accessor answers an error where a plain access would be a `SIGBUS`.
fn gone(_error: Error) -> Gone {
    Gone::Bus
}

impl Map for LocalMap {
    fn load(&self, at: usize, into: &mut [u8]) -> Result<(), Gone> {
        self.0.read_at(at, into).map_err(gone)
    }

    fn store(&self, at: usize, from: &[u8]) -> Result<(), Gone> {
        self.0.write_at(at, from).map_err(gone)
    }

    fn sync(&self) -> Result<(), Errno> {
        self.0.sync(0..self.0.len()).map_err(|error| errno(&error))
    }
}
