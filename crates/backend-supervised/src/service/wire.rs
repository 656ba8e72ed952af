//! What a joiner and a daemon say to each other. Each message is one packet.
//!
//! What does not live here: sending (`socket`), and what a message means to a driver.

use std::path::PathBuf;

use devmap_driver::{
    AreaFlags, Errno, Kind, Metadata, NewArea, Number, OpenFlags, PageSize, Protection, SeekFrom,
    Sharing,
};
use serde::{Deserialize, Serialize};

use crate::sysfs::ClassEntry;

/// Both sides must have the same.
pub(super) const VERSION: u32 = 2;

/// The most bytes of memory that one message carries: the largest page there is.
pub(super) const CHUNK: usize = 64 << 10;

/// The longest message: a chunk, and what stands around it.
pub(super) const LONGEST: usize = CHUNK + 1024;

/// The most descriptors of a message: two for each memory of a plan.
pub(super) const MOST_FILES: usize = 2 * devmap_driver::MAX_EXTENTS;

/// What a joiner says on the control connection.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Control {
    /// The first message.
    Hello { version: u32 },
    /// A new lane, whose socket comes along.
    Lane { lane: u32 },
    /// The caller of this call has a signal.
    Interrupt { lane: u32, call: u32 },
    /// The answer to a `Changed`, of which there may be several: in their order.
    Renewed,
}

/// What a daemon says on the control connection.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum News {
    /// The answer to `Hello`.
    Welcome { version: u32, devices: Vec<DeviceInfo> },
    /// The joiner is not served, and why.
    Refused { why: String },
    /// Something has changed for those who poll this open file.
    Wake { open: u64 },
    /// Others have changed filled pages of this device, or a regular file, of which the joiner has
    /// pages. Answered when it has them no more.
    Changed { device: u32 },
}

/// A device, as its joiners see it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DeviceInfo {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) metadata: WireMetadata,
    pub(super) class: Option<ClassEntry>,
}

/// [`Metadata`], with a number in any case.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WireMetadata {
    kind: WireKind,
    mode: u16,
    stream: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum WireKind {
    Character { major: u32, minor: u32 },
    Regular { size: u64 },
}

impl WireMetadata {
    pub(super) fn new(metadata: &Metadata, (major, minor): (u32, u32)) -> WireMetadata {
        let kind = match metadata.kind {
            Kind::Character(_) => WireKind::Character { major, minor },
            Kind::Regular { size } => WireKind::Regular { size },
        };
        WireMetadata { kind, mode: metadata.mode, stream: metadata.stream }
    }

    pub(super) fn metadata(self) -> Metadata {
        let kind = match self.kind {
            WireKind::Character { major, minor } => Kind::Character(Number::Fixed { major, minor }),
            WireKind::Regular { size } => Kind::Regular { size },
        };
        Metadata { kind, mode: self.mode, stream: self.stream }
    }
}

/// [`OpenFlags`] in one byte.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WireFlags(u8);

impl From<OpenFlags> for WireFlags {
    fn from(flags: OpenFlags) -> WireFlags {
        let OpenFlags { read, write, nonblocking, append } = flags;
        let bits = [read, write, nonblocking, append];
        WireFlags(bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)))
    }
}

impl From<WireFlags> for OpenFlags {
    fn from(WireFlags(byte): WireFlags) -> OpenFlags {
        let bit = |at: u8| byte >> at & 1 != 0;
        OpenFlags { read: bit(0), write: bit(1), nonblocking: bit(2), append: bit(3) }
    }
}

/// [`NewArea`], without the page size, which the machine has.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WireArea {
    first_page: u64,
    pages: u64,
    read: bool,
    write: bool,
    execute: bool,
    shared: bool,
}

impl From<&NewArea> for WireArea {
    fn from(area: &NewArea) -> WireArea {
        let Protection { read, write, execute } = area.protection();
        WireArea {
            first_page: area.first_page(),
            pages: area.pages(),
            read,
            write,
            execute,
            shared: area.sharing() == Sharing::Shared,
        }
    }
}

impl WireArea {
    pub(super) fn area(self, page_size: PageSize) -> Option<NewArea> {
        let WireArea { first_page, pages, read, write, execute, shared } = self;
        let protection = Protection { read, write, execute };
        let sharing = if shared { Sharing::Shared } else { Sharing::Private };
        NewArea::new(page_size, first_page, pages, protection, sharing)
    }
}

/// [`SeekFrom`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum WireSeek {
    Start(i64),
    Current { position: u64, by: i64 },
    End(i64),
}

impl From<SeekFrom> for WireSeek {
    fn from(seek: SeekFrom) -> WireSeek {
        match seek {
            SeekFrom::Start(by) => WireSeek::Start(by),
            SeekFrom::Current { position, by } => WireSeek::Current { position, by },
            SeekFrom::End(by) => WireSeek::End(by),
        }
    }
}

