//! A run from its settings to its end: what each process of the tree does.

use std::{
    collections::HashMap,
    ffi::OsString,
    io::Write,
    mem::ManuallyDrop,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        linux::fs::MetadataExt,
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, TryRecvError, channel},
    },
    time::{Duration, Instant, SystemTime},
};

use devmap_driver::{Kind, Metadata, Number};
use devmap_fuse::{Operation, RequestBuffer};
use devmap_inspect::{Home, Listener, ancestors};
use devmap_sys::{
    seccomp::{self, AssembleError, Filter},
    stat::FileStatus,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::{
    Core,
    call::{WaitHook, Waiter},
    devfs::{self, Devfs},
    erase::AnyDevice,
    filter, handover,
    host::Host,
    namespace::{self, DevEntries, Prepared, SupervisorEnd},
    nodes::FIRST_OPEN,
    notify::{self, Watcher, is_readable},
    opens::{DeviceEntry, Opens},
    order::Order,
    places::Place,
    pool::{Pool, Turn},
    probe,
    reaper::Reaper,
    sysfs::{self, ClassEntry},
    threads::{Failures, LazyThread},
    trace::{Trace, TraceFormat},
    trapped::Trapped,
    tree::{self, Program, Role, SupervisorSide},
};

/// A device and the path at which the program finds it.
pub struct Node {
    /// An absolute path.
    pub path: PathBuf,
    /// The driver's name, for messages.
    pub name: String,
    /// The device.
    pub device: Box<dyn AnyDevice>,
}

/// How devices come to be at their paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By a namespace where the machine permits it, else trapped.
    Auto,
    /// By a private mount namespace.
    Namespace,
    /// By answering the system calls that take a path.
    Trapped,
}

/// Makes the devices of a run.
pub type MakeNodes = Box<dyn FnOnce(&Host) -> Result<Vec<Node>, String>>;

/// What a run shall be.
pub struct Settings {
    /// Makes the devices, in the supervisor. An error is told to the user.
    pub nodes: MakeNodes,
    /// Where events are written, and how.
    pub trace: Option<(PathBuf, TraceFormat)>,
    /// Counts of calls at the end, on standard error.
    pub stats: bool,
    /// How devices come to be at their paths.
    pub mode: Mode,
}

/// Runs a program with devices. Returns its exit status, or 125, 126 or 127 (see
/// [`tree::run`]); does not return when the program died by a signal.
///
/// Must be called while the process has one thread: it forks.
pub fn run(settings: Settings, program: OsString, args: Vec<OsString>) -> i32 {
    let program = Program { file: program, args };
    tree::run(&program, Supervised { settings: Some(settings), prepared: None, places: Vec::new() })
}

/// The role of this home in the process tree.
struct Supervised {
    settings: Option<Settings>,
    /// With what namespace mode needs besides.
    prepared: Option<(Core, Option<Prepared>)>,
    /// Where regular files stand outside of `/dev`.
    places: Vec<Place>,
}

impl Role for Supervised {
    fn prepare(&mut self) -> Result<(), String> {
        let settings = self.settings.take().ok_or("prepared twice")?;
        let host = Host::new();
        let nodes = (settings.nodes)(&host)?;
        // An error says nothing of threads.
        if !devmap_sys::process::has_one_thread().unwrap_or(true) {
            return Err(threads_of(&nodes));
        }
        let trace = Trace::create(settings.trace.as_ref(), settings.stats)?;
        let devices = entries(nodes)?;
        let prepared = choose(settings.mode, &devices, &mut self.places)?;
        let trapped = match &prepared {
            Some(_) => None,
            None => Some(Trapped::new(&devices)?),
        };
        let trace = Arc::new(trace);
        let core = Core {
            host,
            devices,
            opens: Opens::new(FIRST_OPEN, trace.clone()),
            trace,
            faulted: Default::default(),
            exchanged: Default::default(),
            placed: Default::default(),
            reaper: Reaper::new()
                .map_err(|error| format!("cannot use inotify: {}", crate::watch_remedy(&error)))?,
            reaping: Default::default(),
            watcher: Watcher::default(),
            fuse_hook: Arc::new(Waits(AtomicUsize::new(0))),
            devfs: OnceLock::new(),
            trapped,
            mount_device: OnceLock::new(),
            mapped: AtomicBool::new(false),
            own_filters: Default::default(),
            started: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
        };
        self.prepared = Some((core, prepared));
        Ok(())
    }

