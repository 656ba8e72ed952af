//! A daemon's devices, as a joiner has them: proxies that hand each call on.
//!
//! What does not live here: lanes (`link`), and what the daemon does (`calls`).

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use devmap_driver::{
    Access, Direction, Errno, Fault, Fsync, Ioctl, Kind, Metadata, NewArea, NewPage, Open,
    OpenFlags, Plan, PollEvents, PollTable, SeekFrom, Store, Supply, Transfer, UserSlice,
};

use super::{
    link::{Answered, Link},
    listener, socket,
    wire::{
        Answer, CHUNK, Control, Copies, LONGEST, Method, News, Step, VERSION, WireErrno,
        WireExtent, WireMemory, WirePlace, decode, encode,
    },
};
use crate::{
    AnyDevice, AnyFile, Host, HostMemory, HostWaitQueue, Node, call, sysfs::ClassEntry,
    tokens::Token,
};

/// How long a daemon is waited for that does not say hello.
const PATIENCE: Duration = Duration::from_secs(10);

/// Joins the daemon at `socket`: its devices, each at its path.
///
/// # Errors
/// A message with the path and the remedy.
pub fn join(host: &Host, socket: &Path) -> Result<Vec<Node>, String> {
    greet(host, socket, listener::connect(socket, PATIENCE)?, PATIENCE)
}

/// Says hello to the daemon at `socket`, which is waited for no longer than this.
pub(super) fn greet(
    host: &Host,
    socket: &Path,
    control: OwnedFd,
    patience: Duration,
) -> Result<Vec<Node>, String> {
    let failed = |why: &str| format!("cannot join {}: {why}", socket.display());
    let mut buffer = vec![0; LONGEST];
    let hello = Control::Hello { version: VERSION };
    // Whoever refuses closes: then there may be nobody to say hello to, but a reason.
    let mut message = Vec::new();
    let hello = encode(&hello, &mut message);
    let _ = socket::send_within(control.as_fd(), hello, &[], patience);
    let received = socket::receive_within(control.as_fd(), &mut buffer, patience);
    let bytes = received.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => failed(&format!(
            "who serves there has not said hello for {} s; see whether that is `devmap serve`, \
             and not stopped, or start it again",
            patience.as_secs_f32()
        )),
        _ => failed(&error.to_string()),
    })?;
    let devices = match decode::<News>(bytes) {
        Some(News::Welcome { version: VERSION, devices }) => devices,
        Some(News::Refused { why }) => return Err(failed(&printable(&why))),
        _ if bytes.is_empty() => return Err(failed("it hung up")),
        _ => return Err(failed("what serves there is no devmap of this version")),
    };
    let link = Link::new(control, socket.to_owned());
    if !devices.iter().flat_map(|info| &info.class).all(ClassEntry::has_plain_names) {
        return Err(failed("a device's class has a name that no file can have"));
    }
    let nodes = devices.into_iter().zip(0..).map(|(info, index)| {
        let (link, host) = (link.clone(), host.clone());
        let metadata = info.metadata.metadata();
        let class = info.class;
        let device = Box::new(RemoteDevice { link, host, index, metadata, class });
        Node { path: info.path, name: info.name, device }
    });
    Ok(nodes.collect())
}

/// What a terminal shows as it stands: a daemon is not believed either.
fn printable(text: &str) -> String {
    let escaped = |c: char| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// A device of the daemon's.
struct RemoteDevice {
    link: Arc<Link>,
    host: Host,
    index: u32,
    metadata: Metadata,
    class: Option<ClassEntry>,
}

/// An open file of one.
struct RemoteFile {
    link: Arc<Link>,
    /// The daemon's number.
    open: u64,
    /// What pollers wait on here.
    queue: Arc<HostWaitQueue>,
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        self.link.remove_queue(self.open);
        // Without a daemon there is nothing to release.
        let _ = self.link.call(Method::Release { open: self.open }, &mut nothing, value);
    }
}

/// The memory of the caller of a call.
enum Memory<'a> {
    Transfer(&'a Transfer<'a>),
    Ioctl(&'a Ioctl<'a>),
}

