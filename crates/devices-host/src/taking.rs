//! How frames come to the calls that want them: `VIDIOC_DQBUF`, `read(2)` and poll.
//!
//! Who waits for a frame of a timed stream takes it at its moment by itself; who looks for
//! one of a stream without a thread draws it. What does not live here: drawing (`drawing`).

use std::{
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use devmap_driver::{Errno, Interrupted, Lock, Platform, WaitQueue};

use crate::{
    capture::{Shared, State},
    drawing::draw_one,
    queue::{Buffers, Filled, MAX_BUFFERS, Reading},
    stream::{Pace, Stream},
    uapi::Time,
};

/// How long before a frame's moment who waits for it is woken: two threads wake one after the
/// other, on a processor that slept.
pub(crate) const AHEAD: Duration = Duration::from_millis(2);

/// How long before that moment the one who takes the frame sleeps no more. A processor that
/// slept takes up to 100 microseconds to wake a thread.
const AWAKE: Duration = Duration::from_micros(150);

/// A frame that is finished ahead of its moment.
pub(crate) struct Due {
    pub(crate) moment: Instant,
    pub(crate) filled: Filled,
    /// A caller waits for this very moment, and takes the frame then.
    pub(crate) is_awaited: bool,
}

/// Waits for a moment that is at most [`AHEAD`] away, and ends at that very moment. A sleep
/// alone would end as late as the processor takes to wake.
fn wait_until(moment: Instant) {
    // Sleeps end when they should, not up to 50 microseconds later. Best effort.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let left = moment.saturating_duration_since(Instant::now());
    if let Some(sleep) = left.checked_sub(AWAKE) {
        std::thread::sleep(sleep);
    }
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
}

impl<P: Platform> State<P> {
    /// The frame that comes next, for whoever waits; `None`: not yet.
    pub(crate) fn take_frame(&mut self) -> Option<Result<u32, Errno>> {
        if self.is_gone() {
            return Some(Err(Errno::ENODEV));
        }
        if self.stream.is_none() {
            return Some(Err(Errno::EINVAL));
        }
        // What came before a source failed or ended is not lost.
        let taken = self.buffers.as_mut().and_then(Buffers::take).map(Ok);
        taken.or(self.is_broken.then_some(Err(Errno::EIO)))
    }

    /// Reads on in the frame being read, or in the next; `None`: there is none yet.
    pub(crate) fn read_frame(&mut self, into: &mut [u8]) -> Option<Result<usize, Errno>> {
        let reading = self.buffers.as_ref().and_then(|buffers| buffers.reading);
        let (index, from) = match reading.and_then(|reading| reading.current) {
            Some(current) => current,
            None => match self.take_frame()? {
                Ok(index) => (index, 0),
                Err(errno) => return Some(Err(errno)),
            },
        };
        let buffers = self.buffers.as_mut()?;
        let count = match buffers.read(index, from, into) {
            Ok(count) => count,
            Err(errno) => return Some(Err(errno)),
        };
        let at = from + count as u32;
        let is_over = at >= buffers.bytes_used(index);
        if is_over {
            buffers.enqueue(index);
        }
        buffers.reading = Some(Reading { current: (!is_over).then_some((index, at)) });
        Some(Ok(count))
    }

    /// Whether the camera was unplugged, and all that came before has been taken.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_unplugged && !self.has_frame()
    }

    /// Whether there is something to take.
    pub(crate) fn has_frame(&self) -> bool {
        self.buffers.as_ref().is_some_and(|buffers| {
            buffers.has_done() || buffers.reading.is_some_and(|reading| reading.current.is_some())
        })
    }

    /// With what `take` took: whether that was the last before the camera was unplugged.
    fn take_now<R>(&mut self, take: impl FnOnce(&mut State<P>) -> R) -> (R, bool) {
        let was_gone = self.is_gone();
        let taken = take(self);
        (taken, self.is_gone() && !was_gone)
    }

    /// A frame is the program's now, and `take` is done before anybody else comes. With what
    /// it took: whether there is something new for others.
    fn deliver<R>(
        &mut self,
        filled: Filled,
        shared: &Shared<P>,
        take: impl FnOnce(&mut State<P>) -> R,
    ) -> (R, bool) {
        let had_frame = self.has_frame();
        if let Some(buffers) = &mut self.buffers {
            let timestamp = match shared.about.pace {
                Pace::Timer => Time::now(),
                Pace::Client => filled.timestamp,
            };
            buffers.complete(Filled { timestamp, ..filled });
        }
        self.frames += 1;
        self.is_unplugged |= shared.about.trouble.unplug.is_some_and(|after| self.frames >= after);
        let taken = take(self);
        (taken, self.is_unplugged || self.has_frame() && !had_frame)
    }
}

