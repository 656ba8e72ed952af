//! The controls of a webcam, with the kernel's numbers and names.

use super::{ControlKind, ControlSpec, Rule};

/// The first control of a class is its heading.
const fn class(id: u32, name: &'static str) -> ControlSpec {
    ControlSpec::new(id, name, ControlKind::Class, 0)
}

const fn integer(
    id: u32,
    name: &'static str,
    (minimum, maximum, step): (i32, i32, i32),
    default: i64,
) -> ControlSpec {
    ControlSpec::new(id, name, ControlKind::Integer(minimum, maximum, step), default)
}

const fn boolean(id: u32, name: &'static str, default: i64) -> ControlSpec {
    ControlSpec::new(id, name, ControlKind::Boolean, default)
}

/// `V4L2_CID_BRIGHTNESS`.
pub const BRIGHTNESS: u32 = 0x0098_0900;
/// `V4L2_CID_CONTRAST`.
pub const CONTRAST: u32 = 0x0098_0901;
/// `V4L2_CID_SATURATION`.
pub const SATURATION: u32 = 0x0098_0902;
/// `V4L2_CID_HUE`.
pub const HUE: u32 = 0x0098_0903;
/// `V4L2_CID_AUTO_WHITE_BALANCE`.
pub const AUTO_WHITE_BALANCE: u32 = 0x0098_090c;
/// `V4L2_CID_GAMMA`.
pub const GAMMA: u32 = 0x0098_0910;
/// `V4L2_CID_GAIN`.
pub const GAIN: u32 = 0x0098_0913;
/// `V4L2_CID_HFLIP`.
pub const HFLIP: u32 = 0x0098_0914;
/// `V4L2_CID_VFLIP`.
pub const VFLIP: u32 = 0x0098_0915;
/// `V4L2_CID_WHITE_BALANCE_TEMPERATURE`.
pub const TEMPERATURE: u32 = 0x0098_091a;
/// `V4L2_CID_SHARPNESS`.
pub(super) const SHARPNESS: u32 = 0x0098_091b;
/// A text below the number and the time of the frame; of this driver's own numbers.
pub const CAPTION: u32 = 0x0098_1900;
/// `V4L2_CID_EXPOSURE_AUTO`.
pub const EXPOSURE_AUTO: u32 = 0x009a_0901;
/// `V4L2_CID_EXPOSURE_ABSOLUTE`, in tenths of a millisecond.
pub const EXPOSURE: u32 = 0x009a_0902;
/// `V4L2_CID_PIXEL_RATE`, in pixels a second.
pub const PIXEL_RATE: u32 = 0x009f_0902;

/// `V4L2_EXPOSURE_MANUAL`.
pub(crate) const EXPOSURE_MANUAL: i32 = 1;
/// The exposure with which the picture is as it is.
pub(crate) const USUAL_EXPOSURE: i32 = 250;
/// Letters of a caption.
pub(crate) const CAPTION_LENGTH: usize = 18;

const FOCUS_AUTO: u32 = 0x009a_090c;

/// The controls of a webcam, in the order of their numbers, as it must be.
///
/// Brightness, contrast, saturation, hue, gamma, gain, white balance, exposure, the flips
/// and the caption change what is drawn.
pub const WEBCAM: &[ControlSpec] = &[
    class(0x0098_0001, "User Controls"),
    integer(BRIGHTNESS, "Brightness", (-128, 127, 1), 0),
    integer(CONTRAST, "Contrast", (0, 255, 1), 128),
    integer(SATURATION, "Saturation", (0, 255, 1), 128),
    integer(HUE, "Hue", (-180, 180, 1), 0),
    boolean(AUTO_WHITE_BALANCE, "White Balance, Automatic", 1),
    ControlSpec::new(0x0098_090d, "Do White Balance", ControlKind::Button, 0)
        .rule(Rule::InactiveWhile(AUTO_WHITE_BALANCE, 1)),
    integer(GAMMA, "Gamma", (72, 500, 1), 100),
    integer(GAIN, "Gain", (0, 100, 1), 0),
    boolean(HFLIP, "Horizontal Flip", 0),
    boolean(VFLIP, "Vertical Flip", 0),
    ControlSpec::new(
        0x0098_0918,
        "Power Line Frequency",
        ControlKind::Menu(&["Disabled", "50 Hz", "60 Hz", "Auto"]),
        1,
    ),
    integer(TEMPERATURE, "White Balance Temperature", (2800, 6500, 10), 4600)
        .rule(Rule::InactiveWhile(AUTO_WHITE_BALANCE, 1)),
    integer(SHARPNESS, "Sharpness", (0, 7, 1), 2),
    integer(0x0098_091c, "Backlight Compensation", (0, 2, 1), 1),
    ControlSpec::new(CAPTION, "Caption", ControlKind::Text(0, CAPTION_LENGTH as u32), 0),
    class(0x009a_0001, "Camera Controls"),
    ControlSpec::new(
        EXPOSURE_AUTO,
        "Auto Exposure",
        // As on most webcams: no automatic mode with a fixed iris or shutter alone.
        ControlKind::Menu(&["", "Manual Mode", "", "Aperture Priority Mode"]),
        3,
    ),
    integer(EXPOSURE, "Exposure Time, Absolute", (3, 2047, 1), USUAL_EXPOSURE as i64)
        .rule(Rule::InactiveWhile(EXPOSURE_AUTO, 3)),
    boolean(0x009a_0903, "Exposure, Dynamic Framerate", 0).rule(Rule::GrabbedWhileStreaming),
    integer(0x009a_0908, "Pan, Absolute", (-36000, 36000, 3600), 0),
    integer(0x009a_0909, "Tilt, Absolute", (-36000, 36000, 3600), 0),
    integer(0x009a_090a, "Focus, Absolute", (0, 250, 5), 0)
        .rule(Rule::InactiveWhile(FOCUS_AUTO, 1)),
    boolean(FOCUS_AUTO, "Focus, Automatic Continuous", 1),
    integer(0x009a_090d, "Zoom, Absolute", (100, 500, 1), 100),
    ControlSpec::new(
        0x009a_0913,
        "Auto Exposure, Bias",
        ControlKind::IntegerMenu(&[-2000, -1000, 0, 1000, 2000]),
        2,
    ),
    ControlSpec::new(0x009a_091b, "3A Lock", ControlKind::Bitmask(7), 0),
    class(0x009f_0001, "Image Processing Controls"),
    ControlSpec::new(PIXEL_RATE, "Pixel Rate", ControlKind::Integer64(1, 1 << 40, 1), 1)
        .rule(Rule::ReadOnly),
];
