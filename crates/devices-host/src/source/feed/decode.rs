//! Frames of others to RGB: BT.601, limited range for YUV and full range for grey.

use image::ImageFormat;

use crate::format::{PixelFormat, Size};

/// How pixels lie in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As in a format of the camera.
    Format(PixelFormat),
    /// A plane of luma, and two of chroma with half its columns (Y4M).
    Planar {
        /// And half its lines.
        halves_lines: bool,
    },
    /// Luma alone, of limited range (Y4M).
    Luma,
}

impl Layout {
    /// Bytes of a frame.
    pub(super) fn bytes(self, size: Size) -> usize {
        let pixels = size.width as usize * size.height as usize;
        match self {
            Layout::Format(format) => format.size_image(size) as usize,
            Layout::Planar { halves_lines: true } => pixels * 3 / 2,
            Layout::Planar { halves_lines: false } => pixels * 2,
            Layout::Luma => pixels,
        }
    }

    /// Makes RGB of a frame of whole length.
    ///
    /// # Errors
    /// It is JPEG that cannot be read, or of another size.
    pub(super) fn decode(self, frame: &[u8], size: Size, rgb: &mut [u8]) -> Result<(), String> {
        let (width, height) = (size.width as usize, size.height as usize);
        let pixels = width * height;
        let out = rgb.as_chunks_mut::<3>().0;
        // Luma of a pixel, then where its chroma is.
        let mut each = |colour: &dyn Fn(usize, usize) -> [u8; 3]| {
            for (at, out) in out.iter_mut().enumerate() {
                *out = colour(at % width, at / width);
            }
        };
        match self {
            Layout::Format(PixelFormat::Rgb24) => rgb.copy_from_slice(frame),
            Layout::Format(PixelFormat::Grey) => each(&|x, y| [frame[y * width + x]; 3]),
            Layout::Format(PixelFormat::Yuyv) => each(&|x, y| {
                let two = (y * width + x / 2 * 2) * 2;
                colour(frame[(y * width + x) * 2], frame[two + 1], frame[two + 3])
            }),
            Layout::Format(PixelFormat::Nv12) => each(&|x, y| {
                let chroma = pixels + y / 2 * width + x / 2 * 2;
                colour(frame[y * width + x], frame[chroma], frame[chroma + 1])
            }),
            Layout::Planar { halves_lines } => each(&|x, y| {
                let line = if halves_lines { y / 2 } else { y };
                let chroma = pixels + line * (width / 2) + x / 2;
                let plane = if halves_lines { pixels / 4 } else { pixels / 2 };
                colour(frame[y * width + x], frame[chroma], frame[chroma + plane])
            }),
            Layout::Luma => each(&|x, y| colour(frame[y * width + x], 128, 128)),
            Layout::Format(PixelFormat::Mjpeg) => {
                let picture = image::load_from_memory_with_format(frame, ImageFormat::Jpeg)
                    .map_err(|error| error.to_string())?;
                if (picture.width(), picture.height()) != (size.width, size.height) {
                    return Err(format!(
                        "a picture is {}x{}, not {}x{}",
                        picture.width(),
                        picture.height(),
                        size.width,
                        size.height
                    ));
                }
                rgb.copy_from_slice(picture.into_rgb8().as_raw());
            }
        }
        Ok(())
    }
}

fn colour(y: u8, u: u8, v: u8) -> [u8; 3] {
    let light = 298 * (i32::from(y) - 16) + 128;
    let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
    let component = |value: i32| (value >> 8).clamp(0, 255) as u8;
    [component(light + 409 * v), component(light - 100 * u - 208 * v), component(light + 516 * u)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{convert, painted::Area};

    #[test]
    fn what_was_converted_comes_back() {
        let size = Size::new(4, 2);
        let all = Area { left: 0, top: 0, right: 4, bottom: 2 };
        let rgb: Vec<u8> = [[200, 30, 60], [20, 90, 220]].concat().repeat(4);
        let rgb: Vec<u8> = rgb.chunks(6).flat_map(|two| [&two[..3], &two[..3]].concat()).collect();
        for pixels in [PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Rgb24] {
            let mut frame = vec![0; pixels.size_image(size) as usize];
            convert::convert(&rgb, size, all, pixels, &mut frame);
            let mut back = vec![0; rgb.len()];
            Layout::Format(pixels).decode(&frame, size, &mut back).expect("decoded");
            for (one, other) in rgb.iter().zip(&back) {
                assert!(one.abs_diff(*other) <= 3, "{pixels:?}: {rgb:?} {back:?}");
            }
        }
        // 4:2:0 and 4:2:2 in planes: red.
        let mut red = vec![0; rgb.len()];
        for (layout, chroma) in [(true, 2), (false, 4)] {
            let layout = Layout::Planar { halves_lines: layout };
            let frame = [vec![82; 8], vec![90; chroma], vec![240; chroma]].concat();
            assert_eq!(frame.len(), layout.bytes(size));
            layout.decode(&frame, size, &mut red).expect("decoded");
            assert!(red[0] > 250 && red[1] < 5 && red[2] < 5, "{red:?}");
        }
    }
}
