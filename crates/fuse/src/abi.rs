//! The structures and numbers of `linux/fuse.h`, protocol 7.31 to 7.38, with the kernel's names.
//!
//! Only what this crate sends or receives is here; later protocols only append.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub(crate) const KERNEL_VERSION: u32 = 7;
/// The oldest protocol spoken: Linux 5.4.
pub(crate) const MINOR_MIN: u32 = 31;
/// The newest protocol spoken: Linux 6.2. The kernel uses the smaller of both sides.
pub(crate) const MINOR_MAX: u32 = 38;

pub(crate) const ASYNC_READ: u32 = 1 << 0;
pub(crate) const ATOMIC_O_TRUNC: u32 = 1 << 3;
pub(crate) const BIG_WRITES: u32 = 1 << 5;
pub(crate) const DO_READDIRPLUS: u32 = 1 << 13;
pub(crate) const PARALLEL_DIROPS: u32 = 1 << 18;
pub(crate) const MAX_PAGES: u32 = 1 << 22;

pub(crate) const FATTR_MODE: u32 = 1 << 0;
pub(crate) const FATTR_UID: u32 = 1 << 1;
pub(crate) const FATTR_GID: u32 = 1 << 2;
pub(crate) const FATTR_SIZE: u32 = 1 << 3;
pub(crate) const FATTR_FH: u32 = 1 << 6;
pub(crate) const GETATTR_FH: u32 = 1 << 0;
pub(crate) const POLL_SCHEDULE_NOTIFY: u32 = 1 << 0;
pub(crate) const WRITE_CACHE: u32 = 1 << 0;
pub(crate) const FSYNC_FDATASYNC: u32 = 1 << 0;

pub(crate) const NOTIFY_POLL: i32 = 1;
pub(crate) const NOTIFY_INVAL_INODE: i32 = 2;
pub(crate) const NOTIFY_INVAL_ENTRY: i32 = 3;

pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const POLL: u32 = 40;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
    pub(crate) const TMPFILE: u32 = 51;
}

/// Declares structures that the kernel writes and we read.
macro_rules! received {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $kind),* }
    )*};
}

/// Declares structures that we write and the kernel reads.
macro_rules! sent {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $kind),* }
    )*};
}

received! {
    InHeader {
        len: u32, opcode: u32, unique: u64, nodeid: u64,
        uid: u32, gid: u32, pid: u32, total_extlen: u16, padding: u16,
    }
    /// Without the `flags2` that 7.36 appends: no flag of the upper half is wanted.
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    ForgetIn { nlookup: u64 }
    BatchForgetIn { count: u32, dummy: u32 }
    ForgetOne { nodeid: u64, nlookup: u64 }
    GetattrIn { flags: u32, dummy: u32, fh: u64 }
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64,
        atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32, ctimensec: u32,
        mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    OpenIn { flags: u32, open_flags: u32 }
    ReadIn {
        fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64,
        flags: u32, padding: u32,
    }
    WriteIn {
        fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64,
        flags: u32, padding: u32,
    }
    FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64 }
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    FsyncIn { fh: u64, flags: u32, padding: u32 }
    PollIn { fh: u64, kh: u64, flags: u32, events: u32 }
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    LseekIn { fh: u64, offset: u64, whence: u32, padding: u32 }
    InterruptIn { unique: u64 }
    AccessIn { mask: u32, padding: u32 }
    GetxattrIn { size: u32, padding: u32 }
}

sent! {
    OutHeader { len: u32, error: i32, unique: u64 }
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32,
        max_background: u16, congestion_threshold: u16, max_write: u32, time_gran: u32,
        max_pages: u16, map_alignment: u16, flags2: u32, unused: [u32; 7],
    }
    AttrRaw {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32,
        uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64,
        entry_valid_nsec: u32, attr_valid_nsec: u32, attr: AttrRaw,
    }
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: AttrRaw }
    OpenOut { fh: u64, open_flags: u32, padding: u32 }
    WriteOut { size: u32, padding: u32 }
    PollOut { revents: u32, padding: u32 }
    LseekOut { offset: u64 }
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    GetxattrOut { size: u32, padding: u32 }
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64,
        bsize: u32, namelen: u32, frsize: u32, padding: u32, spare: [u32; 6],
    }
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32 }
    NotifyPollWakeupOut { kh: u64 }
    NotifyInvalInodeOut { ino: u64, off: i64, len: i64 }
    NotifyInvalEntryOut { parent: u64, namelen: u32, flags: u32 }
}

// The kernel refuses messages of any other length.
const _: () = {
    assert!(size_of::<InHeader>() == 40);
    assert!(size_of::<SetattrIn>() == 88);
    assert!(size_of::<WriteIn>() == 40);
    assert!(size_of::<IoctlIn>() == 32);
    assert!(size_of::<InitOut>() == 64);
    assert!(size_of::<AttrRaw>() == 88);
    assert!(size_of::<EntryOut>() == 128);
    assert!(size_of::<AttrOut>() == 104);
    assert!(size_of::<StatfsOut>() == 80);
    assert!(size_of::<Dirent>() == 24);
};
