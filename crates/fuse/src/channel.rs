//! The `/dev/fuse` descriptor of one mount: receiving, answering, notifying, and the opening
//! negotiation. What requests mean is the caller's.

use crate::abi;
use crate::reply::{Attr, Entry, Statfs, seconds};
use crate::request::{self, Malformed, Request};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// Room beside the data of a request: header, arguments, names.
const ARGUMENTS: usize = 8192;
/// Requests that the kernel may have under way for itself (read-ahead, write-back).
const MAX_BACKGROUND: u16 = 64;

/// Memory for one request at a time; each receiving thread owns one.
pub struct RequestBuffer {
    memory: Vec<u8>,
    /// Where a request begins: such that the data of a write begins a page. The kernel looks up
    /// each page that it copies to, and copies from whole ones.
    start: usize,
}

impl RequestBuffer {
    /// A buffer for any request of this protocol: [`crate::MAX_WRITE`] and a few KiB, of which
    /// only touched pages take memory.
    pub fn new() -> RequestBuffer {
        let page = rustix::param::page_size();
        let memory = vec![0; crate::MAX_WRITE + ARGUMENTS + 2 * page];
        let before_data = size_of::<abi::InHeader>() + size_of::<abi::WriteIn>();
        let start = memory.as_ptr().align_offset(page) + page - before_data;
        RequestBuffer { memory, start }
    }
}

impl Default for RequestBuffer {
    fn default() -> RequestBuffer {
        RequestBuffer::new()
    }
}