impl From<WireSeek> for SeekFrom {
    fn from(seek: WireSeek) -> SeekFrom {
        match seek {
            WireSeek::Start(by) => SeekFrom::Start(by),
            WireSeek::Current { position, by } => SeekFrom::Current { position, by },
            WireSeek::End(by) => SeekFrom::End(by),
        }
    }
}

/// A call of a driver's method.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request<'a> {
    /// Counts the calls of a lane, for interruptions.
    pub(super) call: u32,
    #[serde(borrow)]
    pub(super) method: Method<'a>,
}

/// Which method, and its arguments. `open` is the daemon's number of an open file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Method<'a> {
    Open {
        device: u32,
        flags: WireFlags,
        pid: u32,
    },
    /// The last descriptor is closed: maps alone hold its memory from here on.
    Close {
        open: u64,
    },
    /// Nothing is left of it in the joiner.
    Release {
        open: u64,
    },
    Mmap {
        open: u64,
        area: WireArea,
    },
    Fault {
        open: u64,
        page: u64,
        write: bool,
    },
    Read {
        open: u64,
        place: WirePlace,
        copies: Copies,
    },
    Write {
        open: u64,
        place: WirePlace,
        /// The first bytes, if they could be read.
        head: &'a [u8],
        copies: Copies,
    },
    Ioctl {
        open: u64,
        command: u32,
        argument: u64,
        /// What the argument points to, if that goes in and could be read.
        head: &'a [u8],
        copies: Copies,
    },
    Seek {
        open: u64,
        to: WireSeek,
    },
    Poll {
        open: u64,
        /// The events that are asked for, if that is known.
        wanted: Option<u32>,
    },
    Fsync {
        open: u64,
        all: bool,
    },
    WriteBack {
        device: u32,
        offset: u64,
        bytes: &'a [u8],
    },
    Truncate {
        device: u32,
        size: u64,
    },
    /// Whether others have changed pages of a regular file that the joiner may have. It is told
    /// once.
    TakeChanged {
        device: u32,
    },
    Metadata {
        device: u32,
    },
}

/// Whether it is a position in a file, or the end of what is there.
pub(super) fn is_position(position: u64) -> bool {
    i64::try_from(position).is_ok()
}

/// What a read or a write is about.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WirePlace {
    pub(super) position: u64,
    pub(super) len: u64,
    /// The flags of the open file now, where they are known already.
    pub(super) flags: Option<WireFlags>,
}

/// How bytes come into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Copies {
    /// They cannot fail: the buffer is the joiner's own.
    Buffered,
    /// They may: the driver has to hear of it.
    Checked,
}

/// What a daemon says on a lane during a call.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Step<'a> {
    /// The driver waits, perhaps for long.
    Waiting,
    /// Before the end: pollers of these open files are to be told now, and of as many wakes
    /// on the control connection: the call may have caused them.
    Woken { opens: Vec<u64>, heard: u64 },
    /// It wants bytes of the caller. Answered.
    CopyIn { address: u64, len: u32 },
    /// It has bytes for the caller. Answered if it is `Checked`.
    CopyOut { address: u64, bytes: &'a [u8], copies: Copies },
    /// It wants the flags of the open file now. Answered.
    Flags,
    /// The end, and the last bytes for the caller.
    Done {
        result: Result<u64, WireErrno>,
        address: u64,
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// The end of an `Mmap`: its memories come along, see [`WireMemory`].
    Planned { extents: Vec<WireExtent>, flags: WireAreaFlags, memories: Vec<WireMemory> },
    /// The end of a `Fault`: the page's bytes.
    Filled { bytes: &'a [u8] },
    /// The end of a `Fault`: this page of the memory that comes along.
    Supplied { page: u64, memory: WireMemory },
    /// The end of a `Metadata`.
    Metadata { metadata: WireMetadata },
    /// There are too many lanes: this one serves nothing.
    Refused,
}

/// What a joiner says on a lane during a call.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer<'a> {
    Copied(#[serde(borrow)] Result<&'a [u8], WireErrno>),
    Wrote(Result<(), WireErrno>),
    Flags(WireFlags),
}

/// A memory: two descriptors come with it. The first is the token by which it is mapped;
/// the second asks for the token's lock.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WireMemory {
    /// The token's number, that is the byte of its lock.
    pub(super) token: u64,
}

/// An extent of a plan.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WireExtent {
    pub(super) at: u64,
    pub(super) pages: u64,
    /// Which memory of the message and its first page; `None` to fault.
    pub(super) remap: Option<(u32, u64)>,
}

/// [`AreaFlags`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WireAreaFlags {
    io: bool,
    dontexpand: bool,
    dontdump: bool,
    reserved: bool,
}

