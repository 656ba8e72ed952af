//! Calls that take a path, in trapped mode: what is at a device's path is opened,
//! looked at and refused here; every other path is the kernel's.

use std::{fs, io::Write, os::fd::AsFd, path::Path, time::Instant};

use devmap_driver::Open;
use devmap_sys::{
    arch::nr,
    memfd, process,
    seccomp::{Notification, Reply},
    stat::{self, FileStatus},
};

use super::{
    Trapped, changes, listings,
    paths::{self, Entry, Found},
    regular::{self, cache::Cache},
};
use crate::{
    Core, client,
    notify::{self, Call},
    opens::DeviceEntry,
    trace::Event,
};

/// Bytes of the path of a Unix socket (`struct sockaddr_un`).
const SUN_PATH: u64 = 108;

/// What files of texts are called.
const TEXT: &str = "devmap-text";

/// A call that takes a path.
struct Request {
    directory: i32,
    /// Its address in the client.
    path: u64,
    /// Also where it is a link.
    follow: bool,
    /// An empty path means the descriptor itself (`AT_EMPTY_PATH`).
    may_be_empty: bool,
    what: What,
}

enum What {
    Open { flags: u32, resolve: u64 },
    Stat { to: u64, encode: fn(&FileStatus) -> Vec<u8> },
    Access { mode: u32, effective: bool },
    Readlink { to: u64, len: i32 },
}

/// Takes a call apart; `None` where it takes no path, or cannot be read.
fn request(notification: &Notification) -> Option<Request> {
    let Notification { tid, nr, args, .. } = *notification;
    let here = |path, follow, what| Request {
        directory: libc::AT_FDCWD,
        path,
        follow,
        may_be_empty: false,
        what,
    };
    let below = |follow, flags: u64, what| Request {
        directory: args[0] as i32,
        path: args[1],
        follow,
        may_be_empty: flags & libc::AT_EMPTY_PATH as u64 != 0,
        what,
    };
    let follows = |flags: u64| flags & libc::AT_SYMLINK_NOFOLLOW as u64 == 0;
    let open = |flags: u64, resolve| What::Open { flags: flags as u32, resolve };
    let opens = |flags: u64| {
        let exclusive = (libc::O_CREAT | libc::O_EXCL) as u64;
        flags & libc::O_NOFOLLOW as u64 == 0 && flags & exclusive != exclusive
    };
    let stat = |to| What::Stat { to, encode: stat::stat_bytes };
    Some(match nr {
        nr::OPENAT => below(opens(args[2]), 0, open(args[2], 0)),
        nr::OPENAT2 => {
            let mut how = [0; 24];
            process::read_memory(tid, args[2], &mut how).ok()?;
            let word = |at: usize| how[at..at + 8].try_into().map(u64::from_ne_bytes);
            let (flags, resolve) = (word(0).ok()?, word(16).ok()?);
            below(opens(flags), 0, open(flags, resolve))
        }
        nr::NEWFSTATAT => below(follows(args[3]), args[3], stat(args[2])),
        nr::STATX => {
            let what = What::Stat { to: args[4], encode: stat::statx_bytes };
            below(follows(args[2]), args[2], what)
        }
        nr::FACCESSAT => below(true, 0, What::Access { mode: args[2] as u32, effective: false }),
        nr::FACCESSAT2 => {
            let effective = args[3] & libc::AT_EACCESS as u64 != 0;
            below(follows(args[3]), args[3], What::Access { mode: args[2] as u32, effective })
        }
        nr::READLINKAT => below(false, 0, What::Readlink { to: args[2], len: args[3] as i32 }),
        nr if Some(nr) == nr::OPEN => here(args[0], opens(args[1]), open(args[1], 0)),
        nr if Some(nr) == nr::CREAT => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            here(args[0], true, open(flags as u64, 0))
        }
        nr if Some(nr) == nr::STAT => here(args[0], true, stat(args[1])),
        nr if Some(nr) == nr::LSTAT => here(args[0], false, stat(args[1])),
        nr if Some(nr) == nr::ACCESS => {
            here(args[0], true, What::Access { mode: args[1] as u32, effective: false })
        }
        nr if Some(nr) == nr::READLINK => {
            here(args[0], false, What::Readlink { to: args[1], len: args[2] as i32 })
        }
        _ => return None,
    })
}

