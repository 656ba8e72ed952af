//! `read`, `write` and their kin on a device in trapped mode.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use devmap_driver::{Caller, Errno, OpenFlags, Transfer, UserSlice};
use devmap_sys::{
    arch::{ADDRESS_SPACE, nr},
    process,
    seccomp::Notification,
};

use super::descriptors::Descriptor;
use crate::{
    Core, client,
    notify::{self, Call},
    opens::OpenFile,
    trace::Event,
};

/// The most that one call moves (`MAX_RW_COUNT`).
const LONGEST: u64 = 0x7fff_f000;

/// The most parts of one call (`UIO_MAXIOV`).
const PARTS: u64 = 1024;

/// `RWF_HIPRI`, which asks for nothing that a driver would know of.
const HIGH_PRIORITY: u64 = 1;

/// A call that moves bytes.
struct Request {
    writes: bool,
    /// Addresses and lengths in the client.
    parts: Vec<(u64, u64)>,
    /// `None`: the file's own, which moves on.
    position: Option<i64>,
}

/// Takes a call apart, with the kernel's checks.
fn request(notification: &Notification) -> Option<Result<Request, Errno>> {
    let Notification { tid, nr, args, .. } = *notification;
    let one = || Ok(vec![(args[1], args[2])]);
    let several = || parts(tid, args[1], args[2]);
    let (writes, parts, position) = match nr {
        nr::READ => (false, one(), None),
        nr::WRITE => (true, one(), None),
        nr::PREAD64 => (false, one(), Some(args[3].cast_signed())),
        nr::PWRITE64 => (true, one(), Some(args[3].cast_signed())),
        nr::READV => (false, several(), None),
        nr::WRITEV => (true, several(), None),
        nr::PREADV => (false, several(), Some(args[3].cast_signed())),
        nr::PWRITEV => (true, several(), Some(args[3].cast_signed())),
        nr::PREADV2 | nr::PWRITEV2 => {
            let position = Some(args[3].cast_signed()).filter(|position| *position != -1);
            let parts = several().and_then(|parts| {
                let plain = args[5] & !HIGH_PRIORITY == 0;
                if plain { Ok(parts) } else { Err(Errno::EOPNOTSUPP) }
            });
            (nr == nr::PWRITEV2, parts, position)
        }
        _ => return None,
    };
    Some(parts.map(|parts| Request { writes, parts, position }))
}

/// The parts that an array of `struct iovec` names.
fn parts(tid: u32, address: u64, count: u64) -> Result<Vec<(u64, u64)>, Errno> {
    if count > PARTS {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; 16 * count as usize];
    process::read_memory(tid, address, &mut bytes).map_err(|_| Errno::EFAULT)?;
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    bytes
        .chunks_exact(16)
        .map(|part| {
            let part = (word(&part[..8]), word(&part[8..]));
            if part.1.cast_signed() < 0 { Err(Errno::EINVAL) } else { Ok(part) }
        })
        .collect()
}

/// Serves a call if it moves bytes.
pub(super) fn serve(core: &Arc<Core>, call: &Call<'_>, descriptor: &Descriptor) -> bool {
    let Some(request) = request(call.notification) else { return false };
    let Some(file) = &descriptor.file else {
        notify::answer(call, Err(Errno::EBADF));
        return true;
    };
    let started = Instant::now();
    let moved = request.and_then(|request| {
        let call_name = if request.writes { "write" } else { "read" };
        // The parts may say anything.
        let size = request.parts.iter().fold(0, |size: u64, part| size.saturating_add(part.1));
        let (position, result) = transfer(core, call, descriptor, file, request);
        core.trace_call(started, || Event {
            device: &file.device.path,
            tid: call.notification.tid,
            call: call_name,
            details: vec![
                ("open", file.id.into()),
                ("offset", position.into()),
                ("size", size.into()),
            ],
            result: result.map(|count| Some(count as u64)),
        });
        result
    });
    core.refresh(&file.device);
    notify::answer(call, moved.map(|count| count as i64));
    true
}

