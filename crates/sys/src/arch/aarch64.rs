//! AArch64: `struct user_pt_regs`, the `svc` instruction, word copies.

pub(crate) mod guarded;

use std::ptr;

use super::Compat;

/// `AUDIT_ARCH_AARCH64`: what a filter must find in `seccomp_data.arch`.
pub const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Of 32-bit Arm (arch/arm/tools/syscall.tbl).
pub const COMPAT: Compat = Compat {
    audit_arch: 0x4000_0028,
    mremap: 163,
    madvise: 220,
    remap_file_pages: 253,
    prctl: 172,
    seccomp: 383,
};

/// The page size as a power of two, where all processors of the kind have the same.
pub(crate) const PAGE_SHIFT: Option<u32> = None;

/// The most bytes that one map can have: the address space of a program
/// (`TASK_SIZE`, with addresses of 48 bits).
pub const ADDRESS_SPACE: u64 = 1 << 48;

/// Bytes of the `svc` instruction.
pub const SYSCALL_INSTRUCTION_LEN: u64 = 4;

/// The general registers of a stopped thread (`NT_PRSTATUS`).
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Registers(libc::user_regs_struct);

impl Registers {
    pub(crate) fn zeroed() -> Self {
        // SAFETY: user_regs_struct is integers only, for which zero is a value.
        Self(unsafe { std::mem::zeroed() })
    }

    /// The number of the system call the thread is in or has just left, as its
    /// x8 says it. The kernel's own copy (`NT_ARM_SYSTEM_CALL`) is not read.
    pub fn syscall_number(&self) -> i64 {
        self.0.regs[8] as i64
    }

    /// Sets what [`Registers::syscall_number`] tells.
    pub fn set_syscall_number(&mut self, number: i64) {
        self.0.regs[8] = number as u64;
    }

    /// System call argument `i`. After the call, argument 0 is its result.
    ///
    /// # Panics
    /// For `i` above 5.
    pub fn argument(&self, i: usize) -> u64 {
        self.0.regs[..6][i]
    }

    /// Sets system call argument `i`.
    ///
    /// # Panics
    /// For `i` above 5.
    pub fn set_argument(&mut self, i: usize, value: u64) {
        self.0.regs[..6][i] = value;
    }

    /// The result of the system call: a value, or a negated errno.
    pub fn result(&self) -> i64 {
        self.0.regs[0] as i64
    }

    /// Sets the result of the system call.
    pub fn set_result(&mut self, value: i64) {
        self.0.regs[0] = value as u64;
    }

    /// Address of the top of the stack.
    pub fn stack_pointer(&self) -> u64 {
        self.0.sp
    }

    /// Address of the next instruction.
    pub fn instruction_pointer(&self) -> u64 {
        self.0.pc
    }

    /// Sets the address of the next instruction.
    pub fn set_instruction_pointer(&mut self, address: u64) {
        self.0.pc = address;
    }

    /// Makes the thread execute system call `nr` when its instruction pointer
    /// is put on a system call instruction.
    pub(crate) fn prepare_syscall(&mut self, nr: u32, args: [u64; 6]) {
        self.0.regs[8] = nr.into();
        self.0.regs[..6].copy_from_slice(&args);
    }
}

/// Copies memory that others may write at the same time, by volatile accesses
/// of eight bytes where `from` is aligned for them.
///
/// # Safety
/// `from` must be readable for `to.len()` bytes and not overlap `to`.
pub(crate) unsafe fn copy_from_shared(from: *const u8, to: &mut [u8]) {
    let head = from.align_offset(8).min(to.len());
    let words = (to.len() - head) / 8;
    for i in (0..head).chain(head + words * 8..to.len()) {
        // SAFETY: i < to.len(), for which `from` is readable.
        to[i] = unsafe { ptr::read_volatile(from.add(i)) };
    }
    for word in 0..words {
        let at = head + word * 8;
        // SAFETY: at + 8 <= to.len(), and from + head is a multiple of 8.
        let value = unsafe { ptr::read_volatile(from.add(at).cast::<u64>()) };
        to[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
}

/// [`copy_from_shared`] the other way.
///
/// # Safety
/// `to` must be writable for `from.len()` bytes and not overlap `from`.
pub(crate) unsafe fn copy_to_shared(to: *mut u8, from: &[u8]) {
    let head = to.align_offset(8).min(from.len());
    let words = (from.len() - head) / 8;
    for word in 0..words {
        let at = head + word * 8;
        let mut value = [0; 8];
        value.copy_from_slice(&from[at..at + 8]);
        // SAFETY: at + 8 <= from.len(), and to + head is a multiple of 8.
        unsafe { ptr::write_volatile(to.add(at).cast::<u64>(), u64::from_ne_bytes(value)) };
    }
    for i in (0..head).chain(head + words * 8..from.len()) {
        // SAFETY: i < from.len(), for which `to` is writable.
        unsafe { ptr::write_volatile(to.add(i), from[i]) };
    }
}

/// System call numbers. Calls that this architecture lacks are `None`.
#[allow(missing_docs, reason = "each is the number of the call of that name")]
pub mod nr {
    super::super::common_numbers!();

    pub const OPEN: Option<u32> = None;
    pub const CREAT: Option<u32> = None;
    pub const STAT: Option<u32> = None;
    pub const LSTAT: Option<u32> = None;
    pub const ACCESS: Option<u32> = None;
    pub const READLINK: Option<u32> = None;
    pub const CHMOD: Option<u32> = None;
    pub const CHOWN: Option<u32> = None;
    pub const LCHOWN: Option<u32> = None;
    pub const UTIME: Option<u32> = None;
    pub const UTIMES: Option<u32> = None;
    pub const FUTIMESAT: Option<u32> = None;
    pub const UNLINK: Option<u32> = None;
    pub const RENAME: Option<u32> = None;
    pub const RMDIR: Option<u32> = None;
    pub const MKDIR: Option<u32> = None;
    pub const MKNOD: Option<u32> = None;
    pub const SYMLINK: Option<u32> = None;
    pub const LINK: Option<u32> = None;
    pub const DUP2: Option<u32> = None;
    pub const POLL: Option<u32> = None;
    pub const SELECT: Option<u32> = None;
    pub const EPOLL_WAIT: Option<u32> = None;
    pub const FORK: Option<u32> = None;
    pub const VFORK: Option<u32> = None;

    /// Set in the number of an x32 call, which exists on x86-64 only.
    pub const X32_BIT: Option<u32> = None;
}
