//! `poll`, `select` and `epoll_wait` of devices: a FIFO can show few masks.
//!
//! Where a call names devices alone, it is served here, and what the drivers say is the answer
//! (`polling`). Else the kernel waits, for the FIFOs and for the other descriptors. When a driver
//! says what its FIFO does not, the caller is held on its way out of the call; there it asks the
//! kernel once more, without waiting, and what the drivers say is put into that.
//!
//! What does not live here: what each of the calls is given and says (`poll`, `select`, `epoll`).

use std::{io, sync::Arc, time::Instant};

use devmap_driver::{Errno, PollEvents};
use devmap_sys::{
    arch::nr,
    seccomp::{Notification, Reply},
};

use super::{
    Trapped,
    descriptors::{Descriptor, Descriptors},
    epoll,
    filter::OWN,
    poll,
    polling::{self, ERESTARTNOHAND, Timeout},
    select,
    tellers::{Patience, Task},
};
use crate::{
    Core,
    attach::{self, Held, NotHeld},
    client,
    notify::{self, Call},
    opens::OpenFile,
};

/// `ERESTART_RESTARTBLOCK`: the kernel knows how to go on with the call.
const ERESTART_RESTARTBLOCK: i32 = 516;

/// Added to an `int` argument, of which the kernel looks at the low half: a call that is devmap's
/// own, which is not notified (`filter`).
pub(super) const OWN_INT: u64 = OWN << 32;

/// A timeout of 0, as a `timeval` or as a `timespec`.
pub(super) const ZERO: [u8; 16] = [0; 16];

/// An open file that is asked for.
pub(super) struct Polled {
    pub(super) descriptor: Arc<Descriptor>,
    pub(super) file: Arc<OpenFile>,
    /// What ends the wait.
    pub(super) asked: PollEvents,
    /// What its driver is told that the poller asks for.
    pub(super) wanted: PollEvents,
}

impl Polled {
    /// Of a descriptor, unless it was opened with `O_PATH`.
    pub(super) fn new(
        descriptor: Arc<Descriptor>,
        asked: PollEvents,
        wanted: PollEvents,
    ) -> Option<Polled> {
        let file = descriptor.file.clone()?;
        Some(Polled { descriptor, file, asked, wanted })
    }

    /// Whether the FIFO shows something else than this mask says.
    pub(super) fn is_shown_otherwise(&self, mask: PollEvents) -> bool {
        let shown = self.descriptor.shows(mask);
        shown.intersection(self.asked) != mask.intersection(self.asked)
    }
}

/// What a call waits for.
pub(super) struct Waited {
    /// The devices.
    pub(super) polled: Vec<Polled>,
    /// Whether something else is asked of the kernel: about other descriptors, or with another
    /// signal mask, which nobody can set for it.
    pub(super) is_kernels: bool,
    /// When it is over. `None`: never.
    pub(super) timeout: Option<Timeout>,
}

impl Waited {
    /// Whether it does not wait.
    pub(super) fn is_over(&self) -> bool {
        self.timeout.as_ref().is_some_and(Timeout::is_zero)
    }
}

/// A call that waits for devices.
pub(super) trait Wait {
    fn waited(&self) -> &Waited;

    /// Whether the devices' masks are such that the kernel, by itself, would say something else
    /// at once, or wait although there is something to say.
    fn is_missed(&self, masks: &[PollEvents]) -> bool {
        let waited = self.waited();
        waited.polled.iter().zip(masks).any(|(polled, mask)| {
            polled.is_shown_otherwise(*mask) && (waited.is_over() || mask.intersects(polled.asked))
        })
    }

    /// Has its caller make the call without waiting: the very call, for a filter of the program's
    /// own may permit no other.
    fn ask_kernel(&self, held: &mut Held) -> io::Result<i64>;

    /// Writes the answer to the caller, which is what the kernel has said, if it was asked, but
    /// with these masks for the devices: what the call returns.
    fn tell(&self, kernel: Option<(&mut Held, i64)>, masks: &[PollEvents]) -> Result<i64, Errno>;
}

/// A call that waits in the kernel, for one of its devices.
#[derive(Clone)]
pub(super) struct Watch {
    /// Of the notification by which it is known: a thread may make the same call again.
    pub(super) id: u64,
    pub(super) tid: u32,
    nr: u32,
    args: [u64; 6],
    asked: PollEvents,
}

impl Watch {
    pub(super) fn new(id: u64, tid: u32, (nr, args): (u32, [u64; 6]), asked: PollEvents) -> Watch {
        Watch { id, tid, nr, args, asked }
    }

