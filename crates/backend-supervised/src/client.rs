//! What devmap reads of a client: its memory, its descriptors, its state in /proc.
//!
//! Every answer may be out of date by the time it is used; callers that act on it
//! say why that is safe.

use std::{
    fs, io,
    ops::Range,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use devmap_driver::{Caller, Errno, OpenFlags};
use devmap_sys::process;
use rustix::{
    fs::{AtFlags, CWD, OFlags, Statx, StatxFlags},
    process::{Pid, PidfdFlags, PidfdGetfdFlags},
};

use crate::{notify::Call, pool};

/// The process (thread group) of a thread.
pub(crate) fn process_of(tid: u32) -> Option<u32> {
    status_field(&fs::read_to_string(format!("/proc/{tid}/status")).ok()?, "Tgid:")?.parse().ok()
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Whether a signal waits that the thread would take.
pub(crate) fn has_pending_signal(tid: u32) -> io::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{tid}/status"))?;
    let mask = |name| {
        status_field(&status, name).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0)
    };
    Ok((mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") != 0)
}

/// Whether SIGKILL is on its way to a thread, or the thread is gone.
pub(crate) fn is_killed(tid: u32) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    let status = match fs::read_to_string(format!("/proc/{tid}/status")) {
        Ok(status) => status,
        // Too many descriptors here says nothing of the thread.
        Err(error) => return !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)),
    };
    // The kernel puts it among each thread's own signals, whoever it was sent to.
    let own = status_field(&status, "SigPnd:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    own.is_some_and(|own| own & SIGKILL != 0)
}

/// Whether there is such a thread.
pub(crate) fn is_there(tid: u32) -> bool {
    fs::exists(format!("/proc/{tid}")).unwrap_or(true)
}

/// The threads of a process.
pub(crate) fn threads_of(process: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The system call in which a thread waits for this process, see [`blocked_in`]. For want
/// of a descriptor or of memory here: `ENFILE` or `ENOMEM`, which says nothing of the thread.
pub(crate) fn waits_in(tid: u32) -> Result<Option<(u32, [u64; 6])>, Errno> {
    // A signal wakes it for a moment, after which it waits on.
    for _ in 0..1000 {
        let text = match fs::read_to_string(format!("/proc/{tid}/syscall")) {
            Ok(text) => text,
            Err(error) => return want(&error).map_or(Ok(None), Err),
        };
        if text.trim_end() != "running" {
            return Ok(parse_call(&text));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(None)
}

/// What a caller is told if this process wants for something, and not the caller.
fn want(error: &io::Error) -> Option<Errno> {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => {
            crate::report_once(format_args!(
                "no descriptor is left here, so opens of devices fail with ENFILE; raise the \
                 limit (ulimit -Hn)"
            ));
            Some(Errno::ENFILE)
        }
        Some(libc::ENOMEM) => Some(Errno::ENOMEM),
        _ => None,
    }
}

/// Whether a thread runs, or waits for what comes by itself, such as a disk.
pub(crate) fn goes_on(tid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
    // Behind its name, which may be anything.
    let state = text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, Some('R' | 'D'))
}

/// The system call that a thread is blocked in: its number and first arguments.
/// `None` while it runs, or where it may not be looked at.
pub(crate) fn blocked_in(tid: u32) -> Option<(u32, [u64; 6])> {
    parse_call(&fs::read_to_string(format!("/proc/{tid}/syscall")).ok()?)
}

fn parse_call(text: &str) -> Option<(u32, [u64; 6])> {
    let mut words = text.split_ascii_whitespace();
    let nr = words.next()?.parse().ok()?;
    let mut args = [0; 6];
    for (arg, word) in args.iter_mut().zip(words) {
        *arg = u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
    }
    Some((nr, args))
}

/// Device and inode number of what a descriptor of the client is open on, without
/// asking its file system.
pub(crate) fn identity(tid: u32, fd: u32) -> Option<(u64, u64)> {
    let path = format!("/proc/{tid}/fd/{fd}");
    let flags = AtFlags::STATX_DONT_SYNC;
    let look = || rustix::fs::statx(CWD, &path, flags, StatxFlags::INO);
    // A want of memory passes. What is not known for a device is left to the kernel.
    let stat = (0..10)
        .find_map(|_| match look() {
            Ok(stat) => Some(Ok(stat)),
            Err(
                gone @ (rustix::io::Errno::NOENT
                | rustix::io::Errno::SRCH
                | rustix::io::Errno::ACCESS),
            ) => Some(Err(gone)),
            Err(_) => {
                std::thread::sleep(Duration::from_millis(1));
                None
            }
        })?
        .ok()?;
    Some(identity_in(&stat))
}

fn identity_in(stat: &Statx) -> (u64, u64) {
    (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino)
}

/// The status flags of a descriptor's open file now (`F_GETFL`), without needing
/// `pidfd_getfd(2)`, which containers refuse.
pub(crate) fn status_flags(tid: u32, fd: u32) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).ok()?;
    u32::from_str_radix(status_field(&info, "flags:")?, 8).ok()
}

