//! The structures and numbers of `linux/videodev2.h` for 64-bit programs, as plain
//! bytes without padding, so that they are copied without `unsafe`.
//!
//! What does not live here: what they mean.

use std::time::Duration;

use devmap_driver::{Command, Direction};
use zerocopy::{FromBytes, Immutable, IntoBytes};

macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident $size:literal {
        $($(#[$note:meta])* $field:ident: $type:ty,)*
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
            #[repr(C)]
            pub(crate) struct $name { $($(#[$note])* pub(crate) $field: $type,)* }
            const _: () = assert!(size_of::<$name>() == $size);
        )*
    };
}

structures! {
    /// `struct v4l2_capability`.
    Capability 104 {
        driver: [u8; 16],
        card: [u8; 32],
        bus_info: [u8; 32],
        version: u32,
        capabilities: u32,
        device_caps: u32,
        reserved: [u32; 3],
    }
    /// `struct v4l2_fmtdesc`.
    FmtDesc 64 {
        index: u32,
        kind: u32,
        flags: u32,
        description: [u8; 32],
        pixel_format: u32,
        mbus_code: u32,
        reserved: [u32; 3],
    }
    /// `struct v4l2_pix_format`.
    PixFormat 48 {
        width: u32,
        height: u32,
        pixel_format: u32,
        field: u32,
        bytes_per_line: u32,
        size_image: u32,
        colorspace: u32,
        private: u32,
        flags: u32,
        ycbcr_encoding: u32,
        quantization: u32,
        transfer_function: u32,
    }
    /// `struct v4l2_format`, as of a capture stream.
    Format 208 {
        kind: u32,
        pad: u32,
        pix: PixFormat,
        rest: [u8; 152],
    }
    /// `struct v4l2_frmsizeenum`.
    FrameSizes 44 {
        index: u32,
        pixel_format: u32,
        kind: u32,
        width: u32,
        height: u32,
        rest: [u32; 4],
        reserved: [u32; 2],
    }
    /// `struct v4l2_fract`.
    Fraction 8 {
        numerator: u32,
        denominator: u32,
    }
    /// `struct v4l2_frmivalenum`.
    FrameIntervals 52 {
        index: u32,
        pixel_format: u32,
        width: u32,
        height: u32,
        kind: u32,
        discrete: Fraction,
        rest: [u32; 4],
        reserved: [u32; 2],
    }
    /// `struct v4l2_streamparm`, as of a capture stream.
    StreamParm 204 {
        kind: u32,
        capability: u32,
        capture_mode: u32,
        time_per_frame: Fraction,
        extended_mode: u32,
        read_buffers: u32,
        reserved: [u32; 4],
        rest: [u8; 160],
    }
    /// `struct v4l2_input`.
    Input 80 {
        index: u32,
        name: [u8; 32],
        kind: u32,
        audio_set: u32,
        tuner: u32,
        standard: u64,
        status: u32,
        capabilities: u32,
        reserved: [u32; 3],
        pad: u32,
    }
    /// `struct v4l2_requestbuffers`.
    RequestBuffers 20 {
        count: u32,
        kind: u32,
        memory: u32,
        capabilities: u32,
        flags: u8,
        reserved: [u8; 3],
    }
    /// `struct v4l2_create_buffers`.
    CreateBuffers 256 {
        index: u32,
        count: u32,
        memory: u32,
        pad: u32,
        format: Format,
        capabilities: u32,
        flags: u32,
        reserved: [u32; 6],
    }
    /// `struct timeval`.
    Time 16 {
        seconds: i64,
        microseconds: i64,
    }
    /// `struct v4l2_buffer`.
    Buffer 88 {
        index: u32,
        kind: u32,
        bytes_used: u32,
        flags: u32,
        field: u32,
        pad: u32,
        timestamp: Time,
        timecode: [u32; 4],
        sequence: u32,
        memory: u32,
        /// The union `m`: the offset to map, or the user's pointer.
        m: u64,
        length: u32,
        reserved2: u32,
        request_fd: u32,
        pad2: u32,
    }
    /// `struct v4l2_queryctrl`.
    QueryCtrl 68 {
        id: u32,
        kind: u32,
        name: [u8; 32],
        minimum: i32,
        maximum: i32,
        step: i32,
        default: i32,
        flags: u32,
        reserved: [u32; 2],
    }
    /// `struct v4l2_query_ext_ctrl`.
    QueryExtCtrl 232 {
        id: u32,
        kind: u32,
        name: [u8; 32],
        minimum: i64,
        maximum: i64,
        step: u64,
        default: i64,
        flags: u32,
        elem_size: u32,
        elems: u32,
        dimensions: u32,
        dims: [u32; 4],
        reserved: [u32; 32],
    }
    /// `struct v4l2_control`.
    Control 8 {
        id: u32,
        value: i32,
    }
    /// `struct v4l2_ext_controls`.
    ExtControls 32 {
        which: u32,
        count: u32,
        error_idx: u32,
        request_fd: i32,
        reserved: u32,
        pad: u32,
        controls: u64,
    }
    /// `struct v4l2_ext_control`, which is packed.
    ExtControl 20 {
        id: u32,
        size: u32,
        reserved: u32,
        value: i32,
        /// The upper half of `value64`.
        upper: i32,
    }
    /// `struct v4l2_querymenu`, which is packed.
    QueryMenu 44 {
        id: u32,
        index: u32,
        name: [u8; 32],
        reserved: u32,
    }
    /// `struct v4l2_event_subscription`.
    EventSubscription 32 {
        kind: u32,
        id: u32,
        flags: u32,
        reserved: [u32; 5],
    }
    /// `struct v4l2_event_ctrl`, with the rest of the union of `v4l2_event`.
    EventCtrl 64 {
        changes: u32,
        kind: u32,
        value: i64,
        flags: u32,
        minimum: i32,
        maximum: i32,
        step: i32,
        default: i32,
        pad: u32,
        rest: [u8; 24],
    }
    /// `struct v4l2_event`.
    Event 136 {
        kind: u32,
        pad: u32,
        ctrl: EventCtrl,
        pending: u32,
        sequence: u32,
        timestamp: Time,
        id: u32,
        reserved: [u32; 8],
        pad2: u32,
    }
    /// `struct v4l2_rect`.
    Rect 16 {
        left: i32,
        top: i32,
        width: u32,
        height: u32,
    }
    /// `struct v4l2_selection`.
    Selection 64 {
        kind: u32,
        target: u32,
        flags: u32,
        rect: Rect,
        reserved: [u32; 9],
    }
    /// `struct v4l2_cropcap`.
    CropCap 44 {
        kind: u32,
        bounds: Rect,
        default: Rect,
        pixel_aspect: Fraction,
    }
    /// `struct v4l2_crop`.
    Crop 20 {
        kind: u32,
        rect: Rect,
    }
    /// `struct v4l2_edid`.
    Edid 40 {
        pad: u32,
        start_block: u32,
        blocks: u32,
        reserved: [u32; 5],
        edid: u64,
    }
    /// A plain 32-bit argument.
    Word 4 {
        value: u32,
    }
}

const fn read<T>(number: u8) -> Command {
    Command::new(Direction::Read, b'V', number, size_of::<T>())
}

const fn write<T>(number: u8) -> Command {
    Command::new(Direction::Write, b'V', number, size_of::<T>())
}

const fn both<T>(number: u8) -> Command {
    Command::new(Direction::ReadWrite, b'V', number, size_of::<T>())
}

pub(crate) const QUERYCAP: Command = read::<Capability>(0);
pub(crate) const ENUM_FMT: Command = both::<FmtDesc>(2);
pub(crate) const G_FMT: Command = both::<Format>(4);
pub(crate) const S_FMT: Command = both::<Format>(5);
pub(crate) const REQBUFS: Command = both::<RequestBuffers>(8);
pub(crate) const QUERYBUF: Command = both::<Buffer>(9);
pub(crate) const QBUF: Command = both::<Buffer>(15);
pub(crate) const DQBUF: Command = both::<Buffer>(17);
pub(crate) const STREAMON: Command = write::<Word>(18);
pub(crate) const STREAMOFF: Command = write::<Word>(19);
pub(crate) const G_PARM: Command = both::<StreamParm>(21);
pub(crate) const S_PARM: Command = both::<StreamParm>(22);
pub(crate) const ENUMINPUT: Command = both::<Input>(26);
pub(crate) const G_CTRL: Command = both::<Control>(27);
pub(crate) const S_CTRL: Command = both::<Control>(28);
pub(crate) const G_EDID: Command = both::<Edid>(40);
pub(crate) const S_EDID: Command = both::<Edid>(41);
pub(crate) const QUERYCTRL: Command = both::<QueryCtrl>(36);
pub(crate) const QUERYMENU: Command = both::<QueryMenu>(37);
pub(crate) const G_INPUT: Command = read::<Word>(38);
pub(crate) const S_INPUT: Command = both::<Word>(39);
pub(crate) const CROPCAP: Command = both::<CropCap>(58);
pub(crate) const G_CROP: Command = both::<Crop>(59);
pub(crate) const TRY_FMT: Command = both::<Format>(64);
pub(crate) const G_PRIORITY: Command = read::<Word>(67);
pub(crate) const S_PRIORITY: Command = write::<Word>(68);
pub(crate) const LOG_STATUS: Command = Command::new(Direction::None, b'V', 70, 0);
pub(crate) const G_EXT_CTRLS: Command = both::<ExtControls>(71);
pub(crate) const S_EXT_CTRLS: Command = both::<ExtControls>(72);
pub(crate) const TRY_EXT_CTRLS: Command = both::<ExtControls>(73);
pub(crate) const ENUM_FRAMESIZES: Command = both::<FrameSizes>(74);
pub(crate) const ENUM_FRAMEINTERVALS: Command = both::<FrameIntervals>(75);
pub(crate) const DQEVENT: Command = read::<Event>(89);
pub(crate) const SUBSCRIBE_EVENT: Command = write::<EventSubscription>(90);
pub(crate) const UNSUBSCRIBE_EVENT: Command = write::<EventSubscription>(91);
pub(crate) const CREATE_BUFS: Command = both::<CreateBuffers>(92);
pub(crate) const PREPARE_BUF: Command = both::<Buffer>(93);
pub(crate) const G_SELECTION: Command = both::<Selection>(94);
pub(crate) const QUERY_EXT_CTRL: Command = both::<QueryExtCtrl>(103);

/// `V4L2_BUF_TYPE_VIDEO_CAPTURE`.
pub(crate) const VIDEO_CAPTURE: u32 = 1;
/// `V4L2_FIELD_NONE`.
pub(crate) const FIELD_NONE: u32 = 1;

/// `V4L2_CAP_*`.
pub(crate) mod cap {
    pub(crate) const VIDEO_CAPTURE: u32 = 0x1;
    pub(crate) const EXT_PIX_FORMAT: u32 = 0x0020_0000;
    pub(crate) const READWRITE: u32 = 0x0100_0000;
    pub(crate) const STREAMING: u32 = 0x0400_0000;
    pub(crate) const DEVICE_CAPS: u32 = 0x8000_0000;
    /// `V4L2_CAP_TIMEPERFRAME`, of `v4l2_captureparm`.
    pub(crate) const TIME_PER_FRAME: u32 = 0x1000;
    /// `V4L2_BUF_CAP_SUPPORTS_*`, of `v4l2_requestbuffers`.
    ///
    /// Mapped buffers, user pointers, and buffers that outlive their queue while mapped.
    pub(crate) const BUFFERS: u32 = 1 | 2 | 16;
}

/// `V4L2_MEMORY_*`.
pub(crate) mod memory {
    pub(crate) const MMAP: u32 = 1;
    pub(crate) const USERPTR: u32 = 2;
}

/// `V4L2_BUF_FLAG_*`.
pub(crate) mod buf_flag {
    pub(crate) const MAPPED: u32 = 0x1;
    pub(crate) const QUEUED: u32 = 0x2;
    pub(crate) const DONE: u32 = 0x4;
    pub(crate) const ERROR: u32 = 0x40;
    pub(crate) const PREPARED: u32 = 0x400;
    pub(crate) const TIMESTAMP_MONOTONIC: u32 = 0x2000;
}

/// `V4L2_CTRL_FLAG_*` and what else belongs to controls.
pub(crate) mod ctrl {
    pub(crate) const GRABBED: u32 = 0x2;
    pub(crate) const READ_ONLY: u32 = 0x4;
    pub(crate) const UPDATE: u32 = 0x8;
    pub(crate) const INACTIVE: u32 = 0x10;
    pub(crate) const SLIDER: u32 = 0x20;
    pub(crate) const WRITE_ONLY: u32 = 0x40;
    pub(crate) const HAS_PAYLOAD: u32 = 0x100;
    pub(crate) const EXECUTE_ON_WRITE: u32 = 0x200;
    /// `V4L2_CTRL_ID_MASK`: which bits are a control's number.
    pub(crate) const ID_MASK: u32 = 0x0fff_ffff;
    pub(crate) const NEXT_CTRL: u32 = 0x8000_0000;
    pub(crate) const NEXT_COMPOUND: u32 = 0x4000_0000;
    /// `V4L2_CTRL_WHICH_DEF_VAL`.
    pub(crate) const WHICH_DEFAULT: u32 = 0x0f00_0000;
    /// `V4L2_CTRL_WHICH_REQUEST_VAL`.
    pub(crate) const WHICH_REQUEST: u32 = 0x0f01_0000;
    /// `V4L2_CTRL_MAX_DIMS` and the like bound `count`: more than this is `EINVAL`.
    pub(crate) const MAX_COUNT: u32 = 1024;
}

/// `V4L2_EVENT_*`.
pub(crate) mod event {
    pub(crate) const ALL: u32 = 0;
    pub(crate) const CTRL: u32 = 3;
    pub(crate) const SUB_SEND_INITIAL: u32 = 1;
    pub(crate) const SUB_ALLOW_FEEDBACK: u32 = 2;
    pub(crate) const CHANGE_VALUE: u32 = 1;
    pub(crate) const CHANGE_FLAGS: u32 = 2;
}

/// A name in a field of `N` bytes, zero-terminated; what does not fit is cut.
pub(crate) fn text<const N: usize>(from: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let len = from.len().min(N - 1);
    bytes[..len].copy_from_slice(&from.as_bytes()[..len]);
    bytes
}

impl Time {
    /// `CLOCK_MONOTONIC` now.
    pub(crate) fn now() -> Time {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Time { seconds: now.tv_sec, microseconds: now.tv_nsec / 1000 }
    }

    /// So much later, in whole microseconds.
    pub(crate) fn after(self, later: Duration) -> Time {
        let microseconds = self.microseconds + i64::from(later.subsec_micros());
        Time {
            seconds: self.seconds + later.as_secs().cast_signed() + microseconds / 1_000_000,
            microseconds: microseconds % 1_000_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_match_the_header() {
        assert_eq!(QUERYCAP.0, 0x8068_5600);
        assert_eq!(ENUM_FMT.0, 0xc040_5602);
        assert_eq!(S_FMT.0, 0xc0d0_5605);
        assert_eq!(REQBUFS.0, 0xc014_5608);
        assert_eq!(DQBUF.0, 0xc058_5611);
        assert_eq!(DQEVENT.0, 0x8088_5659);
        assert_eq!(PREPARE_BUF.0, 0xc058_565d);
    }
}
