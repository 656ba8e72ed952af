//! The socket: who asks, and who answers.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    time::Duration,
};

use rustix::net::{Shutdown, sockopt::socket_peercred};
use serde::{Deserialize, Serialize};

use crate::{Area, Wanted};

/// How long either side waits for the other, which has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(10);

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
    fn address(self, pid: u32) -> io::Result<SocketAddr> {
        let kind = match self {
            Home::Supervised => "run",
            Home::Local => "local",
        };
        SocketAddr::from_abstract_name(format!("devmap/{kind}/{pid}"))
    }
}

/// Asks the home of a process for its areas.
///
/// # Errors
/// [`AreasError`]
pub fn areas(pid: u32, wanted: Wanted) -> Result<Vec<Area>, AreasError> {
    parent(pid).ok_or(AreasError::NoProcess(pid))?;
    let supervisors = ancestors(pid).map(|ancestor| (Home::Supervised, ancestor));
    for (home, of) in [(Home::Local, pid)].into_iter().chain(supervisors) {
        let connected = home.address(of).and_then(|address| UnixStream::connect_addr(&address));
        let Ok(mut stream) = connected else { continue };
        let Ok(peer) = socket_peercred(&stream) else { continue };
        if peer.pid.as_raw_pid().cast_unsigned() != of {
            continue;
        }
        let own = rustix::process::geteuid();
        if !own.is_root() && peer.uid != own {
            return Err(AreasError::Foreign(pid, peer.uid.as_raw()));
        }
        let answer = ask(&mut stream, &Question { pid, wanted });
        return answer
            .map_err(|error| AreasError::Refused(format!("process {of} does not answer: {error}")))?
            .map_err(AreasError::Refused);
    }
    Err(AreasError::NoHome(pid))
}

fn ask(stream: &mut UnixStream, question: &Question) -> io::Result<Result<Vec<Area>, String>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    serde_json::to_writer(&*stream, question)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
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
        UnixListener::bind_addr(&home.address(std::process::id())?).map(Listener)
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

fn reply(
    mut stream: UnixStream,
    answer: impl Fn(u32, Wanted) -> Result<Vec<Area>, String>,
) -> io::Result<()> {
    let peer = socket_peercred(stream.as_fd())?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        return Ok(());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    (&stream).take(1 << 16).read_to_end(&mut text)?;
    let Question { pid, wanted } = serde_json::from_slice(&text)?;
    stream.write_all(&serde_json::to_vec(&answer(pid, wanted))?)
}
