//! Drawing frames into buffers: by a thread (`thread`), or by the very caller who wants one.
//!
//! Two threads that take turns cost more than to draw a frame that is mostly finished. So
//! a stream at the program's own pace has no thread where its source is quick
//! ([`Source::is_quick`]): the calls that look for a frame draw what is missing.
//! What does not live here: how a caller waits and takes (`taking`).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use devmap_driver::{Lock, Platform};

use crate::{
    capture::{Shared, State},
    frame::Frame,
    queue::{Buffers, Claim, Filled},
    source::{Drawn, Look, Source, Tick},
    stream::{Stream, lock},
    trouble::Dice,
};

/// What draws. Locked while a frame is drawn, and never while one is waited for.
pub(crate) struct Drawing<M> {
    source: Box<dyn Source>,
    /// The stream that has begun, and how far it is.
    begun: Option<(Arc<Stream>, Progress<M>)>,
}

/// How far a stream is.
pub(crate) struct Progress<M> {
    pub(crate) dice: Dice,
    pub(crate) started: Instant,
    /// Frames a second.
    rate: u32,
    /// The number of the next frame.
    pub(crate) sequence: u32,
    /// The buffer for it.
    target: Option<Target<M>>,
}

impl<M> Progress<M> {
    fn new(dice: Dice, rate: u32) -> Progress<M> {
        Progress { dice, started: Instant::now(), rate, sequence: 0, target: None }
    }

    /// When the next frame is due at the program's own pace, from the start of the stream:
    /// not what a clock says, so that each run on each machine is the same.
    pub(crate) fn due_by_number(&self) -> Duration {
        Duration::from_secs(1) * self.sequence / self.rate
    }
}

impl<M> Drawing<M> {
    pub(crate) fn new(source: Box<dyn Source>) -> Drawing<M> {
        Drawing { source, begun: None }
    }

    /// Ends what has begun.
    fn end(&mut self) {
        if self.begun.take().is_some() {
            self.source.stop();
        }
    }
}

/// A buffer to be filled.
struct Target<M> {
    claim: Claim<M>,
    is_corrupt: bool,
}

/// What a stream finds when it asks for a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// There is one to be filled.
    Target,
    /// The program has queued none.
    None,
    /// The stream is no more.
    Ended,
    /// No frame comes any more, until the stream ends.
    Stalled,
}

/// A stream that draws.
pub(crate) struct Run<'a, P: Platform> {
    shared: &'a Shared<P>,
    stream: &'a Arc<Stream>,
    pub(crate) source: &'a mut dyn Source,
    pub(crate) progress: &'a mut Progress<P::Memory>,
}

impl<P: Platform> Run<'_, P> {
    /// Asks for a buffer, unless there is one.
    pub(crate) fn ask(&mut self) -> Asked {
        if self.progress.target.is_some() {
            return if self.stream.is_stopped() { Asked::Ended } else { Asked::Target };
        }
        let trouble = &self.shared.about.trouble;
        self.shared.state.with(|state| {
            if !state.is_current(self.stream) || state.is_unplugged {
                return Asked::Ended;
            }
            if trouble.stall.is_some_and(|after| state.frames >= after) {
                return Asked::Stalled;
            }
            let is_corrupt = trouble.is_corrupt(state.frames);
            let claim = state.buffers.as_mut().and_then(Buffers::claim);
            self.progress.target = claim.map(|claim| Target { claim, is_corrupt });
            if self.progress.target.is_some() { Asked::Target } else { Asked::None }
        })
    }

    pub(crate) fn tick(&self, time: Duration, patience: Duration) -> Tick {
        let look = self.shared.state.with(|state| Look::of(&state.controls));
        Tick { sequence: self.progress.sequence, time, patience, look }
    }

    /// Draws the next frame into the buffer that there is for it, and says how that will be
    /// described; `None`: there is none, or no frame.
    pub(crate) fn draw(
        &mut self,
        time: Duration,
        patience: Duration,
    ) -> Result<Option<Filled>, String> {
        let tick = self.tick(time, patience);
        let Some(target) = self.progress.target.take() else { return Ok(None) };
        let Target { claim, is_corrupt } = &target;
        let capacity = claim.length as usize;
        let mut frame = Frame::new(&claim.memory, claim.start, capacity, &self.stream.running);
        if self.source.draw(&tick, &mut frame)? == Drawn::Nothing {
            drop(frame);
            self.progress.target = Some(target);
            return Ok(None);
        }
        let bytes_used = frame.len();
        if *is_corrupt {
            // As a transfer that was cut off leaves it.
            let mut rest = vec![0; bytes_used - bytes_used / 2];
            self.progress.dice.fill(&mut rest);
            frame.write(bytes_used / 2, &rest);
        }
        let is_corrupt = *is_corrupt || frame.is_cut();
        let (bytes_used, sequence) = (bytes_used as u32, self.progress.sequence);
        let timestamp = self.stream.began.after(time);
        Ok(Some(Filled { bytes_used, sequence, timestamp, is_corrupt }))
    }
}

