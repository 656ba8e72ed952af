//! Sealed memory files of one exact size: the memory that driver and program
//! share. What does not live here: mapping them (`mapping`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;

/// Makes a memory file of `len` bytes, zeroed, that can neither shrink nor grow
/// (`F_SEAL_SHRINK`, `F_SEAL_GROW`), so a mapping of it never faults with
/// SIGBUS. `name` is what `/proc/PID/maps` shows after `/memfd:`. Other users who are
/// given a file of it for reading cannot open it anew for writing.
///
/// # Errors
/// Those of memfd_create(2) and ftruncate(2).
pub fn create(name: &str, len: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // NOEXEC_SEAL, Linux 6.3, is what vm.memfd_noexec=2 asks for.
    let memory = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    ftruncate(&memory, len)?;
    fchmod(&memory, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
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
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn size_is_fixed() {
        let memory = create("sized", 8192).unwrap();
        let file = File::from(memory);
        assert_eq!(file.metadata().unwrap().len(), 8192);
        assert_eq!(file.set_len(4096).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(file.set_len(16384).unwrap_err().raw_os_error(), Some(libc::EPERM));
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
