//! The thread that fills buffers while a stream runs: one frame an interval, drawn
//! ahead of its moment, dropped when no buffer waits for it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use devmap_driver::{Lock, Platform, WaitQueue};

use crate::{
    capture::{Shared, State},
    format::Format,
    queue::Filled,
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

/// How a running stream is reached. Its lock is the innermost: it is taken with the
/// device's state locked, so nothing is called while it is held.
#[derive(Default)]
pub(crate) struct Stream {
    signals: Mutex<Signals>,
    changed: Condvar,
}

#[derive(Default)]
struct Signals {
    is_stopped: bool,
    /// How often a buffer was queued.
    kicks: u64,
}

impl Stream {
    /// Ends the thread, soon.
    pub(crate) fn stop(&self) {
        lock(&self.signals).is_stopped = true;
        self.changed.notify_all();
    }

    /// A buffer was queued.
    pub(crate) fn kick(&self) {
        lock(&self.signals).kicks += 1;
        self.changed.notify_all();
    }

    /// Waits for a moment; false: stopped.
    fn until(&self, moment: Instant) -> bool {
        let mut signals = lock(&self.signals);
        loop {
            if signals.is_stopped {
                return false;
            }
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
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
    });
    if let Err(error) = spawned {
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

/// What came of an attempt to fill a buffer.
enum Delivery {
    /// It was filled, or the frame was lost.
    Over,
    /// The stream is no more.
    Ended,
    /// No frame comes any more, until the stream ends.
    Stalled,
}

fn run<P: Platform>(shared: &Arc<Shared<P>>, stream: &Arc<Stream>) -> Result<(), String> {
    // A stream that has just been stopped gives it free when its frame is drawn.
    let mut source = lock(&shared.source);
    let (format, rate) = shared.state.with(|state| (state.format, state.rate));
    let interval = Duration::from_secs(1) / rate;
    source.start(format)?;
    let mut frame = vec![0; format.size_image() as usize];
    let mut dice = shared.about.trouble.dice();
    let mut started = Instant::now();
    let mut is_first = true;
    let mut sequence: u32 = 0;
    // Intervals since the start.
    let mut intervals: u32 = 0;
    loop {
        let look = match shared.about.pace {
            Pace::Timer => shared.state.with(|state| Look::of(&state.controls)),
            Pace::Client => {
                let ready = || shared.state.with(|state| state.wants_frame(stream));
                if !stream.until_ready(ready) {
                    break;
                }
                shared.state.with(|state| Look::of(&state.controls))
            }
        };
        let due = match shared.about.pace {
            Pace::Timer => interval * (intervals + 1),
            Pace::Client => started.elapsed(),
        };
        let patience = match shared.about.pace {
            Pace::Timer => Duration::ZERO,
            Pace::Client => PATIENCE,
        };
        let tick = Tick { sequence, time: due, patience, look };
        let mut drawn = draw(&mut **source, &tick, format, &mut frame)?;
        if std::mem::take(&mut is_first) {
            // The first frame is drawn from nothing, the others from the one before: a
            // sensor, too, needs a moment until it runs.
            started = Instant::now();
        }
        if shared.about.pace == Pace::Timer {
            let moment = started + due + shared.about.trouble.delay(&mut dice);
            if !stream.until(moment) {
                break;
            }
            if drawn == Drawn::Nothing {
                drawn = draw(&mut **source, &tick, format, &mut frame)?;
            }
        }
        if drawn == Drawn::Frame {
            let delivery = deliver(shared, stream, &mut frame, sequence, &mut dice);
            shared.changed.wake_all();
            match delivery {
                Delivery::Over => {}
                Delivery::Ended => break,
                Delivery::Stalled => {
                    stream.until_ready(|| false);
                    break;
                }
            }
        }
        // What took longer than an interval costs the frames in between.
        let passed = started.elapsed().as_nanos() / interval.as_nanos().max(1);
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        let next = (intervals + 1).max(passed);
        match (shared.about.pace, drawn) {
            (_, Drawn::Nothing) => {}
            (Pace::Timer, Drawn::Frame) => sequence = sequence.wrapping_add(next - intervals),
            (Pace::Client, Drawn::Frame) => sequence = sequence.wrapping_add(1),
        }
        intervals = next;
    }
    Ok(())
}

fn draw(
    source: &mut dyn Source,
    tick: &Tick,
    format: Format,
    frame: &mut Vec<u8>,
) -> Result<Drawn, String> {
    let drawn = source.draw(tick, frame)?;
    if frame.len() > format.size_image() as usize {
        return Err(format!("a frame of {} bytes does not fit its buffer", frame.len()));
    }
    Ok(drawn)
}

/// Copies a frame into the buffer that waits longest. Under the lock: so nothing is
/// written to a buffer that `VIDIOC_STREAMOFF` gave back.
fn deliver<P: Platform>(
    shared: &Shared<P>,
    stream: &Arc<Stream>,
    frame: &mut [u8],
    sequence: u32,
    dice: &mut Dice,
) -> Delivery {
    let trouble = &shared.about.trouble;
    shared.state.with(|state: &mut State<P>| {
        if !state.is_current(stream) || state.is_gone {
            return Delivery::Ended;
        }
        if trouble.stall.is_some_and(|after| state.frames >= after) {
            return Delivery::Stalled;
        }
        let is_corrupt = trouble.is_corrupt(state.frames);
        let Some(buffers) = &mut state.buffers else { return Delivery::Ended };
        if !buffers.has_queued() {
            state.dropped += 1;
            return Delivery::Over;
        }
        let bytes_used = frame.len() as u32;
        let filled = Filled { bytes_used, sequence, timestamp: Time::now(), is_corrupt };
        if is_corrupt {
            let mut copy = frame.to_vec();
            dice.garble(&mut copy);
            buffers.fill(&copy, filled);
        } else {
            buffers.fill(frame, filled);
        }
        state.frames += 1;
        if trouble.unplug.is_some_and(|after| state.frames >= after) {
            state.is_gone = true;
        }
        Delivery::Over
    })
}
