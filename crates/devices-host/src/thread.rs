//! The thread that fills buffers while a stream runs: one frame an interval, drawn ahead
//! of its moment into the memory that the program maps, lost when no buffer waits for it;
//! or one for each buffer, from sources that take their time.

use std::{
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use devmap_driver::{Lock, Platform, WaitQueue};

use crate::{
    capture::Shared,
    drawing::{Asked, Run, end, fail, guarded, with_run},
    queue::Filled,
    source::Drawn,
    stream::{Pace, Stream, Waited},
    taking::{AHEAD, Due},
};

/// How long a source of others' frames may wait for one before the stream looks
/// whether it is over.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long a frame that is due is left to the caller who waits for it.
const GRACE: Duration = Duration::from_millis(1);

/// Starts the thread of a stream that `state` has just been told of.
pub(crate) fn spawn<P: Platform>(shared: Arc<Shared<P>>, stream: Arc<Stream>) {
    let failed = shared.clone();
    let failed_stream = stream.clone();
    let spawned = std::thread::Builder::new().name("camera".to_owned()).spawn(move || {
        guarded(&shared, &stream, || run(&shared, &stream));
        guarded(&shared, &stream, || {
            end(&shared, &stream);
            Ok(())
        });
        stream.over();
    });
    if let Err(error) = spawned {
        failed_stream.over();
        fail(&failed, &failed_stream, &format!("no thread: {error}"));
    }
}

/// What there is to deliver.
enum Step {
    /// A frame, in its buffer, which will be described so.
    Finished(Filled),
    /// No buffer is queued.
    NoBuffer,
    /// The source has no frame yet.
    NoFrame,
    /// None comes any more.
    Ended,
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

/// The thread of a stream.
struct Thread<'a, P: Platform> {
    shared: &'a Shared<P>,
    stream: &'a Arc<Stream>,
    started: Instant,
}

fn run<P: Platform>(shared: &Shared<P>, stream: &Arc<Stream>) -> Result<(), String> {
    let rate = shared.state.with(|state| state.rate);
    let interval = Duration::from_secs(1) / rate;
    // Sleeps end when they should, not up to 50 microseconds later. Best effort.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let Some(started) = with_run(shared, stream, |run| Ok(run.progress.started))? else {
        return Ok(());
    };
    let thread = Thread { shared, stream, started };
    // Intervals since the start.
    let mut intervals: u32 = 0;
    loop {
        let pace = shared.about.pace;
        let went = match pace {
            Pace::Timer => thread.next_by_timer(interval * (intervals + 1))?,
            Pace::Client => thread.next_by_client()?,
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
        let count = |run: &mut Run<'_, P>| {
            run.progress.sequence = run.progress.sequence.wrapping_add(step);
            Ok(())
        };
        with_run(shared, stream, count)?;
        intervals = next;
    }
}

impl<P: Platform> Thread<'_, P> {
    /// One frame at its moment: it is drawn ahead, as soon as there is a buffer for it, and
    /// then only stamped.
    fn next_by_timer(&self, due: Duration) -> Result<Went, String> {
        let trouble = &self.shared.about.trouble;
        let late = |run: &mut Run<'_, P>| Ok(trouble.delay(&mut run.progress.dice));
        let Some(delay) = with_run(self.shared, self.stream, late)? else {
            return Ok(Went::Ended);
        };
        let moment = self.started + due + delay;
        loop {
            let seen = self.stream.kicks();
            match self.draw(Some(due), Duration::ZERO)? {
                Step::Finished(filled) => return Ok(self.deliver_at(moment, filled)),
                Step::Ended => return Ok(Went::Ended),
                Step::NoBuffer | Step::NoFrame => {}
            }
            match self.stream.until(moment, Some(seen)) {
                Waited::Kicked => {}
                Waited::Moment => break,
                Waited::Stopped => return Ok(Went::Ended),
            }
        }
        // It may have come in the last moment.
        match self.draw(Some(due), Duration::ZERO)? {
            Step::Finished(filled) => Ok(self.deliver_at(moment, filled)),
            Step::NoFrame => Ok(Went::Missing),
            Step::NoBuffer => self.lose(due),
            Step::Ended => Ok(Went::Ended),
        }
    }

    /// One frame as soon as there is a buffer for it.
    fn next_by_client(&self) -> Result<Went, String> {
        loop {
            let seen = self.stream.kicks();
            match self.draw(None, PATIENCE)? {
                Step::Finished(filled) => {
                    let delivered = self.shared.deliver(self.stream, filled, |_| ());
                    self.shared.wake_all();
                    return Ok(delivered.map_or(Went::Ended, |_| Went::Delivered));
                }
                Step::NoFrame => return Ok(Went::Missing),
                Step::Ended => return Ok(Went::Ended),
                Step::NoBuffer => {
                    if !self.stream.until_kicked(seen) {
                        return Ok(Went::Ended);
                    }
                }
            }
        }
    }

    /// Draws a frame, if a buffer waits for one. `due`: its moment, if a clock says it.
    fn draw(&self, due: Option<Duration>, patience: Duration) -> Result<Step, String> {
        let mut is_stalled = false;
        let step = with_run(self.shared, self.stream, |run| {
            let time = due.unwrap_or_else(|| run.progress.due_by_number());
            let asked = run.ask();
            is_stalled = asked == Asked::Stalled;
            Ok(match asked {
                Asked::Target => run.draw(time, patience)?.map_or(Step::NoFrame, Step::Finished),
                Asked::None => Step::NoBuffer,
                Asked::Ended | Asked::Stalled => Step::Ended,
            })
        })?;
        // Its source does not end before the stream does.
        while is_stalled && self.stream.until_kicked(self.stream.kicks()) {}
        Ok(step.unwrap_or(Step::Ended))
    }

    /// The frame is the program's at its moment. Who waits for it then is woken before, and
    /// takes it by itself at the very moment: what it costs to wake a thread on a processor
    /// that slept is over by then.
    fn deliver_at(&self, moment: Instant, filled: Filled) -> Went {
        let due = Due { moment, filled, is_awaited: false };
        let (state, stream) = (&self.shared.state, self.stream);
        state.with(|state| state.due = state.is_current(stream).then_some(due));
        let before = moment.checked_sub(AHEAD).unwrap_or(moment);
        if stream.until(before, None) == Waited::Stopped {
            return Went::Ended;
        }
        let is_awaited = state.with(|state| state.waiting > 0);
        let until = if is_awaited { moment + GRACE } else { moment };
        if is_awaited {
            self.shared.frames.wake_all();
        }
        loop {
            let seen = stream.kicks();
            if !state.with(|state| state.is_current(stream)) {
                return Went::Ended;
            }
            if state.with(|state| state.due.is_none()) {
                return Went::Delivered;
            }
            match stream.until(until, Some(seen)) {
                Waited::Kicked => {}
                Waited::Moment => break,
                Waited::Stopped => return Went::Ended,
            }
        }
        self.shared.deliver_due(|_| None::<()>);
        self.shared.wake_all();
        Went::Delivered
    }

    /// The frame of this moment is lost.
    fn lose(&self, time: Duration) -> Result<Went, String> {
        let skip = |run: &mut Run<'_, P>| run.source.skip(&run.tick(time, Duration::ZERO));
        match with_run(self.shared, self.stream, skip)? {
            Some(Drawn::Frame) => {}
            Some(Drawn::Nothing) => return Ok(Went::Missing),
            None => return Ok(Went::Ended),
        }
        self.shared.state.with(|state| state.dropped += 1);
        Ok(Went::Lost)
    }
}
