//! The callers of FUSE requests, as drivers see them: whose memory is the request's own
//! buffer, and who polls; and what the trace says of their reads and writes.
//!
//! What does not live here: serving the requests (`devfs`).

use std::{
    cell::RefCell,
    sync::{Arc, Weak},
};

use devmap_driver::{Caller, Errno, OpenFlags, PollEvents, PollTable};
use devmap_fuse::{Channel, Header};
use devmap_sys::{arch::nr, process};

use crate::{
    client,
    host::{HostWaitQueue, Wake},
    opens::OpenFile,
    trace::Event,
};

/// The caller of a read: its buffer is the answer under construction.
pub(super) struct ReadBuffer {
    pub(super) bytes: RefCell<Vec<u8>>,
    pub(super) flags: OpenFlags,
}

impl Caller for ReadBuffer {
    /// A read's buffer is written only.
    fn copy_from(&self, _address: u64, _into: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn copy_to(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let start = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
        let end = start.checked_add(from.len()).ok_or(Errno::EFAULT)?;
        let mut bytes = self.bytes.borrow_mut();
        bytes.get_mut(start..end).ok_or(Errno::EFAULT)?.copy_from_slice(from);
        Ok(())
    }

    fn flags(&self) -> OpenFlags {
        self.flags
    }
}

/// The caller of a write: its buffer came with the request.
pub(super) struct WriteBuffer<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) flags: OpenFlags,
}

impl Caller for WriteBuffer<'_> {
    fn copy_from(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let start = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
        let end = start.checked_add(into.len()).ok_or(Errno::EFAULT)?;
        into.copy_from_slice(self.bytes.get(start..end).ok_or(Errno::EFAULT)?);
        Ok(())
    }

    /// A write's buffer is read only.
    fn copy_to(&self, _address: u64, _from: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }

    fn flags(&self) -> OpenFlags {
        self.flags
    }
}

/// The caller of an ioctl that came by FUSE.
pub(super) struct IoctlCaller<'a> {
    pub(super) tid: u32,
    pub(super) opened: OpenFlags,
    pub(super) argument: u64,
    /// What stood at the argument, if the command's direction says that it goes in.
    pub(super) in_data: &'a [u8],
    /// How much the answer may hold, if the direction says that it comes out.
    pub(super) out_size: usize,
    /// The answer: what was written at the argument, from its first byte on.
    pub(super) out: RefCell<Vec<u8>>,
}

impl IoctlCaller<'_> {
    /// The place of `len` bytes at `address` within the argument's first `limit` bytes.
    fn place(&self, address: u64, len: usize, limit: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(address.checked_sub(self.argument)?).ok()?;
        let end = start.checked_add(len)?;
        (end <= limit).then_some(start..end)
    }
}

impl Caller for IoctlCaller<'_> {
    fn copy_from(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let out = self.out.borrow();
        if let Some(place) = self.place(address, into.len(), out.len()) {
            into.copy_from_slice(&out[place]);
        } else if let Some(place) = self.place(address, into.len(), self.in_data.len()) {
            into.copy_from_slice(&self.in_data[place]);
        } else {
            process::read_memory(self.tid, address, into).map_err(|_| Errno::EFAULT)?;
        }
        Ok(())
    }

    fn copy_to(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let mut out = self.out.borrow_mut();
        match self.place(address, from.len(), self.out_size) {
            // The answer has no holes: it ends where nothing was written yet.
            Some(place) if place.start <= out.len() => {
                if out.len() < place.end {
                    out.resize(place.end, 0);
                }
                out[place].copy_from_slice(from);
                Ok(())
            }
            _ => process::write_memory(self.tid, address, from).map_err(|_| Errno::EFAULT),
        }
    }

    fn flags(&self) -> OpenFlags {
        let fd = client::blocked_in(self.tid)
            .and_then(|(call, args)| (call == nr::IOCTL).then_some(args[0] as u32));
        fd.and_then(|fd| client::status_flags(self.tid, fd)).map_or(self.opened, client::open_flags)
    }
}

/// A poller in the kernel, which a wake tells to ask again.
pub(super) struct Poller {
    pub(super) channel: Arc<Channel>,
    pub(super) kh: u64,
    pub(super) file: Weak<OpenFile>,
}

impl Wake for Poller {
    fn wake(&self) {
        // A handle that is closed meanwhile is not an error to anybody.
        let _ = self.channel.notify_poll(self.kh);
    }

    fn is_alive(&self) -> bool {
        self.file.strong_count() > 0
    }

    fn key(&self) -> u64 {
        self.kh
    }
}

/// Registers one poller with the queues that a driver names.
pub(super) struct Pollers {
    /// `None`: it does not wait.
    pub(super) poller: Option<Arc<dyn Wake>>,
    pub(super) wanted: PollEvents,
}

impl PollTable<HostWaitQueue> for Pollers {
    fn register(&mut self, queue: &HostWaitQueue) {
        if let Some(poller) = &self.poller {
            queue.register(poller.clone());
        }
    }

    fn wanted(&self) -> Option<PollEvents> {
        Some(self.wanted)
    }
}

/// For the trace: a read or a write.
pub(super) fn transfer<'a>(
    header: &Header,
    file: &'a OpenFile,
    call: &'static str,
    (offset, size): (u64, usize),
    result: Result<usize, Errno>,
) -> Event<'a> {
    Event {
        device: &file.device.path,
        tid: header.pid,
        call,
        details: vec![("open", file.id.into()), ("offset", offset.into()), ("size", size.into())],
        result: result.map(|count| Some(count as u64)),
    }
}
