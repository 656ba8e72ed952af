//! Waiting for devices in the place of a program, where all descriptors that a call names are
//! devices'.
//!
//! What does not live here: what each of the calls is given and says (`poll`, `select`).

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use devmap_driver::{Errno, PollEvents, PollTable};
use devmap_sys::{process, seccomp::Notification};
use parking_lot::Mutex;

use super::{
    Trapped,
    waits::{Polled, Wait, Waited},
};
use crate::{
    Core,
    call::{self, Waiter},
    client,
    host::{HostWaitQueue, Wake},
    notify::{self, Call},
    opens::OpenFile,
    trace::Event,
};

/// More descriptors than this are not looked at: `FD_SETSIZE`, for C.
pub(super) const MOST: usize = 1024;

/// `ERESTARTNOHAND`: the call ends with `EINTR` where a handler runs, else it is made again.
pub(super) const ERESTARTNOHAND: i32 = 514;

/// When a call is over.
pub(super) struct Timeout {
    /// Where the time is that is left, if the call tells it, and how many of its second field
    /// make a second: of a `timeval` or of a `timespec`.
    left: Option<(u64, u64)>,
    /// `None`: so late that it never comes.
    end: Option<Instant>,
    is_zero: bool,
}

impl Timeout {
    fn after(time: Duration) -> Timeout {
        Timeout { left: None, end: Instant::now().checked_add(time), is_zero: time.is_zero() }
    }

    /// Of an `int` in a register. `None`: never.
    pub(super) fn of_milliseconds(register: u64) -> Option<Timeout> {
        let milliseconds = u64::try_from(register as i32).ok()?;
        Some(Timeout::after(Duration::from_millis(milliseconds)))
    }

    /// Whether there is no wait at all.
    pub(super) fn is_zero(&self) -> bool {
        self.is_zero
    }

    /// `units`: see [`Timeout::left`]. `None`: the kernel shall say what is wrong with it.
    pub(super) fn read(tid: u32, address: u64, units: u64) -> Option<Timeout> {
        let [seconds, rest] = read_words(tid, address, 2)?[..] else { return None };
        // A `timeval` may have whole seconds in its microseconds.
        let is_wrong = rest >= units && units != 1_000_000;
        if is_wrong || seconds.cast_signed() < 0 || rest.cast_signed() < 0 {
            return None;
        }
        let nanos = (rest % units) * (1_000_000_000 / units);
        let time = Duration::new(seconds.saturating_add(rest / units), nanos as u32);
        Some(Timeout { left: Some((address, units)), ..Timeout::after(time) })
    }

    /// Writes how much time is left. As in the kernel, no call fails where it cannot be written.
    fn tell(&self, tid: u32) {
        let (Some((address, units)), Some(end)) = (self.left, self.end) else { return };
        let left = end.saturating_duration_since(Instant::now());
        let rest = u64::from(left.subsec_nanos()) / (1_000_000_000 / units);
        let bytes = [left.as_secs(), rest].map(u64::to_ne_bytes).concat();
        let _ = process::write_memory(tid, address, &bytes);
    }
}

/// The calls that were interrupted, and are made again where no handler runs: their time does not
/// begin anew (`restart_block`).
#[derive(Default)]
pub(super) struct Interrupted(Mutex<HashMap<u32, Again>>);

struct Again {
    nr: u32,
    args: [u64; 6],
    instruction_pointer: u64,
    end: Instant,
}

impl Interrupted {
    fn note(&self, notification: &Notification, end: Instant) {
        let Notification { tid, nr, args, instruction_pointer, .. } = *notification;
        if may_handle(tid) {
            return;
        }
        let mut calls = self.0.lock();
        calls.retain(|tid, _| client::is_there(*tid));
        calls.insert(tid, Again { nr, args, instruction_pointer, end });
    }

    /// A thread makes a call: when it is over, if it is one that was interrupted.
    pub(super) fn take(&self, notification: &Notification) -> Option<Instant> {
        let again = self.0.lock().remove(&notification.tid)?;
        let is_same = again.nr == notification.nr
            && again.args == notification.args
            && again.instruction_pointer == notification.instruction_pointer;
        is_same.then_some(again.end)
    }
}

