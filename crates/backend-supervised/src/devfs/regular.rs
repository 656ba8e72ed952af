//! Devices that are regular files.
//!
//! They have one node each, and the kernel's page cache of it is the home's: `read`, `mmap`
//! and `lseek` are the kernel's own, which asks for pages that are not there, and gives back
//! what programs stored in maps. So reads, writes and maps of all programs see the same.

use std::{
    io,
    sync::Arc,
    time::{Instant, SystemTime},
};

use devmap_driver::{Errno, Fsync, Open, Platform, Transfer, UserSlice};
use devmap_fuse::{Attr, Header, Operation, Request, Setattr, open_flags};

use super::{Devfs, callers::WriteBuffer};
use crate::{
    Core, client, faulted,
    nodes::Content,
    opens::{DeviceEntry, OpenFile},
    trace::Event,
};

impl Devfs {
    /// The device of a node that is a regular file.
    pub(super) fn regular<'a>(&self, core: &'a Core, node: u64) -> Option<&'a Arc<DeviceEntry>> {
        match self.nodes.content(node)? {
            Content::Device(index) => {
                Some(&core.devices[*index]).filter(|device| device.is_regular())
            }
            _ => None,
        }
    }

    /// What `stat` shows, with the size of this moment.
    pub(super) fn regular_attr(&self, core: &Core, device: &DeviceEntry, node: u64) -> Attr {
        let mut attr = Attr::new(node, libc::S_IFREG | u32::from(device.metadata.mode));
        attr.size = device.size().unwrap_or(0);
        (attr.uid, attr.gid) = self.owner;
        let changed = self.changed.lock().get(&device.index).copied().unwrap_or(core.started);
        (attr.atime, attr.mtime, attr.ctime) = (core.started, changed, changed);
        attr
    }

    fn set_changed(&self, device: &DeviceEntry) {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        self.changed.lock().insert(device.index, now);
    }

    /// Serves a request about a regular file, unless it is the same for all nodes.
    pub(super) fn serve_regular(
        &self,
        core: &Core,
        device: &Arc<DeviceEntry>,
        request: &Request<'_>,
    ) -> Option<io::Result<()>> {
        let header = &request.header;
        let (unique, channel) = (header.unique, &self.channel);
        let open = |fh| core.opens.find(fh);
        Some(match &request.operation {
            Operation::Getattr { .. } => {
                let attr = self.regular_attr(core, device, header.nodeid);
                channel.reply_attr(unique, &attr, std::time::Duration::ZERO)
            }
            Operation::Setattr(change) => self.change(core, header, device, change),
            Operation::Open { .. } if self.opening.lock().contains_key(&header.pid) => {
                self.reply_renewal(unique)
            }
            Operation::Open { flags } => self.open_regular(core, header, device, *flags),
            Operation::Read { fh, offset, size, .. } => match open(*fh) {
                Some(file) => self.supply(core, header, &file, *offset, *size),
                None => channel.reply_error(unique, libc::EBADF),
            },
            Operation::Write { offset, from_cache: true, data, .. } => {
                self.take_back(core, header, device, *offset, data)
            }
            Operation::Write { fh, offset, flags, data, .. } => match open(*fh) {
                Some(file) => self.write_through(core, header, &file, (*offset, *flags, data)),
                None => channel.reply_error(unique, libc::EBADF),
            },
            Operation::Fsync { fh, datasync } => match open(*fh) {
                Some(file) => self.fsync(core, header, &file, super::fsync_of(*datasync)),
                None => channel.reply_error(unique, libc::EBADF),
            },
            Operation::Lseek { offset, whence, .. } => {
                match (u64::try_from(*offset), device.size()) {
                    // One piece of data, and the hole that every file has at its end.
                    (Ok(offset), Ok(size)) if offset < size => {
                        let data = *whence == libc::SEEK_DATA.cast_unsigned();
                        channel.reply_lseek(unique, if data { offset } else { size })
                    }
                    _ => channel.reply_error(unique, libc::ENXIO),
                }
            }
            Operation::Other { opcode: devmap_fuse::FALLOCATE } => {
                channel.reply_error(unique, libc::EOPNOTSUPP)
            }
            _ => return None,
        })
    }

    /// Whether pages that the kernel has stay at an open. Where it keeps them from an earlier
    /// time they do not; nor, from then on, when other runs have changed the file while this one
    /// has it open: when the kernel has dropped them for one open, the next cannot know. It gives
    /// back before what programs have stored.
    fn is_current(&self, core: &Core, device: &DeviceEntry) -> bool {
        let is_changed = device.device.take_changed();
        let mut changed = self.changed_elsewhere.lock();
        if !core.opens.has(device.index) {
            changed.remove(&device.index);
            return false;
        }
        if is_changed {
            changed.insert(device.index);
        }
        !changed.contains(&device.index)
    }

    fn open_regular(
        &self,
        core: &Core,
        header: &Header,
        device: &Arc<DeviceEntry>,
        flags: u32,
    ) -> io::Result<()> {
        let started = Instant::now();
        let open = Open {
            flags: client::open_flags(flags),
            pid: client::process_of(header.pid).unwrap_or(header.pid),
        };
        let keep = if self.is_current(core, device) { open_flags::KEEP_CACHE } else { 0 };
        let id = core.opens.reserve();
        let opened = self.interruptible(core, header, || {
            core.opens.open(id, device, &open)?;
            if flags & libc::O_TRUNC.cast_unsigned() != 0 {
                let cut = device.call("truncate", |driver| driver.truncate(0));
                cut.inspect_err(|_| core.opens.close(id))?;
                self.set_changed(device);
            }
            Ok(())
        });
        core.trace_call(started, || Event {
            device: &device.path,
            tid: header.pid,
            call: "open",
            details: vec![("flags", format!("{flags:#o}").into()), ("open", id.into())],
            result: opened.map(|()| Some(0)),
        });
        match opened {
            Ok(()) => {
                let replied = self.channel.reply_open(header.unique, id, keep);
                if replied.is_err() {
                    core.opens.close(id);
                }
                replied
            }
            Err(errno) => self.reply_errno(header, errno),
        }
    }

    /// Pages for the cache. A short answer is the end of the file to the kernel, so it is
    /// given where the file ends now and nowhere else.
    fn supply(
        &self,
        core: &Core,
        header: &Header,
        file: &OpenFile,
        offset: u64,
        size: u32,
    ) -> io::Result<()> {
        let started = Instant::now();
        let page_len = core.host.page_size().bytes();
        let result = self.ended_by(false, core, header, || {
            faulted::fill(file, page_len, offset, u64::from(size))
        });
        core.trace_call(started, || {
            fault_event(file, page_len, (offset, size), result.as_ref().map(drop))
        });
        match result {
            Ok(bytes) => self.channel.reply_data(header.unique, &bytes),
            Err(errno) => self.channel.reply_error(header.unique, errno.raw()),
        }
    }

    /// What programs stored in shared maps. The kernel has cut it at the end of the file.
    fn take_back(
        &self,
        core: &Core,
        header: &Header,
        device: &DeviceEntry,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let started = Instant::now();
        let result = device.call("write_back", |driver| driver.write_back(offset, data));
        self.set_changed(device);
        core.trace_call(started, || write_back_event(device, offset, data.len(), result));
        match result {
            Ok(()) => self.channel.reply_written(header.unique, data.len() as u32),
            Err(errno) => self.channel.reply_error(header.unique, errno.raw()),
        }
    }

    /// `write(2)`: the kernel changes the pages that it holds by itself.
    fn write_through(
        &self,
        core: &Core,
        header: &Header,
        file: &OpenFile,
        (offset, flags, data): (u64, u32, &[u8]),
    ) -> io::Result<()> {
        let started = Instant::now();
        let buffer = WriteBuffer { bytes: data, flags: client::open_flags(flags) };
        let result = self.interruptible(core, header, || {
            file.device.call("write", |driver| {
                let user = UserSlice::new(&buffer, 0, data.len())?;
                let count = driver.write(file.state(), &Transfer::new(&buffer, user, offset))?;
                file.device.at_most("write", count, data.len())
            })
        });
        self.set_changed(&file.device);
        core.trace_call(started, || {
            super::transfer(header, file, "write", (offset, data.len()), result)
        });
        match result {
            Ok(count) => self.channel.reply_written(header.unique, count as u32),
            Err(errno) => self.reply_errno(header, errno),
        }
    }

    /// `fsync` of an open file, or `msync` of a map of it; all pages have come back before.
    pub(super) fn fsync(
        &self,
        core: &Core,
        header: &Header,
        file: &OpenFile,
        what: Fsync,
    ) -> io::Result<()> {
        match self.interruptible(core, header, || file.fsync(core, header.pid, what)) {
            Ok(()) => self.channel.reply_empty(header.unique),
            // By which the kernel would never ask again, of any file.
            Err(Errno::ENOSYS) => self.channel.reply_error(header.unique, libc::EINVAL),
            Err(errno) => self.reply_errno(header, errno),
        }
    }

    /// `ftruncate`; owner, mode and times are nobody's to change.
    fn change(
        &self,
        core: &Core,
        header: &Header,
        device: &DeviceEntry,
        change: &Setattr,
    ) -> io::Result<()> {
        let Some(size) = change.size else {
            return self.channel.reply_error(header.unique, libc::EPERM);
        };
        let started = Instant::now();
        let result = self.interruptible(core, header, || {
            device.call("truncate", |driver| driver.truncate(size))
        });
        core.trace_call(started, || Event {
            device: &device.path,
            tid: header.pid,
            call: "truncate",
            details: vec![("size", size.into())],
            result: result.map(|()| Some(0)),
        });
        match result {
            Ok(()) => {
                self.set_changed(device);
                let attr = self.regular_attr(core, device, header.nodeid);
                self.channel.reply_attr(header.unique, &attr, std::time::Duration::ZERO)
            }
            Err(errno) => self.reply_errno(header, errno),
        }
    }
}

/// For the trace: pages that were asked for.
pub(crate) fn fault_event<'a>(
    file: &'a OpenFile,
    page_len: u64,
    (offset, size): (u64, u32),
    result: Result<(), &Errno>,
) -> Event<'a> {
    Event {
        device: &file.device.path,
        tid: 0,
        call: "fault",
        details: vec![
            ("open", file.id.into()),
            ("page", (offset / page_len).into()),
            ("pages", u64::from(size).div_ceil(page_len).into()),
        ],
        result: result.map(|()| Some(0)).map_err(|errno| *errno),
    }
}

/// For the trace: pages that were given back.
pub(crate) fn write_back_event(
    device: &DeviceEntry,
    offset: u64,
    size: usize,
    result: Result<(), Errno>,
) -> Event<'_> {
    Event {
        device: &device.path,
        tid: 0,
        call: "write_back",
        details: vec![("offset", offset.into()), ("size", size.into())],
        result: result.map(|()| Some(0)),
    }
}
