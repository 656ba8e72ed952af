//! Mapping for a thread that a debugger holds, so that devmap cannot attach to it.
//!
//! The kernel makes the map then, by the program's own call: for that moment the
//! device's descriptor is exchanged for one of the memory. It is put back when the
//! process next makes a call that is notified, for only then can a descriptor be
//! given to it. This works for one run of pages that lies in the memory where it lies
//! in the device, which is what most drivers map.

use std::{io, os::fd::OwnedFd};

use devmap_sys::seccomp::Reply;
use parking_lot::Mutex;

use crate::{client, notify::Call};

/// Descriptors that are exchanged now.
#[derive(Default)]
pub(crate) struct Exchanged(Mutex<Vec<Exchange>>);

struct Exchange {
    pid: u32,
    fd: u32,
    /// The device's open file.
    original: OwnedFd,
    close_on_exec: bool,
    /// The identity of what stands in its place.
    stand_in: (u64, u64),
}

impl Exchanged {
    /// Exchanges the descriptor of a notified `mmap` for `file`, and lets the
    /// call go on.
    pub(crate) fn map(&self, call: &Call<'_>, file: &OwnedFd) -> io::Result<()> {
        let tid = call.notification.tid;
        let fd = call.notification.args[4] as u32;
        let pid = client::process_of(tid).ok_or(io::ErrorKind::NotFound)?;
        let flags = client::status_flags(tid, fd).ok_or(io::ErrorKind::NotFound)?;
        let close_on_exec = flags.cast_signed() & libc::O_CLOEXEC != 0;
        let original = client::take_descriptor(tid, fd)?;
        let stat = rustix::fs::fstat(file)?;
        let stand_in = (stat.st_dev, stat.st_ino);
        let mut exchanged = self.0.lock();
        call.replace_descriptor(file, fd, close_on_exec)?;
        exchanged.push(Exchange { pid, fd, original, close_on_exec, stand_in });
        call.send(Reply::Continue)
    }

    /// Puts back what the caller's process has exchanged, and forgets processes that
    /// are gone. Descriptors that the program has closed or changed stay so.
    pub(crate) fn put_back(&self, call: &Call<'_>) {
        let mut exchanged = self.0.lock();
        if exchanged.is_empty() {
            return;
        }
        let tid = call.notification.tid;
        let pid = client::process_of(tid);
        exchanged.retain(|exchange| {
            if Some(exchange.pid) != pid {
                return client::process_of(exchange.pid).is_some();
            }
            if client::identity(tid, exchange.fd) == Some(exchange.stand_in) {
                // An error says that the caller is gone.
                let _ = call.replace_descriptor(
                    &exchange.original,
                    exchange.fd,
                    exchange.close_on_exec,
                );
            }
            false
        });
    }
}
