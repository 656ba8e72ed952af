//! The ioctls of a capture device, in the order of checks of `v4l2-ioctl.c`: is the
//! camera there, is there such a call, who has priority, and then the call itself.
//!
//! What does not live here: controls and events (`ioctl_controls`).

use std::sync::Arc;

use devmap_driver::{Command, Direction, Errno, Ioctl, Lock, Platform};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::{
    capture::{Shared, State},
    format::Size,
    ioctl_controls as controls,
    queue::{self, Buffers, Handing},
    uapi::{
        self, Buffer, Capability, CreateBuffers, Crop, CropCap, Edid, FmtDesc, Format, Fraction,
        FrameIntervals, FrameSizes, Input, PixFormat, Rect, RequestBuffers, Selection, StreamParm,
        VIDEO_CAPTURE, Word, buf_flag, cap, memory,
    },
};

/// One call of one open file.
pub(crate) struct Context<'a, P: Platform> {
    pub(crate) shared: &'a Arc<Shared<P>>,
    pub(crate) file: u64,
    pub(crate) call: &'a Ioctl<'a>,
}

/// The argument of a call.
pub(crate) fn fetch<T: FromBytes + IntoBytes>(call: &Ioctl<'_>) -> Result<T, Errno> {
    let mut argument = T::new_zeroed();
    call.user()?.copy_in(argument.as_mut_bytes())?;
    Ok(argument)
}

/// Answers a call with what stands at its argument afterwards.
pub(crate) fn store<T: IntoBytes + Immutable>(call: &Ioctl<'_>, answer: &T) -> Result<u32, Errno> {
    call.user()?.copy_out(answer.as_bytes())?;
    Ok(0)
}

/// Calls that a file of a higher priority forbids (`INFO_FL_PRIO`).
const BY_PRIORITY: [Command; 10] = [
    uapi::S_FMT,
    uapi::REQBUFS,
    uapi::CREATE_BUFS,
    uapi::STREAMON,
    uapi::STREAMOFF,
    uapi::S_PARM,
    uapi::S_CTRL,
    uapi::S_INPUT,
    uapi::S_PRIORITY,
    uapi::S_EXT_CTRLS,
];