    fn enter(&mut self, channel: &UnixStream) -> Result<(), String> {
        let (core, prepared) = self.prepared.take().ok_or("entered before prepared")?;
        // The supervisor's, which has them too: no driver ends here.
        let core = ManuallyDrop::new(core);
        let Some(Prepared { program, supervisor, .. }) = prepared else {
            let filter =
                core.trapped.as_ref().map(Trapped::filter).ok_or("prepared for nothing")?;
            return hand_over(channel, 0, filter, None);
        };
        // Only the supervisor may hold the file system's descriptor: its death has to end it.
        drop(supervisor);
        program.enter().map_err(|error| format!("cannot enter a private /dev: {error}"))?;
        let (device, dev) = std::fs::File::open("/dev")
            .and_then(|dev| Ok((dev.metadata()?.st_dev(), dev)))
            .map_err(|error| format!("cannot look at the private /dev: {error}"))?;
        hand_over(channel, device, filter::namespace(), Some(dev.as_fd()))
    }

    fn supervise(self, channel: UnixStream, tree: SupervisorSide) -> Result<(), String> {
        let (core, prepared) = self.prepared.ok_or("supervising before prepared")?;
        core.devices.iter().for_each(|device| device.device.started());
        let core = Arc::new(core);
        let served = match prepared {
            Some(Prepared { entries, supervisor, program, owner, .. }) => {
                // The program's process has its own copy.
                drop(program);
                loosen_limits();
                supervise_namespace(&core, supervisor, &entries, owner, &channel, &tree)
            }
            None => supervise_trapped(&core, &channel, &tree),
        };
        drop(self.places);
        // Also where no program came to run.
        core.end();
        served
    }
}

/// Serves a program in its namespace.
fn supervise_namespace(
    core: &Arc<Core>,
    mut supervisor: SupervisorEnd,
    entries: &DevEntries,
    owner: (u32, u32),
    channel: &UnixStream,
    tree: &SupervisorSide,
) -> Result<(), String> {
    let maps = Maps::listen(core);
    let Ok(fuse) = supervisor.channel() else {
        // The program's process has told why.
        tree.settled();
        return Ok(());
    };
    let _ = core.devfs.set(Devfs::new(core, fuse, entries, owner));
    for device in core.devices.iter().filter(|device| device.device.is_shared()) {
        let (core, index) = (Arc::downgrade(core), device.index);
        device.device.set_renewal(Box::new(move || {
            if let Some(core) = core.upgrade() {
                core.faulted.renew(&core, index);
            }
        }));
    }
    let order = Arc::new(Order::default());
    let requests = serve_requests(core, &order)?;
    let entered = supervisor.wait();
    let listener = handover::receive(channel)
        .map_err(|error| format!("cannot receive the seccomp listener: {error}"))?;
    let (Ok(_), Some((device, mut fds))) = (entered, listener) else {
        tree.settled();
        return Ok(());
    };
    let (Some(dev), Some(listener)) = (fds.pop(), fds.pop()) else {
        return Err("cannot receive the seccomp listener: no descriptor came".to_owned());
    };
    let _ = core.mount_device.set(device);
    let _ = core.faulted.set_directory(dev);
    let ended = serve_notifications(core, listener)?;
    maps.answer_until(&tree.program_ended);
    settle(core, (&requests, &order));
    finish(core);
    maps.conclude(&ended, tree, || core.end());
    Ok(())
}

/// What namespace mode needs; `None` for trapped mode.
fn choose(
    mode: Mode,
    devices: &[Arc<DeviceEntry>],
    places: &mut Vec<Place>,
) -> Result<Option<Prepared>, String> {
    if mode == Mode::Trapped {
        show(devices, places);
        return Ok(None);
    }
    if let (Mode::Namespace, Some(device)) = (mode, outside_of_dev(devices)) {
        return Err(format!(
            "{}: a character device outside of /dev takes trapped mode; choose a path below /dev, \
             or --mode trapped",
            device.path.display()
        ));
    }
    let why = match prepare_namespace(devices, places) {
        Ok(prepared) => return Ok(Some(prepared)),
        Err(why) => why,
    };
    places.clear();
    if mode == Mode::Namespace {
        return Err(format!("cannot make a private /dev: {why}; see `devmap doctor`"));
    }
    show(devices, places);
    crate::report(format_args!(
        "trapped mode, for there can be no private /dev ({why}): opening and looking at any \
         file takes longer, and poll says less of a device; see `devmap doctor`"
    ));
    Ok(None)
}

