//! What the kernel asks: decoding of requests. No I/O here, and nothing is ever trusted to have
//! the length it claims.

use crate::abi::{self, opcode};
use zerocopy::FromBytes;

/// Who asks for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Names the request; the answer carries it. Never 0. An interrupt has an odd number.
    pub unique: u64,
    /// The node asked about; [`crate::ROOT_ID`] is the root directory.
    pub nodeid: u64,
    /// The caller's user for file systems (fsuid), as seen from the user name space of the mount.
    pub uid: u32,
    /// The caller's group for file systems (fsgid), as seen from the user name space of the mount.
    pub gid: u32,
    /// The thread that asks (`gettid`, not the process), in the PID name space of the process
    /// that mounted; 0 when it cannot be seen from there or when the kernel asks for itself
    /// (`FUSE_RELEASE`, write-back, read-ahead).
    pub pid: u32,
}

/// One request of the kernel. Its data live in the buffer that it was received into.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Who asks, and about which node.
    pub header: Header,
    /// What is asked.
    pub operation: Operation<'a>,
}

/// What is asked. `fh` is always what [`crate::Channel::reply_open`] gave to the kernel; offsets
/// and sizes are in bytes; `flags` of an open file are those of `open(2)`.
///
/// Every operation wants exactly one answer, except [`Operation::Forget`],
/// [`Operation::BatchForget`] and [`Operation::Interrupt`], which want none.
#[derive(Clone, Debug)]
pub enum Operation<'a> {
    /// Find a name in a directory: answer `reply_entry`, or `ENOENT`. Each successful answer
    /// counts one reference to the node, given back by a forget.
    Lookup {
        /// The name, without a slash and without its final NUL.
        name: &'a [u8],
    },
    /// Give back references to the node. No answer.
    Forget {
        /// How many.
        nlookup: u64,
    },
    /// Give back references to several nodes. No answer.
    BatchForget(Forgets<'a>),
    /// `fstat` or `stat`: answer `reply_attr`.
    Getattr {
        /// The open file asked about, if the caller has one.
        fh: Option<u64>,
    },
    /// Change of attributes (`chmod`, `chown`, `truncate`, `utimensat`): answer `reply_attr`.
    Setattr(Setattr),
    /// Answer `reply_data` with the target, without a NUL.
    Readlink,
    /// `open` of a directory: answer `reply_open`.
    Opendir {
        /// Flags of `open(2)`.
        flags: u32,
    },
    /// `getdents`: answer `reply_data` with the bytes of a [`crate::DirBuffer`]; no bytes mean
    /// the end.
    Readdir {
        /// The open directory.
        fh: u64,
        /// 0, or the offset that the last entry taken carries.
        offset: u64,
        /// Most bytes of an answer.
        size: u32,
    },
    /// `getdents`, by which the kernel takes the place of lookups too: answer as to
    /// [`Operation::Readdir`], but with [`crate::DirBuffer::push_plus`]. Sent instead of that
    /// one if [`crate::Channel::with_readdirplus`] was asked for.
    Readdirplus {
        /// The open directory.
        fh: u64,
        /// 0, or the offset that the last entry taken carries.
        offset: u64,
        /// Most bytes of an answer.
        size: u32,
    },
    /// Last close of a directory: answer `reply_empty`.
    Releasedir {
        /// The directory.
        fh: u64,
    },
    /// `open`: answer `reply_open`. `O_CREAT`, `O_EXCL` and `O_NOCTTY` are never among the flags.
    Open {
        /// Flags of `open(2)`.
        flags: u32,
    },
    /// `read`: answer `reply_data` with at most `size` bytes.
    Read {
        /// The open file.
        fh: u64,
        /// Where in the file.
        offset: u64,
        /// Most bytes of an answer.
        size: u32,
        /// The present flags of the open file, `O_NONBLOCK` among them.
        flags: u32,
    },
    /// `write`, or pages of the kernel's cache that are given back: answer `reply_written`.
    Write {
        /// The open file.
        fh: u64,
        /// Where in the file.
        offset: u64,
        /// The present flags of the open file, `O_NONBLOCK` among them.
        flags: u32,
        /// Pages that programs changed by maps, without the bytes past the end of the file.
        /// Nobody's `write` in particular.
        from_cache: bool,
        /// What to write.
        data: &'a [u8],
    },
    /// A `close` of one descriptor, perhaps not the last: answer `reply_empty`. Not sent for
    /// files opened with [`crate::open_flags::NOFLUSH`].
    Flush {
        /// The open file.
        fh: u64,
    },
    /// The last descriptor and the last mapping of the open file are gone: answer `reply_empty`.
    Release {
        /// The open file.
        fh: u64,
        /// Flags of `open(2)`.
        flags: u32,
    },
    /// `fsync` or `fdatasync`: answer `reply_empty`.
    Fsync {
        /// The open file.
        fh: u64,
        /// `fdatasync`: the content only.
        datasync: bool,
    },
    /// `poll`, `select` or `epoll`: answer `reply_poll` at once with what is ready now.
    Poll {
        /// The open file.
        fh: u64,
        /// What [`crate::Channel::notify_poll`] wants, later.
        kh: u64,
        /// The caller waits: it wants one notification when more becomes ready. This holds until
        /// the next poll request of the same `kh`, or the release of the file.
        schedule_notify: bool,
        /// What the caller is interested in (`POLLIN`, ...).
        events: u32,
    },
    /// `ioctl`, of the restricted sort: the kernel has derived the sizes from the number (`_IOR`,
    /// `_IOW`, `_IOWR`) and has copied the data. Answer `reply_ioctl`.
    Ioctl {
        /// The open file.
        fh: u64,
        /// `FUSE_IOCTL_*`: bit 0 and 3 say that the caller is a 32-bit program, bit 4 that the
        /// file is a directory.
        flags: u32,
        /// The request number.
        cmd: u32,
        /// The third argument of the call: a value, or an address in the caller.
        arg: u64,
        /// What the caller passes in.
        in_data: &'a [u8],
        /// Most bytes to be passed out.
        out_size: u32,
    },
    /// `lseek` with `SEEK_DATA` or `SEEK_HOLE`; the other sorts are the kernel's own. Answer
    /// `reply_lseek`.
    Lseek {
        /// The open file.
        fh: u64,
        /// The offset given.
        offset: i64,
        /// `SEEK_*`.
        whence: u32,
    },
    /// A signal waits for the caller of another request that was received earlier. Let that one
    /// answer early (`EINTR`), or leave it alone; there is no answer to this. If that request is
    /// not known - it may still be on its way between two threads, or be answered already -
    /// `reply_error` with `EAGAIN` makes the kernel ask again, as long as it is unanswered.
    Interrupt {
        /// The `unique` of the other request.
        unique: u64,
    },
    /// `statfs`: answer `reply_statfs`.
    Statfs,
    /// `access`, when the mount does not check permissions: answer `reply_empty` or `EACCES`.
    Access {
        /// `R_OK`, `W_OK`, `X_OK`.
        mask: u32,
    },
    /// Extended attribute: usually `ENOSYS` (never ask again) or `ENODATA`.
    Getxattr {
        /// The name, without its NUL.
        name: &'a [u8],
        /// Most bytes of an answer by `reply_data`; 0 asks for the length (`reply_xattr_len`).
        size: u32,
    },
    /// The names of the extended attributes.
    Listxattr {
        /// As in [`Operation::Getxattr`].
        size: u32,
    },
    /// Anything that would add, remove or rename a directory entry: `MKNOD`, `MKDIR`, `SYMLINK`,
    /// `LINK`, `CREATE`, `TMPFILE`, `UNLINK`, `RMDIR`, `RENAME`, `RENAME2`.
    ChangeTree {
        /// The opcode.
        opcode: u32,
    },
    /// The file system is unmounted: answer `reply_empty`. Not every kernel and mount sends it.
    Destroy,
    /// An operation that this crate does not decode: answer `ENOSYS`.
    Other {
        /// The opcode.
        opcode: u32,
    },
}

