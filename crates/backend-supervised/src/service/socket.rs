//! Packets and their descriptors over a connected Unix socket (`SOCK_SEQPACKET`).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
        sockopt,
    },
};

use super::wire::MOST_FILES;

/// Two connected ends.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Whether it is a socket that [`pair`] makes. Others have no ends, as packets have, or cannot
/// be ended.
pub(super) fn is_of_a_pair(socket: impl AsFd) -> bool {
    sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&socket) == Ok(SocketType::SEQPACKET)
        && rustix::net::getpeername(&socket).is_ok()
}

/// Sends one packet, waiting for room.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(&socket, bytes, files, SendFlags::empty())
}

/// Sends one packet if there is room.
///
/// # Errors
/// Those of sendmsg(2): `WouldBlock`.
pub(super) fn send_at_once(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    send_with(&socket, bytes, &[], SendFlags::DONTWAIT)
}

/// As [`send`], but no longer than this; whoever else holds the descriptor has no say in it.
///
/// # Errors
/// Those of sendmsg(2); `TimedOut`.
pub(super) fn send_within(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
    time: Duration,
) -> io::Result<()> {
    within(socket, PollFlags::OUT, time, || send_with(socket, bytes, files, SendFlags::DONTWAIT))
}

fn send_with(
    socket: impl AsFd,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = [IoSlice::new(bytes)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL | flags)
    })?;
    Ok(())
}

/// Makes an attempt that does not wait, again whenever the socket is ready, until it is no
/// more refused for that it would wait.
fn within<T>(
    socket: BorrowedFd<'_>,
    ready: PollFlags,
    time: Duration,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        let left = time.checked_sub(started.elapsed()).ok_or(io::ErrorKind::TimedOut)?;
        if !is_ready_within(socket, ready, left) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Receives one packet; its bytes, of which there are none at the end.
///
/// # Errors
/// Those of recvmsg(2); `InvalidData` for a packet that is longer than `buffer`.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<&[u8]> {
    let flags = RecvFlags::empty();
    let (len, _) = receive_with(&socket, buffer, &mut RecvAncillaryBuffer::default(), flags)?;
    Ok(&buffer[..len])
}

/// As [`receive`], but no longer than this; whoever else holds the descriptor has no say in it.
///
/// # Errors
/// Those of [`receive`]; `TimedOut`.
pub(super) fn receive_within<'b>(
    socket: BorrowedFd<'_>,
    buffer: &'b mut [u8],
    time: Duration,
) -> io::Result<&'b [u8]> {
    let (len, _) = within(socket, PollFlags::IN, time, || {
        receive_with(socket, buffer, &mut RecvAncillaryBuffer::default(), RecvFlags::DONTWAIT)
    })?;
    Ok(&buffer[..len])
}

/// As [`receive`], with the descriptors that came along. Those beyond [`MOST_FILES`] the
/// kernel drops.
pub(super) fn receive_files(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(&[u8], Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let (len, files) = receive_with(&socket, buffer, &mut ancillary, RecvFlags::empty())?;
    Ok((&buffer[..len], files))
}

fn receive_with(
    socket: impl AsFd,
    buffer: &mut [u8],
    ancillary: &mut RecvAncillaryBuffer<'_>,
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut receive = || {
        rustix::io::retry_on_intr(|| {
            let mut parts = [IoSliceMut::new(buffer)];
            rustix::net::recvmsg(&socket, &mut parts, ancillary, RecvFlags::CMSG_CLOEXEC | flags)
        })
    };
    let received = match receive() {
        // The other end was closed before it had received all: what it sent comes now.
        Err(Errno::CONNRESET) => receive(),
        received => received,
    }?;
    let files = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((received.bytes, files))
}

/// Waits until the socket is so, or at its end; false when it takes longer.
pub(super) fn is_ready_within(socket: BorrowedFd<'_>, ready: PollFlags, time: Duration) -> bool {
    let mut sockets = [PollFd::from_borrowed_fd(socket, ready)];
    let Ok(time) = Timespec::try_from(time) else { return false };
    rustix::io::retry_on_intr(|| poll(&mut sockets, Some(&time))).is_ok_and(|ready| ready > 0)
}

/// Has each [`send`] fail when it finds no room for this long. Of a socket that nobody else
/// holds.
pub(super) fn limit_sends(socket: impl AsFd, time: Duration) -> io::Result<()> {
    Ok(sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, Some(time))?)
}

/// Ends a connection, whoever else holds its descriptor.
pub(super) fn end(socket: impl AsFd) {
    // It fails only for what is no connected socket any more.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}
