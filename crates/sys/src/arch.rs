//! The one place that knows the processor: register names, system call
//! numbers, how a system call instruction looks, how to copy shared memory.
//!
//! What does not live here: how registers travel (`ptrace`), what a filter
//! says (`seccomp`).

/// The numbers that every architecture has.
macro_rules! common_numbers {
    () => {
        pub const OPENAT: u32 = libc::SYS_openat as u32;
        pub const OPENAT2: u32 = libc::SYS_openat2 as u32;
        pub const CLOSE: u32 = libc::SYS_close as u32;
        pub const CLOSE_RANGE: u32 = libc::SYS_close_range as u32;
        pub const READ: u32 = libc::SYS_read as u32;
        pub const GETDENTS64: u32 = libc::SYS_getdents64 as u32;
        pub const WRITE: u32 = libc::SYS_write as u32;
        pub const PREAD64: u32 = libc::SYS_pread64 as u32;
        pub const PWRITE64: u32 = libc::SYS_pwrite64 as u32;
        pub const READV: u32 = libc::SYS_readv as u32;
        pub const WRITEV: u32 = libc::SYS_writev as u32;
        pub const PREADV: u32 = libc::SYS_preadv as u32;
        pub const PWRITEV: u32 = libc::SYS_pwritev as u32;
        pub const PREADV2: u32 = libc::SYS_preadv2 as u32;
        pub const PWRITEV2: u32 = libc::SYS_pwritev2 as u32;
        pub const LSEEK: u32 = libc::SYS_lseek as u32;
        pub const IOCTL: u32 = libc::SYS_ioctl as u32;
        pub const FCNTL: u32 = libc::SYS_fcntl as u32;
        pub const FLOCK: u32 = libc::SYS_flock as u32;
        pub const FSYNC: u32 = libc::SYS_fsync as u32;
        pub const FDATASYNC: u32 = libc::SYS_fdatasync as u32;
        pub const SYNC: u32 = libc::SYS_sync as u32;
        pub const SYNCFS: u32 = libc::SYS_syncfs as u32;
        pub const SYNC_FILE_RANGE: u32 = libc::SYS_sync_file_range as u32;
        pub const FTRUNCATE: u32 = libc::SYS_ftruncate as u32;
        pub const FALLOCATE: u32 = libc::SYS_fallocate as u32;
        pub const FSTAT: u32 = libc::SYS_fstat as u32;
        pub const BIND: u32 = libc::SYS_bind as u32;
        pub const STATFS: u32 = libc::SYS_statfs as u32;
        pub const FSTATFS: u32 = libc::SYS_fstatfs as u32;
        pub const NEWFSTATAT: u32 = libc::SYS_newfstatat as u32;
        pub const STATX: u32 = libc::SYS_statx as u32;
        pub const FACCESSAT: u32 = libc::SYS_faccessat as u32;
        pub const FACCESSAT2: u32 = libc::SYS_faccessat2 as u32;
        pub const READLINKAT: u32 = libc::SYS_readlinkat as u32;
        pub const CHDIR: u32 = libc::SYS_chdir as u32;
        pub const CHROOT: u32 = libc::SYS_chroot as u32;
        pub const ACCT: u32 = libc::SYS_acct as u32;
        pub const SWAPON: u32 = libc::SYS_swapon as u32;
        pub const SWAPOFF: u32 = libc::SYS_swapoff as u32;
        pub const IO_SUBMIT: u32 = libc::SYS_io_submit as u32;
        pub const FCHMODAT: u32 = libc::SYS_fchmodat as u32;
        pub const FCHOWNAT: u32 = libc::SYS_fchownat as u32;
        pub const UTIMENSAT: u32 = libc::SYS_utimensat as u32;
        pub const UNLINKAT: u32 = libc::SYS_unlinkat as u32;
        pub const RENAMEAT: u32 = libc::SYS_renameat as u32;
        pub const RENAMEAT2: u32 = libc::SYS_renameat2 as u32;
        pub const MKDIRAT: u32 = libc::SYS_mkdirat as u32;
        pub const MKNODAT: u32 = libc::SYS_mknodat as u32;
        pub const SYMLINKAT: u32 = libc::SYS_symlinkat as u32;
        pub const LINKAT: u32 = libc::SYS_linkat as u32;
        pub const GETXATTR: u32 = libc::SYS_getxattr as u32;
        pub const LGETXATTR: u32 = libc::SYS_lgetxattr as u32;
        pub const LISTXATTR: u32 = libc::SYS_listxattr as u32;
        pub const LLISTXATTR: u32 = libc::SYS_llistxattr as u32;
        pub const SETXATTR: u32 = libc::SYS_setxattr as u32;
        pub const LSETXATTR: u32 = libc::SYS_lsetxattr as u32;
        pub const REMOVEXATTR: u32 = libc::SYS_removexattr as u32;
        pub const LREMOVEXATTR: u32 = libc::SYS_lremovexattr as u32;
        /// Linux 6.6; libc does not know it on every target.
        pub const FCHMODAT2: u32 = 452;
        pub const FCHMOD: u32 = libc::SYS_fchmod as u32;
        pub const FCHOWN: u32 = libc::SYS_fchown as u32;
        pub const MMAP: u32 = libc::SYS_mmap as u32;
        pub const MUNMAP: u32 = libc::SYS_munmap as u32;
        pub const MREMAP: u32 = libc::SYS_mremap as u32;
        pub const MPROTECT: u32 = libc::SYS_mprotect as u32;
        pub const MADVISE: u32 = libc::SYS_madvise as u32;
        /// Linux 5.10; of 32-bit programs too.
        pub const PROCESS_MADVISE: u32 = libc::SYS_process_madvise as u32;
        pub const MSYNC: u32 = libc::SYS_msync as u32;
        pub const MLOCK: u32 = libc::SYS_mlock as u32;
        pub const REMAP_FILE_PAGES: u32 = libc::SYS_remap_file_pages as u32;
        pub const DUP: u32 = libc::SYS_dup as u32;
        pub const DUP3: u32 = libc::SYS_dup3 as u32;
        pub const RESTART_SYSCALL: u32 = libc::SYS_restart_syscall as u32;
        pub const PPOLL: u32 = libc::SYS_ppoll as u32;
        pub const PSELECT6: u32 = libc::SYS_pselect6 as u32;
        pub const EPOLL_CTL: u32 = libc::SYS_epoll_ctl as u32;
        pub const EPOLL_PWAIT: u32 = libc::SYS_epoll_pwait as u32;
        pub const EPOLL_PWAIT2: u32 = libc::SYS_epoll_pwait2 as u32;
        pub const SENDFILE: u32 = libc::SYS_sendfile as u32;
        pub const SPLICE: u32 = libc::SYS_splice as u32;
        pub const TEE: u32 = libc::SYS_tee as u32;
        pub const VMSPLICE: u32 = libc::SYS_vmsplice as u32;
        pub const COPY_FILE_RANGE: u32 = libc::SYS_copy_file_range as u32;
        pub const TRUNCATE: u32 = libc::SYS_truncate as u32;
        pub const SENDMSG: u32 = libc::SYS_sendmsg as u32;
        pub const RECVMSG: u32 = libc::SYS_recvmsg as u32;
        pub const PIDFD_GETFD: u32 = libc::SYS_pidfd_getfd as u32;
        pub const IO_URING_SETUP: u32 = libc::SYS_io_uring_setup as u32;
        pub const IO_URING_ENTER: u32 = libc::SYS_io_uring_enter as u32;
        pub const IO_URING_REGISTER: u32 = libc::SYS_io_uring_register as u32;
        pub const USERFAULTFD: u32 = libc::SYS_userfaultfd as u32;
        pub const SECCOMP: u32 = libc::SYS_seccomp as u32;
        pub const PRCTL: u32 = libc::SYS_prctl as u32;
        pub const PTRACE: u32 = libc::SYS_ptrace as u32;
        pub const CLONE: u32 = libc::SYS_clone as u32;
        pub const CLONE3: u32 = libc::SYS_clone3 as u32;
        pub const EXECVE: u32 = libc::SYS_execve as u32;
        pub const EXECVEAT: u32 = libc::SYS_execveat as u32;
        pub const EXIT: u32 = libc::SYS_exit as u32;
        pub const EXIT_GROUP: u32 = libc::SYS_exit_group as u32;
        pub const GETPID: u32 = libc::SYS_getpid as u32;
        pub const GETTID: u32 = libc::SYS_gettid as u32;
    };
}
use common_numbers;

