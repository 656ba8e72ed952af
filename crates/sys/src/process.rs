//! Processes and their memory: reading and writing another's memory, fork,
//! exec, what becomes of signals, dying by one.
//!
//! What does not live here: what `rustix` does safely (waitid, kill, prctl,
//! setrlimit, pidfds); stopping a thread (`ptrace`).

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::process::Pid;

use crate::check;

/// Copies `into.len()` bytes from `address` of process (or thread) `tid`.
/// All bytes or an error; on an error `into` may hold some of them.
///
/// # Errors
/// `EFAULT` when any byte is not mapped or not readable, `EPERM` when the
/// process may not be looked into (not dumpable, another user), `ESRCH` when it
/// is gone. See process_vm_readv(2).
pub fn read_memory(tid: u32, address: u64, into: &mut [u8]) -> io::Result<()> {
    if into.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: into.len() };
    // SAFETY: the kernel writes at most into.len() bytes to `into`; `remote` is
    // never dereferenced in this process.
    let copied = check(unsafe { libc::process_vm_readv(tid as i32, &local, 1, &remote, 1, 0) })?;
    whole(copied, into.len())
}

/// Copies `from` to `address` of process (or thread) `tid`. All bytes or an
/// error; on an error some of them may have been written.
///
/// # Errors
/// As [`read_memory`]; `EFAULT` also where the memory is not writable.
pub fn write_memory(tid: u32, address: u64, from: &[u8]) -> io::Result<()> {
    if from.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: from.len() };
    // SAFETY: the kernel only reads from.len() bytes of `from`; `remote` is never
    // dereferenced in this process.
    let copied = check(unsafe { libc::process_vm_writev(tid as i32, &local, 1, &remote, 1, 0) })?;
    whole(copied, from.len())
}

fn whole(copied: isize, wanted: usize) -> io::Result<()> {
    if copied as usize == wanted { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EFAULT)) }
}

/// Which of the two processes returns from [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The caller, with the child's process id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Makes a copy of this process, fork(2).
///
/// # Errors
/// `EBUSY` when the process has more than one thread: the child of such a
/// process could deadlock on a lock whose owner was not copied. Else those of
/// fork(2) and of reading `/proc/self/task`.
pub fn fork() -> io::Result<Fork> {
    if !has_one_thread()? {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: this is the only thread (just seen, and only this thread could start
    // another), so the child finds every lock free or its own.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or_else(|| io::ErrorKind::Other.into()),
    }
}

/// Makes a copy of this process that runs `child` on its one thread and exits with what it
/// answers, without the process' own exit handlers. Other threads may go on in this process;
/// `child` must not take a lock that one of them may hold now, or it waits for ever.
///
/// # Errors
/// Those of fork(2).
pub fn fork_to(child: impl FnOnce() -> u8) -> io::Result<Pid> {
    // SAFETY: the child has a copy of all memory as it was at one moment. What another thread was
    // about to do there stays undone: a lock that it holds is never let go, and what that protects
    // cannot be reached; what no lock protects is what a thread that rests sees. `_exit` runs no
    // handlers.
    match check(unsafe { libc::fork() })? {
        0 => {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: ends the process.
            unsafe { libc::_exit(status.unwrap_or(255).into()) }
        }
        pid => Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::Other.into()),
    }
}

/// Whether this process has no thread but the calling one, so that it can [`fork`].
///
/// # Errors
/// Those of reading `/proc/self/task`, where a container forbids to ask the kernel.
pub fn has_one_thread() -> io::Result<bool> {
    // SAFETY: with this flag alone, unshare changes nothing; see unshare(2).
    match check(unsafe { libc::unshare(libc::CLONE_THREAD) }) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        // A container forbids the call.
        Err(_) => Ok(std::fs::read_dir("/proc/self/task")?.count() == 1),
    }
}

/// Ends this process at once: nothing that a caller registered for its end runs, and no
/// buffer is written out; see _exit(2).
pub fn exit_now(status: i32) -> ! {
    // SAFETY: it touches no memory of this process.
    unsafe { libc::_exit(status) }
}

/// Replaces this process by `program`, looked up in `PATH` when it has no
/// slash; `args` do not include the program's name. Returns only on failure.
/// See execvp(3).
///
/// Descriptors without close-on-exec, ignored signals and the signal mask are
/// inherited. Unlike `std::process::Command`, nothing is changed on the way:
/// SIGPIPE, which Rust ignores at start, stays ignored unless
/// [`set_default`] was called.
pub fn exec(program: &OsStr, args: &[OsString]) -> io::Error {
    let strings: Result<Vec<CString>, _> = std::iter::once(program)
        .chain(args.iter().map(OsString::as_os_str))
        .map(|arg| CString::new(arg.as_bytes()))
        .collect();
    let Ok(strings) = strings else {
        return io::Error::from_raw_os_error(libc::EINVAL);
    };
    let mut pointers: Vec<*const libc::c_char> = strings.iter().map(|s| s.as_ptr()).collect();
    pointers.push(ptr::null());
    // SAFETY: `pointers` is a null-terminated array of null-terminated strings
    // that live until the call returns.
    unsafe { libc::execvp(pointers[0], pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Ignores these signals (`SIG_IGN`), here and in programs executed from here.
///
/// # Errors
/// `EINVAL` for SIGKILL, SIGSTOP and numbers that are no signal.
pub fn set_ignored(signals: &[i32]) -> io::Result<()> {
    set_dispositions(signals, libc::SIG_IGN)
}

/// Gives these signals their default action (`SIG_DFL`).
///
/// # Errors
/// As [`set_ignored`].
pub fn set_default(signals: &[i32]) -> io::Result<()> {
    set_dispositions(signals, libc::SIG_DFL)
}

fn set_dispositions(signals: &[i32], disposition: libc::sighandler_t) -> io::Result<()> {
    for &signal in signals {
        // SAFETY: zero is a value of sigaction: no flags, empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = disposition;
        // SAFETY: SIG_IGN or SIG_DFL; no handler of ours will ever run.
        check(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) })?;
    }
    Ok(())
}

/// Ends this process by `signal`, so that its parent sees the same death as
/// that of a program which died by it, without a core file of this process.
/// A signal whose default action does not kill ends it with status 128 + n.
pub fn die_by_signal(signal: i32) -> ! {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // Errors are of no interest: what follows ends the process in any case.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_default(&[signal]);
    // SAFETY: sigset_t is integers; sigemptyset, sigaddset initialise it, and the
    // calls change only this thread's mask and send a signal.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        libc::raise(signal);
        libc::_exit(128 + signal)
    }
}

/// Gives memory that was freed in small pieces back to the system: the allocator keeps it
/// otherwise, and a process that lives for long stays as large as it ever was.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and touches what is free alone; the allocator locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
