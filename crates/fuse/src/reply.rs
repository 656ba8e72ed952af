//! What the server answers: attributes, directory entries, listings. No I/O here.

use crate::abi;
use std::time::Duration;
use zerocopy::IntoBytes;

/// What `stat` shows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number shown to programs; it need not be the node's identity.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Type and permissions (`S_IFREG | 0o644`).
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner, in the user name space of the mount.
    pub uid: u32,
    /// Group, in the user name space of the mount.
    pub gid: u32,
    /// For device nodes: [`device_number`].
    pub rdev: u32,
    /// Preferred size of input and output, in bytes.
    pub blksize: u32,
    /// Last access, since 1970.
    pub atime: Duration,
    /// Last change of the content, since 1970.
    pub mtime: Duration,
    /// Last change of the attributes, since 1970.
    pub ctime: Duration,
}

impl Attr {
    /// A node of size 0 with one name (a directory: two) that belongs to root.
    pub fn new(ino: u64, mode: u32) -> Attr {
        let nlink = if mode & 0o170000 == 0o040000 { 2 } else { 1 };
        Attr {
            ino,
            size: 0,
            mode,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            atime: Duration::ZERO,
            mtime: Duration::ZERO,
            ctime: Duration::ZERO,
        }
    }

    pub(crate) fn raw(&self) -> abi::AttrRaw {
        abi::AttrRaw {
            ino: self.ino,
            size: self.size,
            blocks: self.size.div_ceil(512),
            atime: self.atime.as_secs(),
            mtime: self.mtime.as_secs(),
            ctime: self.ctime.as_secs(),
            atimensec: self.atime.subsec_nanos(),
            mtimensec: self.mtime.subsec_nanos(),
            ctimensec: self.ctime.subsec_nanos(),
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            blksize: self.blksize,
            flags: 0,
        }
    }
}

/// The answer to a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node by which the kernel will ask from now on. 0 says that there is no such name, and
    /// lets the kernel remember that for `entry_valid`.
    pub nodeid: u64,
    /// Together with `nodeid` unique for ever; 0 if node numbers are never used again.
    pub generation: u64,
    /// How long the kernel may keep the name without asking again; zero: ask every time.
    pub entry_valid: Duration,
    /// How long the kernel may keep the attributes.
    pub attr_valid: Duration,
    /// What `stat` shows.
    pub attr: Attr,
}

impl Entry {
    pub(crate) fn raw(&self) -> abi::EntryOut {
        abi::EntryOut {
            nodeid: self.nodeid,
            generation: self.generation,
            entry_valid: seconds(self.entry_valid),
            attr_valid: seconds(self.attr_valid),
            entry_valid_nsec: self.entry_valid.subsec_nanos(),
            attr_valid_nsec: self.attr_valid.subsec_nanos(),
            attr: self.attr.raw(),
        }
    }
}

/// The seconds of a validity, at most 68 years: the kernel adds them to its clock.
pub(crate) fn seconds(valid: Duration) -> u64 {
    valid.as_secs().min(u64::from(u32::MAX >> 1))
}

/// The numbers of a device node as [`Attr::rdev`] wants them (the kernel's `new_encode_dev`:
/// 12 bits of major, 20 bits of minor).
pub fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

/// What `statfs` shows. The default says: no space, no files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statfs {
    /// Size of the file system in blocks.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Number of nodes.
    pub files: u64,
    /// Bytes of a block.
    pub bsize: u32,
    /// Longest name, in bytes.
    pub namelen: u32,
}

impl Default for Statfs {
    fn default() -> Statfs {
        Statfs { blocks: 0, bfree: 0, files: 0, bsize: 4096, namelen: 255 }
    }
}

impl Statfs {
    pub(crate) fn raw(&self) -> abi::StatfsOut {
        abi::StatfsOut {
            blocks: self.blocks,
            bfree: self.bfree,
            bavail: self.bfree,
            files: self.files,
            bsize: self.bsize,
            namelen: self.namelen,
            frsize: self.bsize,
            ..Default::default()
        }
    }
}

/// The answer to a `FUSE_READDIR` or `FUSE_READDIRPLUS`, filled entry by entry until it is full.
#[derive(Clone, Debug)]
pub struct DirBuffer {
    bytes: Vec<u8>,
    limit: usize,
}

