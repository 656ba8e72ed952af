//! The files through which clients map a memory, and whether any client still does.
//!
//! A client maps a memory through an open file of its memfd that lives in no
//! descriptor of the client: only its maps hold it, over fork and partial unmap
//! alike. Each such file, a token, holds an open-file-description lock on a byte of
//! its own, which the kernel drops with the last map. So the lock table of the memfd
//! says who maps, and an inotify event of the file's close says when to look.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use devmap_sys::memfd;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
};
use parking_lot::Mutex;

/// One file through which clients map.
pub(crate) struct Token {
    pub(crate) file: OwnedFd,
    pub(crate) id: u64,
}

/// Who asked for a token: an open file of the device, and whether it may write.
pub(crate) type Holder = (u64, bool);

/// The tokens of one memory.
pub(crate) struct Tokens {
    /// The memfd; where the memory is another process's, a file of it that holds no lock.
    memfd: OwnedFd,
    /// Whether the memory, and so its tokens, are another process's.
    foreign: bool,
    /// Device and inode number.
    identity: (u64, u64),
    next: AtomicU64,
    /// Tokens kept at hand while their open file is open, so that its next map costs
    /// no reopening.
    cached: Mutex<HashMap<Holder, Arc<Token>>>,
    /// The number of the watch on its files.
    watch: Mutex<Option<i32>>,
}

impl Tokens {
    pub(crate) fn new(memfd: OwnedFd) -> io::Result<Tokens> {
        Tokens::of(memfd, false)
    }

    /// The tokens of a memory that another process makes and gives tokens of. `look` is a
    /// file of it that holds no lock.
    pub(crate) fn foreign(look: OwnedFd) -> io::Result<Tokens> {
        Tokens::of(look, true)
    }

    fn of(memfd: OwnedFd, foreign: bool) -> io::Result<Tokens> {
        let stat = rustix::fs::fstat(&memfd)?;
        Ok(Tokens {
            memfd,
            foreign,
            identity: (stat.st_dev, stat.st_ino),
            next: AtomicU64::new(0),
            cached: Mutex::default(),
            watch: Mutex::default(),
        })
    }

    /// Device and inode number of the memfd.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// The token of `holder`.
    pub(crate) fn get(&self, holder: Holder) -> io::Result<Arc<Token>> {
        if self.foreign {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut cached = self.cached.lock();
        if let Some(token) = cached.get(&holder) {
            return Ok(token.clone());
        }
        let file = self.reopen(!holder.1)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let lock = lock_of(id, libc::F_RDLCK);
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)) {
            // Somebody who maps the memory holds locks of his own on it, so that it counts
            // as mapped. Others shall map it all the same.
            Err(Errno::EAGAIN | Errno::EACCES) => crate::report_once(format_args!(
                "a program holds locks on a device's memory: the driver may hear late, or too \
                 early, that others map it no more"
            )),
            locked => drop(locked?),
        }
        let token = Arc::new(Token { file, id });
        cached.insert(holder, token.clone());
        Ok(token)
    }

    /// A file of the memory that holds no lock, for reading, as [`Tokens::foreign`] wants.
    pub(crate) fn look(&self) -> io::Result<OwnedFd> {
        self.reopen(true)
    }

    fn reopen(&self, read_only: bool) -> io::Result<OwnedFd> {
        let memfd = self.memfd.as_fd();
        memfd::permitted(memfd, memfd::MODE, || memfd::reopen(memfd, read_only))
    }

    /// Forgets the cached tokens of an open file: from here on only maps hold them.
    pub(crate) fn forget(&self, open: u64) {
        self.cached.lock().retain(|holder, _| holder.0 != open);
    }

    /// Whether a client, or a map being made, holds the token.
    pub(crate) fn is_live(&self, id: u64) -> bool {
        self.is_locked(lock_of(id, libc::F_WRLCK))
    }

    /// Whether any client maps the memory.
    pub(crate) fn is_mapped(&self) -> bool {
        self.cached.lock().clear();
        let all = libc::flock { l_start: 0, l_len: 0, ..lock_of(0, libc::F_WRLCK) };
        self.is_locked(all)
    }

    /// A lock that cannot be asked for counts as held: what a client maps is never
    /// taken for free.
    fn is_locked(&self, mut lock: libc::flock) -> bool {
        let asked = fcntl(&self.memfd, FcntlArg::F_OFD_GETLK(&mut lock));
        asked.is_err() || i32::from(lock.l_type) != libc::F_UNLCK
    }

    /// Has `inotify` report each close of a file of this memory, from the first map
    /// on.
    pub(crate) fn watch(&self, inotify: BorrowedFd<'_>) -> io::Result<()> {
        let mut watch = self.watch.lock();
        if watch.is_none() {
            let flags = rustix::fs::inotify::WatchFlags::CLOSE_WRITE
                | rustix::fs::inotify::WatchFlags::CLOSE_NOWRITE;
            let path = format!("/proc/self/fd/{}", self.memfd.as_raw_fd());
            let added = memfd::permitted(self.memfd.as_fd(), memfd::MODE, || {
                Ok(rustix::fs::inotify::add_watch(inotify, path.as_str(), flags)?)
            });
            *watch = Some(added?);
        }
        Ok(())
    }

    /// The number that such reports have.
    pub(crate) fn watch_number(&self) -> Option<i32> {
        *self.watch.lock()
    }
}

fn lock_of(id: u64, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: id as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, fchmod};

    use super::*;

    /// A program can have had the descriptor for the moment in which a map was made.
    #[test]
    fn whoever_changes_the_mode_keeps_nobody_else_from_a_token() {
        let memfd = memfd::create("mode", 4096).unwrap();
        let tokens = Tokens::new(memfd.try_clone().unwrap()).unwrap();
        let inotify = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
        for (open, mode) in [(1, Mode::empty()), (2, Mode::RUSR), (3, Mode::WUSR)] {
            fchmod(&memfd, mode).unwrap();
            tokens.get((open, true)).unwrap();
            fchmod(&memfd, mode).unwrap();
            tokens.look().unwrap();
            fchmod(&memfd, mode).unwrap();
            tokens.watch(inotify.as_fd()).unwrap();
        }
    }
}
