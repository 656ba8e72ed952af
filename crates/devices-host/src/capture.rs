//! The V4L2 capture driver: a device that programs find to be a camera, on a source
//! of frames that an author supplies.
//!
//! What does not live here: the ioctls one by one (`ioctl`), the states of buffers
//! (`queue`), how they are filled (`drawing`, `thread`) and taken (`taking`).

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use devmap_driver::{
    AreaFlags, Class, Device, Errno, Ioctl, Kind, Lock, Metadata, NewArea, Number, Open, Plan,
    Platform, PollEvents, PollTable, Sharing, Transfer, WaitQueue,
};

use crate::{
    controls::{ControlSpec, Controls, PIXEL_RATE, Streaming, Value},
    drawing::{self, Drawing},
    events::Events,
    format::{Format, Offer, PixelFormat},
    ioctl,
    ioctl_controls::announce,
    queue::{self, Buffers, Reading},
    source::Source,
    stream::{Pace, Stream},
    taking::Due,
    thread,
    trouble::Trouble,
    uapi::memory,
};

/// `V4L2_PRIORITY_DEFAULT`, which is `V4L2_PRIORITY_INTERACTIVE`.
const DEFAULT_PRIORITY: u32 = 2;
/// The major number of video devices (`VIDEO_MAJOR`).
pub const VIDEO_MAJOR: u32 = 81;
/// How many buffers `read(2)` makes.
const READ_BUFFERS: u32 = 4;

/// What a camera is.
#[derive(Clone, Debug)]
pub struct Description {
    /// Its name, at most 31 bytes (`card`).
    pub card: String,
    /// Where it is plugged in, such as `platform:devmap-0` (`bus_info`).
    pub bus_info: String,
    /// Its minor number: the N of `/dev/videoN`.
    pub minor: u32,
    /// Formats, sizes and rates.
    pub offer: Offer,
    /// Its controls, in the order of their numbers.
    pub controls: &'static [ControlSpec],
    /// When frames come.
    pub pace: Pace,
    /// What goes wrong.
    pub trouble: Trouble,
}

/// A camera.
pub struct Capture<P: Platform> {
    shared: Arc<Shared<P>>,
}

/// What calls and the thread of a stream share.
pub(crate) struct Shared<P: Platform> {
    pub(crate) platform: P,
    pub(crate) about: Description,
    pub(crate) state: P::Lock<State<P>>,
    /// Where pollers wait, and callers for events: a frame, an event, or the end of something.
    pub(crate) changed: P::WaitQueue,
    /// Where callers wait for frames.
    pub(crate) frames: P::WaitQueue,
    /// Taken before the state.
    pub(crate) drawing: Mutex<Drawing<P::Memory>>,
    /// Formats in which the source is quick.
    quick: Vec<PixelFormat>,
}

/// One open file's own.
pub(crate) struct FileState {
    pub(crate) id: u64,
    pub(crate) priority: u32,
    pub(crate) events: Events,
}

pub(crate) struct State<P: Platform> {
    pub(crate) format: Format,
    /// Frames a second.
    pub(crate) rate: u32,
    pub(crate) controls: Controls,
    pub(crate) buffers: Option<Buffers<P::Memory>>,
    /// Present while streaming.
    pub(crate) stream: Option<Arc<Stream>>,
    /// A thread waits for a frame in `VIDIOC_DQBUF`, as one at a time may (`struct vb2_queue`).
    pub(crate) waiting_in_dqbuf: bool,
    /// The stream before, which may not have ended yet.
    stopped: Option<Arc<Stream>>,
    /// A frame that is in its buffer ahead of its moment.
    pub(crate) due: Option<Due>,
    /// Callers that wait for frames.
    pub(crate) waiting: u32,
    /// The stream failed (`q->error`).
    pub(crate) is_broken: bool,
    /// The camera was unplugged: no frame comes any more.
    pub(crate) is_unplugged: bool,
    /// Frames that went into a buffer, ever.
    pub(crate) frames: u64,
    /// Frames that found no buffer, ever.
    pub(crate) dropped: u64,
    /// Ioctls, ever.
    pub(crate) calls: u64,
    pub(crate) files: Vec<FileState>,
    next_file: u64,
}

