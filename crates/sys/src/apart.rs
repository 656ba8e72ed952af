//! Calls on files of a file system that this very process serves.
//!
//! A thread that waits for its own process's answer must not have the connection to the file
//! system in its descriptor table: were the process killed meanwhile, the thread would wait for
//! the connection to go, which would stay as long as the thread's table. So these calls are made
//! on a thread of their own, whose table holds what they need, and nothing else.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{descriptor, process_tree::keep_descriptors};

/// `openat(2)`. `before` is called with the number of the thread that opens; it must use no
/// descriptor.
///
/// # Errors
/// Those of openat(2), and `EAGAIN` when no thread can be started.
pub fn openat(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    before: impl FnOnce(u32) + Send,
) -> io::Result<OwnedFd> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let to = theirs.as_fd();
    let open = || {
        before(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned());
        let file = rustix::fs::openat(directory, path, flags, Mode::empty())?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        // There is room for one.
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
        rustix::net::sendmsg(to, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    };
    apart(&[directory, to], open)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::net::recvmsg(&ours, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, flags)?;
    let file = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    // The limit of descriptors is what can be in the way.
    file.ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))
}

/// [`descriptor::which`].
///
/// # Errors
/// Those of that call, and `EAGAIN` when no thread can be started.
pub fn which(file: BorrowedFd<'_>, ticket: u64) -> io::Result<i32> {
    apart(&[file], || descriptor::which(file, ticket))
}

/// Runs `work` on a thread that has these descriptors, and those up to 2, alone; `work` must use
/// no others.
fn apart<R: Send>(
    keep: &[BorrowedFd<'_>],
    work: impl FnOnce() -> io::Result<R> + Send,
) -> io::Result<R> {
    let run = || {
        // SAFETY: of this thread's own table all is closed that `work` does not use, and neither
        // `keep`, which is borrowed, nor what the thread captures owns any of it. What `work`
        // opens, it drops.
        unsafe { unshare_unsafe(UnshareFlags::FILES) }?;
        keep_descriptors(keep)?;
        work()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("devmap-apart".into()).spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, sync::atomic::AtomicU32, sync::atomic::Ordering};

    use super::*;

    #[test]
    fn what_a_thread_opened_is_this_process_s() {
        let handle = fs::File::open("/proc").unwrap();
        let others = fs::File::open("/dev/null").unwrap();
        let thread = AtomicU32::new(0);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = |name: &str| {
            openat(handle.as_fd(), Path::new(name), flags, |tid| {
                thread.store(tid, Ordering::SeqCst);
            })
        };
        let mut content = String::new();
        fs::File::from(open("version").unwrap()).read_to_string(&mut content).unwrap();
        assert!(content.starts_with("Linux"), "{content}");
        assert_ne!(thread.into_inner(), rustix::thread::gettid().as_raw_nonzero().get() as u32);
        assert_eq!(
            openat(handle.as_fd(), Path::new("none"), flags, |_| ()).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        // Nothing was closed here.
        assert!(others.metadata().is_ok() && handle.metadata().is_ok());
        assert_eq!(which(others.as_fd(), 1).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }

    #[test]
    fn the_thread_has_what_it_needs_alone() {
        let others = fs::File::open("/dev/null").unwrap();
        let kept = fs::File::open("/dev/zero").unwrap();
        let (others_fd, kept_fd) = (others.as_fd(), kept.as_fd());
        let seen = apart(&[kept_fd], || {
            let is_open = |fd| rustix::io::fcntl_getfd(fd).is_ok();
            Ok((is_open(others_fd), is_open(kept_fd)))
        });
        assert_eq!(seen.unwrap(), (false, true));
    }
}
