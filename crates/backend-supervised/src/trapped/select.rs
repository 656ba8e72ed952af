//! `select` and `pselect6` that ask for exceptions (`POLLPRI`): a FIFO never has one. They are
//! served here as long as every descriptor that they name is a device's; others go on, and hear
//! of no exception of a device.
//!
//! What does not live here: how a FIFO shows readiness to all others (`fifo`).

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_driver::{Errno, PollEvents, PollTable};
use devmap_sys::{
    arch::nr,
    process,
    seccomp::{Notification, Reply},
};

use super::{
    Trapped,
    fifo::{POLLIN_SET, POLLOUT_SET},
};
use crate::{
    Core,
    call::{self, Waiter},
    host::{HostWaitQueue, Wake},
    notify::{self, Call},
    opens::OpenFile,
    trace::Event,
};

/// What says to `select` that there is an exception (fs/select.c).
const POLLEX_SET: PollEvents = PollEvents::PRI;

/// By what each of the sets, in their order among the arguments, is told.
const GROUPS: [PollEvents; 3] = [POLLIN_SET, POLLOUT_SET, POLLEX_SET];

/// Descriptors of a word of a set (`BITS_PER_LONG`).
const BITS: usize = u64::BITS as usize;

/// Bytes of such a word.
const WORD: usize = size_of::<u64>();

/// More descriptors than this are not looked at: `FD_SETSIZE`, for C.
const MOST: usize = 1024;

/// `ERESTARTNOHAND`: the call ends with `EINTR` where a handler runs, else it is made again.
const ERESTARTNOHAND: i32 = 514;

/// A call of `select`.
struct Select {
    tid: u32,
    /// Where its sets are; 0 for one that it does not give.
    sets: [u64; 3],
    /// Words of each.
    words: usize,
    files: Vec<Asked>,
    timeout: Option<Timeout>,
}

/// An open file that is asked for.
struct Asked {
    fd: usize,
    file: Arc<OpenFile>,
    /// In which sets.
    sets: [bool; 3],
}

/// When a call is over.
struct Timeout {
    address: u64,
    /// How many of the second field make a second: of a `timeval` or of a `timespec`.
    units: u64,
    /// `None`: so late that it never comes.
    end: Option<Instant>,
}

/// Serves a call if it is a `select`.
pub(super) fn serve(core: &Arc<Core>, trapped: &Trapped, call: &Call<'_>) -> bool {
    let nr = call.notification.nr;
    if nr != nr::PSELECT6 && Some(nr) != nr::SELECT {
        return false;
    }
    let Some(select) = select(trapped, call.notification) else {
        call.answer(Reply::Continue);
        return true;
    };
    let result = notify::interruptible(core, call, || wait(core, call, &select));
    let result = result.map_err(call::errno).and_then(|ready| {
        let told = select.tell(&ready);
        told.map(|()| ready.iter().map(|ready| i64::from(ready.count())).sum())
    });
    // As the kernel, which does not fail for a time that cannot be written.
    let _ = select.tell_time();
    match result {
        Err(Errno::ERESTARTSYS) => notify::restart(call, ERESTARTNOHAND),
        result => notify::answer(call, result),
    }
    true
}

/// The call, if all that it names are open files of devices. What is wrong with it otherwise
/// says the kernel.
fn select(trapped: &Trapped, notification: &Notification) -> Option<Select> {
    let Notification { tid, nr, args: [count, sets @ .., timeout, mask], .. } = *notification;
    let is_select = Some(nr) == nr::SELECT;
    if !is_select && has_signal_mask(tid, mask)? {
        return None;
    }
    let count = usize::try_from(count as i32).ok().filter(|count| *count <= MOST)?;
    let words = count.div_ceil(BITS);
    let mut bits = [const { Vec::new() }; 3];
    for (bits, address) in bits.iter_mut().zip(sets) {
        *bits = read_words(tid, address, words)?;
    }
    let is_in = |fd: usize| {
        let has =
            |words: &Vec<u64>| words.get(fd / BITS).is_some_and(|w| w >> (fd % BITS) & 1 != 0);
        [has(&bits[0]), has(&bits[1]), has(&bits[2])]
    };
    let named = (0..count).map(|fd| (fd, is_in(fd))).filter(|(_, sets)| sets.contains(&true));
    let asked = |(fd, sets): (usize, [bool; 3])| {
        let file = trapped.open_file(tid, fd as u32)?;
        Some(Asked { fd, file, sets })
    };
    let files = named.map(asked).collect::<Option<Vec<_>>>()?;
    if files.is_empty() {
        return None;
    }
    let units = if is_select { 1_000_000 } else { 1_000_000_000 };
    let timeout = match timeout {
        0 => None,
        address => Some(Timeout::read(tid, address, units)?),
    };
    Some(Select { tid, sets, words, files, timeout })
}

/// Whether a `pselect6` changes the signal mask for as long as it waits, which nobody can do for
/// it. `None`: what says so cannot be read.
fn has_signal_mask(tid: u32, address: u64) -> Option<bool> {
    let mask = if address == 0 { 0 } else { *read_words(tid, address, 1)?.first()? };
    Some(mask != 0)
}

/// Words of the client; none where the address is 0.
fn read_words(tid: u32, address: u64, words: usize) -> Option<Vec<u64>> {
    if address == 0 {
        return Some(Vec::new());
    }
    let mut bytes = vec![0; words * WORD];
    process::read_memory(tid, address, &mut bytes).ok()?;
    let words = bytes.chunks_exact(WORD).filter_map(|word| word.try_into().ok());
    Some(words.map(u64::from_ne_bytes).collect())
}

