//! A joiner's connection to its daemon: lanes for calls, and what the daemon tells by
//! itself.
//!
//! What does not live here: which calls there are (`remote`).

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::{Sender, channel},
    },
};

use devmap_driver::{Errno, WaitQueue};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use super::{
    socket,
    wire::{Control, LONGEST, Method, News, Request, Step, decode, encode},
};
use crate::{
    call::{self, Interrupt, Waiter},
    host::HostWaitQueue,
};

/// More lanes than this do not stay when there is nothing to do.
const KEEP_IDLE: usize = 8;

/// The connection.
pub(super) struct Link {
    control: OwnedFd,
    /// The daemon's socket, for messages.
    path: PathBuf,
    /// The threads that hear the daemon are started with the first call: a run forks
    /// before that.
    hears: Once,
    dead: AtomicBool,
    idle: Mutex<Vec<Lane>>,
    next: AtomicU32,
    /// How many wakes the daemon has told of by itself.
    heard: Mutex<u64>,
    hearing: Condvar,
    /// The run has forked, and there may be threads.
    started: AtomicBool,
    /// Interruptions for which the daemon had no room, to a thread that waits for it.
    late: Mutex<Option<Sender<Control>>>,
    /// What pollers of an open file wait on, by the daemon's number.
    queues: Mutex<HashMap<u64, Arc<HostWaitQueue>>>,
    /// What forgets pages of a device, by the daemon's number.
    renewals: Mutex<HashMap<u32, Arc<Renewal>>>,
}

/// See [`crate::AnyDevice::set_renewal`].
type Renewal = dyn Fn() + Send + Sync;

/// A lane, as the joiner sees it.
struct Lane {
    socket: OwnedFd,
    id: u32,
    /// How many calls it has served.
    calls: u32,
    received: Vec<u8>,
    sent: Vec<u8>,
}

/// Interrupts a call.
struct CallInterrupt {
    link: Arc<Link>,
    lane: u32,
    call: u32,
}

impl Interrupt for CallInterrupt {
    fn interrupt(&self) {
        let CallInterrupt { lane, call, .. } = *self;
        self.link.interrupt(Control::Interrupt { lane, call });
    }
}

/// What a call does with a step of the daemon's that is not its last: an answer.
pub(super) type Answering<'a> = dyn FnMut(&Step<'_>, &mut Vec<u8>) -> Option<Answered> + 'a;

/// Whether a step wants an answer, which then is in the buffer.
pub(super) enum Answered {
    Yes,
    No,
}

impl Link {
    pub(super) fn new(control: OwnedFd, path: PathBuf) -> Arc<Link> {
        Arc::new(Link {
            control,
            path,
            hears: Once::new(),
            dead: AtomicBool::new(false),
            idle: Mutex::default(),
            next: AtomicU32::new(0),
            heard: Mutex::new(0),
            hearing: Condvar::new(),
            started: AtomicBool::new(false),
            late: Mutex::default(),
            queues: Mutex::default(),
            renewals: Mutex::default(),
        })
    }

    /// Whether the daemon is gone.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// The daemon is gone, or talks nonsense: calls fail from here on.
    fn die(&self) {
        if self.dead.swap(true, Ordering::SeqCst) {
            return;
        }
        socket::end(&self.control);
        crate::report(format_args!(
            "nobody serves at {} any more: calls on its devices fail with ENODEV, and what is \
             mapped of them stays what it was",
            self.path.display()
        ));
        // Pollers shall see it.
        let queues: Vec<_> = self.queues.lock().values().cloned().collect();
        queues.iter().for_each(|queue| queue.wake_all());
        let _heard = self.heard.lock();
        self.hearing.notify_all();
    }

