//! The thread that fills buffers while a stream runs: one frame an interval, drawn ahead
//! of its moment into the memory that the program maps, lost when no buffer waits for it.

use std::{
    num::NonZeroU64,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use devmap_driver::{Lock, Platform, WaitQueue};

use crate::{
    capture::Shared,
    frame::{Frame, Running},
    queue::{Buffers, Claim, Filled},
    source::{Drawn, Look, Source, Tick},
    trouble::Dice,
    uapi::Time,
};

/// When a frame is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One each interval; a frame that finds no buffer is lost, as with a sensor.
    Timer,
    /// As soon as the program queues a buffer; none is lost.
    Client,
}

/// How long a source of others' frames may wait for one before the stream looks
/// whether it is over.
const PATIENCE: Duration = Duration::from_millis(20);

/// Locks; a panic elsewhere has left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a running stream is reached. Its locks are the innermost: they are taken with the
/// device's state locked, so nothing is called while they are held.
pub(crate) struct Stream {
    signals: Mutex<Signals>,
    changed: Condvar,
    running: Running,
}

impl Default for Stream {
    fn default() -> Stream {
        Stream { signals: Mutex::default(), changed: Condvar::new(), running: Mutex::new(true) }
    }
}

#[derive(Default)]
struct Signals {
    is_stopped: bool,
    /// The thread has ended.
    is_over: bool,
    /// How often a buffer was queued.
    kicks: u64,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// The moment has come.
    Moment,
    /// A buffer was queued.
    Kicked,
    /// The stream was stopped.
    Stopped,
}

impl Stream {
    /// Ends the thread, soon. From here on nothing is written to buffers.
    pub(crate) fn stop(&self) {
        *lock(&self.running) = false;
        lock(&self.signals).is_stopped = true;
        self.changed.notify_all();
    }

    /// Waits until the thread of a stopped stream has ended, and with it its source.
    pub(crate) fn until_over(&self) {
        let ended = self.changed.wait_while(lock(&self.signals), |signals| !signals.is_over);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }

    fn over(&self) {
        lock(&self.signals).is_over = true;
        self.changed.notify_all();
    }

    /// A buffer was queued.
    pub(crate) fn kick(&self) {
        lock(&self.signals).kicks += 1;
        self.changed.notify_all();
    }

    /// How often a buffer was queued until now.
    fn kicks(&self) -> u64 {
        lock(&self.signals).kicks
    }

