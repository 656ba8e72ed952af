//! Where frames come from. A [`Source`] makes finished frames; a [`Painter`] paints
//! pictures, which [`Painted`] turns into frames of any format.

mod convert;
mod feed;
mod finished;
mod look;
mod painted;
mod pattern;
mod pictures;
mod text;

use std::time::Duration;

pub use feed::{End, Feed, Origin};
pub use look::Look;
pub use painted::{Area, Changed, Painted, Painter, Picture};
pub use pattern::{Pattern, Patterns};
pub use pictures::Pictures;
pub use text::Clock;

use crate::{
    format::{Format, PixelFormat},
    frame::Frame,
};

/// A frame that is due.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Its number in the stream, from 0.
    pub sequence: u32,
    /// When it is due, counted from the start of the stream.
    pub time: Duration,
    /// How long the source may wait for a frame that it does not make itself.
    pub patience: Duration,
    /// How it shall look.
    pub look: Look,
}

/// What a source did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// There is a frame.
    Frame,
    /// There is none yet.
    Nothing,
}

/// Makes frames. Its methods run on the thread of a stream, or in the call that wants a
/// frame; never two at once.
pub trait Source: Send + 'static {
    /// Whether frames of this format are drawn about as quickly as they are copied, and there
    /// is always one. Where it need not wait for a moment either, the call that wants a
    /// frame draws it: to hand it over from another thread would take longer.
    fn is_quick(&self, _pixels: PixelFormat) -> bool {
        false
    }

    /// A stream of this format begins.
    ///
    /// # Errors
    /// Why it cannot; the stream fails with `EIO`.
    fn start(&mut self, format: Format) -> Result<(), String>;

    /// Makes a frame, ahead of its moment. Where there is none yet, nothing is written.
    ///
    /// # Errors
    /// Why it cannot; the stream fails with `EIO`.
    fn draw(&mut self, tick: &Tick, frame: &mut Frame<'_>) -> Result<Drawn, String>;

    /// The frame that is due is lost: there is no buffer for it. A source whose frames come
    /// by themselves lets go of one, if there is one.
    ///
    /// # Errors
    /// As [`Source::draw`].
    fn skip(&mut self, _tick: &Tick) -> Result<Drawn, String> {
        Ok(Drawn::Frame)
    }

    /// The stream is over.
    fn stop(&mut self) {}
}

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Mutex;

    use devmap_backend_supervised::Host;
    use devmap_driver::{Memory, Platform};

    use super::*;

    /// What a frame holds when `draw` has drawn it.
    pub(crate) fn frame(format: Format, draw: impl FnOnce(&mut Frame<'_>)) -> Vec<u8> {
        let capacity = format.size_image() as usize;
        let memory = Host::new().scattered(capacity as u64).expect("memory");
        let running = Mutex::new(true);
        let mut frame = Frame::new(&memory, 0, capacity, &running);
        draw(&mut frame);
        let mut bytes = vec![0; frame.len()];
        memory.read(0, &mut bytes).expect("it is inside");
        bytes
    }
}
