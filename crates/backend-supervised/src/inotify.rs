//! What inotify tells of files: that they were closed or changed.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd};

use rustix::fs::inotify::{ReadFlags, Reader};

/// Gives `each` the events that have been told by now, with the number of the watch, and those
/// that are read along with them. No more are read: programs may close files for ever. Whether
/// there were any.
///
/// # Errors
/// Those of ioctl(2) and read(2).
pub(crate) fn read(inotify: &OwnedFd, each: impl FnMut(ReadFlags, i32)) -> io::Result<bool> {
    /// Of a file's event, which has no name in it.
    const LEN: u64 = 16;
    let told = rustix::io::ioctl_fionread(inotify)? / LEN;
    read_told(inotify, told, each)?;
    Ok(told > 0)
}

/// Reads `told` events, and what a read of those takes of later ones: nobody else finds it.
fn read_told(inotify: &OwnedFd, told: u64, mut each: impl FnMut(ReadFlags, i32)) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(inotify, &mut buffer);
    let mut left = told;
    while left > 0 || !reader.is_buffer_empty() {
        let event = reader.next()?;
        each(event.events(), event.wd());
        left = left.saturating_sub(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use devmap_sys::memfd;
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

    use super::*;

    /// Programs close files between the question how much there is and the read.
    #[test]
    fn events_that_come_before_the_read_are_not_lost() {
        const CLOSES: usize = 24;
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        let memories = ["one", "other"].map(|name| memfd::create(name, 1).unwrap());
        let watches = memories.each_ref().map(|memory| {
            let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
            add_watch(&inotify, path, WatchFlags::CLOSE).unwrap()
        });
        let close = |nth: usize| drop(memfd::reopen(memories[nth % 2].as_fd(), true).unwrap());
        let mut seen = Vec::new();
        assert!(!read(&inotify, |_, watch| seen.push(watch)).unwrap());
        // One after the other: two of the same file would be one event.
        (0..CLOSES).for_each(close);
        read_told(&inotify, 1, |_, watch| seen.push(watch)).unwrap();
        assert_eq!(seen, watches.repeat(CLOSES / 2));
        assert!(!read(&inotify, |_, _| ()).unwrap());
        close(0);
        assert!(read(&inotify, |_, watch| seen.push(watch)).unwrap());
        assert_eq!(seen.len(), CLOSES + 1);
    }
}
