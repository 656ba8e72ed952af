//! Where one frame ends and the next begins in a stream of bytes.

use std::io::{self, BufRead, Read};

use crate::format::{PixelFormat, Size};

use super::decode::Layout;

/// Frames in a stream of bytes.
pub(super) struct Frames<R> {
    from: R,
    layout: Layout,
    framing: Framing,
}

enum Framing {
    /// So many bytes each.
    Fixed(usize),
    /// JPEG pictures, one behind the other.
    Jpeg,
    /// So many bytes each, behind a line of text.
    Y4m(usize),
}

/// How a stream of Y4M begins.
const Y4M: &[u8] = b"YUV4MPEG2 ";
/// The longest line of text in it.
const LONGEST: u64 = 1024;
/// The longest JPEG picture.
const LARGEST: usize = 32 << 20;

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

impl<R: BufRead> Frames<R> {
    /// Looks at the beginning of a stream of frames of this format and size: whether it is Y4M.
    ///
    /// # Errors
    /// It cannot be read, or is Y4M of another size or layout.
    pub(super) fn new(mut from: R, pixels: PixelFormat, size: Size) -> io::Result<Frames<R>> {
        let framing = match pixels {
            PixelFormat::Mjpeg => Framing::Jpeg,
            _ if from.fill_buf()?.starts_with(Y4M) => {
                let layout = y4m_layout(&line(&mut from)?, size)?;
                let framing = Framing::Y4m(layout.bytes(size));
                return Ok(Frames { from, layout, framing });
            }
            _ => Framing::Fixed(pixels.size_image(size) as usize),
        };
        Ok(Frames { from, layout: Layout::Format(pixels), framing })
    }

