//! C, the program's process, between its fork and its execution.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::inherited::Inherited;
use super::{FAILED, Program, Role, complain};

/// Found, but it cannot be executed.
const NOT_EXECUTABLE: i32 = 126;
/// Not found, or its interpreter is not.
const NOT_FOUND: i32 = 127;

/// Executes the program. Returns only when that fails: the exit status.
pub(super) fn execute(
    program: &Program,
    role: &mut impl Role,
    inherited: &Inherited,
    channel: &UnixStream,
) -> i32 {
    // Before entering, so that the user can interrupt it.
    let entered = inherited
        .restore_mask()
        .map_err(|error| format!("cannot restore the signal mask: {error}"))
        .and_then(|()| role.enter(channel))
        .and_then(|()| {
            let restored = inherited.restore_dispositions();
            restored.map_err(|error| format!("cannot restore the signals' actions: {error}"))
        });
    if let Err(message) = entered {
        complain(message);
        return FAILED;
    }
    let error = devmap_sys::process::exec(&program.file, &program.args);
    // SIGPIPE has its default action again; the status must still be ours.
    let _ = devmap_sys::process::set_ignored(&[libc::SIGPIPE]);
    let name = program.file.display();
    match error.raw_os_error() {
        // Of a call that nobody answers: the supervisor has ended, and has said why.
        Some(libc::ENOSYS) if is_over(channel) => return FAILED,
        Some(libc::ENOENT) => match missing_interpreter(&program.file) {
            Some(interpreter) => {
                complain(format_args!("cannot execute {name}: {interpreter} does not exist"));
            }
            None => complain(format_args!("cannot execute {name}: not found")),
        },
        errno => {
            let reason = Errno::from_raw(errno.unwrap_or(0)).desc();
            complain(format_args!("cannot execute {name}: {reason}"));
        }
    }
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

/// Whether the supervisor is gone.
fn is_over(channel: &UnixStream) -> bool {
    let _ = channel.set_nonblocking(true);
    matches!((&mut &*channel).read(&mut [0]), Ok(0))
}

/// What execve(2) did not find although it found `program`; `None` when it is
/// the program that does not exist.
fn missing_interpreter(program: &OsStr) -> Option<String> {
    let path = find(program)?;
    match script_interpreter(&path) {
        Ok(Some(interpreter)) => Some(format!("its interpreter {}", interpreter.display())),
        _ => Some("its dynamic loader".to_owned()),
    }
}

/// The existing file that execvp(3) means by `program`.
fn find(program: &OsStr) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    if program.is_empty() {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// The interpreter that the first line of a script names.
fn script_interpreter(path: &Path) -> io::Result<Option<OsString>> {
    // As much as the kernel looks at.
    let mut line = Vec::new();
    BufReader::new(File::open(path)?.take(256)).read_until(b'\n', &mut line)?;
    let interpreter = line.strip_prefix(b"#!").and_then(|rest| {
        rest.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()).map(<[u8]>::to_vec)
    });
    Ok(interpreter.map(OsString::from_vec))
}
