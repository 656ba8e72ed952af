//! `mmap` of a device: Linux's checks in Linux's order, the driver's plan, and
//! carrying it out in the client.
//!
//! What does not live here: telling which calls are a device's (`notify`).

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use devmap_driver::{
    AreaFlags, Errno, Memory, NewArea, Plan, Platform, Protection, Sharing, Source,
};
use devmap_inspect::Method;
use devmap_sys::{
    arch::{ADDRESS_SPACE, nr},
    seccomp::Reply,
};
use serde_json::Value;

use crate::{
    Core,
    areas::Placement,
    attach::{self, Held, NotHeld},
    client, faulted,
    host::HostMemory,
    notify::{self, Call},
    opens::OpenFile,
    own_filters::OwnFilters,
    reaper::Reaper,
    tokens::Token,
};

/// The arguments of `mmap(2)`.
struct Request {
    addr: u64,
    len: u64,
    prot: i32,
    flags: i32,
    offset: u64,
}

/// Part of the area, and the pages of a file that go there.
struct Piece {
    /// Bytes from the area's start.
    at: u64,
    /// Bytes.
    len: u64,
    backing: Backing,
    /// Bytes from the file's start.
    offset: u64,
}

impl Piece {
    /// See [`HostMemory::let_go`].
    fn let_go(&self) {
        if let Backing::Memory(memory) = &self.backing {
            memory.let_go();
        }
    }
}

/// Whose pages they are.
enum Backing {
    /// A driver's memory.
    Memory(HostMemory),
    /// The FUSE file of a device's faulted pages.
    Faulted(Arc<OwnedFd>),
}

/// The file by which a piece is mapped, held until it is.
enum MapFile {
    Token(Arc<Token>),
    Faulted(Arc<OwnedFd>),
}

impl MapFile {
    fn fd(&self) -> &OwnedFd {
        match self {
            MapFile::Token(token) => &token.file,
            MapFile::Faulted(file) => file,
        }
    }
}

/// Serves an `mmap` of `file`: answers the notification, and tells what came of it and
/// the plan, if it came to one.
pub(crate) fn mmap(
    core: &Arc<Core>,
    call: &Call<'_>,
    file: &Arc<OpenFile>,
) -> (Result<Option<u64>, Errno>, Option<Plan<HostMemory>>) {
    let args = call.notification.args;
    let request = Request {
        addr: args[0],
        len: args[1],
        prot: args[2] as i32,
        flags: args[3] as i32,
        offset: args[5],
    };
    // In the driver, by its mmap and fault methods, the call may wait.
    let tid = call.notification.tid;
    let planned = area_of(core, tid, file, &request).and_then(|area| {
        notify::interruptible(core, call, || {
            let plan = plan_of(file, &area)?;
            Ok((pieces(core, file, &area, &plan), plan))
        })
    });
    let (result, plan) = match planned {
        Ok((pieces, plan)) => {
            let mapped = pieces.and_then(|pieces| {
                if plan.area_flags().contains(AreaFlags::RESERVED) {
                    keep_resident(file, &pieces);
                }
                carry_out(core, call, file, &request, &plan, &pieces)
            });
            // Whatever came of it: the caller may have been killed, and all closed.
            core.opens.after_map(file);
            (mapped, Some(plan))
        }
        Err(errno) => (Err(errno), None),
    };
    // If the thread was held, the call has been answered, and this finds nobody.
    if let Err(errno) = result {
        notify::answer(call, Err(errno));
    }
    (result, plan)
}

/// For the trace: the area that was asked for.
pub(crate) fn describe(core: &Core, args: &[u64; 6]) -> Vec<(&'static str, Value)> {
    let page = core.host.page_size();
    let (prot, flags) = (args[2] as i32, args[3] as i32);
    let letter = |bit, letter| if prot & bit != 0 { letter } else { '-' };
    let mode: String = [
        letter(libc::PROT_READ, 'r'),
        letter(libc::PROT_WRITE, 'w'),
        letter(libc::PROT_EXEC, 'x'),
        if flags & libc::MAP_TYPE == libc::MAP_PRIVATE { 'p' } else { 's' },
    ]
    .iter()
    .collect();
    vec![
        ("pages", page.pages_for(args[1]).into()),
        ("offset_pages", page.page_of(args[5]).into()),
        ("mode", mode.into()),
    ]
}

