//! The numbers of descriptors that clients are given: such as the filter looks at.
//!
//! To look for a free number and then to take it would close what another thread of the client has
//! been given there in between, which any open may be once the numbers below are taken. So in a
//! process with several threads the kernel chooses: the caller copies the descriptor to the first
//! free number (`F_DUPFD`) before it returns. That costs some 50 microseconds. A process with one
//! thread makes no other call meanwhile. Not seen are other processes that share its descriptors
//! (`CLONE_FILES` without `CLONE_THREAD`).

use std::{collections::HashSet, fs, os::fd::OwnedFd};

use devmap_sys::{arch::nr, seccomp::Reply};

use super::{ROOM, Trapped, filter};
use crate::{
    attach::{self, Held, NotHeld},
    client,
    filter::LAST_STANDARD,
    notify::Call,
};

/// Which numbers a descriptor may have.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    /// The standard ones first.
    pub(super) standard: bool,
    pub(super) lowest: u32,
}

impl Numbers {
    /// The first at which a client has no descriptor.
    fn free(self, tid: u32, last: &mut u32) -> Option<u32> {
        let mut standard = (0..=LAST_STANDARD).filter(|_| self.standard);
        standard
            .find(|number| client::is_free(tid, *number))
            .or_else(|| free_number(tid, self.lowest, last))
    }
}

/// A descriptor that a caller has by now, and is to be told of as the result of its call.
pub(super) struct Given<'a> {
    call: &'a Call<'a>,
    held: Option<Held>,
    pub(super) number: u32,
}

impl Given<'_> {
    pub(super) fn tell(self) {
        match self.held {
            Some(mut held) => {
                held.set_result(self.number.into());
                // If it fails, it has been killed.
                let _ = held.release();
            }
            None => self.call.answer(Reply::Value(self.number.into())),
        }
    }
}

/// Why a caller has got no descriptor.
pub(super) enum NotGiven {
    /// No number is free. It has been told nothing yet, if it is there.
    Untold,
    /// The same, and it has been told.
    Told,
}

/// Whether a thread is the only one of its process.
pub(super) fn is_alone(tid: u32) -> bool {
    fs::read_to_string(format!("/proc/{tid}/status")).is_ok_and(|status| {
        status.lines().find_map(|line| line.strip_prefix("Threads:")).map(str::trim) == Some("1")
    })
}

/// Gives a caller a descriptor of a file.
pub(super) fn give<'a>(
    trapped: &Trapped,
    call: &'a Call<'a>,
    file: &OwnedFd,
    numbers: Numbers,
    close_on_exec: bool,
) -> Result<Given<'a>, NotGiven> {
    let tid = call.notification.tid;
    if !is_alone(tid) {
        let limit = client::descriptor_limit(tid).unwrap_or(u64::MAX);
        if u64::from(numbers.lowest) >= limit {
            return Err(NotGiven::Untold);
        }
        match give_held(call, file, numbers, close_on_exec) {
            // A debugger has it.
            Err(NotHeld::Refused) => {}
            Err(NotHeld::Gone) => return Err(NotGiven::Untold),
            Ok(given) => return given.ok_or(NotGiven::Told),
        }
    }
    let mut last = trapped.placing.lock();
    let number = numbers.free(tid, &mut last).ok_or(NotGiven::Untold)?;
    match call.replace_descriptor(file, number, close_on_exec) {
        Ok(()) => Ok(Given { call, held: None, number }),
        Err(_) => Err(NotGiven::Untold),
    }
}

/// The same, at a number that the kernel chooses. `None`: there is none, and it has been told.
fn give_held<'a>(
    call: &'a Call<'a>,
    file: &OwnedFd,
    numbers: Numbers,
    close_on_exec: bool,
) -> Result<Option<Given<'a>>, NotHeld> {
    let mut low = None;
    let mut held = attach::hold(call.notification.tid, || {
        // Descriptors can be given only before the answer.
        low = call.add_scratch(file).ok();
        call.send(Reply::Error(libc::EMFILE))
    })?;
    let number = low.and_then(|low| {
        let mut control = |command: i32, argument: u32| {
            let args = [low.into(), command as u64, argument.into(), 0, filter::OWN, 0];
            let result = held.inject(nr::FCNTL, args).unwrap_or(-i64::from(libc::EIO));
            u32::try_from(result).ok()
        };
        if low >= numbers.lowest || numbers.standard && low <= LAST_STANDARD {
            let given = if close_on_exec { Some(0) } else { control(libc::F_SETFD, 0) };
            if given.is_some() {
                return Some(low);
            }
        }
        let copies = if close_on_exec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
        let number = control(copies, numbers.lowest);
        // A filter of its own that forbids it leaves it a second descriptor of the device.
        let _ = held.inject(nr::CLOSE, [low.into(), 0, 0, 0, 0, 0]);
        number
    });
    if let Some(number) = number {
        return Ok(Some(Given { call, held: Some(held), number }));
    }
    let _ = held.release();
    Ok(None)
}

/// A number from `first` on at which a client has no descriptor, if its limit allows it: the
/// lowest, as long as few are taken.
pub(super) fn free_number(tid: u32, first: u32, last: &mut u32) -> Option<u32> {
    let limit = client::descriptor_limit(tid)?;
    let free = |number: u32| u64::from(number) < limit && client::is_free(tid, number);
    // Up to the most that select(2) takes.
    let few = first..first + ROOM as u32;
    if let Some(number) = few.clone().find(|number| free(*number)) {
        return Some(number);
    }
    // Looking at all of them for each of thousands would take minutes.
    let next = last.saturating_add(1).max(few.end);
    *last = if free(next) { next } else { lowest_free(tid, first, limit)? };
    Some(*last)
}

fn lowest_free(tid: u32, first: u32, limit: u64) -> Option<u32> {
    let taken: HashSet<u32> = fs::read_dir(format!("/proc/{tid}/fd"))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let free = (first..).find(|number| !taken.contains(number))?;
    (u64::from(free) < limit).then_some(free)
}
