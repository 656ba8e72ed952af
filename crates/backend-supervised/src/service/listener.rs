//! The socket at which a daemon is found.
//!
//! What does not live here: what is said over it (`connection`).

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};

/// A socket at a path, which goes when this does.
pub(super) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode number, so that nobody else's is removed.
    identity: (u64, u64),
}

/// Who has connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) pid: u32,
    pub(super) uid: u32,
}

impl Listener {
    /// Makes the socket, with these permissions: who sees the path can connect, and is served
    /// with the first [`Listener::accept`]. One that a dead daemon has left is replaced.
    ///
    /// # Errors
    /// A message with the path and the remedy.
    pub(super) fn bind(path: &Path, mode: u32) -> Result<Listener, String> {
        let at = |error: io::Error| format!("cannot serve at {}: {error}", path.display());
        let address = address(path)?;
        // Two daemons that start at once look one after the other.
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|error| format!("cannot open {}: {error}", directory.display()))?;
        rustix::fs::flock(&directory, FlockOperation::LockExclusive).map_err(|e| at(e.into()))?;
        remove_stale(path, &address)?;
        let socket = socket().map_err(at)?;
        let identity = publish(&socket, directory.as_fd(), path, mode).map_err(|error| {
            let needs_proc = !Path::new("/proc/self/fd").exists();
            let remedy = if needs_proc { "; mount /proc, which devmap needs" } else { "" };
            at(error) + remedy
        })?;
        Ok(Listener { socket, path: path.to_owned(), identity })
    }

    /// The next joiner.
    pub(super) fn accept(&self) -> io::Result<(OwnedFd, Peer)> {
        let socket = rustix::io::retry_on_intr(|| {
            rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC)
        })?;
        let peer = sockopt::socket_peercred(&socket)?;
        let pid = peer.pid.as_raw_pid().cast_unsigned();
        Ok((socket, Peer { pid, uid: peer.uid.as_raw() }))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Listener {
    /// Removes the path, if it is still this socket's.
    pub(super) fn remove(&self) {
        let is_ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Has the socket listen, and then be at `path` in `directory`: at no moment is it there and
/// refuses. Its device and inode number.
fn publish(
    socket: &OwnedFd,
    directory: BorrowedFd<'_>,
    path: &Path,
    mode: u32,
) -> io::Result<(u64, u64)> {
    // However long the path of the directory is, a name in it is short enough.
    let directory = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let listening = tempfile::Builder::new().prefix(".devmap-").make_in(directory, |new| {
        rustix::net::bind(socket, &SocketAddrUnix::new(new)?)?;
        Ok(())
    })?;
    let new = listening.path();
    // Until it listens, whoever connects is refused: the mode is never too wide.
    rustix::fs::chmodat(CWD, new, Mode::from(mode), AtFlags::empty())?;
    let metadata = fs::symlink_metadata(new)?;
    rustix::net::listen(socket, 128)?;
    listening.into_temp_path().persist_noclobber(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A connection to the daemon at `path`, which is waited for no longer than this.
///
/// # Errors
/// A message with the path and the remedy.
pub(super) fn connect(path: &Path, patience: Duration) -> Result<OwnedFd, String> {
    let address = address(path)?;
    let connected = socket().map_err(|error| error.raw_os_error()).and_then(|socket| {
        connect_within(&socket, &address, patience).map_err(|error| Some(error.raw_os_error()))?;
        Ok(socket)
    });
    connected.map_err(|errno| {
        let why = match errno.map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => "it does not exist; start `devmap serve` there".to_owned(),
            // What the kernel says of whatever is no socket, too.
            Some(Errno::CONNREFUSED | Errno::ACCESS) if is_no_socket(path) => {
                "it is no socket; name the one that `devmap serve` was given".to_owned()
            }
            Some(Errno::CONNREFUSED) => {
                "nobody serves there any more; start `devmap serve` again".to_owned()
            }
            Some(Errno::ACCESS) => {
                "its permissions do not let you; see `devmap serve --socket-mode`".to_owned()
            }
            Some(Errno::PROTOTYPE) => "it is a socket of something else".to_owned(),
            Some(Errno::AGAIN) => format!(
                "for {} s nobody there has let this run in; see whether the `devmap serve` there \
                 is stopped, or start it again",
                patience.as_secs_f32()
            ),
            Some(errno) => io::Error::from(errno).to_string(),
            None => "no socket can be made".to_owned(),
        };
        format!("cannot join {}: {why}", path.display())
    })
}

fn is_no_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.file_type().is_socket())
}

/// # Errors
/// Those of connect(2), such as `EAGAIN`: too many wait to be accepted.
fn connect_within(
    socket: &OwnedFd,
    address: &SocketAddrUnix,
    patience: Duration,
) -> Result<(), Errno> {
    // For connect(2), too.
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, Some(patience))?;
    rustix::io::retry_on_intr(|| rustix::net::connect(socket, address))?;
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, None)
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn address(path: &Path) -> Result<SocketAddrUnix, String> {
    SocketAddrUnix::new(path)
        .map_err(|_| format!("{} cannot be a socket's path: at most 107 bytes can", path.display()))
}