impl<'a> Memory<'a> {
    fn slice(&self, address: u64, len: usize) -> Result<UserSlice<'a>, Errno> {
        match self {
            Memory::Transfer(transfer) => {
                let offset = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
                transfer.user().slice(offset, len)
            }
            Memory::Ioctl(ioctl) => ioctl.at(address, len),
        }
    }

    fn flags(&self) -> OpenFlags {
        match self {
            Memory::Transfer(transfer) => transfer.flags(),
            Memory::Ioctl(ioctl) => ioctl.flags(),
        }
    }

    /// Serves one step. An error of a copy that the driver does not hear of goes to
    /// `failed`.
    fn answer(
        &self,
        step: &Step<'_>,
        failed: &mut Option<Errno>,
        buffer: &mut Vec<u8>,
    ) -> Option<Answered> {
        match step {
            Step::CopyIn { address, len } => {
                let len = Some(*len as usize).filter(|len| *len <= CHUNK)?;
                let mut bytes = vec![0; len];
                let copied = self.slice(*address, len).and_then(|user| user.copy_in(&mut bytes));
                let copied = copied.map(|()| &bytes[..]).map_err(WireErrno::from);
                encode(&Answer::Copied(copied), buffer);
            }
            Step::CopyOut { address, bytes, copies } => {
                let copied = self.copy_out(*address, bytes);
                if *copies == Copies::Buffered {
                    *failed = failed.or(copied.err());
                    return Some(Answered::No);
                }
                encode(&Answer::Wrote(copied.map_err(WireErrno::from)), buffer);
            }
            Step::Flags => {
                encode(&Answer::Flags(self.flags().into()), buffer);
            }
            _ => return None,
        }
        Some(Answered::Yes)
    }

    fn copy_out(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.slice(address, bytes.len())?.copy_out(bytes)
    }
}

/// The answer of a call that has no caller's memory: the daemon wants none.
fn nothing(_: &Step<'_>, _: &mut Vec<u8>) -> Option<Answered> {
    None
}

/// The last step of a call that answers a number.
fn value(step: Step<'_>, _: Vec<OwnedFd>) -> Option<Result<u64, Errno>> {
    match step {
        Step::Done { result, bytes: [], .. } => Some(result.map_err(Errno::from)),
        _ => None,
    }
}

impl RemoteDevice {
    /// `open` below is the only maker of the files that come back here.
    fn file(file: &AnyFile) -> &RemoteFile {
        file.downcast_ref().expect("a file comes back to the device that opened it")
    }

    fn call(&self, method: Method<'_>) -> Result<u64, Errno> {
        self.link.call(method, &mut nothing, value)
    }

    /// A call that moves bytes of its caller.
    fn copying(&self, method: Method<'_>, memory: &Memory<'_>) -> Result<u64, Errno> {
        let mut failed = None;
        let mut rest = None;
        let result = self.link.call(
            method,
            &mut |step, buffer| memory.answer(step, &mut failed, buffer),
            |step, _| match step {
                Step::Done { result, address, bytes } => {
                    if !bytes.is_empty() {
                        rest = memory.copy_out(address, bytes).err();
                    }
                    Some(result.map_err(Errno::from))
                }
                _ => None,
            },
        )?;
        failed.or(rest).map_or(Ok(result), Err)
    }

    /// A memory that came along.
    fn memory(
        &self,
        memory: WireMemory,
        files: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<HostMemory> {
        let token = Token { file: files.next()?, id: memory.token };
        self.host.foreign_memory(token, files.next()?).ok()
    }

    /// A plan that came, with its memories. That it is a good one is checked as any
    /// driver's is.
    fn plan(
        &self,
        area: &NewArea,
        extents: &[WireExtent],
        memories: &[HostMemory],
    ) -> Option<Plan<HostMemory>> {
        extents.iter().try_fold(Plan::new(), |plan, extent| {
            let WireExtent { at, pages, remap } = *extent;
            let at = at..at.checked_add(pages).filter(|end| *end <= area.pages())?;
            Some(match remap {
                None => plan.fault(at),
                Some((memory, first)) => plan.remap(at, memories.get(memory as usize)?, first),
            })
        })
    }
}

/// How copies to the caller of this call are made.
fn copies() -> Copies {
    if call::is_buffered() { Copies::Buffered } else { Copies::Checked }
}

fn place(transfer: &Transfer<'_>, copies: Copies) -> WirePlace {
    WirePlace {
        position: transfer.position(),
        len: transfer.user().len() as u64,
        // Where they cost nothing.
        flags: (copies == Copies::Buffered).then(|| transfer.flags().into()),
    }
}

impl AnyDevice for RemoteDevice {
    fn open(&self, open: &Open) -> Result<AnyFile, Errno> {
        let method = Method::Open { device: self.index, flags: open.flags.into(), pid: open.pid };
        let open = self.call(method)?;
        let queue = Arc::<HostWaitQueue>::default();
        self.link.add_queue(open, queue.clone());
        Ok(Box::new(RemoteFile { link: self.link.clone(), open, queue }))
    }