/// For the trace: what the driver answered.
pub(crate) fn describe_plan(plan: &Plan<HostMemory>) -> String {
    let extents: Vec<String> = plan
        .extents()
        .map(|extent| {
            let end = extent.at + extent.pages;
            match &extent.source {
                Source::Remap { first_page, .. } => {
                    format!("remap {}..{end} from page {first_page}", extent.at)
                }
                Source::Fault => format!("fault {}..{end}", extent.at),
            }
        })
        .collect();
    let flags = plan.area_flags().to_string();
    if flags.is_empty() {
        extents.join(" + ")
    } else {
        format!("{} [{flags}]", extents.join(" + "))
    }
}

/// `LEGACY_MAP_MASK`: the flags that `MAP_SHARED_VALIDATE` knows, but for `MAP_SYNC`.
const KNOWN_FLAGS: i32 = libc::MAP_SHARED
    | libc::MAP_PRIVATE
    | libc::MAP_FIXED
    | libc::MAP_ANONYMOUS
    | libc::MAP_DENYWRITE
    | libc::MAP_EXECUTABLE
    | libc::MAP_GROWSDOWN
    | libc::MAP_LOCKED
    | libc::MAP_NORESERVE
    | libc::MAP_POPULATE
    | libc::MAP_NONBLOCK
    | libc::MAP_STACK
    | libc::MAP_HUGETLB
    | MAP_LOW;

/// `MAP_32BIT`, and `MAP_ABOVE4G`, which libc lacks.
#[cfg(target_arch = "x86_64")]
const MAP_LOW: i32 = libc::MAP_32BIT | 0x80;
#[cfg(not(target_arch = "x86_64"))]
const MAP_LOW: i32 = 0;

/// Where no program's memory is: whether it ends before, by the levels of page tables, the kernel
/// knows.
const FARTHEST: u64 = 1 << 56;

/// The checks of `ksys_mmap_pgoff` and `do_mmap`, in their order, up to the driver's method.
/// What depends on the program's limits the kernel looks at when the map is made.
fn area_of(core: &Core, tid: u32, file: &OpenFile, request: &Request) -> Result<NewArea, Errno> {
    let page = core.host.page_size();
    let is = |flag| request.flags & flag != 0;
    if !page.is_aligned(request.offset) || is(libc::MAP_HUGETLB) || request.len == 0 {
        return Err(Errno::EINVAL);
    }
    let pages = page.pages_for(request.len);
    let len = page.offset_of(pages).filter(|len| *len <= ADDRESS_SPACE).ok_or(Errno::ENOMEM)?;
    let first_page = page.page_of(request.offset);
    if is(libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) {
        if request.addr > FARTHEST - len {
            return Err(Errno::ENOMEM);
        }
        if !page.is_aligned(request.addr) {
            return Err(Errno::EINVAL);
        }
    }
    if is(libc::MAP_FIXED_NOREPLACE) {
        let range = request.addr..request.addr + len;
        if client::maps_in(tid, range).is_ok_and(|mapped| !mapped.is_empty()) {
            return Err(Errno::EEXIST);
        }
    }
    request.offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
    let sharing = match request.flags & libc::MAP_TYPE {
        libc::MAP_SHARED_VALIDATE if is(!KNOWN_FLAGS) => return Err(Errno::EOPNOTSUPP),
        libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE => Sharing::Shared,
        libc::MAP_PRIVATE => Sharing::Private,
        _ => return Err(Errno::EINVAL),
    };
    let has = |bit| request.prot & bit != 0;
    if sharing == Sharing::Shared && has(libc::PROT_WRITE) && !file.flags.write {
        return Err(Errno::EACCES);
    }
    if !file.flags.read {
        return Err(Errno::EACCES);
    }
    if is(libc::MAP_GROWSDOWN) {
        return Err(Errno::EINVAL);
    }
    let protection = Protection {
        read: has(libc::PROT_READ),
        write: has(libc::PROT_WRITE),
        execute: has(libc::PROT_EXEC),
    };
    NewArea::new(page, first_page, pages, protection, sharing).ok_or(Errno::EOVERFLOW)
}

