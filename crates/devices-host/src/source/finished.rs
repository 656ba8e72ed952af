//! A finished frame that is kept, to be copied into one buffer after the other.
//!
//! Many pictures have lines that are alike. Which ones is kept too: such a line is read
//! once, and then stays in the processor's nearest cache while it is written again and again.

use std::ops::Range;

use crate::{
    format::{Format, PixelFormat},
    frame::Frame,
};

/// Bytes of lines that are alike that are written at once: less costs more calls, more does
/// not fit the nearest cache beside what is written.
const BLOCK: usize = 16384;

/// A frame in the format of a stream.
pub(super) struct Finished {
    bytes: Vec<u8>,
    /// Bytes of a line; 0 where there are no lines.
    line: usize,
    /// Which lines are as the one before.
    repeats: Vec<bool>,
}

impl Finished {
    /// A frame of zeros.
    pub(super) fn new(format: Format) -> Finished {
        let line = format.pixels.bytes_per_line(format.size.width) as usize;
        let len =
            if format.pixels == PixelFormat::Mjpeg { 0 } else { format.size_image() as usize };
        Finished {
            bytes: vec![0; len],
            line,
            repeats: vec![false; len.checked_div(line).unwrap_or(0)],
        }
    }

    /// Its bytes, to be changed; [`Finished::changed`] must be told.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// These lines are others now.
    pub(super) fn changed(&mut self, lines: Range<usize>) {
        for y in lines.start..(lines.end + 1).min(self.repeats.len()) {
            let at = y * self.line;
            self.repeats[y] =
                y > 0 && self.bytes[at - self.line..at] == self.bytes[at..at + self.line];
        }
    }

    /// Writes the frame.
    pub(super) fn write(&self, frame: &mut Frame<'_>) {
        if self.repeats.is_empty() {
            return frame.write(0, &self.bytes);
        }
        let mut first = 0;
        while first < self.repeats.len() {
            let same = self.repeats[first + 1..].iter().take_while(|is_same| **is_same).count();
            let at = first * self.line;
            if same > 0 {
                // As many at once as the nearest cache holds well.
                let block = (BLOCK / self.line).clamp(1, same + 1);
                let lines = &self.bytes[at..at + block * self.line];
                frame.repeat(at, lines, (same + 1) / block);
                let rest = (same + 1) % block * self.line;
                frame.write(at + (same + 1) * self.line - rest, &lines[..rest]);
                first += same + 1;
                continue;
            }
            // Up to the next line that is repeated.
            let rest = &self.repeats[first + 1..];
            let count = match rest.iter().position(|is_same| *is_same) {
                Some(next) => next,
                None => rest.len() + 1,
            };
            frame.write(at, &self.bytes[at..at + count * self.line]);
            first += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{format::Size, source::testing};

    #[test]
    fn what_is_written_is_what_is_kept_whatever_repeats() {
        let format = Format { pixels: PixelFormat::Nv12, size: Size::new(4, 6) };
        let mut finished = Finished::new(format);
        for lines in ["abcdefghi", "aaaaaaaaa", "abbbcddef", "aabcddddd", "abcdefghh"] {
            let bytes: Vec<u8> = lines.bytes().flat_map(|line| [line; 4]).collect();
            finished.bytes_mut().copy_from_slice(&bytes);
            finished.changed(0..9);
            assert_eq!(testing::frame(format, |frame| finished.write(frame)), bytes, "{lines}");
        }
        finished.bytes_mut()[8] = 1;
        finished.changed(2..3);
        let bytes = finished.bytes.clone();
        assert_eq!(testing::frame(format, |frame| finished.write(frame)), bytes);
    }
}
