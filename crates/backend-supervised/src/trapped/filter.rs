//! Which system calls are notified in trapped mode.
//!
//! All calls that take a path, but not opens of directories, which are most of the
//! opens of programs that walk trees, unless a device has a class, by which it is listed; and the calls on descriptors that a FIFO would
//! answer in its own way, where the number may be a device's (see `filter`). `poll`, `select` and
//! `epoll`, since a FIFO cannot show all that a driver says (see `waits`).

use std::{collections::BTreeSet, iter};

use devmap_sys::{
    arch::{AUDIT_ARCH, nr},
    seccomp::{Action, AssembleError, Assembler, Filter, Label},
};

use super::changes;
use crate::filter::{LAST_STANDARD, NEGATIVE, TERMINAL, filters, removal};

/// Stands in the fifth argument of a `fcntl` that devmap makes in the client, and in the upper half
/// of an `int` of calls that wait: they must not be notified. The kernel looks at neither.
pub(super) const OWN: u64 = 0x6d61_7064;

/// Calls that are always notified; besides them those of `changes`.
const ALWAYS: [u32; 9] = [
    nr::BIND,
    nr::IO_SUBMIT,
    nr::OPENAT2,
    nr::FACCESSAT,
    nr::FACCESSAT2,
    nr::READLINKAT,
    nr::REMAP_FILE_PAGES,
    nr::STATFS,
    nr::FSTATFS,
];

/// The same, on architectures that have them.
const OLD_ALWAYS: [Option<u32>; 5] = [nr::CREAT, nr::STAT, nr::LSTAT, nr::ACCESS, nr::READLINK];

/// Calls on a descriptor.
const ON_DESCRIPTOR: [u32; 16] = [
    nr::READ,
    nr::WRITE,
    nr::PREAD64,
    nr::PWRITE64,
    nr::READV,
    nr::WRITEV,
    nr::PREADV,
    nr::PWRITEV,
    nr::PREADV2,
    nr::PWRITEV2,
    nr::LSEEK,
    nr::FLOCK,
    nr::FALLOCATE,
    nr::DUP,
    nr::DUP3,
    nr::VMSPLICE,
];

/// Calls on a descriptor that show or change what a regular file is, too.
const ON_STATUS: [u32; 3] = [nr::FSTAT, nr::FCHMOD, nr::FCHOWN];

/// Calls that write back what was stored in a regular file, notified where there is one.
const SYNC: [u32; 6] =
    [nr::FSYNC, nr::FDATASYNC, nr::MSYNC, nr::SYNC, nr::SYNCFS, nr::SYNC_FILE_RANGE];

/// Calls on two descriptors, and which argument is the second.
const ON_TWO: [(u32, usize); 4] =
    [(nr::SPLICE, 2), (nr::SENDFILE, 1), (nr::COPY_FILE_RANGE, 2), (nr::TEE, 1)];

/// Whether opens and reads of directories are notified too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directories {
    /// They are the kernel's.
    Native,
    /// They may hold devices that have to be listed.
    Listed,
}

