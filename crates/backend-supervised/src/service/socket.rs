//! Packets and their descriptors over a connected Unix socket (`SOCK_SEQPACKET`).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
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

/// Sends one packet, waiting for room.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = [IoSlice::new(bytes)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives one packet; its bytes, of which there are none at the end.
///
/// # Errors
/// Those of recvmsg(2); `InvalidData` for a packet that is longer than `buffer`.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<&[u8]> {
    let (len, _) = receive_with(&socket, buffer, &mut RecvAncillaryBuffer::default())?;
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
    let (len, files) = receive_with(&socket, buffer, &mut ancillary)?;
    Ok((&buffer[..len], files))
}

fn receive_with(
    socket: impl AsFd,
    buffer: &mut [u8],
    ancillary: &mut RecvAncillaryBuffer<'_>,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut receive = || {
        rustix::io::retry_on_intr(|| {
            let mut parts = [IoSliceMut::new(buffer)];
            rustix::net::recvmsg(&socket, &mut parts, ancillary, RecvFlags::CMSG_CLOEXEC)
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

/// Waits until there is something to receive, or an end; false when it takes longer.
pub(super) fn is_ready_within(socket: BorrowedFd<'_>, time: Duration) -> bool {
    let mut sockets = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    let Ok(time) = Timespec::try_from(time) else { return false };
    rustix::io::retry_on_intr(|| poll(&mut sockets, Some(&time))).is_ok_and(|ready| ready > 0)
}

/// Has each [`send`] fail when it finds no room for this long.
pub(super) fn limit_sends(socket: impl AsFd, time: Duration) -> io::Result<()> {
    Ok(sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, Some(time))?)
}

/// Ends a connection, whoever else holds its descriptor.
pub(super) fn end(socket: impl AsFd) {
    // It fails only for what is no connected socket any more.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}
