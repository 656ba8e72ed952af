//! The program's name space, in all ways and as real processes: old entries of `/dev` go on to
//! work, new ones are there, refusals say which step and leave nothing behind.
//!
//! The file system is a stub. Each case is this program once more, with one thread, so that it
//! may fork; the environment says which. A way that this machine cannot go is skipped aloud.

#![forbid(unsafe_code)]

use devmap_backend_supervised::namespace::{
    self, Access, CHAR, DEV, DevEntries, Entered, EntryKind, NamespaceError, Prepared,
};
use devmap_fuse::{Attr, Channel, DirBuffer, Entry, Operation, RequestBuffer, open_flags};
use devmap_sys::process::{Fork, fork};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const ROLE: &str = "DEVMAP_TEST_ROLE";
const NOBODY: u32 = 65534;
/// Says that a case did not run.
const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("root") => pass(Access::Root),
        Ok("root without CAP_SYS_ADMIN") => root_refused(),
        Ok("user") => user(0o666, false, "user enters"),
        Ok("user without the right to /dev/fuse") => user(0o600, false, "user has no FUSE"),
        Ok("user in a chroot") => user(0o666, true, "user is refused"),
        Ok("user enters") => pass(Access::User),
        Ok("user has no FUSE") => user_without_fuse(),
        Ok("user is refused") => user_refused(),
        Ok(role) => panic!("no such role: {role}"),
        Err(_) => all(),
    }
}

