//! Where frames come from. A [`Source`] makes finished frames; a [`Painter`] paints
//! pictures, which [`Painted`] turns into frames of any format.

mod convert;
mod painted;
mod pattern;
mod pictures;
mod raw;
mod text;

use std::time::Duration;

pub use painted::{Area, Changed, Painted, Painter, Picture};
pub use pattern::{Pattern, Patterns};
pub use pictures::Pictures;
pub use raw::Raw;
pub use text::Clock;

use crate::{
    controls::{self, Controls},
    format::Format,
};

/// How controls want the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Added to each component.
    pub brightness: i32,
    /// Steepness about the middle; 128 is 1.
    pub contrast: i32,
    /// Distance from grey; 128 is 1.
    pub saturation: i32,
    /// Left is right.
    pub is_mirrored: bool,
    /// Top is bottom.
    pub is_upside_down: bool,
}

impl Look {
    /// The picture as it was painted.
    pub const PLAIN: Look = Look {
        brightness: 0,
        contrast: 128,
        saturation: 128,
        is_mirrored: false,
        is_upside_down: false,
    };

    pub(crate) fn of(controls: &Controls) -> Look {
        let value = |id, default| controls.value(id).unwrap_or(default);
        Look {
            brightness: value(controls::BRIGHTNESS, 0),
            contrast: value(controls::CONTRAST, 128),
            saturation: value(controls::SATURATION, 128),
            is_mirrored: value(controls::HFLIP, 0) != 0,
            is_upside_down: value(controls::VFLIP, 0) != 0,
        }
    }
}

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

/// Makes frames. Its methods run on the thread of a stream, never two at once.
pub trait Source: Send + 'static {
    /// A stream of this format begins.
    ///
    /// # Errors
    /// Why it cannot; the stream fails with `EIO`.
    fn start(&mut self, format: Format) -> Result<(), String>;

    /// Makes a frame. `frame` holds what the last call of the stream left in it, at
    /// first zeros; its length is that of the frame, at most [`Format::size_image`].
    ///
    /// # Errors
    /// Why it cannot; the stream fails with `EIO`.
    fn draw(&mut self, tick: &Tick, frame: &mut Vec<u8>) -> Result<Drawn, String>;
}