/// Serves a call if it takes a path.
pub(super) fn serve(core: &std::sync::Arc<Core>, trapped: &Trapped, call: &Call<'_>) -> bool {
    let Some(request) = request(call.notification) else { return change(core, trapped, call) };
    trapped.regular.settle();
    let reply = answer(core, trapped, call, &request);
    if let Some(reply) = reply {
        call.answer(reply);
    }
    true
}

/// Refuses to put a socket where something of devmap's stands, as the kernel does where anything
/// stands.
pub(super) fn bind(trapped: &Trapped, call: &Call<'_>) {
    let Notification { tid, args: [_, address, len, ..], .. } = *call.notification;
    let family = size_of::<libc::sa_family_t>() as u64;
    let mut path = vec![0; len.clamp(family, SUN_PATH + family) as usize];
    let mut is_taken = || {
        process::read_memory(tid, address, &mut path).ok()?;
        let (family, path) = path.split_first_chunk()?;
        let path = path.split(|byte| *byte == 0).next()?;
        // An abstract name begins with a 0.
        let is_path = i32::from(u16::from_ne_bytes(*family)) == libc::AF_UNIX && !path.is_empty();
        let find = || trapped.paths.find(tid, libc::AT_FDCWD, path, false).found;
        Some(is_path && matches!(find(), Found::Entry(_) | Found::Made(_)))
    };
    call.answer(match is_taken() {
        Some(true) => Reply::Error(libc::EADDRINUSE),
        _ => Reply::Continue,
    });
}

/// Refuses a call that would change what stands at a device's path. False where it is no
/// such call; others go on.
fn change(core: &std::sync::Arc<Core>, trapped: &Trapped, call: &Call<'_>) -> bool {
    let Notification { tid, nr, args, .. } = *call.notification;
    let mut changes = changes::all().filter(|(other, _)| *other == nr).peekable();
    if changes.peek().is_none() {
        return false;
    }
    trapped.regular.settle();
    if nr == nr::CHROOT {
        trapped.paths.roots_will_differ();
    }
    let mut reply = Reply::Continue;
    for (_, change) in changes {
        let directory = change.directory.map_or(libc::AT_FDCWD, |index| args[index] as i32);
        let found = paths::read(tid, args[change.path])
            .map(|path| trapped.paths.find(tid, directory, &path, change.follow).found);
        match found {
            // The kernel asks for the right to account before it looks at the path.
            Ok(Found::Entry(Entry::Device(_)))
                if nr == nr::ACCT && !rustix::process::geteuid().is_root() =>
            {
                reply = Reply::Error(libc::EPERM);
            }
            Ok(Found::Entry(Entry::Device(device))) => {
                if let (nr::TRUNCATE, Some(file)) = (nr, trapped.regular.get(&device)) {
                    truncate(core, trapped, call, &file.cache);
                    return true;
                }
                let errno = match device.is_regular() {
                    true => change.of_regular(nr),
                    false => change.errno.raw(),
                };
                reply = Reply::Error(errno);
            }
            Ok(Found::Below) => reply = Reply::Error(libc::ENOTDIR),
            _ => {}
        }
    }
    call.answer(reply);
    true
}

fn truncate(core: &std::sync::Arc<Core>, trapped: &Trapped, call: &Call<'_>, cache: &Cache) {
    let status = status(core, trapped, &Entry::Device(cache.device.clone()));
    match permits(call.notification.tid, owned(&status), 2, true) {
        true => regular::truncate(core, call, cache),
        false => call.answer(Reply::Error(libc::EACCES)),
    }
}

