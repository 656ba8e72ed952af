//! Accesses that fail instead of ending the process: the kernel's `get_user` and
//! `put_user`. Each instruction that may fault stands in a table with the place where to
//! go on (`__ex_table`), for the handler of SIGBUS (`crate::sigbus`).

use std::arch::asm;
use std::num::NonZeroU8;

/// The instruction at label 2 may fault; then go on at label 4, out of line, which ends
/// at label 3 with `failed` set.
macro_rules! guarded {
    ($access:literal, $($operands:tt)*) => {
        asm!(
            concat!("2: ", $access),
            "3:",
            ".pushsection .text.devmap_fixup,\"ax\",@progbits",
            "4: mov {failed}, #1",
            "b 3b",
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

macro_rules! access {
    ($load:ident, $store:ident, $type:ty, $ldr:literal, $str:literal) => {
        /// The value at byte `at` from `base` on, or `None` when the access faulted.
        ///
        /// # Safety
        /// That byte must be aligned for the value, which must lie in memory that is mapped,
        /// readable, and only accessed atomically or by instructions that the compiler does not
        /// see.
        #[inline(always)]
        pub(crate) unsafe fn $load(base: *const u8, at: usize, _: NonZeroU8) -> Option<$type> {
            let value: u64;
            let mut failed: u64 = 0;
            // SAFETY: one load from where the caller says that it may be made.
            unsafe {
                guarded!($ldr, value = out(reg) value, base = in(reg) base, at = in(reg) at,
                         failed = inout(reg) failed, options(nostack, readonly, preserves_flags));
            }
            if failed != 0 { None } else { Some(value as $type) }
        }

        /// Whether the access did not fault.
        ///
        /// # Safety
        /// `to` must be aligned, and lie in memory that is mapped, writable, and only
        /// accessed atomically or by instructions that the compiler does not see.
        #[inline(always)]
        pub(crate) unsafe fn $store(to: *mut $type, value: $type) -> bool {
            let mut failed: u64 = 0;
            // SAFETY: one store to where the caller says that it may be made.
            unsafe {
                guarded!($str, value = in(reg) u64::from(value), to = in(reg) to,
                         failed = inout(reg) failed, options(nostack, preserves_flags));
            }
            failed == 0
        }
    };
}

access!(load_u8, store_u8, u8, "ldrb {value:w}, [{base}, {at}]", "strb {value:w}, [{to}]");
access!(load_u16, store_u16, u16, "ldrh {value:w}, [{base}, {at}]", "strh {value:w}, [{to}]");
access!(load_u32, store_u32, u32, "ldr {value:w}, [{base}, {at}]", "str {value:w}, [{to}]");
access!(load_u64, store_u64, u64, "ldr {value}, [{base}, {at}]", "str {value}, [{to}]");

/// Copies `len` bytes of which either end may fault: how many were not copied.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes, and not overlap; each is
/// exclusive, or only accessed atomically or by instructions that the compiler does not
/// see.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) -> usize {
    let mut done = 0;
    while done < len {
        // SAFETY: `done` is less than `len`, for which both are accessible.
        let copied = unsafe {
            let byte = load_u8(from, done, NonZeroU8::MIN);
            byte.is_some_and(|byte| store_u8(to.add(done), byte))
        };
        if !copied {
            break;
        }
        done += 1;
    }
    len - done
}

/// Where the processor was when the signal came.
pub(crate) fn instruction_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.pc as usize
}

/// Has it go on there.
pub(crate) fn set_instruction_pointer(context: &mut libc::ucontext_t, to: usize) {
    context.uc_mcontext.pc = to as u64;
}
