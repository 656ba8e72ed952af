//! Trapped mode: devices for programs where FUSE or namespaces are refused. It needs
//! nothing but seccomp notifications and ptrace of a descendant.
//!
//! The calls that take a path are notified, and those that mean a device are answered
//! here (`paths`, `files`). A device's descriptor is a FIFO (`descriptors`) with a number
//! that the filter knows (`filter`); what the program reads and writes goes to the driver
//! (`transfer`), and copies of the descriptor get such numbers too (`copies`), or are only
//! stood for (`standins`). Numbers are chosen so that no other thread has them (`numbers`). What a FIFO cannot say is said to `poll`, `select` and `epoll`
//! themselves (`waits`).
//!
//! Regular files are none of these: their descriptors are open files of a memory file, which
//! holds their content (`regular`).
//!
//! What does not live here: `mmap`, `ioctl`, `mremap`: these are as in namespace mode
//! (`notify`, `map`).

mod callers;
mod changes;
mod copies;
mod descriptors;
mod epoll;
mod fifo;
mod files;
mod filter;
mod listings;
mod locks;
mod numbers;
mod paths;
mod poll;
mod polling;
mod regular;
mod select;
mod standins;
mod tellers;
mod transfer;
mod waits;

use std::{
    fs, io,
    os::{fd::OwnedFd, linux::fs::MetadataExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use devmap_driver::{Errno, Fsync, SeekFrom};
use devmap_sys::{
    arch::nr,
    process,
    seccomp::{AssembleError, Filter, Notification, Reply},
    stat,
};
use parking_lot::Mutex;

pub(crate) use self::{
    callers::{Callers, ERESTARTNOINTR},
    paths::read as read_path,
};
use self::{
    descriptors::{Descriptor, Descriptors},
    filter::Directories,
    listings::Listings,
    locks::Locks,
    numbers::{Given, NotGiven, Numbers},
    paths::{Entry, Found, Paths},
    polling::Interrupted,
    regular::Regular,
    tellers::Tellers,
    waits::Teller,
};
use crate::{
    Core,
    filter::{FIRST_DESCRIPTOR, LAST_STANDARD},
    notify::{self, Call},
    opens::{DeviceEntry, OpenFile},
    pool::{self, Pool, Turn},
    statfs,
    trace::Event,
};

/// Devices have inode numbers from here on, which file systems do not give.
const FIRST_INODE: u64 = 1 << 40;

/// How many descriptors there have to be for devices, where the limit is low.
const ROOM: u64 = 64;

/// The state of trapped mode.
pub(crate) struct Trapped {
    paths: Paths,
    descriptors: Descriptors,
    locks: Locks,
    listings: Listings,
    regular: Regular,
    /// The lowest descriptor that a device gets.
    first: u32,
    /// Whom the devices belong to.
    owner: (u32, u32),
    /// `st_dev` of each device's directory.
    directories: Vec<u64>,
    /// Held while a number for a descriptor is chosen and taken (`numbers`): the last one beyond
    /// the first few.
    placing: Mutex<u32>,
    /// Whose calls are served now.
    pub(crate) callers: Callers,
    /// Who ends the waits of threads.
    tellers: Tellers,
    /// The waits that a signal has ended.
    interrupted: Interrupted,
    /// Which of its threads run.
    started: [AtomicBool; 2],
}

impl Trapped {
    /// # Errors
    /// A device cannot be at its path, or the limit of descriptors is too low.
    pub(crate) fn new(devices: &[Arc<DeviceEntry>]) -> Result<Trapped, String> {
        let directory = |device: &Arc<DeviceEntry>| {
            let directory = device.path.parent().unwrap_or(Path::new("/"));
            fs::metadata(directory).map_or(0, |metadata| metadata.st_dev())
        };
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let first = match limit.unwrap_or(u64::MAX).checked_sub(ROOM) {
            Some(first) if first > ROOM => first.min(u64::from(FIRST_DESCRIPTOR)) as u32,
            _ => {
                return Err(format!(
                    "the limit of open files is too low; more than {} are needed (`ulimit -n`)",
                    2 * ROOM
                ));
            }
        };
        let failed =
            |error: io::Error| format!("cannot watch descriptors: {}", crate::with_remedy(&error));
        Ok(Trapped {
            paths: Paths::new(devices)?,
            descriptors: Descriptors::new().map_err(failed)?,
            locks: Locks::new(devices.len()).map_err(failed)?,
            listings: Listings::default(),
            regular: Regular::new(devices)
                .map_err(|error| format!("cannot watch files: {}", crate::watch_remedy(&error)))?,
            first,
            owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            directories: devices.iter().map(directory).collect(),
            placing: Mutex::default(),
            callers: Callers::default(),
            tellers: Tellers::default(),
            interrupted: Interrupted::default(),
            started: Default::default(),
        })
    }

    /// The filter for the program.
    pub(crate) fn filter(&self) -> Result<Filter, AssembleError> {
        let directories = match self.paths.are_listed() {
            true => Directories::Listed,
            false => Directories::Native,
        };
        let regular = (!self.regular.is_empty()).then(|| self.first_regular());
        filter::filter(self.first, directories, regular)
    }

    /// The lowest descriptor that a regular file gets.
    fn first_regular(&self) -> u32 {
        (self.first - ROOM as u32).max(LAST_STANDARD + 1)
    }

    /// The device of which a memory file has the content.
    pub(crate) fn regular_file(&self, identity: (u64, u64)) -> Option<u64> {
        self.regular.with(identity).map(|file| file.cache.device.index)
    }

    /// Waits until the devices that are regular files have what a program stored that has
    /// ended.
    pub(crate) fn settle_files(&self) {
        self.regular.settle_at_end();
    }

    /// The open file behind a descriptor of a client, if it is a device's.
    ///
    /// # Errors
    /// `EBADF`: it was opened with `O_PATH`.
    pub(crate) fn open_file(&self, tid: u32, fd: u32) -> Result<Option<Arc<OpenFile>>, Errno> {
        let Some(descriptor) = self.descriptors.of(tid, fd) else { return Ok(None) };
        descriptor.file.clone().map(Some).ok_or(Errno::EBADF)
    }

    /// The file system of which a client shall take a descriptor for a part; `None`: it is that.
    pub(crate) fn system_of(&self, tid: u32, fd: u32) -> Option<&'static str> {
        if let Some(descriptor) = self.descriptors.of(tid, fd) {
            return statfs::system_with(&descriptor.device.path);
        }
        let link = fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()?;
        (self.listings.have_made(&link) || files::is_text(&link)).then_some("/sys")
    }

    /// The same, of a path.
    pub(crate) fn system_at(&self, tid: u32, path: &[u8]) -> Option<&'static str> {
        match self.paths.find(tid, libc::AT_FDCWD, path, true).found {
            Found::Entry(Entry::Device(device)) => statfs::system_with(&device.path),
            Found::Entry(_) | Found::Made(_) => Some("/sys"),
            Found::Descriptor { tid, fd } => self.system_of(tid, fd),
            Found::Other | Found::Listed(_) | Found::Below => None,
        }
    }

    /// Shows pollers of a device what its driver says now.
    pub(crate) fn refresh(&self, device: &DeviceEntry) {
        let teller = Teller::new(self);
        self.descriptors.refresh_device(device.index, &|watch| teller.tell(watch));
    }

    /// No program is left: what the kernel has not closed yet, such as a descriptor on its way
    /// between sockets that nobody has, is closed.
    pub(crate) fn close_all(&self, core: &Core) {
        self.regular.end(core);
        self.descriptors.clear();
    }

    /// Removes what was made for the run.
    pub(crate) fn clear(&self) {
        self.listings.clear();
    }

    /// Whether all that was closed by now has been released.
    pub(crate) fn is_settled(&self) -> bool {
        self.descriptors.is_settled()
    }

    /// Waits for the last descriptor of an open file to go, and releases the file. Where that
    /// cannot be waited for, it is tried again in a while.
    fn release_next(&self, core: &Core, received: &dyn Fn()) -> bool {
        let closed = self.descriptors.next_closed().inspect_err(|error| {
            crate::report_once(format_args!("cannot wait for closed descriptors: {error}"));
        });
        let Ok(descriptor) = closed else {
            std::thread::sleep(pool::PATIENCE);
            return true;
        };
        received();
        self.release(core, descriptor);
        true
    }

    fn release(&self, core: &Core, descriptor: Arc<Descriptor>) {
        if let Some(file) = &descriptor.file {
            core.opens.close(file.id);
            core.forget_unused();
        }
        self.locks.close(&descriptor);
        let file = descriptor.file.as_ref().map(Arc::downgrade);
        drop(descriptor);
        if let Some(file) = file {
            core.opens.await_release(&file);
        }
        self.descriptors.released();
    }

    /// Has what was closed until now released: so that the next call finds the device as the
    /// one before left it. `held`: how many open files are surely not closed, since a call on
    /// them is served. A driver that blocks in its release is not waited for.
    pub(crate) fn catch_up(&self, held: usize) {
        if self.descriptors.are_caught_up(held) {
            return;
        }
        let is_settled = || self.descriptors.are_caught_up(held);
        if !pool::wait_until(is_settled, || self.descriptors.are_being_released()) {
            self.descriptors.give_up();
        }
    }

    /// Gives the caller the descriptor of a new open file as the result of its call. False
    /// when that failed, and it has been told.
    fn place(
        &self,
        core: &Arc<Core>,
        call: &Call<'_>,
        device: &Arc<DeviceEntry>,
        file: Option<Arc<OpenFile>>,
        flags: u32,
    ) -> bool {
        if let Err(error) = start(core, self) {
            crate::report_once(format_args!("{}: cannot open: {error}", device.path.display()));
            notify::answer(call, Err(Errno::ENOMEM));
            return false;
        }
        let client = match self.descriptors.add(device, file, flags) {
            Ok(client) => client,
            Err(error) => {
                crate::report_once(format_args!(
                    "{}: cannot make a descriptor: {error}",
                    device.path.display()
                ));
                notify::answer(call, Err(Errno::ENFILE));
                return false;
            }
        };
        let numbers = Numbers { standard: false, lowest: self.first };
        if let Some(given) = self.put(call, device, client, flags, numbers) {
            given.tell();
        }
        true
    }

    /// Puts a descriptor into the caller's table. `None`: no number is free, and it has been told.
    fn put<'a>(
        &self,
        call: &'a Call<'a>,
        device: &DeviceEntry,
        client: OwnedFd,
        flags: u32,
        numbers: Numbers,
    ) -> Option<Given<'a>> {
        let close_on_exec = flags & libc::O_CLOEXEC.cast_unsigned() != 0;
        let given = numbers::give(self, call, &client, numbers, close_on_exec);
        // The client's is the only one from here on: where it got none, that is a close.
        drop(client);
        let is_untold = match &given {
            Ok(_) => return given.ok(),
            Err(NotGiven::Told) => false,
            Err(NotGiven::Untold) if call.is_waiting() => true,
            Err(NotGiven::Untold) => return None,
        };
        crate::report_once(format_args!(
            "{}: open fails with EMFILE: in trapped mode a device has a descriptor from \
             {} on, and the limit of open files leaves none; raise it (ulimit -n)",
            device.path.display(),
            self.first
        ));
        if is_untold {
            call.answer(Reply::Error(libc::EMFILE));
        }
        None
    }
}

