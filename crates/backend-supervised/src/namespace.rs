//! A mount name space for the program, in which the FUSE file system of the supervisor takes the
//! place of `/dev` and `/sys/dev/char`.
//!
//! Here live: mounting, as root and as an ordinary user, and the exchange between the two
//! processes that this takes. Here does not live the file system itself; it is asked for
//! directories in its root, [`DEV`], [`CHAR`], those of [`DevEntries::classes`] and, if there are
//! such, [`FILES`], and for a
//! placeholder of every entry in [`DevEntries`].
//!
//! The order of things:
//! 1. the supervisor calls [`prepare`], and forks;
//! 2. the program's process drops its copy of [`SupervisorEnd`] and calls [`ProgramEnd::enter`];
//! 3. the supervisor drops its copy of [`ProgramEnd`], calls [`SupervisorEnd::channel`], serves
//!    that channel in threads of their own, and calls [`SupervisorEnd::wait`].
//!
//! Any process between the two (a launcher) drops both ends: a copy of [`ProgramEnd`] that stays
//! open keeps the file system mounted after the program's end, and hides its death.
//!
//! What an ordinary user gets is a user name space too, with the same user and group and nobody
//! else: files of other users appear to belong to 65534. What `/dev` held beforehand stays what
//! it was; entries that appear there later are not seen inside. Each bind takes longer than a
//! look at the file, so only what programs are likely to open is bound: directories, and the
//! nodes that anybody may open. As root, the other nodes are the file system's own, which the
//! kernel opens, unless a device's number is that of one of the kernel's drivers: then the device
//! could be taken for that one, and everything is bound. As an ordinary user, nodes that the user
//! may not open are not bound.
//!
//! The setuid helper `fusermount3` is no way around a closed `/dev/fuse`: it opens that with the
//! rights of its caller. And where the system refuses mounts in user name spaces (Ubuntu 24.04),
//! what it mounts could not be brought into one.

mod entries;

use entries::Binding;
pub use entries::{ClassTree, DevEntries, EntryKind};

use crate::sysfs;

use devmap_fuse::Channel;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The directory in the root of the file system that takes the place of `/dev`.
pub const DEV: &str = "dev";
/// The directory in the root of the file system that takes the place of `/sys/dev/char`.
pub const CHAR: &str = "char";
/// The directory in the root of the file system with the regular files that stand elsewhere.
pub const FILES: &str = "files";

/// Which way the program's name space is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A mount name space alone; everybody in it may use the file system.
    Root,
    /// A user name space in which `/dev/fuse` is opened and mounted.
    User,
}

/// Why there is no name space: the step, and the error.
///
/// An error in [`ProgramEnd::enter`] leaves that process half-way: it has to end, and another
/// one to be started. Nothing else is left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {reason}")]
pub struct NamespaceError {
    /// The system call that failed, with what it was asked for.
    pub step: String,
    /// Its errno; `None` when the other process failed or said nothing.
    pub errno: Option<i32>,
    /// The error in words, with the remedy where it is a limit's.
    pub reason: String,
}

impl NamespaceError {
    fn new(step: impl Into<String>, error: impl Into<std::io::Error>) -> NamespaceError {
        let error = error.into();
        let reason = crate::with_remedy(&error);
        NamespaceError { step: step.into(), errno: error.raw_os_error(), reason }
    }

    fn other(step: impl Into<String>, reason: impl Into<String>) -> NamespaceError {
        NamespaceError { step: step.into(), errno: None, reason: reason.into() }
    }
}

/// Names the step for an error.
trait During<T> {
    fn during(self, step: impl Into<String>) -> Result<T, NamespaceError>;
}

impl<T, E: Into<std::io::Error>> During<T> for Result<T, E> {
    fn during(self, step: impl Into<String>) -> Result<T, NamespaceError> {
        self.map_err(|error| NamespaceError::new(step, error))
    }
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// Old entries of `/dev` that are not there any more, or cannot be bound (`EINVAL`): what is
    /// seen of them is the placeholder. With the errno.
    pub unbound: Vec<(PathBuf, i32)>,
    /// Why `/sys/dev/char` was left as it is, if it was.
    pub char_refused: Option<NamespaceError>,
    /// Why a directory of `/sys` was left as it is in which a device's class would be.
    pub class_refused: Option<NamespaceError>,
}

