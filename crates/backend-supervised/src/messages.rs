//! What devmap tells its user, on standard error. That may be a pipe that nobody reads, or a
//! terminal that stands still: then messages are lost, and no program waits for them.

use std::{
    collections::HashSet,
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a message waits for room; when one has waited for so long, those after it do not.
const PATIENCE: Duration = Duration::from_secs(1);

/// As much a pipe that has room takes at once (`PIPE_BUF`).
const AT_ONCE: usize = 4096;

/// Whether the last message found no room. Locked by who writes.
static NO_ROOM: Mutex<bool> = Mutex::new(false);

/// How many messages were lost since the last that was not.
static LOST: AtomicU64 = AtomicU64::new(0);

/// An error, with the remedy where it is a limit's.
pub(crate) fn with_remedy(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EFBIG) => {
            format!("{error}; raise the limit of a file's size (`ulimit -f`)")
        }
        Some(libc::EAGAIN) => {
            format!(
                "{error}; raise the limit of a user's processes and threads (`ulimit -u`), of a \
                 container's (`--pids-limit`), or of memory (`ulimit -v`, `ulimit -d`)"
            )
        }
        Some(libc::EMFILE) => format!("{error}; raise the limit of open files (`ulimit -n`)"),
        Some(libc::ENFILE) => {
            format!("{error}; raise the machine's limit of open files (`sysctl fs.file-max`)")
        }
        _ => error.to_string(),
    }
}

/// The same, of inotify, whose limit has the errno of that of open files.
pub(crate) fn watch_remedy(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EMFILE) => format!(
            "{error}; raise the limit of a user's watchers (`sysctl \
             fs.inotify.max_user_instances`) or of open files (`ulimit -n`)"
        ),
        _ => with_remedy(error),
    }
}

/// Tells the user something that went wrong in devmap or a driver.
pub(crate) fn report(message: fmt::Arguments<'_>) {
    // A program that shares the pipe may have taken the room before the write.
    let told = NO_ROOM.try_lock_for(2 * PATIENCE).is_some_and(|mut no_room| {
        let lost = LOST.load(Ordering::SeqCst);
        let text = match lost {
            0 => format!("devmap: {message}\n"),
            _ => format!("devmap: messages lost for want of room: {lost}\ndevmap: {message}\n"),
        };
        let patience = if *no_room { Duration::ZERO } else { PATIENCE };
        let told = write(io::stderr().as_fd(), text.as_bytes(), patience);
        *no_room = !told;
        if told {
            LOST.fetch_sub(lost, Ordering::SeqCst);
        }
        told
    });
    if !told {
        LOST.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whether there was room. Without standard error there is nobody to tell.
fn write(to: BorrowedFd<'_>, text: &[u8], patience: Duration) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let mut fds = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
        let time = Timespec::try_from(patience).ok();
        if rustix::io::retry_on_intr(|| poll(&mut fds, time.as_ref())) == Ok(0) {
            return false;
        }
        match rustix::io::retry_on_intr(|| rustix::io::write(to, &rest[..rest.len().min(AT_ONCE)]))
        {
            Ok(written) if written > 0 => rest = &rest[written..],
            _ => break,
        }
    }
    true
}

/// As [`report`], the first time only.
pub(crate) fn report_once(message: fmt::Arguments<'_>) {
    static TOLD: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let text = message.to_string();
    if TOLD.lock().get_or_insert_default().insert(text.clone()) {
        report(format_args!("{text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_reads_nobody_waits() {
        let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let long = vec![b'x'; 3 * AT_ONCE];
        while write(to.as_fd(), &long, Duration::ZERO) {}
        assert!(!write(to.as_fd(), b"more", Duration::ZERO));
        let mut buffer = [0; AT_ONCE];
        while rustix::io::read(&from, &mut buffer).is_ok() {}
        assert!(write(to.as_fd(), b"more", Duration::ZERO));
        assert_eq!(rustix::io::read(&from, &mut buffer), Ok(4));
        drop(from);
        assert!(write(to.as_fd(), b"to nobody", PATIENCE));
    }
}