/// A change of attributes; what is `None` stays as it is. Times are not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setattr {
    /// The bits `FATTR_*` that say which attributes are to change.
    pub valid: u32,
    /// The open file by which it is asked.
    pub fh: Option<u64>,
    /// New permissions.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size, in bytes.
    pub size: Option<u64>,
}

/// Pairs of a node and the number of references given back.
#[derive(Clone, Debug)]
pub struct Forgets<'a>(&'a [u8]);

impl Iterator for Forgets<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let (one, rest) = abi::ForgetOne::read_from_prefix(self.0).ok()?;
        self.0 = rest;
        Some((one.nodeid, one.nlookup))
    }
}

/// A message that does not follow the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not even the header is right: there is nobody to answer.
    Header,
    /// This request is wrong: it can be answered.
    Request { unique: u64, opcode: u32 },
}

/// The parts of a message: its header, as the kernel wrote it, and its arguments.
pub(crate) fn split(message: &[u8]) -> Result<(abi::InHeader, &[u8]), Malformed> {
    let (header, body) = abi::InHeader::read_from_prefix(message).map_err(|_| Malformed::Header)?;
    if header.len as usize != message.len() {
        return Err(Malformed::Header);
    }
    Ok((header, body))
}

pub(crate) fn decode<'a>(header: &abi::InHeader, body: &'a [u8]) -> Result<Request<'a>, Malformed> {
    let operation = operation(header.opcode, body)
        .ok_or(Malformed::Request { unique: header.unique, opcode: header.opcode })?;
    let header = Header {
        unique: header.unique,
        nodeid: header.nodeid,
        uid: header.uid,
        gid: header.gid,
        pid: header.pid,
    };
    Ok(Request { header, operation })
}

