//! A file system of two files, mounted for real: what the kernel asks is understood, and what is
//! answered reaches programs.
//!
//! The clients are threads of this process that hold the mount by descriptor, so nothing is
//! attached to any directory and no other process sees it. It takes root, or the right to mount.

#![forbid(unsafe_code)]

use devmap_fuse::{
    Attr, Channel, DirBuffer, Entry, MAX_WRITE, Operation, ROOT_ID, RequestBuffer, Statfs,
    open_flags,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use devmap_sys::apart;

const TEXT: &[u8] = b"written in safe Rust\n";
const FILE: u64 = 2;
/// A device: writes are kept, reads give them back, and `poll` says whether there is something.
const QUEUE: u64 = 3;
const QUEUE_FH: u64 = 77;
/// Opens of this node are answered by an error.
const SHUT: u64 = 4;
/// Opens of this node, which is in no list, are never answered.
const STUCK: u64 = 5;

#[derive(Default)]
struct Server {
    kept: Mutex<Vec<u8>>,
    /// What polls have left to be notified.
    waiting: Mutex<Option<u64>>,
    released: Mutex<Vec<u64>>,
    /// Whether listings came with nodes.
    plus: Mutex<bool>,
}

fn attr(id: u64) -> Attr {
    match id {
        ROOT_ID => Attr::new(id, 0o040755),
        FILE => Attr { size: TEXT.len() as u64, ..Attr::new(id, 0o100444) },
        _ => Attr::new(id, 0o100666),
    }
}

fn entry(nodeid: u64) -> Entry {
    let valid = Duration::MAX;
    Entry { nodeid, generation: 0, entry_valid: valid, attr_valid: valid, attr: attr(nodeid) }
}

const NAMES: [(&[u8], u64); 3] = [(b"file", FILE), (b"queue", QUEUE), (b"shut", SHUT)];

impl Server {
    fn serve(&self, channel: &Channel) {
        let mut buffer = RequestBuffer::new();
        while let Some(request) = channel.receive(&mut buffer).expect("receive") {
            let (unique, id) = (request.header.unique, request.header.nodeid);
            assert!(unique != 0);
            let error = |errno: Errno| channel.reply_error(unique, errno.raw_os_error());
            let sent = match request.operation {
                Operation::Lookup { name: b"stuck" } => channel.reply_entry(unique, &entry(STUCK)),
                Operation::Lookup { name } => match NAMES.iter().find(|known| known.0 == name) {
                    Some((_, id)) => channel.reply_entry(unique, &entry(*id)),
                    None => error(Errno::NOENT),
                },
                Operation::Getattr { .. } => channel.reply_attr(unique, &attr(id), Duration::MAX),
                Operation::Opendir { .. } => channel.reply_open(unique, 0, 0),
                Operation::Readdir { offset, size, .. } => {
                    let mut list = DirBuffer::new(size);
                    for ((name, id), next) in NAMES.iter().zip(1..).skip(offset as usize) {
                        assert!(list.push(*id, next, attr(*id).mode, name));
                    }
                    channel.reply_data(unique, list.as_bytes())
                }
                Operation::Readdirplus { offset, size, .. } => {
                    *self.plus.lock().unwrap() = true;
                    let mut list = DirBuffer::new(size);
                    for ((name, id), next) in NAMES.iter().zip(1..).skip(offset as usize) {
                        let entry = entry(*id);
                        assert!(list.push_plus(Some(&entry), *id, next, attr(*id).mode, name));
                    }
                    channel.reply_data(unique, list.as_bytes())
                }
                Operation::Open { .. } if id == SHUT => error(Errno::NXIO),
                Operation::Open { .. } if id == STUCK => {
                    println!("{WAITS}");
                    loop {
                        std::thread::park();
                    }
                }
                Operation::Open { .. } if id == FILE => channel.reply_open(unique, 1, 0),
                Operation::Open { .. } => {
                    let flags =
                        open_flags::DIRECT_IO | open_flags::STREAM | open_flags::NONSEEKABLE;
                    channel.reply_open(unique, QUEUE_FH, flags)
                }
                Operation::Read { fh: 1, offset, size, .. } => {
                    let rest = &TEXT[TEXT.len().min(offset as usize)..];
                    channel.reply_data(unique, &rest[..rest.len().min(size as usize)])
                }
                Operation::Read { fh, size, flags, .. } => {
                    assert_eq!(fh, QUEUE_FH);
                    let mut kept = self.kept.lock().unwrap();
                    let size = kept.len().min(size as usize);
                    if size == 0 && flags & OFlags::NONBLOCK.bits() != 0 {
                        error(Errno::AGAIN)
                    } else {
                        let data: Vec<u8> = kept.drain(..size).collect();
                        channel.reply_data(unique, &data)
                    }
                }
                Operation::Write { fh, data, .. } => {
                    assert_eq!(fh, QUEUE_FH);
                    self.kept.lock().unwrap().extend_from_slice(data);
                    if let Some(kh) = self.waiting.lock().unwrap().take() {
                        channel.notify_poll(kh).expect("notify");
                    }
                    channel.reply_written(unique, data.len() as u32)
                }
                Operation::Poll { kh, schedule_notify, .. } => {
                    let kept = self.kept.lock().unwrap();
                    if schedule_notify {
                        *self.waiting.lock().unwrap() = Some(kh);
                    }
                    let ready = if kept.is_empty() { PollFlags::OUT } else { PollFlags::IN };
                    channel.reply_poll(unique, ready.bits().into())
                }
                Operation::Statfs => {
                    channel.reply_statfs(unique, &Statfs { files: 3, ..Default::default() })
                }
                Operation::Release { fh, .. } => {
                    self.released.lock().unwrap().push(fh);
                    channel.reply_empty(unique)
                }
                Operation::Flush { .. } | Operation::Releasedir { .. } | Operation::Destroy => {
                    channel.reply_empty(unique)
                }
                Operation::ChangeTree { .. } => error(Errno::ROFS),
                Operation::Forget { .. }
                | Operation::BatchForget(_)
                | Operation::Interrupt { .. } => Ok(()),
                _ => error(Errno::NOSYS),
            };
            match sent {
                // Unmounted before the answer: the last releases may be.
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                sent => sent.expect("answer"),
            }
        }
    }
}

/// Mounts, serves in a thread of its own, and runs the client in this one.
fn with_mount(plus: bool, client: impl FnOnce(OwnedFd, &Server)) {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let fuse = match rustix::fs::open("/dev/fuse", flags, Mode::empty()) {
        Ok(fuse) => fuse,
        Err(error) => return println!("SKIPPED: /dev/fuse cannot be opened: {error}"),
    };
    let mount = match mount(&fuse) {
        Ok(mount) => mount,
        Err(Errno::PERM) => return println!("SKIPPED: mounting takes CAP_SYS_ADMIN"),
        Err(error) => panic!("mount: {error}"),
    };
    let channel = Channel::new(fuse);
    let channel = if plus { channel.with_readdirplus() } else { channel };
    let server = Server::default();
    std::thread::scope(|scope| {
        // Two receivers, as a supervisor has.
        scope.spawn(|| server.serve(&channel));
        scope.spawn(|| server.serve(&channel));
        // When the client is done (or panics) the last reference to the mount goes, and both end.
        client(mount, &server);
    });
}

fn mount(fuse: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fd = fuse.as_raw_fd().to_string();
    for (key, value) in [("fd", &*fd), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID)
}

fn open(mount: &OwnedFd, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat(mount, name, flags | OFlags::CLOEXEC, Mode::empty())
}

fn names(mount: &OwnedFd) -> Vec<String> {
    let list = open(mount, ".", OFlags::RDONLY | OFlags::DIRECTORY).expect("open the root");
    let entries = Dir::new(list).expect("list").map(|entry| entry.expect("entry"));
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn files_are_found_listed_and_read() {
    with_mount(false, |mount, server| {
        assert_eq!(names(&mount), ["file", "queue", "shut"]);
        assert!(!*server.plus.lock().unwrap());
        let file = open(&mount, "file", OFlags::RDONLY).expect("open");
        let mut read = [0; 100];
        assert_eq!(rustix::io::read(&file, &mut read), Ok(TEXT.len()));
        assert_eq!(&read[..TEXT.len()], TEXT);
        let stat = rustix::fs::fstat(&file).expect("fstat");
        assert_eq!((stat.st_mode, stat.st_ino), (0o100444, FILE));
        assert_eq!(rustix::fs::fstatfs(&file).expect("statfs").f_files, 3);
        assert_eq!(open(&mount, "missing", OFlags::RDONLY).err(), Some(Errno::NOENT));
        assert_eq!(open(&mount, "shut", OFlags::RDONLY).err(), Some(Errno::NXIO));
        let new = open(&mount, "new", OFlags::WRONLY | OFlags::CREATE);
        assert_eq!(new.err(), Some(Errno::ROFS));
        assert_eq!(rustix::fs::mkdirat(&mount, "new", Mode::RWXU), Err(Errno::ROFS));
    });
}

#[test]
fn listings_can_bring_the_nodes() {
    with_mount(true, |mount, server| {
        assert_eq!(names(&mount), ["file", "queue", "shut"]);
        assert!(*server.plus.lock().unwrap());
        open(&mount, "file", OFlags::RDONLY).expect("open");
    });
}

#[test]
fn a_device_takes_the_largest_write_and_has_no_position() {
    with_mount(false, |mount, _| {
        let queue = open(&mount, "queue", OFlags::RDWR | OFlags::NONBLOCK).expect("open");
        let mut read = vec![0; MAX_WRITE];
        assert_eq!(rustix::io::read(&queue, &mut read), Err(Errno::AGAIN));
        let data: Vec<u8> = (0..MAX_WRITE).map(|at| (at % 251) as u8).collect();
        assert_eq!(rustix::io::write(&queue, &data), Ok(MAX_WRITE));
        assert_eq!(rustix::io::read(&queue, &mut read), Ok(MAX_WRITE));
        assert!(read == data);
        assert_eq!(rustix::fs::tell(&queue), Err(Errno::SPIPE));
    });
}

#[test]
fn a_poll_waits_for_its_notification_and_the_last_close_is_told() {
    with_mount(false, |mount, server| {
        let queue = open(&mount, "queue", OFlags::RDWR).expect("open");
        let ready = |timeout: Option<&Timespec>| {
            let mut polled = [PollFd::new(&queue, PollFlags::IN)];
            poll(&mut polled, timeout).expect("poll");
            polled[0].revents()
        };
        assert_eq!(ready(Some(&Timespec::default())), PollFlags::empty());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| ready(None));
            // The write comes after the poll's request, or the poll finds its data at once: both
            // must end it.
            assert_eq!(rustix::io::write(&queue, b"x"), Ok(1));
            assert_eq!(waiter.join().unwrap(), PollFlags::IN);
        });
        let copy = rustix::io::dup(&queue).expect("dup");
        drop(queue);
        assert_eq!(*server.released.lock().unwrap(), []);
        drop(copy);
        // Release is sent in the background.
        while server.released.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(*server.released.lock().unwrap(), [QUEUE_FH]);
    });
}

/// What a server says that never answers.
const WAITS: &str = "it waits";

/// Set for a process that is to be such a server.
const IS_SERVER: &str = "DEVMAP_FUSE_TEST_SERVER";

/// A server waits for itself on a thread apart, and is killed: it ends, and so its connection.
#[test]
fn a_server_that_waits_for_itself_can_be_killed() {
    if std::env::var_os(IS_SERVER).is_some() {
        return with_mount(false, |mount, _| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            apart::openat(mount.as_fd(), Path::new("stuck"), flags, |_| ()).expect("never");
        });
    }
    let mut server = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_server_that_waits_for_itself_can_be_killed", "--nocapture"])
        .env(IS_SERVER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let said = BufReader::new(server.stdout.take().expect("a pipe")).lines();
    let said = said.map(|line| line.expect("text"));
    let line = said.into_iter().find(|line| line.contains(WAITS) || line.contains("SKIPPED"));
    let line = line.expect("it waits, or says why not");
    server.kill().expect("killed");
    // A minute, of which it needs a moment.
    let ended = (0..6000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        server.try_wait().expect("its state").is_some()
    });
    assert!(ended, "it does not end");
    println!("{line}");
}