/// Starts the threads of trapped mode, once. A driver may block in any of its methods, so
/// each may need another one.
fn start(core: &Arc<Core>, trapped: &Trapped) -> Result<(), String> {
    trapped.tellers.serve(core);
    let [closes, wakes] = &trapped.started;
    let pool = |started: &AtomicBool, name, serve: fn(&Core, &Trapped, &dyn Fn()) -> bool| {
        if started.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let core = core.clone();
        let pool = Pool::start(name, 2, move || {
            let core = core.clone();
            let turn: Turn = Box::new(move |received| {
                core.trapped.as_ref().is_some_and(|trapped| serve(&core, trapped, received))
            });
            turn
        });
        // The next open tries again.
        pool.map(drop).inspect_err(|_| started.store(false, Ordering::SeqCst))
    };
    pool(closes, "devmap-closes", |core, trapped, received| trapped.release_next(core, received))?;
    pool(wakes, "devmap-wakes", |_, trapped, received| {
        let teller = Teller::new(trapped);
        trapped.descriptors.tell_next(received, &|watch| teller.tell(watch))
    })
}

/// Serves a notified call if it is answered otherwise than in namespace mode.
pub(crate) fn serve(core: &Arc<Core>, trapped: &Trapped, call: &Call<'_>) -> bool {
    if waits::serve(core, trapped, call)
        || regular::serve_sync(core, trapped, call)
        || files::serve(core, trapped, call)
    {
        return true;
    }
    let args = call.notification.args;
    let tid = call.notification.tid;
    let of = |index: usize| trapped.descriptors.of(tid, args[index] as u32);
    let second = match call.notification.nr {
        nr::IO_SUBMIT => {
            submit(trapped, call);
            return true;
        }
        nr::GETDENTS64 => {
            listings::serve(trapped, call);
            return true;
        }
        nr::BIND => {
            files::bind(trapped, call);
            return true;
        }
        nr::MMAP
        | nr::IOCTL
        | nr::MREMAP
        | nr::MADVISE
        | nr::PROCESS_MADVISE
        | nr::REMAP_FILE_PAGES
        | nr::SECCOMP
        | nr::PRCTL
        | nr::STATFS
        | nr::FSTATFS => return false,
        nr::FSTAT | nr::FCHMOD | nr::FCHOWN => {
            if let Some(file) = trapped.regular.of(tid, args[0] as u32) {
                let device = &file.cache.device;
                match call.notification.nr {
                    nr::FSTAT => fstat(core, trapped, call, device),
                    _ => notify::answer(call, Err(Errno::EPERM)),
                }
                return true;
            }
            None
        }
        nr::SENDFILE | nr::TEE => of(1),
        nr::SPLICE | nr::COPY_FILE_RANGE => of(2),
        _ => None,
    };
    let Some(descriptor) = of(0).or(second) else {
        call.answer(Reply::Continue);
        return true;
    };
    if transfer::serve(core, call, &descriptor) || copies::serve(trapped, call, &descriptor) {
        return true;
    }
    match call.notification.nr {
        nr::FSTAT => fstat(core, trapped, call, &descriptor.device),
        nr::LSEEK => lseek(core, call, &descriptor),
        nr::FLOCK => trapped.locks.flock(core, call, &descriptor),
        nr::FSYNC => fsync(core, call, &descriptor, Fsync::All),
        nr::FDATASYNC => fsync(core, call, &descriptor, Fsync::Data),
        // What Linux says of a device whose driver has no such method, and of one whose
        // owner and mode nobody but devmap can change.
        nr::FALLOCATE => notify::answer(call, Err(Errno::ENODEV)),
        nr::FCHMOD | nr::FCHOWN => notify::answer(call, Err(Errno::EPERM)),
        nr::VMSPLICE => notify::answer(call, Err(Errno::EBADF)),
        nr::SPLICE | nr::SENDFILE | nr::TEE | nr::COPY_FILE_RANGE => {
            notify::answer(call, Err(Errno::EINVAL));
        }
        _ => call.answer(Reply::Continue),
    }
    true
}