    /// The thread makes this call now, unless it is the same, for the device a second time.
    pub(super) fn become_or_join(&mut self, now: Watch) {
        let asked = if self.id == now.id { self.asked } else { PollEvents::NONE };
        *self = Watch { asked: asked.union(now.asked), ..now };
    }

    /// Whether a mask has anything for it, but for what is shown.
    pub(super) fn misses(&self, mask: PollEvents, shown: PollEvents) -> bool {
        mask.intersects(self.asked)
            && mask.intersection(self.asked) != shown.intersection(self.asked)
    }

    /// Whether its caller may be waiting; it may just run.
    fn may_wait(&self) -> bool {
        client::blocked_in(self.tid).is_none_or(|(nr, args)| self.is_call(nr.into(), &args[1..]))
    }

    /// Whether its caller is there, and may be waiting.
    pub(super) fn waits(&self) -> bool {
        self.may_wait() && client::is_there(self.tid)
    }

    fn is_call(&self, nr: i64, args: &[u64]) -> bool {
        let is_nr = [self.nr, nr::RESTART_SYSCALL].into_iter().any(|own| i64::from(own) == nr);
        is_nr && args == &self.args[1..]
    }
}

/// Serves a call if it is one that waits for descriptors.
pub(super) fn serve(core: &Arc<Core>, trapped: &Trapped, call: &Call<'_>) -> bool {
    let interrupted = trapped.interrupted.take(call.notification);
    let Notification { tid, nr, args, .. } = *call.notification;
    if nr == nr::EPOLL_CTL {
        epoll::control(trapped, call);
        return true;
    }
    if !is_one(nr) {
        return false;
    }
    match read(trapped, tid, nr, args) {
        Some(wait) if wait.waited().is_kernels => let_wait(core, trapped, call, &*wait),
        Some(wait) => {
            trapped.callers.waits(call.notification.id);
            polling::serve(core, trapped, call, &*wait, interrupted);
        }
        None => call.answer(Reply::Continue),
    }
    true
}

/// Whether a call waits for descriptors.
fn is_one(nr: u32) -> bool {
    poll::is_one(nr) || select::is_one(nr) || epoll::is_one(nr)
}

/// What a call waits for, if devices are among it. What is wrong with it otherwise says the kernel.
fn read(trapped: &Trapped, tid: u32, nr: u32, args: [u64; 6]) -> Option<Box<dyn Wait>> {
    if !trapped.descriptors.has_any() {
        return None;
    }
    match nr {
        nr if poll::is_one(nr) => poll::read(trapped, tid, nr, args),
        nr if select::is_one(nr) => select::read(trapped, tid, nr, args),
        _ => epoll::read(trapped, tid, nr, args),
    }
}

/// Lets the kernel wait for what the FIFOs show, and for others.
fn let_wait(core: &Arc<Core>, trapped: &Trapped, call: &Call<'_>, wait: &dyn Wait) {
    let Notification { id, tid, nr, args, .. } = *call.notification;
    let polled = &wait.waited().polled;
    let wakes = || polled.iter().map(|polled| polled.descriptor.wakes());
    let before: Vec<_> = wakes().collect();
    // Who does not wait need not be told.
    for polled in polled.iter().filter(|_| !wait.waited().is_over()) {
        polled.descriptor.watch(Watch::new(id, tid, (nr, args), polled.asked));
    }
    let started = Instant::now();
    let masks = notify::interruptible(core, call, || masks(&trapped.descriptors, wait));
    for (polled, mask) in polled.iter().zip(&masks) {
        polling::trace(core, tid, &polled.file, started, *mask);
        if !mask.intersects(polled.asked) {
            trapped.descriptors.hide(&polled.descriptor, &polled.file);
        }
    }
    if wait.is_missed(&masks) {
        // It is held before it sees this.
        match attach::hold(tid, || call.send(Reply::Error(ERESTARTNOHAND))) {
            Ok(held) => finish(held, wait, &masks),
            Err(NotHeld::Refused) => call.answer(Reply::Continue),
            Err(NotHeld::Gone) => {}
        }
        return;
    }
    call.answer(Reply::Continue);
    trapped.callers.answered(id);
    let teller = Teller::new(trapped);
    // What came since the drivers were asked, nobody has told a call that had not begun to wait.
    for ((polled, before), now) in polled.iter().zip(before).zip(wakes()) {
        if now == before {
            continue;
        }
        let mask = trapped.descriptors.ask(&polled.descriptor, &polled.file, Some(polled.wanted));
        polled.descriptor.tell(mask, &|watch| watch.tid != tid || teller.tell(watch));
    }
}