impl DirBuffer {
    /// An empty answer of at most `size` bytes, as the request says.
    pub fn new(size: u32) -> DirBuffer {
        DirBuffer { bytes: Vec::new(), limit: size as usize }
    }

    /// Adds an entry; false when it does not fit any more, and the answer is to be sent.
    ///
    /// `next` is the offset by which the kernel will ask for the entry after this one; it must
    /// not be 0. `mode` has the type of the node (`S_IFDIR`, ...); its permissions do not count.
    #[must_use]
    pub fn push(&mut self, ino: u64, next: u64, mode: u32, name: &[u8]) -> bool {
        self.append(&[], ino, next, mode, name)
    }

    /// Adds an entry to the answer to a `FUSE_READDIRPLUS`, as [`DirBuffer::push`].
    ///
    /// `entry` is what a lookup of the name would answer, and counts one reference to its node
    /// just so, when this gives true. With `None`, and for `.` and `..`, the kernel takes the
    /// name alone and looks it up when it needs to.
    #[must_use]
    pub fn push_plus(
        &mut self,
        entry: Option<&Entry>,
        ino: u64,
        next: u64,
        mode: u32,
        name: &[u8],
    ) -> bool {
        let entry = entry.map_or_else(abi::EntryOut::default, Entry::raw);
        self.append(entry.as_bytes(), ino, next, mode, name)
    }

    fn append(&mut self, entry: &[u8], ino: u64, next: u64, mode: u32, name: &[u8]) -> bool {
        let Ok(namelen) = u32::try_from(name.len()) else { return false };
        let end = self.bytes.len() + entry.len() + size_of::<abi::Dirent>() + name.len();
        let padded = end.next_multiple_of(8);
        if padded > self.limit {
            return false;
        }
        let kind = (mode & 0o170000) >> 12;
        let head = abi::Dirent { ino, off: next, namelen, kind };
        self.bytes.extend_from_slice(entry);
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(padded, 0);
        true
    }

    /// The bytes to answer with.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_the_kernels() {
        assert_eq!(device_number(81, 0), 0x5100);
        assert_eq!(device_number(1, 3), 0x103);
        // Minors past 255 lie above the major.
        assert_eq!(device_number(0xfff, 0xfffff), u32::MAX);
        assert_eq!(device_number(4, 0x100), 0x10_0400);
    }

    #[test]
    fn a_validity_fits_the_kernels_clock() {
        assert_eq!(seconds(Duration::from_millis(1500)), 1);
        assert_eq!(seconds(Duration::MAX), 0x7fff_ffff);
        let attr = Attr::new(1, 0o040755);
        let entry = Entry {
            nodeid: 1,
            generation: 0,
            entry_valid: Duration::from_millis(1500),
            attr_valid: Duration::ZERO,
            attr,
        };
        let raw = entry.raw();
        assert_eq!((raw.entry_valid, raw.entry_valid_nsec), (1, 500_000_000));
        assert_eq!((raw.attr_valid, raw.attr_valid_nsec), (0, 0));
    }

    #[test]
    fn a_listing_is_padded_and_never_longer_than_asked() {
        // 24 bytes of header, the name, padding to 8.
        let mut list = DirBuffer::new(64);
        assert!(list.push(9, 1, 0o020666, b"null"));
        assert_eq!(list.as_bytes().len(), 32);
        assert_eq!(&list.as_bytes()[..8], 9u64.to_ne_bytes());
        assert_eq!(&list.as_bytes()[16..20], 4u32.to_ne_bytes());
        // DT_CHR
        assert_eq!(&list.as_bytes()[20..24], 2u32.to_ne_bytes());
        assert_eq!(&list.as_bytes()[24..], b"null\0\0\0\0");
        assert!(!list.push(9, 2, 0o020666, b"ninebytes"));
        assert_eq!(list.as_bytes().len(), 32);
        assert!(list.push(9, 2, 0o020666, b"eightbyt"));
        assert_eq!(list.as_bytes().len(), 64);
        assert!(!list.push(9, 3, 0, b""));

        let mut list = DirBuffer::new(4096);
        assert!(list.push_plus(None, 9, 1, 0o020666, b"null"));
        assert_eq!(list.as_bytes().len(), 128 + 32);
        assert_eq!(list.as_bytes()[..128], [0; 128]);
    }
}