/// Serves a call.
pub(crate) fn serve<P: Platform>(
    shared: &Arc<Shared<P>>,
    file: u64,
    call: &Ioctl<'_>,
) -> Result<u32, Errno> {
    let context = Context { shared, file, call };
    shared.state.with(|state| {
        if state.is_gone() {
            return Err(Errno::ENODEV);
        }
        state.calls += 1;
        if shared.about.trouble.eio == Some(state.calls) {
            return Err(Errno::EIO);
        }
        let highest = state.files.iter().map(|file| file.priority).max();
        let own = state.file(file).map(|file| file.priority);
        if BY_PRIORITY.contains(&call.command()) && own < highest {
            return Err(Errno::EBUSY);
        }
        Ok(())
    })?;
    match call.command() {
        uapi::QUERYCAP => context.query_capability(),
        uapi::ENUM_FMT => context.enum_formats(),
        uapi::G_FMT => context.get_format(),
        uapi::TRY_FMT => context.try_format(),
        uapi::S_FMT => context.set_format(),
        uapi::ENUM_FRAMESIZES => context.enum_sizes(),
        uapi::ENUM_FRAMEINTERVALS => context.enum_intervals(),
        uapi::G_PARM => context.get_parameters(),
        uapi::S_PARM => context.set_parameters(),
        uapi::ENUMINPUT => context.enum_inputs(),
        uapi::G_INPUT => store(call, &Word { value: 0 }),
        uapi::S_INPUT => match fetch::<Word>(call)?.value {
            0 => Ok(0),
            _ => Err(Errno::EINVAL),
        },
        uapi::G_SELECTION => context.get_selection(),
        uapi::CROPCAP => context.crop_capability(),
        uapi::G_CROP => context.get_crop(),
        uapi::G_PRIORITY => context.get_priority(),
        uapi::S_PRIORITY => context.set_priority(),
        uapi::LOG_STATUS => context.log_status(),
        uapi::REQBUFS => context.request_buffers(),
        uapi::CREATE_BUFS => context.create_buffers(),
        uapi::QUERYBUF => context.query_buffer(),
        uapi::PREPARE_BUF => context.prepare_buffer(),
        uapi::QBUF => context.queue_buffer(),
        uapi::DQBUF => context.dequeue_buffer(),
        uapi::STREAMON => context.stream_on(),
        uapi::STREAMOFF => context.stream_off(),
        uapi::QUERYCTRL => controls::query(&context),
        uapi::QUERY_EXT_CTRL => controls::query_ext(&context),
        uapi::QUERYMENU => controls::query_menu(&context),
        uapi::G_CTRL => controls::get(&context),
        uapi::S_CTRL => controls::set(&context),
        uapi::G_EXT_CTRLS => controls::get_ext(&context),
        uapi::TRY_EXT_CTRLS => controls::try_or_set_ext(&context, controls::Write::Try),
        uapi::S_EXT_CTRLS => controls::try_or_set_ext(&context, controls::Write::Set),
        uapi::SUBSCRIBE_EVENT => controls::subscribe(&context),
        uapi::UNSUBSCRIBE_EVENT => controls::unsubscribe(&context),
        uapi::DQEVENT => controls::take_event(&context),
        uapi::G_EDID | uapi::S_EDID => {
            // The kernel looks at the length before it knows that nobody serves it.
            let too_long = fetch::<Edid>(call)?.blocks > 256;
            Err(if too_long { Errno::EINVAL } else { Errno::ENOTTY })
        }
        unknown => {
            // The kernel copies the argument in before it looks for the call
            // (`video_usercopy`): EFAULT.
            if matches!(unknown.direction(), Direction::Write | Direction::ReadWrite) {
                call.user()?.copy_in(&mut vec![0; unknown.size()])?;
            }
            Err(Errno::ENOTTY)
        }
    }
}

/// `LINUX_VERSION_CODE` of a kernel's release, such as `6.18.44-generic`.
fn version_code(release: &str) -> u32 {
    let numbers = release.split('.').map(|part| {
        let end = part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
        // Longer ones do not fit.
        part[..end].parse().unwrap_or(0).min(255_u32)
    });
    numbers.chain([0; 3]).take(3).fold(0, |code, number| code << 8 | number)
}

/// Refuses a type of buffer or stream that is not video capture (`check_fmt`).
fn check_kind(kind: u32) -> Result<(), Errno> {
    if kind == VIDEO_CAPTURE { Ok(()) } else { Err(Errno::EINVAL) }
}

/// As [`check_kind`], for the calls about cropping, to which the types of one plane and
/// of several are one.
fn check_crop_kind(kind: u32) -> Result<(), Errno> {
    const VIDEO_CAPTURE_MPLANE: u32 = 9;
    if kind == VIDEO_CAPTURE_MPLANE { Ok(()) } else { check_kind(kind) }
}

