//! The number and the time of a frame, burnt into it.

use std::time::Duration;

use font8x8::legacy::BASIC_LEGACY;

use crate::controls::CAPTION_LENGTH;

use super::{
    Tick,
    painted::{Area, Picture},
};

const GLYPH: usize = 8;
const WHITE: [u8; 3] = [255, 255, 255];
const BLACK: [u8; 3] = [0, 0, 0];

/// Burns two lines into a picture, white on black: `#00000042` and `00:00:01.400`, the
/// number and the time of the frame; and below them the caption, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// What stands in the picture.
    shown: Option<[Vec<u8>; 3]>,
}

impl Clock {
    /// The picture was painted anew: nothing of the clock is left in it.
    pub fn forget(&mut self) {
        self.shown = None;
    }

    /// The area that the lines may take.
    pub(super) fn area(picture: &Picture) -> Area {
        let cell = Clock::scale(picture) * GLYPH;
        let columns = time(Duration::ZERO).len().max(CAPTION_LENGTH);
        Area { left: cell, top: cell, right: cell + columns * cell, bottom: cell * 4 }
    }

    /// Pixels of a dot: letters that can be read, and are quickly drawn.
    fn scale(picture: &Picture) -> usize {
        (picture.size().width as usize / 320).max(1)
    }

    /// Paints what is new of the lines since the last time; the areas of that.
    pub fn paint(&mut self, tick: &Tick, picture: &mut Picture) -> Vec<Area> {
        let columns = time(Duration::ZERO).len();
        let number = format!("#{:08}", tick.sequence);
        let number = format!("{number:columns$}").into_bytes();
        let time = time(tick.time).into_bytes();
        let mut caption = tick.look.caption.split(|byte| *byte == 0).next().unwrap_or(&[]).to_vec();
        // Over an older one, which may be longer.
        let last = self.shown.as_ref().map_or(0, |shown| shown[2].len());
        caption.resize(caption.len().max(last), b' ');
        let lines = [number, time, caption];
        let scale = Clock::scale(picture);
        let cell = GLYPH * scale;
        let size = picture.size();
        let has_room = |left: usize, top: usize| {
            left + cell <= size.width as usize && top + cell <= size.height as usize
        };
        let mut areas = Vec::new();
        for (row, line) in lines.iter().enumerate() {
            for (column, letter) in line.iter().enumerate() {
                let old = self.shown.as_ref().and_then(|shown| shown[row].get(column));
                let (left, top) = (cell + column * cell, cell + row * cell);
                if old != Some(letter) && has_room(left, top) {
                    glyph(picture, *letter, (left, top), scale);
                    areas.push(Area { left, top, right: left + cell, bottom: top + cell });
                }
            }
        }
        self.shown = Some(lines);
        areas
    }
}

fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600 % 100, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", seconds % 60, time.subsec_millis())
}

fn glyph(picture: &mut Picture, letter: u8, (x, y): (usize, usize), scale: usize) {
    let rows = BASIC_LEGACY.get(usize::from(letter)).unwrap_or(&[0; GLYPH]);
    for (row, bits) in rows.iter().enumerate() {
        let (top, bottom) = (y + row * scale, y + (row + 1) * scale);
        for column in 0..GLYPH {
            let colour = if bits >> column & 1 == 1 { WHITE } else { BLACK };
            let left = x + column * scale;
            picture.fill(Area { left, top, right: left + scale, bottom: top + 1 }, colour);
        }
        picture.repeat_line(Area { left: x, top, right: x + GLYPH * scale, bottom });
    }
}
