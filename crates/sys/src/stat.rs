//! The structures that stat(2), statx(2) and statfs(2) write, as bytes for a client's memory.
//!
//! What does not live here: what is in them.

use std::io;
use std::mem::{size_of, zeroed};
use std::path::Path;
use std::time::Duration;

/// What `stat` shows of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// `st_nlink`.
    pub links: u32,
    /// `st_uid`.
    pub uid: u32,
    /// `st_gid`.
    pub gid: u32,
    /// `st_rdev`: major and minor of a device.
    pub number: (u32, u32),
    /// `st_size`, in bytes.
    pub size: u64,
    /// `st_blksize`, in bytes.
    pub block_size: u32,
    /// All times, since 1970.
    pub time: Duration,
}

/// `struct stat` of this architecture.
pub fn stat_bytes(status: &FileStatus) -> Vec<u8> {
    // SAFETY: struct stat is integers, for which zero is a value.
    let mut raw: libc::stat = unsafe { zeroed() };
    raw.st_dev = status.device;
    raw.st_ino = status.inode;
    raw.st_mode = status.mode;
    raw.st_nlink = status.links.into();
    raw.st_uid = status.uid;
    raw.st_gid = status.gid;
    raw.st_rdev = libc::makedev(status.number.0, status.number.1);
    raw.st_size = status.size.cast_signed();
    raw.st_blksize = status.block_size.cast_signed().into();
    raw.st_blocks = status.size.div_ceil(512).cast_signed();
    let (seconds, nanoseconds) = (status.time.as_secs().cast_signed(), status.time.subsec_nanos());
    (raw.st_atime, raw.st_mtime, raw.st_ctime) = (seconds, seconds, seconds);
    let nanoseconds = nanoseconds.into();
    (raw.st_atime_nsec, raw.st_mtime_nsec, raw.st_ctime_nsec) =
        (nanoseconds, nanoseconds, nanoseconds);
    bytes(&raw)
}

/// `struct statx`, with `STATX_BASIC_STATS`.
pub fn statx_bytes(status: &FileStatus) -> Vec<u8> {
    // SAFETY: struct statx is integers, for which zero is a value.
    let mut raw: libc::statx = unsafe { zeroed() };
    raw.stx_mask = libc::STATX_BASIC_STATS;
    raw.stx_blksize = status.block_size;
    raw.stx_nlink = status.links;
    raw.stx_uid = status.uid;
    raw.stx_gid = status.gid;
    // The mode has 16 bits there.
    raw.stx_mode = status.mode as u16;
    raw.stx_ino = status.inode;
    raw.stx_size = status.size;
    raw.stx_blocks = status.size.div_ceil(512);
    for time in [&mut raw.stx_atime, &mut raw.stx_mtime, &mut raw.stx_ctime] {
        time.tv_sec = status.time.as_secs().cast_signed();
        time.tv_nsec = status.time.subsec_nanos();
    }
    (raw.stx_rdev_major, raw.stx_rdev_minor) = status.number;
    raw.stx_dev_major = libc::major(status.device);
    raw.stx_dev_minor = libc::minor(status.device);
    bytes(&raw)
}

/// `struct statfs` of what is at a path here.
///
/// # Errors
/// Those of statfs(2).
pub fn statfs_bytes(path: &Path) -> io::Result<Vec<u8>> {
    Ok(bytes(&rustix::fs::statfs(path)?))
}

/// The bytes of a structure of the kernel's interface.
fn bytes<T: Copy>(raw: &T) -> Vec<u8> {
    // SAFETY: the callers pass a structure of integers that was made by zeroed() or written as a
    // whole by the kernel, so its padding, too, is initialised; it is live for the copy.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(raw).cast::<u8>(), size_of::<T>()) }
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_kernels() {
        let status = FileStatus {
            device: libc::makedev(0, 44),
            inode: 7,
            mode: libc::S_IFCHR | 0o666,
            links: 1,
            uid: 0,
            gid: 0,
            number: (81, 0),
            size: 0,
            block_size: 4096,
            time: Duration::from_secs(1),
        };
        assert_eq!(stat_bytes(&status).len(), size_of::<libc::stat>());
        let statx = statx_bytes(&status);
        assert_eq!(statx.len(), 256);
        assert_eq!(statx[0x80..0x84], 81u32.to_ne_bytes(), "stx_rdev_major");
    }
}