fn fstat(core: &Core, trapped: &Trapped, call: &Call<'_>, device: &Arc<DeviceEntry>) {
    let Notification { tid, args: [_, address, ..], .. } = *call.notification;
    let status = files::status(core, trapped, &Entry::Device(device.clone()));
    let written = process::write_memory(tid, address, &stat::stat_bytes(&status));
    notify::answer(call, written.map(|()| 0).map_err(|_| Errno::EFAULT));
}

fn fsync(core: &Arc<Core>, call: &Call<'_>, descriptor: &Descriptor, what: Fsync) {
    let Some(file) = &descriptor.file else {
        return notify::answer(call, Err(Errno::EBADF));
    };
    let tid = call.notification.tid;
    let result = notify::interruptible(core, call, || file.fsync(core, tid, what));
    notify::answer(call, result.map(|()| 0));
}

/// Refuses asynchronous reads and writes of a device, as Linux does where a driver has a
/// plain read method (`aio_read`); the kernel would make them on the FIFO.
fn submit(trapped: &Trapped, call: &Call<'_>) {
    /// Bytes of `struct iocb`, and where the descriptor is in it.
    const LEN: usize = 64;
    const DESCRIPTOR: usize = 20;
    /// As many as the kernel lets be under way (`aio_max_nr`).
    const MOST: u64 = 0x10000;
    let Notification { tid, args: [_, count, blocks, ..], .. } = *call.notification;
    // What is past the end of the memory, the kernel refuses.
    let of_device = (0..count.min(MOST)).map_while(|index| {
        let mut address = [0; 8];
        process::read_memory(tid, blocks.checked_add(8 * index)?, &mut address).ok()?;
        let mut block = [0; LEN];
        process::read_memory(tid, u64::from_ne_bytes(address), &mut block).ok()?;
        let fd = block[DESCRIPTOR..DESCRIPTOR + 4].try_into().map(u32::from_ne_bytes).ok()?;
        Some(trapped.descriptors.of(tid, fd).is_some())
    });
    let refuse = of_device.into_iter().any(|is_device| is_device);
    call.answer(if refuse { Reply::Error(libc::EINVAL) } else { Reply::Continue });
}

