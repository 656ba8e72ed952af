//! The open that a lookup is for, and the place of the descriptor that it makes.
//!
//! What does not live here: serving the open (`devfs`).

use std::{io, sync::Arc};

use devmap_driver::Errno;
use devmap_sys::{arch::nr, process};

use crate::{
    attach::{self, Answer},
    client,
    filter::FIRST_DESCRIPTOR,
};

/// Whether a thread stands in a system call that opens a file for use. Where it may not
/// be looked at, it gets the character device, which does not open.
pub(super) fn is_open(tid: u32) -> Result<bool, Errno> {
    Ok(client::waits_in(tid)?.is_some_and(|call| opens(tid, &call)))
}

/// Whether a call of the thread opens a file for use.
pub(super) fn opens(tid: u32, (call, args): &(u32, [u64; 6])) -> bool {
    let is_path = |flags: u64| flags & libc::O_PATH as u64 != 0;
    match *call {
        nr::OPENAT => !is_path(args[2]),
        nr::OPENAT2 => {
            let mut flags = [0; 8];
            let read = process::read_memory(tid, args[2], &mut flags);
            read.is_ok() && !is_path(u64::from_ne_bytes(flags))
        }
        call if Some(call) == nr::OPEN => !is_path(args[1]),
        call => Some(call) == nr::CREAT,
    }
}

/// Answers an open of a thread; the descriptor of a native one then moves.
pub(super) fn answer(tid: u32, is_native: bool, answer: &Arc<Answer>) -> io::Result<()> {
    if is_native && let Ok(held) = attach::hold_in_fuse(tid, answer) {
        move_up(held, tid)?;
    }
    answer.send()
}

/// Moves the descriptor that an open has just made to the range that the filter
/// looks at. Where it cannot be moved it stays: then `fstat` shows a regular file.
fn move_up(mut held: attach::Held, tid: u32) -> io::Result<()> {
    let descriptor = held.result();
    let movable = (3..i64::from(FIRST_DESCRIPTOR)).contains(&descriptor) && has_room(tid);
    let moved = if movable { copy_up(&mut held, descriptor as u64) } else { Ok(descriptor) };
    if let Ok(number) = moved {
        held.set_result(number);
    }
    // Also after an error: the thread gets its registers and its signal mask back.
    held.release()
}

/// The copy that takes a descriptor's place, or the descriptor itself.
fn copy_up(held: &mut attach::Held, low: u64) -> io::Result<i64> {
    let close_on_exec = held.inject(nr::FCNTL, [low, libc::F_GETFD as u64, 0, 0, 0, 0])?;
    let duplicate = if close_on_exec & i64::from(libc::FD_CLOEXEC) != 0 {
        libc::F_DUPFD_CLOEXEC
    } else {
        libc::F_DUPFD
    };
    let args = [low, duplicate as u64, u64::from(FIRST_DESCRIPTOR), 0, 0, 0];
    let high = held.inject(nr::FCNTL, args)?;
    if high < 0 {
        return Ok(low.cast_signed());
    }
    held.inject(nr::CLOSE, [low, 0, 0, 0, 0, 0])?;
    Ok(high)
}

/// Whether the soft limit of descriptors allows the range. The kernel finds out where it is
/// not known.
fn has_room(tid: u32) -> bool {
    client::descriptor_limit(tid).is_none_or(|limit| limit > u64::from(FIRST_DESCRIPTOR))
}