    /// How pixels lie in the frames.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// The next frame; false: the stream is over. What is no whole frame is lost.
    ///
    /// # Errors
    /// It cannot be read, or is no such stream.
    pub(super) fn next(&mut self, frame: &mut Vec<u8>) -> io::Result<bool> {
        let whole = match self.framing {
            Framing::Fixed(size) => self.fixed(frame, size),
            Framing::Y4m(size) => match line(&mut self.from) {
                Ok(line) if line.starts_with(b"FRAME") => self.fixed(frame, size),
                Ok(_) => Err(invalid("a frame of Y4M does not begin with FRAME")),
                Err(error) => Err(error),
            },
            Framing::Jpeg => {
                frame.clear();
                self.jpeg(frame)
            }
        };
        match whole {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fixed(&mut self, frame: &mut Vec<u8>, size: usize) -> io::Result<()> {
        frame.resize(size, 0);
        self.from.read_exact(frame)
    }

    fn byte(&mut self, frame: &mut Vec<u8>) -> io::Result<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        frame.push(byte[0]);
        Ok(byte[0])
    }

    /// From `SOI` to `EOI` (ITU-T T.81, annex B).
    fn jpeg(&mut self, frame: &mut Vec<u8>) -> io::Result<()> {
        const SOI: u8 = 0xd8;
        const EOI: u8 = 0xd9;
        const SOS: u8 = 0xda;
        if (self.byte(frame)?, self.byte(frame)?) != (0xff, SOI) {
            return Err(invalid("a picture does not begin as JPEG does"));
        }
        let mut marker = self.marker(frame)?;
        while marker != EOI {
            self.segment(frame)?;
            marker = if marker == SOS { self.scan(frame)? } else { self.marker(frame)? };
            if frame.len() > LARGEST {
                return Err(invalid("a JPEG picture does not end"));
            }
        }
        Ok(())
    }

    /// A marker, perhaps behind filling bytes.
    fn marker(&mut self, frame: &mut Vec<u8>) -> io::Result<u8> {
        let mut byte = self.byte(frame)?;
        if byte != 0xff {
            return Err(invalid("a JPEG picture has no marker where one must be"));
        }
        while byte == 0xff {
            byte = self.byte(frame)?;
        }
        Ok(byte)
    }

    fn segment(&mut self, frame: &mut Vec<u8>) -> io::Result<()> {
        let length = u16::from_be_bytes([self.byte(frame)?, self.byte(frame)?]);
        let rest = u64::from(length.saturating_sub(2));
        match (&mut self.from).take(rest).read_to_end(frame)? as u64 == rest {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Up to the next marker, which is the answer.
    fn scan(&mut self, frame: &mut Vec<u8>) -> io::Result<u8> {
        loop {
            let bytes = self.from.fill_buf()?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let len = bytes.iter().position(|byte| *byte == 0xff).unwrap_or(bytes.len());
            frame.extend(&bytes[..len]);
            let is_marker = len < bytes.len();
            self.from.consume(len);
            // Else it is a stuffed byte, or a restart.
            if is_marker {
                let marker = self.marker(frame)?;
                if !matches!(marker, 0 | 0xd0..=0xd7) {
                    return Ok(marker);
                }
            }
            if frame.len() > LARGEST {
                return Err(invalid("a JPEG picture does not end"));
            }
        }
    }
}

/// A line of text, without its end.
fn line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(LONGEST).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
        Some(_) => Err(invalid("a line of Y4M does not end")),
    }
}

/// What the first line of Y4M says.
fn y4m_layout(line: &[u8], size: Size) -> io::Result<Layout> {
    let text = String::from_utf8_lossy(line);
    let value = |letter: char| text.split(' ').skip(1).find_map(|word| word.strip_prefix(letter));
    let number = |letter| value(letter).and_then(|text| text.parse::<u32>().ok());
    let found = Size::new(number('W').unwrap_or(0), number('H').unwrap_or(0));
    if found != size {
        return Err(invalid(format!(
            "its frames are {}x{}: say size={0}x{1}",
            found.width, found.height
        )));
    }
    match value('C').unwrap_or("420jpeg") {
        "420jpeg" | "420mpeg2" | "420paldv" | "420" => Ok(Layout::Planar { halves_lines: true }),
        "422" => Ok(Layout::Planar { halves_lines: false }),
        "mono" => Ok(Layout::Luma),
        other => Err(invalid(format!("Y4M of {other}: 420, 422 and mono, of 8 bits, can be read"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size::new(4, 2);

    fn all(bytes: &[u8], capacity: usize, pixels: PixelFormat) -> io::Result<Vec<Vec<u8>>> {
        let reader = io::BufReader::with_capacity(capacity, bytes);
        let mut frames = Frames::new(reader, pixels, SIZE)?;
        let mut found = Vec::new();
        let mut frame = Vec::new();
        while frames.next(&mut frame)? {
            found.push(frame.clone());
        }
        Ok(found)
    }

    #[test]
    fn pictures_are_told_apart_wherever_pieces_end() {
        // With a picture in a picture, filling bytes, a stuffed byte and a restart.
        let one = b"\xff\xd8\xff\xe1\x00\x08\xff\xd8\xff\xd9ab\xff\xff\xda\x00\x03x12\xff\x003\xff\xd04\xff\xd9";
        let two = b"\xff\xd8\xff\xda\x00\x02567\xff\xd9";
        let bytes = [&one[..], two, &one[..7]].concat();
        for capacity in 1..40 {
            let found = all(&bytes, capacity, PixelFormat::Mjpeg).expect("pictures");
            assert_eq!(found, [one.to_vec(), two.to_vec()], "{capacity}");
        }
        assert!(all(b"\xff\xd9", 9, PixelFormat::Mjpeg).is_err());
    }

    #[test]
    fn y4m_is_known_by_its_first_line() {
        let mut bytes = b"YUV4MPEG2 W4 H2 F30:1 Ip C422\n".to_vec();
        for n in 0..2_u8 {
            bytes.extend(b"FRAME\n");
            bytes.extend([n; 16]);
        }
        let found = all(&bytes, 1024, PixelFormat::Yuyv).expect("frames");
        assert_eq!(found, [vec![0; 16], vec![1; 16]]);
        let other = b"YUV4MPEG2 W8 H2\n";
        let error = all(other, 1024, PixelFormat::Yuyv).expect_err("another size").to_string();
        assert!(error.contains("size=8x2"), "{error}");
        assert_eq!(all(&[7; 33], 9, PixelFormat::Yuyv).expect("raw"), [vec![7; 16], vec![7; 16]]);
    }
}