impl<P: Platform> State<P> {
    /// Whether this stream is the one that runs.
    pub(crate) fn is_current(&self, stream: &Arc<Stream>) -> bool {
        self.stream.as_ref().is_some_and(|current| Arc::ptr_eq(current, stream))
    }

    pub(crate) fn file(&mut self, id: u64) -> Option<&mut FileState> {
        self.files.iter_mut().find(|file| file.id == id)
    }

    /// A stream begins, once this is told to [`Shared::begin`].
    pub(crate) fn start(&mut self, shared: &Shared<P>) -> Arc<Stream> {
        let is_quick = shared.quick.contains(&self.format.pixels);
        let has_thread = shared.about.pace == Pace::Timer || !is_quick;
        let stream = Arc::new(Stream::new(has_thread));
        self.stream = Some(stream.clone());
        let changed = self.controls.stream(Streaming::On);
        announce(self, 0, &changed);
        stream
    }

    /// Says how many pixels a second there are, after a change of format or rate.
    pub(crate) fn tell_pixel_rate(&mut self) {
        let size = self.format.size;
        let pixels = u64::from(size.width) * u64::from(size.height) * u64::from(self.rate);
        let changed = self.controls.set(PIXEL_RATE, Value::Number(pixels.cast_signed()));
        announce(self, 0, &changed);
    }

    /// Ends the stream, if there is one; its buffers are the program's again.
    pub(crate) fn stop(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.stop();
            self.stopped = Some(stream);
        }
        let changed = self.controls.stream(Streaming::Off);
        announce(self, 0, &changed);
        self.is_broken = false;
        self.due = None;
        if let Some(buffers) = &mut self.buffers {
            buffers.cancel();
        }
    }

    /// Refuses a file that is not the owner of the buffers, if there are any
    /// (`vb2_queue_is_busy`), and every file while `read(2)` uses them.
    pub(crate) fn check_owner(&self, id: u64) -> Result<(), Errno> {
        match &self.buffers {
            Some(buffers) if buffers.owner != id || buffers.reading.is_some() => Err(Errno::EBUSY),
            _ => Ok(()),
        }
    }
}

impl<P: Platform> Shared<P> {
    /// Begins a stream that the state has just been told of.
    pub(crate) fn begin(self: &Arc<Shared<P>>, stream: Arc<Stream>) {
        if stream.has_thread() {
            thread::spawn(self.clone(), stream);
        } else {
            drawing::begin(self, &stream);
        }
    }

    /// Ends a stream that was stopped. That of a thread ends by itself.
    pub(crate) fn end(&self, stream: &Arc<Stream>) {
        if !stream.has_thread() {
            drawing::end(self, stream);
        }
    }

    /// Adds `count` buffers of `length` bytes.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn add_buffers(
        &self,
        buffers: &mut Buffers<P::Memory>,
        length: u32,
        count: u32,
    ) -> Result<(), Errno> {
        let stride = queue::stride(self.platform.page_size(), length);
        let memory = self.platform.contiguous(stride * u64::from(count))?;
        buffers.add(&memory, (stride, length), count);
        Ok(())
    }
}

impl<P: Platform> Capture<P> {
    /// Makes a camera.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` for an offer without formats, sizes or rates.
    pub fn new(
        platform: &P,
        about: Description,
        source: Box<dyn Source>,
    ) -> Result<Capture<P>, Errno> {
        let offer = &about.offer;
        if offer.pixels.is_empty() || offer.sizes.is_empty() || offer.rates.is_empty() {
            return Err(Errno::EINVAL);
        }
        let mut state = State {
            format: offer.first(),
            rate: offer.rate,
            controls: Controls::new(about.controls),
            buffers: None,
            stream: None,
            waiting_in_dqbuf: false,
            stopped: None,
            due: None,
            waiting: 0,
            is_broken: false,
            is_unplugged: false,
            frames: 0,
            dropped: 0,
            calls: 0,
            files: Vec::new(),
            next_file: 1,
        };
        state.tell_pixel_rate();
        let is_quick = |pixels: &PixelFormat| source.is_quick(*pixels);
        let quick = about.offer.pixels.iter().copied().filter(is_quick).collect();
        Ok(Capture {
            shared: Arc::new(Shared {
                platform: platform.clone(),
                about,
                state: platform.lock(state)?,
                changed: platform.wait_queue()?,
                frames: platform.wait_queue()?,
                drawing: Mutex::new(Drawing::new(source)),
                quick,
            }),
        })
    }