/// What is to be answered; `None` when it has been.
fn answer(
    core: &std::sync::Arc<Core>,
    trapped: &Trapped,
    call: &Call<'_>,
    request: &Request,
) -> Option<Reply> {
    let tid = call.notification.tid;
    let path = match request.path {
        0 if request.may_be_empty => Vec::new(),
        address => match paths::read(tid, address) {
            Ok(path) => path,
            Err(_) => return Some(Reply::Continue),
        },
    };
    let (found, is_plain) = if path.is_empty() {
        if !request.may_be_empty || request.directory < 0 {
            return Some(Reply::Continue);
        }
        (Found::Descriptor { tid, fd: request.directory.cast_unsigned() }, true)
    } else {
        let followed = trapped.paths.find(tid, request.directory, &path, request.follow);
        (followed.found, followed.is_plain)
    };
    let mut is_link = false;
    let entry = match found {
        Found::Other => return Some(Reply::Continue),
        Found::Listed(path) => {
            return match request.what {
                What::Open { flags, resolve: 0 } if is_reading(flags) => {
                    listings::open(trapped, call, &path, flags)
                }
                _ => Some(Reply::Continue),
            };
        }
        Found::Made(path) => {
            if let What::Open { flags, resolve: 0 } = request.what {
                return match is_reading(flags) {
                    true => listings::open_made(trapped, call, &path, flags),
                    false => Some(Reply::Error(libc::EISDIR)),
                };
            }
            Entry::Directory
        }
        Found::Below => return Some(Reply::Error(libc::ENOTDIR)),
        Found::Entry(entry) => entry,
        // Devmap's own are nobody's to open.
        Found::Descriptor { tid, .. }
            if !path.is_empty() && client::process_of(tid) == Some(std::process::id()) =>
        {
            return Some(Reply::Continue);
        }
        Found::Descriptor { tid, fd } => {
            is_link = !path.is_empty() && !request.follow;
            match (trapped.descriptors.of(tid, fd), trapped.regular.of(tid, fd)) {
                (Some(descriptor), _) => Entry::Device(descriptor.device.clone()),
                (_, Some(file)) => Entry::Device(file.cache.device.clone()),
                _ => return Some(Reply::Continue),
            }
        }
    };
    match request.what {
        // For the kernel nothing is there, but for an empty file in the place of a regular one.
        What::Open { resolve, .. } if resolve != 0 && !is_plain => Some(match &entry {
            Entry::Device(device) if device.is_regular() => Reply::Error(libc::ENOENT),
            _ => Reply::Continue,
        }),
        What::Open { .. } | What::Stat { .. } | What::Access { .. } if is_link => {
            Some(Reply::Continue)
        }
        What::Open { flags, .. } => match &entry {
            Entry::Device(device) => open(core, trapped, call, device, flags),
            Entry::Text(text) => open_text(call, text, flags),
            Entry::Directory => Some(Reply::Continue),
            // With O_NOFOLLOW.
            Entry::Link(_) => Some(Reply::Error(libc::ELOOP)),
        },
        What::Stat { to, encode } => {
            let written = process::write_memory(tid, to, &encode(&status(core, trapped, &entry)));
            Some(if written.is_ok() { Reply::Value(0) } else { Reply::Error(libc::EFAULT) })
        }
        What::Access { mode, effective } => {
            let status = status(core, trapped, &entry);
            Some(match permits(tid, owned(&status), mode, effective) {
                true => Reply::Value(0),
                false => Reply::Error(libc::EACCES),
            })
        }
        What::Readlink { to, len } => {
            let target = match &entry {
                Entry::Device(device) if is_link => &device.path,
                Entry::Link(target) => target,
                _ => return Some(Reply::Error(libc::EINVAL)),
            };
            let Ok(len) = usize::try_from(len) else { return Some(Reply::Error(libc::EINVAL)) };
            let text = target.as_os_str().as_encoded_bytes();
            let text = &text[..text.len().min(len)];
            Some(match process::write_memory(tid, to, text) {
                Ok(()) if len > 0 => Reply::Value(text.len() as i64),
                Ok(()) => Reply::Error(libc::EINVAL),
                Err(_) => Reply::Error(libc::EFAULT),
            })
        }
    }
}

