//! A picture file, or all pictures of a directory one after the other.

use std::path::{Path, PathBuf};

use image::{ImageFormat, ImageReader, RgbImage, imageops::FilterType};

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
    /// Of a file, or of the pictures in a directory by the order of their names, one a
    /// frame and then again. There, a picture is what has the extension of one: beside them
    /// may be anything else. Each is looked at: whether it is there and is a picture.
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
        if path.is_dir() {
            files.retain(|file| is_called_picture(file) && file.is_file());
        }
        files.sort();
        if files.is_empty() {
            let why =
                "there is no file in it with the extension of a picture, such as .png or .jpg";
            return Err(named(path, why));
        }
        for file in &files {
            let reader = open(file)?;
            reader.into_dimensions().map_err(|error| named(file, error))?;
        }
        let (scaled, clock) = (vec![None; files.len()], has_clock.then(Clock::default));
        Ok(Pictures { files, scaled, clock, shown: None })
    }
}

/// Whether the extension is that of a format that can be read.
fn is_called_picture(path: &Path) -> bool {
    ImageFormat::from_path(path).is_ok_and(|format| format.reading_enabled())
}

fn named(path: &Path, error: impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

fn open(path: &Path) -> Result<ImageReader<std::io::BufReader<std::fs::File>>, String> {
    // The open of a pipe would wait for a writer.
    if !path.metadata().map_err(|error| named(path, error))?.is_file() {
        return Err(named(path, "it is no regular file"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_a_directory_go_by_their_extensions() {
        for (name, is_picture) in [
            ("1.png", true),
            ("2.JPG", true),
            ("3.jpeg", true),
            ("4.gif", true),
            ("5.bmp", true),
            ("6.ppm", true),
            ("7.webp", true),
            ("notes.txt", false),
            ("Thumbs.db", false),
            ("png", false),
            // A format that is not built in.
            ("8.tiff", false),
        ] {
            assert_eq!(is_called_picture(Path::new(name)), is_picture, "{name}");
        }
    }
}