impl From<AreaFlags> for WireAreaFlags {
    fn from(flags: AreaFlags) -> WireAreaFlags {
        WireAreaFlags {
            io: flags.contains(AreaFlags::IO),
            dontexpand: flags.contains(AreaFlags::DONTEXPAND),
            dontdump: flags.contains(AreaFlags::DONTDUMP),
            reserved: flags.contains(AreaFlags::RESERVED),
        }
    }
}

impl From<WireAreaFlags> for AreaFlags {
    fn from(flags: WireAreaFlags) -> AreaFlags {
        let WireAreaFlags { io, dontexpand, dontdump, reserved } = flags;
        let set = [
            (io, AreaFlags::IO),
            (dontexpand, AreaFlags::DONTEXPAND),
            (dontdump, AreaFlags::DONTDUMP),
            (reserved, AreaFlags::RESERVED),
        ];
        set.iter().filter(|(is, _)| *is).fold(AreaFlags::NONE, |all, (_, flag)| all.union(*flag))
    }
}

/// [`Errno`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct WireErrno(u16);

impl From<Errno> for WireErrno {
    fn from(errno: Errno) -> WireErrno {
        WireErrno(errno.raw() as u16)
    }
}

impl From<WireErrno> for Errno {
    /// A number that is none is an error all the same.
    fn from(WireErrno(number): WireErrno) -> Errno {
        Errno::from_raw(number.into()).unwrap_or(Errno::EIO)
    }
}

/// Puts a message into `buffer`, which need not be empty.
pub(super) fn encode<'b>(message: &impl Serialize, buffer: &'b mut Vec<u8>) -> &'b [u8] {
    buffer.clear();
    let written = postcard::to_extend(message, std::mem::take(buffer));
    // Only running out of space is an error, and a vector does not.
    *buffer = written.expect("a message of ours can be written");
    buffer
}

/// Takes a message apart; `None` unless it is a whole one and nothing else.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let flags = OpenFlags { read: true, write: false, nonblocking: true, append: false };
        let copies = Copies::Buffered;
        let place = WirePlace { position: 1 << 40, len: 3, flags: None };
        let method = Method::Write { open: 7, place, head: b"abc", copies };
        let mut buffer = vec![1, 2, 3];
        let bytes = encode(&Request { call: 9, method }, &mut buffer);
        let request: Request<'_> = decode(bytes).expect("whole");
        let Method::Write { open: 7, head: b"abc", .. } = request.method else {
            panic!("{request:?}");
        };
        assert_eq!(OpenFlags::from(WireFlags::from(flags)), flags);
        let plain = AreaFlags::DONTEXPAND.union(AreaFlags::DONTDUMP);
        for set in [AreaFlags::NONE, AreaFlags::IO, plain, AreaFlags::RESERVED] {
            assert_eq!(AreaFlags::from(WireAreaFlags::from(set)), set);
        }
    }

    #[test]
    fn what_is_no_message_is_none() {
        assert!(decode::<Request<'_>>(&[]).is_none());
        let mut buffer = Vec::new();
        let whole = encode(
            &Request { call: 1, method: Method::Poll { open: 300, wanted: None } },
            &mut buffer,
        );
        for len in 0..whole.len() {
            assert!(decode::<Request<'_>>(&whole[..len]).is_none(), "{len} bytes of it");
        }
        assert!(decode::<Request<'_>>(&[whole, &[0]].concat()).is_none(), "a byte more");
        // A length of 2^63 with nothing behind it allocates nothing.
        let huge = [&[0, 0][..], &[0xff; 9], &[0x7f]].concat();
        assert!(decode::<News>(&huge).is_none());
    }

    /// Any bytes at all, and any message with some bytes changed: a panic would fail this.
    #[test]
    fn no_bytes_harm() {
        let mut seed = 1_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize
        };
        let mut buffer = Vec::new();
        for _ in 0..20_000 {
            let copies = Copies::Checked;
            let place = WirePlace { position: 0, len: 9, flags: None };
            let method = match random() % 3 {
                0 => Method::Read { open: random() as u64, place, copies },
                1 => Method::Write { open: 0, place, head: b"head", copies },
                _ => Method::Seek { open: 3, to: WireSeek::Current { position: 5, by: -1 } },
            };
            let mut bytes = encode(&Request { call: 4, method }, &mut buffer).to_vec();
            for _ in 0..1 + random() % 4 {
                let at = random() % bytes.len();
                bytes[at] = random() as u8;
            }
            let _ = decode::<Request<'_>>(&bytes);
            let _ = decode::<Step<'_>>(&bytes);
            let _ = decode::<Answer<'_>>(&bytes);
            let _ = decode::<Control>(&bytes);
            let _ = decode::<News>(&bytes);
        }
    }
}