/// Everything for both processes.
#[derive(Debug)]
pub struct Prepared {
    /// The way.
    pub access: Access,
    /// Whom the nodes of the file system have to belong to. An ordinary user's name space knows
    /// no other ids, and the kernel lets nobody write to a node of an unknown id.
    pub owner: (u32, u32),
    /// What `/dev` holds now.
    pub entries: DevEntries,
    /// For the supervisor.
    pub supervisor: SupervisorEnd,
    /// For the program's process.
    pub program: ProgramEnd,
}

/// What the supervisor keeps.
#[derive(Debug)]
pub struct SupervisorEnd {
    socket: OwnedFd,
    /// Where it is mounted already.
    fuse: Option<OwnedFd>,
}

/// What the program's process needs.
#[derive(Debug)]
pub struct ProgramEnd {
    socket: OwnedFd,
    source: Source,
    uid: u32,
    gid: u32,
    /// What of the old `/dev` is to be bound.
    binds: Vec<PathBuf>,
    /// There is a `/sys/dev/char` to be replaced.
    replace_char: bool,
    classes: Vec<ClassTree>,
    /// Names in [`FILES`], and the files that each takes the place of.
    files: Vec<(String, PathBuf)>,
}

/// Where the program's process gets the mount from.
#[derive(Debug)]
enum Source {
    /// A mount that belongs to no name space yet.
    Detached(OwnedFd),
    /// To be made in the user name space.
    Inside,
}

/// The messages from the program's process to the supervisor.
#[derive(Serialize, Deserialize)]
enum Message {
    /// With the descriptor of `/dev/fuse`.
    Mounted,
    /// The end.
    Done(Result<Entered, NamespaceError>),
}

/// Looks which way is open, and mounts the file system if that has to happen in this process.
///
/// `devices` are the names that will be served, relative to `/dev`, such as `video0` or
/// `dri/card0`, and `numbers` those of the character devices among them. An old entry of the same name is hidden by the device. A directory that holds a
/// device (`dri`) is the file system's, and the old entries in it are bound one by one.
/// `classes` are the names of devices that have a class, with that before them:
/// `video4linux/video0`. If there are any, `/sys/class` and `/sys/devices/virtual` are replaced
/// as `/dev` is.
///
/// # Errors
///
/// `/dev/fuse` is missing (`ENOENT`) or closed to this user (`EACCES`, `EPERM`), the kernel has no
/// FUSE (`ENODEV`), or root may not mount (`EPERM`).
pub fn prepare(
    devices: &[PathBuf],
    numbers: &[(u32, u32)],
    classes: &[PathBuf],
) -> Result<Prepared, NamespaceError> {
    let binding = if !rustix::process::geteuid().is_root() {
        Binding::Permitted
    } else if opens_nodes(numbers) {
        Binding::Public
    } else {
        Binding::All
    };
    let entries = DevEntries::collect(devices, classes, binding)
        .map_err(|(path, error)| NamespaceError::new(format!("read {}", path.display()), error))?;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .during("socketpair")?;
    let fuse = open_fuse().during("open /dev/fuse")?;
    let (access, fuse, source) = if uid.is_root() {
        let attributes = match binding {
            Binding::Public => MountAttrFlags::MOUNT_ATTR_NOSUID,
            Binding::All | Binding::Permitted => NO_DEVICES,
        };
        let mount = mount_fuse(&fuse, uid.as_raw(), gid.as_raw(), &["allow_other"], attributes)?;
        (Access::Root, Some(fuse), Source::Detached(mount))
    } else {
        // This was to see whether it can be opened. The descriptor that will be mounted has to
        // be opened in the user name space.
        (Access::User, None, Source::Inside)
    };
    let program = ProgramEnd {
        socket: theirs,
        source,
        uid: uid.as_raw(),
        gid: gid.as_raw(),
        binds: entries.binds(),
        replace_char: entries.has_char,
        classes: entries.classes.clone(),
        files: Vec::new(),
    };
    let supervisor = SupervisorEnd { socket: ours, fuse };
    Ok(Prepared { access, owner: (uid.as_raw(), gid.as_raw()), entries, supervisor, program })
}

