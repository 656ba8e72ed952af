//! What the old `/dev` and `/sys/dev/char` hold and no bind shows: nodes of devices, and
//! links. They are looked up outside, each time that somebody asks.
//!
//! What does not live here: which entries these are (`namespace`).

use std::{
    ffi::OsString,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use devmap_fuse::{Attr, Setattr};
use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, Uid},
    io::Errno,
};

use crate::nodes;

const SYS_DEV_CHAR: &str = "/sys/dev/char";

/// The node of a device at a path outside, as `node` of the file system.
pub(super) fn attr(path: &Path, node: u64) -> Option<Attr> {
    let status = path.symlink_metadata().ok()?;
    let time = |seconds: i64, nanoseconds: i64| {
        // Before 1970 is not a time of FUSE.
        let seconds = u64::try_from(seconds).unwrap_or(0);
        Duration::new(seconds, nanoseconds as u32)
    };
    let (major, minor) = (rustix::fs::major(status.rdev()), rustix::fs::minor(status.rdev()));
    Some(Attr {
        ino: status.ino(),
        nlink: status.nlink() as u32,
        uid: status.uid(),
        gid: status.gid(),
        rdev: devmap_fuse::device_number(major, minor),
        atime: time(status.atime(), status.atime_nsec()),
        mtime: time(status.mtime(), status.mtime_nsec()),
        ctime: time(status.ctime(), status.ctime_nsec()),
        ..Attr::new(node, status.mode())
    })
}

/// Changes the permissions or the owner of such a node; the kernel has seen to it that
/// the caller may.
pub(super) fn change(path: &Path, node: u64, change: &Setattr) -> Result<Attr, Errno> {
    let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
    if change.mode.is_none() && uid.is_none() && gid.is_none() {
        // Its times.
        return Err(Errno::PERM);
    }
    if uid.is_some() || gid.is_some() {
        rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if let Some(mode) = change.mode {
        rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    attr(path, node).ok_or(Errno::STALE)
}

/// Where a link of the old `/sys/dev/char` leads.
pub(super) fn link(node: u64) -> Option<PathBuf> {
    let path = Path::new(SYS_DEV_CHAR).join(nodes::link_name(node)?);
    path.read_link().ok()
}

/// The links of the old `/sys/dev/char`, with their nodes.
pub(super) fn links() -> Vec<(OsString, u64)> {
    let entries = std::fs::read_dir(SYS_DEV_CHAR).into_iter().flatten().flatten();
    let named = |name: OsString| nodes::link_node(&name).map(|node| (name, node));
    entries.filter_map(|entry| named(entry.file_name())).collect()
}
