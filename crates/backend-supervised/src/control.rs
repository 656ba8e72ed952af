//! The control socket of a supervisor, by which `devmap maps` asks.
//!
//! It is an abstract Unix socket that has the supervisor's process number in its name, so it
//! leaves no file, and a process's ancestors lead to it. Both sides look at who the other is:
//! anybody could have taken the name before, and anybody can connect.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::Arc,
    time::Duration,
};

use rustix::net::sockopt::socket_peercred;
use serde::{Deserialize, Serialize};

use crate::{
    Core,
    areas::{Area, Wanted},
};

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
    /// It is no program of a run.
    #[error(
        "process {0} is no program of `devmap run`: no supervisor is among its ancestors \
         (or it is in another network namespace)"
    )]
    NotSupervised(u32),
    /// The supervisor belongs to somebody else.
    #[error("the supervisor of process {0} belongs to user {1}; ask as that user, or as root")]
    Foreign(u32, u32),
    /// The supervisor says why not.
    #[error("{0}")]
    Refused(String),
}

fn address(supervisor: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("devmap/run/{supervisor}"))
}

/// Asks the supervisor of a process for its areas.
///
/// # Errors
/// [`AreasError`]
pub fn areas(pid: u32, wanted: Wanted) -> Result<Vec<Area>, AreasError> {
    parent(pid).ok_or(AreasError::NoProcess(pid))?;
    for ancestor in ancestors(pid) {
        let connected = address(ancestor).and_then(|address| UnixStream::connect_addr(&address));
        let Ok(mut stream) = connected else { continue };
        let Ok(peer) = socket_peercred(&stream) else { continue };
        if peer.pid.as_raw_pid().cast_unsigned() != ancestor {
            continue;
        }
        let own = rustix::process::geteuid();
        if !own.is_root() && peer.uid != own {
            return Err(AreasError::Foreign(pid, peer.uid.as_raw()));
        }
        let answer = ask(&mut stream, &Question { pid, wanted });
        return answer
            .map_err(|error| AreasError::Refused(format!("the supervisor {ancestor}: {error}")))?
            .map_err(AreasError::Refused);
    }
    Err(AreasError::NotSupervised(pid))
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
fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(parent(pid), |pid| parent(*pid)).take_while(|pid| *pid > 0)
}

/// The socket of this supervisor.
///
/// # Errors
/// `EADDRINUSE`: somebody has taken the name.
pub(crate) fn listen() -> io::Result<UnixListener> {
    UnixListener::bind_addr(&address(std::process::id())?)
}

/// Answers questions, one after the other, for as long as the process lives.
pub(crate) fn serve(core: &Arc<Core>, listener: &UnixListener) {
    for stream in listener.incoming() {
        let answered = stream.and_then(|stream| answer(core, stream));
        // Who asks and goes away is nobody's trouble; a listener that fails for lack of
        // descriptors must not spin.
        if answered.is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn answer(core: &Core, mut stream: UnixStream) -> io::Result<()> {
    let peer = socket_peercred(stream.as_fd())?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        return Ok(());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    (&stream).take(1 << 16).read_to_end(&mut text)?;
    let Question { pid, wanted } = serde_json::from_slice(&text)?;
    let areas = if ancestors(pid).any(|ancestor| ancestor == std::process::id()) {
        core.areas(pid, wanted).map_err(|error| format!("cannot look at process {pid}: {error}"))
    } else {
        Err(format!("process {pid} has ended"))
    };
    stream.write_all(&serde_json::to_vec(&areas)?)
}
