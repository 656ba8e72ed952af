//! Directories in trapped mode: those in which something of devmap's stands beside what is
//! there in truth, and those that are devmap's alone.
//!
//! The first are opened in truth, with a number at which the filter notifies `getdents64`;
//! when the kernel's entries are at their end, devmap's come. The others are made, as a tree
//! of files in a temporary directory, when one of them is opened first. Both only where a
//! device has a class: else no open of a directory is notified.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::symlink},
    },
    path::Path,
};

use devmap_sys::{
    process,
    seccomp::{Notification, Reply},
};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatxFlags};
use tempfile::TempDir;

use super::{
    Trapped, files,
    numbers::{self, NotGiven, Numbers},
    paths::Entry,
};
use crate::{client, notify::Call};

/// As many listings are kept; programs read one at a time.
const MOST: usize = 64;
/// The most that one call gives.
const LARGEST: usize = 1 << 15;

/// An open directory that is being read.
struct Listing {
    /// The client's open file: both read on at one place.
    directory: OwnedFd,
    /// Entries that the kernel does not know, and their types (`DT_*`).
    left: Vec<(OsString, u8)>,
}

/// The directories that clients read.
#[derive(Default)]
pub(super) struct Listings {
    /// By process and number.
    open: Mutex<HashMap<(u32, u32), Listing>>,
    made: Mutex<Option<TempDir>>,
}

impl Listings {
    /// Whether a path is of what was made.
    pub(super) fn have_made(&self, path: &Path) -> bool {
        self.made.lock().as_ref().is_some_and(|made| path.starts_with(made.path()))
    }

    /// Removes what was made.
    pub(super) fn clear(&self) {
        self.open.lock().clear();
        self.made.lock().take();
    }
}