/// A device that no mount can give its place: on a file only another file can be mounted.
fn outside_of_dev(devices: &[Arc<DeviceEntry>]) -> Option<&Arc<DeviceEntry>> {
    devices.iter().find(|device| !device.is_regular() && !device.path.starts_with("/dev"))
}

/// In trapped mode nothing is mounted; but where a file can be made, programs that list the
/// directory see it.
fn show(devices: &[Arc<DeviceEntry>], places: &mut Vec<Place>) {
    let shown =
        devices.iter().filter(|device| device.is_regular() && !device.path.starts_with("/dev"));
    places.extend(shown.filter_map(|device| Place::new(&device.path).ok()));
}

/// Mounts what can be mounted beforehand, and finds the places for all else.
fn prepare_namespace(
    devices: &[Arc<DeviceEntry>],
    places: &mut Vec<Place>,
) -> Result<Prepared, String> {
    let (inside, outside): (Vec<_>, Vec<_>) =
        devices.iter().partition(|device| device.path.starts_with("/dev"));
    if let Some(device) = outside_of_dev(devices) {
        let path = device.path.display();
        return Err(format!("{path} is a character device outside of /dev"));
    }
    if !rustix::process::geteuid().is_root() {
        // For an ordinary user it is the program's process that finds out, too late.
        probe::try_namespace()?;
    }
    let below_dev =
        |device: &Arc<DeviceEntry>| device.path.strip_prefix("/dev").ok().map(Into::into);
    let paths: Vec<PathBuf> = inside.into_iter().filter_map(below_dev).collect();
    let classes: Vec<PathBuf> =
        devices.iter().filter_map(|device| sysfs::in_class(device)).collect();
    let characters = devices.iter().filter(|device| !device.is_regular());
    let numbers: Vec<_> = characters.map(|device| device.number).collect();
    let prepared =
        namespace::prepare(&paths, &numbers, &classes).map_err(|error| error.to_string())?;
    let mut files = Vec::new();
    for device in outside {
        let place = Place::new(&device.path).map_err(|error| {
            let path = device.path.display();
            format!("cannot make a place for {path}: {error}; name a file that is there")
        })?;
        files.push((device.index.to_string(), place.path().to_owned()));
        places.push(place);
    }
    Ok(prepared.with_files(files))
}

/// What `EBUSY` says: a process has one listener, which its children inherit.
const NESTED: &str = "cannot install the seccomp filter: another process, such as an outer \
    `devmap run`, answers this program's system calls already. Runs do not nest: give all devices \
    to the outer one, or start this one outside of it";

/// Installs the filter in this process, and gives the supervisor its end, a number and
/// perhaps a directory.
fn hand_over(
    channel: &UnixStream,
    number: u64,
    filter: Result<Filter, AssembleError>,
    directory: Option<BorrowedFd<'_>>,
) -> Result<(), String> {
    let filter = filter.map_err(|error| error.to_string())?;
    // Of standard error: in trapped mode the filter asks the supervisor about that itself.
    let errors = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3);
    // Root may do without, and then setuid programs work as ever.
    let listener = seccomp::install(&filter, !rustix::process::geteuid().is_root())
        .or_else(|_| seccomp::install(&filter, true))
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => NESTED.to_owned(),
            _ => format!("cannot install the seccomp filter: {error}"),
        })?;
    let fds: Vec<_> = [Some(listener.as_fd()), directory].into_iter().flatten().collect();
    handover::send(channel, number, &fds).map_err(|error| {
        let message = format!("cannot reach the supervisor: {error}");
        if let (None, Ok(errors)) = (directory, errors) {
            let _ = writeln!(std::fs::File::from(errors), "devmap: {message}");
        }
        message
    })
}