fn lseek(core: &Core, call: &Call<'_>, descriptor: &Descriptor) {
    let [_, offset, whence, ..] = call.notification.args;
    let Some(file) = &descriptor.file else {
        return notify::answer(call, Err(Errno::EBADF));
    };
    let started = Instant::now();
    let result = seek(descriptor, file, offset.cast_signed(), whence as i32);
    notify::answer(call, result.map(u64::cast_signed));
    core.trace_call(started, || Event {
        device: &file.device.path,
        tid: call.notification.tid,
        call: "lseek",
        details: vec![
            ("open", file.id.into()),
            ("offset", offset.cast_signed().into()),
            ("whence", whence.into()),
        ],
        result: result.map(Some),
    });
}

fn seek(descriptor: &Descriptor, file: &OpenFile, offset: i64, whence: i32) -> Result<u64, Errno> {
    notify::check_whence(whence)?;
    if file.device.metadata.stream {
        return Err(Errno::ESPIPE);
    }
    let position = descriptor.position.load(Ordering::SeqCst);
    let to = match whence {
        libc::SEEK_SET => SeekFrom::Start(offset),
        libc::SEEK_CUR => SeekFrom::Current { position, by: offset },
        libc::SEEK_END => SeekFrom::End(offset),
        _ => return Err(Errno::EINVAL),
    };
    let at = file.device.call("llseek", |driver| {
        file.device.at_most("llseek", driver.llseek(file.state(), to)?, i64::MAX as u64)
    })?;
    descriptor.position.store(at, Ordering::SeqCst);
    Ok(at)
}

