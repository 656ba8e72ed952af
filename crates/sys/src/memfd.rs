//! Memory files: sealed ones of one exact size, the memory that driver and program share, and
//! ones whose size changes, the content of a regular file. What does not live here: mapping
//! them (`mapping`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;

/// The mode of a memory that [`create`] makes.
pub const MODE: u16 = 0o644;

/// How often [`permitted`] tries again: whoever changes the mode in between wins some rounds.
const ROUNDS: u32 = 100;

/// Makes a memory file of `len` bytes, zeroed, that can neither shrink nor grow
/// (`F_SEAL_SHRINK`, `F_SEAL_GROW`), so a mapping of it never faults with
/// SIGBUS. `name` is what `/proc/PID/maps` shows after `/memfd:`. Other users who are
/// given a file of it for reading cannot open it anew for writing.
///
/// # Errors
/// Those of memfd_create(2) and ftruncate(2).
pub fn create(name: &str, len: u64) -> io::Result<OwnedFd> {
    let memory = new(name)?;
    ftruncate(&memory, len)?;
    fchmod(&memory, Mode::from_raw_mode(MODE.into()))?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

/// Opens, with `open`, a memory file that was made with this mode, though its mode may not allow
/// it any more: a program of the same user that has a descriptor of it can change that, and others
/// shall have the memory all the same.
///
/// # Errors
/// Those of `open`; of `EACCES` the last: the memory belongs to another user.
pub fn permitted<T>(
    memory: BorrowedFd<'_>,
    mode: u16,
    mut open: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let is_refused = |error: &io::Error| error.raw_os_error() == Some(libc::EACCES);
    for _ in 0..ROUNDS {
        match open() {
            Err(error) if is_refused(&error) => {
                if fchmod(memory, Mode::from_raw_mode(mode.into())).is_err() {
                    return Err(error);
                }
            }
            opened => return opened,
        }
    }
    open()
}

/// Makes an empty memory file whose size changes as that of any file. Nobody can seal it, and
/// `mode` is what a later open of it is held to. The file is open for reading and writing.
///
/// # Errors
/// Those of memfd_create(2) and open(2).
pub fn create_open_ended(name: &str, mode: u16) -> io::Result<OwnedFd> {
    let memory = new(name)?;
    fcntl_add_seals(&memory, SealFlags::SEAL)?;
    // Only a file that was opened counts for `is_alone`.
    let opened = reopen(memory.as_fd(), false)?;
    fchmod(&opened, Mode::from_raw_mode(mode.into()))?;
    Ok(opened)
}

/// Whether `file`, opened for writing, is the only open file of its inode: nobody else has a
/// descriptor of it, nor a map. Asked by a lease (`F_SETLEASE`), which is given back.
///
/// # Errors
/// Those of fcntl(2): the file belongs to another user.
pub fn is_alone(file: BorrowedFd<'_>) -> io::Result<bool> {
    let lease = |kind: libc::c_int| {
        // SAFETY: F_SETLEASE takes an integer and touches no memory of this process; the
        // descriptor is open for as long as it is borrowed.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    match lease(libc::F_WRLCK) {
        Ok(()) => lease(libc::F_UNLCK).map(|()| true),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
        Err(error) => Err(error),
    }
}

fn new(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // NOEXEC_SEAL, Linux 6.3, is what vm.memfd_noexec=2 asks for.
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        other => Ok(other?),
    }
}

/// Opens the file behind `fd` anew, with an offset and an access mode of its own:
/// for reading only, or for reading and writing.
///
/// # Errors
/// Those of open(2) on `/proc/self/fd/N`.
pub fn reopen(fd: BorrowedFd<'_>, read_only: bool) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(File::options().read(true).write(!read_only).open(path)?.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::mapping::{Mapping, Protection, Sharing};

    #[test]
    fn size_is_fixed() {
        let memory = create("sized", 8192).unwrap();
        let file = File::from(memory);
        assert_eq!(file.metadata().unwrap().len(), 8192);
        assert_eq!(file.set_len(4096).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(file.set_len(16384).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn who_else_has_it_open_or_mapped_is_seen() {
        let memory = create_open_ended("open-ended", 0o444).unwrap();
        ftruncate(&memory, 8192).unwrap();
        assert!(is_alone(memory.as_fd()).unwrap());
        let copy = memory.try_clone().unwrap();
        assert!(is_alone(memory.as_fd()).unwrap(), "a copy is of the same open file");
        drop(copy);
        let reader = reopen(memory.as_fd(), true).unwrap();
        assert!(!is_alone(memory.as_fd()).unwrap());
        let map = Mapping::new(reader.as_fd(), 0, 4096, Protection::Read, Sharing::Shared).unwrap();
        drop(reader);
        assert!(!is_alone(memory.as_fd()).unwrap());
        drop(map);
        assert!(is_alone(memory.as_fd()).unwrap());
        assert_eq!(fcntl_add_seals(&memory, SealFlags::GROW), Err(Errno::PERM));
    }

    #[test]
    fn a_mode_that_was_taken_is_given_back() {
        let memory = create("mode", 4096).unwrap();
        // As open(2) does for who is not root.
        let open = || match Mode::from_raw_mode(rustix::fs::fstat(&memory)?.st_mode) {
            now if now.contains(Mode::from_raw_mode(MODE.into())) => Ok(now),
            _ => Err(io::Error::from_raw_os_error(libc::EACCES)),
        };
        let intact = open().unwrap();
        fchmod(&memory, Mode::empty()).unwrap();
        assert_eq!(permitted(memory.as_fd(), MODE, open).unwrap(), intact);
        // Somebody takes it again and again.
        let mut rounds = 0;
        let opened = permitted(memory.as_fd(), MODE, || {
            rounds += 1;
            if rounds < 10 {
                fchmod(&memory, Mode::empty())?;
            }
            open()
        });
        assert_eq!((opened.unwrap(), rounds), (intact, 10));
        let other =
            permitted(memory.as_fd(), MODE, || Err::<(), _>(io::ErrorKind::NotFound.into()));
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn reopened_read_only_refuses_writes() {
        let memory = create("ro", 4096).unwrap();
        let mut reader = File::from(reopen(memory.as_fd(), true).unwrap());
        assert_eq!(reader.write(b"x").unwrap_err().raw_os_error(), Some(libc::EBADF));
        let mut writer = File::from(reopen(memory.as_fd(), false).unwrap());
        assert_eq!(writer.write(b"x").unwrap(), 1);
    }
}