fn all() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        println!("namespace: test");
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for case in [
        "root",
        "root without CAP_SYS_ADMIN",
        "user",
        "user without the right to /dev/fuse",
        "user in a chroot",
    ] {
        println!("namespace: {case}");
        match again(case).status().expect("run this program").code() {
            Some(0) => println!("namespace: {case} ... ok"),
            Some(code) if code == i32::from(SKIPPED) => println!("namespace: {case} ... SKIPPED"),
            code => {
                println!("namespace: {case} ... FAILED ({code:?})");
                failed += 1;
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn skip(reason: &str) -> ExitCode {
    println!("namespace: skipped, because {reason}");
    ExitCode::from(SKIPPED)
}

/// This program in another role.
fn again(role: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.env(ROLE, role);
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Without the right to mount the first step is refused, by name and number.
fn root_refused() -> ExitCode {
    if !is_root() || fs::File::open("/dev/fuse").is_err() {
        return skip("this takes root and /dev/fuse");
    }
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let mut sets = capabilities(None).expect("capget");
    sets.effective.remove(CapabilitySet::SYS_ADMIN);
    set_capabilities(None, sets).expect("capset");
    let error = namespace::prepare(&[], &[], &[]).expect_err("mounted without the right to");
    println!("{error}");
    assert_eq!(error.errno, Some(Errno::PERM.raw_os_error()));
    assert!(error.step.contains("fuse"), "{error}");
    ExitCode::SUCCESS
}

/// As root: makes a world in which `/dev/fuse` has this mode, then goes on there as an ordinary
/// user in another role.
fn user(mode: u32, chroot: bool, role: &str) -> ExitCode {
    if !is_root() {
        return skip("becoming another user takes root");
    }
    let Ok(fuse) = fs::metadata("/dev/fuse") else { return skip("there is no /dev/fuse") };
    if devmap_sys::namespace::unshare_mounts().is_err() {
        return skip("a mount name space is refused");
    }
    mount_private();
    let scratch = Path::new("/mnt");
    mount("tmpfs", scratch, "tmpfs", MountFlags::empty(), None).expect("mount tmpfs");
    let node = scratch.join("fuse");
    let (file, permissions) = (FileType::CharacterDevice, Mode::from_raw_mode(mode));
    rustix::fs::mknodat(CWD, &node, file, permissions, fuse.rdev()).expect("mknod");
    fs::set_permissions(&node, fs::Permissions::from_mode(mode)).expect("chmod");
    mount_bind(&node, "/dev/fuse").expect("bind over /dev/fuse");
    if chroot {
        // Not a real jail; the kernel refuses user name spaces in any.
        let jail = scratch.join("jail");
        fs::create_dir(&jail).expect("mkdir");
        mount_bind_recursive("/", &jail).expect("bind /");
        rustix::process::chroot(&jail).expect("chroot");
        std::env::set_current_dir("/").expect("chdir");
    }
    let status = again(role).uid(NOBODY).gid(NOBODY).status().expect("run as nobody");
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn mount_private() {
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .expect("make mounts private");
}

/// The whole way, and a look around inside.
fn pass(access: Access) -> ExitCode {
    if access == Access::Root && (!is_root() || fs::File::open("/dev/fuse").is_err()) {
        return skip("this takes root and /dev/fuse");
    }
    let devices = devices();
    let classes = ["devmap-class/devmap-test".into()];
    let prepared = namespace::prepare(&devices, &[], &classes).expect("prepare");
    assert_eq!(prepared.access, access);
    let old = prepared.entries.clone();
    let char = links();
    let (entered, status) = run(prepared, &devices, |result| {
        result.expect("enter");
        inside(access, &old, &char);
    });
    let entered = entered.expect("enter");
    assert_eq!(entered.unbound, []);
    assert_eq!(entered.char_refused, None);
    assert_eq!(entered.class_refused, None);
    assert_eq!(status, 0, "the checks inside failed");
    ExitCode::SUCCESS
}

/// The links of `/sys/dev/char`, with their targets.
fn links() -> BTreeMap<OsString, PathBuf> {
    let entries = fs::read_dir("/sys/dev/char").into_iter().flatten();
    let entries = entries.map(|entry| entry.expect("list /sys/dev/char"));
    entries.map(|entry| (entry.file_name(), fs::read_link(entry.path()).expect("a link"))).collect()
}

/// Before anything is started the step is named.
fn user_without_fuse() -> ExitCode {
    let error = namespace::prepare(&devices(), &[], &[]).expect_err("opened /dev/fuse");
    println!("{error}");
    assert_eq!(error.step, "open /dev/fuse");
    assert_eq!(error.errno, Some(Errno::ACCESS.raw_os_error()));
    ExitCode::SUCCESS
}

/// User name spaces are forbidden: both processes learn it, and nothing stays.
fn user_refused() -> ExitCode {
    let prepared = namespace::prepare(&devices(), &[], &[]).expect("prepare");
    assert_eq!(prepared.access, Access::User);
    let (entered, status) = run(prepared, &devices(), |result| {
        result.expect_err("entered from a chroot");
    });
    let error = entered.expect_err("entered from a chroot");
    println!("{error}");
    assert_eq!(error.errno, Some(Errno::PERM.raw_os_error()));
    assert!(error.step.contains("CLONE_NEWUSER"), "{error}");
    assert_eq!(status, 0);
    ExitCode::SUCCESS
}

/// One device of a new name, one that hides an old entry, one in a directory of its own and one
/// in an old directory, if there is any.
fn devices() -> Vec<PathBuf> {
    let mut names = vec!["devmap-test".into(), "full".into(), "devmap-fresh/sub0".into()];
    if Path::new("/dev/net/tun").exists() {
        names.push("net/devmap-test".into());
    }
    names
}

/// Forks; the child enters and runs `check`, this process serves meanwhile. Gives what the
/// supervisor was told and the child's exit status, after the file system has ended.
fn run(
    prepared: Prepared,
    devices: &[PathBuf],
    check: impl FnOnce(Result<Entered, NamespaceError>),
) -> (Result<Entered, NamespaceError>, i32) {
    let Prepared { owner, entries, mut supervisor, program, .. } = prepared;
    let tree = Tree::new(devices, &entries, owner);
    let child = match fork().expect("fork") {
        Fork::Child => {
            drop(supervisor);
            let start = Instant::now();
            let result = program.enter();
            let spent = start.elapsed();
            println!("enter took {spent:?} for {} entries", entries.dev.len());
            check(result);
            std::io::stdout().flush().expect("flush");
            std::process::exit(0);
        }
        Fork::Parent(pid) => pid,
    };
    drop(program);
    let entered = match supervisor.channel() {
        Ok(channel) => {
            let channel = channel.with_readdirplus();
            let server = std::thread::spawn(move || tree.serve(&channel));
            let entered = supervisor.wait();
            (entered, Some(server))
        }
        Err(error) => (Err(error), None),
    };
    let (_, status) = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())
        .expect("waitpid")
        .expect("a status");
    if let Some(server) = entered.1 {
        // It ends when nothing is mounted any more.
        server.join().expect("the server");
    }
    (entered.0, status.exit_status().expect("no exit"))
}

/// What a program sees.
fn inside(access: Access, old: &DevEntries, char: &BTreeMap<OsString, PathBuf>) {
    // Names: all the old ones and the new ones.
    let names = |path: &str| -> Vec<Vec<u8>> {
        let mut names: Vec<_> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_vec()).collect();
        names.sort();
        names
    };
    let listed = Command::new("ls").arg("-f").arg("/dev").output().expect("ls");
    assert!(listed.status.success());
    let listed: Vec<&[u8]> = listed.stdout.split(|byte| *byte == b'\n').collect();
    for (name, _) in old.dev.iter().filter(|entry| entry.0.components().count() == 1) {
        assert!(listed.contains(&name.as_os_str().as_bytes()), "{name:?} is not listed");
    }
    for name in ["devmap-test", "full", "devmap-fresh"] {
        assert!(listed.contains(&name.as_bytes()), "{name} is not listed");
    }

    // Devices: the stub's, and over an old one.
    for device in devices() {
        let path = Path::new("/dev").join(&device);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        assert_eq!(text, format!("this is {}\n", device.display()));
        // Written to as well: the owner is one that the kernel knows here.
        fs::OpenOptions::new().read(true).write(true).open(&path).expect("open for writing");
    }

    // Old entries work.
    assert!(fs::metadata("/dev/null").expect("stat").file_type().is_char_device());
    fs::write("/dev/null", "gone").expect("write to /dev/null");
    assert_eq!(fs::read("/dev/null").expect("read /dev/null"), b"");
    if Path::new("/dev/net/devmap-test").exists() {
        let tun = fs::metadata("/dev/net/tun").expect("stat");
        assert!(tun.file_type().is_char_device());
    }
    let new_dev = fs::metadata("/dev").expect("stat /dev").dev();
    for (name, kind) in &old.dev {
        let path = Path::new("/dev").join(name);
        let data = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        match kind {
            EntryKind::Directory => assert!(data.is_dir(), "{path:?}"),
            EntryKind::File => {
                assert_ne!(data.dev(), new_dev, "{path:?} is still the placeholder");
            }
            EntryKind::Node => {
                let kind = data.file_type();
                assert!(kind.is_char_device() || kind.is_block_device(), "{path:?}");
                assert_eq!(data.dev(), new_dev, "{path:?} is bound");
                // As root it opens; to open just any (a terminal, a watchdog) would do something.
                if access == Access::User || name == Path::new("kmsg") {
                    let opened = rustix::fs::open(&path, OFlags::RDONLY, Mode::empty());
                    let refused = (access == Access::User).then_some(Errno::ACCESS);
                    assert_eq!(opened.err(), refused, "{path:?}");
                }
            }
            EntryKind::Symlink(target) => assert_eq!(&fs::read_link(&path).unwrap(), target),
        }
    }
    // A terminal: ptmx looks for pts beside itself.
    if Path::new("/dev/pts/ptmx").exists() {
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let terminal = rustix::fs::open("/dev/ptmx", flags, Mode::empty()).expect("open ptmx");
        let name = rustix::pty::ptsname(&terminal, Vec::new()).expect("ptsname");
        rustix::pty::unlockpt(&terminal).expect("unlockpt");
        assert!(Path::new(name.to_str().unwrap()).exists(), "{name:?} does not exist");
    }
    // /sys/dev/char: the old links lead where they led, the new one is there.
    assert_eq!(names("/sys/dev/char").len(), char.len() + 1);
    for (name, target) in char {
        let path = Path::new("/sys/dev/char").join(name);
        assert_eq!(&fs::read_link(&path).unwrap(), target);
        assert!(path.join("uevent").exists(), "{path:?} leads nowhere");
    }
    assert_eq!(fs::read_link("/sys/dev/char/511:7").unwrap(), Path::new("stub"));

    // Classes: the old ones, whole, and the new one.
    for class in &old.classes {
        let place = Path::new(class.place);
        assert_eq!(names(class.place).len(), class.entries.len() + 1, "{place:?}");
        for (name, _) in &class.entries {
            fs::read_dir(place.join(name)).unwrap_or_else(|e| panic!("{place:?} {name:?}: {e}"));
        }
        let new = place.join("devmap-class/devmap-test");
        assert_eq!(fs::read_link(new).unwrap(), Path::new("stub"));
    }
    assert_eq!(fs::read_to_string("/sys/class/net/lo/ifindex").unwrap(), "1\n");

    // Programs started from here are no stronger than before.
    let me = fs::metadata("/proc/self").expect("stat");
    assert_eq!(me.uid(), rustix::process::geteuid().as_raw());
    if me.uid() != 0 {
        let status = Command::new("cat").arg("/proc/self/status").output().expect("cat");
        let status = String::from_utf8(status.stdout).expect("text");
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    }
}

/// The stub: directories, links, placeholders, and devices whose content is their name.
struct Tree {
    nodes: Vec<Node>,
    owner: (u32, u32),
}

enum Node {
    Directory(BTreeMap<Vec<u8>, u64>),
    Link(PathBuf),
    Placeholder,
    Old(fs::Metadata),
    Device(String),
}

impl Tree {
    fn new(devices: &[PathBuf], entries: &DevEntries, owner: (u32, u32)) -> Tree {
        let mut tree = Tree { nodes: vec![Node::Directory(BTreeMap::new())], owner };
        for name in devices {
            let text = format!("this is {}\n", name.display());
            tree.add(&Path::new(DEV).join(name), Node::Device(text));
        }
        let classes = entries.classes.iter().map(|class| (class.name, &class.entries));
        for (root, old) in std::iter::once((DEV, &entries.dev)).chain(classes) {
            for (name, kind) in old {
                let node = match kind {
                    EntryKind::Directory => Node::Directory(BTreeMap::new()),
                    EntryKind::File => Node::Placeholder,
                    EntryKind::Node => {
                        Node::Old(fs::symlink_metadata(Path::new("/dev").join(name)).expect("stat"))
                    }
                    EntryKind::Symlink(target) => Node::Link(target.clone()),
                };
                tree.add(&Path::new(root).join(name), node);
            }
        }
        for class in &entries.classes {
            let link = Node::Link("stub".into());
            tree.add(&Path::new(class.name).join("devmap-class/devmap-test"), link);
        }
        for (name, target) in links() {
            tree.add(&Path::new(CHAR).join(name), Node::Link(target));
        }
        tree.add(&Path::new(CHAR).join("511:7"), Node::Link("stub".into()));
        tree
    }

    /// Adds a node, and the directories that lead to it.
    fn add(&mut self, path: &Path, node: Node) {
        let mut node = Some(node);
        let mut at = 0;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let next = self.nodes.len();
            let name = component.as_os_str().as_bytes().to_vec();
            let Node::Directory(children) = &mut self.nodes[at] else { panic!("{path:?}") };
            let id = *children.entry(name).or_insert(next as u64 + 1);
            at = id as usize - 1;
            if at == next {
                let directory = Node::Directory(BTreeMap::new());
                let last = components.peek().is_none();
                self.nodes.push(if last { node.take().unwrap() } else { directory });
            }
        }
    }

    fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    fn attr(&self, id: u64) -> Attr {
        let mode = match self.node(id) {
            Node::Directory(_) => 0o040755,
            Node::Link(_) => 0o120777,
            Node::Placeholder => 0o100000,
            Node::Device(_) => 0o100660,
            Node::Old(node) => {
                let (major, minor) =
                    (rustix::fs::major(node.rdev()), rustix::fs::minor(node.rdev()));
                let rdev = devmap_fuse::device_number(major, minor);
                let (uid, gid) = (node.uid(), node.gid());
                return Attr { uid, gid, rdev, ..Attr::new(id, node.mode()) };
            }
        };
        Attr { uid: self.owner.0, gid: self.owner.1, ..Attr::new(id, mode) }
    }

    fn entry(&self, nodeid: u64) -> Entry {
        let (entry_valid, attr_valid) = (Duration::MAX, Duration::MAX);
        Entry { nodeid, generation: 0, entry_valid, attr_valid, attr: self.attr(nodeid) }
    }

    fn serve(&self, channel: &Channel) {
        let mut buffer = RequestBuffer::new();
        while let Some(request) = channel.receive(&mut buffer).expect("receive") {
            let (unique, id) = (request.header.unique, request.header.nodeid);
            let error = |errno: Errno| channel.reply_error(unique, errno.raw_os_error());
            let sent = match (request.operation, self.node(id.max(1))) {
                (Operation::Lookup { name }, Node::Directory(children)) => {
                    match children.get(name) {
                        Some(&id) => channel.reply_entry(unique, &self.entry(id)),
                        None => error(Errno::NOENT),
                    }
                }
                (Operation::Getattr { .. }, _) => {
                    channel.reply_attr(unique, &self.attr(id), Duration::MAX)
                }
                (Operation::Open { .. } | Operation::Opendir { .. }, _) => {
                    channel.reply_open(unique, 0, open_flags::DIRECT_IO)
                }
                (Operation::Readdirplus { offset, size, .. }, Node::Directory(children)) => {
                    let mut list = DirBuffer::new(size);
                    for (at, (name, &id)) in children.iter().enumerate().skip(offset as usize) {
                        let entry = self.entry(id);
                        let (next, mode) = (at as u64 + 1, entry.attr.mode);
                        if !list.push_plus(Some(&entry), id, next, mode, name) {
                            break;
                        }
                    }
                    channel.reply_data(unique, list.as_bytes())
                }
                (Operation::Readlink, Node::Link(target)) => {
                    channel.reply_data(unique, target.as_os_str().as_bytes())
                }
                (Operation::Read { offset, .. }, Node::Device(text)) => {
                    let offset = text.len().min(offset as usize);
                    channel.reply_data(unique, &text.as_bytes()[offset..])
                }
                (Operation::Forget { .. } | Operation::BatchForget(_), _) => Ok(()),
                (Operation::Release { .. } | Operation::Releasedir { .. }, _)
                | (Operation::Flush { .. }, _) => channel.reply_empty(unique),
                _ => error(Errno::NOSYS),
            };
            sent.expect("answer");
        }
    }
}
