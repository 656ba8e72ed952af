//! Mounting by `fusermount3`, the setuid helper of libfuse, for users who may not open
//! `/dev/fuse` themselves.

use super::{NamespaceError, receive_bytes};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAM: &str = "fusermount3";

/// A file system mounted on a directory of its own. Dropping takes it from there; copies in
/// other name spaces stay.
#[derive(Debug)]
pub(super) struct Fusermount {
    directory: PathBuf,
}

impl Fusermount {
    /// Mounts, and gives the descriptor over which the file system is to be served.
    pub(super) fn mount() -> Result<(Fusermount, OwnedFd), NamespaceError> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| NamespaceError::new("socketpair", error))?;
        let directory = tempfile::Builder::new()
            .prefix("devmap-")
            .tempdir()
            .map_err(|error| NamespaceError::new("make a temporary directory", error))?;
        // The helper sends the descriptor over the one that this variable names; as its
        // standard input no other process can inherit it by accident.
        let output = Command::new(PROGRAM)
            .args(["-o", "rw,nosuid,nodev,default_permissions,fsname=devmap,subtype=devmap"])
            .arg("--")
            .arg(directory.path())
            .env("_FUSE_COMMFD", "0")
            .stdin(theirs)
            .stdout(Stdio::null())
            .output()
            .map_err(|error| NamespaceError::new(format!("run {PROGRAM}"), error))?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(NamespaceError::other(PROGRAM, reason));
        }
        // From here on the directory is not to be removed with its content.
        let mounted = Fusermount { directory: directory.keep() };
        match receive_bytes(ours.as_fd(), &mut [0]) {
            Ok((_, Some(fuse))) => Ok((mounted, fuse)),
            Ok((_, None)) => Err(NamespaceError::other(PROGRAM, "no descriptor came")),
            Err(error) => Err(NamespaceError::new(PROGRAM, error)),
        }
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Fusermount {
    fn drop(&mut self) {
        // If either fails an empty directory stays, or one whose server will be gone.
        let _ = Command::new(PROGRAM)
            .args(["-u", "-q", "-z", "--"])
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = std::fs::remove_dir(&self.directory);
    }
}