/// What `stat` shows.
pub(super) fn status(core: &Core, trapped: &Trapped, entry: &Entry) -> FileStatus {
    let mut status = FileStatus {
        device: 0,
        inode: 0,
        mode: libc::S_IFDIR | 0o755,
        links: 1,
        uid: trapped.owner.0,
        gid: trapped.owner.1,
        number: (0, 0),
        size: 0,
        block_size: 4096,
        time: core.started,
    };
    match entry {
        Entry::Device(device) => {
            let index = device.index as usize;
            status.device = trapped.directories.get(index).copied().unwrap_or(0);
            status.inode = super::FIRST_INODE + device.index;
            status.mode = u32::from(device.metadata.mode);
            match device.metadata.kind {
                devmap_driver::Kind::Character(_) => {
                    status.mode |= libc::S_IFCHR;
                    status.number = device.number;
                }
                devmap_driver::Kind::Regular { size } => {
                    status.mode |= libc::S_IFREG;
                    status.size = size;
                    if let Some(file) = trapped.regular.get(device) {
                        file.cache.status(core, &mut status);
                    }
                }
            }
        }
        Entry::Text(text) => {
            status.mode = libc::S_IFREG | 0o444;
            status.size = text.len() as u64;
        }
        Entry::Link(target) => {
            status.mode = libc::S_IFLNK | 0o777;
            status.size = target.as_os_str().len() as u64;
        }
        Entry::Directory => {}
    }
    status
}

/// A file's mode, and whom it belongs to.
type Owned = (u32, u32, u32);

fn owned(status: &FileStatus) -> Owned {
    (status.mode, status.uid, status.gid)
}

/// Whether a file's mode gives a client these rights (`R_OK`, `W_OK`, `X_OK`), by its
/// ids in effect or by its real ones.
pub(super) fn permits(tid: u32, status: Owned, want: u32, effective: bool) -> bool {
    let text = fs::read_to_string(format!("/proc/{tid}/status"));
    text.is_ok_and(|text| permits_whom(&text, status, want, effective))
}

/// The same, of the client of whom `/proc/TID/status` says this.
fn permits_whom(text: &str, (mode, owner, group): Owned, want: u32, effective: bool) -> bool {
    // Real, effective, saved, and that for files.
    let id = |name| {
        let ids = text.lines().find_map(|line| line.strip_prefix(name))?;
        ids.split_ascii_whitespace().nth(if effective { 3 } else { 0 })?.parse::<u32>().ok()
    };
    let (Some(uid), Some(gid)) = (id("Uid:"), id("Gid:")) else { return false };
    let groups = text.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    let mut groups = groups.split_ascii_whitespace().filter_map(|word| word.parse().ok());
    if uid == 0 {
        return want & 1 == 0 || mode & 0o111 != 0;
    }
    let shift = if uid == owner {
        6
    } else if gid == group || groups.any(|of: u32| of == group) {
        3
    } else {
        0
    };
    mode >> shift & want == want & 7
}

/// Whether a directory is opened to be read, with O_PATH too.
fn is_reading(flags: u32) -> bool {
    !client::open_flags(flags).write && flags & libc::O_CREAT.cast_unsigned() == 0
}

/// The rights that an open asks for.
fn wanted(flags: u32) -> u32 {
    let access = client::open_flags(flags);
    let cuts = flags & libc::O_TRUNC.cast_unsigned() != 0;
    u32::from(access.read) * 4 + u32::from(access.write || cuts) * 2
}

/// What an open gets that wants a directory, of a file that is none.
fn as_directory(flags: u32) -> Option<Reply> {
    let has = |bits: i32| flags & bits.cast_unsigned() == bits.cast_unsigned();
    // No directory is made by an open; with O_PATH nothing is.
    let makes = has(libc::O_CREAT) && !has(libc::O_PATH);
    let errno = if makes { libc::EINVAL } else { libc::ENOTDIR };
    has(libc::O_DIRECTORY).then_some(Reply::Error(errno))
}