/// Goes into a mount name space as a program would, and mounts a FUSE file system that nobody
/// serves: whether, and how, the machine permits it. For a process that ends afterwards, with one
/// thread.
///
/// # Errors
/// The first step that the machine refuses.
pub(crate) fn attempt() -> Result<Access, NamespaceError> {
    let prepared = prepare(&[], &[], &[])?;
    match prepared.program.source {
        Source::Detached(_) => {
            devmap_sys::namespace::unshare_mounts().during("unshare(CLONE_NEWNS)")?;
        }
        Source::Inside => {
            prepared.program.enter_user_namespace()?;
            let fuse = open_fuse().during("open /dev/fuse in the user name space")?;
            mount_fuse(&fuse, prepared.program.uid, prepared.program.gid, &[], NO_DEVICES)?;
        }
    }
    Ok(prepared.access)
}

impl Prepared {
    /// Regular files of the file system that shall take the place of others: for each its name
    /// in [`FILES`], and the path of a file that is there.
    #[must_use]
    pub fn with_files(mut self, files: Vec<(String, PathBuf)>) -> Prepared {
        self.program.files = files;
        self
    }
}

impl SupervisorEnd {
    /// The channel of the file system. As an ordinary user this waits for the program's process
    /// to mount it.
    ///
    /// # Errors
    ///
    /// The error of that process in [`ProgramEnd::enter`], or that it ended.
    pub fn channel(&mut self) -> Result<Channel, NamespaceError> {
        if let Some(fuse) = self.fuse.take() {
            return Ok(Channel::new(fuse));
        }
        match receive(self.socket.as_fd())? {
            (Message::Mounted, Some(fuse)) => Ok(Channel::new(fuse)),
            (Message::Done(Err(error)), _) => Err(error),
            _ => Err(NamespaceError::other("mount a FUSE file system", "no descriptor came")),
        }
    }

    /// Waits until the program's process is in its name space. The channel has to be served
    /// meanwhile. To be called once, after [`SupervisorEnd::channel`].
    ///
    /// # Errors
    ///
    /// The error of that process in [`ProgramEnd::enter`], or that it ended.
    pub fn wait(self) -> Result<Entered, NamespaceError> {
        match receive(self.socket.as_fd())? {
            (Message::Done(result), _) => result,
            (Message::Mounted, _) => {
                Err(NamespaceError::other("enter the name space", "the channel was not taken"))
            }
        }
    }
}

impl ProgramEnd {
    /// Moves this process into its name space and tells the supervisor.
    ///
    /// The process must have one thread. This waits for answers of the file system, so the
    /// supervisor has to serve it.
    ///
    /// # Errors
    ///
    /// The first step that was refused. The process is of no use any more then.
    pub fn enter(self) -> Result<Entered, NamespaceError> {
        let result = self.enter_quietly();
        // If the supervisor is gone there is nobody to tell; its file system is gone too.
        let _ = send(self.socket.as_fd(), &Message::Done(result.clone()), None);
        result
    }

    fn enter_quietly(&self) -> Result<Entered, NamespaceError> {
        match &self.source {
            Source::Detached(_) => {
                devmap_sys::namespace::unshare_mounts().during("unshare(CLONE_NEWNS)")?;
            }
            Source::Inside => self.enter_user_namespace()?,
        }
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
        )
        .during("mount(\"/\", MS_REC|MS_SLAVE)")?;