    /// Waits for a moment, or for a buffer after those that were `seen`.
    fn until(&self, moment: Instant, seen: Option<u64>) -> Waited {
        let mut signals = lock(&self.signals);
        loop {
            if signals.is_stopped {
                return Waited::Stopped;
            }
            if seen.is_some_and(|seen| signals.kicks != seen) {
                return Waited::Kicked;
            }
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::Moment;
            }
            signals =
                self.changed.wait_timeout(signals, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until `ready`, which each kick asks again; false: stopped.
    fn until_ready(&self, mut ready: impl FnMut() -> bool) -> bool {
        loop {
            let seen = lock(&self.signals).kicks;
            if ready() {
                return true;
            }
            let waits = |signals: &mut Signals| !signals.is_stopped && signals.kicks == seen;
            let signals = self
                .changed
                .wait_while(lock(&self.signals), waits)
                .unwrap_or_else(PoisonError::into_inner);
            if signals.is_stopped {
                return false;
            }
        }
    }
}

/// Starts the thread of a stream that `state` has just been told of.
pub(crate) fn spawn<P: Platform>(shared: Arc<Shared<P>>, stream: Arc<Stream>) {
    let failed = shared.clone();
    let failed_stream = stream.clone();
    let spawned = std::thread::Builder::new().name("camera".to_owned()).spawn(move || {
        let run = || run(&shared, &stream);
        let result = catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|_| Err("its source panicked".to_owned()));
        if let Err(why) = result {
            fail(&shared, &stream, &why);
        }
        stream.over();
    });
    if let Err(error) = spawned {
        failed_stream.over();
        fail(&failed, &failed_stream, &format!("no thread: {error}"));
    }
}

/// The stream is broken (`vb2_queue_error`): `VIDIOC_DQBUF` answers `EIO`.
fn fail<P: Platform>(shared: &Shared<P>, stream: &Arc<Stream>, why: &str) {
    eprintln!("devmap: {}: the stream fails with EIO: {why}", shared.about.card);
    shared.state.with(|state| {
        if state.is_current(stream) {
            state.is_broken = true;
        }
    });
    shared.changed.wake_all();
}

/// A buffer to be filled.
struct Target<M> {
    claim: Claim<M>,
    is_corrupt: bool,
}

/// What a stream finds when it asks for a buffer.
enum Asked<M> {
    Target(Target<M>),
    /// The program has queued none.
    None,
    /// The stream is no more.
    Ended,
    /// No frame comes any more, until the stream ends.
    Stalled,
}

/// How a frame went.
enum Went {
    /// It is in a buffer.
    Delivered,
    /// It found no buffer.
    Lost,
    /// The source had none.
    Missing,
    /// The stream is no more.
    Ended,
}

fn run<P: Platform>(shared: &Arc<Shared<P>>, stream: &Arc<Stream>) -> Result<(), String> {
    // A stream that has just been stopped gives it free when its frame is drawn.
    let mut source = lock(&shared.source);
    if !shared.state.with(|state| state.is_current(stream)) {
        return Ok(());
    }
    let result = run_with(shared, stream, &mut **source);
    source.stop();
    result
}

fn run_with<P: Platform>(
    shared: &Arc<Shared<P>>,
    stream: &Arc<Stream>,
    source: &mut dyn Source,
) -> Result<(), String> {
    let (format, rate) = shared.state.with(|state| (state.format, state.rate));
    let interval = Duration::from_secs(1) / rate;
    source.start(format)?;
    // Sleeps end when they should, not up to 50 microseconds later. Best effort.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let started = Instant::now();
    let mut run = Run {
        shared,
        stream,
        source,
        dice: shared.about.trouble.dice(),
        started,
        target: None,
        sequence: 0,
    };
    // Intervals since the start.
    let mut intervals: u32 = 0;
    loop {
        let pace = shared.about.pace;
        let went = match pace {
            Pace::Timer => run.next_by_timer(interval * (intervals + 1))?,
            Pace::Client => run.next_by_client()?,
        };
        // What took longer than an interval costs the frames in between.
        let passed = started.elapsed().as_nanos() / interval.as_nanos().max(1);
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        let next = (intervals + 1).max(passed);
        let step = match (went, pace) {
            (Went::Ended, _) => return Ok(()),
            (Went::Missing, _) => 0,
            (Went::Delivered | Went::Lost, Pace::Timer) => next - intervals,
            (Went::Delivered | Went::Lost, Pace::Client) => 1,
        };
        run.sequence = run.sequence.wrapping_add(step);
        intervals = next;
    }
}

/// A stream that runs.
struct Run<'a, P: Platform> {
    shared: &'a Arc<Shared<P>>,
    stream: &'a Arc<Stream>,
    source: &'a mut dyn Source,
    dice: Dice,
    started: Instant,
    /// The buffer for the next frame.
    target: Option<Target<P::Memory>>,
    sequence: u32,
}

/// A frame that is in its buffer, and not yet the program's.
struct Made {
    bytes_used: u32,
    is_corrupt: bool,
}

