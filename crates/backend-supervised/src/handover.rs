//! One message and its descriptors over a Unix socket.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The most descriptors of a message.
const MOST: usize = 2;

/// Sends a number and up to two descriptors.
pub(crate) fn send(socket: impl AsFd, number: u64, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let data = number.to_ne_bytes();
    let data = [IoSlice::new(&data)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &data, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives what [`send`] sent; `None` when the other side is gone.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<(u64, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut number = [0; 8];
    let received = rustix::io::retry_on_intr(|| {
        let mut data = [IoSliceMut::new(&mut number)];
        rustix::net::recvmsg(&socket, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let fds = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((received.bytes == 8).then_some((u64::from_ne_bytes(number), fds)))
}