/// Whether a handler of the thread's may run before it makes its call again: for a signal that
/// waits, or for the one that ends a stop. After it, the same call would be a new one.
fn may_handle(tid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let mask = |name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    let waiting = (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:");
    mask("SigCgt:") & (waiting | 1 << (libc::SIGCONT - 1)) != 0
}

/// Words of the client; none where the address is 0.
pub(super) fn read_words(tid: u32, address: u64, words: usize) -> Option<Vec<u64>> {
    if address == 0 {
        return Some(Vec::new());
    }
    let mut bytes = vec![0; words * size_of::<u64>()];
    process::read_memory(tid, address, &mut bytes).ok()?;
    let words = bytes.chunks_exact(size_of::<u64>()).filter_map(|word| word.try_into().ok());
    Some(words.map(u64::from_ne_bytes).collect())
}

/// Answers a call once one of its devices is ready, or its time is over.
pub(super) fn serve(
    core: &Arc<Core>,
    trapped: &Trapped,
    call: &Call<'_>,
    waits: &dyn Wait,
    interrupted: Option<Instant>,
) {
    let Waited { polled, timeout, .. } = waits.waited();
    let end = interrupted.or_else(|| timeout.as_ref()?.end);
    let masks = notify::interruptible(core, call, || wait(core, call, polled, end));
    let result = masks.map_err(call::errno).and_then(|masks| waits.tell(None, &masks));
    if let Some(timeout) = timeout {
        timeout.tell(call.notification.tid);
    }
    match result {
        Err(Errno::ERESTARTSYS) => {
            // Others read how much is left.
            let is_fixed = timeout.as_ref().is_some_and(|timeout| timeout.left.is_none());
            if let Some(end) = end.filter(|_| is_fixed) {
                trapped.interrupted.note(call.notification, end);
            }
            notify::restart(call, ERESTARTNOHAND);
        }
        result => notify::answer(call, result),
    }
}

/// The files' masks, once one is ready, or the time is over.
fn wait(
    core: &Core,
    call: &Call<'_>,
    files: &[Polled],
    end: Option<Instant>,
) -> Result<Vec<PollEvents>, Errno> {
    let waiter = Waiter::current();
    let poller = Arc::new(Poller {
        waiter: Arc::downgrade(&waiter),
        woken: AtomicBool::new(false),
        id: call.notification.id,
    });
    let is_over = || end.is_some_and(|end| Instant::now() >= end);
    let mut waiting = None;
    loop {
        let over = is_over();
        let tid = call.notification.tid;
        let masks: Vec<_> = files.iter().map(|polled| ask(core, tid, polled, &poller)).collect();
        let mut ready =
            files.iter().zip(&masks).filter(|(polled, mask)| mask.intersects(polled.asked));
        if over || ready.next().is_some() {
            return Ok(masks);
        }
        waiting.get_or_insert_with(|| call::begin_wait(&waiter));
        while !poller.woken.swap(false, Ordering::SeqCst) && !is_over() {
            if waiter.is_interrupted() {
                return Err(Errno::ERESTARTSYS);
            }
            waiter.park_until(end);
        }
    }
}

/// What the driver of an open file says now.
fn ask(core: &Core, tid: u32, polled: &Polled, poller: &Arc<Poller>) -> PollEvents {
    let mut table = Table { poller, wanted: polled.wanted };
    let started = Instant::now();
    let mask = polled.file.poll(&mut table);
    trace(core, tid, &polled.file, started, mask);
    mask
}

/// Tells the trace what a driver has said to a poller.
pub(super) fn trace(core: &Core, tid: u32, file: &OpenFile, started: Instant, mask: PollEvents) {
    core.trace_call(started, || Event {
        device: &file.device.path,
        tid,
        call: "poll",
        details: vec![("open", file.id.into()), ("events", mask.to_string().into())],
        result: Ok(Some(u64::from(mask.bits()))),
    });
}

/// What a queue wakes.
struct Poller {
    waiter: Weak<Waiter>,
    /// A queue was: a driver that waits in its poll method takes the waiter's own mark.
    woken: AtomicBool,
    id: u64,
}

impl Wake for Poller {
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
    poller: &'a Arc<Poller>,
    wanted: PollEvents,
}

impl PollTable<HostWaitQueue> for Table<'_> {
    fn register(&mut self, queue: &HostWaitQueue) {
        queue.register(self.poller.clone());
    }

    fn wanted(&self) -> Option<PollEvents> {
        Some(self.wanted)
    }
}
