//! Copies of a device's descriptor in trapped mode: they too must have a number that the
//! filter looks at.

use devmap_driver::Errno;
use devmap_sys::{arch::nr, seccomp::Reply};

use super::{Trapped, descriptors::Descriptor, filter};
use crate::{
    attach::{self, NotHeld},
    filter::LAST_STANDARD,
    notify::Call,
};

/// Serves a call if it copies a descriptor, or asks a FIFO for what a device is not.
pub(super) fn serve(trapped: &Trapped, call: &Call<'_>, descriptor: &Descriptor) -> bool {
    let [old, second, third, ..] = call.notification.args;
    let (old, second) = (old as u32, second as u32);
    let first = u64::from(trapped.first);
    match call.notification.nr {
        nr::DUP => duplicate(trapped, call, descriptor, libc::F_DUPFD, first),
        nr::FCNTL => match second.cast_signed() {
            command @ (libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => {
                let lowest = u64::from(third as u32).max(first);
                duplicate(trapped, call, descriptor, command, lowest);
            }
            _ => call.answer(Reply::Error(libc::EBADF)),
        },
        nr if nr == nr::DUP3 || Some(nr) == nr::DUP2 => {
            if old == second || second <= LAST_STANDARD || second >= trapped.first {
                call.answer(Reply::Continue);
                return true;
            }
            crate::report_once(format_args!(
                "{}: dup2 to descriptor {second} fails with EBADF: in trapped mode a device can be \
                 at 0, 1, 2 and from {first} on only; see `devmap doctor`",
                descriptor.device.path.display()
            ));
            call.answer(Reply::Error(libc::EBADF));
        }
        _ => return false,
    }
    true
}

/// Has the caller make the copy itself, from `lowest` on.
fn duplicate(
    trapped: &Trapped,
    call: &Call<'_>,
    descriptor: &Descriptor,
    command: i32,
    lowest: u64,
) {
    // A number that is free here must not be taken by an open in between.
    let _placing = trapped.placing.lock();
    let old = call.notification.args[0];
    let held = attach::hold(call.notification.tid, || call.send(Reply::Error(Errno::EMFILE.raw())));
    match held {
        Ok(mut held) => {
            let args = [old, command as u64, lowest, 0, filter::OWN, 0];
            let made = held.inject(nr::FCNTL, args);
            // EINVAL: the limit of descriptors is no more than `lowest`.
            let emfile = -i64::from(Errno::EMFILE.raw());
            let made = made.map(|made| if made < 0 { emfile } else { made }).unwrap_or(emfile);
            held.set_result(made);
            let _ = held.release();
        }
        Err(NotHeld::Refused) => {
            crate::report(format_args!(
                "{}: dup by thread {} fails with EMFILE: a debugger traces it, so devmap cannot \
                 choose the copy's number",
                descriptor.device.path.display(),
                call.notification.tid
            ));
            call.answer(Reply::Error(Errno::EMFILE.raw()));
        }
        Err(NotHeld::Gone) => {}
    }
}
