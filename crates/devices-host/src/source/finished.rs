//! A finished frame that is kept, to be copied into one buffer after the other.
//!
//! Processors copy megabytes in large pieces faster than line by line. Many drawings have
//! hundreds of lines that are alike: of those only a piece is read that the processor's cache
//! holds, again and again, so that memory has to take what is written and no more.

use std::ops::Range;

use crate::{format::Format, frame::Frame};

use super::painted::Area;

/// Bytes of lines that are alike that are written at once: less costs time, more does not fit
/// the processor's second cache.
const BLOCK: usize = 128 << 10;

/// A frame in the format of a stream.
pub(super) struct Finished {
    bytes: Vec<u8>,
    /// Bytes of a line; 0 where there are no lines.
    line: usize,
    /// Lines of the first plane.
    height: usize,
    /// Which lines are known to be as the one before.
    repeats: Vec<bool>,
}

impl Finished {
    /// A frame of zeros.
    pub(super) fn new(format: Format) -> Finished {
        let line = format.pixels.bytes_per_line(format.size.width) as usize;
        let len = if format.pixels.is_compressed() { 0 } else { format.size_image() as usize };
        Finished {
            bytes: vec![0; len],
            line,
            height: format.size.height as usize,
            repeats: vec![false; len.checked_div(line).unwrap_or(0)],
        }
    }

    /// Its bytes, to be changed; then [`Finished::changed`] or [`Finished::changed_all`] must
    /// be told.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// This area of the picture is another now. Its lines count as different, which costs less
    /// than to compare them.
    pub(super) fn changed(&mut self, area: Area) {
        let second = self.height + area.top / 2..self.height + area.bottom / 2;
        for lines in [area.top..area.bottom, second] {
            // The line behind is compared with the last of them.
            for y in lines.start..(lines.end + 1).min(self.repeats.len()) {
                self.repeats[y] = false;
            }
        }
    }

    /// Everything is another now.
    pub(super) fn changed_all(&mut self) {
        let at = |y: usize| y * self.line..(y + 1) * self.line;
        for y in 1..self.repeats.len() {
            self.repeats[y] = self.bytes[at(y - 1)] == self.bytes[at(y)];
        }
    }

    /// The next lines from `y` on that are alike, and so many that it counts.
    fn alike(&self, y: usize) -> Option<Range<usize>> {
        let mut first = y;
        while first < self.repeats.len() {
            let rest = &self.repeats[first + 1..];
            let lines = 1 + rest.iter().take_while(|is_same| **is_same).count();
            if lines * self.line >= 2 * BLOCK {
                return Some(first..first + lines);
            }
            first += lines;
        }
        None
    }

    /// Writes the frame.
    pub(super) fn write(&self, frame: &mut Frame<'_>) {
        let mut next = 0;
        while let Some(lines) = self.alike(next) {
            let (start, end) = (lines.start * self.line, lines.end * self.line);
            let block = (BLOCK / self.line).max(1) * self.line;
            frame.write(next * self.line, &self.bytes[next * self.line..start]);
            frame.repeat(start, &self.bytes[start..start + block], (end - start) / block);
            let rest = (end - start) % block;
            frame.write(end - rest, &self.bytes[start..start + rest]);
            next = lines.end;
        }
        frame.write(next * self.line, &self.bytes[next * self.line..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::{PixelFormat, Size},
        source::testing,
    };

    #[test]
    fn what_is_written_is_what_is_kept_whatever_repeats() {
        let size = Size::new(4096, 600);
        let format = Format { pixels: PixelFormat::Nv12, size };
        let width = size.width as usize;
        let mut finished = Finished::new(format);
        let check = |finished: &Finished, runs: usize| {
            let bytes = testing::frame(format, |frame| finished.write(frame));
            assert!(bytes == finished.bytes, "{runs} runs");
            let ranges =
                std::iter::successors(finished.alike(0), |lines| finished.alike(lines.end));
            assert_eq!(ranges.count(), runs);
        };
        check(&finished, 0);
        finished.changed_all();
        check(&finished, 1);
        // A line in the first plane, and the whole of the second, but for a few lines.
        finished.bytes_mut()[100 * width] = 1;
        finished.bytes_mut()[600 * width..890 * width].fill(2);
        finished.changed_all();
        check(&finished, 3);
        // Lines change in both planes, and only where they are said to.
        finished.bytes_mut()[300 * width + 7] = 3;
        finished.bytes_mut()[750 * width + 7] = 4;
        finished.changed(Area { left: 0, top: 300, right: 8, bottom: 302 });
        check(&finished, 5);
    }

    #[test]
    fn what_has_no_lines_is_written_as_it_is() {
        let format = Format { pixels: PixelFormat::Mjpeg, size: Size::new(64, 64) };
        let mut finished = Finished::new(format);
        finished.bytes_mut().extend(b"a picture");
        finished.changed_all();
        assert_eq!(testing::frame(format, |frame| finished.write(frame)), b"a picture");
    }
}
