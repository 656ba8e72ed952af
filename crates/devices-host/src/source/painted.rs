//! Pictures that a painter paints in RGB, turned into frames of any format. Only what
//! the painter changed is converted again.

use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};

use crate::{
    format::{Format, PixelFormat, Size},
    frame::Frame,
};

use super::{Drawn, Look, Source, Tick, convert, finished::Finished, look::Adjuster};

/// Part of a picture, in pixels: `left..right`, `top..bottom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// The first column.
    pub left: usize,
    /// The first row.
    pub top: usize,
    /// Past the last column.
    pub right: usize,
    /// Past the last row.
    pub bottom: usize,
}

impl Area {
    /// Whether the two have a pixel in common.
    pub(super) fn meets(&self, other: &Area) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    /// The pairs of pixels and lines that hold it, within a picture.
    fn widened(self, size: Size) -> Area {
        Area {
            left: self.left / 2 * 2,
            top: self.top / 2 * 2,
            right: self.right.next_multiple_of(2).min(size.width as usize),
            bottom: self.bottom.next_multiple_of(2).min(size.height as usize),
        }
    }
}

/// A picture under the brush: RGB, 8 bits a component.
pub struct Picture {
    size: Size,
    rgb: Vec<u8>,
}

impl Picture {
    pub(super) fn new(size: Size) -> Picture {
        Picture { size, rgb: vec![0; size.width as usize * size.height as usize * 3] }
    }

    /// Its size.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The whole of it.
    pub fn all(&self) -> Area {
        Area { left: 0, top: 0, right: self.size.width as usize, bottom: self.size.height as usize }
    }

    /// All components, line by line.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.rgb
    }

    /// Fills an area; what lies outside the picture is left out.
    pub fn fill(&mut self, area: Area, colour: [u8; 3]) {
        let width = self.size.width as usize;
        let right = area.right.min(width);
        let bottom = area.bottom.min(self.size.height as usize);
        if area.left < right && area.top < bottom {
            let start = area.top * width;
            let line = &mut self.rgb[(start + area.left) * 3..(start + right) * 3];
            line.as_chunks_mut::<3>().0.fill(colour);
            self.repeat_line(Area { right, bottom, ..area });
        }
    }

    /// Makes all lines of an area as its first.
    pub(super) fn repeat_line(&mut self, area: Area) {
        let at = |y: usize| (y * self.size.width as usize + area.left) * 3;
        let len = (area.right - area.left) * 3;
        for y in area.top + 1..area.bottom {
            self.rgb.copy_within(at(area.top)..at(area.top) + len, at(y));
        }
    }

    /// Paints each pixel.
    pub fn paint(&mut self, mut colour: impl FnMut(usize, usize) -> [u8; 3]) {
        let width = self.size.width as usize;
        for (y, line) in self.rgb.chunks_exact_mut(width * 3).enumerate() {
            for (x, pixel) in line.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                *pixel = colour(x, y);
            }
        }
    }
}

/// What a painter changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Everything.
    All,
    /// These areas; perhaps none.
    Areas(Vec<Area>),
}

/// Paints pictures, one after the other, each over the one before.
pub trait Painter: Send + 'static {
    /// Whether it mostly changes little, and waits for nothing.
    fn is_quick(&self) -> bool {
        false
    }

    /// A stream begins, with a black picture.
    ///
    /// # Errors
    /// Why it cannot; the stream fails with `EIO`.
    fn start(&mut self, picture: &mut Picture) -> Result<(), String>;

    /// Paints the picture that is due.
    ///
    /// # Errors
    /// Why it cannot; the stream fails with `EIO`.
    fn paint(&mut self, tick: &Tick, picture: &mut Picture) -> Result<Changed, String>;
}

/// The source that shows a painter's pictures, in any format.
pub struct Painted<P> {
    painter: P,
    format: Format,
    picture: Picture,
    /// How the last frame looked.
    adjuster: Adjuster,
    /// The picture as it looks, if not plain.
    adjusted: Vec<u8>,
    /// The frame in the format of the stream.
    finished: Finished,
}

impl<P: Painter> Painted<P> {
    /// Shows what `painter` paints.
    pub fn new(painter: P) -> Painted<P> {
        let format = Format { pixels: PixelFormat::Grey, size: Size::new(2, 2) };
        Painted {
            painter,
            format,
            picture: Picture::new(format.size),
            adjuster: Adjuster::new(Look::PLAIN),
            adjusted: Vec::new(),
            finished: Finished::new(format),
        }
    }
}

impl<P> Painted<P> {
    /// The painter.
    pub(super) fn painter(&mut self) -> &mut P {
        &mut self.painter
    }
}

/// How good JPEG pictures are, out of 100.
const QUALITY: u8 = 90;

/// Makes the frame a JPEG picture, 4:2:2 as webcams send it: some programs know nothing else.
fn encode(rgb: &[u8], size: Size, frame: &mut Vec<u8>) -> Result<(), String> {
    let side = |pixels: u32| u16::try_from(pixels).map_err(|error| error.to_string());
    let (width, height) = (side(size.width)?, side(size.height)?);
    frame.clear();
    let mut encoder = Encoder::new(&mut *frame, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_1);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.encode(rgb, width, height, ColorType::Rgb).map_err(|error| error.to_string())?;
    number_components(frame);
    Ok(())
}

