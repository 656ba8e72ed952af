//! The camera's figures: its clients, and what they are compared with.
//!
//! What does not live here: how they take turns (`measure`).

use std::{
    ffi::OsString,
    io::{self, Read},
    os::fd::AsFd,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use devmap_devices_host::{
    Canvas,
    format::{Format, PixelFormat, Size},
    source::{Look, Painted, Pattern, Patterns, Source, Tick},
};
use devmap_sys::{
    capture::Capture,
    mapping::{Mapping, Protection, Sharing},
    memfd,
};
use nix::sys::resource::{UsageWho, getrusage};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::{
    Mode,
    client::{self, Work, Workload},
    programs,
};

/// Where a finished frame is taken from the camera.
pub(crate) const LARGE: (u32, u32) = (1920, 1080);
/// Where frames are drawn as fast as they are taken.
pub(crate) const SMALL: (u32, u32) = (640, 480);
/// Buffers of each stream.
const BUFFERS: u32 = 4;
/// Frames by which ffmpeg's longer recording is longer.
pub(crate) const RECORDED: u64 = 120;
/// Frames of the shorter one.
const SHORTER: u64 = 30;
/// Frames of which the 99th percentile is taken.
pub(crate) const SPREAD: u64 = 300;
/// 30 frames a second.
const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / 30);

fn frame_size((width, height): (u32, u32)) -> usize {
    (width * height * 2) as usize
}

/// A stream of a camera.
pub(crate) fn start(path: &Path, size: (u32, u32)) -> io::Result<Capture> {
    Capture::start(client::open(path)?.into(), size, BUFFERS)
}

/// Takes frames as fast as they come. Each is made within the turn that takes it.
pub(crate) fn taken(path: &Path, size: (u32, u32)) -> io::Result<Work> {
    let mut camera = start(path, size)?;
    Ok(Box::new(move |frames| {
        let started = Instant::now();
        camera.take(frames)?;
        Ok(started.elapsed())
    }))
}

/// Copies a frame into one of as many buffers after the other.
pub(crate) fn memcpy() -> io::Result<impl FnMut() -> io::Result<()>> {
    let size = frame_size(LARGE);
    let frame = vec![0x5a; size];
    let memory = memfd::create("devmap-bench", u64::from(BUFFERS) * size as u64)?;
    let len = BUFFERS as usize * size;
    let map = Mapping::new(memory.as_fd(), 0, len, Protection::ReadWrite, Sharing::Shared)?;
    let mut next = 0;
    Ok(move || {
        next = (next + 1) % BUFFERS as usize;
        map.write(next * size, &frame)
    })
}

/// A process that writes frames to a pipe, ended with its reader.
struct Maker {
    child: Child,
    frames: ChildStdout,
}