impl<P: Platform> Context<'_, P> {
    pub(crate) fn state<R>(&self, f: impl FnOnce(&mut State<P>) -> R) -> R {
        self.shared.state.with(f)
    }

    /// As [`Context::state`], for what may fail.
    pub(crate) fn try_state<R>(
        &self,
        f: impl FnOnce(&mut State<P>) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        self.state(f)
    }

    fn query_capability(&self) -> Result<u32, Errno> {
        let about = &self.shared.about;
        let device_caps =
            cap::VIDEO_CAPTURE | cap::EXT_PIX_FORMAT | cap::READWRITE | cap::STREAMING;
        store(
            self.call,
            &Capability {
                driver: uapi::text("devmap"),
                card: uapi::text(&about.card),
                bus_info: uapi::text(&about.bus_info),
                // As of all drivers of the kernel's.
                version: version_code(&rustix::system::uname().release().to_string_lossy()),
                capabilities: device_caps | cap::DEVICE_CAPS,
                device_caps,
                reserved: [0; 3],
            },
        )
    }

    fn enum_formats(&self) -> Result<u32, Errno> {
        const COMPRESSED: u32 = 1;
        let asked: FmtDesc = fetch(self.call)?;
        check_kind(asked.kind)?;
        let offered = &self.shared.about.offer.pixels;
        let pixels = *offered.get(asked.index as usize).ok_or(Errno::EINVAL)?;
        store(
            self.call,
            &FmtDesc {
                flags: if pixels.is_compressed() { COMPRESSED } else { 0 },
                description: uapi::text(pixels.description()),
                pixel_format: pixels.fourcc(),
                mbus_code: 0,
                reserved: [0; 3],
                ..asked
            },
        )
    }

    fn store_format(&self, pix: PixFormat) -> Result<u32, Errno> {
        store(self.call, &Format { kind: VIDEO_CAPTURE, pad: 0, pix, rest: [0; 152] })
    }

    fn get_format(&self) -> Result<u32, Errno> {
        check_kind(fetch::<Format>(self.call)?.kind)?;
        self.store_format(self.state(|state| state.format).pix())
    }

    fn try_format(&self) -> Result<u32, Errno> {
        let asked: Format = fetch(self.call)?;
        check_kind(asked.kind)?;
        self.store_format(self.shared.about.offer.nearest(&asked.pix).pix())
    }

    fn set_format(&self) -> Result<u32, Errno> {
        let asked: Format = fetch(self.call)?;
        check_kind(asked.kind)?;
        let format = self.shared.about.offer.nearest(&asked.pix);
        self.state(|state| {
            if state.buffers.is_some() {
                return Err(Errno::EBUSY);
            }
            state.format = format;
            state.tell_pixel_rate();
            Ok(())
        })?;
        self.store_format(format.pix())
    }

    fn enum_sizes(&self) -> Result<u32, Errno> {
        const DISCRETE: u32 = 1;
        let asked: FrameSizes = fetch(self.call)?;
        let offer = &self.shared.about.offer;
        offer.pixels(asked.pixel_format).ok_or(Errno::EINVAL)?;
        let size = *offer.sizes.get(asked.index as usize).ok_or(Errno::EINVAL)?;
        store(
            self.call,
            &FrameSizes {
                kind: DISCRETE,
                width: size.width,
                height: size.height,
                rest: [0; 4],
                reserved: [0; 2],
                ..asked
            },
        )
    }

    fn enum_intervals(&self) -> Result<u32, Errno> {
        const DISCRETE: u32 = 1;
        let asked: FrameIntervals = fetch(self.call)?;
        let offer = &self.shared.about.offer;
        offer.pixels(asked.pixel_format).ok_or(Errno::EINVAL)?;
        if !offer.sizes.contains(&Size::new(asked.width, asked.height)) {
            return Err(Errno::EINVAL);
        }
        let rate = *offer.rates.get(asked.index as usize).ok_or(Errno::EINVAL)?;
        store(
            self.call,
            &FrameIntervals {
                kind: DISCRETE,
                discrete: Fraction { numerator: 1, denominator: rate },
                rest: [0; 4],
                reserved: [0; 2],
                ..asked
            },
        )
    }

    fn store_parameters(&self, rate: u32) -> Result<u32, Errno> {
        store(
            self.call,
            &StreamParm {
                kind: VIDEO_CAPTURE,
                capability: cap::TIME_PER_FRAME,
                capture_mode: 0,
                time_per_frame: Fraction { numerator: 1, denominator: rate },
                extended_mode: 0,
                read_buffers: queue::MIN_BUFFERS,
                reserved: [0; 4],
                rest: [0; 160],
            },
        )
    }

    fn get_parameters(&self) -> Result<u32, Errno> {
        check_kind(fetch::<StreamParm>(self.call)?.kind)?;
        self.store_parameters(self.state(|state| state.rate))
    }

    fn set_parameters(&self) -> Result<u32, Errno> {
        let asked: StreamParm = fetch(self.call)?;
        check_kind(asked.kind)?;
        let interval = asked.time_per_frame;
        let rate = self.shared.about.offer.nearest_rate(interval.numerator, interval.denominator);
        self.state(|state| {
            if state.stream.is_some() {
                return Err(Errno::EBUSY);
            }
            state.rate = rate;
            state.tell_pixel_rate();
            Ok(())
        })?;
        self.store_parameters(rate)
    }

    fn enum_inputs(&self) -> Result<u32, Errno> {
        const CAMERA: u32 = 2;
        let asked: Input = fetch(self.call)?;
        if asked.index != 0 {
            return Err(Errno::EINVAL);
        }
        let mut input = Input::new_zeroed();
        (input.name, input.kind) = (uapi::text("Camera 1"), CAMERA);
        store(self.call, &input)
    }

    /// The whole picture.
    fn bounds(&self) -> Rect {
        let size = self.state(|state| state.format.size);
        Rect { left: 0, top: 0, width: size.width, height: size.height }
    }

    /// A camera that cannot crop says so by bounds that are the picture.
    fn get_selection(&self) -> Result<u32, Errno> {
        const CROP: u32 = 0;
        const CROP_DEFAULT: u32 = 1;
        const CROP_BOUNDS: u32 = 2;
        let asked: Selection = fetch(self.call)?;
        check_crop_kind(asked.kind)?;
        match asked.target {
            CROP | CROP_DEFAULT | CROP_BOUNDS => {
                let rect = self.bounds();
                store(self.call, &Selection { flags: 0, rect, reserved: [0; 9], ..asked })
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn crop_capability(&self) -> Result<u32, Errno> {
        let asked: CropCap = fetch(self.call)?;
        check_crop_kind(asked.kind)?;
        let bounds = self.bounds();
        let pixel_aspect = Fraction { numerator: 1, denominator: 1 };
        store(self.call, &CropCap { bounds, default: bounds, pixel_aspect, ..asked })
    }

    fn get_crop(&self) -> Result<u32, Errno> {
        let asked: Crop = fetch(self.call)?;
        check_crop_kind(asked.kind)?;
        store(self.call, &Crop { rect: self.bounds(), ..asked })
    }

    fn get_priority(&self) -> Result<u32, Errno> {
        let highest = self.state(|state| state.files.iter().map(|file| file.priority).max());
        store(self.call, &Word { value: highest.unwrap_or(0) })
    }

    fn set_priority(&self) -> Result<u32, Errno> {
        let priority = fetch::<Word>(self.call)?.value;
        // V4L2_PRIORITY_BACKGROUND to V4L2_PRIORITY_RECORD.
        if !(1..=3).contains(&priority) {
            return Err(Errno::EINVAL);
        }
        self.state(|state| {
            if let Some(file) = state.file(self.file) {
                file.priority = priority;
            }
        });
        Ok(0)
    }

    /// What the kernel's log would hold goes where devmap's own messages go.
    fn log_status(&self) -> Result<u32, Errno> {
        let status = self.state(|state| {
            let size = state.format.size;
            let streaming = if state.stream.is_some() { "streaming" } else { "not streaming" };
            format!(
                "{}x{} {} at {} frames a second, {streaming}; {} frames, {} dropped",
                size.width,
                size.height,
                state.format.pixels.name(),
                state.rate,
                state.frames,
                state.dropped
            )
        });
        eprintln!("devmap: {}: {status}", self.shared.about.card);
        Ok(0)
    }

    /// `vb2_ioctl_reqbufs`.
    fn request_buffers(&self) -> Result<u32, Errno> {
        let asked: RequestBuffers = fetch(self.call)?;
        check_kind(asked.kind)?;
        if !matches!(asked.memory, memory::MMAP | memory::USERPTR) {
            return Err(Errno::EINVAL);
        }
        let count = self.state(|state| {
            state.check_owner(self.file)?;
            if state.stream.is_some() || state.waiting_in_dqbuf && asked.count > 0 {
                return Err(Errno::EBUSY);
            }
            state.buffers = None;
            if asked.count == 0 {
                return Ok(0);
            }
            let count = asked.count.clamp(queue::MIN_BUFFERS, queue::MAX_BUFFERS);
            let mut buffers = Buffers::new(self.file, asked.memory);
            self.shared.add_buffers(&mut buffers, state.format.size_image(), count)?;
            state.buffers = Some(buffers);
            Ok(count)
        })?;
        store(
            self.call,
            &RequestBuffers {
                count,
                capabilities: cap::BUFFERS,
                flags: 0,
                reserved: [0; 3],
                ..asked
            },
        )
    }

    /// `vb2_create_bufs`: more buffers, also while streaming, for a frame of the size that
    /// the format says.
    fn create_buffers(&self) -> Result<u32, Errno> {
        const ENOBUFS: i32 = 105;
        let asked: CreateBuffers = fetch(self.call)?;
        check_kind(asked.format.kind)?;
        if !matches!(asked.memory, memory::MMAP | memory::USERPTR) {
            return Err(Errno::EINVAL);
        }
        let length = asked.format.pix.size_image;
        let (index, count) = self.try_state(|state| {
            let index = state.buffers.as_ref().map_or(0, Buffers::count);
            // Only a question, which all may ask.
            if asked.count == 0 {
                return Ok((index, 0));
            }
            state.check_owner(self.file)?;
            if state.buffers.is_none() && state.waiting_in_dqbuf {
                return Err(Errno::EBUSY);
            }
            if state.buffers.as_ref().is_some_and(|buffers| buffers.kind() != asked.memory) {
                return Err(Errno::EINVAL);
            }
            // Room for a frame, and not for many.
            let needed = state.format.size_image();
            let largest = self.shared.about.offer.largest() as u32;
            if length < needed || length > largest.saturating_mul(2) {
                return Err(Errno::EINVAL);
            }
            let count = asked.count.min(queue::MAX_BUFFERS - index);
            if count == 0 {
                return Err(Errno::from_raw(ENOBUFS).unwrap_or(Errno::ENOMEM));
            }
            let mut buffers =
                state.buffers.take().unwrap_or_else(|| Buffers::new(self.file, asked.memory));
            let added = self.shared.add_buffers(&mut buffers, length, count);
            if buffers.count() > 0 {
                state.buffers = Some(buffers);
            }
            added.map(|()| (index, count))
        })?;
        store(
            self.call,
            &CreateBuffers {
                index,
                count,
                capabilities: cap::BUFFERS,
                flags: 0,
                reserved: [0; 6],
                ..asked
            },
        )
    }

    fn query_buffer(&self) -> Result<u32, Errno> {
        let asked: Buffer = fetch(self.call)?;
        check_kind(asked.kind)?;
        self.shared.draw_all();
        let buffer =
            self.state(|state| state.buffers.as_ref().ok_or(Errno::EINVAL)?.describe(asked.index))?;
        store(self.call, &buffer)
    }

    /// Takes one buffer of this file, and answers what it is then.
    fn hand_buffer(&self, handing: Handing) -> Result<u32, Errno> {
        let asked: Buffer = fetch(self.call)?;
        check_kind(asked.kind)?;
        let brings_pointer = self.try_state(|state| {
            state.check_owner(self.file)?;
            state.buffers.as_ref().ok_or(Errno::EINVAL)?.brings_pointer(&asked, handing)
        })?;
        if brings_pointer {
            // The pages must be there (get_user_pages): EFAULT. The first and the last are
            // looked at; a hole between them is found when a frame goes there.
            let length = asked.length.max(1) as usize;
            let user = self.call.at(asked.m, length)?;
            for byte in [0, length - 1] {
                user.slice(byte, 1)?.copy_in(&mut [0])?;
            }
        }
        let buffer = self.try_state(|state| {
            state.check_owner(self.file)?;
            let buffers = state.buffers.as_mut().ok_or(Errno::EINVAL)?;
            buffers.hand(&asked, handing)?;
            buffers.describe(asked.index)
        })?;
        self.shared.kick();
        store(self.call, &buffer)
    }

    fn prepare_buffer(&self) -> Result<u32, Errno> {
        self.hand_buffer(Handing::Prepare)
    }

    fn queue_buffer(&self) -> Result<u32, Errno> {
        self.hand_buffer(Handing::Queue)
    }

    /// `vb2_ioctl_dqbuf`: waits for a frame.
    fn dequeue_buffer(&self) -> Result<u32, Errno> {
        let asked: Buffer = fetch(self.call)?;
        check_kind(asked.kind)?;
        let take = |state: &mut State<P>| {
            let index = match state.take_frame()? {
                Ok(index) => index,
                Err(errno) => return Some(Err(errno)),
            };
            Some(state.buffers.as_ref().ok_or(Errno::EINVAL).and_then(|buffers| {
                let buffer = buffers.describe(index)?;
                if buffers.is_mapped_kind() {
                    return Ok((buffer, None));
                }
                let mut frame = vec![0; buffer.bytes_used as usize];
                buffers.read(index, 0, &mut frame)?;
                Ok((buffer, Some(frame)))
            }))
        };
        let check = |state: &mut State<P>| {
            state.check_owner(self.file)?;
            match &state.buffers {
                None => Err(Errno::EINVAL),
                Some(_) if state.waiting_in_dqbuf => Err(Errno::EBUSY),
                Some(_) => Ok(()),
            }
        };
        self.try_state(check)?;
        // To learn the flags costs more than to look.
        let (mut buffer, frame) = match self.shared.try_frame(take) {
            Some(taken) => taken?,
            None if self.call.flags().nonblocking => return Err(Errno::EAGAIN),
            None => {
                self.try_state(|state| {
                    check(state)?;
                    state.waiting_in_dqbuf = true;
                    Ok(())
                })?;
                let taken = self.shared.wait_for_frame(take);
                self.state(|state| state.waiting_in_dqbuf = false);
                taken??
            }
        };
        if let Some(frame) = frame {
            // The buffer is the program's whether its memory is still there or not.
            let user = self.call.at(buffer.m, frame.len());
            if user.and_then(|user| user.copy_out(&frame)).is_err() {
                buffer.flags |= buf_flag::ERROR;
            }
        }
        store(self.call, &buffer)
    }

    fn stream_on(&self) -> Result<u32, Errno> {
        check_kind(fetch::<Word>(self.call)?.value)?;
        let stream = self.state(|state| {
            state.check_owner(self.file)?;
            if state.buffers.is_none() {
                return Err(Errno::EINVAL);
            }
            if state.stream.is_some() {
                return Ok(None);
            }
            Ok(Some(state.start(self.shared)))
        })?;
        if let Some(stream) = stream {
            self.shared.begin(stream);
        }
        Ok(0)
    }

    fn stream_off(&self) -> Result<u32, Errno> {
        check_kind(fetch::<Word>(self.call)?.value)?;
        let stream = self.try_state(|state| {
            state.check_owner(self.file)?;
            let stream = state.stream.clone();
            state.stop();
            Ok(stream)
        })?;
        self.shared.wake_all();
        if let Some(stream) = stream {
            self.shared.end(&stream);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_a_code() {
        for (release, code) in [
            ("6.18.44-generic", 6 << 16 | 18 << 8 | 44),
            ("6.1.0-56-amd64", 6 << 16 | 1 << 8),
            ("4.9.337", 4 << 16 | 9 << 8 | 255),
            ("7.0-rc1", 7 << 16),
            ("", 0),
        ] {
            assert_eq!(version_code(release), code, "{release}");
        }
    }
}