impl<P: Platform> Run<'_, P> {
    /// One frame at its moment: it is drawn ahead, as soon as there is a buffer for it, and
    /// then only stamped.
    fn next_by_timer(&mut self, due: Duration) -> Result<Went, String> {
        let moment = self.started + due + self.shared.about.trouble.delay(&mut self.dice);
        let mut made = None;
        while made.is_none() {
            let seen = self.stream.kicks();
            if !self.ask() {
                return Ok(Went::Ended);
            }
            made = self.draw(due, Duration::ZERO)?;
            let seen = if made.is_some() { None } else { Some(seen) };
            match self.stream.until(moment, seen) {
                Waited::Kicked => {}
                Waited::Moment => break,
                Waited::Stopped => return Ok(Went::Ended),
            }
        }
        if made.is_none() && self.target.is_none() {
            return self.lose(due);
        }
        // It may have come in the last moment.
        let made = if made.is_some() { made } else { self.draw(due, Duration::ZERO)? };
        Ok(made.map_or(Went::Missing, |made| self.deliver(&made)))
    }

    /// One frame as soon as there is a buffer for it.
    fn next_by_client(&mut self) -> Result<Went, String> {
        let ready = || self.shared.state.with(|state| state.wants_frame(self.stream));
        if self.target.is_none() && !self.stream.until_ready(ready) || !self.ask() {
            return Ok(Went::Ended);
        }
        let made = self.draw(self.started.elapsed(), PATIENCE)?;
        Ok(made.map_or(Went::Missing, |made| self.deliver(&made)))
    }

    /// Asks for a buffer, unless there is one; false: the stream is no more.
    fn ask(&mut self) -> bool {
        if self.target.is_some() {
            return !lock(&self.stream.signals).is_stopped;
        }
        let trouble = &self.shared.about.trouble;
        let asked = self.shared.state.with(|state| {
            if !state.is_current(self.stream) || state.is_gone {
                return Asked::Ended;
            }
            if trouble.stall.is_some_and(|after| state.frames >= after) {
                return Asked::Stalled;
            }
            let is_corrupt = trouble.is_corrupt(state.frames);
            match state.buffers.as_mut().and_then(Buffers::claim) {
                Some(claim) => Asked::Target(Target { claim, is_corrupt }),
                None => Asked::None,
            }
        });
        match asked {
            Asked::Target(target) => self.target = Some(target),
            Asked::None => {}
            Asked::Ended => return false,
            Asked::Stalled => return self.stream.until_ready(|| false),
        }
        true
    }

    fn tick(&self, time: Duration, patience: Duration) -> Tick {
        let look = self.shared.state.with(|state| Look::of(&state.controls));
        Tick { sequence: self.sequence, time, patience, look }
    }

    /// Draws the next frame into the buffer that there is for it; `None`: there is none, or
    /// no frame.
    fn draw(&mut self, time: Duration, patience: Duration) -> Result<Option<Made>, String> {
        let tick = self.tick(time, patience);
        let Some(Target { claim, is_corrupt }) = &self.target else { return Ok(None) };
        let capacity = claim.length as usize;
        let mut frame = Frame::new(&claim.memory, claim.start, capacity, &self.stream.running);
        if self.source.draw(&tick, &mut frame)? == Drawn::Nothing {
            return Ok(None);
        }
        let bytes_used = frame.len();
        if *is_corrupt {
            // As a transfer that was cut off leaves it.
            let mut rest = vec![0; bytes_used - bytes_used / 2];
            self.dice.fill(&mut rest);
            frame.write(bytes_used / 2, &rest);
        }
        let is_corrupt = *is_corrupt || frame.is_cut();
        Ok(Some(Made { bytes_used: bytes_used as u32, is_corrupt }))
    }

    /// The frame is the program's.
    fn deliver(&mut self, made: &Made) -> Went {
        self.target = None;
        let &Made { bytes_used, is_corrupt } = made;
        let sequence = self.sequence;
        let is_over = self.shared.state.with(|state| {
            let Some(buffers) = &mut state.buffers else { return true };
            if state.is_gone
                || !state.stream.as_ref().is_some_and(|at| Arc::ptr_eq(at, self.stream))
            {
                return true;
            }
            buffers.complete(Filled { bytes_used, sequence, timestamp: Time::now(), is_corrupt });
            state.frames += 1;
            state.is_gone =
                self.shared.about.trouble.unplug.is_some_and(|after| state.frames >= after);
            false
        });
        self.shared.changed.wake_all();
        if is_over { Went::Ended } else { Went::Delivered }
    }

    /// The frame of this moment is lost.
    fn lose(&mut self, time: Duration) -> Result<Went, String> {
        if self.source.skip(&self.tick(time, Duration::ZERO))? == Drawn::Nothing {
            return Ok(Went::Missing);
        }
        self.shared.state.with(|state| state.dropped += 1);
        Ok(Went::Lost)
    }
}