    /// Starts `read(2)`: buffers of the driver's own, and a stream (`__vb2_init_fileio`).
    /// Whether it had to.
    fn start_reading(&self, id: u64) -> Result<bool, Errno> {
        let shared = &self.shared;
        let stream = shared.state.with(|state| {
            if state.is_gone() {
                return Err(Errno::ENODEV);
            }
            if let Some(buffers) = &state.buffers {
                let is_reader = buffers.reading.is_some() && buffers.owner == id;
                return if is_reader { Ok(None) } else { Err(Errno::EBUSY) };
            }
            let mut buffers = Buffers::new(id, memory::MMAP);
            shared.add_buffers(&mut buffers, state.format.size_image(), READ_BUFFERS)?;
            buffers.reading = Some(Reading::default());
            buffers.enqueue_all();
            state.buffers = Some(buffers);
            Ok(Some(state.start(shared)))
        })?;
        let starts = stream.is_some();
        if let Some(stream) = stream {
            shared.begin(stream);
        }
        Ok(starts)
    }
}

impl<P: Platform> Drop for Capture<P> {
    fn drop(&mut self) {
        self.shared.state.with(State::stop);
    }
}

/// What a file was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// `O_RDONLY`.
    Read,
    /// `O_RDWR` or `O_WRONLY`.
    Write,
}

/// An open file of a camera. Dropped: its buffers and events go.
pub struct File<P: Platform> {
    id: u64,
    access: Access,
    shared: Arc<Shared<P>>,
}

impl<P: Platform> Drop for File<P> {
    fn drop(&mut self) {
        let stream = self.shared.state.with(|state| {
            if state.buffers.as_ref().is_some_and(|buffers| buffers.owner == self.id) {
                state.stop();
                state.buffers = None;
            }
            state.files.retain(|file| file.id != self.id);
            state.stopped.clone()
        });
        self.shared.wake_all();
        // So that no program of its source stays.
        if let Some(stream) = stream {
            self.shared.end(&stream);
            stream.until_over();
        }
    }
}

impl<P: Platform> Device<P> for Capture<P> {
    type File = File<P>;

    fn open(&self, open: &Open) -> Result<File<P>, Errno> {
        let id = self.shared.state.with(|state| {
            if state.is_gone() {
                return Err(Errno::ENODEV);
            }
            let id = state.next_file;
            state.next_file += 1;
            let events = Events::default();
            state.files.push(FileState { id, priority: DEFAULT_PRIORITY, events });
            Ok(id)
        })?;
        let access = if open.flags.write { Access::Write } else { Access::Read };
        Ok(File { id, access, shared: self.shared.clone() })
    }

    fn metadata(&self) -> Metadata {
        let number = Number::Fixed { major: VIDEO_MAJOR, minor: self.shared.about.minor };
        Metadata { kind: Kind::Character(number), mode: 0o666, stream: true }
    }

    /// As `v4l2-dev.c` has it.
    fn class(&self) -> Option<Class> {
        let attributes = &["index", "name"];
        Some(Class { name: "video4linux", node: Some("video"), attributes })
    }

    fn show(&self, attribute: &str, text: &mut dyn fmt::Write) -> fmt::Result {
        match attribute {
            // The first node of its piece of hardware.
            "index" => text.write_str("0\n"),
            _ => writeln!(text, "{}", self.shared.about.card),
        }
    }

