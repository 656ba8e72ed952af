//! The number and the time of a frame, burnt into it.

use std::time::Duration;

use font8x8::legacy::BASIC_LEGACY;

use super::{
    Tick,
    painted::{Area, Picture},
};

const GLYPH: usize = 8;
const WHITE: [u8; 3] = [255, 255, 255];
const BLACK: [u8; 3] = [0, 0, 0];

/// Burns two lines into a picture, white on black: `#00000042` and `00:00:01.400`, the
/// number and the time of the frame.
pub struct Clock;

impl Clock {
    /// Paints both lines; the area that they take.
    pub fn paint(tick: &Tick, picture: &mut Picture) -> Area {
        let lines = [format!("#{:08}", tick.sequence), time(tick.time)];
        let scale = (picture.size().width as usize / 160).max(1);
        let cell = GLYPH * scale;
        let columns = lines.iter().map(String::len).max().unwrap_or(0);
        let (left, top) = (cell, cell);
        let area =
            Area { left, top, right: left + columns * cell, bottom: top + lines.len() * cell };
        picture.fill(area, BLACK);
        for (row, line) in lines.iter().enumerate() {
            for (column, letter) in line.bytes().enumerate() {
                glyph(picture, letter, (left + column * cell, top + row * cell), scale);
            }
        }
        area
    }
}

fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600 % 100, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:03}", seconds % 60, time.subsec_millis())
}

fn glyph(picture: &mut Picture, letter: u8, (x, y): (usize, usize), scale: usize) {
    let Some(rows) = BASIC_LEGACY.get(usize::from(letter)) else { return };
    for (row, bits) in rows.iter().enumerate() {
        for column in (0..GLYPH).filter(|column| bits >> column & 1 == 1) {
            let (left, top) = (x + column * scale, y + row * scale);
            let dot = Area { left, top, right: left + scale, bottom: top + scale };
            picture.fill(dot, WHITE);
        }
    }
}
