//! Installing a filter, and the descriptor that its notifications come from.
//! What does not live here: the program (`assembler`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::Filter;
use crate::check;

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`, which libc lacks.
const SYNC_WAKE_UP: u64 = 1;

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Names the notification; never used again for another.
    pub id: u64,
    /// The calling thread, as this process's pid namespace numbers it; 0 when
    /// it is not visible from there.
    pub tid: u32,
    /// The system call's number.
    pub nr: u32,
    /// `AUDIT_ARCH_*` of the call.
    pub arch: u32,
    /// The address after the system call instruction.
    pub instruction_pointer: u64,
    /// The arguments.
    pub args: [u64; 6],
}

/// The answer to a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The call returns this value.
    Value(i64),
    /// The call fails with this errno, positive. 512 (`ERESTARTSYS`) makes the
    /// thread handle its signals and make the call again, or see EINTR.
    Error(i32),
    /// The kernel makes the call, reading its arguments anew: what memory they
    /// point to may have changed since.
    Continue,
}

/// The receiving end of a filter (seccomp_unotify(2)). Threads may share it.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// Before Linux 6.11 a receive never ends when the last process has, so
    /// receivers poll first, and one at a time, lest two wake for one call.
    /// `None` where the kernel needs none of this.
    turn: Option<Mutex<()>>,
}

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        let turn = if receive_ends_with_the_last_user() { None } else { Some(Mutex::new(())) };
        Self { fd, turn }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn receive_ends_with_the_last_user() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 11)
}

impl Listener {
    /// Waits for the next notification; `None` when no process uses the filter
    /// any more, nor ever will.
    ///
    /// # Errors
    /// Those of the ioctl but `EINTR` and `ENOENT`, after which it waits on.
    pub fn recv(&self) -> io::Result<Option<Notification>> {
        loop {
            let turn = self.turn.as_ref().map(Mutex::lock);
            if turn.is_some() && !self.poll(-1)?.intersects(PollFlags::IN) {
                return Ok(None);
            }
            // SAFETY: seccomp_notif is integers, for which zero is a value; the
            // kernel insists on zeros.
            let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            match self.ioctl(libc::SECCOMP_IOCTL_NOTIF_RECV, ptr::from_mut(&mut raw).cast()) {
                Ok(_) => return Ok(Some(Notification::from(&raw))),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The caller has died, or all have.
                    Some(libc::ENOENT) => {
                        let state = self.poll(0)?;
                        if state.intersects(PollFlags::HUP) && !state.intersects(PollFlags::IN) {
                            return Ok(None);
                        }
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    fn poll(&self, timeout: i32) -> io::Result<PollFlags> {
        let timeout = (timeout >= 0).then(rustix::event::Timespec::default);
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            match poll(&mut fds, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(fds[0].revents()),
            }
        }
    }

    /// Whether the notification still waits for its answer. After reading the
    /// caller's memory or descriptors, this tells that they were the caller's.
    pub fn is_valid(&self, id: u64) -> bool {
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, ptr::from_ref(&id).cast_mut().cast()).is_ok()
    }

    /// Answers a notification.
    ///
    /// # Errors
    /// `ENOENT` when the caller does not wait any more: it was killed, or a
    /// signal ended its wait. `EINPROGRESS` when it has been answered already
    /// and has not yet gone on.
    pub fn reply(&self, id: u64, reply: Reply) -> io::Result<()> {
        let (val, error, flags) = match reply {
            Reply::Value(value) => (value, 0, 0),
            Reply::Error(errno) => (0, -errno, 0),
            Reply::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        };
        let mut raw = libc::seccomp_notif_resp { id, val, error, flags };
        loop {
            match self.ioctl(libc::SECCOMP_IOCTL_NOTIF_SEND, ptr::from_mut(&mut raw).cast()) {
                // A signal for this thread.
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                result => return result.map(drop),
            }
        }
    }

    /// Gives the caller a descriptor of the same open file as `fd`, at number
    /// `at` (what was there is closed) or at the lowest free one, and returns
    /// the number. The notification goes on waiting.
    ///
    /// # Errors
    /// `ENOENT` when the caller does not wait any more, `EMFILE` and `EBADF`
    /// when its `RLIMIT_NOFILE` does not allow the number.
    pub fn add_fd(
        &self,
        id: u64,
        fd: BorrowedFd<'_>,
        at: Option<u32>,
        cloexec: bool,
    ) -> io::Result<u32> {
        let flags = if at.is_some() { libc::SECCOMP_ADDFD_FLAG_SETFD as u32 } else { 0 };
        self.add(id, fd, at.unwrap_or(0), flags, cloexec)
    }

    /// [`Listener::add_fd`] at the lowest free number, which is also the call's
    /// result: both happen, or neither.
    ///
    /// # Errors
    /// As [`Listener::add_fd`].
    pub fn add_fd_and_reply(&self, id: u64, fd: BorrowedFd<'_>, cloexec: bool) -> io::Result<u32> {
        self.add(id, fd, 0, libc::SECCOMP_ADDFD_FLAG_SEND as u32, cloexec)
    }

    fn add(
        &self,
        id: u64,
        fd: BorrowedFd<'_>,
        newfd: u32,
        flags: u32,
        cloexec: bool,
    ) -> io::Result<u32> {
        let newfd_flags = if cloexec { libc::O_CLOEXEC as u32 } else { 0 };
        let srcfd = fd.as_raw_fd() as u32;
        let mut raw = libc::seccomp_notif_addfd { id, flags, srcfd, newfd, newfd_flags };
        let added = self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ADDFD, ptr::from_mut(&mut raw).cast())?;
        Ok(added as u32)
    }

    /// Makes a notification wake its receiver on the caller's processor, and
    /// the answer the caller on the receiver's: far faster when both wait for
    /// each other.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.6.
    pub fn set_sync_wake(&self) -> io::Result<()> {
        // The argument is the flags themselves, not their address.
        let flags = ptr::without_provenance_mut(SYNC_WAKE_UP as usize);
        self.ioctl(libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags).map(drop)
    }

    /// One of the listener's ioctls. Private: `argument` must point to what
    /// `command` takes (`SET_FLAGS`: be it).
    fn ioctl(&self, command: libc::Ioctl, argument: *mut libc::c_void) -> io::Result<i32> {
        // SAFETY: all callers are in this module and keep the rule above; the
        // kernel reads or writes the one structure that the command names.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), command, argument) })
    }
}

impl From<&libc::seccomp_notif> for Notification {
    fn from(raw: &libc::seccomp_notif) -> Self {
        Self {
            id: raw.id,
            tid: raw.pid,
            nr: raw.data.nr as u32,
            arch: raw.data.arch,
            instruction_pointer: raw.data.instruction_pointer,
            args: raw.data.args,
        }
    }
}

/// Installs `filter` for the calling thread and all it will fork or execute,
/// and returns the end where its notifications arrive. The descriptor is
/// close-on-exec. Meant for a single-threaded process about to execute a
/// program: the other threads of a process stay unfiltered.
///
/// Where the kernel can (Linux 5.19), a caller whose notification has been
/// received is no more woken by signals that do not kill it.
///
/// # Errors
/// `EACCES` without `no_new_privs` and without `CAP_SYS_ADMIN`, `EBUSY` when a
/// filter with a listener is installed already.
pub fn install(filter: &Filter, no_new_privs: bool) -> io::Result<Listener> {
    if no_new_privs {
        rustix::thread::set_no_new_privs(true)?;
    }
    let listen = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    match load(filter, listen | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => load(filter, listen),
        other => other,
    }
}

fn load(filter: &Filter, flags: libc::c_ulong) -> io::Result<Listener> {
    let program =
        libc::sock_fprog { len: filter.0.len() as u16, filter: filter.0.as_ptr().cast_mut() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel reads `len` instructions, which `filter` holds (finish()
    // checked that the number fits).
    let fd = check(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) })?;
    // SAFETY: a new descriptor, ours alone.
    Ok(Listener::from(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}