/// The structure at the start of `body`, and what follows.
fn take<T: FromBytes>(body: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(body).ok()
}

/// A string that ends with a NUL.
fn name(body: &[u8]) -> Option<&[u8]> {
    let end = body.iter().position(|byte| *byte == 0)?;
    (end > 0).then(|| &body[..end])
}

fn operation(code: u32, body: &[u8]) -> Option<Operation<'_>> {
    Some(match code {
        opcode::LOOKUP => Operation::Lookup { name: name(body)? },
        opcode::FORGET => Operation::Forget { nlookup: take::<abi::ForgetIn>(body)?.0.nlookup },
        opcode::BATCH_FORGET => {
            let (head, list) = take::<abi::BatchForgetIn>(body)?;
            let bytes = (head.count as usize).checked_mul(size_of::<abi::ForgetOne>())?;
            Operation::BatchForget(Forgets(list.get(..bytes)?))
        }
        opcode::GETATTR => {
            let (args, _) = take::<abi::GetattrIn>(body)?;
            Operation::Getattr { fh: (args.flags & abi::GETATTR_FH != 0).then_some(args.fh) }
        }
        opcode::SETATTR => Operation::Setattr(setattr(&take(body)?.0)),
        opcode::READLINK => Operation::Readlink,
        opcode::OPENDIR => Operation::Opendir { flags: take::<abi::OpenIn>(body)?.0.flags },
        opcode::READDIR => {
            let (args, _) = take::<abi::ReadIn>(body)?;
            Operation::Readdir { fh: args.fh, offset: args.offset, size: args.size }
        }
        opcode::READDIRPLUS => {
            let (args, _) = take::<abi::ReadIn>(body)?;
            Operation::Readdirplus { fh: args.fh, offset: args.offset, size: args.size }
        }
        opcode::RELEASEDIR => Operation::Releasedir { fh: take::<abi::ReleaseIn>(body)?.0.fh },
        opcode::OPEN => Operation::Open { flags: take::<abi::OpenIn>(body)?.0.flags },
        opcode::READ => {
            let (args, _) = take::<abi::ReadIn>(body)?;
            let abi::ReadIn { fh, offset, size, flags, .. } = args;
            Operation::Read { fh, offset, size, flags }
        }
        opcode::WRITE => {
            let (args, data) = take::<abi::WriteIn>(body)?;
            let abi::WriteIn { fh, offset, size, flags, write_flags, .. } = args;
            let from_cache = write_flags & abi::WRITE_CACHE != 0;
            Operation::Write { fh, offset, flags, from_cache, data: data.get(..size as usize)? }
        }
        opcode::FLUSH => Operation::Flush { fh: take::<abi::FlushIn>(body)?.0.fh },
        opcode::RELEASE => {
            let (args, _) = take::<abi::ReleaseIn>(body)?;
            Operation::Release { fh: args.fh, flags: args.flags }
        }
        opcode::FSYNC => {
            let (args, _) = take::<abi::FsyncIn>(body)?;
            let datasync = args.flags & abi::FSYNC_FDATASYNC != 0;
            Operation::Fsync { fh: args.fh, datasync }
        }
        opcode::POLL => {
            let (args, _) = take::<abi::PollIn>(body)?;
            let schedule_notify = args.flags & abi::POLL_SCHEDULE_NOTIFY != 0;
            Operation::Poll { fh: args.fh, kh: args.kh, schedule_notify, events: args.events }
        }
        opcode::IOCTL => {
            let (args, data) = take::<abi::IoctlIn>(body)?;
            let abi::IoctlIn { fh, flags, cmd, arg, in_size, out_size } = args;
            let in_data = data.get(..in_size as usize)?;
            Operation::Ioctl { fh, flags, cmd, arg, in_data, out_size }
        }
        opcode::LSEEK => {
            let (args, _) = take::<abi::LseekIn>(body)?;
            let offset = args.offset.cast_signed();
            Operation::Lseek { fh: args.fh, offset, whence: args.whence }
        }
        opcode::INTERRUPT => {
            Operation::Interrupt { unique: take::<abi::InterruptIn>(body)?.0.unique }
        }
        opcode::STATFS => Operation::Statfs,
        opcode::ACCESS => Operation::Access { mask: take::<abi::AccessIn>(body)?.0.mask },
        opcode::GETXATTR => {
            let (args, rest) = take::<abi::GetxattrIn>(body)?;
            Operation::Getxattr { name: name(rest)?, size: args.size }
        }
        opcode::LISTXATTR => Operation::Listxattr { size: take::<abi::GetxattrIn>(body)?.0.size },
        opcode::MKNOD
        | opcode::MKDIR
        | opcode::SYMLINK
        | opcode::LINK
        | opcode::CREATE
        | opcode::TMPFILE
        | opcode::UNLINK
        | opcode::RMDIR
        | opcode::RENAME
        | opcode::RENAME2 => Operation::ChangeTree { opcode: code },
        opcode::DESTROY => Operation::Destroy,
        opcode => Operation::Other { opcode },
    })
}