/// The soft limit of a client's descriptors (`RLIMIT_NOFILE`).
pub(crate) fn descriptor_limit(tid: u32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{tid}/limits")).ok()?;
    let soft = status_field(&limits, "Max open files")?.split_ascii_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

/// Flags of `open(2)` as a driver sees them.
pub(crate) fn open_flags(raw: u32) -> OpenFlags {
    let raw = raw.cast_signed();
    let access = raw & libc::O_ACCMODE;
    OpenFlags {
        read: access == libc::O_RDONLY || access == libc::O_RDWR,
        write: access == libc::O_WRONLY || access == libc::O_RDWR,
        nonblocking: raw & libc::O_NONBLOCK != 0,
        append: raw & libc::O_APPEND != 0,
    }
}

/// The client's open file, as a descriptor of this process.
///
/// # Errors
/// Those of `pidfd_getfd(2)`, which containers refuse; `NotFound`: before Linux 6.9, a thread with
/// descriptors of its own, which cannot be had.
pub(crate) fn take_descriptor(tid: u32, fd: u32) -> io::Result<OwnedFd> {
    // `PIDFD_THREAD`, Linux 6.9.
    let thread = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());
    let open = |id: u32, flags| {
        let id = Pid::from_raw(id.cast_signed()).ok_or(rustix::io::Errno::SRCH)?;
        rustix::process::pidfd_open(id, flags)
    };
    let pidfd = match open(tid, thread) {
        // Else of its process: the descriptors of the first thread.
        Err(rustix::io::Errno::INVAL) => {
            open(process_of(tid).ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())
        }
        opened => opened,
    }?;
    let taken = rustix::process::pidfd_getfd(pidfd, fd.cast_signed(), PidfdGetfdFlags::empty())?;
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH;
    let stat = rustix::fs::statx(&taken, "", flags, StatxFlags::INO)?;
    if identity(tid, fd) != Some(identity_in(&stat)) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(taken)
}

/// The caller of a notified system call on a descriptor.
pub(crate) struct Notified<'a> {
    call: &'a Call<'a>,
    began: Instant,
    fd: u32,
    /// The flags at open, should the descriptor be gone by now.
    opened: OpenFlags,
}

impl<'a> Notified<'a> {
    pub(crate) fn new(call: &'a Call<'a>, fd: u32, opened: OpenFlags) -> Notified<'a> {
        Notified { call, began: Instant::now(), fd, opened }
    }

    fn tid(&self) -> u32 {
        self.call.notification.tid
    }

    /// Whether the thread of this number is the caller: it may have been killed, and no sooner
    /// than in a while its number is another's.
    fn is_caller(&self) -> bool {
        self.began.elapsed() < pool::PATIENCE || self.call.is_waiting()
    }
}

impl Caller for Notified<'_> {
    fn copy_from(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        process::read_memory(self.tid(), address, into).map_err(|_| Errno::EFAULT)?;
        if self.is_caller() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    fn copy_to(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        if !self.is_caller() {
            return Err(Errno::EFAULT);
        }
        process::write_memory(self.tid(), address, from).map_err(|_| Errno::EFAULT)
    }

    fn flags(&self) -> OpenFlags {
        status_flags(self.tid(), self.fd).map_or(self.opened, open_flags)
    }
}

/// Whether the client has no descriptor of this number.
pub(crate) fn is_free(tid: u32, fd: u32) -> bool {
    let path = format!("/proc/{tid}/fd/{fd}");
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(CWD, path, flags, StatxFlags::empty())
        .is_err_and(|error| error == rustix::io::Errno::NOENT)
}

/// Kills the process of a thread.
pub(crate) fn kill(tid: u32) {
    let process = process_of(tid).and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(process) = process {
        // It may be gone already.
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
}

/// Whether a descriptor of the client may be open on this file. Where it cannot be looked
/// at, it may.
pub(crate) fn may_hold(tid: u32, fd: u32, file: (u64, u64)) -> bool {
    let path = format!("/proc/{tid}/fd/{fd}");
    match rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO) {
        Ok(stat) => identity_in(&stat) == file,
        Err(error) => error != rustix::io::Errno::NOENT,
    }
}

/// A file that is mapped.
pub(crate) struct Mapped {
    /// Its device and inode number.
    pub(crate) file: (u64, u64),
    pub(crate) is_shared: bool,
    /// Which of its bytes.
    pub(crate) bytes: Range<u64>,
}

/// Whether any file for which `is_one` holds, of this device and inode number, is mapped in a
/// range of the client's addresses.
///
/// # Errors
/// Its maps cannot be looked at.
pub(crate) fn maps_one(
    tid: u32,
    range: Range<u64>,
    is_one: impl Fn((u64, u64)) -> bool,
) -> io::Result<bool> {
    Ok(maps_in(tid, range)?.into_iter().any(|mapped| is_one(mapped.file)))
}

/// The files that are mapped in a range of the client's addresses.
///
/// # Errors
/// Its maps cannot be looked at.
pub(crate) fn maps_in(tid: u32, range: Range<u64>) -> io::Result<Vec<Mapped>> {
    let maps = fs::read(format!("/proc/{tid}/maps"))?;
    // The names of files may be anything.
    let maps = String::from_utf8_lossy(&maps);
    let files = maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end) = (number(start)?, number(end)?);
        if start >= range.end || end <= range.start {
            return None;
        }
        let is_shared = fields.next()?.ends_with('s');
        let offset = number(fields.next()?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let device = rustix::fs::makedev(number(major)? as u32, number(minor)? as u32);
        let (from, to) = (start.max(range.start), end.min(range.end));
        let bytes = offset + (from - start)..offset + (to - start);
        Some(Mapped { file: (device, fields.next()?.parse().ok()?), is_shared, bytes })
    });
    Ok(files.collect())
}
