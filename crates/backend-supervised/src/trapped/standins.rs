//! What stands at a number from 3 to 959 to which a program moved a device's descriptor.
//!
//! Reads and writes of such numbers are not notified: all files of all programs lie
//! there. A FIFO there would give its packets to a program for data. So something stands
//! there that keeps the device open and says by its inode which open file it is of, but
//! of which neither read nor write come to anything: a listening socket, on which the
//! kernel says `EINVAL` and `ENOTCONN`. When it is copied on to 0, 1 or 2, which shells
//! do, or mapped, or asked by `ioctl`, it is the device.
//!
//! A connection that nobody accepts is the supervisor's end: it hangs up when the last
//! copy is closed.

use std::{io, os::fd::OwnedFd};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Makes one: the client's end and the supervisor's.
pub(super) fn make(nonblocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let socket = |flags| {
        let flags = flags | SocketFlags::CLOEXEC;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
    };
    let client = socket(if nonblocking { SocketFlags::NONBLOCK } else { SocketFlags::empty() })?;
    // The kernel chooses a name that no file has.
    rustix::net::bind(&client, &SocketAddrUnix::new_unnamed())?;
    rustix::net::listen(&client, 0)?;
    let peer = socket(SocketFlags::NONBLOCK)?;
    rustix::net::connect(&peer, &rustix::net::getsockname(&client)?)?;
    Ok((client, peer))
}
