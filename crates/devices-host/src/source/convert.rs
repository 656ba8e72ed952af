//! RGB to what cameras make: BT.601, limited range for YUV and full range for grey.

use crate::format::{PixelFormat, Size};

use super::painted::Area;

type Rgb = [i32; 3];

#[inline(always)]
fn luma([r, g, b]: Rgb) -> u8 {
    (((66 * r + 129 * g + 25 * b + 128) >> 8) + 16) as u8
}

#[inline(always)]
fn chroma([r, g, b]: Rgb) -> [u8; 2] {
    [
        (((-38 * r - 74 * g + 112 * b + 128) >> 8) + 128) as u8,
        (((112 * r - 94 * g - 18 * b + 128) >> 8) + 128) as u8,
    ]
}

#[inline(always)]
fn grey([r, g, b]: Rgb) -> u8 {
    ((77 * r + 150 * g + 29 * b + 128) >> 8) as u8
}

/// The mean of two pixels, rounded.
#[inline(always)]
fn mean_of_two(one: Rgb, other: Rgb) -> Rgb {
    [(one[0] + other[0] + 1) >> 1, (one[1] + other[1] + 1) >> 1, (one[2] + other[2] + 1) >> 1]
}

/// The pixels of two, which lie side by side.
#[inline(always)]
fn pixels_of(two: &[u8; 6]) -> (Rgb, Rgb) {
    ([two[0].into(), two[1].into(), two[2].into()], [two[3].into(), two[4].into(), two[5].into()])
}

/// Converts an area of a picture, with even edges, into a frame. Of lines that are alike,
/// as most are in drawings, only the first is converted.
pub(super) fn convert(rgb: &[u8], size: Size, area: Area, pixels: PixelFormat, frame: &mut [u8]) {
    let (width, height) = (size.width as usize, size.height as usize);
    let columns = area.right - area.left;
    let line = |y: usize| &rgb[(y * width + area.left) * 3..(y * width + area.right) * 3];
    // Of the first plane.
    let bytes = pixels.bytes_per_line(1) as usize;
    let convert = |line: &[u8], out: &mut [u8]| match pixels {
        PixelFormat::Rgb24 => out.copy_from_slice(line),
        PixelFormat::Yuyv => yuyv(line, out),
        PixelFormat::Grey => by_pixel(line, out, grey),
        PixelFormat::Nv12 => by_pixel(line, out, luma),
        PixelFormat::Mjpeg => {}
    };
    for y in area.top..area.bottom {
        let start = (y * width + area.left) * bytes;
        let end = start + columns * bytes;
        if y > area.top && line(y) == line(y - 1) {
            frame.copy_within(start - width * bytes..end - width * bytes, start);
        } else {
            convert(line(y), &mut frame[start..end]);
        }
    }
    if pixels == PixelFormat::Nv12 {
        let plane = &mut frame[width * height..];
        for y in (area.top..area.bottom).step_by(2) {
            let start = y / 2 * width + area.left;
            let is_like = |one: usize| line(one) == line(one - 2);
            if y >= area.top + 2 && is_like(y) && is_like(y + 1) {
                plane.copy_within(start - width..start - width + columns, start);
            } else {
                chroma_of_two(line(y), line(y + 1), &mut plane[start..start + columns]);
            }
        }
    }
}

fn by_pixel(line: &[u8], out: &mut [u8], component: impl Fn(Rgb) -> u8) {
    for (out, one) in out.iter_mut().zip(line.as_chunks::<3>().0) {
        *out = component([one[0].into(), one[1].into(), one[2].into()]);
    }
}

fn yuyv(line: &[u8], out: &mut [u8]) {
    for (two, out) in line.as_chunks::<6>().0.iter().zip(out.as_chunks_mut::<4>().0) {
        let (left, right) = pixels_of(two);
        let [u, v] = chroma(mean_of_two(left, right));
        *out = [luma(left), u, luma(right), v];
    }
}

fn chroma_of_two(upper: &[u8], lower: &[u8], out: &mut [u8]) {
    let pairs = upper.as_chunks::<6>().0.iter().zip(lower.as_chunks::<6>().0);
    for ((upper, lower), out) in pairs.zip(out.as_chunks_mut::<2>().0) {
        let ([a, b], [c, d]) = (<[Rgb; 2]>::from(pixels_of(upper)), pixels_of(lower).into());
        let mean = |n: usize| (a[n] + b[n] + c[n] + d[n] + 2) >> 2;
        *out = chroma([mean(0), mean(1), mean(2)]);
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
}
