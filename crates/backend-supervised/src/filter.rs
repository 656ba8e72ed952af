//! Which system calls of a client are notified: the seccomp filter.
//!
//! Most calls on a device need no filter at all, because its descriptor is an open
//! FUSE file: read, write, poll, close and their kin are the kernel's own. What is
//! notified is what FUSE cannot do for a device (`mmap`), and what it would answer
//! differently (`fstat`, `lseek`, `splice`). Device descriptors are moved
//! to [`FIRST_DESCRIPTOR`] and up when they are opened, so a number tells them apart;
//! programs move them by `dup2`, mostly to 0, 1 and 2, so these are looked at too.

use devmap_sys::{
    arch::{AUDIT_ARCH, COMPAT, nr},
    seccomp::{Action, AssembleError, Assembler, Filter, Label},
};

/// The lowest descriptor that a device's open file gets. Below 1024, the most that
/// `select(2)` takes and the usual soft limit of descriptors.
pub(crate) const FIRST_DESCRIPTOR: u32 = 960;

/// Descriptors up to this one are always looked at.
pub(crate) const LAST_STANDARD: u32 = 2;

/// Numbers from here on are negative: `AT_FDCWD`, -1.
pub(crate) const NEGATIVE: u32 = 0x8000_0000;

/// The ioctl types some of whose commands the kernel answers itself for a regular file,
/// as which it knows a device's descriptor here, but leaves to a device's driver:
/// `FIONREAD`, `FIBMAP`, `FS_IOC_GETFLAGS`, `FS_IOC_FSGETXATTR` and their kin. All other ioctls of
/// the range come by FUSE.
pub(crate) const TERMINAL: u32 = 0x5400;
const OF_REGULAR_FILES: [u32; 4] = [TERMINAL, 0x0000, 0x6600, 0x5800];

/// Calls that move data between two descriptors, and which argument is the second. A driver has no
/// `splice_read`; FUSE has one that finds nothing to read, which a program takes for the end.
const ON_TWO: [(u32, usize); 3] = [(nr::SENDFILE, 1), (nr::SPLICE, 2), (nr::COPY_FILE_RANGE, 2)];

