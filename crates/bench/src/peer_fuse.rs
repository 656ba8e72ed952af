//! The peer of the ioctl and of page faults: a file of FUSE whose server does nothing else, one thread that
//! reads a request from /dev/fuse and writes its answer. By design it shares no code with
//! `devmap-fuse`: nothing stands between the two calls that does not have to.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
};

use devmap_sys::descriptor::INVERT;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    },
};

use crate::faulted::WRITTEN;

/// Operations, from linux/fuse.h.
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const FSYNC: u32 = 20;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const IOCTL: u32 = 39;

const HEADER: usize = 40;
const IOCTL_IN: usize = 32;
const WRITE_IN: usize = 40;
/// The most that is read at once.
const READ_MOST: usize = 128 << 10;
/// Bytes of a page.
const PAGE: usize = 4096;
/// As large as the device beside it, so that there are always new pages.
const SIZE: u64 = 1 << 40;
/// What the kernel writes at once, with its header, fits.
const BUFFER: usize = WRITE_MOST + 4096;
/// The most that is written at once.
const WRITE_MOST: usize = 128 << 10;

/// Serves a file system of one file until the input ends. Says where the file is, as a
/// path that is good while this process lives: the mount is attached to no directory.
///
/// # Errors
/// Those of mounting, which takes root: `EPERM`.
pub(crate) fn serve() -> io::Result<()> {
    let mut out = io::stdout();
    let (fuse, mount) = match mount() {
        Ok(mounted) => mounted,
        Err(error) => return writeln!(out, "error cannot mount FUSE: {error}"),
    };
    let (pid, number) = (std::process::id(), mount.as_raw_fd());
    writeln!(out, "ready /proc/{pid}/fd/{number}/file")?;
    // The end of the input ends the process, and with it the file system; the loop itself
    // makes no call but the two.
    std::thread::spawn(|| {
        let mut fds = [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN)];
        let _ = poll(&mut fds, None);
        std::process::exit(0);
    });
    let mut request = vec![0; BUFFER];
    let mut kept = Kept { bytes: vec![0; WRITTEN as usize], pages: vec![false; PAGES] };
    loop {
        match rustix::io::read(&fuse, &mut request) {
            Ok(len) => answer(&fuse, &mut kept, &request[..len])?,
            Err(Errno::INTR | Errno::NOENT) => {}
            Err(Errno::NODEV) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn mount() -> io::Result<(OwnedFd, OwnedFd)> {
    let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse")?.into();
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fd = AsRawFd::as_raw_fd(&fuse).to_string();
    let ids = (rustix::process::geteuid(), rustix::process::getegid());
    let (uid, gid) = (ids.0.as_raw().to_string(), ids.1.as_raw().to_string());
    for (key, value) in
        [("fd", &*fd), ("rootmode", "40000"), ("user_id", &*uid), ("group_id", &*gid)]
    {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID;
    Ok((fuse, fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_ne_bytes)
}

/// What is written to the file, which is all before [`WRITTEN`].
struct Kept {
    bytes: Vec<u8>,
    /// Which pages there are.
    pages: Vec<bool>,
}

const PAGES: usize = WRITTEN as usize / PAGE;

impl Kept {
    fn write(&mut self, at: usize, data: &[u8]) {
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.pages[at / PAGE..(at + data.len()).div_ceil(PAGE)].fill(true);
    }

    /// Whole pages.
    fn read(&self, at: usize, into: &mut [u8]) {
        for (page, into) in (at / PAGE..PAGES).zip(into.chunks_mut(PAGE)) {
            if self.pages[page] {
                into.copy_from_slice(&self.bytes[page * PAGE..][..into.len()]);
            }
        }
    }
}

fn long(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 8].try_into().map_or(0, usize::from_ne_bytes)
}

fn answer(fuse: &OwnedFd, kept: &mut Kept, request: &[u8]) -> io::Result<()> {
    if word(request, 4) == READ {
        return answer_read(fuse, kept, request);
    }
    let mut body = [0; 256];
    let (len, errno) = match word(request, 4) {
        INIT => {
            // fuse_init_out: the kernel's protocol is as new or newer; max_write.
            put(&mut body, 0, 7);
            put(&mut body, 4, 31);
            put(&mut body, 8, READ_MOST as u32);
            put(&mut body, 20, WRITE_MOST as u32);
            (64, 0)
        }
        // fuse_entry_out: node 2, valid for long, a regular file.
        LOOKUP => {
            put(&mut body, 0, 2);
            put(&mut body, 16, u32::MAX);
            put(&mut body, 24, u32::MAX);
            attributes(&mut body[40..], 2, 0o100_666);
            (128, 0)
        }
        // fuse_attr_out.
        GETATTR => {
            put(&mut body, 0, u32::MAX);
            let node = word(request, 16);
            attributes(&mut body[16..], node, if node == 1 { 0o040_755 } else { 0o100_666 });
            (104, 0)
        }
        OPEN => (16, 0),
        FLUSH | RELEASE | FSYNC => (0, 0),
        // fuse_write_out.
        WRITE => {
            let data = HEADER + WRITE_IN;
            let len = word(request, HEADER + 16) as usize;
            kept.write(long(request, HEADER + 8), &request[data..data + len]);
            put(&mut body, 0, word(request, HEADER + 16));
            (8, 0)
        }
        // fuse_ioctl_out, then the bytes.
        IOCTL if word(request, HEADER + 12) == INVERT => {
            let data = &request[HEADER + IOCTL_IN..];
            body[16..].iter_mut().zip(data).for_each(|(to, from)| *to = !from);
            (16 + data.len(), 0)
        }
        IOCTL => (0, Errno::NOTTY.raw_os_error()),
        // FORGET, BATCH_FORGET, INTERRUPT.
        2 | 42 | 36 => return Ok(()),
        _ => (0, Errno::NOSYS.raw_os_error()),
    };
    // fuse_out_header: length, error, unique; one write for the whole.
    let mut message = [0; 16 + 256];
    put(&mut message, 0, 16 + len as u32);
    put(&mut message, 4, errno.wrapping_neg().cast_unsigned());
    message[8..16].copy_from_slice(&request[8..16]);
    message[16..].copy_from_slice(&body);
    match rustix::io::write(fuse, &message[..16 + len]) {
        // Nobody waits for it any more.
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The content is at hand.
fn answer_read(fuse: &OwnedFd, kept: &Kept, request: &[u8]) -> io::Result<()> {
    static CONTENT: [u8; READ_MOST] = [0x5a; READ_MOST];
    let mut message = [0; 16 + READ_MOST];
    let len = (word(request, HEADER + 16) as usize).min(READ_MOST);
    put(&mut message, 0, 16 + len as u32);
    message[8..16].copy_from_slice(&request[8..16]);
    message[16..16 + len].copy_from_slice(&CONTENT[..len]);
    kept.read(long(request, HEADER + 8), &mut message[16..16 + len]);
    match rustix::io::write(fuse, &message[..16 + len]) {
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

/// `fuse_attr`: number, size, mode, one link.
fn attributes(attr: &mut [u8], node: u32, mode: u32) {
    put(attr, 0, node);
    attr[8..16].copy_from_slice(&SIZE.to_ne_bytes());
    put(attr, 60, mode);
    put(attr, 64, 1);
}