/// The driver's plan, checked.
pub(crate) fn plan_of(file: &OpenFile, area: &NewArea) -> Result<Plan<HostMemory>, Errno> {
    let device = &file.device;
    let plan = device.call("mmap", |driver| driver.mmap(file.state(), area))?;
    plan.validate(area, HostMemory::pages).map_err(|error| {
        crate::report(format_args!(
            "{}: refused the plan of driver {:?}: it {error}; the program's mmap gets EIO",
            device.path.display(),
            device.name
        ));
        Errno::EIO
    })?;
    Ok(plan)
}

/// The plan as pieces of memfds, in the order of the area.
fn pieces(
    core: &Core,
    file: &Arc<OpenFile>,
    area: &NewArea,
    plan: &Plan<HostMemory>,
) -> Result<Vec<Piece>, Errno> {
    let page = area.page_size().bytes();
    let mut pieces = Vec::new();
    for extent in plan.extents() {
        match &extent.source {
            Source::Remap { memory, first_page } => pieces.push(Piece {
                at: extent.at * page,
                len: extent.pages * page,
                backing: Backing::Memory(memory.clone()),
                offset: first_page * page,
            }),
            Source::Fault => {
                let at = extent.at..extent.at + extent.pages;
                match faulted::supply(core, file, area, at)? {
                    faulted::Extent::Later(backing) => pieces.push(Piece {
                        at: extent.at * page,
                        len: extent.pages * page,
                        backing: Backing::Faulted(backing),
                        offset: (area.first_page() + extent.at) * page,
                    }),
                    faulted::Extent::Now(runs) => {
                        pieces.extend(runs.into_iter().map(|run| Piece {
                            at: run.at * page,
                            len: run.pages * page,
                            backing: Backing::Memory(run.memory),
                            offset: run.first_page * page,
                        }));
                    }
                }
            }
        }
    }
    pieces.sort_by_key(|piece| piece.at);
    Ok(pieces)
}

/// `VM_RESERVED` was never swapped.
fn keep_resident(file: &OpenFile, pieces: &[Piece]) {
    let memories = pieces.iter().filter_map(|piece| match &piece.backing {
        Backing::Memory(memory) => Some(memory),
        Backing::Faulted(_) => None,
    });
    keep_memories_resident(file, memories);
}

/// As `VM_RESERVED` asks; says so where it cannot be.
pub(crate) fn keep_memories_resident<'a>(
    file: &OpenFile,
    mut memories: impl Iterator<Item = &'a HostMemory>,
) {
    if memories.any(|memory| !memory.keep_resident()) {
        crate::report_once(format_args!(
            "{}: its memory may be swapped out: RLIMIT_MEMLOCK is too small to lock it; \
             `ulimit -l` raises it",
            file.device.path.display()
        ));
    }
}

/// Makes the maps in the client and answers its call with the address.
fn carry_out(
    core: &Arc<Core>,
    call: &Call<'_>,
    file: &Arc<OpenFile>,
    request: &Request,
    plan: &Plan<HostMemory>,
    pieces: &[Piece],
) -> Result<Option<u64>, Errno> {
    let mut files = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let opened = match &piece.backing {
            // Noted first: a map that fails leaves a note that the next look removes,
            // a map without a note would lose its memory.
            Backing::Memory(memory) => token(core, file, memory).map(MapFile::Token),
            Backing::Faulted(backing) => Ok(MapFile::Faulted(backing.clone())),
        };
        files.push(opened.map_err(|error| {
            crate::report(format_args!(
                "{}: cannot open its memory for a map: {error}",
                file.device.path.display()
            ));
            Errno::ENOMEM
        })?);
    }
    note(core, file, request, plan, pieces);
    // A filter may end the thread, and nobody could tell then of which process it was.
    let process =
        core.own_filters.any().then(|| client::process_of(call.notification.tid)).flatten();
    let mut scratch = Vec::new();
    let mut added = Ok(());
    let held = attach::hold(call.notification.tid, || {
        // Descriptors can be given only before the answer.
        let mut numbers = HashMap::new();
        added = files.iter().try_for_each(|file| {
            // One for all pieces of a file: there may be more pieces than descriptors.
            let number = match numbers.entry(file.fd().as_raw_fd()) {
                Entry::Occupied(number) => *number.get(),
                Entry::Vacant(place) => *place.insert(call.add_scratch(file.fd())?),
            };
            scratch.push(number);
            Ok(())
        });
        // Not 0: should devmap die now, the program must not take 0 for an address.
        call.send(Reply::Error(Errno::EIO.raw()))
    });
    let mut held = match held {
        Ok(held) => held,
        Err(NotHeld::Refused) => {
            return without_attaching(core, call, file, request, pieces, &files);
        }
        Err(NotHeld::Gone) => return Err(Errno::EINTR),
    };
    let mapped = added.and_then(|()| {
        let numbered: Vec<_> = pieces.iter().zip(&scratch).collect();
        inject(&mut held, core, file, request, plan, &numbered)
    });
    let closed = close(&mut held, &core.own_filters, process, &scratch, &files);
    match mapped.as_ref().and_then(|address| closed.as_ref().map(|()| address)) {
        Ok(address) => held.set_result(*address),
        Err(error) => held.set_result(-i64::from(error.raw_os_error().unwrap_or(libc::EIO))),
    }
    // Before the program goes on: should it unmap now, nothing but its maps shall have
    // held the memory.
    drop(files);
    for piece in pieces {
        piece.let_go();
    }
    let _ = held.release();
    mapped
        .map(|address| Some(address.cast_unsigned()))
        .map_err(|error| error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO))
}

