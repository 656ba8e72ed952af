//! The socket: who asks, and who answers.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, socket_with,
        sockopt::{Timeout, set_socket_timeout, socket_peercred},
    },
};
use serde::{Deserialize, Serialize};

use crate::{Area, Wanted, escaped};

/// How long either side waits for all that the other says, who has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest question, and the longest answer: that of many areas with cells.
const QUESTION: usize = 1 << 16;
const ANSWER: usize = 64 << 20;

/// How long who asks waits to be let in. Whoever took the name of a home can keep others waiting
/// for ever, and who that is shows only then.
const AT_THE_DOOR: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Serialize, Deserialize)]
struct Question {
    pid: u32,
    wanted: Wanted,
}

/// Why there are no areas to show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AreasError {
    /// There is no such process.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// No home answers for it.
    #[error(
        "process {0} is no program of `devmap run`: no supervisor is among its ancestors; nor \
         has it a home of its own that answers (or it is in another network namespace)"
    )]
    NoHome(u32),
    /// The home belongs to somebody else.
    #[error("the home of process {0} belongs to user {1}; ask as that user, or as root")]
    Foreign(u32, u32),
    /// Too many wait for an answer.
    #[error(
        "whoever answers for process {0} lets nobody in: too many ask, or another process took \
         its name; ask again, and see who it is with `ss -xlp 'src @devmap/*'`"
    )]
    Busy(u32),
    /// The home says why not.
    #[error("{0}")]
    Refused(String),
}

/// Whose areas a home knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Those of the programs below it: a supervisor.
    Supervised,
    /// Its own.
    Local,
}

impl Home {
    fn name(self, pid: u32) -> String {
        let kind = match self {
            Home::Supervised => "run",
            Home::Local => "local",
        };
        format!("devmap/{kind}/{pid}")
    }

    /// # Errors
    /// Those of connect(2), such as `EAGAIN`: it took too long.
    fn connect(self, pid: u32) -> Result<UnixStream, Errno> {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        // For connect(2), too.
        set_socket_timeout(&socket, Timeout::Send, Some(AT_THE_DOOR))?;
        let address = SocketAddrUnix::new_abstract_name(self.name(pid).as_bytes())?;
        rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
        Ok(socket.into())
    }
}

/// Asks the home of a process for its areas.
///
/// # Errors
/// [`AreasError`]
pub fn areas(pid: u32, wanted: Wanted) -> Result<Vec<Area>, AreasError> {
    parent(pid).ok_or(AreasError::NoProcess(pid))?;
    let supervisors = ancestors(pid).map(|ancestor| (Home::Supervised, ancestor));
    let mut busy = None;
    for (home, of) in [(Home::Local, pid)].into_iter().chain(supervisors) {
        let mut stream = match home.connect(of) {
            Ok(stream) => stream,
            Err(error) => {
                busy = busy.or((error == Errno::AGAIN).then_some(of));
                continue;
            }
        };
        let Ok(peer) = socket_peercred(&stream) else { continue };
        if peer.pid.as_raw_pid().cast_unsigned() != of {
            continue;
        }
        let own = rustix::process::geteuid();
        if !own.is_root() && peer.uid != own {
            return Err(AreasError::Foreign(pid, peer.uid.as_raw()));
        }
        let answer = ask(&mut stream, &Question { pid, wanted });
        let found = answer
            .map_err(|error| AreasError::Refused(format!("process {of} does not answer: {error}")))?
            .map_err(|why| AreasError::Refused(escaped(&why)))?;
        if !found.iter().all(|area| area.is_sound(wanted)) {
            let why = format!("process {of} answers with areas that cannot be");
            return Err(AreasError::Refused(why));
        }
        return Ok(found);
    }
    Err(busy.map_or(AreasError::NoHome(pid), AreasError::Busy))
}

fn ask(stream: &mut UnixStream, question: &Question) -> io::Result<Result<Vec<Area>, String>> {
    serde_json::to_writer(&*stream, question)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    Ok(serde_json::from_slice(&hear(stream, ANSWER, PATIENCE)?)?)
}