        // The old /dev is reached by these once it is covered.
        let old = open_directory("/dev").during("open /dev")?;
        let whole = open_tree_clone(old.as_fd(), Path::new("."), OpenTreeFlags::AT_RECURSIVE)
            .during("open_tree of the old /dev")?;
        let Trees { dev, char, classes, files } = self.trees()?;
        move_onto(&dev, rustix::fs::CWD, Path::new("/dev")).during("move_mount to /dev")?;
        let new = open_directory("/dev").during("open the new /dev")?;
        list_places(Path::new("/dev"), &self.binds)?;
        for (tree, (_, path)) in files.iter().zip(&self.files) {
            move_onto(tree, rustix::fs::CWD, path)
                .during(format!("move_mount to {}", path.display()))?;
        }
        let mut entered = Entered::default();
        for name in &self.binds {
            let bound = if name == Path::new(entries::WHOLE) {
                move_onto(&whole, new.as_fd(), name)
            } else {
                bind(&old, &new, name)
            };
            match bound {
                Ok(()) => {}
                Err(error @ (Errno::NOENT | Errno::INVAL)) => {
                    entered.unbound.push((name.clone(), error.raw_os_error()));
                }
                Err(error) => {
                    let step = format!("bind the old /dev/{}", name.display());
                    return Err(NamespaceError::new(step, error));
                }
            }
        }
        entered.char_refused = if self.replace_char {
            move_onto(&char, rustix::fs::CWD, Path::new(sysfs::CHAR))
                .during("move_mount to /sys/dev/char")
                .err()
        } else {
            Some(NamespaceError::new("open /sys/dev/char", Errno::NOENT))
        };
        for (tree, mount) in self.classes.iter().zip(&classes) {
            if let Err(error) = cover(tree, mount) {
                entered.class_refused = Some(error);
            }
        }
        Ok(entered)
    }

    /// Makes a user name space with the same user and group as outside, and nobody else.
    fn enter_user_namespace(&self) -> Result<(), NamespaceError> {
        devmap_sys::namespace::unshare_user_and_mounts()
            .during("unshare(CLONE_NEWUSER|CLONE_NEWNS)")?;
        let (uid, gid) = (self.uid, self.gid);
        for (file, text) in [
            ("/proc/self/setgroups", "deny".to_owned()),
            ("/proc/self/uid_map", format!("{uid} {uid} 1")),
            ("/proc/self/gid_map", format!("{gid} {gid} 1")),
        ] {
            std::fs::write(file, text).during(format!("write {file}"))?;
        }
        Ok(())
    }

    /// Detached mounts of the parts of the file system.
    fn trees(&self) -> Result<Trees, NamespaceError> {
        let made;
        let mount = match &self.source {
            Source::Detached(mount) => mount,
            Source::Inside => {
                let fuse = open_fuse().during("open /dev/fuse in the user name space")?;
                made = mount_fuse(&fuse, self.uid, self.gid, &[], NO_DEVICES)?;
                // From here on the supervisor answers.
                send(self.socket.as_fd(), &Message::Mounted, Some(fuse.as_fd()))?;
                &made
            }
        };
        // Before Linux 6.15 only what is attached can be cloned. The root of the file system
        // stays where it is, covered like the old /dev: to unmount it would be to wait until no
        // processor can be looking at it (`namespace_unlock`).
        let place = Path::new("/dev");
        move_onto(mount, rustix::fs::CWD, place).during("move_mount to /dev")?;
        self.clones(place)
    }

    /// Those of the file system that is mounted at `root`.
    fn clones(&self, root: &Path) -> Result<Trees, NamespaceError> {
        let clone = |name: &str| {
            let path = root.join(name);
            open_tree_clone(rustix::fs::CWD, &path, OpenTreeFlags::empty())
                .during(format!("open_tree of {name} in the file system"))
        };
        let classes = self.classes.iter().map(|tree| clone(tree.name)).collect::<Result<_, _>>()?;
        let files = self.files.iter().map(|(name, _)| clone(&format!("{FILES}/{name}")));
        let files = files.collect::<Result<_, _>>()?;
        Ok(Trees { dev: clone(DEV)?, char: clone(CHAR)?, classes, files })
    }
}

/// Detached mounts of parts of the file system.
struct Trees {
    dev: OwnedFd,
    char: OwnedFd,
    classes: Vec<OwnedFd>,
    files: Vec<OwnedFd>,
}

/// For a file system whose nodes are not to be opened as devices of the kernel.
const NO_DEVICES: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Whether nodes of devices in a FUSE file system of root's can be opened, and nodes with these
/// numbers can not: there is no driver of their major.
fn opens_nodes(numbers: &[(u32, u32)]) -> bool {
    // In any but the first user name space the kernel opens none. The number is the kernel's
    // PROC_USER_INIT_INO.
    let first = std::fs::read_link("/proc/self/ns/user")
        .is_ok_and(|name| name.as_os_str() == "user:[4026531837]");
    let drivers = || std::fs::read_to_string("/proc/devices").ok();
    let taken = |drivers: String| {
        let character = drivers.split("Block devices:").next().unwrap_or_default().lines();
        let mut majors = character.filter_map(|line| line.split_whitespace().next()?.parse().ok());
        majors.any(|major: u32| numbers.iter().any(|number| number.0 == major))
    };
    first && drivers().is_some_and(|drivers| !taken(drivers))
}