/// Open files of devices take descriptors here: for their maps, and in trapped mode by
/// themselves. What a driver writes is as long as its caller may make it, or `EFBIG`: the
/// signal is blocked.
pub(crate) fn loosen_limits() {
    for resource in [Resource::Nofile, Resource::Fsize] {
        let limit = rustix::process::getrlimit(resource);
        let _ = rustix::process::setrlimit(
            resource,
            Rlimit { current: limit.maximum, maximum: limit.maximum },
        );
    }
}

/// Serves a program in trapped mode.
fn supervise_trapped(
    core: &Arc<Core>,
    channel: &UnixStream,
    tree: &SupervisorSide,
) -> Result<(), String> {
    // The program is in the same user namespace: /proc/PID/fd and ptrace would give it the
    // memory of every device.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("cannot close the supervisor to the program: {error}"))?;
    let maps = Maps::listen(core);
    let listener = handover::receive(channel)
        .map_err(|error| format!("cannot receive the seccomp listener: {error}"))?;
    if let Some(listener) = listener.and_then(|(_, mut fds)| fds.pop()) {
        loosen_limits();
        let ended = serve_notifications(core, listener)?;
        maps.answer_until(&tree.program_ended);
        core.settle_trapped();
        finish(core);
        maps.conclude(&ended, tree, || {
            core.settle_trapped();
            if let Some(trapped) = &core.trapped {
                trapped.close_all(core);
                trapped.clear();
            }
            core.end();
        });
    } else {
        // The program's process has told why.
        tree.settled();
    }
    Ok(())
}

/// The devices with their numbers: a number that the driver leaves to its home is the
/// next free one of the majors for local use (240, Documentation/admin-guide/devices). So is
/// one of these that two devices have, such as those of two daemons.
///
/// # Errors
/// Which devices have another number in common; which driver panicked.
pub(crate) fn entries(nodes: Vec<Node>) -> Result<Vec<Arc<DeviceEntry>>, String> {
    const LOCAL_MAJOR: u32 = 240;
    let metadata = nodes.iter().map(|node| {
        let metadata = catch_unwind(AssertUnwindSafe(|| node.device.metadata())).map_err(|_| {
            format!("{}: the driver {:?} panicked in metadata", node.path.display(), node.name)
        })?;
        check_metadata(&node.path, &node.name, &metadata)?;
        Ok::<_, String>(metadata)
    });
    let metadata: Vec<_> = metadata.collect::<Result<_, _>>()?;
    let fixed: Vec<_> = metadata
        .iter()
        .filter_map(|metadata| match metadata.kind {
            Kind::Character(Number::Fixed { major, minor }) => Some((major, minor)),
            _ => None,
        })
        .collect();
    // Where there is no such directory, no number is known to be taken.
    let is_taken = |minor: u32| {
        let link = format!("/sys/dev/char/{LOCAL_MAJOR}:{minor}");
        fixed.contains(&(LOCAL_MAJOR, minor)) || Path::new(&link).symlink_metadata().is_ok()
    };
    let mut minors = (0..).filter(|minor| !is_taken(*minor));
    let mut next_local = || (LOCAL_MAJOR, minors.next().unwrap_or(0));
    let mut given: HashMap<(u32, u32), PathBuf> = HashMap::new();
    let mut entries = nodes
        .into_iter()
        .zip(metadata)
        .zip(0..)
        .map(|((node, metadata), index)| {
            let number = match metadata.kind {
                Kind::Character(Number::Fixed { major, minor }) => {
                    match given.insert((major, minor), node.path.clone()) {
                        None => (major, minor),
                        Some(_) if major == LOCAL_MAJOR => next_local(),
                        Some(other) => return Err(same_number(&other, &node.path, (major, minor))),
                    }
                }
                Kind::Character(Number::Dynamic) => next_local(),
                Kind::Regular { .. } => (0, 0),
            };
            let Node { path, name, device } = node;
            let class = class_of(&path, &name, &*device)?;
            let sys_name = None;
            Ok(DeviceEntry { path, name, index, device, metadata, number, class, sys_name })
        })
        .collect::<Result<Vec<_>, String>>()?;
    sysfs::name_by_number(&mut entries);
    Ok(entries.into_iter().map(Arc::new).collect())
}