    fn say(&self, message: &impl Serialize, file: Option<&OwnedFd>) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(16);
        let files: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        socket::send(&self.control, encode(message, &mut buffer), &files)
    }

    /// Tells the daemon of an interruption, from a thread apart if that is not possible at once:
    /// one that does not receive holds up no calls of others.
    fn interrupt(self: &Arc<Link>, message: Control) {
        let mut buffer = Vec::with_capacity(16);
        let told = socket::send_at_once(&self.control, encode(&message, &mut buffer));
        if told.is_err() && !self.is_dead() {
            let mut late = self.late.lock();
            let _ = late.get_or_insert_with(|| self.start_interrupting()).send(message);
        }
    }

    fn start_interrupting(self: &Arc<Link>) -> Sender<Control> {
        let (sender, interruptions) = channel();
        let link = self.clone();
        self.start_thread("devmap-interrupt", move || {
            while let Ok(message) = interruptions.recv() {
                // For want of memory, say. Without a daemon the call has ended.
                while link.say(&message, None).is_err() && !link.is_dead() {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            }
        });
        sender
    }

    /// Has wakes of an open file reach `queue`.
    pub(super) fn add_queue(&self, open: u64, queue: Arc<HostWaitQueue>) {
        self.queues.lock().insert(open, queue);
    }

    pub(super) fn remove_queue(&self, open: u64) {
        self.queues.lock().remove(&open);
    }

    /// Has `renew` called when others have changed pages of the device.
    pub(super) fn set_renewal(&self, device: u32, renew: Box<Renewal>) {
        self.renewals.lock().insert(device, renew.into());
    }

    /// The run has forked: from here on there may be threads.
    pub(super) fn start(&self) {
        self.started.store(true, Ordering::SeqCst);
    }

    /// Whether calls can be made: they need threads.
    pub(super) fn may_call(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }

    /// Hears what the daemon tells by itself, to its end.
    fn hear(self: &Arc<Link>) {
        let mut buffer = vec![0; LONGEST];
        // What renews pages, from the first time on: it may wait.
        let mut renewing: Option<Sender<u32>> = None;
        loop {
            let news = match socket::receive(&self.control, &mut buffer) {
                Ok(bytes) if !bytes.is_empty() => decode::<News>(bytes),
                _ => None,
            };
            match news {
                Some(News::Wake { open }) => {
                    self.wake(open);
                    *self.heard.lock() += 1;
                    self.hearing.notify_all();
                }
                Some(News::Changed { device }) => {
                    let renewing = renewing.get_or_insert_with(|| self.start_renewing());
                    // It goes when the daemon does.
                    let _ = renewing.send(device);
                }
                _ => return self.die(),
            }
        }
    }

    fn start_renewing(self: &Arc<Link>) -> Sender<u32> {
        let (sender, changes) = channel();
        let link = self.clone();
        self.start_thread("devmap-renewal", move || {
            while let Ok(device) = changes.recv() {
                let renew = link.renewals.lock().get(&device).cloned();
                // In trapped mode there is nothing to forget.
                if let Some(renew) = renew {
                    renew();
                }
                let _ = link.say(&Control::Renewed, None);
            }
        });
        sender
    }

    fn start_thread(&self, name: &str, run: impl FnOnce() + Send + 'static) {
        if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(run) {
            crate::report(format_args!("cannot start the thread {name}: {error}"));
            self.die();
        }
    }

    fn wake(&self, open: u64) {
        let queue = self.queues.lock().get(&open).cloned();
        // One that is closed meanwhile has no pollers.
        if let Some(queue) = queue {
            queue.wake_all();
        }
    }

    /// Wakes pollers of these, and waits until as many others have been woken.
    fn woken(&self, opens: &[u64], heard: u64) {
        opens.iter().for_each(|open| self.wake(*open));
        let mut so_far = self.heard.lock();
        while *so_far < heard && !self.is_dead() {
            self.hearing.wait(&mut so_far);
        }
    }

    fn start_hearing(self: &Arc<Link>) {
        self.hears.call_once(|| {
            let link = self.clone();
            self.start_thread("devmap-join", move || link.hear());
        });
    }

    fn take_lane(self: &Arc<Link>) -> Result<Lane, Errno> {
        if self.is_dead() {
            return Err(Errno::ENODEV);
        }
        if let Some(lane) = self.idle.lock().pop() {
            return Ok(lane);
        }
        self.start_hearing();
        let (socket, theirs) = socket::pair().map_err(|_| Errno::ENOMEM)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.say(&Control::Lane { lane: id }, Some(&theirs)).map_err(|_| Errno::ENODEV)?;
        Ok(Lane { socket, id, calls: 0, received: vec![0; LONGEST], sent: Vec::new() })
    }

    /// Makes a call: sends it, serves what the driver wants of its caller by `answering`,
    /// and gives the last step to `last`, with the descriptors that came along.
    pub(super) fn call<R>(
        self: &Arc<Link>,
        method: Method<'_>,
        answering: &mut Answering<'_>,
        last: impl FnOnce(Step<'_>, Vec<OwnedFd>) -> Option<Result<R, Errno>>,
    ) -> Result<R, Errno> {
        let mut lane = self.take_lane()?;
        let waiter = Waiter::current();
        lane.calls = lane.calls.wrapping_add(1);
        let (link, call) = (self.clone(), lane.calls);
        waiter.set_hears(Some(Arc::new(CallInterrupt { link, lane: lane.id, call })));
        let result = lane.converse(self, Request { call, method }, &waiter, answering, last);
        waiter.set_hears(None);
        match result {
            Ok(result) => {
                let mut idle = self.idle.lock();
                if idle.len() < KEEP_IDLE {
                    idle.push(lane);
                }
                result
            }
            Err(Ended::Refused) => Err(Errno::ENOMEM),
            Err(Ended::Gone) => {
                self.die();
                Err(Errno::ENODEV)
            }
        }
    }
}

/// Why a lane serves no more.
enum Ended {
    /// The daemon has too many.
    Refused,
    Gone,
}

impl Lane {
    fn converse<R>(
        &mut self,
        link: &Link,
        request: Request<'_>,
        waiter: &Arc<Waiter>,
        answering: &mut Answering<'_>,
        last: impl FnOnce(Step<'_>, Vec<OwnedFd>) -> Option<Result<R, Errno>>,
    ) -> Result<Result<R, Errno>, Ended> {
        let Lane { socket, received, sent, .. } = self;
        // A lane that was refused has an end already, and the reason waits to be received.
        let told = socket::send(&*socket, encode(&request, sent), &[]);
        let mut waiting = None;
        loop {
            let (bytes, files) =
                socket::receive_files(&*socket, received).map_err(|_| Ended::Gone)?;
            if bytes.is_empty() {
                return Err(Ended::Gone);
            }
            match decode::<Step<'_>>(bytes).ok_or(Ended::Gone)? {
                Step::Refused => return Err(Ended::Refused),
                _ if told.is_err() => return Err(Ended::Gone),
                Step::Waiting => {
                    waiting.get_or_insert_with(|| call::begin_wait(waiter));
                }
                Step::Woken { opens, heard } => link.woken(&opens, heard),
                step @ (Step::CopyIn { .. } | Step::CopyOut { .. } | Step::Flags) => {
                    match answering(&step, sent).ok_or(Ended::Gone)? {
                        Answered::Yes => {
                            socket::send(&*socket, sent, &[]).map_err(|_| Ended::Gone)?;
                        }
                        Answered::No => {}
                    }
                }
                step => return last(step, files).ok_or(Ended::Gone),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than the socket has room for.
    const MANY: u32 = 5000;

    #[test]
    fn interruptions_wait_for_a_daemon_without_holding_up_who_tells_of_them() {
        let (control, daemon) = socket::pair().unwrap();
        let link = Link::new(control, "/nowhere".into());
        let waiters: Vec<_> = (0..MANY).map(|_| Arc::<Waiter>::default()).collect();
        for (waiter, call) in waiters.iter().zip(0..) {
            waiter.set_hears(Some(Arc::new(CallInterrupt { link: link.clone(), lane: 3, call })));
            waiter.interrupt();
            waiter.interrupt();
        }
        let mut buffer = vec![0; LONGEST];
        let mut heard: Vec<u32> = waiters
            .iter()
            .map(|_| match decode(socket::receive(&daemon, &mut buffer).unwrap()) {
                Some(Control::Interrupt { lane: 3, call }) => call,
                other => panic!("{other:?}"),
            })
            .collect();
        heard.sort_unstable();
        assert!(heard.into_iter().eq(0..MANY), "each is told of once");
        let time = std::time::Duration::ZERO;
        let more = socket::receive_within(daemon.as_fd(), &mut buffer, time);
        assert_eq!(more.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