/// Does what `draw` does for a stream; should that fail or panic, the stream is broken.
pub(crate) fn guarded<P: Platform, R>(
    shared: &Shared<P>,
    stream: &Arc<Stream>,
    draw: impl FnOnce() -> Result<R, String>,
) -> Option<R> {
    let result = catch_unwind(AssertUnwindSafe(draw))
        .unwrap_or_else(|_| Err("its source panicked".to_owned()));
    match result {
        Ok(done) => Some(done),
        Err(why) => {
            fail(shared, stream, &why);
            None
        }
    }
}

/// The stream is broken (`vb2_queue_error`): `VIDIOC_DQBUF` answers `EIO`.
pub(crate) fn fail<P: Platform>(shared: &Shared<P>, stream: &Arc<Stream>, why: &str) {
    eprintln!("devmap: {}: the stream fails with EIO: {why}", shared.about.card);
    shared.state.with(|state| {
        if state.is_current(stream) {
            state.is_broken = true;
        }
    });
    shared.wake_all();
}

/// Begins a stream without a thread.
pub(crate) fn begin<P: Platform>(shared: &Shared<P>, stream: &Arc<Stream>) {
    guarded(shared, stream, || with_run(shared, stream, |_| Ok(())));
}

/// Ends a stream: for one that a thread draws, that thread does.
pub(crate) fn end<P: Platform>(shared: &Shared<P>, stream: &Arc<Stream>) {
    let mut drawing = lock(&shared.drawing);
    if drawing.begun.as_ref().is_some_and(|(begun, _)| Arc::ptr_eq(begun, stream)) {
        drawing.end();
    }
}

/// Draws a frame of a stream without a thread, if a buffer waits for one, and does `take`
/// before anybody else comes; `None`: there is no frame.
pub(crate) fn draw_one<P: Platform, R>(
    shared: &Shared<P>,
    stream: &Arc<Stream>,
    take: impl FnOnce(&mut State<P>) -> R,
) -> Option<R> {
    let drawn = guarded(shared, stream, || {
        with_run(shared, stream, |run| {
            if run.ask() != Asked::Target {
                return Ok(None);
            }
            let filled = run.draw(run.progress.due_by_number(), Duration::ZERO)?;
            let Some(filled) = filled else { return Ok(None) };
            run.progress.sequence = run.progress.sequence.wrapping_add(1);
            Ok(shared.deliver(stream, filled, take))
        })
    });
    let (taken, is_news) = drawn.flatten().flatten()?;
    if is_news {
        shared.wake_all();
    }
    Some(taken)
}

/// Runs `draw` for a stream, which is begun unless it was; `None`: it is no more.
pub(crate) fn with_run<P: Platform, R>(
    shared: &Shared<P>,
    stream: &Arc<Stream>,
    draw: impl FnOnce(&mut Run<'_, P>) -> Result<R, String>,
) -> Result<Option<R>, String> {
    let mut drawing = lock(&shared.drawing);
    let begins =
        |state: &mut State<P>| state.is_current(stream).then_some((state.format, state.rate));
    let Some((format, rate)) = shared.state.with(begins) else { return Ok(None) };
    if !drawing.begun.as_ref().is_some_and(|(begun, _)| Arc::ptr_eq(begun, stream)) {
        drawing.end();
        drawing.source.start(format)?;
        let progress = Progress::new(shared.about.trouble.dice(), rate);
        drawing.begun = Some((stream.clone(), progress));
    }
    let Drawing { source, begun } = &mut *drawing;
    let Some((_, progress)) = begun else { return Ok(None) };
    draw(&mut Run { shared, stream, source: &mut **source, progress }).map(Some)
}