/// The filter of namespace mode.
pub(crate) fn namespace() -> Result<Filter, AssembleError> {
    let mut asm = Assembler::new();
    let allow = asm.label();
    let notify = asm.label();
    let (mremap, madvise, process_madvise) = (asm.label(), asm.label(), asm.label());
    let (seccomp, prctl, nosys) = (asm.label(), asm.label(), asm.label());
    asm.load_arch();
    let native = asm.label();
    asm.jump_if_eq(AUDIT_ARCH, native);
    let compat = asm.label();
    asm.jump_if_eq(COMPAT.audit_arch, compat);
    asm.jump(nosys);
    // A 32-bit program meets FUSE alone: see COMPAT.md. But any program can make its calls,
    // so what must not pass does not pass there either.
    asm.bind(compat);
    asm.load_nr();
    asm.jump_if_eq(COMPAT.mremap, mremap);
    asm.jump_if_eq(COMPAT.madvise, madvise);
    asm.jump_if_eq(nr::PROCESS_MADVISE, process_madvise);
    asm.jump_if_eq(COMPAT.remap_file_pages, notify);
    asm.jump_if_eq(COMPAT.seccomp, seccomp);
    asm.jump_if_eq(COMPAT.prctl, prctl);
    asm.jump(allow);

    asm.bind(native);
    asm.load_nr();
    let on = |asm: &mut Assembler, nr: u32| {
        let label = asm.label();
        asm.jump_if_eq(nr, label);
        label
    };
    let mmap = on(&mut asm, nr::MMAP);
    let fstat = on(&mut asm, nr::FSTAT);
    let newfstatat = on(&mut asm, nr::NEWFSTATAT);
    let lseek = on(&mut asm, nr::LSEEK);
    let ioctl = on(&mut asm, nr::IOCTL);
    let statx = on(&mut asm, nr::STATX);
    let on_two = ON_TWO.map(|(nr, second)| (on(&mut asm, nr), second));
    asm.jump_if_eq(nr::MREMAP, mremap);
    asm.jump_if_eq(nr::MADVISE, madvise);
    asm.jump_if_eq(nr::PROCESS_MADVISE, process_madvise);
    asm.jump_if_eq(nr::REMAP_FILE_PAGES, notify);
    // Of any descriptor: what stands for devices below /sys is files and directories.
    asm.jump_if_eq(nr::FSTATFS, notify);
    asm.jump_if_eq(nr::SECCOMP, seccomp);
    asm.jump_if_eq(nr::PRCTL, prctl);
    // Nearly the same calls, under other numbers.
    if let Some(x32) = nr::X32_BIT {
        asm.jump_if_set(x32, nosys);
    }
    asm.jump(allow);

    asm.bind(mmap);
    asm.load_arg_low(3);
    asm.jump_if_set(libc::MAP_ANONYMOUS as u32, allow);
    asm.load_arg_low(4);
    asm.jump_if_ge(NEGATIVE, allow);
    device_number(&mut asm, notify);
    // The dynamic loader maps its libraries with a flag of its own, which the kernel
    // ignores; so do the maps that devmap injects.
    asm.load_arg_low(3);
    asm.jump_if_set(libc::MAP_DENYWRITE as u32, allow);
    asm.jump(notify);

    asm.bind(ioctl);
    asm.load_arg_low(0);
    asm.jump_if_ge(NEGATIVE, allow);
    let device = asm.label();
    asm.jump_if_ge(FIRST_DESCRIPTOR, device);
    // A device that was opened under a debugger is down here; and its descriptor may be
    // exchanged, which ends when the process makes a call that is notified (`exchange`).
    asm.load_arg_low(1);
    asm.and(0xff00);
    asm.jump_if_eq(TERMINAL, allow);
    asm.jump(notify);
    asm.bind(device);
    asm.load_arg_low(1);
    asm.and(0xff00);
    for kind in OF_REGULAR_FILES {
        asm.jump_if_eq(kind, notify);
    }
    asm.jump(allow);

    asm.bind(statx);
    asm.load_arg_low(2);
    let empty_path = asm.label();
    asm.jump_if_set(libc::AT_EMPTY_PATH as u32, empty_path);
    asm.jump(allow);

    asm.bind(newfstatat);
    asm.load_arg_low(3);
    asm.jump_if_set(libc::AT_EMPTY_PATH as u32, empty_path);
    asm.jump(allow);

    for (call, second) in on_two {
        asm.bind(call);
        for descriptor in [0, second] {
            asm.load_arg_low(descriptor);
            device_number(&mut asm, notify);
        }
        asm.jump(allow);
    }

    asm.bind(fstat);
    asm.bind(lseek);
    asm.bind(empty_path);
    asm.load_arg_low(0);
    asm.jump_if_ge(NEGATIVE, allow);
    device_number(&mut asm, notify);
    asm.jump(allow);

    // Growth, and old_size 0, which makes a second map: new_size > old_size. The kernel
    // rounds an old_size near the end of the numbers up to 0.
    asm.bind(mremap);
    asm.load_arg_high(1);
    asm.jump_if_eq(u32::MAX, notify);
    asm.jump_if_arg_greater(2, 1, notify);
    asm.jump(allow);

    removal(&mut asm, (madvise, process_madvise), notify, allow);

    filters(&mut asm, (seccomp, prctl), notify, allow);

    asm.bind(nosys);
    asm.ret(Action::Errno(libc::ENOSYS as u16));
    asm.bind(notify);
    asm.ret(Action::Notify);
    asm.bind(allow);
    asm.ret(Action::Allow);
    asm.finish()
}

/// `MADV_REMOVE`, which makes holes in a file.
pub(crate) fn removal(
    asm: &mut Assembler,
    (madvise, process_madvise): (Label, Label),
    notify: Label,
    allow: Label,
) {
    for (call, advice) in [(madvise, 2), (process_madvise, 3)] {
        asm.bind(call);
        asm.load_arg_low(advice);
        asm.jump_if_eq(libc::MADV_REMOVE as u32, notify);
        asm.jump(allow);
    }
}

/// A client's filters of its own, which will judge the calls that devmap injects.
pub(crate) fn filters(
    asm: &mut Assembler,
    (seccomp, prctl): (Label, Label),
    notify: Label,
    allow: Label,
) {
    asm.bind(seccomp);
    asm.load_arg_low(0);
    asm.jump_if_eq(libc::SECCOMP_SET_MODE_FILTER, notify);
    asm.jump(allow);
    asm.bind(prctl);
    asm.load_arg_low(0);
    asm.jump_if_eq(libc::PR_SET_SECCOMP as u32, notify);
    asm.jump(allow);
}

/// Jumps when the descriptor in the accumulator may be a device's.
fn device_number(asm: &mut Assembler, to: Label) {
    asm.jump_if_ge(FIRST_DESCRIPTOR, to);
    let other = asm.label();
    asm.jump_if_ge(LAST_STANDARD + 1, other);
    asm.jump(to);
    asm.bind(other);
}