/// The program's process cannot be forked any more.
fn threads_of(nodes: &[Node]) -> String {
    let names: Vec<_> =
        nodes.iter().map(|node| format!("{} ({:?})", node.path.display(), node.name)).collect();
    format!(
        "a driver started a thread when its device was made, before the program's process is \
         forked; it can start it when the device is first opened. The devices: {}",
        names.join(", ")
    )
}

/// What the kernel can tell of a device: 12 bits of permissions, 12 and 20 of a number
/// (`MKDEV`), and a size that is no negative `loff_t`.
fn check_metadata(path: &Path, name: &str, metadata: &Metadata) -> Result<(), String> {
    let wrong = match metadata.kind {
        _ if metadata.mode & !0o7777 != 0 => {
            format!("the mode {:#o}, of which 0o7777 is the most", metadata.mode)
        }
        Kind::Character(Number::Fixed { major, minor }) if major >= 1 << 12 || minor >= 1 << 20 => {
            format!("the device number {major}:{minor}, of which 4095:1048575 is the most")
        }
        Kind::Regular { size } if i64::try_from(size).is_err() => {
            format!("a size of {size} bytes, of which {} is the most", i64::MAX)
        }
        _ => return Ok(()),
    };
    Err(format!("{}: the driver {name:?} says in metadata: {wrong}", path.display()))
}

fn same_number(one: &Path, other: &Path, (major, minor): (u32, u32)) -> String {
    format!(
        "{} and {} have the same device number, {major}:{minor}; give one of them another where \
         it is made, a camera by minor=N",
        one.display(),
        other.display(),
    )
}

/// The class that a driver names.
fn class_of(path: &Path, name: &str, device: &dyn AnyDevice) -> Result<Option<ClassEntry>, String> {
    catch_unwind(AssertUnwindSafe(|| device.class()))
        .map_err(|_| format!("{}: the driver {name:?} panicked in class", path.display()))
}

impl Core {
    /// What `stat` shows of a device.
    pub(crate) fn status_of(&self, device: &DeviceEntry) -> FileStatus {
        let node = self.devfs.get().map(|devfs| (devfs.node_of(device.index), devfs.owner()));
        let (inode, (uid, gid)) = node.unwrap_or((0, (0, 0)));
        FileStatus {
            device: self.mount_device.get().copied().unwrap_or(0),
            inode,
            mode: libc::S_IFCHR | u32::from(device.metadata.mode),
            links: 1,
            uid,
            gid,
            number: device.number,
            size: 0,
            block_size: 4096,
            time: self.started,
        }
    }
}

impl Core {
    /// The kernel closes the descriptors of a process before its parent can reap it. A
    /// driver that blocks in its release is not waited for beyond a while.
    fn settle_trapped(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        let settled = || self.trapped.as_ref().is_none_or(Trapped::is_settled);
        while !settled() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        if let Some(trapped) = &self.trapped {
            trapped.settle_files();
        }
        self.opens.sweep();
    }
}

/// Counts FUSE requests whose driver waits.
struct Waits(AtomicUsize);

impl WaitHook for Waits {
    fn begin(&self, _waiter: &Arc<Waiter>) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst);
        // Who receives the next request receives interruptions.
        true
    }

    fn end(&self, _waiter: &Arc<Waiter>) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn waiting(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn is_buffered(&self) -> bool {
        true
    }
}

/// Serves requests of FUSE.
fn serve_requests(core: &Arc<Core>, order: &Arc<Order>) -> Result<Arc<Pool>, String> {
    let (core, order) = (core.clone(), order.clone());
    Pool::start("devmap-fuse", 1, move || {
        let (core, order) = (core.clone(), order.clone());
        let mut buffer = RequestBuffer::new();
        let turn: Turn = Box::new(move |received| {
            let Some(devfs) = core.devfs.get() else { return false };
            let entered = order.enter();
            let mut failures = Failures::default();
            loop {
                match devfs.receive(&mut buffer) {
                    Ok(Some(request)) => {
                        if devfs::may_take_long(&request) {
                            received();
                        }
                        if matches!(request.operation, Operation::Release { .. }) {
                            order.release(entered, || devfs.serve(&core, request));
                        } else {
                            drop(entered);
                            devfs.serve(&core, request);
                        }
                        return true;
                    }
                    Ok(None) => return false,
                    Err(error) => failures.one_more("FUSE requests", &error),
                }
            }
        });
        turn
    })
}