/// Calls the driver; the position at which it was called too.
fn transfer(
    core: &Arc<Core>,
    call: &Call<'_>,
    descriptor: &Descriptor,
    file: &OpenFile,
    request: Request,
) -> (u64, Result<usize, Errno>) {
    let stream = file.device.metadata.stream;
    let own = descriptor.position.load(Ordering::SeqCst);
    let position = match request.position {
        Some(position) if position < 0 => return (0, Err(Errno::EINVAL)),
        Some(_) if stream => return (0, Err(Errno::ESPIPE)),
        Some(position) => position.cast_unsigned(),
        None if stream => 0,
        None => own,
    };
    let (permitted, method) =
        if request.writes { (file.flags.write, "write") } else { (file.flags.read, "read") };
    if !permitted {
        return (position, Err(Errno::EBADF));
    }
    let (parts, len) = match reachable(request.parts) {
        Ok(reachable) => reachable,
        Err(errno) => return (position, Err(errno)),
    };
    // As `rw_verify_area`: no driver sees a place that no offset names.
    if !stream && position.saturating_add(len as u64) > i64::MAX.cast_unsigned() {
        return (position, Err(Errno::EINVAL));
    }
    let [fd, ..] = call.notification.args;
    let notified = client::Notified::new(call, fd as u32, file.flags);
    let caller = Parts { notified, parts };
    let result = notify::interruptible(core, call, || {
        file.device.call(method, |driver| {
            let user = UserSlice::new(&caller, 0, len)?;
            let transfer = Transfer::new(&caller, user, position);
            let count = if request.writes {
                driver.write(file.state(), &transfer)?
            } else {
                driver.read(file.state(), &transfer)?
            };
            file.device.at_most(method, count, len)
        })
    });
    if let (Ok(count), None, false) = (result, request.position, stream) {
        descriptor.position.store(position + count as u64, Ordering::SeqCst);
    }
    (position, result)
}

/// Checks that all parts lie in the client's half of the address space (`access_ok`), and
/// cuts them to what one call moves. Their length together comes with them.
fn reachable(parts: Vec<(u64, u64)>) -> Result<(Vec<(u64, u64)>, usize), Errno> {
    let mut total = 0;
    let mut cut = Vec::with_capacity(parts.len());
    for (address, len) in parts {
        if address.checked_add(len).is_none_or(|end| end > ADDRESS_SPACE) {
            return Err(Errno::EFAULT);
        }
        let len = len.min(LONGEST - total);
        total += len;
        cut.push((address, len));
    }
    Ok((cut, total as usize))
}

/// A caller whose buffer is in parts; its addresses count from the first byte of the first.
struct Parts<'a> {
    notified: client::Notified<'a>,
    parts: Vec<(u64, u64)>,
}

impl Parts<'_> {
    /// Calls `copy` with an address of the client and a range of the `len` bytes that
    /// begin at byte `at` of the buffer, for each part that holds some of them.
    fn each(
        &self,
        at: u64,
        len: usize,
        mut copy: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let end = at.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        let mut first = 0;
        for (address, part_len) in &self.parts {
            let (from, to) = (at.max(first), end.min(first + part_len));
            if from < to {
                copy(address + (from - first), (from - at) as usize..(to - at) as usize)?;
            }
            first += part_len;
        }
        if end > first { Err(Errno::EFAULT) } else { Ok(()) }
    }
}

impl Caller for Parts<'_> {
    fn copy_from(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.each(address, into.len(), |at, range| self.notified.copy_from(at, &mut into[range]))
    }

    fn copy_to(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        self.each(address, from.len(), |at, range| self.notified.copy_to(at, &from[range]))
    }

    fn flags(&self) -> OpenFlags {
        self.notified.flags()
    }
}