    fn started(&self) {
        self.link.start();
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn take_changed(&self) -> bool {
        self.call(Method::TakeChanged { device: self.index }).is_ok_and(|changed| changed > 0)
    }

    fn set_renewal(&self, renew: Box<dyn Fn() + Send + Sync>) {
        self.link.set_renewal(self.index, renew);
    }

    fn closed(&self, file: &AnyFile) {
        let _ = self.call(Method::Close { open: Self::file(file).open });
    }

    /// Only a regular file's size can change.
    fn metadata(&self) -> Metadata {
        let is_regular = matches!(self.metadata.kind, Kind::Regular { .. });
        if !is_regular || !self.link.may_call() {
            return self.metadata;
        }
        let method = Method::Metadata { device: self.index };
        let now = self.link.call(method, &mut nothing, |step, _| match step {
            Step::Metadata { metadata } => Some(Ok(metadata.metadata())),
            _ => None,
        });
        now.unwrap_or(self.metadata)
    }

    fn class(&self) -> Option<ClassEntry> {
        self.class.clone()
    }

    fn mmap(&self, file: &AnyFile, area: &NewArea) -> Result<Plan<HostMemory>, Errno> {
        let method = Method::Mmap { open: Self::file(file).open, area: area.into() };
        self.link.call(method, &mut nothing, |step, files| match step {
            Step::Planned { extents, flags, memories } => {
                let mut files = files.into_iter();
                let memories = memories.into_iter().map(|memory| self.memory(memory, &mut files));
                let memories = memories.collect::<Option<Vec<_>>>()?;
                Some(Ok(self.plan(area, &extents, &memories)?.flags(flags.into())))
            }
            Step::Done { result: Err(errno), .. } => Some(Err(errno.into())),
            _ => None,
        })
    }

    fn fault(
        &self,
        file: &AnyFile,
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<HostMemory>, Errno> {
        let write = fault.access == Access::Write;
        let method = Method::Fault { open: Self::file(file).open, page: fault.page, write };
        self.link.call(method, &mut nothing, |step, files| match step {
            Step::Filled { bytes } => Some(page.bytes().and_then(|page| {
                if page.len() != bytes.len() {
                    return Err(Errno::EIO);
                }
                page.copy_from_slice(bytes);
                Ok(Supply::Filled)
            })),
            Step::Supplied { page, memory } => {
                let memory = self.memory(memory, &mut files.into_iter())?;
                Some(Ok(Supply::Page { memory, page }))
            }
            Step::Done { result: Err(errno), .. } => Some(Err(errno.into())),
            _ => None,
        })
    }

    /// The daemon keeps what its driver does not: so all joiners have the same.
    fn store(&self) -> Store {
        Store::Device
    }

    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let device = self.index;
        for (bytes, offset) in bytes.chunks(CHUNK).zip((offset..).step_by(CHUNK)) {
            self.call(Method::WriteBack { device, offset, bytes })?;
        }
        Ok(())
    }

    fn fsync(&self, file: &AnyFile, what: Fsync) -> Result<(), Errno> {
        let all = what == Fsync::All;
        self.call(Method::Fsync { open: Self::file(file).open, all }).map(drop)
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.call(Method::Truncate { device: self.index, size }).map(drop)
    }

    fn read(&self, file: &AnyFile, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        let copies = copies();
        let place = place(transfer, copies);
        let method = Method::Read { open: Self::file(file).open, place, copies };
        self.copying(method, &Memory::Transfer(transfer)).map(|count| count as usize)
    }

    fn write(&self, file: &AnyFile, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        let copies = copies();
        let place = place(transfer, copies);
        let mut head = vec![0; transfer.user().len().min(CHUNK)];
        // What cannot be read now the driver will hear of when it wants it.
        if transfer.user().copy_in(&mut head).is_err() {
            head.clear();
        }
        let method = Method::Write { open: Self::file(file).open, place, head: &head, copies };
        self.copying(method, &Memory::Transfer(transfer)).map(|count| count as usize)
    }

    fn llseek(&self, file: &AnyFile, to: SeekFrom) -> Result<u64, Errno> {
        self.call(Method::Seek { open: Self::file(file).open, to: to.into() })
    }

    fn ioctl(&self, file: &AnyFile, call: &Ioctl<'_>) -> Result<u32, Errno> {
        let command = call.command();
        let goes_in = matches!(command.direction(), Direction::Write | Direction::ReadWrite);
        let mut head = [0; 1 << 14];
        let head = &mut head[..if goes_in { command.size() } else { 0 }];
        let read = call.user().and_then(|user| user.copy_in(head));
        let method = Method::Ioctl {
            open: Self::file(file).open,
            command: command.0,
            argument: call.argument(),
            head: if read.is_ok() { head } else { &[] },
            copies: copies(),
        };
        self.copying(method, &Memory::Ioctl(call)).map(|value| value as u32)
    }

    fn poll(&self, file: &AnyFile, table: &mut dyn PollTable<HostWaitQueue>) -> PollEvents {
        let file = Self::file(file);
        table.register(&file.queue);
        let wanted = table.wanted().map(PollEvents::bits);
        match self.call(Method::Poll { open: file.open, wanted }) {
            Ok(bits) => PollEvents::from_bits(bits as u32),
            // As of a device that was unplugged.
            Err(_) => PollEvents::ERR.union(PollEvents::HUP),
        }
    }
}