fn open(
    core: &std::sync::Arc<Core>,
    trapped: &Trapped,
    call: &Call<'_>,
    device: &std::sync::Arc<DeviceEntry>,
    flags: u32,
) -> Option<Reply> {
    let tid = call.notification.tid;
    let has = |bits: i32| flags & bits.cast_unsigned() == bits.cast_unsigned();
    if let Some(refused) = as_directory(flags) {
        return Some(refused);
    }
    if has(libc::O_PATH) {
        trapped.place(core, call, device, None, flags & libc::O_CLOEXEC.cast_unsigned());
        return None;
    }
    if has(libc::O_CREAT | libc::O_EXCL) {
        return Some(Reply::Error(libc::EEXIST));
    }
    let status = status(core, trapped, &Entry::Device(device.clone()));
    if !permits(tid, owned(&status), wanted(flags), true) {
        return Some(Reply::Error(libc::EACCES));
    }
    if let Some(file) = trapped.regular.get(device) {
        regular::open(core, trapped, call, file, flags);
        return None;
    }
    let started = Instant::now();
    let id = core.opens.reserve();
    let open =
        Open { flags: client::open_flags(flags), pid: client::process_of(tid).unwrap_or(tid) };
    core.catch_up(0);
    let opened = notify::interruptible(core, call, || core.opens.open(id, device, &open));
    core.trace_call(started, || Event {
        device: &device.path,
        tid,
        call: "open",
        details: vec![("flags", format!("{flags:#o}").into()), ("open", id.into())],
        result: opened.as_ref().map(|_| Some(0)).map_err(|errno| *errno),
    });
    match opened {
        Ok(file) => {
            if !trapped.place(core, call, device, Some(file), flags) {
                core.opens.close(id);
            }
        }
        Err(errno) => notify::answer(call, Err(errno)),
    }
    None
}

/// Whether a link in `/proc` is of a file that reads as a text.
pub(super) fn is_text(link: &Path) -> bool {
    link == Path::new(&format!("/memfd:{TEXT} (deleted)"))
}

/// Gives the client a file that reads as the text.
fn open_text(call: &Call<'_>, text: &str, flags: u32) -> Option<Reply> {
    if let Some(refused) = as_directory(flags) {
        return Some(refused);
    }
    if flags & (libc::O_CREAT | libc::O_EXCL).cast_unsigned()
        == (libc::O_CREAT | libc::O_EXCL).cast_unsigned()
    {
        return Some(Reply::Error(libc::EEXIST));
    }
    if client::open_flags(flags).write {
        return Some(Reply::Error(libc::EACCES));
    }
    let made = memfd::create(TEXT, text.len() as u64).and_then(|file| {
        let mut writer = fs::File::from(memfd::reopen(file.as_fd(), false)?);
        writer.write_all(text.as_bytes())?;
        memfd::reopen(file.as_fd(), true)
    });
    match made {
        Ok(file) => {
            let close_on_exec = flags & libc::O_CLOEXEC.cast_unsigned() != 0;
            match call.give(&file, close_on_exec) {
                Ok(()) => None,
                Err(error) => Some(Reply::Error(error.raw_os_error().unwrap_or(libc::EMFILE))),
            }
        }
        Err(error) => Some(Reply::Error(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_those_of_the_first_class_that_a_client_is_in() {
        let status = FileStatus {
            device: 0,
            inode: 0,
            mode: libc::S_IFCHR | 0o640,
            links: 1,
            uid: 10,
            gid: 20,
            number: (0, 0),
            size: 0,
            block_size: 4096,
            time: Default::default(),
        };
        let who = |uid: [u32; 2], gid: u32, groups: &str| {
            let [real, effective] = uid;
            format!(
                "Name:\tx\nUid:\t{real}\t{effective}\t{effective}\t{effective}\n\
                 Gid:\t{gid}\t{gid}\t{gid}\t{gid}\nFDSize:\t64\nGroups:\t{groups} \n"
            )
        };
        for (text, effective, rights) in [
            (who([0, 0], 0, ""), true, 6),
            (who([10, 10], 20, ""), true, 6),
            (who([10, 11], 20, ""), true, 4),
            (who([10, 11], 20, ""), false, 6),
            (who([11, 11], 20, ""), true, 4),
            (who([11, 11], 21, "7 20 30"), true, 4),
            (who([11, 11], 21, "7 30"), true, 0),
            ("Name:\tx\n".to_owned(), true, 0),
        ] {
            let has = [4, 2, 1].map(|right| permits_whom(&text, owned(&status), right, effective));
            let bits = has.iter().fold(0, |bits, has| bits << 1 | u32::from(*has));
            assert_eq!(bits, rights, "{text}");
        }
    }
}
