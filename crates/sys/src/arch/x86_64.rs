//! x86-64: `struct user_regs_struct`, the `syscall` instruction, `rep movsb`.

pub(crate) mod guarded;

use std::arch::asm;

use super::Compat;

/// `AUDIT_ARCH_X86_64`: what a filter must find in `seccomp_data.arch`.
pub const AUDIT_ARCH: u32 = 0xc000_003e;

/// Of i386, by `int 0x80` (arch/x86/entry/syscalls/syscall_32.tbl).
pub const COMPAT: Compat = Compat {
    audit_arch: 0x4000_0003,
    mremap: 163,
    madvise: 219,
    remap_file_pages: 257,
    prctl: 172,
    seccomp: 354,
};

/// The page size as a power of two, where all processors of the kind have the same.
pub(crate) const PAGE_SHIFT: Option<u32> = Some(12);

/// The most bytes that one map can have: the address space of a program
/// (`TASK_SIZE`, with four levels of page tables).
pub const ADDRESS_SPACE: u64 = (1 << 47) - 4096;

/// Bytes of the `syscall` instruction.
pub const SYSCALL_INSTRUCTION_LEN: u64 = 2;

/// The general registers of a stopped thread (`NT_PRSTATUS`).
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Registers(libc::user_regs_struct);

impl Registers {
    pub(crate) fn zeroed() -> Self {
        // SAFETY: user_regs_struct is integers only, for which zero is a value.
        Self(unsafe { std::mem::zeroed() })
    }

    /// The number of the system call the thread is in or has just left, -1 when
    /// it is in none. With -1 set, the kernel will not restart the call.
    pub fn syscall_number(&self) -> i64 {
        self.0.orig_rax as i64
    }

    /// Sets what [`Registers::syscall_number`] tells.
    pub fn set_syscall_number(&mut self, number: i64) {
        self.0.orig_rax = number as u64;
    }

    /// System call argument `i`.
    ///
    /// # Panics
    /// For `i` above 5.
    pub fn argument(&self, i: usize) -> u64 {
        let r = &self.0;
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9][i]
    }

    /// Sets system call argument `i`.
    ///
    /// # Panics
    /// For `i` above 5.
    pub fn set_argument(&mut self, i: usize, value: u64) {
        let r = &mut self.0;
        *[&mut r.rdi, &mut r.rsi, &mut r.rdx, &mut r.r10, &mut r.r8, &mut r.r9][i] = value;
    }

    /// The result of the system call: a value, or a negated errno.
    pub fn result(&self) -> i64 {
        self.0.rax as i64
    }

    /// Sets the result of the system call.
    pub fn set_result(&mut self, value: i64) {
        self.0.rax = value as u64;
    }

    /// Address of the top of the stack.
    pub fn stack_pointer(&self) -> u64 {
        self.0.rsp
    }

    /// Address of the next instruction.
    pub fn instruction_pointer(&self) -> u64 {
        self.0.rip
    }

    /// Sets the address of the next instruction.
    pub fn set_instruction_pointer(&mut self, address: u64) {
        self.0.rip = address;
    }

    /// Makes the thread execute system call `nr` when its instruction pointer
    /// is put on a system call instruction.
    pub(crate) fn prepare_syscall(&mut self, nr: u32, args: [u64; 6]) {
        self.0.rax = nr.into();
        // Not in a system call: the kernel must not take `rax` for a result to restart.
        self.0.orig_rax = u64::MAX;
        for (i, arg) in args.into_iter().enumerate() {
            self.set_argument(i, arg);
        }
    }
}

/// Copies memory that others may write at the same time. The copy is made by
/// one instruction the compiler knows nothing about, so what it may assume of
/// unsynchronised plain accesses does not apply; bytes that change meanwhile
/// are copied old or new.
///
/// # Safety
/// `from` must be readable for `to.len()` bytes and not overlap `to`.
pub(crate) unsafe fn copy_from_shared(from: *const u8, to: &mut [u8]) {
    // SAFETY: the caller gives readable memory, `to` is writable for its length;
    // the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") to.len() => _, inout("rsi") from => _,
             inout("rdi") to.as_mut_ptr() => _, options(nostack, preserves_flags));
    }
}

/// [`copy_from_shared`] the other way.
///
/// # Safety
/// `to` must be writable for `from.len()` bytes and not overlap `from`.
pub(crate) unsafe fn copy_to_shared(to: *mut u8, from: &[u8]) {
    // SAFETY: the caller gives writable memory, `from` is readable for its length;
    // the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") from.len() => _, inout("rsi") from.as_ptr() => _,
             inout("rdi") to => _, options(nostack, preserves_flags));
    }
}

/// System call numbers. Calls that newer architectures lack are `Option`s.
#[allow(missing_docs, reason = "each is the number of the call of that name")]
pub mod nr {
    super::super::common_numbers!();

    pub const OPEN: Option<u32> = Some(libc::SYS_open as u32);
    pub const CREAT: Option<u32> = Some(libc::SYS_creat as u32);
    pub const STAT: Option<u32> = Some(libc::SYS_stat as u32);
    pub const LSTAT: Option<u32> = Some(libc::SYS_lstat as u32);
    pub const ACCESS: Option<u32> = Some(libc::SYS_access as u32);
    pub const READLINK: Option<u32> = Some(libc::SYS_readlink as u32);
    pub const CHMOD: Option<u32> = Some(libc::SYS_chmod as u32);
    pub const CHOWN: Option<u32> = Some(libc::SYS_chown as u32);
    pub const LCHOWN: Option<u32> = Some(libc::SYS_lchown as u32);
    pub const UTIME: Option<u32> = Some(libc::SYS_utime as u32);
    pub const UTIMES: Option<u32> = Some(libc::SYS_utimes as u32);
    pub const FUTIMESAT: Option<u32> = Some(libc::SYS_futimesat as u32);
    pub const UNLINK: Option<u32> = Some(libc::SYS_unlink as u32);
    pub const RENAME: Option<u32> = Some(libc::SYS_rename as u32);
    pub const RMDIR: Option<u32> = Some(libc::SYS_rmdir as u32);
    pub const MKDIR: Option<u32> = Some(libc::SYS_mkdir as u32);
    pub const MKNOD: Option<u32> = Some(libc::SYS_mknod as u32);
    pub const SYMLINK: Option<u32> = Some(libc::SYS_symlink as u32);
    pub const LINK: Option<u32> = Some(libc::SYS_link as u32);
    pub const DUP2: Option<u32> = Some(libc::SYS_dup2 as u32);
    pub const POLL: Option<u32> = Some(libc::SYS_poll as u32);
    pub const SELECT: Option<u32> = Some(libc::SYS_select as u32);
    pub const EPOLL_WAIT: Option<u32> = Some(libc::SYS_epoll_wait as u32);
    pub const FORK: Option<u32> = Some(libc::SYS_fork as u32);
    pub const VFORK: Option<u32> = Some(libc::SYS_vfork as u32);

    /// Set in the number of an x32 call (`__X32_SYSCALL_BIT`).
    pub const X32_BIT: Option<u32> = Some(0x4000_0000);
}