    /// One buffer, from its start (`vb2_mmap`).
    fn mmap(&self, file: &File<P>, area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        self.shared.state.with(|state| {
            if state.is_gone() {
                return Err(Errno::ENODEV);
            }
            // A map through a descriptor that only reads is not VM_SHARED to the kernel.
            let is_shared = area.sharing() == Sharing::Shared && file.access == Access::Write;
            if !is_shared || !area.protection().read {
                return Err(Errno::EINVAL);
            }
            let buffers = state.buffers.as_ref().ok_or(Errno::EINVAL)?;
            if !buffers.is_mapped_kind() {
                return Err(Errno::EINVAL);
            }
            if buffers.reading.is_some() {
                return Err(Errno::EBUSY);
            }
            let (memory, start, span) = buffers.at_offset(area.offset()).ok_or(Errno::EINVAL)?;
            if area.len() > span {
                return Err(Errno::EINVAL);
            }
            let first_page = area.page_size().page_of(start);
            // As of videobuf2; not RESERVED: no program sees whether they are in memory.
            let flags = AreaFlags::DONTEXPAND.union(AreaFlags::DONTDUMP);
            Ok(Plan::remap_all(area, memory, first_page).flags(flags))
        })
    }

    /// The next frame, in as many pieces as the program likes (`vb2_read`).
    fn read(&self, file: &File<P>, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        let has_started = self.start_reading(file.id)?;
        let wanted = transfer.user().len();
        if wanted == 0 {
            return Ok(0);
        }
        let shared = &self.shared;
        let mut bytes = vec![0; wanted.min(shared.about.offer.largest())];
        let mut take = |state: &mut State<P>| state.read_frame(&mut bytes);
        let count = if transfer.flags().nonblocking {
            // However quick the source is: no camera has a frame at once.
            if has_started {
                return Err(Errno::EAGAIN);
            }
            shared.try_frame(take).ok_or(Errno::EAGAIN)?
        } else {
            shared.wait_for_frame(&mut take)?
        }?;
        shared.kick();
        transfer.user().copy_out(&bytes[..count])?;
        Ok(count)
    }

    fn ioctl(&self, file: &File<P>, call: &Ioctl<'_>) -> Result<u32, Errno> {
        ioctl::serve(&self.shared, file.id, call)
    }

    /// `vb2_poll` and `v4l2_ctrl_poll`. To ask whether a frame can be read starts `read(2)`'s
    /// stream where there are no buffers; a home that does not say what is asked for is told
    /// that there is nothing to wait for.
    fn poll(&self, file: &File<P>, table: &mut dyn PollTable<P::WaitQueue>) -> PollEvents {
        let readable = PollEvents::IN.union(PollEvents::RDNORM);
        let wants_frames = table.wanted().map(|wanted| !wanted.intersection(readable).is_empty());
        // What fails is seen below: there is no stream.
        let has_started = wants_frames == Some(true)
            && self.shared.state.with(|state| state.buffers.is_none() && !state.is_gone())
            && self.start_reading(file.id) == Ok(true);
        if has_started {
            // No camera has a frame at once. Who waits asks again.
            table.register(&self.shared.changed);
            self.shared.changed.wake_all();
        } else {
            // What is drawn before need not wake this poller; what is queued in between does.
            self.shared.draw_all();
            table.register(&self.shared.changed);
            self.shared.draw_all();
        }
        self.shared.state.with(|state| {
            if state.is_gone() {
                // `v4l2_poll` of a device that is not registered any more.
                return PollEvents::ERR.union(PollEvents::HUP).union(PollEvents::PRI);
            }
            // As a pipe that has no writer any more, and something to read.
            let mut events = if state.is_unplugged { PollEvents::HUP } else { PollEvents::NONE };
            if state.file(file.id).is_some_and(|file| file.events.is_pending()) {
                events = events.union(PollEvents::PRI);
            }
            if wants_frames == Some(false) {
                return events;
            }
            match &state.buffers {
                Some(buffers) if state.stream.is_some() && !buffers.awaits_first() => {
                    if state.is_broken {
                        events = events.union(PollEvents::ERR);
                    }
                    // What others have drawn since is for who asks again, too.
                    if state.has_frame() && !has_started {
                        events = events.union(readable);
                    }
                }
                _ => events = events.union(PollEvents::ERR),
            }
            events
        })
    }
}