/// Closes what was given to the thread. The calls are judged by the program's own seccomp
/// filters: one that kept a descriptor open would give it pages that no plan gave. `process`: that
/// of the thread, if it is known.
fn close(
    held: &mut Held,
    own_filters: &OwnFilters,
    process: Option<u32>,
    scratch: &[u32],
    files: &[MapFile],
) -> io::Result<()> {
    let given: BTreeMap<u32, &MapFile> = scratch.iter().copied().zip(files).collect();
    // Each of them, whatever became of the one before.
    let mut closed = Ok(());
    for number in given.keys() {
        let result = held.inject(nr::CLOSE, [u64::from(*number), 0, 0, 0, 0, 0]);
        closed = closed.and(result.and_then(check).map(drop));
    }
    // Not before: another thread may have installed some for all of its process.
    let are_judged = own_filters.any();
    let is_closed = match &closed {
        Ok(()) => !are_judged,
        // Another thread has closed it, or this one is gone, which a filter may have done.
        Err(error) => match error.raw_os_error() {
            Some(libc::EBADF) => true,
            Some(libc::ESRCH) => !are_judged,
            _ => false,
        },
    };
    if is_closed {
        return closed;
    }
    let processes = match process.or_else(|| client::process_of(held.tid())) {
        Some(process) => vec![process],
        None => own_filters.installers(),
    };
    for (number, file) in given {
        let stat = rustix::fs::fstat(file.fd())?;
        let keeper =
            processes.iter().find(|process| keeps(**process, number, (stat.st_dev, stat.st_ino)));
        if let Some(process) = keeper {
            crate::report(format_args!(
                "killed process {process}: it does not let a descriptor of a device's memory be \
                 closed"
            ));
            client::kill(*process);
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
    }
    closed
}

/// Whether a descriptor of a process stays open on a file. For a while, another thread that maps
/// may have been lent that number.
fn keeps(process: u32, number: u32, file: (u64, u64)) -> bool {
    // The first thread may be gone, and the others have all.
    let holds = |tid| client::may_hold(tid, number, file) && !client::is_killed(tid);
    (0..1000).all(|round| {
        std::thread::sleep(Duration::from_millis(u64::from(round > 0)));
        client::threads_of(process).into_iter().any(holds)
    })
}

/// Notes for `devmap maps` what of the device the pieces are.
fn note(
    core: &Core,
    file: &OpenFile,
    request: &Request,
    plan: &Plan<HostMemory>,
    pieces: &[Piece],
) {
    let page = core.host.page_size().bytes();
    for piece in pieces {
        let Backing::Memory(memory) = &piece.backing else { continue };
        let at = piece.at / page;
        let is_remapped = |extent: &devmap_driver::Extent<HostMemory>| {
            let pages = extent.at..extent.at + extent.pages;
            pages.contains(&at) && matches!(extent.source, Source::Remap { .. })
        };
        core.placed.note(
            &core.host,
            Placement {
                memory: memory.tokens().identity(),
                bytes: piece.offset..piece.offset + piece.len,
                device: file.device.index,
                offset: request.offset + piece.at,
                method: if plan.extents().any(is_remapped) { Method::Remap } else { Method::Fault },
            },
        );
    }
}

/// A debugger holds the thread.
fn without_attaching(
    core: &Core,
    call: &Call<'_>,
    file: &OpenFile,
    request: &Request,
    pieces: &[Piece],
    files: &[MapFile],
) -> Result<Option<u64>, Errno> {
    let exchanged = match (pieces, files) {
        ([piece], [file]) if piece.offset == request.offset => {
            core.exchanged.map(call, file.fd()).map_err(|error| error.to_string())
        }
        _ => Err("it is not one run of pages at its own offset in the memory".to_owned()),
    };
    exchanged.map(|()| None).map_err(|why| {
        if !call.is_waiting() {
            // It was killed, and could not be attached to for that.
            return Errno::EINTR;
        }
        crate::report(format_args!(
            "{}: mmap by thread {} fails with EBUSY: a debugger traces it, so devmap cannot \
             attach, and the map cannot be left to the kernel ({why}); let the program map \
             before attaching",
            file.device.path.display(),
            call.notification.tid
        ));
        Errno::EBUSY
    })
}

fn token(core: &Arc<Core>, file: &OpenFile, memory: &HostMemory) -> io::Result<Arc<Token>> {
    let reaping = core.clone();
    core.reaping.start("devmap-reaper", move || {
        reaping.reaper.run(&reaping.opens, || reaping.forget_unused());
    });
    core.set_mapped();
    token_of(&core.reaper, file, memory)
}

/// The token by which `file` maps `memory`. It is noted before any map is made: a map that
/// fails leaves a note that the next look removes.
pub(crate) fn token_of(
    reaper: &Reaper,
    file: &OpenFile,
    memory: &HostMemory,
) -> io::Result<Arc<Token>> {
    reaper.watch(memory)?;
    let token = memory.token((file.id, file.flags.write))?;
    file.note_map(memory, token.id);
    Ok(token)
}

/// One map for one piece; several pieces within a reservation of the whole area.
/// Each piece comes with the descriptor that its memory has in the client.
fn inject(
    held: &mut Held,
    core: &Core,
    file: &OpenFile,
    request: &Request,
    plan: &Plan<HostMemory>,
    pieces: &[(&Piece, &u32)],
) -> io::Result<i64> {
    let prot = request.prot as u64;
    let page = core.host.page_size();
    let whole = page.pages_for(request.len) * page.bytes();
    // The filter lets maps with this flag pass; the kernel ignores it.
    let flags = request.flags | libc::MAP_DENYWRITE;
    let address = if let [(piece, scratch)] = pieces {
        let fd = u64::from(**scratch);
        let args = [request.addr, request.len, prot, flags as u64, fd, piece.offset];
        check(held.inject(nr::MMAP, args)?)?
    } else {
        let reserve = request.flags & !libc::MAP_TYPE | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let none = libc::PROT_NONE as u64;
        let args = [request.addr, request.len, none, reserve as u64, u64::MAX, 0];
        let start = check(held.inject(nr::MMAP, args)?)?;
        let flags = (flags & !libc::MAP_FIXED_NOREPLACE | libc::MAP_FIXED) as u64;
        for (piece, scratch) in pieces {
            let at = start.cast_unsigned() + piece.at;
            let args = [at, piece.len, prot, flags, u64::from(**scratch), piece.offset];
            if let Err(error) = check(held.inject(nr::MMAP, args)?) {
                held.inject(nr::MUNMAP, [start.cast_unsigned(), whole, 0, 0, 0, 0])?;
                return Err(error);
            }
        }
        start
    };
    if plan.area_flags().is_dump_excluded() {
        let advice = libc::MADV_DONTDUMP as u64;
        let args = [address.cast_unsigned(), whole, advice, 0, 0, 0];
        // The map is there all the same.
        if let Err(error) = check(held.inject(nr::MADVISE, args)?) {
            crate::report_once(format_args!(
                "{}: what a program maps of it will be in the program's core dumps, for \
                 madvise(MADV_DONTDUMP) is refused: {error}; its seccomp filter may do that",
                file.device.path.display()
            ));
        }
    }
    Ok(address)
}

fn check(result: i64) -> io::Result<i64> {
    if (-i64::from(Errno::MAX)..0).contains(&result) {
        return Err(io::Error::from_raw_os_error(-result as i32));
    }
    Ok(result)
}
