//! What `/dev` and `/sys/dev/char` held before they were replaced. Reading only.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::{self, FileType};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use crate::sysfs;

/// The access list of a file; acl(5).
const ACCESS_LIST: &str = "system.posix_acl_access";

/// Where in the new `/dev` all of the old one is to be found, if `ptmx` needs it.
pub(super) const WHOLE: &str = ".devmap";

/// What sort of node an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory: the placeholder has to be one.
    Directory,
    /// Anything else that can be bound: the placeholder has to be no directory and no link.
    File,
    /// The node of a device that is not bound, for that costs more than all else at the start of
    /// a program. The file system shows it as it is; see `Binding` for who can open it.
    Node,
    /// A symbolic link and its target. Links cannot be bound, so the file system serves it.
    Symlink(PathBuf),
}

impl EntryKind {
    fn is_no_directory(&self) -> bool {
        matches!(self, EntryKind::File | EntryKind::Node)
    }
}

/// A directory of `/sys` that the file system takes the place of, since a device of a
/// class stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassTree {
    /// Its directory in the root of the file system.
    pub name: &'static str,
    /// The directory whose place it takes.
    pub place: &'static str,
    /// The old entries, as [`DevEntries::dev`].
    pub entries: Vec<(PathBuf, EntryKind)>,
}

/// The old entries that the file system has to present, without those that a device hides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevEntries {
    /// Entries of `/dev`, sorted. `ptmx` is a link here, as in containers: see `terminals`. Names are relative to `/dev`; those in directories that hold a
    /// device have several components. These directories themselves are not listed.
    ///
    /// Binds stand on the placeholders, so the kernel must never be told that one has changed:
    /// the same node and the longest validity for each lookup.
    pub dev: Vec<(PathBuf, EntryKind)>,
    /// What is replaced where a device has a class; else nothing.
    pub classes: Vec<ClassTree>,
    /// There is a `/sys/dev/char`. Its links are served as they are at the time.
    pub(super) has_char: bool,
}

/// Which nodes of devices are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// Each.
    All,
    /// Those that anybody may open, and those with an access list, which the file system does not
    /// show. The others are opened through the file system's own nodes.
    Public,
    /// Those that this user may open. Nobody in the name space may open the others.
    Permitted,
}

impl Binding {
    /// Whether the node at `path` is to be bound.
    fn binds(self, path: &Path, node: FileType) -> io::Result<bool> {
        if !node.is_char_device() && !node.is_block_device() {
            return Ok(true);
        }
        let may = |access| rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
        match self {
            Binding::All => Ok(true),
            Binding::Permitted => Ok(may(Access::READ_OK) || may(Access::WRITE_OK)),
            Binding::Public => {
                let mode = fs::symlink_metadata(path)?.mode();
                let has_list = || rustix::fs::lgetxattr(path, ACCESS_LIST, &mut [0; 0][..]).is_ok();
                // With a list, the bits of the group are those of its mask.
                Ok(mode & 0o666 == 0o666 || mode & 0o070 != 0 && has_list())
            }
        }
    }
}

impl DevEntries {
    /// Reads the directories. `classes`: names of devices in their class, such as
    /// `video4linux/video0`.
    pub(super) fn collect(
        devices: &[PathBuf],
        classes: &[PathBuf],
        binding: Binding,
    ) -> Result<DevEntries, (PathBuf, io::Error)> {
        let mut dev = below(Path::new("/dev"), devices, binding)?;
        let ptmx =
            dev.iter_mut().find(|entry| entry.0 == Path::new("ptmx") && entry.1.is_no_directory());
        if let (Some(ptmx), Some(target)) = (ptmx, terminals()) {
            let whole = target.starts_with(WHOLE);
            ptmx.1 = EntryKind::Symlink(target);
            if whole {
                dev.push((WHOLE.into(), EntryKind::Directory));
            }
        }
        dev.sort_by(|a, b| a.0.cmp(&b.0));

        let mut trees = Vec::new();
        for (name, place) in [("class", sysfs::CLASS), ("virtual", sysfs::VIRTUAL)] {
            if classes.is_empty() {
                continue;
            }
            // Where there is no such directory, nothing can stand in it.
            if let Ok(entries) = below(Path::new(place), classes, Binding::All) {
                trees.push(ClassTree { name, place, entries });
            }
        }
        Ok(DevEntries { dev, has_char: Path::new(sysfs::CHAR).is_dir(), classes: trees })
    }

    /// The names that are to be bound.
    pub(super) fn binds(&self) -> Vec<PathBuf> {
        bindable(&self.dev)
    }
}

impl ClassTree {
    /// The names that are to be bound.
    pub(super) fn binds(&self) -> Vec<PathBuf> {
        bindable(&self.entries)
    }
}

fn bindable(entries: &[(PathBuf, EntryKind)]) -> Vec<PathBuf> {
    let bindable = |kind: &EntryKind| matches!(kind, EntryKind::Directory | EntryKind::File);
    entries.iter().filter(|entry| bindable(&entry.1)).map(|entry| entry.0.clone()).collect()
}

/// The entries of a directory without those that devices hide; of directories that hold
/// a device, theirs.
fn below(
    root: &Path,
    devices: &[PathBuf],
    binding: Binding,
) -> Result<Vec<(PathBuf, EntryKind)>, (PathBuf, io::Error)> {
    let hidden: HashSet<&Path> = devices.iter().map(PathBuf::as_path).collect();
    let parents: HashSet<&Path> =
        hidden.iter().flat_map(|device| device.ancestors().skip(1)).collect();
    let mut found = Vec::new();
    let mut left = BTreeSet::from([PathBuf::new()]);
    while let Some(directory) = left.pop_first() {
        let absolute = root.join(&directory);
        for (name, kind) in list(&absolute, binding).map_err(|error| (absolute, error))? {
            let name = directory.join(name);
            if hidden.contains(name.as_path()) {
                continue;
            }
            if !parents.contains(name.as_path()) {
                found.push((name, kind));
            } else if kind == EntryKind::Directory {
                left.insert(name);
            }
        }
    }
    Ok(found)
}

/// What `/dev/ptmx` has to link to; `None` if terminals are not at `/dev/pts`.
///
/// Opening `ptmx` looks for `pts` in the same directory of the same file system
/// (`devpts_acquire`), so a bind of the node alone gives `ENOENT`. The node in `pts` serves as
/// well, but hosts (other than containers) close it to ordinary users; there the old `/dev` as a
/// whole has to have a place. Terminals made there are the same, and can be opened in `/dev/pts`;
/// but `ttyname` says `/dev/.devmap/pts/0`.
fn terminals() -> Option<PathBuf> {
    let node = fs::metadata("/dev/pts/ptmx").ok()?;
    let open = node.permissions().mode() & 0o666 == 0o666;
    Some(if open { "pts/ptmx".into() } else { Path::new(WHOLE).join("ptmx") })
}

/// The entries of a directory, except those that vanish meanwhile.
fn list(directory: &Path, binding: Binding) -> io::Result<Vec<(OsString, EntryKind)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type().and_then(|kind| {
            Ok(if kind.is_dir() {
                EntryKind::Directory
            } else if kind.is_symlink() {
                EntryKind::Symlink(fs::read_link(entry.path())?)
            } else if binding.binds(&entry.path(), kind)? {
                EntryKind::File
            } else {
                EntryKind::Node
            })
        });
        match kind {
            Ok(kind) => entries.push((entry.file_name(), kind)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}