/// The filter; devices have descriptors from `first` on, and regular files, if there are any,
/// from `regular` on.
pub(super) fn filter(
    first: u32,
    directories: Directories,
    regular: Option<u32>,
) -> Result<Filter, AssembleError> {
    let mut asm = Assembler::new();
    let (allow, notify, nosys) = (asm.label(), asm.label(), asm.label());
    let native = asm.label();
    asm.load_arch();
    asm.jump_if_eq(AUDIT_ARCH, native);
    // A program of another architecture would meet FIFOs.
    asm.jump(nosys);
    asm.bind(native);
    asm.load_nr();
    let at = |asm: &mut Assembler, nr: u32| {
        let label = asm.label();
        asm.jump_if_eq(nr, label);
        label
    };
    let on_descriptor = asm.label();
    // Where there are regular files, all descriptors are looked at.
    let syncs = [nr::FSYNC, nr::FDATASYNC].into_iter().filter(|_| regular.is_none());
    for nr in ON_DESCRIPTOR.into_iter().chain(nr::DUP2).chain(syncs) {
        asm.jump_if_eq(nr, on_descriptor);
    }
    if directories == Directories::Listed {
        asm.jump_if_eq(nr::GETDENTS64, on_descriptor);
    }
    let on_status = asm.label();
    for nr in ON_STATUS {
        asm.jump_if_eq(nr, on_status);
    }
    let openat = at(&mut asm, nr::OPENAT);
    let open = nr::OPEN.map(|nr| at(&mut asm, nr));
    let newfstatat = at(&mut asm, nr::NEWFSTATAT);
    let statx = at(&mut asm, nr::STATX);
    let changes: BTreeSet<u32> = changes::all().map(|(nr, _)| nr).collect();
    for nr in ALWAYS.into_iter().chain(OLD_ALWAYS.into_iter().flatten()).chain(changes) {
        asm.jump_if_eq(nr, notify);
    }
    for nr in SYNC.into_iter().filter(|_| regular.is_some()) {
        asm.jump_if_eq(nr, notify);
    }
    let mmap = at(&mut asm, nr::MMAP);
    let ioctl = at(&mut asm, nr::IOCTL);
    let fcntl = at(&mut asm, nr::FCNTL);
    let mremap = at(&mut asm, nr::MREMAP);
    let madvise = at(&mut asm, nr::MADVISE);
    let process_madvise = at(&mut asm, nr::PROCESS_MADVISE);
    let on_two = ON_TWO.map(|(nr, second)| (at(&mut asm, nr), second));
    let select = asm.label();
    for nr in iter::once(nr::PSELECT6).chain(nr::SELECT) {
        asm.jump_if_eq(nr, select);
    }
    let poll = asm.label();
    for nr in iter::once(nr::PPOLL).chain(nr::POLL) {
        asm.jump_if_eq(nr, poll);
    }
    let epoll_wait = asm.label();
    for nr in [nr::EPOLL_PWAIT, nr::EPOLL_PWAIT2].into_iter().chain(nr::EPOLL_WAIT) {
        asm.jump_if_eq(nr, epoll_wait);
    }
    let epoll_ctl = at(&mut asm, nr::EPOLL_CTL);
    let io_uring = at(&mut asm, nr::IO_URING_SETUP);
    let own_filter = (at(&mut asm, nr::SECCOMP), at(&mut asm, nr::PRCTL));
    // No number above has this bit; it comes last, since reads and writes come first.
    if let Some(x32) = nr::X32_BIT {
        asm.jump_if_set(x32, nosys);
    }
    asm.jump(allow);

    asm.bind(on_descriptor);
    asm.load_arg_low(0);
    device_number(&mut asm, first, notify, allow);

    asm.bind(on_status);
    asm.load_arg_low(0);
    device_number(&mut asm, regular.unwrap_or(first), notify, allow);

    for (label, flags) in [(Some(openat), 2), (open, 1)] {
        if let Some(label) = label {
            asm.bind(label);
            if directories == Directories::Native {
                asm.load_arg_low(flags);
                asm.jump_if_set(libc::O_DIRECTORY as u32, allow);
            }
            asm.jump(notify);
        }
    }

    // With AT_EMPTY_PATH these are fstat, which is frequent on all descriptors.
    for (label, flags) in [(newfstatat, 3), (statx, 2)] {
        let empty_path = asm.label();
        asm.bind(label);
        asm.load_arg_low(flags);
        asm.jump_if_set(libc::AT_EMPTY_PATH as u32, empty_path);
        asm.jump(notify);
        asm.bind(empty_path);
        asm.load_arg_low(0);
        asm.jump_if_ge(NEGATIVE, notify);
        device_number(&mut asm, regular.unwrap_or(first), notify, allow);
    }

    asm.bind(mmap);
    asm.load_arg_low(3);
    // The second: see `filter::namespace`.
    asm.jump_if_set((libc::MAP_ANONYMOUS | libc::MAP_DENYWRITE) as u32, allow);
    asm.load_arg_low(4);
    asm.jump_if_ge(NEGATIVE, allow);
    asm.jump(notify);

    // A device may be stood for by any number (see `standins`).
    asm.bind(ioctl);
    asm.load_arg_low(0);
    asm.jump_if_ge(NEGATIVE, allow);
    asm.jump_if_ge(first, notify);
    asm.load_arg_low(1);
    // A FIFO would say how many packets there are.
    asm.jump_if_eq(libc::FIONREAD as u32, notify);
    asm.and(0xff00);
    asm.jump_if_eq(TERMINAL, allow);
    asm.jump(notify);

    asm.bind(fcntl);
    asm.load_arg_low(4);
    asm.jump_if_eq(OWN as u32, allow);
    asm.load_arg_low(1);
    let command = asm.label();
    for which in [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_SETPIPE_SZ, libc::F_GETPIPE_SZ] {
        asm.jump_if_eq(which as u32, command);
    }
    let flags = asm.label();
    asm.jump_if_eq(libc::F_SETFL as u32, flags);
    asm.jump(allow);
    asm.bind(flags);
    asm.load_arg_low(2);
    asm.jump_if_set(libc::O_ASYNC as u32, command);
    asm.jump(allow);
    asm.bind(command);
    asm.load_arg_low(0);
    device_number(&mut asm, first, notify, allow);

    asm.bind(mremap);
    // Rounded up to 0, which makes a second map.
    asm.load_arg_high(1);
    asm.jump_if_eq(u32::MAX, notify);
    asm.jump_if_arg_greater(2, 1, notify);
    asm.jump(allow);

    removal(&mut asm, (madvise, process_madvise), notify, allow);

    asm.bind(poll);
    asm.load_arg_high(1);
    asm.jump_if_eq(OWN as u32, allow);
    asm.jump(notify);

    asm.bind(epoll_wait);
    asm.load_arg_high(0);
    asm.jump_if_eq(OWN as u32, allow);
    asm.jump(notify);

    asm.bind(epoll_ctl);
    asm.load_arg_high(0);
    asm.jump_if_eq(OWN as u32, allow);
    asm.load_arg_low(2);
    device_number(&mut asm, first, notify, allow);

    asm.bind(select);
    asm.load_arg_high(0);
    asm.jump_if_eq(OWN as u32, allow);
    // Without descriptors it is a sleep.
    asm.load_arg_low(0);
    asm.jump_if_eq(0, allow);
    asm.jump(notify);

    for (label, second) in on_two {
        let other = asm.label();
        asm.bind(label);
        asm.load_arg_low(0);
        device_number(&mut asm, first, notify, other);
        asm.bind(other);
        asm.load_arg_low(second);
        device_number(&mut asm, first, notify, allow);
    }

    filters(&mut asm, own_filter, notify, allow);

    // It would reach the FIFOs, and past this filter. Programs go on without.
    asm.bind(io_uring);
    asm.ret(Action::Errno(libc::EPERM as u16));
    asm.bind(nosys);
    asm.ret(Action::Errno(libc::ENOSYS as u16));
    asm.bind(notify);
    asm.ret(Action::Notify);
    asm.bind(allow);
    asm.ret(Action::Allow);
    asm.finish()
}

/// Whether the descriptor in the accumulator may be a device's. The usual answer, no, takes
/// two comparisons.
fn device_number(asm: &mut Assembler, first: u32, yes: Label, no: Label) {
    let (not_standard, high) = (asm.label(), asm.label());
    asm.jump_if_ge(LAST_STANDARD + 1, not_standard);
    asm.jump(yes);
    asm.bind(not_standard);
    asm.jump_if_ge(first, high);
    asm.jump(no);
    asm.bind(high);
    asm.jump_if_ge(NEGATIVE, no);
    asm.jump(yes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_assembles_for_any_limit() {
        for first in [64, 960] {
            assert!(filter(first, Directories::Native, None).is_ok());
            assert!(filter(first, Directories::Listed, Some(3)).is_ok());
        }
    }
}