/// All that the other side says, who may be anybody: no more than so much, for no longer
/// than so.
fn hear(stream: &UnixStream, most: usize, patience: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + patience;
    let (mut text, mut chunk) = (Vec::new(), vec![0; QUESTION]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let mut from = stream;
        match from.read(&mut chunk) {
            Ok(0) => return Ok(text),
            Ok(count) if text.len() + count > most => {
                return Err(io::Error::other(format!("it says more than {most} bytes")));
            }
            Ok(count) => text.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The parent of a process.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The ancestors of a process, from its parent on.
pub fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(parent(pid), |pid| parent(*pid)).take_while(|pid| *pid > 0)
}

/// The socket of this process's home.
#[derive(Debug)]
pub struct Listener(UnixListener);

impl Listener {
    /// Takes the name of this process.
    ///
    /// # Errors
    /// `EADDRINUSE`: it is taken.
    pub fn new(home: Home) -> io::Result<Listener> {
        let address = SocketAddr::from_abstract_name(home.name(std::process::id()))?;
        UnixListener::bind_addr(&address).map(Listener)
    }

    /// Answers questions, one after the other, until [`Listener::end`]. `answer` knows the
    /// areas of a process, or says why not.
    pub fn serve(&self, answer: impl Fn(u32, Wanted) -> Result<Vec<Area>, String>) {
        loop {
            match self.0.accept() {
                // Who asks and goes away is nobody's trouble.
                Ok((stream, _)) => drop(reply(stream, &answer)),
                // It has been ended.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                // For lack of descriptors, say, which must not spin.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Has [`Listener::serve`] return.
    pub fn end(&self) {
        // It fails only for what is no socket.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}

impl AsFd for Listener {
    /// Readable when somebody asks.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn reply(
    mut stream: UnixStream,
    answer: impl Fn(u32, Wanted) -> Result<Vec<Area>, String>,
) -> io::Result<()> {
    let peer = socket_peercred(stream.as_fd())?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        return Ok(());
    }
    stream.set_write_timeout(Some(PATIENCE))?;
    let text = hear(&stream, QUESTION, PATIENCE)?;
    let Question { pid, wanted } = serde_json::from_slice(&text)?;
    stream.write_all(&serde_json::to_vec(&answer(pid, wanted))?)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, PoisonError},
        thread,
    };

    use super::*;
    use crate::Method;

    /// The name of this process, which one test at a time may take.
    static NAME: Mutex<()> = Mutex::new(());

    /// Anybody can take the name of a process, and let nobody in.
    #[test]
    fn who_lets_nobody_in_is_not_waited_for() {
        let _name = NAME.lock().unwrap_or_else(PoisonError::into_inner);
        let own = std::process::id();
        let wanted = Wanted { all: true, cells: 0 };
        assert_eq!(areas(own, wanted), Err(AreasError::NoHome(own)));
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let squatter = socket_with(family, SocketType::STREAM, flags, None).unwrap();
        let name = Home::Local.name(own);
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        rustix::net::bind(&squatter, &address).unwrap();
        rustix::net::listen(&squatter, 0).unwrap();
        let _first = Home::Local.connect(own).unwrap();
        assert_eq!(areas(own, wanted), Err(AreasError::Busy(own)));
    }

    #[test]
    fn who_says_too_much_or_never_ends_is_not_heard_out() {
        let pair = || UnixStream::pair().unwrap();
        let (own, mut other) = pair();
        other.write_all(b"word").unwrap();
        drop(other);
        assert_eq!(hear(&own, 4, PATIENCE).unwrap(), b"word");
        let (own, mut other) = pair();
        other.write_all(b"words").unwrap();
        drop(other);
        assert!(hear(&own, 4, PATIENCE).unwrap_err().to_string().contains("more than 4 bytes"));
        // A byte comes before each read has waited for long, until nobody listens.
        let (own, mut other) = pair();
        thread::scope(|scope| {
            scope.spawn(move || while other.write_all(b" ").is_ok() {});
            assert!(hear(&own, usize::MAX, Duration::from_millis(50)).is_err());
            drop(own);
        });
    }

    #[test]
    fn areas_that_cannot_be_are_refused() {
        let _name = NAME.lock().unwrap_or_else(PoisonError::into_inner);
        let area = Area {
            start: 0x1000,
            end: 0x3000,
            permissions: "rw-s".into(),
            offset: 0,
            major: 0,
            minor: 0,
            inode: 1,
            name: "/dev/x".into(),
            method: Some(Method::Fault),
            page: 0x1000,
            resident: 1,
            dirty: 0,
            cells: vec![0; 2],
        };
        let (own, wanted) = (std::process::id(), Wanted { all: true, cells: 2 });
        let answered = |answer: Result<Area, &str>| {
            let listener = Listener::new(Home::Local).unwrap();
            let answer = answer.map(|area| vec![area]).map_err(String::from);
            thread::scope(|scope| {
                scope.spawn(|| listener.serve(|_, _| answer.clone()));
                let found = areas(own, wanted);
                listener.end();
                found
            })
        };
        assert_eq!(answered(Ok(area.clone())), Ok(vec![area.clone()]));
        for wrong in [
            Area { page: 0, ..area.clone() },
            Area { page: 3, ..area.clone() },
            Area { end: 0x1000, ..area.clone() },
            Area { end: 0, ..area.clone() },
            Area { cells: vec![0; 3], ..area.clone() },
        ] {
            let refused = answered(Ok(wrong)).unwrap_err().to_string();
            assert!(refused.contains("cannot be"), "{refused}");
        }
        let refused = answered(Err("no\x1b[2J")).unwrap_err();
        assert_eq!(refused, AreasError::Refused("no\\033[2J".into()));
    }
}