#[cfg(test)]
pub(crate) mod testing {
    use std::{path::Path, sync::Arc, sync::atomic::AtomicU32, sync::atomic::Ordering};

    use devmap_driver::{Device, Errno, Kind, Metadata, Number, Open, PollEvents, PollTable};

    use crate::{
        erase::erase,
        host::{Host, HostWaitQueue},
        opens::DeviceEntry,
    };

    /// What a test changes of its device.
    #[derive(Default)]
    pub(crate) struct State {
        pub(super) mask: AtomicU32,
        pub(super) queue: HostWaitQueue,
    }

    struct Masked(Arc<State>);

    impl Device<Host> for Masked {
        type File = ();

        fn open(&self, _open: &Open) -> Result<(), Errno> {
            Ok(())
        }

        fn poll(&self, _file: &(), table: &mut dyn PollTable<HostWaitQueue>) -> PollEvents {
            table.register(&self.0.queue);
            PollEvents::from_bits(self.0.mask.load(Ordering::SeqCst))
        }
    }

    /// A device that says the mask of the state, with the number 240:7.
    pub(crate) fn device(path: &Path, index: u64) -> (Arc<DeviceEntry>, Arc<State>) {
        let state = Arc::new(State::default());
        let number = (240, 7);
        let kind = Kind::Character(Number::Fixed { major: number.0, minor: number.1 });
        let entry = DeviceEntry {
            path: path.to_owned(),
            name: "masked".to_owned(),
            index,
            device: erase(Masked(state.clone())),
            metadata: Metadata { kind, ..Metadata::CHARACTER },
            number,
            class: None,
            sys_name: None,
        };
        (Arc::new(entry), state)
    }
}
