//! RGB to what cameras make: BT.601, limited range for YUV and full range for grey.

use crate::format::{PixelFormat, Size};

use super::{Look, painted::Area};

type Rgb = [i32; 3];

fn luma([r, g, b]: Rgb) -> u8 {
    (((66 * r + 129 * g + 25 * b + 128) >> 8) + 16) as u8
}

fn chroma([r, g, b]: Rgb) -> [u8; 2] {
    [
        (((-38 * r - 74 * g + 112 * b + 128) >> 8) + 128) as u8,
        (((112 * r - 94 * g - 18 * b + 128) >> 8) + 128) as u8,
    ]
}

fn grey([r, g, b]: Rgb) -> u8 {
    ((77 * r + 150 * g + 29 * b + 128) >> 8) as u8
}

fn pixel(rgb: &[u8], at: usize) -> Rgb {
    [rgb[at].into(), rgb[at + 1].into(), rgb[at + 2].into()]
}

/// The mean of pixels, rounded.
fn mean<const N: usize>(pixels: [Rgb; N]) -> Rgb {
    let count = N as i32;
    std::array::from_fn(|component| {
        (pixels.iter().map(|pixel| pixel[component]).sum::<i32>() + count / 2) / count
    })
}

/// Converts an area of a picture, with even edges, into a frame.
pub(super) fn convert(rgb: &[u8], size: Size, area: Area, pixels: PixelFormat, frame: &mut [u8]) {
    let (width, height) = (size.width as usize, size.height as usize);
    let row = width * 3;
    for y in area.top..area.bottom {
        let line = &rgb[y * row + area.left * 3..y * row + area.right * 3];
        match pixels {
            PixelFormat::Rgb24 => {
                let start = y * row + area.left * 3;
                frame[start..start + line.len()].copy_from_slice(line);
            }
            PixelFormat::Yuyv => {
                let start = (y * width + area.left) * 2;
                for (two, out) in
                    line.as_chunks::<6>().0.iter().zip(
                        frame[start..start + (area.right - area.left) * 2].as_chunks_mut::<4>().0,
                    )
                {
                    let (left, right) = (pixel(two, 0), pixel(two, 3));
                    let [u, v] = chroma(mean([left, right]));
                    *out = [luma(left), u, luma(right), v];
                }
            }
            PixelFormat::Grey | PixelFormat::Nv12 => {
                let start = y * width + area.left;
                let out = &mut frame[start..start + area.right - area.left];
                let component = if pixels == PixelFormat::Grey { grey } else { luma };
                for (out, one) in out.iter_mut().zip(line.as_chunks::<3>().0) {
                    *out = component(pixel(one, 0));
                }
            }
            PixelFormat::Mjpeg => {}
        }
    }
    if pixels == PixelFormat::Nv12 {
        let plane = &mut frame[width * height..];
        for y in (area.top..area.bottom).step_by(2) {
            for x in (area.left..area.right).step_by(2) {
                let (upper, lower) = (y * row + x * 3, (y + 1) * row + x * 3);
                let four = [upper, upper + 3, lower, lower + 3].map(|at| pixel(rgb, at));
                let at = y / 2 * width + x;
                plane[at..at + 2].copy_from_slice(&chroma(mean(four)));
            }
        }
    }
}

/// A picture as controls want it.
pub(super) fn adjust(rgb: &[u8], size: Size, look: &Look, into: &mut Vec<u8>) {
    let (width, height) = (size.width as usize, size.height as usize);
    into.clear();
    for y in 0..height {
        let from = if look.is_upside_down { height - 1 - y } else { y };
        for x in 0..width {
            let at = if look.is_mirrored { width - 1 - x } else { x };
            let plain = pixel(rgb, (from * width + at) * 3);
            let middle = i32::from(grey(plain));
            into.extend(plain.map(|component| {
                let coloured = middle + (component - middle) * look.saturation / 128;
                let steep = (coloured - 128) * look.contrast / 128 + 128;
                (steep + look.brightness).clamp(0, 255) as u8
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_colours() {
        assert_eq!(luma([0, 0, 0]), 16);
        assert_eq!(luma([255, 255, 255]), 235);
        assert_eq!(chroma([128, 128, 128]), [128, 128]);
        // BT.601 red: Y 81, Cb 90, Cr 240.
        assert_eq!((luma([255, 0, 0]), chroma([255, 0, 0])), (82, [90, 240]));
        assert_eq!(grey([255, 255, 255]), 255);
    }

    #[test]
    fn a_plain_look_changes_nothing() {
        let rgb: Vec<u8> = (0..2 * 2 * 3).map(|n| n * 20).collect();
        let mut adjusted = Vec::new();
        adjust(&rgb, Size::new(2, 2), &Look::PLAIN, &mut adjusted);
        assert_eq!(adjusted, rgb);
        let mirrored = Look { is_mirrored: true, ..Look::PLAIN };
        adjust(&rgb, Size::new(2, 2), &mirrored, &mut adjusted);
        assert_eq!(adjusted[..6], [60, 80, 100, 0, 20, 40]);
    }
}
