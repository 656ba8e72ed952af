//! What pictures a camera can make: pixel formats, sizes and intervals, and the
//! nearest of them to what a program asks.

use crate::uapi::{self, PixFormat};

/// How pixels lie in a frame, in Linux's terms (`V4L2_PIX_FMT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// `YUYV`: 4:2:2, two pixels in four bytes.
    Yuyv,
    /// `NV12`: 4:2:0, a plane of luma, then one of chroma pairs.
    Nv12,
    /// `RGB3`: red, green, blue.
    Rgb24,
    /// `GREY`: luma of the full range alone.
    Grey,
    /// `MJPG`: one JPEG picture a frame.
    Mjpeg,
}

impl PixelFormat {
    /// All of them.
    pub const ALL: [PixelFormat; 5] = [
        PixelFormat::Yuyv,
        PixelFormat::Nv12,
        PixelFormat::Rgb24,
        PixelFormat::Grey,
        PixelFormat::Mjpeg,
    ];

    /// The four characters.
    pub fn fourcc(self) -> u32 {
        u32::from_le_bytes(match self {
            PixelFormat::Yuyv => *b"YUYV",
            PixelFormat::Nv12 => *b"NV12",
            PixelFormat::Rgb24 => *b"RGB3",
            PixelFormat::Grey => *b"GREY",
            PixelFormat::Mjpeg => *b"MJPG",
        })
    }

    /// The name in options: `yuyv`, `nv12`, `rgb24`, `grey`, `mjpeg`.
    pub fn name(self) -> &'static str {
        match self {
            PixelFormat::Yuyv => "yuyv",
            PixelFormat::Nv12 => "nv12",
            PixelFormat::Rgb24 => "rgb24",
            PixelFormat::Grey => "grey",
            PixelFormat::Mjpeg => "mjpeg",
        }
    }

    /// What `v4l2-ctl` shows (`v4l_fill_fmtdesc`).
    pub(crate) fn description(self) -> &'static str {
        match self {
            PixelFormat::Yuyv => "YUYV 4:2:2",
            PixelFormat::Nv12 => "Y/CbCr 4:2:0",
            PixelFormat::Rgb24 => "24-bit RGB 8-8-8",
            PixelFormat::Grey => "8-bit Greyscale",
            PixelFormat::Mjpeg => "Motion-JPEG",
        }
    }

    /// Whether a frame's length varies (`V4L2_FMT_FLAG_COMPRESSED`).
    pub fn is_compressed(self) -> bool {
        self == PixelFormat::Mjpeg
    }

    /// Bytes of a line of the first plane; 0 where there is no such thing.
    pub fn bytes_per_line(self, width: u32) -> u32 {
        match self {
            PixelFormat::Yuyv => width * 2,
            PixelFormat::Nv12 | PixelFormat::Grey => width,
            PixelFormat::Rgb24 => width * 3,
            PixelFormat::Mjpeg => 0,
        }
    }

    /// Bytes that a frame needs at most.
    pub fn size_image(self, size: Size) -> u32 {
        let pixels = size.width * size.height;
        match self {
            PixelFormat::Yuyv => pixels * 2,
            PixelFormat::Nv12 => pixels * 3 / 2,
            PixelFormat::Rgb24 => pixels * 3,
            PixelFormat::Grey => pixels,
            // Noise is what compresses worst.
            PixelFormat::Mjpeg => pixels * 2 + 65536,
        }
    }
}

/// Width and height of a frame in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pixels of a line: even.
    pub width: u32,
    /// Lines: even.
    pub height: u32,
}

impl Size {
    /// A size.
    pub const fn new(width: u32, height: u32) -> Size {
        Size { width, height }
    }

    fn distance(self, other: Size) -> u32 {
        self.width.abs_diff(other.width) + self.height.abs_diff(other.height)
    }
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// How pixels lie.
    pub pixels: PixelFormat,
    /// How many there are.
    pub size: Size,
}

impl Format {
    /// Bytes that a frame needs at most.
    pub fn size_image(self) -> u32 {
        self.pixels.size_image(self.size)
    }