impl Timeout {
    fn read(tid: u32, address: u64, units: u64) -> Option<Timeout> {
        let words = read_words(tid, address, 2)?;
        let [seconds, rest] = words[..] else { return None };
        // A `timeval` may have whole seconds in its microseconds.
        let is_wrong = rest >= units && units != 1_000_000;
        if is_wrong || seconds.cast_signed() < 0 || rest.cast_signed() < 0 {
            return None;
        }
        let nanos = (rest % units) * (1_000_000_000 / units);
        let time = Duration::new(seconds.saturating_add(rest / units), nanos as u32);
        Some(Timeout { address, units, end: Instant::now().checked_add(time) })
    }
}

/// In which sets each of the files is ready, once one is, or the time is over.
fn wait(core: &Core, call: &Call<'_>, select: &Select) -> Result<Vec<Ready>, Errno> {
    let waiter = Waiter::current();
    let id = call.notification.id;
    let selecting =
        Arc::new(Selecting { waiter: Arc::downgrade(&waiter), woken: AtomicBool::new(false), id });
    let end = select.timeout.as_ref().and_then(|timeout| timeout.end);
    let is_over = || end.is_some_and(|end| Instant::now() >= end);
    let mut waiting = None;
    loop {
        let over = is_over();
        let ready: Vec<Ready> =
            select.files.iter().map(|asked| asked.poll(core, select.tid, &selecting)).collect();
        if over || ready.iter().any(|ready| ready.count() > 0) {
            return Ok(ready);
        }
        waiting.get_or_insert_with(|| call::begin_wait(&waiter));
        while !selecting.woken.swap(false, Ordering::SeqCst) && !is_over() {
            if waiter.is_interrupted() {
                return Err(Errno::ERESTARTSYS);
            }
            waiter.park_until(end);
        }
    }
}

/// In which sets a file is ready, of those that it is in.
struct Ready([bool; 3]);

impl Ready {
    fn count(&self) -> u32 {
        self.0.iter().map(|is_ready| u32::from(*is_ready)).sum()
    }
}

impl Asked {
    fn poll(&self, core: &Core, tid: u32, selecting: &Arc<Selecting>) -> Ready {
        let groups = GROUPS.into_iter().zip(self.sets).filter(|(_, is_in)| *is_in);
        // Exceptions always (`wait_key_set`).
        let wanted = groups.fold(POLLEX_SET, |wanted, (group, _)| wanted.union(group));
        let mut table = Table { selecting, wanted };
        let file = &self.file;
        let started = Instant::now();
        let mask = file.device.call("poll", |driver| Ok(driver.poll(file.state(), &mut table)));
        let mask = mask.unwrap_or(PollEvents::ERR);
        core.trace_call(started, || Event {
            device: &file.device.path,
            tid,
            call: "poll",
            details: vec![("open", file.id.into()), ("events", mask.to_string().into())],
            result: Ok(Some(u64::from(mask.bits()))),
        });
        let [reads, writes, exceptions] = GROUPS.map(|group| mask.intersects(group));
        let [in_reads, in_writes, in_exceptions] = self.sets;
        Ready([reads && in_reads, writes && in_writes, exceptions && in_exceptions])
    }
}

impl Select {
    /// Writes the sets of those that are ready.
    fn tell(&self, ready: &[Ready]) -> Result<(), Errno> {
        for (set, address) in self.sets.into_iter().enumerate().filter(|(_, address)| *address != 0)
        {
            let mut words = vec![0_u64; self.words];
            for (asked, ready) in self.files.iter().zip(ready) {
                words[asked.fd / BITS] |= u64::from(ready.0[set]) << (asked.fd % BITS);
            }
            let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
            process::write_memory(self.tid, address, &bytes).map_err(|_| Errno::EFAULT)?;
        }
        Ok(())
    }

    /// Writes how much time is left.
    fn tell_time(&self) -> Result<(), Errno> {
        let Some(Timeout { address, units, end: Some(end) }) = self.timeout else { return Ok(()) };
        let left = end.saturating_duration_since(Instant::now());
        let rest = u64::from(left.subsec_nanos()) / (1_000_000_000 / units);
        let bytes = [left.as_secs(), rest].map(u64::to_ne_bytes).concat();
        process::write_memory(self.tid, address, &bytes).map_err(|_| Errno::EFAULT)
    }
}

/// What a queue wakes.
struct Selecting {
    waiter: Weak<Waiter>,
    /// A queue was: a driver that waits in its poll method takes the waiter's own mark.
    woken: AtomicBool,
    id: u64,
}

impl Wake for Selecting {
    fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        if let Some(waiter) = self.waiter.upgrade() {
            waiter.wake();
        }
    }

    fn is_alive(&self) -> bool {
        self.waiter.strong_count() > 0
    }

    fn key(&self) -> u64 {
        self.id
    }
}

struct Table<'a> {
    selecting: &'a Arc<Selecting>,
    wanted: PollEvents,
}

impl PollTable<HostWaitQueue> for Table<'_> {
    fn register(&mut self, queue: &HostWaitQueue) {
        queue.register(self.selecting.clone());
    }

    fn wanted(&self) -> Option<PollEvents> {
        Some(self.wanted)
    }
}