fn open_fuse() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn open_directory(path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// A mount of the file system that will be served over `fuse`, attached nowhere.
fn mount_fuse(
    fuse: &OwnedFd,
    uid: u32,
    gid: u32,
    flags: &[&str],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, NamespaceError> {
    use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen};
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).during("fsopen(\"fuse\")")?;
    for (key, value) in [
        ("source", "devmap".to_owned()),
        // As text, because Linux before 6.6 takes it no other way.
        ("fd", fuse.as_raw_fd().to_string()),
        ("rootmode", "40000".to_owned()),
        ("user_id", uid.to_string()),
        ("group_id", gid.to_string()),
        ("subtype", "devmap".to_owned()),
    ] {
        fsconfig_set_string(&context, key, &*value).during(format!("fsconfig({key}={value})"))?;
    }
    for flag in ["default_permissions"].iter().chain(flags) {
        fsconfig_set_flag(&context, *flag).during(format!("fsconfig({flag})"))?;
    }
    fsconfig_create(&context).during("fsconfig(FSCONFIG_CMD_CREATE) of a FUSE file system")?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .during("fsmount of a FUSE file system")
}

/// Lists the directories of the file system in which binds will be put. If it answers with
/// nodes (`FUSE_READDIRPLUS`), that spares a request for each bind.
fn list_places(place: &Path, binds: &[PathBuf]) -> Result<(), NamespaceError> {
    let parents: BTreeSet<_> = binds.iter().filter_map(|name| name.parent()).collect();
    for parent in parents {
        let place = place.join(parent);
        let step = || format!("list the new {}", place.display());
        for entry in std::fs::read_dir(&place).during(step())? {
            entry.during(step())?;
        }
    }
    Ok(())
}

/// Puts a directory of the file system in the place of one of `/sys`, with all that the old
/// one holds; or leaves the old one as it is.
fn cover(tree: &ClassTree, mount: &OwnedFd) -> Result<(), NamespaceError> {
    let place = Path::new(tree.place);
    let step = |what: &str| format!("{what} {}", place.display());
    let old = open_directory(tree.place).during(step("open"))?;
    move_onto(mount, rustix::fs::CWD, place).during(step("move_mount to"))?;
    let filled = || {
        let new = open_directory(tree.place).during(step("open the new"))?;
        let binds = tree.binds();
        list_places(place, &binds)?;
        for name in &binds {
            match bind(&old, &new, name) {
                // It has gone meanwhile.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => {
                    let step = format!("bind the old {}", place.join(name).display());
                    return Err(NamespaceError::new(step, error));
                }
            }
        }
        Ok(())
    };
    filled().inspect_err(|_| {
        // What it covers is whole.
        let _ = rustix::mount::unmount(place, UnmountFlags::DETACH);
    })
}

fn open_tree_clone(
    dir: BorrowedFd<'_>,
    path: &Path,
    more: OpenTreeFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_NO_AUTOMOUNT
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    rustix::mount::open_tree(dir, path, flags | more)
}

/// Attaches a detached mount at a path; what was there is covered.
fn move_onto(mount: &OwnedFd, dir: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", dir, path, flags)
}

/// Puts an entry of the old /dev, with whatever is mounted in it, over its placeholder.
fn bind(old: &OwnedFd, new: &OwnedFd, name: &Path) -> rustix::io::Result<()> {
    let tree = open_tree_clone(old.as_fd(), name, OpenTreeFlags::AT_RECURSIVE)?;
    move_onto(&tree, new.as_fd(), name)
}

fn send(
    socket: BorrowedFd<'_>,
    message: &Message,
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), NamespaceError> {
    const STEP: &str = "tell the supervisor";
    let text = serde_json::to_vec(message).during(STEP)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &fd {
        // There is room for one.
        ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
    }
    let data = [IoSlice::new(&text)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &data, &mut ancillary, SendFlags::NOSIGNAL)
    })
    .during(STEP)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> Result<(Message, Option<OwnedFd>), NamespaceError> {
    const STEP: &str = "enter the name space";
    let mut text = vec![0; 1 << 16];
    let (len, fd) = receive_bytes(socket, &mut text).during(STEP)?;
    if len == 0 {
        return Err(NamespaceError::other(STEP, "the program's process ended"));
    }
    let message = serde_json::from_slice(&text[..len]).during(STEP)?;
    Ok((message, fd))
}

/// One message and perhaps a descriptor; no bytes when the other side is gone.
fn receive_bytes(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> rustix::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut data = [IoSliceMut::new(bytes)];
        rustix::net::recvmsg(socket, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((received.bytes, fd))
}