    /// As `VIDIOC_G_FMT` says it.
    pub(crate) fn pix(self) -> PixFormat {
        const COLORSPACE_SRGB: u32 = 8;
        const ENCODING_601: u32 = 1;
        const FULL_RANGE: u32 = 1;
        const LIMITED_RANGE: u32 = 2;
        const TRANSFER_SRGB: u32 = 2;
        const PRIVATE_MAGIC: u32 = 0xfeed_cafe;
        let limited = matches!(self.pixels, PixelFormat::Yuyv | PixelFormat::Nv12);
        PixFormat {
            width: self.size.width,
            height: self.size.height,
            pixel_format: self.pixels.fourcc(),
            field: uapi::FIELD_NONE,
            bytes_per_line: self.pixels.bytes_per_line(self.size.width),
            size_image: self.size_image(),
            colorspace: COLORSPACE_SRGB,
            private: PRIVATE_MAGIC,
            flags: 0,
            ycbcr_encoding: ENCODING_601,
            quantization: if limited { LIMITED_RANGE } else { FULL_RANGE },
            transfer_function: TRANSFER_SRGB,
        }
    }
}

/// What a camera offers: every format in every size at every interval.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Pixel formats, the one to start with first.
    pub pixels: Vec<PixelFormat>,
    /// Frame sizes.
    pub sizes: Vec<Size>,
    /// Frames a second.
    pub rates: Vec<u32>,
    /// The size to start with; one of `sizes`.
    pub size: Size,
    /// The rate to start with; one of `rates`.
    pub rate: u32,
}

impl Offer {
    /// What the camera does when nobody has asked for anything.
    pub(crate) fn first(&self) -> Format {
        Format { pixels: self.pixels[0], size: self.size }
    }

    pub(crate) fn pixels(&self, fourcc: u32) -> Option<PixelFormat> {
        self.pixels.iter().copied().find(|pixels| pixels.fourcc() == fourcc)
    }

    /// The nearest format to what is asked (`VIDIOC_TRY_FMT`).
    pub(crate) fn nearest(&self, asked: &PixFormat) -> Format {
        let pixels = self.pixels(asked.pixel_format).unwrap_or(self.pixels[0]);
        let wanted = Size::new(asked.width.min(1 << 16), asked.height.min(1 << 16));
        let nearest = self.sizes.iter().copied().min_by_key(|size| size.distance(wanted));
        Format { pixels, size: nearest.unwrap_or(self.size) }
    }

    /// Bytes that the largest frame needs.
    pub(crate) fn largest(&self) -> usize {
        let formats = self.pixels.iter().flat_map(|p| self.sizes.iter().map(|s| p.size_image(*s)));
        formats.max().unwrap_or(0) as usize
    }

    /// The nearest rate to an interval of `numerator / denominator` seconds; the first
    /// one where that is no interval.
    pub(crate) fn nearest_rate(&self, numerator: u32, denominator: u32) -> u32 {
        if numerator == 0 || denominator == 0 {
            return self.rate;
        }
        let wanted = f64::from(numerator) / f64::from(denominator);
        let distance = |rate: &u32| (1.0 / f64::from(*rate) - wanted).abs();
        let nearest = self.rates.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.unwrap_or(self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_becomes_what_there_is() {
        let offer = Offer {
            pixels: vec![PixelFormat::Yuyv, PixelFormat::Grey],
            sizes: vec![Size::new(160, 120), Size::new(640, 480)],
            rates: vec![5, 15, 30],
            size: Size::new(640, 480),
            rate: 30,
        };
        let mut asked = offer.first().pix();
        (asked.width, asked.height, asked.pixel_format) = (200, 100, 0);
        let got = Format { pixels: PixelFormat::Yuyv, size: Size::new(160, 120) };
        assert_eq!(offer.nearest(&asked), got);
        (asked.width, asked.height) = (u32::MAX, u32::MAX);
        assert_eq!(offer.nearest(&asked).size, Size::new(640, 480));
        assert_eq!(offer.nearest_rate(1, 14), 15);
        assert_eq!(offer.nearest_rate(1, 1000), 30);
        assert_eq!(offer.nearest_rate(1000, 1), 5);
        assert_eq!(offer.nearest_rate(0, 0), 30);
    }
}