/// The server's end of a mounted FUSE file system.
///
/// All methods take `&self`: any number of threads may receive and answer at once. Dropping the
/// last duplicate of the descriptor aborts the file system: whoever waits gets `ECONNABORTED`,
/// later callers `ENOTCONN`.
///
/// # Errors of all replies and notifications
///
/// `ENOENT`: nobody waits for this answer, because the file system was aborted meanwhile; after
/// `reply_open` this also means that no release will follow. `EINVAL`: the answer does not fit
/// the question, for instance an errno out of range. Other errors are those of `writev(2)`.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    /// Flags of `FUSE_INIT` to be agreed on, if the kernel offers them.
    wanted: u32,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Channel {
    /// Serves `fd`, an open `/dev/fuse` that is the `fd` option of a mount.
    pub fn new(fd: OwnedFd) -> Channel {
        let wanted = abi::ASYNC_READ
            | abi::ATOMIC_O_TRUNC
            | abi::BIG_WRITES
            | abi::PARALLEL_DIROPS
            | abi::MAX_PAGES;
        Channel { fd, wanted }
    }

    /// Asks the kernel to list directories by `Readdirplus` always, so that no lookups follow.
    /// To be said before the first [`Channel::receive`].
    pub fn with_readdirplus(self) -> Channel {
        Channel { wanted: self.wanted | abi::DO_READDIRPLUS, ..self }
    }

    /// Waits for the next request; `None` when the file system is unmounted or aborted.
    ///
    /// `FUSE_INIT` is answered here and not shown. So is a request that cannot be decoded, with
    /// `EIO`.
    ///
    /// # Errors
    ///
    /// `EPERM`: the descriptor has not been mounted yet. `EPROTO`: the kernel speaks a protocol
    /// older than 7.31 (before Linux 5.4). `InvalidData`: the message is none of the FUSE
    /// protocol. Other errors are those of `read(2)`.
    pub fn receive<'a>(&self, buffer: &'a mut RequestBuffer) -> io::Result<Option<Request<'a>>> {
        // The request borrows the buffer, so the loop that decides whether to show it must not:
        // it finds the length first, and the message is decoded once more after it.
        let memory = &mut buffer.memory[buffer.start..];
        let len = loop {
            let len = match rustix::io::read(&self.fd, &mut *memory) {
                Ok(len) => len,
                // CONNABORTED: it ended in the moment in which a request was being read.
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(None),
                // NOENT: the request was interrupted before it could be read.
                Err(Errno::INTR | Errno::NOENT) => continue,
                Err(Errno::AGAIN) => {
                    self.wait()?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let (header, body) = match request::split(&memory[..len]) {
                Ok(parts) => parts,
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            };
            if header.opcode == abi::opcode::INIT {
                self.init(header.unique, body)?;
                continue;
            }
            match request::decode(&header, body) {
                Ok(_) => break len,
                Err(Malformed::Request { unique, opcode }) => self.refuse(unique, opcode)?,
                Err(Malformed::Header) => return Err(io::ErrorKind::InvalidData.into()),
            }
        };
        let decoded = request::split(&memory[..len])
            .and_then(|(header, body)| request::decode(&header, body));
        Ok(decoded.ok())
    }

    /// Waits until a descriptor that does not block has a request, or an end.
    fn wait(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers a request that could not be decoded, if it wants an answer.
    fn refuse(&self, unique: u64, code: u32) -> io::Result<()> {
        use abi::opcode::{BATCH_FORGET, FORGET, INTERRUPT};
        if matches!(code, FORGET | BATCH_FORGET | INTERRUPT) {
            return Ok(());
        }
        match self.reply_error(unique, Errno::IO.raw_os_error()) {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(()),
            result => result,
        }
    }

    fn init(&self, unique: u64, body: &[u8]) -> io::Result<()> {
        let answer = abi::InitIn::read_from_prefix(body)
            .map_err(|_| Errno::PROTO)
            .and_then(|(offer, _)| negotiate(&offer, self.wanted));
        match answer {
            Ok(answer) => self.reply(unique, Ok(answer.as_bytes())),
            Err(error) => {
                self.reply_error(unique, error.raw_os_error())?;
                Err(error.into())
            }
        }
    }

    /// Answers with the bytes that the operation wants, or with a positive errno.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply(&self, unique: u64, result: Result<&[u8], i32>) -> io::Result<()> {
        match result {
            Ok(data) => self.send(unique, 0, &[data]),
            Err(errno) => self.send(unique, -errno.saturating_abs(), &[]),
        }
    }

    /// A caller whose answer cannot be written, for want of memory in the kernel, gets `EIO`:
    /// nothing but an answer ends its wait.
    fn send(&self, unique: u64, error: i32, parts: &[&[u8]]) -> io::Result<()> {
        let sent = self.write(unique, error, parts);
        let gone = [Errno::NOENT, Errno::NODEV].map(|errno| Some(errno.raw_os_error()));
        if let Err(error) = &sent
            && unique != 0
            && !gone.contains(&error.raw_os_error())
        {
            let _ = self.write(unique, -Errno::IO.raw_os_error(), &[]);
        }
        sent
    }

    /// One message: header and parts, in one write, as the kernel wants it. The kernel pins
    /// each part by itself, so short ones are put together first.
    fn write(&self, unique: u64, error: i32, parts: &[&[u8]]) -> io::Result<()> {
        let len = size_of::<abi::OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        let len = u32::try_from(len).map_err(|_| io::Error::from(Errno::INVAL))?;
        let header = abi::OutHeader { len, error, unique };
        let mut short = [0; 512];
        if let Some(message) = short.get_mut(..len as usize) {
            let mut at = 0;
            for part in std::iter::once(&header.as_bytes()).chain(parts) {
                message[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, message))?;
            return Ok(());
        }
        let mut slices = [IoSlice::new(&[]); 3];
        slices[0] = IoSlice::new(header.as_bytes());
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, &slices[..=parts.len()]))?;
        Ok(())
    }

    /// Answers with a positive errno; a negative one is taken as its amount.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply_error(&self, unique: u64, errno: i32) -> io::Result<()> {
        self.reply(unique, Err(errno))
    }

    /// Says that it is done, with nothing to add.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply_empty(&self, unique: u64) -> io::Result<()> {
        self.send(unique, 0, &[])
    }

    /// Answers a lookup.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply_entry(&self, unique: u64, entry: &Entry) -> io::Result<()> {
        self.reply(unique, Ok(entry.raw().as_bytes()))
    }

    /// Answers `Getattr` and `Setattr`; the kernel may keep the attributes for `valid`.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply_attr(&self, unique: u64, attr: &Attr, valid: Duration) -> io::Result<()> {
        let answer = abi::AttrOut {
            attr_valid: seconds(valid),
            attr_valid_nsec: valid.subsec_nanos(),
            dummy: 0,
            attr: attr.raw(),
        };
        self.reply(unique, Ok(answer.as_bytes()))
    }

    /// Answers `Open` and `Opendir`: `fh` comes back with every request about this open file;
    /// `flags` are of [`crate::open_flags`].
    ///
    /// # Errors
    ///
    /// See [`Channel`]. After an error no release will come for `fh`.
    pub fn reply_open(&self, unique: u64, fh: u64, flags: u32) -> io::Result<()> {
        let answer = abi::OpenOut { fh, open_flags: flags, padding: 0 };
        self.reply(unique, Ok(answer.as_bytes()))
    }

    /// Answers `Read`, `Readdir`, `Readlink`, `Getxattr` and `Listxattr`.
    ///
    /// # Errors
    ///
    /// See [`Channel`]. `EINVAL`: more data than asked for.
    pub fn reply_data(&self, unique: u64, data: &[u8]) -> io::Result<()> {
        self.reply(unique, Ok(data))
    }

    /// Answers `Write`: how many bytes were taken.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply_written(&self, unique: u64, size: u32) -> io::Result<()> {
        self.reply(unique, Ok(abi::WriteOut { size, padding: 0 }.as_bytes()))
    }

    /// Answers `Poll`: what is ready (`POLLIN`, ...), of whatever the caller asked.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply_poll(&self, unique: u64, revents: u32) -> io::Result<()> {
        self.reply(unique, Ok(abi::PollOut { revents, padding: 0 }.as_bytes()))
    }

    /// Answers `Lseek` with the new position.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply_lseek(&self, unique: u64, offset: u64) -> io::Result<()> {
        self.reply(unique, Ok(abi::LseekOut { offset }.as_bytes()))
    }

    /// Answers `Ioctl`: what the call returns, and at most `out_size` bytes for the caller.
    /// A negative `result` is an errno that reaches the caller as such.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply_ioctl(&self, unique: u64, result: i32, out: &[u8]) -> io::Result<()> {
        let head = abi::IoctlOut { result, ..Default::default() };
        self.send(unique, 0, &[head.as_bytes(), out])
    }

    /// Answers `Getxattr` and `Listxattr` of size 0 with the length, in bytes.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply_xattr_len(&self, unique: u64, size: u32) -> io::Result<()> {
        self.reply(unique, Ok(abi::GetxattrOut { size, padding: 0 }.as_bytes()))
    }

    /// Answers `Statfs`.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn reply_statfs(&self, unique: u64, statfs: &Statfs) -> io::Result<()> {
        self.reply(unique, Ok(statfs.raw().as_bytes()))
    }

    /// Wakes whoever polls the file that `kh` stands for; the kernel then asks by `Poll` again.
    /// A file that is gone is no error.
    ///
    /// # Errors
    ///
    /// See [`Channel`].
    pub fn notify_poll(&self, kh: u64) -> io::Result<()> {
        let body = abi::NotifyPollWakeupOut { kh };
        self.send(0, abi::NOTIFY_POLL, &[body.as_bytes()])
    }

    /// Makes the kernel forget attributes of the node and its cached content from `offset`
    /// on, `len` bytes, 0 meaning all; a negative `offset` means the attributes alone.
    ///
    /// This waits for pages that are being read or written, so it must not be called by a thread
    /// whose answer such a page waits for.
    ///
    /// # Errors
    ///
    /// See [`Channel`]. `ENOENT`: the kernel does not know the node.
    pub fn notify_inval_inode(&self, nodeid: u64, offset: i64, len: i64) -> io::Result<()> {
        let body = abi::NotifyInvalInodeOut { ino: nodeid, off: offset, len };
        self.send(0, abi::NOTIFY_INVAL_INODE, &[body.as_bytes()])
    }

    /// Makes the kernel forget the name in the directory.
    ///
    /// This waits for the directory's lock, so it must not be called by a thread that owes an
    /// answer to a lookup in the same directory.
    ///
    /// # Errors
    ///
    /// See [`Channel`]. `ENOENT`: the kernel does not know the name.
    pub fn notify_inval_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        let namelen = u32::try_from(name.len()).map_err(|_| io::Error::from(Errno::INVAL))?;
        let head = abi::NotifyInvalEntryOut { parent, namelen, flags: 0 };
        let mut name = name.to_vec();
        name.push(0);
        self.send(0, abi::NOTIFY_INVAL_ENTRY, &[head.as_bytes(), &name])
    }
}