/// The components are 1, 2 and 3, as JFIF has it; the encoder counts from 0.
fn number_components(jpeg: &mut [u8]) {
    const FRAME: u8 = 0xc0;
    const SCAN: u8 = 0xda;
    // Behind the start of the picture: segments of a marker, a length and so many bytes.
    let mut at = 2;
    while let Some([0xff, marker, upper, lower]) = jpeg.get(at..at + 4) {
        let (marker, length) = (*marker, u16::from_be_bytes([*upper, *lower]));
        let (first, step) = match marker {
            FRAME => (10, 3),
            SCAN => (5, 2),
            _ => (0, 0),
        };
        if step > 0 {
            (0..3).for_each(|n| jpeg[at + first + n * step] += 1);
        }
        if marker == SCAN {
            return;
        }
        at += 2 + usize::from(length);
    }
}

impl<P: Painter> Source for Painted<P> {
    fn is_quick(&self, pixels: PixelFormat) -> bool {
        self.painter.is_quick() && !pixels.is_compressed()
    }

    fn start(&mut self, format: Format) -> Result<(), String> {
        self.format = format;
        self.picture = Picture::new(format.size);
        self.finished = Finished::new(format);
        self.adjusted = Vec::new();
        self.painter.start(&mut self.picture)?;
        // Here, where no frame is late by it.
        self.finish(Look::PLAIN, Changed::All)
    }

    fn draw(&mut self, tick: &Tick, frame: &mut Frame<'_>) -> Result<Drawn, String> {
        let painted = self.painter.paint(tick, &mut self.picture)?;
        self.finish(tick.look, painted)?;
        self.finished.write(frame);
        Ok(Drawn::Frame)
    }
}

impl<P: Painter> Painted<P> {
    /// Brings the finished frame up to date.
    fn finish(&mut self, look: Look, painted: Changed) -> Result<(), String> {
        let Format { pixels, size } = self.format;
        let is_new_look = self.adjuster.look != look;
        if is_new_look {
            self.adjuster = Adjuster::new(look);
        }
        let mut areas = match painted {
            Changed::Areas(areas) if !is_new_look => areas,
            _ => vec![self.picture.all()],
        };
        if areas.is_empty() {
            return Ok(());
        }
        let mut rgb = &self.picture.rgb;
        if !self.adjuster.is_plain() {
            self.adjusted.resize(rgb.len(), 0);
            for area in &mut areas {
                *area = self.adjuster.adjust(rgb, size, *area, &mut self.adjusted);
            }
            rgb = &self.adjusted;
        }
        if pixels == PixelFormat::Mjpeg {
            return encode(rgb, size, self.finished.bytes_mut());
        }
        for area in areas {
            let area = area.widened(size);
            convert::convert(rgb, size, area, pixels, self.finished.bytes_mut());
            if area == self.picture.all() {
                self.finished.changed_all();
            } else {
                self.finished.changed(area);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::source::{Pattern, Patterns, testing};

    #[test]
    fn jpeg_pictures_have_half_the_columns_of_chroma() {
        let size = Size::new(64, 32);
        let mut picture = Picture::new(size);
        // Colours that change from pair to pair.
        picture.paint(|x, y| [(x / 2 * 8) as u8, (y * 8) as u8, 255 - (x / 2 * 8) as u8]);
        let mut frame = Vec::new();
        encode(&picture.rgb, size, &mut frame).expect("a picture");
        // SOF0: lines, columns, and each component with its factors, across and down.
        let header = [0xff, 0xc0, 0, 17, 8, 0, 32, 0, 64, 3, 1, 0x21, 0, 2, 0x11, 1, 3, 0x11, 1];
        assert!(frame.windows(header.len()).any(|bytes| bytes == header), "{frame:x?}");
        // SOS: each with its tables.
        let header = [0xff, 0xda, 0, 12, 3, 1, 0, 2, 0x11, 3, 0x11];
        assert!(frame.windows(header.len()).any(|bytes| bytes == header), "{frame:x?}");
        let format = image::ImageFormat::Jpeg;
        let back = image::load_from_memory_with_format(&frame, format).expect("a picture");
        let back = back.into_rgb8();
        let apart = picture.rgb.iter().zip(back.as_raw());
        let sum: u64 = apart.map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
        assert!(sum / (picture.rgb.len() as u64) < 3, "{sum}");
    }

    #[test]
    fn what_is_brought_up_to_date_is_what_is_painted_anew() {
        let size = Size::new(640, 480);
        let source = |format| {
            let mut source = Painted::new(Patterns::new(Pattern::Box, [0; 3], true, 0));
            source.start(format).expect("it starts");
            source
        };
        let flipped = Look { is_mirrored: true, hue: 90, ..Look::PLAIN };
        for pixels in PixelFormat::ALL {
            let format = Format { pixels, size };
            let mut kept = source(format);
            for sequence in 0..30 {
                let time = Duration::from_millis(77) * sequence;
                let look = if sequence / 5 % 2 == 0 { Look::PLAIN } else { flipped };
                let tick = Tick { sequence, time, patience: Duration::ZERO, look };
                let draw = |source: &mut Painted<Patterns>| {
                    testing::frame(format, |frame| {
                        assert_eq!(source.draw(&tick, frame), Ok(Drawn::Frame));
                    })
                };
                assert!(draw(&mut kept) == draw(&mut source(format)), "{pixels:?} {sequence}");
            }
        }
    }
}
