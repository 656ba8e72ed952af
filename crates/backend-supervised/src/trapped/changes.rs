//! Calls that would change what stands at a path, or ask of it what a device has not: at a
//! device's path they fail, as on a file system that cannot do it.

use devmap_driver::Errno;
use devmap_sys::arch::nr;

/// Where such a call has a path, and how it fails for a device.
#[derive(Clone, Copy)]
pub(super) struct Change {
    /// The argument that says from which directory; `None`: from the current one.
    pub(super) directory: Option<usize>,
    /// The argument with the path's address.
    pub(super) path: usize,
    pub(super) follow: bool,
    pub(super) errno: Errno,
}

impl Change {
    /// How the call of this number fails for a regular file: as where one is mounted.
    pub(super) fn of_regular(&self, call: u32) -> i32 {
        match self.errno {
            Errno::EROFS if call == nr::LINKAT || Some(call) == nr::LINK => libc::EXDEV,
            Errno::EROFS => libc::EBUSY,
            errno => errno.raw(),
        }
    }
}

/// Calls that all architectures have. Two lines of one call are two paths of it; of the
/// flags that say whether to follow a link, the usual is taken.
const CALLS: [(u32, Change); 28] = [
    (nr::TRUNCATE, at(None, 0, true, Errno::EINVAL)),
    (nr::EXECVE, at(None, 0, true, Errno::EACCES)),
    (nr::EXECVEAT, at(Some(0), 1, true, Errno::EACCES)),
    (nr::CHDIR, at(None, 0, true, Errno::ENOTDIR)),
    (nr::CHROOT, at(None, 0, true, Errno::ENOTDIR)),
    (nr::ACCT, at(None, 0, true, Errno::EACCES)),
    (nr::FCHMODAT, at(Some(0), 1, true, Errno::EPERM)),
    (nr::FCHMODAT2, at(Some(0), 1, true, Errno::EPERM)),
    (nr::FCHOWNAT, at(Some(0), 1, true, Errno::EPERM)),
    (nr::UTIMENSAT, at(Some(0), 1, true, Errno::EPERM)),
    (nr::GETXATTR, at(None, 0, true, Errno::EOPNOTSUPP)),
    (nr::LGETXATTR, at(None, 0, false, Errno::EOPNOTSUPP)),
    (nr::LISTXATTR, at(None, 0, true, Errno::EOPNOTSUPP)),
    (nr::LLISTXATTR, at(None, 0, false, Errno::EOPNOTSUPP)),
    (nr::SETXATTR, at(None, 0, true, Errno::EOPNOTSUPP)),
    (nr::LSETXATTR, at(None, 0, false, Errno::EOPNOTSUPP)),
    (nr::REMOVEXATTR, at(None, 0, true, Errno::EOPNOTSUPP)),
    (nr::LREMOVEXATTR, at(None, 0, false, Errno::EOPNOTSUPP)),
    (nr::UNLINKAT, at(Some(0), 1, false, Errno::EROFS)),
    (nr::RENAMEAT, at(Some(0), 1, false, Errno::EROFS)),
    (nr::RENAMEAT, at(Some(2), 3, false, Errno::EROFS)),
    (nr::RENAMEAT2, at(Some(0), 1, false, Errno::EROFS)),
    (nr::RENAMEAT2, at(Some(2), 3, false, Errno::EROFS)),
    (nr::LINKAT, at(Some(0), 1, false, Errno::EROFS)),
    (nr::LINKAT, at(Some(2), 3, false, Errno::EEXIST)),
    (nr::SYMLINKAT, at(Some(1), 2, false, Errno::EEXIST)),
    (nr::MKDIRAT, at(Some(0), 1, false, Errno::EEXIST)),
    (nr::MKNODAT, at(Some(0), 1, false, Errno::EEXIST)),
];

/// Calls that newer architectures lack.
const OLD_CALLS: [(Option<u32>, Change); 15] = [
    (nr::CHMOD, at(None, 0, true, Errno::EPERM)),
    (nr::CHOWN, at(None, 0, true, Errno::EPERM)),
    (nr::LCHOWN, at(None, 0, false, Errno::EPERM)),
    (nr::UTIME, at(None, 0, true, Errno::EPERM)),
    (nr::UTIMES, at(None, 0, true, Errno::EPERM)),
    (nr::FUTIMESAT, at(Some(0), 1, true, Errno::EPERM)),
    (nr::UNLINK, at(None, 0, false, Errno::EROFS)),
    (nr::RENAME, at(None, 0, false, Errno::EROFS)),
    (nr::RENAME, at(None, 1, false, Errno::EROFS)),
    (nr::LINK, at(None, 0, false, Errno::EROFS)),
    (nr::LINK, at(None, 1, false, Errno::EEXIST)),
    (nr::SYMLINK, at(None, 1, false, Errno::EEXIST)),
    (nr::RMDIR, at(None, 0, false, Errno::ENOTDIR)),
    (nr::MKDIR, at(None, 0, false, Errno::EEXIST)),
    (nr::MKNOD, at(None, 0, false, Errno::EEXIST)),
];

const fn at(directory: Option<usize>, path: usize, follow: bool, errno: Errno) -> Change {
    Change { directory, path, follow, errno }
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = (u32, Change)> {
    let old = OLD_CALLS.into_iter().filter_map(|(nr, change)| Some((nr?, change)));
    CALLS.into_iter().chain(old)
}