impl Drop for Maker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the frames that the camera would draw from a pipe, which another process writes.
pub(crate) fn piped() -> io::Result<impl FnMut() -> io::Result<()>> {
    let line = maker(SMALL, "")?;
    let mut child = Command::new(&line[0])
        .args(&line[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let frames = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut maker = Maker { child, frames };
    let mut frame = vec![0; frame_size(SMALL)];
    Ok(move || maker.frames.read_exact(&mut frame))
}

/// The command that draws frames of this size, as fast as they are read, or in the `pace` of
/// the camera.
fn maker((width, height): (u32, u32), pace: &str) -> io::Result<Vec<OsString>> {
    let mut line = client::command()?;
    line.push(Workload::MakeFrames.name().into());
    line.extend(["--file".into(), OsString::from(format!("{width}x{height}{pace}"))]);
    Ok(line)
}

/// What follows the size of frames that come as a camera's do.
const PACED: &str = "@30";

/// Draws what `pattern=bars` shows and writes it, until nobody reads.
pub(crate) fn make(size: &Path) -> io::Result<()> {
    let size = size.to_str().unwrap_or_default();
    let (size, is_paced) = size.strip_suffix(PACED).map_or((size, false), |size| (size, true));
    let size = size.split_once('x');
    let size = size.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let (width, height) = size.ok_or_else(|| io::Error::other("no size"))?;
    let format = Format { pixels: PixelFormat::Yuyv, size: Size::new(width, height) };
    let mut source = Painted::new(Patterns::new(Pattern::Bars, [0; 3], true, 0));
    source.start(format).map_err(io::Error::other)?;
    let canvas = Canvas::new(format.size_image() as usize);
    let started = Instant::now();
    for sequence in 0.. {
        if is_paced {
            // Those that the reader is too slow for come late, and none is lost.
            std::thread::sleep((INTERVAL * sequence).saturating_sub(started.elapsed()));
        }
        let (time, patience) = (started.elapsed(), Duration::ZERO);
        let tick = Tick { sequence, time, patience, look: Look::PLAIN };
        source.draw(&tick, &mut canvas.frame()).map_err(io::Error::other)?;
        // Not by `Stdout`, which looks for lines.
        let (bytes, mut written) = (canvas.bytes(), 0);
        while written < bytes.len() {
            match rustix::io::write(rustix::stdio::stdout(), &bytes[written..]) {
                Ok(count) => written += count,
                Err(rustix::io::Errno::PIPE) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// `devmap run` of ffmpeg that records from the camera, and ffmpeg that reads the same
/// frames from a pipe: each a short and a long recording.
pub(crate) fn recordings(mode: Mode) -> io::Result<[[Command; 2]; 2]> {
    let [shorter, longer] = [SHORTER, SHORTER + RECORDED].map(|frames| recording(mode, frames));
    let ((devmap, peer), (devmap_longer, peer_longer)) = (shorter?, longer?);
    Ok([[devmap, devmap_longer], [peer, peer_longer]])
}

fn recording(mode: Mode, frames: u64) -> io::Result<(Command, Command)> {
    let (width, height) = LARGE;
    let size = format!("{width}x{height}");
    let count = frames.to_string();
    let ffmpeg = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-threads", "1"];
    let out = ["-frames:v", &count, "-f", "null", "-"];
    let device = format!("/dev/video0=camera:size={size},fps=30,pattern=bars");
    let mut line: Vec<OsString> = vec![std::env::current_exe()?.into(), "run".into()];
    line.extend(["--mode", mode.name(), "--device", &device, "--"].map(OsString::from));
    line.extend(ffmpeg.map(OsString::from));
    let input =
        ["-f", "v4l2", "-input_format", "yuyv422", "-video_size", &size, "-framerate", "30"];
    line.extend(input.map(OsString::from));
    line.extend(["-i", "/dev/video0"].map(OsString::from));
    line.extend(out.map(OsString::from));

    let script = format!(
        "\"$@\" | {} -f rawvideo -pix_fmt yuyv422 -s {size} -r 30 -i pipe:0 {}",
        ffmpeg.join(" ").replace("-nostdin ", ""),
        out.join(" ")
    );
    let mut pipe: Vec<OsString> = ["sh", "-c", &script, "sh"].map(OsString::from).into();
    pipe.extend(maker(LARGE, PACED)?);
    Ok((programs::quiet(&line), programs::quiet(&pipe)))
}

/// What the frames cost by which the second recording is longer than the first: so what
/// starts and ends, such as the making of the buffers, takes no part.
pub(crate) fn time_of_frames([shorter, longer]: &mut [Command; 2]) -> io::Result<u64> {
    Ok(processor_time(longer)?.saturating_sub(processor_time(shorter)?))
}

/// Runs a command to its end and that of all that it leaves: nanoseconds of the processor.
fn processor_time(command: &mut Command) -> io::Result<u64> {
    // The supervisor outlives the front for a moment, and comes to this process then.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let nanoseconds =
            |time: nix::sys::time::TimeVal| (time.tv_sec() * 1_000_000 + time.tv_usec()) * 1000;
        Ok::<_, io::Error>(nanoseconds(usage.user_time()) + nanoseconds(usage.system_time()))
    };
    let before = used()?;
    programs::finish(command)?;
    while rustix::process::wait(rustix::process::WaitOptions::empty()).is_ok() {}
    Ok((used()? - before).cast_unsigned())
}

/// What is waited for, once each interval, so many times: the 99th percentile of how far
/// the intervals between the returns are from what they should be.
pub(crate) fn spread(
    frames: u64,
    mut next: impl FnMut() -> io::Result<()>,
) -> io::Result<Duration> {
    // The first ones came while nobody waited.
    for _ in 0..2 * BUFFERS {
        next()?;
    }
    let mut last = Instant::now();
    let mut deviations = Vec::new();
    for _ in 0..frames {
        next()?;
        let now = Instant::now();
        deviations.push((now - last).abs_diff(INTERVAL));
        last = now;
    }
    deviations.sort_unstable();
    Ok(deviations[deviations.len() * 99 / 100])
}

/// Waits for a timer of the kernel.
pub(crate) fn timer() -> io::Result<impl FnMut() -> io::Result<()>> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let interval = Timespec { tv_sec: 0, tv_nsec: INTERVAL.subsec_nanos().into() };
    let times = Itimerspec { it_interval: interval, it_value: interval };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    Ok(move || {
        rustix::io::read(&timer, &mut [0; 8])?;
        Ok(())
    })
}