/// Our answer to the kernel's `FUSE_INIT`.
fn negotiate(offer: &abi::InitIn, wanted: u32) -> Result<abi::InitOut, Errno> {
    if offer.major > abi::KERNEL_VERSION {
        // The kernel reads the major number only, and asks again with that.
        return Ok(abi::InitOut {
            major: abi::KERNEL_VERSION,
            minor: abi::MINOR_MAX,
            ..Default::default()
        });
    }
    if offer.major < abi::KERNEL_VERSION || offer.minor < abi::MINOR_MIN {
        return Err(Errno::PROTO);
    }
    Ok(abi::InitOut {
        major: abi::KERNEL_VERSION,
        minor: offer.minor.min(abi::MINOR_MAX),
        max_readahead: offer.max_readahead,
        flags: offer.flags & wanted,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write: crate::MAX_WRITE as u32,
        time_gran: 1,
        max_pages: (crate::MAX_WRITE / 4096) as u16,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(major: u32, minor: u32, flags: u32) -> abi::InitIn {
        abi::InitIn { major, minor, max_readahead: 131072, flags }
    }

    #[test]
    fn the_smaller_protocol_is_spoken() {
        let wanted = abi::MAX_PAGES | abi::ASYNC_READ;
        let answer = negotiate(&offer(7, 45, u32::MAX), wanted).unwrap();
        assert_eq!((answer.major, answer.minor), (7, abi::MINOR_MAX));
        assert_eq!(answer.flags, wanted);
        assert_eq!((answer.max_write, answer.max_pages), (1 << 20, 256));
        let answer = negotiate(&offer(7, 31, abi::ASYNC_READ), wanted).unwrap();
        assert_eq!((answer.minor, answer.flags), (31, abi::ASYNC_READ));
    }

    #[test]
    fn strangers_are_refused() {
        assert_eq!(negotiate(&offer(7, 30, 0), 0).err(), Some(Errno::PROTO));
        assert_eq!(negotiate(&offer(6, 99, 0), 0).err(), Some(Errno::PROTO));
        // A newer kernel asks again.
        assert_eq!(negotiate(&offer(8, 0, u32::MAX), 0).unwrap().major, 7);
    }

    /// A socket stands for the kernel: one message for each read and write.
    fn channel() -> (Channel, OwnedFd) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, kernel) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Channel::new(ours), kernel)
    }

    fn ask(kernel: &OwnedFd, opcode: u32, body: &[u8]) {
        let header = abi::InHeader {
            len: (size_of::<abi::InHeader>() + body.len()) as u32,
            opcode,
            unique: 8,
            nodeid: 1,
            uid: 0,
            gid: 0,
            pid: 1,
            total_extlen: 0,
            padding: 0,
        };
        rustix::io::write(kernel, &[header.as_bytes(), body].concat()).unwrap();
    }

    fn answer(kernel: &OwnedFd) -> (abi::OutHeader, Vec<u8>) {
        let mut bytes = vec![0; 4096];
        let len = rustix::io::read(kernel, &mut bytes).unwrap();
        bytes.truncate(len);
        let (header, body) = abi::OutHeader::read_from_prefix(&bytes).unwrap();
        assert_eq!(header.len as usize, len);
        (header, body.to_vec())
    }

    #[test]
    fn the_negotiation_and_malformed_requests_are_not_shown() {
        let (channel, kernel) = channel();
        ask(&kernel, abi::opcode::INIT, offer(7, 40, u32::MAX).as_bytes());
        // A lookup without a name, a forget without a number, then something right.
        ask(&kernel, abi::opcode::LOOKUP, b"");
        ask(&kernel, abi::opcode::FORGET, b"");
        ask(&kernel, abi::opcode::STATFS, b"");
        let mut buffer = RequestBuffer::new();
        let request = channel.receive(&mut buffer).unwrap().unwrap();
        assert!(matches!(request.operation, crate::Operation::Statfs));

        let (header, body) = answer(&kernel);
        assert_eq!((header.error, header.unique, body.len()), (0, 8, 64));
        let (header, body) = answer(&kernel);
        assert_eq!((header.error, body.len()), (-Errno::IO.raw_os_error(), 0));
        let nothing = rustix::io::read(&kernel, &mut [0; 64]);
        assert_eq!(nothing, Err(Errno::AGAIN), "a forget was answered");
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (channel, kernel) = channel();
        rustix::io::write(&kernel, b"GET / HTTP/1.1").unwrap();
        let error = channel.receive(&mut RequestBuffer::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn answers_are_one_message() {
        let (channel, kernel) = channel();
        channel.reply_ioctl(3, 5, b"out").unwrap();
        let (header, body) = answer(&kernel);
        assert_eq!((header.unique, header.error), (3, 0));
        assert_eq!(
            (body.len(), &body[..4], &body[16..]),
            (19, &5i32.to_ne_bytes()[..], &b"out"[..])
        );
        channel.reply_error(3, -19).unwrap();
        assert_eq!(answer(&kernel).0.error, -19);
        channel.notify_poll(0x1234).unwrap();
        let (header, body) = answer(&kernel);
        assert_eq!((header.unique, header.error), (0, abi::NOTIFY_POLL));
        assert_eq!(body, 0x1234u64.to_ne_bytes());
        channel.notify_inval_entry(1, b"video0").unwrap();
        let (header, body) = answer(&kernel);
        assert_eq!((header.error, &body[16..]), (abi::NOTIFY_INVAL_ENTRY, &b"video0\0"[..]));
    }
}
