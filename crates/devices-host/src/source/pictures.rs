//! A picture file, or all of a directory one after the other.

use std::path::{Path, PathBuf};

use image::{ImageReader, RgbImage, imageops::FilterType};

use super::{
    Tick,
    painted::{Changed, Painter, Picture},
    text::Clock,
};
use crate::format::Size;

/// Bytes of the scaled pictures of a directory that are kept for the next time, if they are
/// not more.
const KEPT: usize = 256 << 20;

/// The painter of picture files, scaled to the size of the stream.
#[derive(Clone, Debug)]
pub struct Pictures {
    files: Vec<PathBuf>,
    /// Those that have been scaled, by their places in `files`.
    scaled: Vec<Option<RgbImage>>,
    clock: Option<Clock>,
    shown: Option<usize>,
}

impl Pictures {
    /// Of a file, or of the files in a directory by the order of their names, one a
    /// frame and then again. Each is looked at: whether it is there and is a picture.
    ///
    /// # Errors
    /// Which file is not, and why.
    pub fn new(path: &Path, has_clock: bool) -> Result<Pictures, String> {
        let mut files = if path.is_dir() {
            let entries = path.read_dir().and_then(|entries| {
                entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()
            });
            entries.map_err(|error| named(path, error))?
        } else {
            vec![path.to_owned()]
        };
        files.sort();
        if files.is_empty() {
            return Err(named(path, "there is no picture in it"));
        }
        for file in &files {
            let reader = open(file)?;
            reader.into_dimensions().map_err(|error| named(file, error))?;
        }
        let (scaled, clock) = (vec![None; files.len()], has_clock.then(Clock::default));
        Ok(Pictures { files, scaled, clock, shown: None })
    }
}

fn named(path: &Path, error: impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

fn open(path: &Path) -> Result<ImageReader<std::io::BufReader<std::fs::File>>, String> {
    ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .map_err(|error| named(path, error))
}

/// A picture in this size.
fn scaled(file: &Path, size: Size) -> Result<RgbImage, String> {
    let decoded = open(file)?.decode().map_err(|error| named(file, error))?;
    let is_fitting = (decoded.width(), decoded.height()) == (size.width, size.height);
    Ok(if is_fitting {
        decoded.into_rgb8()
    } else {
        decoded.resize_exact(size.width, size.height, FilterType::Triangle).into_rgb8()
    })
}

impl Painter for Pictures {
    fn start(&mut self, _picture: &mut Picture) -> Result<(), String> {
        self.shown = None;
        self.scaled.fill(None);
        self.clock.iter_mut().for_each(Clock::forget);
        Ok(())
    }

    fn paint(&mut self, tick: &Tick, picture: &mut Picture) -> Result<Changed, String> {
        let wanted = tick.sequence as usize % self.files.len();
        let is_new = self.shown.replace(wanted) != Some(wanted);
        if is_new {
            let rgb = match self.scaled[wanted].take() {
                Some(rgb) => rgb,
                None => scaled(&self.files[wanted], picture.size())?,
            };
            picture.bytes_mut().copy_from_slice(rgb.as_raw());
            // A single one is not asked for again.
            if self.files.len() > 1 && self.files.len() * rgb.len() <= KEPT {
                self.scaled[wanted] = Some(rgb);
            }
            self.clock.iter_mut().for_each(Clock::forget);
        }
        let mut areas = Vec::new();
        if let Some(clock) = &mut self.clock {
            areas.extend(clock.paint(tick, picture));
        }
        Ok(if is_new { Changed::All } else { Changed::Areas(areas) })
    }
}