fn open_directory(path: &Path, flags: u32) -> rustix::io::Result<OwnedFd> {
    let kept = (libc::O_NONBLOCK | libc::O_NOATIME).cast_unsigned();
    let flags = OFlags::from_bits_retain(flags & kept) | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Opens a directory that is devmap's alone.
pub(super) fn open_made(
    trapped: &Trapped,
    call: &Call<'_>,
    path: &Path,
    flags: u32,
) -> Option<Reply> {
    let mut made = trapped.listings.made.lock();
    let result = match &mut *made {
        Some(made) => Ok(made),
        made => make(&trapped.paths.entries).map(|tree| made.insert(tree)),
    };
    let inside = path.strip_prefix("/").unwrap_or(path);
    let opened = result.and_then(|tree| Ok(open_directory(&tree.path().join(inside), flags)?));
    let close_on_exec = flags & libc::O_CLOEXEC.cast_unsigned() != 0;
    match opened.and_then(|directory| call.give(&directory, close_on_exec)) {
        Ok(()) => None,
        Err(error) => Some(Reply::Error(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

/// Makes files of what stands below `/sys`.
fn make(entries: &std::collections::BTreeMap<std::path::PathBuf, Entry>) -> io::Result<TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let tree = tempfile::Builder::new().prefix("devmap-sys-").tempdir()?;
    for (path, entry) in entries {
        let Ok(inside) = path.strip_prefix("/") else { continue };
        let place = tree.path().join(inside);
        if !matches!(entry, Entry::Device(_)) {
            fs::create_dir_all(place.parent().unwrap_or(tree.path()))?;
        }
        match entry {
            Entry::Device(_) => {}
            Entry::Directory => fs::create_dir_all(&place)?,
            Entry::Link(target) => symlink(target, &place)?,
            Entry::Text(text) => {
                fs::write(&place, text)?;
                fs::set_permissions(&place, fs::Permissions::from_mode(0o444))?;
            }
        }
    }
    Ok(tree)
}

/// Whether a client may read a directory, and come to it from the root: one that was handed its
/// descriptor goes on without what is devmap's in it.
fn may_read(tid: u32, path: &Path) -> bool {
    path.ancestors().enumerate().all(|(above, directory)| {
        let status = rustix::fs::statx(CWD, directory, AtFlags::empty(), StatxFlags::BASIC_STATS);
        let want = if above == 0 { 4 } else { 1 };
        status.is_ok_and(|status| {
            let of = (u32::from(status.stx_mode), status.stx_uid, status.stx_gid);
            files::permits(tid, of, want, true)
        })
    })
}

/// Opens a directory in which some entries are devmap's. `None`: it has been answered.
pub(super) fn open(trapped: &Trapped, call: &Call<'_>, path: &Path, flags: u32) -> Option<Reply> {
    let tid = call.notification.tid;
    // It is the supervisor who opens it, so whether the client may is asked here; what it may not,
    // the kernel refuses by itself.
    if !may_read(tid, path) {
        return Some(Reply::Continue);
    }
    let (Ok(directory), Some(process)) = (open_directory(path, flags), client::process_of(tid))
    else {
        return Some(Reply::Continue);
    };
    let close_on_exec = flags & libc::O_CLOEXEC.cast_unsigned() != 0;
    let numbers = Numbers { standard: false, lowest: trapped.first };
    let given = match numbers::give(trapped, call, &directory, numbers, close_on_exec) {
        Ok(given) => given,
        Err(NotGiven::Untold) => return Some(Reply::Continue),
        Err(NotGiven::Told) => return None,
    };
    let left = trapped.paths.in_directory(path);
    let mut open = trapped.listings.open.lock();
    if open.len() >= MOST {
        open.clear();
    }
    open.insert((process, given.number), Listing { directory, left });
    drop(open);
    given.tell();
    None
}

/// Serves `getdents64`.
pub(super) fn serve(trapped: &Trapped, call: &Call<'_>) {
    call.answer(read(trapped, call.notification).unwrap_or(Reply::Continue));
}

/// `None`: the kernel answers.
fn read(trapped: &Trapped, notification: &Notification) -> Option<Reply> {
    let Notification { tid, args: [fd, to, count, ..], .. } = *notification;
    let key = (client::process_of(tid)?, fd as u32);
    let mut open = trapped.listings.open.lock();
    let listing = open.get_mut(&key)?;
    if !is_at(tid, fd, &listing.directory) {
        // Another file has the number now.
        open.remove(&key);
        return None;
    }
    let count = (count as usize).min(LARGEST);
    let entries = match native(&listing.directory, count) {
        Ok(entries) => entries,
        Err(error) => return Some(Reply::Error(error.raw_os_error())),
    };
    let entries = if entries.is_empty() {
        let entries = ours(&mut listing.left, count);
        if entries.is_empty() {
            open.remove(&key);
        }
        entries
    } else {
        entries
    };
    Some(match process::write_memory(tid, to, &entries) {
        Ok(()) => Reply::Value(entries.len() as i64),
        Err(_) => Reply::Error(libc::EFAULT),
    })
}

/// Whether a client's descriptor is of this directory, and at the same place in it.
fn is_at(tid: u32, fd: u64, directory: &OwnedFd) -> bool {
    let status = |path: String| rustix::fs::stat(path).map(|status| (status.st_dev, status.st_ino));
    let own = rustix::fs::fstat(directory).map(|status| (status.st_dev, status.st_ino));
    let info = fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).unwrap_or_default();
    let position = info.lines().find_map(|line| line.strip_prefix("pos:")?.trim().parse().ok());
    own.is_ok()
        && status(format!("/proc/{tid}/fd/{fd}")) == own
        && position == rustix::fs::tell(directory).ok()
}

/// The kernel's next entries, as `struct linux_dirent64`; none at the end.
fn native(directory: &OwnedFd, count: usize) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![MaybeUninit::uninit(); count];
    let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
    let mut bytes = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let kind = (entry.file_type().as_raw_mode() >> 12) as u8;
        let name = entry.file_name().to_bytes();
        push(&mut bytes, entry.ino(), entry.next_entry_cookie(), kind, name);
        if entries.is_buffer_empty() {
            break;
        }
    }
    Ok(bytes)
}

/// As many of devmap's entries as there is room for.
fn ours(left: &mut Vec<(OsString, u8)>, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((name, kind)) = left.last() {
        let before = bytes.len();
        let inode = super::FIRST_INODE + left.len() as u64;
        push(&mut bytes, inode, i64::MAX.cast_unsigned(), *kind, name.as_bytes());
        if bytes.len() > count {
            bytes.truncate(before);
            break;
        }
        left.pop();
    }
    bytes
}

fn push(bytes: &mut Vec<u8>, inode: u64, next: u64, kind: u8, name: &[u8]) {
    const HEAD: usize = 8 + 8 + 2 + 1;
    let length = (HEAD + name.len() + 1).next_multiple_of(8);
    let end = bytes.len() + length;
    bytes.extend(inode.to_ne_bytes());
    bytes.extend(next.to_ne_bytes());
    bytes.extend((length as u16).to_ne_bytes());
    bytes.push(kind);
    bytes.extend(name);
    bytes.resize(end, 0);
}
