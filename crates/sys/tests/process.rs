//! Fork, exec, signals and other processes' memory.

use std::ffi::{OsStr, OsString};

use devmap_sys::process::{
    Fork, die_by_signal, exec, fork, read_memory, set_default, set_ignored, write_memory,
};

/// The wait status of a forked process, itself with one thread, that runs
/// `program`; its result is the exit status.
fn in_child(program: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the programs below allocate at most, for which the C library is ready.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let code = program();
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the kernel writes one int to `status`.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

#[test]
fn fork_returns_twice() {
    let status = in_child(|| match fork() {
        Ok(Fork::Child) => 7,
        Ok(Fork::Parent(child)) => {
            let status =
                rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
            status.ok().flatten().and_then(|(_, status)| status.exit_status()).unwrap_or(1)
        }
        Err(_) => 2,
    });
    assert_eq!(status, 7 << 8);
}

#[test]
fn fork_is_refused_among_threads() {
    std::thread::scope(|scope| {
        let error = scope.spawn(|| fork().unwrap_err()).join().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    });
}

#[test]
fn exec_replaces_the_process() {
    let args = ["-c", "test \"$1\" = 'a b' && exit 9", "sh", "a b"].map(OsString::from);
    assert_eq!(in_child(|| exec(OsStr::new("sh"), &args).raw_os_error().unwrap_or(1)), 9 << 8);
}

#[test]
fn exec_says_why_not() {
    let errno = |name: &str| exec(OsStr::new(name), &[]).raw_os_error();
    assert_eq!(errno("/no-such-directory/program"), Some(libc::ENOENT));
    assert_eq!(errno("/"), Some(libc::EACCES));
    assert_eq!(errno("with\0zero"), Some(libc::EINVAL));
}

#[test]
fn ignored_signals_are_ignored_until_they_are_not() {
    let status = in_child(|| {
        if set_ignored(&[libc::SIGTERM, libc::SIGINT]).is_err() {
            return 1;
        }
        // SAFETY: sends signals to this process.
        unsafe { libc::raise(libc::SIGTERM) };
        if set_default(&[libc::SIGTERM]).is_err() {
            return 2;
        }
        // SAFETY: as above.
        unsafe {
            libc::raise(libc::SIGINT);
            libc::raise(libc::SIGTERM);
        }
        3
    });
    assert_eq!(status, libc::SIGTERM);
    assert_eq!(set_ignored(&[libc::SIGKILL]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn death_by_a_signal_is_by_that_signal_without_a_core() {
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV, libc::SIGQUIT, libc::SIGPIPE] {
        let status = in_child(|| {
            // SAFETY: changes this thread's signal mask.
            unsafe {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&mut all);
                libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
            }
            die_by_signal(signal)
        });
        // No core: the bit 0x80 is not set.
        assert_eq!(status, signal);
    }
    assert_eq!(in_child(|| die_by_signal(libc::SIGCHLD)), (128 + libc::SIGCHLD) << 8);
}

#[test]
fn memory_that_is_not_there_is_efault() {
    let own = std::process::id();
    // Two pages, of which the second is taken away.
    // SAFETY: no address is asked for; the page unmapped is ours.
    let address = unsafe {
        let both = libc::mmap(
            std::ptr::null_mut(),
            8192,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(both, libc::MAP_FAILED);
        assert_eq!(libc::mprotect(both.add(4096), 4096, libc::PROT_NONE), 0);
        both as u64
    };
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    let mut bytes = [0; 88];
    write_memory(own, address + 4096 - 88, &[3; 88]).unwrap();
    read_memory(own, address + 4096 - 88, &mut bytes).unwrap();
    assert_eq!(bytes, [3; 88]);
    for start in [address + 4096 - 44, address + 4096, 0, u64::MAX - 20] {
        assert_eq!(errno(read_memory(own, start, &mut bytes)), Some(libc::EFAULT));
        assert_eq!(errno(write_memory(own, start, &bytes)), Some(libc::EFAULT));
    }
    read_memory(own, 0, &mut []).unwrap();
    write_memory(own, 0, &[]).unwrap();
    // No process has the largest number.
    assert_eq!(errno(read_memory(i32::MAX as u32, address, &mut bytes)), Some(libc::ESRCH));
}
