//! Accesses that fail instead of ending the process: the kernel's `get_user` and
//! `put_user`. Each instruction that may fault stands in a table with the place where to
//! go on (`__ex_table`), for the handler of SIGBUS (`crate::sigbus`).

use std::arch::asm;
use std::num::NonZeroU8;

/// The instruction at label 2 may fault; then go on at label 4, out of line, which ends
/// at label 3 with what `$fixup` does. The table holds distances, so that it needs no
/// relocation; `R` keeps the linker from dropping it.
macro_rules! guarded {
    ($access:literal, $fixup:literal, $($operands:tt)*) => {
        asm!(
            concat!("2: ", $access),
            "3:",
            ".pushsection .text.devmap_fixup,\"ax\",@progbits",
            concat!("4: ", $fixup),
            "jmp 3b",
            ".popsection",
            ".pushsection devmap_extable,\"aR\",@progbits",
            ".balign 4",
            ".long 2b - .",
            ".long 4b - .",
            ".popsection",
            $($operands)*
        )
    };
}

/// Loads that leave room for a mark of failure in the register.
macro_rules! load {
    ($name:ident, $type:ty, $access:literal) => {
        /// The value at byte `at` from `base` on, or `None` when the access faulted.
        ///
        /// # Safety
        /// That byte must be aligned for the value, which must lie in memory that is mapped,
        /// readable, and only accessed atomically or by instructions that the compiler does not
        /// see.
        #[inline(always)]
        pub(crate) unsafe fn $name(base: *const u8, at: usize, _: NonZeroU8) -> Option<$type> {
            let value: i64;
            // SAFETY: one load from where the caller says that it may be made.
            unsafe {
                guarded!($access, "mov {value}, -1", value = out(reg) value, base = in(reg) base,
                         at = in(reg) at, options(nostack, readonly, preserves_flags));
            }
            if value < 0 { None } else { Some(value as $type) }
        }
    };
}

load!(load_u8, u8, "movzx {value:e}, byte ptr [{base} + {at}]");
load!(load_u16, u16, "movzx {value:e}, word ptr [{base} + {at}]");
load!(load_u32, u32, "mov {value:e}, dword ptr [{base} + {at}]");

/// As [`load_u32`]. A register that a fault can clear, rather than one that it sets, costs
/// nothing where the caller has one: `witness`, of which the compiler knows no more than its
/// type says.
///
/// # Safety
/// As [`load_u32`].
#[inline(always)]
pub(crate) unsafe fn load_u64(base: *const u8, at: usize, witness: NonZeroU8) -> Option<u64> {
    let value: u64;
    let mut witness = witness.get();
    // SAFETY: one load from where the caller says that it may be made.
    unsafe {
        guarded!("mov {value}, qword ptr [{base} + {at}]", "mov {witness}, 0",
                 value = out(reg) value, base = in(reg) base, at = in(reg) at,
                 witness = inout(reg_byte) witness, options(nostack, readonly, preserves_flags));
    }
    if witness == 0 { None } else { Some(value) }
}

macro_rules! store {
    ($name:ident, $type:ty, $access:literal, $class:ident) => {
        /// Whether the access did not fault.
        ///
        /// # Safety
        /// `to` must be aligned, and lie in memory that is mapped, writable, and only
        /// accessed atomically or by instructions that the compiler does not see.
        #[inline(always)]
        pub(crate) unsafe fn $name(to: *mut $type, value: $type) -> bool {
            let mut failed: u64 = 0;
            // SAFETY: one store to where the caller says that it may be made.
            unsafe {
                guarded!($access, "mov {failed:e}, 1", value = in($class) value,
                         to = in(reg) to, failed = inout(reg) failed,
                         options(nostack, preserves_flags));
            }
            failed == 0
        }
    };
}

store!(store_u8, u8, "mov byte ptr [{to}], {value}", reg_byte);
store!(store_u16, u16, "mov word ptr [{to}], {value:x}", reg);
store!(store_u32, u32, "mov dword ptr [{to}], {value:e}", reg);
store!(store_u64, u64, "mov qword ptr [{to}], {value}", reg);

/// Copies `len` bytes of which either end may fault: how many were not copied.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes, and not overlap; each is
/// exclusive, or only accessed atomically or by instructions that the compiler does not
/// see.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) -> usize {
    let mut rest = len;
    // SAFETY: the caller gives readable and writable memory; the direction flag is clear
    // by the ABI. A fault leaves in rcx what is left to do.
    unsafe {
        guarded!("rep movsb", "nop", inout("rcx") rest, inout("rsi") from => _,
                 inout("rdi") to => _, options(nostack, preserves_flags));
    }
    rest
}

/// Where the processor was when the signal came.
pub(crate) fn instruction_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
}

/// Has it go on there.
pub(crate) fn set_instruction_pointer(context: &mut libc::ucontext_t, to: usize) {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] = to as i64;
}
