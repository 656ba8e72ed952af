//! What the launcher tells the front: one message of a SOCK_SEQPACKET socket
//! for each event. The end of the socket says that the launcher is gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// How a process ended, see wait(2).
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Exited(i32),
    Killed(i32),
}

#[derive(Debug)]
pub(super) enum Report {
    /// The launcher has begun.
    Launched,
    /// There is no program, and the user has been told why.
    NotStarted,
    /// The program's process exists: its and the launcher's process ids, and a
    /// pidfd of the program.
    Started { program: i32, launcher: i32, pidfd: OwnedFd },
    /// The program has ended; `alone`: and left no process behind.
    Ended { ending: Ending, alone: bool },
}

const LAUNCHED: i32 = 0;
const NOT_STARTED: i32 = 1;
const STARTED: i32 = 2;
const EXITED: i32 = 3;
const KILLED: i32 = 4;

/// The launcher's end.
pub(super) struct Reporter(OwnedFd);

/// The front's end.
pub(super) struct Reports(OwnedFd);

pub(super) fn pair() -> io::Result<(Reports, Reporter)> {
    let (reports, reporter) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Reports(reports), Reporter(reporter)))
}

impl Reporter {
    pub(super) fn launched(&self) -> io::Result<()> {
        self.send([LAUNCHED, 0, 0], &[])
    }

    pub(super) fn not_started(&self) -> io::Result<()> {
        self.send([NOT_STARTED, 0, 0], &[])
    }

    pub(super) fn started(&self, program: i32, launcher: i32, pidfd: &OwnedFd) -> io::Result<()> {
        self.send([STARTED, program, launcher], &[pidfd.as_fd()])
    }

    pub(super) fn ended(&self, ending: Ending, alone: bool) -> io::Result<()> {
        match ending {
            Ending::Exited(status) => self.send([EXITED, status, alone.into()], &[]),
            Ending::Killed(signal) => self.send([KILLED, signal, alone.into()], &[]),
        }
    }

    fn send(&self, words: [i32; 3], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        rustix::io::retry_on_intr(|| {
            sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }
}

impl Reports {
    /// The next report; `None` when the launcher is gone. Blocks.
    pub(super) fn next(&self) -> io::Result<Option<Report>> {
        let mut bytes = [0; 12];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let mut into = [IoSliceMut::new(&mut bytes)];
            recvmsg(&self.0, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let word = |i: usize| bytes[4 * i..][..4].try_into().map(i32::from_ne_bytes).unwrap_or(-1);
        let ended = |ending| Report::Ended { ending, alone: word(2) != 0 };
        Ok(Some(match (word(0), fd) {
            (LAUNCHED, _) => Report::Launched,
            (NOT_STARTED, _) => Report::NotStarted,
            (STARTED, Some(pidfd)) => {
                Report::Started { program: word(1), launcher: word(2), pidfd }
            }
            (EXITED, _) => ended(Ending::Exited(word(1))),
            (KILLED, _) => ended(Ending::Killed(word(1))),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }))
    }
}

impl AsFd for Reports {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
