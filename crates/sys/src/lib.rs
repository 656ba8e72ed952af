//! All hosted `unsafe` code of devmap, behind safe functions: seccomp user
//! notification, ptrace, other processes' memory, mappings, fork and exec.
//!
//! Names are the kernel's. Errors are [`std::io::Error`] with the errno of the
//! call. What does not live here: any decision about devices, mappings or
//! processes; that is the business of the crates above.

pub mod apart;
pub mod arch;
pub mod capture;
pub mod descriptor;
pub mod large;
pub mod mapping;
pub mod memfd;
pub mod namespace;
pub mod probe;
pub mod process;
pub mod process_tree;
pub mod ptrace;
pub mod seccomp;
pub mod sigbus;
pub mod span;
pub mod stat;
pub mod store;
pub mod userfaultfd;

/// The result of a libc call that says failure by -1 and `errno`.
fn check<T: PartialEq + From<i8>>(result: T) -> std::io::Result<T> {
    if result == T::from(-1) { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}