/// The calls of 32-bit programs, which a 64-bit program can make too, that change which
/// pages of a file are mapped, or which calls are made at all. Their arguments are those of
/// the native ones.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "each is the number of the call of that name")]
pub struct Compat {
    /// Its `AUDIT_ARCH_*`.
    pub audit_arch: u32,
    pub mremap: u32,
    pub madvise: u32,
    pub remap_file_pages: u32,
    pub prctl: u32,
    pub seccomp: u32,
}

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as current;
#[cfg(target_arch = "x86_64")]
use x86_64 as current;

pub use current::{ADDRESS_SPACE, AUDIT_ARCH, COMPAT, Registers, SYSCALL_INSTRUCTION_LEN, nr};
pub(crate) use current::{PAGE_SHIFT, copy_from_shared, copy_to_shared, guarded};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_keep_what_is_set() {
        let mut registers = Registers::zeroed();
        registers.set_syscall_number(nr::MMAP.into());
        for i in 0..6 {
            registers.set_argument(i, 100 + i as u64);
        }
        registers.set_instruction_pointer(0x1000);
        assert_eq!(registers.syscall_number(), i64::from(nr::MMAP));
        // On aarch64 argument 0 and the result share a register, so look before setting it.
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|i| registers.argument(i)),
            [100, 101, 102, 103, 104, 105]
        );
        registers.set_result(-5);
        assert_eq!(registers.result(), -5);
        assert_eq!(registers.instruction_pointer(), 0x1000);
    }

    #[test]
    fn bulk_copies_copy() {
        let from: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        for (start, len) in [(0, 0), (0, 1), (1, 7), (3, 64), (5, 9_000), (0, 10_000)] {
            let mut to = vec![0; 10_000];
            // SAFETY: both ranges lie inside their vectors, which nobody else uses.
            unsafe { copy_from_shared(from.as_ptr().add(start), &mut to[..len]) };
            assert_eq!(to[..len], from[start..start + len]);
            assert!(to[len..].iter().all(|&byte| byte == 0));
            to.fill(0);
            // SAFETY: as above.
            unsafe { copy_to_shared(to.as_mut_ptr().add(start), &from[..len]) };
            assert_eq!(to[start..start + len], from[..len]);
            assert!(to[start + len..].iter().all(|&byte| byte == 0));
        }
    }
}
