//! Whether another process of the tree is stopped by job control. Where /proc
//! does not show it (hidepid), it counts as stopped: to continue a process that
//! runs does little harm.

use std::fs;

/// It is stopped; see proc_pid_stat(5).
pub(super) fn is_stopped(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with('T'))
}

/// It is stopped, or will be by a SIGSTOP that it has not taken yet.
pub(super) fn is_stopping(pid: i32) -> bool {
    // In this order: a signal that is no longer pending has stopped it already.
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    pending.is_none_or(|set| set & 1 << (libc::SIGSTOP - 1) != 0) || is_stopped(pid)
}
