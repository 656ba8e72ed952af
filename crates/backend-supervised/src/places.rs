//! Places for regular files outside of `/dev`: a mount needs a file to stand on.
//!
//! Where there is none, an empty one is made, and taken away when the last run that uses it
//! ends. Nobody else may take it away meanwhile: the mount would go with it. So each run holds
//! a shared lock on it.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

/// The mode by which an empty file that was made for this is known: the sticky bit means
/// nothing on a file.
const MODE: u32 = 0o1600;

/// A file to mount on.
pub(crate) struct Place {
    /// Without links.
    path: PathBuf,
    /// The file with a lock on it, if it was made to be a place.
    made: Option<OwnedFd>,
}

impl Place {
    /// The file at `path`, or a new one.
    ///
    /// # Errors
    /// The directory is not there, or may not be written.
    pub(crate) fn new(path: &Path) -> io::Result<Place> {
        let path = resolve(path)?;
        loop {
            match fs::symlink_metadata(&path) {
                Ok(found) if found.mode() & 0o7777 != MODE || found.len() > 0 => {
                    return Ok(Place { path, made: None });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            if let Some(made) = lock(&path)? {
                return Ok(Place { path, made: Some(made) });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    /// The run is over, or has not come to be: takes away what was made, if no other run uses
    /// it.
    fn drop(&mut self) {
        if let Some(made) = &self.made
            && rustix::fs::flock(made, FlockOperation::NonBlockingLockExclusive).is_ok()
            && is_at(made, &self.path)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The path without links; its last part need not be there.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    if path.is_symlink() {
        return path.canonicalize();
    }
    let (directory, name) = (path.parent(), path.file_name());
    match (directory, name) {
        (Some(directory), Some(name)) => Ok(directory.canonicalize()?.join(name)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Makes the place, or opens one that another run has made; `None` if that one has just gone.
fn lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(MODE);
    let file = OwnedFd::from(options.open(path)?);
    rustix::fs::flock(&file, FlockOperation::LockShared)?;
    Ok(is_at(&file, path).then_some(file))
}

/// Whether the file is (still) that of the path.
fn is_at(file: &OwnedFd, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (rustix::fs::fstat(file), fs::symlink_metadata(path)) else {
        return false;
    };
    (open.st_dev, open.st_ino) == (there.dev(), there.ino())
}