fn setattr(args: &abi::SetattrIn) -> Setattr {
    let valid = args.valid;
    Setattr {
        valid,
        fh: (valid & abi::FATTR_FH != 0).then_some(args.fh),
        mode: (valid & abi::FATTR_MODE != 0).then_some(args.mode),
        uid: (valid & abi::FATTR_UID != 0).then_some(args.uid),
        gid: (valid & abi::FATTR_GID != 0).then_some(args.gid),
        size: (valid & abi::FATTR_SIZE != 0).then_some(args.size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi;
    use zerocopy::IntoBytes;

    const UNIQUE: u64 = 42;

    /// A message as the kernel makes them.
    fn message(opcode: u32, parts: &[&[u8]]) -> Vec<u8> {
        let body: Vec<u8> = parts.concat();
        let header = abi::InHeader {
            len: (size_of::<abi::InHeader>() + body.len()) as u32,
            opcode,
            unique: UNIQUE,
            nodeid: 3,
            uid: 1000,
            gid: 100,
            pid: 4711,
            total_extlen: 0,
            padding: 0,
        };
        [header.as_bytes(), &body].concat()
    }

    fn decoded(message: &[u8]) -> Result<Request<'_>, Malformed> {
        let (header, body) = split(message)?;
        decode(&header, body)
    }

    #[test]
    fn a_header_says_who_asks() {
        let message = message(opcode::READLINK, &[]);
        let header = decoded(&message).unwrap().header;
        assert_eq!(header, Header { unique: UNIQUE, nodeid: 3, uid: 1000, gid: 100, pid: 4711 });
    }

    #[test]
    fn names_end_at_their_nul() {
        let lookup = message(opcode::LOOKUP, &[b"video0\0"]);
        let Ok(Request { operation: Operation::Lookup { name }, .. }) = decoded(&lookup) else {
            panic!("no lookup")
        };
        assert_eq!(name, b"video0");
        for wrong in [&b"video0"[..], b"\0", b""] {
            assert!(decoded(&message(opcode::LOOKUP, &[wrong])).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn data_are_as_long_as_they_say() {
        let args = abi::WriteIn {
            fh: 7,
            offset: 9,
            size: 4,
            write_flags: abi::WRITE_CACHE,
            lock_owner: 0,
            flags: 0o4002,
            padding: 0,
        };
        let write = message(opcode::WRITE, &[args.as_bytes(), b"abcd"]);
        let Ok(Request { operation, .. }) = decoded(&write) else { panic!("no write") };
        let Operation::Write { fh: 7, offset: 9, flags: 0o4002, from_cache: true, data: b"abcd" } =
            operation
        else {
            panic!("{operation:?}")
        };
        let short = message(opcode::WRITE, &[args.as_bytes(), b"abc"]);
        let error = Malformed::Request { unique: UNIQUE, opcode: opcode::WRITE };
        assert_eq!(decoded(&short).err(), Some(error));

        let args = abi::IoctlIn { fh: 7, flags: 0, cmd: 5, arg: 0x1000, in_size: 2, out_size: 8 };
        let ioctl = message(opcode::IOCTL, &[args.as_bytes(), b"xy"]);
        let Ok(Request { operation, .. }) = decoded(&ioctl) else { panic!("no ioctl") };
        assert!(
            matches!(
                operation,
                Operation::Ioctl { cmd: 5, arg: 0x1000, in_data: b"xy", out_size: 8, .. }
            ),
            "{operation:?}"
        );
    }

    #[test]
    fn forgets_come_in_batches() {
        let head = abi::BatchForgetIn { count: 2, dummy: 0 };
        let one = |nodeid, nlookup| abi::ForgetOne { nodeid, nlookup };
        let list = [one(5, 1), one(6, 3)];
        let forget = message(opcode::BATCH_FORGET, &[head.as_bytes(), list.as_bytes()]);
        let Ok(Request { operation: Operation::BatchForget(forgets), .. }) = decoded(&forget)
        else {
            panic!("no batch")
        };
        assert_eq!(forgets.collect::<Vec<_>>(), [(5, 1), (6, 3)]);
        let head = abi::BatchForgetIn { count: u32::MAX, dummy: 0 };
        let wrong = message(opcode::BATCH_FORGET, &[head.as_bytes(), list.as_bytes()]);
        assert!(decoded(&wrong).is_err());
    }

    #[test]
    fn only_valid_attributes_are_to_change() {
        let args = abi::SetattrIn {
            valid: abi::FATTR_SIZE | abi::FATTR_FH,
            padding: 0,
            fh: 8,
            size: 4096,
            lock_owner: 0,
            atime: 1,
            mtime: 1,
            ctime: 1,
            atimensec: 0,
            mtimensec: 0,
            ctimensec: 0,
            mode: 0o777,
            unused4: 0,
            uid: 1,
            gid: 1,
            unused5: 0,
        };
        let message = message(opcode::SETATTR, &[args.as_bytes()]);
        let Ok(Request { operation: Operation::Setattr(change), .. }) = decoded(&message) else {
            panic!("no setattr")
        };
        let expected = Setattr {
            valid: args.valid,
            fh: Some(8),
            mode: None,
            uid: None,
            gid: None,
            size: Some(4096),
        };
        assert_eq!(change, expected);
    }

    #[test]
    fn unknown_operations_are_shown_as_such() {
        for code in [0, 7, 49, 4096, u32::MAX] {
            let message = message(code, &[b"whatever"]);
            let Ok(Request { operation, .. }) = decoded(&message) else { panic!("{code}") };
            assert!(matches!(operation, Operation::Other { opcode } if opcode == code));
        }
    }

    /// Every operation, cut off after every byte: an error or a shorter request, never a panic.
    #[test]
    fn no_length_is_trusted() {
        for code in 0..64 {
            for len in 0..128 {
                for fill in [0, 1, 0xff] {
                    let body = vec![fill; len];
                    match decoded(&message(code, &[&body])) {
                        Ok(Request { operation: Operation::Write { data, .. }, .. }) => {
                            assert!(data.len() <= len);
                        }
                        Ok(Request { operation: Operation::BatchForget(list), .. }) => {
                            assert!(list.count() * 16 <= len);
                        }
                        Ok(_) => {}
                        Err(error) => {
                            assert_eq!(error, Malformed::Request { unique: UNIQUE, opcode: code })
                        }
                    }
                }
            }
        }
        let message = message(opcode::READLINK, &[]);
        for len in 0..message.len() {
            assert_eq!(decoded(&message[..len]).err(), Some(Malformed::Header));
        }
        assert_eq!(decoded(&[&message[..], b"x"].concat()).err(), Some(Malformed::Header));
    }
}