/// Removes a socket that nobody listens at.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), String> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let shown = path.display();
    if !metadata.file_type().is_socket() {
        return Err(format!("{shown} exists and is no socket; remove it, or choose another path"));
    }
    let probe = socket().map_err(|error| format!("cannot look at {shown}: {error}"))?;
    match connect_within(&probe, address, Duration::from_secs(1)) {
        Err(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(|error| format!("cannot replace {shown}: {error}"))
        }
        Ok(()) | Err(Errno::PROTOTYPE | Errno::AGAIN) => {
            Err(format!("another process serves at {shown}; stop it, or choose another path"))
        }
        Err(error) => Err(format!("cannot tell whether anybody serves at {shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// When something that must happen counts as something that never will.
    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn a_socket_is_taken_over_from_the_dead_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert!(connect(&path, DEADLINE).unwrap_err().contains("does not exist"));
        let first = Listener::bind(&path, 0o640).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        connect(&path, DEADLINE).unwrap();
        let error = Listener::bind(&path, 0o600).map(drop).unwrap_err();
        assert!(error.contains("another process serves"), "{error}");
        // As after SIGKILL: the path stays.
        let stale = directory.path().join("stale");
        fs::hard_link(&path, &stale).unwrap();
        drop(first);
        assert!(!path.exists());
        let error = connect(&stale, DEADLINE).unwrap_err();
        assert!(error.contains("nobody serves there any more"), "{error}");
        drop(Listener::bind(&stale, 0o600).unwrap());
        assert!(!stale.exists());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "kept").unwrap();
        let error = Listener::bind(&path, 0o600).map(drop).unwrap_err();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        for path in [path.as_path(), directory.path()] {
            let error = connect(path, DEADLINE).unwrap_err();
            assert!(error.contains("it is no socket"), "{error}");
        }
        let long = directory.path().join("x".repeat(120));
        assert!(Listener::bind(&long, 0o600).map(drop).unwrap_err().contains("107 bytes"));
        let nowhere = directory.path().join("no/socket");
        assert!(Listener::bind(&nowhere, 0o600).map(drop).unwrap_err().contains("cannot open"));
        // No other name is left either.
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_longest_path_will_do() {
        let directory = tempfile::tempdir().unwrap();
        let room = 107 - directory.path().as_os_str().len() - 1;
        let path = directory.path().join("x".repeat(room));
        let listener = Listener::bind(&path, 0o600).unwrap();
        connect(&path, DEADLINE).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(listener);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    /// Who tries until the path is there can connect, however early.
    #[test]
    fn a_path_that_is_there_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        for _ in 0..1000 {
            let joiner = {
                let path = path.clone();
                std::thread::spawn(move || {
                    loop {
                        match connect(&path, DEADLINE) {
                            Err(error) if error.contains("does not exist") => {}
                            connected => return connected.map(drop),
                        }
                    }
                })
            };
            let listener = Listener::bind(&path, 0o600).unwrap();
            joiner.join().unwrap().unwrap();
            drop(listener);
        }
    }

    #[test]
    fn who_lets_nobody_in_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = socket().unwrap();
        rustix::net::bind(&listener, &address(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let first = connect(&path, DEADLINE).unwrap();
        let error = connect(&path, Duration::from_millis(50)).unwrap_err();
        assert!(error.contains("for 0.05 s nobody there has let this run in"), "{error}");
        // What is sent later may wait.
        assert_eq!(sockopt::socket_timeout(&first, sockopt::Timeout::Send), Ok(None));
        let error = Listener::bind(&path, 0o600).map(drop).unwrap_err();
        assert!(error.contains("another process serves"), "{error}");
    }

    /// Somebody else's socket at the path is not removed.
    #[test]
    fn only_its_own_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let first = Listener::bind(&path, 0o600).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::bind(&path, 0o600).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