/// Serves notifications; the receiver hears when no process is left to send any.
fn serve_notifications(core: &Arc<Core>, listener: OwnedFd) -> Result<Receiver<()>, String> {
    let (ended, hears) = channel();
    let listener = Arc::new(seccomp::Listener::from(listener));
    // Only faster, and only since Linux 6.6.
    let _ = listener.set_sync_wake();
    let core = core.clone();
    Pool::start("devmap-notify", 2, move || {
        let (core, listener, ended) = (core.clone(), listener.clone(), ended.clone());
        let turn: Turn = Box::new(move |received| {
            let mut failures = Failures::default();
            loop {
                match listener.recv() {
                    Ok(Some(notification)) => {
                        received();
                        notify::serve(&core, &listener, &notification);
                        return true;
                    }
                    Ok(None) => {
                        let _ = ended.send(());
                        return false;
                    }
                    Err(error) => failures.one_more("system calls", &error),
                }
            }
        });
        turn
    })?;
    Ok(hears)
}

/// Answers `devmap maps`: the socket is there before the program can do anything, and a thread
/// when somebody asks, or when this one has to wait for something else.
struct Maps {
    core: Arc<Core>,
    listener: Option<Arc<Listener>>,
    thread: LazyThread,
}

impl Maps {
    fn listen(core: &Arc<Core>) -> Maps {
        let listener = Listener::new(Home::Supervised)
            .inspect_err(|error| {
                let error = crate::with_remedy(error);
                crate::report(format_args!("devmap maps will not find this run: {error}"));
            })
            .ok();
        let listener = listener.map(Arc::new);
        Maps { core: core.clone(), listener, thread: LazyThread::new() }
    }

    /// Returns when `end` is at its end.
    fn answer_until(&self, end: &OwnedFd) {
        let mut listener = self.listener.as_deref().map(|listener| listener as &dyn AsFd);
        loop {
            match tree::ready([Some(end), listener]) {
                Ok([true, _]) => return,
                Ok([_, true]) if self.start() => listener = None,
                // For want of memory, say, which must not spin.
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// The program has ended: lets the front end, waits for processes that are left behind, and
    /// runs `end`. What the drivers say at their end is heard where nothing is left behind.
    fn conclude(&self, ended: &Receiver<()>, tree: &SupervisorSide, end: impl FnOnce()) {
        if ended.try_recv() == Err(TryRecvError::Empty) {
            tree.settled();
            self.start();
            let _ = ended.recv();
            end();
        } else {
            end();
            tree.settled();
        }
    }

    /// Whether a thread answers.
    fn start(&self) -> bool {
        let Some(listener) = self.listener.clone() else { return true };
        let core = self.core.clone();
        let answer = move |pid, wanted| {
            if !ancestors(pid).any(|ancestor| ancestor == std::process::id()) {
                return Err(format!("process {pid} has ended"));
            }
            core.areas(pid, wanted)
                .map_err(|error| format!("cannot look at process {pid}: {error}"))
        };
        self.thread.start("devmap-maps", move || listener.serve(answer))
    }
}

/// Tells the counts, if they are wanted.
fn finish(core: &Core) {
    if let Some(table) = core.trace.stats_table() {
        crate::report(format_args!("what was served:\n{table}"));
    }
}

/// The kernel queues the closes of a process before its parent can reap it, so what is
/// left is to serve the queue. A driver that blocks without telling its home is not
/// waited for beyond a while.
fn settle(core: &Core, (requests, order): (&Pool, &Order)) {
    let deadline = Instant::now() + Duration::from_secs(2);
    let quiet = || {
        let queue = core.devfs.get().is_some_and(|devfs| is_readable(devfs.channel().as_fd()));
        !queue && requests.is_quiet(core.fuse_hook.waiting() + order.queued())
    };
    while !quiet() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
    core.opens.sweep();
    if requests.is_over() {
        // The last process that could see the devices is gone, and the kernel may have
        // thrown away what it still had to say.
        core.opens.release_all();
    }
}