/// Tells those who wait for a device in the kernel what its FIFO does not.
pub(super) fn tell_all(trapped: &Trapped, descriptor: &Arc<Descriptor>) {
    if let Some(file) = &descriptor.file {
        let mask = trapped.descriptors.ask(descriptor, file, None);
        let teller = Teller::new(trapped);
        descriptor.tell(mask, &|watch| teller.tell(watch));
    }
}

/// Tells those who wait in the kernel, for who waits until they have been told, if they can be.
pub(super) struct Teller<'a> {
    trapped: &'a Trapped,
    patience: Patience,
}

impl<'a> Teller<'a> {
    pub(super) fn new(trapped: &'a Trapped) -> Teller<'a> {
        Teller { trapped, patience: Patience::new() }
    }

    /// See [`end`].
    pub(super) fn tell(&self, watch: &Watch) -> bool {
        self.ask(watch.tid, Task::End(watch.clone()))
    }

    /// See [`restart`].
    pub(super) fn restart(&self, tid: u32) {
        self.ask(tid, Task::Restart);
    }

    fn ask(&self, tid: u32, task: Task) -> bool {
        self.trapped.tellers.ask(self.trapped, tid, task, &self.patience)
    }
}

fn masks(descriptors: &Descriptors, wait: &dyn Wait) -> Vec<PollEvents> {
    let ask =
        |polled: &Polled| descriptors.ask(&polled.descriptor, &polled.file, Some(polled.wanted));
    wait.waited().polled.iter().map(ask).collect()
}

/// Ends the wait of a call if a driver says what its FIFO does not. False when it does not wait any
/// more.
pub(super) fn end(trapped: &Trapped, watch: &Watch) -> bool {
    if !watch.may_wait() {
        return false;
    }
    let Some(wait) = read(trapped, watch.tid, watch.nr, watch.args) else {
        // With `epoll`, it may become one of those that are waited for again.
        return epoll::is_one(watch.nr) && client::is_there(watch.tid);
    };
    let masks = masks(&trapped.descriptors, &*wait);
    if !wait.is_missed(&masks) {
        return true;
    }
    let Some(held) = stop(trapped, watch.tid, || !watch.may_wait()) else { return false };
    let (nr, args) = held.call();
    let errno = held.result().checked_neg().and_then(|errno| i32::try_from(errno).ok());
    let is_cut_short = matches!(errno, Some(libc::EINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK));
    if is_cut_short && watch.is_call(nr, &args) {
        finish(held, &*wait, &masks);
    } else {
        let_go(held);
    }
    false
}

/// Has a thread that runs make its call again if it is one that waits, so that what has changed is
/// seen to.
pub(super) fn restart(trapped: &Trapped, tid: u32) {
    let is_elsewhere = || client::blocked_in(tid).is_some_and(|(nr, _)| !is_one(nr));
    if let Some(held) = stop(trapped, tid, is_elsewhere) {
        let_go(held);
    }
}

/// Stops a thread that may be waiting in the kernel, and in no call that is served here. `None`
/// also where a debugger has it, which hears of what the FIFO shows.
fn stop(trapped: &Trapped, tid: u32, is_elsewhere: impl Fn() -> bool) -> Option<Held> {
    if !trapped.callers.stop(tid, is_elsewhere) {
        return None;
    }
    let held = attach::hold(tid, || {
        trapped.callers.told(tid);
        Ok(())
    });
    trapped.callers.stopped(tid);
    held.ok()
}

/// Lets a thread go on as if it had not been stopped, which most calls do by themselves.
fn let_go(mut held: Held) {
    if held.result() == -i64::from(libc::EINTR) && held.call().0 >= 0 {
        held.set_result(-i64::from(ERESTARTNOHAND));
    }
    // If it fails, it has been killed.
    let _ = held.release();
}

/// Ends the call of a thread with what the kernel says now, and these masks.
fn finish(mut held: Held, wait: &dyn Wait, masks: &[PollEvents]) {
    let result = match wait.ask_kernel(&mut held) {
        Ok(errno) if errno < 0 => Ok(errno),
        Ok(said) => wait.tell(Some((&mut held, said)), masks),
        // Nothing else is ready, as far as is known.
        Err(_) => wait.tell(None, masks),
    };
    match result {
        Ok(0) if !wait.waited().is_over() => return let_go(held),
        Ok(result) => held.set_result(result),
        Err(errno) => held.set_result(-i64::from(errno.raw())),
    }
    // If it fails, it has been killed.
    let _ = held.release();
}
