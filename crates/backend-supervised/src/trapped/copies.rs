//! Copies of a device's descriptor in trapped mode: they too must have a number that the
//! filter looks at.

use std::sync::Arc;

use devmap_sys::{
    arch::nr,
    seccomp::{Notification, Reply},
};

use super::{Trapped, descriptors::Descriptor, filter, numbers};
use crate::{
    attach::{self, NotHeld},
    client,
    filter::LAST_STANDARD,
    notify::Call,
};

/// Serves a call if it copies a descriptor, or asks a FIFO for what a device is not.
pub(super) fn serve(trapped: &Trapped, call: &Call<'_>, descriptor: &Arc<Descriptor>) -> bool {
    let [old, second, third, ..] = call.notification.args;
    let (old, second) = (old as u32, second as u32);
    let first = trapped.first;
    match call.notification.nr {
        nr::DUP => duplicate(trapped, call, descriptor, libc::F_DUPFD, first),
        nr::FCNTL => match second.cast_signed() {
            libc::F_SETFL => set_flags(call, third),
            command @ (libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => {
                let lowest = third as u32;
                match client::descriptor_limit(call.notification.tid) {
                    Some(most) if u64::from(lowest) >= most => {
                        call.answer(Reply::Error(libc::EINVAL));
                    }
                    _ => duplicate(trapped, call, descriptor, command, lowest.max(first)),
                }
            }
            _ => call.answer(Reply::Error(libc::EBADF)),
        },
        nr if nr == nr::DUP3 || Some(nr) == nr::DUP2 => {
            if old == second || second <= LAST_STANDARD || second >= trapped.first {
                call.answer(Reply::Continue);
                return true;
            }
            stand_in(trapped, call, descriptor);
        }
        _ => return false,
    }
    true
}

/// Puts what stands for a device at the number that `dup2` or `dup3` asks for.
fn stand_in(trapped: &Trapped, call: &Call<'_>, descriptor: &Arc<Descriptor>) {
    let Notification { tid, nr, args: [old, new, flags, ..], .. } = *call.notification;
    let flags = if nr == nr::DUP3 { flags as i32 } else { 0 };
    if flags & !libc::O_CLOEXEC != 0 {
        return call.answer(Reply::Error(libc::EINVAL));
    }
    let now = client::status_flags(tid, old as u32).unwrap_or(0);
    let nonblocking = now & libc::O_NONBLOCK.cast_unsigned() != 0;
    let placed = trapped.descriptors.add_standin(descriptor, nonblocking).and_then(|client| {
        call.replace_descriptor(&client, new as u32, flags & libc::O_CLOEXEC != 0)
    });
    call.answer(match placed {
        Ok(()) => Reply::Value(i64::from(new as u32)),
        Err(error) => Reply::Error(error.raw_os_error().unwrap_or(libc::EBADF)),
    });
}

/// Sets the status flags but `O_ASYNC`, which the kernel leaves unset where a driver signals
/// nobody; a FIFO does.
fn set_flags(call: &Call<'_>, flags: u64) {
    let Notification { tid, args: [fd, ..], .. } = *call.notification;
    let flags = flags & !(libc::O_ASYNC as u64);
    match attach::hold(tid, || call.send(Reply::Error(libc::EIO))) {
        Ok(mut held) => {
            let args = [fd, libc::F_SETFL as u64, flags, 0, filter::OWN, 0];
            let set = held.inject(nr::FCNTL, args).unwrap_or(-i64::from(libc::EIO));
            held.set_result(set);
            // If it fails, it has been killed.
            let _ = held.release();
        }
        // Under a debugger they stay as they are.
        Err(NotHeld::Refused) => call.answer(Reply::Value(0)),
        Err(NotHeld::Gone) => {}
    }
}

/// Copies a descriptor to the first free number from `lowest` on.
fn duplicate(
    trapped: &Trapped,
    call: &Call<'_>,
    descriptor: &Descriptor,
    command: i32,
    lowest: u32,
) {
    let here = || duplicate_here(trapped, call, command, lowest);
    let there = || duplicate_there(call, command, lowest);
    // See `numbers`.
    let is_answered = match numbers::is_alone(call.notification.tid) {
        true => here() || there(),
        false => there() || here(),
    };
    if !is_answered {
        crate::report(format_args!(
            "{}: dup by thread {} fails with EMFILE: a debugger traces it, so devmap cannot \
             choose the copy's number",
            descriptor.device.path.display(),
            call.notification.tid
        ));
        call.answer(Reply::Error(libc::EMFILE));
    }
}

/// Copies it for the caller. False where the descriptor cannot be had, as in containers.
fn duplicate_here(trapped: &Trapped, call: &Call<'_>, command: i32, lowest: u32) -> bool {
    let Notification { tid, args: [old, ..], .. } = *call.notification;
    let Ok(copy) = client::take_descriptor(tid, old as u32) else { return false };
    let mut last = trapped.placing.lock();
    let number = numbers::free_number(tid, lowest, &mut last).filter(|number| {
        let close_on_exec = command == libc::F_DUPFD_CLOEXEC;
        call.replace_descriptor(&copy, *number, close_on_exec).is_ok()
    });
    drop(last);
    call.answer(number.map_or(Reply::Error(libc::EMFILE), |number| Reply::Value(number.into())));
    true
}

/// Has the caller copy it by itself. False where a debugger has the caller.
fn duplicate_there(call: &Call<'_>, command: i32, lowest: u32) -> bool {
    let Notification { tid, args: [old, ..], .. } = *call.notification;
    match attach::hold(tid, || call.send(Reply::Error(libc::EMFILE))) {
        Ok(mut held) => {
            let args = [old, command as u64, lowest.into(), 0, filter::OWN, 0];
            let made = held.inject(nr::FCNTL, args);
            // EINVAL: the limit of descriptors is no more than `lowest`.
            let emfile = -i64::from(libc::EMFILE);
            held.set_result(made.ok().filter(|made| *made >= 0).unwrap_or(emfile));
            let _ = held.release();
            true
        }
        Err(NotHeld::Refused) => false,
        Err(NotHeld::Gone) => true,
    }
}