impl<P: Platform> Shared<P> {
    /// A frame of this stream is the program's, as [`State::deliver`] says; `None`: the stream
    /// is no more.
    pub(crate) fn deliver<R>(
        &self,
        stream: &Arc<Stream>,
        filled: Filled,
        take: impl FnOnce(&mut State<P>) -> R,
    ) -> Option<(R, bool)> {
        self.state.with(|state| {
            let is_wanted = state.is_current(stream) && !state.is_unplugged;
            is_wanted.then(|| state.deliver(filled, self, take))
        })
    }

    /// Wakes whoever waits for a frame, and pollers.
    pub(crate) fn wake_all(&self) {
        self.frames.wake_all();
        self.changed.wake_all();
    }

    /// A buffer was queued.
    pub(crate) fn kick(&self) {
        let stream = self.state.with(|state| state.stream.clone());
        match stream {
            Some(stream) if stream.has_thread() => stream.kick(),
            // They draw it.
            Some(_) => self.wake_all(),
            None => {}
        }
    }

    /// Draws a frame for each buffer that waits for one, if no thread does.
    pub(crate) fn draw_all(&self) {
        for _ in 0..MAX_BUFFERS {
            let stream = self.state.with(|state| {
                let has_queued = state.buffers.as_ref().is_some_and(Buffers::has_queued);
                state.stream.clone().filter(|_| has_queued && !state.is_broken)
            });
            let Some(stream) = stream.filter(|stream| !stream.has_thread()) else { return };
            if draw_one(self, &stream, |_| ()).is_none() {
                return;
            }
        }
    }

    /// What `take` takes without waiting, of a frame that is drawn for it if need be.
    pub(crate) fn try_frame<R>(
        &self,
        mut take: impl FnMut(&mut State<P>) -> Option<R>,
    ) -> Option<R> {
        let taken = self.take_now(&mut take);
        if taken.is_some() {
            return taken;
        }
        let stream = self.state.with(|state| state.stream.clone());
        let stream = stream.filter(|stream| !stream.has_thread())?;
        let drawn = draw_one(self, &stream, &mut take);
        // Somebody else may have drawn meanwhile, or the stream is broken now.
        drawn.flatten().or_else(|| self.take_now(take))
    }

    /// What `take` takes of what is there. Others hear of it if it was the last before the camera
    /// was unplugged.
    fn take_now<R>(&self, take: impl FnOnce(&mut State<P>) -> Option<R>) -> Option<R> {
        let (taken, is_last) = self.state.with(|state| state.take_now(take));
        if is_last {
            self.wake_all();
        }
        taken
    }

    /// Waits for what `take` takes.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub(crate) fn wait_for_frame<R>(
        &self,
        mut take: impl FnMut(&mut State<P>) -> Option<R>,
    ) -> Result<R, Interrupted> {
        let _waiting = Waiting::new(self);
        // The first look is before the home knows of the wait, and must not be long.
        let mut is_first = true;
        self.frames.wait(|| {
            let looks_only = std::mem::take(&mut is_first);
            let taken = self.try_frame(&mut take);
            if looks_only { taken } else { taken.or_else(|| self.take_at_moment(&mut take)) }
        })
    }

    /// What `take` takes of a frame whose moment is about to come, at that moment.
    fn take_at_moment<R>(&self, take: impl FnOnce(&mut State<P>) -> Option<R>) -> Option<R> {
        let soon = Instant::now() + AHEAD;
        let moment = self.state.with(|state| {
            let due = state.due.as_mut().filter(|due| due.moment <= soon)?;
            // One is enough; the others get what comes next.
            (!std::mem::replace(&mut due.is_awaited, true)).then_some(due.moment)
        })?;
        wait_until(moment);
        let (taken, is_news) = self.deliver_due(take);
        if is_news {
            self.wake_all();
        }
        taken
    }

    /// The frame is the program's if its moment has come, and `take` is done before anybody
    /// else comes. With what it took: whether there is something new for others.
    pub(crate) fn deliver_due<R>(
        &self,
        take: impl FnOnce(&mut State<P>) -> Option<R>,
    ) -> (Option<R>, bool) {
        self.state.with(|state| match state.due.take_if(|due| due.moment <= Instant::now()) {
            Some(due) => state.deliver(due.filled, self, take),
            None => state.take_now(take),
        })
    }
}

/// A caller that waits for a frame.
struct Waiting<'a, P: Platform>(&'a Shared<P>);

impl<'a, P: Platform> Waiting<'a, P> {
    fn new(shared: &'a Shared<P>) -> Waiting<'a, P> {
        shared.state.with(|state| state.waiting += 1);
        Waiting(shared)
    }
}

impl<P: Platform> Drop for Waiting<'_, P> {
    fn drop(&mut self) {
        self.0.state.with(|state| state.waiting -= 1);
    }
}
