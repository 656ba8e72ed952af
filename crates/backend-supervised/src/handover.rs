//! One message and one descriptor over a Unix socket.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Sends a number and a descriptor.
pub(crate) fn send(socket: impl AsFd, number: u64, fd: impl AsFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    // There is room for one.
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let data = number.to_ne_bytes();
    let data = [IoSlice::new(&data)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &data, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives what [`send`] sent; `None` when the other side is gone.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<(u64, OwnedFd)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut number = [0; 8];
    let received = rustix::io::retry_on_intr(|| {
        let mut data = [IoSliceMut::new(&mut number)];
        rustix::net::recvmsg(&socket, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(fd.filter(|_| received.bytes == 8).map(|fd| (u64::from_ne_bytes(number), fd)))
}
