//! Pictures that a painter paints in RGB, turned into frames of any format. Only what
//! the painter changed is converted again.

use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};

use crate::format::{Format, PixelFormat, Size};

use super::{Drawn, Look, Source, Tick, convert};

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
    fn new(size: Size) -> Picture {
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
        for y in area.top..area.bottom.min(self.size.height as usize) {
            if area.left < right {
                let line = &mut self.rgb[(y * width + area.left) * 3..(y * width + right) * 3];
                line.as_chunks_mut::<3>().0.fill(colour);
            }
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
    /// How the last frame looked; `None`: there was none.
    look: Option<Look>,
    adjusted: Vec<u8>,
}

impl<P: Painter> Painted<P> {
    /// Shows what `painter` paints.
    pub fn new(painter: P) -> Painted<P> {
        let size = Size::new(2, 2);
        Painted {
            painter,
            format: Format { pixels: PixelFormat::Grey, size },
            picture: Picture::new(size),
            look: None,
            adjusted: Vec::new(),
        }
    }
}

/// How good JPEG pictures are, out of 100.
const QUALITY: u8 = 90;

/// Makes the frame a JPEG picture.
fn encode(rgb: &[u8], size: Size, frame: &mut Vec<u8>) -> Result<(), String> {
    frame.clear();
    JpegEncoder::new_with_quality(&mut *frame, QUALITY)
        .encode(rgb, size.width, size.height, ExtendedColorType::Rgb8)
        .map_err(|error| error.to_string())
}

impl<P: Painter> Source for Painted<P> {
    fn start(&mut self, format: Format) -> Result<(), String> {
        self.format = format;
        self.picture = Picture::new(format.size);
        self.look = None;
        self.painter.start(&mut self.picture)
    }

    fn draw(&mut self, tick: &Tick, frame: &mut Vec<u8>) -> Result<Drawn, String> {
        let Format { pixels, size } = self.format;
        let painted = self.painter.paint(tick, &mut self.picture)?;
        let is_new_look = self.look.replace(tick.look) != Some(tick.look);
        let is_unchanged = painted == Changed::Areas(Vec::new());
        if is_unchanged && !is_new_look {
            return Ok(Drawn::Frame);
        }
        let is_plain = tick.look == Look::PLAIN;
        if !is_plain {
            convert::adjust(&self.picture.rgb, size, &tick.look, &mut self.adjusted);
        }
        let rgb = if is_plain { &self.picture.rgb } else { &self.adjusted };
        if pixels == PixelFormat::Mjpeg {
            encode(rgb, size, frame)?;
            return Ok(Drawn::Frame);
        }
        let areas = match painted {
            Changed::Areas(areas) if is_plain && !is_new_look => areas,
            _ => vec![self.picture.all()],
        };
        for area in areas {
            convert::convert(rgb, size, area.widened(size), pixels, frame);
        }
        Ok(Drawn::Frame)
    }
}
