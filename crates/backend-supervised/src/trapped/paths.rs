//! Paths in trapped mode: whether a path that a client gives means a device.
//!
//! A client's path is followed here as the kernel would follow it: from the client's
//! directories, over links, through `.` and `..`. Nothing is decided for paths that
//! mean something else: the kernel follows those by itself. Since nothing stands at a
//! device's path in truth, a program that changes a path meanwhile gains nothing.
//!
//! What does not live here: answering the calls (`trapped`, `files`).

use std::{
    collections::{BTreeMap, HashSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use devmap_driver::Kind;
use devmap_sys::process;

use crate::{client, opens::DeviceEntry, places, sysfs};

/// `PATH_MAX`: the longest path, with its end.
const LONGEST: usize = 4096;

/// As many links as the kernel follows (`MAXSYMLINKS`).
const LINKS: usize = 40;

/// What stands at a path.
#[derive(Clone)]
pub(crate) enum Entry {
    Device(Arc<DeviceEntry>),
    /// A file to be read.
    Text(String),
    Link(PathBuf),
    Directory,
}

/// What a path means.
pub(crate) enum Found {
    /// Nothing of devmap's.
    Other,
    Entry(Entry),
    /// A directory that is devmap's alone.
    Made(PathBuf),
    /// A directory in which some entries are devmap's.
    Listed(PathBuf),
    /// A descriptor of a client, by its link in `/proc`.
    Descriptor {
        tid: u32,
        fd: u32,
    },
    /// Something below a device, or a device with a `/` behind it.
    Below,
}

/// How a path was followed, where the caller restricts that (`openat2(2)`).
pub(crate) struct Followed {
    pub(crate) found: Found,
    /// It went straight down from where it began: no link, no `..`, no `/` in front.
    pub(crate) is_plain: bool,
}

/// The paths at which something of devmap's stands.
pub(crate) struct Paths {
    pub(super) entries: BTreeMap<PathBuf, Entry>,
    /// Names that may belong to one of these, or to a descriptor's link in `/proc`.
    names: HashSet<OsString>,
    /// Directories of the kernel's in which some of these stand, where they are to be listed.
    listed: HashSet<PathBuf>,
    /// Some client has changed its root: each client may have one of its own.
    roots_differ: AtomicBool,
}

impl Paths {
    /// The paths of these devices.
    ///
    /// # Errors
    /// A device's directory is not there.
    pub(crate) fn new(devices: &[Arc<DeviceEntry>]) -> Result<Paths, String> {
        let mut entries = BTreeMap::new();
        for device in devices {
            let (Some(directory), Some(name)) = (device.path.parent(), device.path.file_name())
            else {
                return Err(format!("{}: not the path of a file", device.path.display()));
            };
            let directory = fs::canonicalize(directory).map_err(|error| {
                format!(
                    "{}: its directory cannot be used: {error}; make it first, or choose another",
                    device.path.display()
                )
            })?;
            let mut path = directory.join(name);
            if device.is_regular()
                && let Ok(resolved) = places::resolve(&path)
            {
                path = resolved;
            }
            entries.insert(path, Entry::Device(device.clone()));
            for (path, content) in sysfs::files(device) {
                let directory = path.parent().map(Path::to_owned).unwrap_or_default();
                let content = match content {
                    sysfs::Content::Text(text) => Entry::Text(text),
                    sysfs::Content::Link(target) => Entry::Link(target),
                };
                entries.insert(path, content);
                // The kernel's directories stay the kernel's.
                for made in directory.ancestors().take_while(|made| !made.exists()) {
                    entries.entry(made.to_owned()).or_insert(Entry::Directory);
                }
            }
        }
        let in_proc = ["fd", "stdin", "stdout", "stderr"].map(OsString::from);
        // What lies in a directory of devmap's has that in its path.
        let outermost =
            |path: &&PathBuf| !path.ancestors().skip(1).any(|at| entries.contains_key(at));
        let outermost = entries.keys().filter(outermost);
        let names = outermost.filter_map(|path| path.file_name()).map(OsStr::to_owned);
        let mut names: HashSet<_> = names.chain(in_proc).collect();
        let mut listed = HashSet::new();
        if devices.iter().any(|device| device.class.is_some()) {
            let parents = entries.keys().filter_map(|path| path.parent());
            listed.extend(parents.filter(|at| !entries.contains_key(*at)).map(Path::to_owned));
            names.extend(listed.iter().filter_map(|at| at.file_name()).map(OsStr::to_owned));
        }
        Ok(Paths { entries, names, listed, roots_differ: AtomicBool::new(false) })
    }

    /// A client is about to change its root.
    pub(super) fn roots_will_differ(&self) {
        self.roots_differ.store(true, Ordering::SeqCst);
    }

    /// Whether directories are to be listed.
    pub(super) fn are_listed(&self) -> bool {
        !self.listed.is_empty()
    }

    /// What stands in a directory that the kernel does not know, with types (`DT_*`).
    pub(super) fn in_directory(&self, directory: &Path) -> Vec<(OsString, u8)> {
        let inside = self.entries.iter().filter(|(path, _)| path.parent() == Some(directory));
        let unknown = inside.filter(|(path, _)| path.symlink_metadata().is_err());
        unknown
            .filter_map(|(path, entry)| {
                let kind = match entry {
                    Entry::Device(device) => match device.metadata.kind {
                        Kind::Character(_) => libc::DT_CHR,
                        Kind::Regular { .. } => libc::DT_REG,
                    },
                    Entry::Text(_) => libc::DT_REG,
                    Entry::Link(_) => libc::DT_LNK,
                    Entry::Directory => libc::DT_DIR,
                };
                Some((path.file_name()?.to_owned(), kind))
            })
            .collect()
    }

    /// What a path of a client means. `follow`: also where the path itself is a link.
    pub(crate) fn find(&self, tid: u32, directory: i32, path: &[u8], follow: bool) -> Followed {
        let found = self.look(tid, directory, path, follow);
        found.unwrap_or(Followed { found: Found::Other, is_plain: false })
    }

    fn look(&self, tid: u32, directory: i32, path: &[u8], follow: bool) -> Option<Followed> {
        let start = match directory {
            libc::AT_FDCWD => format!("/proc/{tid}/cwd"),
            fd => format!("/proc/{tid}/fd/{fd}"),
        };
        // Most paths are settled by one look: they have no name of ours, and are no link.
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(path.len(), |last| last + 1);
        let root = match self.roots_differ.load(Ordering::SeqCst) {
            true => format!("/proc/{tid}/root"),
            false => "/".to_owned(),
        };
        let join = |to: &mut PathBuf, path: &[u8]| {
            let inside = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
            if inside > 0 {
                *to = PathBuf::from(&root);
            }
            to.push(OsStr::from_bytes(&path[inside..]));
        };
        let mut quick = PathBuf::from(&start);
        join(&mut quick, &path[..end]);
        let mut first = true;
        for _ in 0..LINKS {
            if self.may_be_ours(if first { path } else { quick.as_os_str().as_bytes() }) {
                let root = if root == "/" { root.into() } else { fs::read_link(root).ok()? };
                let start = if path.starts_with(b"/") {
                    root.clone()
                } else {
                    fs::read_link(start).ok()?
                };
                return self.walk(tid, (&root, start), path, follow);
            }
            if !follow && !path.ends_with(b"/") {
                return None;
            }
            let target = rustix::fs::readlink(&quick, Vec::new()).ok()?;
            quick.pop();
            join(&mut quick, target.as_bytes());
            first = false;
        }
        None
    }

    /// Whether a path has a name of ours in it, or ends in a descriptor's number.
    fn may_be_ours(&self, path: &[u8]) -> bool {
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let is_number = |name: &[u8]| name.iter().all(u8::is_ascii_digit);
        names.clone().next_back().is_some_and(is_number)
            || names.any(|name| self.names.contains(OsStr::from_bytes(name)))
    }

    /// Follows a path from the directory `at`, name by name, for a client with this root.
    fn walk(
        &self,
        tid: u32,
        (root, mut at): (&Path, PathBuf),
        path: &[u8],
        follow: bool,
    ) -> Option<Followed> {
        let mut left = names(path);
        let mut is_plain = !path.starts_with(b"/");
        let mut links = 0;
        let found = |found, is_plain| Some(Followed { found, is_plain });
        while let Some(name) = left.pop() {
            match name.as_bytes() {
                b"" | b"." => continue,
                b".." => {
                    is_plain = false;
                    if at != root {
                        at.pop();
                    }
                    continue;
                }
                b"self" if at == Path::new("/proc") => {
                    at.push(client::process_of(tid)?.to_string());
                    continue;
                }
                b"thread-self" if at == Path::new("/proc") => {
                    at.push(format!("{}/task/{tid}", client::process_of(tid)?));
                    continue;
                }
                _ => {}
            }
            let is_last = left.is_empty();
            let owner = descriptors_of(&at);
            at.push(&name);
            match self.entries.get(&at) {
                Some(Entry::Directory) if !is_last => continue,
                Some(Entry::Link(target)) if !is_last || follow => {
                    at.pop();
                    left.extend(names(target.as_os_str().as_bytes()));
                    is_plain = false;
                    continue;
                }
                Some(Entry::Directory) => return found(Found::Made(at), is_plain),
                Some(entry) if is_last => return found(Found::Entry(entry.clone()), is_plain),
                Some(_) => return found(Found::Below, is_plain),
                None => {}
            }
            if let (Some(tid), Some(fd), true) = (owner, number(&name), is_last) {
                return found(Found::Descriptor { tid, fd }, false);
            }
            match rustix::fs::readlink(&at, Vec::new()) {
                Ok(_) if is_last && !follow => return None,
                Ok(target) => {
                    links += 1;
                    if links > LINKS {
                        return None;
                    }
                    is_plain = false;
                    if target.as_bytes().starts_with(b"/") {
                        at = root.to_owned();
                    } else {
                        at.pop();
                    }
                    left.extend(names(target.as_bytes()));
                }
                Err(rustix::io::Errno::INVAL) => {}
                Err(_) => return None,
            }
        }
        // With a `/` behind it, or by `..`.
        match self.entries.get(&at) {
            Some(Entry::Directory) => found(Found::Made(at), is_plain),
            _ if self.listed.contains(&at) => found(Found::Listed(at), is_plain),
            _ => None,
        }
    }
}

/// The names of a path, the first at the end. A `/` behind the last leaves an empty name.
fn names(path: &[u8]) -> Vec<OsString> {
    let names = path.split(|byte| *byte == b'/').map(|name| OsString::from_vec(name.to_vec()));
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

fn number(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// The thread whose descriptors a directory of `/proc` lists.
fn descriptors_of(directory: &Path) -> Option<u32> {
    let mut names = directory.strip_prefix("/proc").ok()?.iter();
    let process = number(names.next()?)?;
    let tid = match (names.next()?.as_bytes(), names.next(), names.next(), names.next()) {
        (b"fd", None, ..) => process,
        (b"task", Some(tid), Some(fd), None) if fd == "fd" => number(tid)?,
        _ => return None,
    };
    Some(tid)
}

/// The text of a path in a client's memory, without its end.
pub(crate) fn read(tid: u32, address: u64) -> io::Result<Vec<u8>> {
    let page = rustix::param::page_size() as u64;
    let mut path = Vec::new();
    while path.len() < LONGEST {
        // Up to the next page: what comes behind it may not be there.
        let from = address.wrapping_add(path.len() as u64);
        let len = (page - from % page).min((LONGEST - path.len()) as u64) as usize;
        let start = path.len();
        path.resize(start + len, 0);
        process::read_memory(tid, from, &mut path[start..])?;
        if let Some(end) = path[start..].iter().position(|byte| *byte == 0) {
            path.truncate(start + end);
            return Ok(path);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsRawFd, os::unix::fs::symlink};

    use super::{super::testing, *};

    /// In a word, what this thread's path means.
    fn means(paths: &Paths, directory: i32, path: &Path, follow: bool) -> String {
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let followed = paths.find(tid, directory, path.as_os_str().as_bytes(), follow);
        let text = match followed.found {
            Found::Other => "other".to_owned(),
            Found::Entry(Entry::Device(device)) => format!("device {}", device.index),
            Found::Entry(Entry::Text(text)) => text.lines().last().unwrap_or_default().to_owned(),
            Found::Entry(Entry::Link(target)) => format!("link to {}", target.display()),
            Found::Made(_) => "directory".to_owned(),
            Found::Listed(at) => format!("listed {}", at.display()),
            Found::Entry(Entry::Directory) => "no file".to_owned(),
            Found::Descriptor { tid: owner, fd } => format!("{} {fd}", owner == tid),
            Found::Below => "below".to_owned(),
        };
        if followed.is_plain { format!("{text}, plain") } else { text }
    }

    #[test]
    fn paths_are_followed_as_the_kernel_does() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        fs::create_dir(top.join("dir")).unwrap();
        fs::write(top.join("file"), "").unwrap();
        symlink(top.join("dir/dev0"), top.join("link")).unwrap();
        symlink("dir", top.join("dirlink")).unwrap();
        symlink("../link", top.join("dir/again")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        symlink("/proc/self/fd", top.join("mine")).unwrap();
        let (device, _) = testing::device(&top.join("dir/dev0"), 0);
        let paths = Paths::new(&[device]).unwrap();
        let opened = fs::File::open(top).unwrap();
        let (here, fd) = (libc::AT_FDCWD, opened.as_raw_fd());
        for (path, followed, itself) in [
            ("dir/dev0", "device 0", "device 0"),
            ("dir//./dev0", "device 0", "device 0"),
            ("dir/../dir/dev0", "device 0", "device 0"),
            ("dirlink/dev0", "device 0", "device 0"),
            ("link", "device 0", "other"),
            ("dir/again", "device 0", "other"),
            ("link/", "below", "below"),
            ("dir/dev0/", "below", "below"),
            ("dir/dev0/x", "below", "below"),
            ("dev0", "other", "other"),
            ("dir/dev0x", "other", "other"),
            ("file", "other", "other"),
            ("missing", "other", "other"),
            ("loop", "other", "other"),
            ("dir", "other", "other"),
        ] {
            assert_eq!(means(&paths, here, &top.join(path), true), followed, "{path}");
            assert_eq!(means(&paths, here, &top.join(path), false), itself, "{path}, itself");
        }
        assert_eq!(means(&paths, fd, Path::new("dir/dev0"), true), "device 0, plain");
        assert_eq!(means(&paths, fd, Path::new("dirlink/dev0"), true), "device 0");
        assert_eq!(means(&paths, fd, Path::new("dir/../dir/dev0"), true), "device 0");
        // A process's descriptors, by any of their links.
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let of_thread = format!("/proc/thread-self/fd/{fd}");
        assert_eq!(means(&paths, here, Path::new(&of_thread), true), format!("true {fd}"));
        let of_process = format!("/proc/{tid}/fd/{fd}");
        assert_eq!(means(&paths, here, Path::new(&of_process), true), format!("true {fd}"));
        let by_link = top.join(format!("mine/{fd}"));
        assert!(means(&paths, here, &by_link, true).ends_with(&format!(" {fd}")));
        // What the kernel would say of the number.
        let sysfs = Path::new("/sys/dev/char/240:7/uevent");
        let text = means(&paths, here, sysfs, true);
        assert!(text.starts_with("DEVNAME=/") && text.ends_with("dir/dev0"), "{text}");
        assert_eq!(means(&paths, here, Path::new("/sys/dev/char/240:7"), true), "directory");
        assert_eq!(means(&paths, here, Path::new("/sys/dev/char/1:3/uevent"), true), "other");
    }

    #[test]
    fn a_missing_directory_is_told() {
        let (device, _) = testing::device(Path::new("/no/such/place/dev0"), 0);
        let message = Paths::new(&[device]).err().unwrap();
        assert!(message.contains("/no/such/place/dev0"), "{message}");
    }

    #[test]
    fn a_path_is_read_up_to_its_end_or_the_edge_of_memory() {
        let tid = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        let text = c"some/path";
        assert_eq!(read(tid, text.as_ptr().addr() as u64).unwrap(), text.to_bytes());
        assert!(read(tid, 8).is_err());
        let long = vec![b'x'; 2 * LONGEST];
        let error = read(tid, long.as_ptr().addr() as u64).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
    }
}
