//! Frames that others make: finished ones in a file, a named pipe or another program's
//! output, and videos, which `ffmpeg` decodes.
//!
//! A frame in the format of the stream goes into the buffer as it is; to other formats it
//! is converted. What does not live here: where frames end (`framing`), and what is in them
//! (`decode`).

mod decode;
mod framing;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufReader, Read},
    os::unix::{
        fs::FileTypeExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};

use self::{decode::Layout, framing::Frames};
use super::{
    Drawn, Look, Source, Tick,
    painted::{Changed, Painted, Painter, Picture},
};
use crate::{
    format::{Format, PixelFormat},
    frame::Frame,
};

/// How many frames are read ahead.
const AHEAD: usize = 2;

/// Where frames come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Frames of this format, in a file or a named pipe, which is opened when the first
    /// stream begins, and read on in by the next ones.
    Path(PathBuf, PixelFormat),
    /// Frames of this format, from the standard output of a command of the shell, which runs
    /// while the camera streams.
    Command(String, PixelFormat),
    /// A video, which `ffmpeg` decodes to the format and the size of the stream.
    Video(PathBuf),
}

/// What happens when the frames end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// They begin anew; of a named pipe, with its next writer.
    Repeat,
    /// The stream fails with `EIO`.
    Stop,
    /// None comes any more; of a named pipe, until its next writer.
    Hang,
}

/// The source of others' frames. What is left at an end and is no whole frame is lost.
pub struct Feed {
    origin: Origin,
    end: End,
    rate: u32,
    format: Format,
    reading: Option<Reading>,
    painted: Painted<Decoded>,
}

/// A thread that reads ahead.
struct Reading {
    frames: Receiver<io::Result<(Vec<u8>, Layout)>>,
    /// Buffers that have been used.
    used: SyncSender<Vec<u8>>,
    child: Arc<Mutex<Running>>,
}

/// The program that makes the frames.
#[derive(Default)]
struct Running {
    child: Option<Child>,
    /// None shall be started any more.
    is_over: bool,
}

impl Feed {
    /// Frames from there; `rate`: frames a second, to tell those who make them.
    pub fn new(origin: Origin, end: End, rate: u32) -> Feed {
        let size = crate::format::Size::new(2, 2);
        Feed {
            origin,
            end,
            rate,
            format: Format { pixels: PixelFormat::Grey, size },
            reading: None,
            painted: Painted::new(Decoded::default()),
        }
    }

    fn name(&self) -> String {
        match &self.origin {
            Origin::Path(path, _) | Origin::Video(path) => path.display().to_string(),
            Origin::Command(command, _) => command.clone(),
        }
    }

    /// The next frame, if it comes in time.
    fn next(&mut self, patience: Duration) -> Result<Option<(Vec<u8>, Layout)>, String> {
        let Some(reading) = &self.reading else { return Ok(None) };
        let why = match reading.frames.recv_timeout(patience) {
            Ok(Ok(next)) => return Ok(Some(next)),
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Ok(Err(error)) => error.to_string(),
            Err(RecvTimeoutError::Disconnected) => "it has ended".to_owned(),
        };
        let why = format!("{}: {why}", self.name());
        // The next stream tries again.
        self.finish();
        Err(why)
    }

    /// Stops reading.
    fn finish(&mut self) {
        let Some(reading) = self.reading.take() else { return };
        let mut running = reading.child.lock().unwrap_or_else(PoisonError::into_inner);
        running.is_over = true;
        running.kill();
    }
}

impl Running {
    /// Ends the program and what it has started, and waits for its end; how it ended, if
    /// that was by itself.
    fn kill(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
        child.wait().ok().filter(|status| status.signal() != Some(Signal::KILL.as_raw()))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Source for Feed {
    fn start(&mut self, format: Format) -> Result<(), String> {
        self.format = format;
        self.painted.start(format)?;
        if self.reading.is_some() {
            return Ok(());
        }
        let (sender, frames) = sync_channel(AHEAD);
        let (used, spare) = sync_channel(AHEAD + 2);
        let child = Arc::<Mutex<Running>>::default();
        let reader = Reader {
            origin: self.origin.clone(),
            end: self.end,
            rate: self.rate,
            format,
            child: child.clone(),
            spare,
        };
        std::thread::Builder::new()
            .name("camera source".to_owned())
            .spawn(move || {
                if let Err(error) = reader.read_all(&sender) {
                    let _ = sender.send(Err(error));
                }
            })
            .map_err(|error| error.to_string())?;
        self.reading = Some(Reading { frames, used, child });
        Ok(())
    }

    fn draw(&mut self, tick: &Tick, frame: &mut Frame<'_>) -> Result<Drawn, String> {
        let Some((bytes, layout)) = self.next(tick.patience)? else { return Ok(Drawn::Nothing) };
        let is_plain = Look { caption: Look::PLAIN.caption, ..tick.look } == Look::PLAIN;
        if is_plain && layout == Layout::Format(self.format.pixels) {
            frame.write(0, &bytes);
        } else {
            let Format { size, .. } = self.format;
            let decoded = self.painted.painter();
            decoded.rgb.resize(size.width as usize * size.height as usize * 3, 0);
            layout
                .decode(&bytes, size, &mut decoded.rgb)
                .map_err(|error| format!("{}: {error}", self.name()))?;
            self.painted.draw(tick, frame)?;
        }
        if let Some(reading) = &self.reading {
            // Where there are enough, it goes.
            let _ = reading.used.try_send(bytes);
        }
        Ok(Drawn::Frame)
    }

    fn skip(&mut self, tick: &Tick) -> Result<Drawn, String> {
        let next = self.next(tick.patience)?;
        Ok(if next.is_some() { Drawn::Frame } else { Drawn::Nothing })
    }

    /// A program ends here. A file or a pipe is read on by the next stream, so that frames
    /// stay whole.
    fn stop(&mut self) {
        if !matches!(self.origin, Origin::Path(..)) {
            self.finish();
        }
    }
}

/// The picture that has just been decoded.
#[derive(Default)]
struct Decoded {
    rgb: Vec<u8>,
}

impl Painter for Decoded {
    fn start(&mut self, _picture: &mut Picture) -> Result<(), String> {
        Ok(())
    }

    fn paint(&mut self, _tick: &Tick, picture: &mut Picture) -> Result<Changed, String> {
        picture.bytes_mut().copy_from_slice(&self.rgb);
        Ok(Changed::All)
    }
}

/// What the reading thread knows.
struct Reader {
    origin: Origin,
    end: End,
    rate: u32,
    format: Format,
    child: Arc<Mutex<Running>>,
    spare: Receiver<Vec<u8>>,
}

impl Reader {
    /// Reads frames until nobody wants them.
    fn read_all(&self, sender: &SyncSender<io::Result<(Vec<u8>, Layout)>>) -> io::Result<()> {
        loop {
            let pixels = match &self.origin {
                Origin::Path(_, pixels) | Origin::Command(_, pixels) => *pixels,
                Origin::Video(_) => self.format.pixels,
            };
            let (from, is_pipe) = self.open()?;
            let mut frames = 0_u64;
            let mut buffer = Vec::new();
            match Frames::new(BufReader::with_capacity(1 << 16, from), pixels, self.format.size) {
                Ok(mut from) => {
                    while from.next(&mut buffer)? {
                        frames += 1;
                        let next = self.spare.try_recv().unwrap_or_default();
                        let frame = std::mem::replace(&mut buffer, next);
                        if sender.send(Ok((frame, from.layout()))).is_err() {
                            return Ok(());
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(error),
            }
            let status = self.reap();
            match self.end {
                _ if frames == 0 && !is_pipe => {
                    let size = pixels.size_image(self.format.size);
                    return Err(io::Error::other(match status {
                        Some(status) => format!("{status}, and no whole frame has come"),
                        None => format!("it has no whole frame of {size} bytes"),
                    }));
                }
                End::Repeat => {}
                End::Hang if is_pipe => {}
                End::Stop => return Err(io::Error::other("it has ended (end=stop)")),
                End::Hang => loop {
                    // The other side goes when the source is no more wanted.
                    if self.spare.recv().is_err() {
                        return Ok(());
                    }
                },
            }
        }
    }

    /// The bytes, and whether they come from a named pipe, which may have several writers one
    /// after the other.
    fn open(&self) -> io::Result<(Box<dyn Read>, bool)> {
        let mut command = match &self.origin {
            Origin::Path(path, _) => {
                // Of a pipe, this waits for a writer.
                let file = File::open(path)?;
                let is_pipe = file.metadata()?.file_type().is_fifo();
                return Ok((Box::new(file), is_pipe));
            }
            Origin::Command(command, _) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", command]);
                shell
            }
            Origin::Video(path) => self.decoder(path),
        };
        let size = self.format.size;
        command
            .env("CAMERA_WIDTH", size.width.to_string())
            .env("CAMERA_HEIGHT", size.height.to_string())
            .env("CAMERA_FPS", self.rate.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut running = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_over {
            return Err(io::Error::other("the stream is over"));
        }
        let mut child = command.spawn()?;
        let output = child.stdout.take();
        running.child = Some(child);
        Ok((Box::new(output.ok_or(io::ErrorKind::BrokenPipe)?), false))
    }

    /// `ffmpeg`, which makes raw frames of any video.
    fn decoder(&self, path: &Path) -> Command {
        let Format { pixels, size } = self.format;
        let (codec, pixels) = match pixels {
            PixelFormat::Yuyv => ("rawvideo", "yuyv422"),
            PixelFormat::Nv12 => ("rawvideo", "nv12"),
            PixelFormat::Rgb24 => ("rawvideo", "rgb24"),
            PixelFormat::Grey => ("rawvideo", "gray"),
            PixelFormat::Mjpeg => ("mjpeg", "yuvj422p"),
        };
        let scale = format!("scale={}:{}:out_color_matrix=bt601", size.width, size.height);
        let rate = self.rate.to_string();
        let container = if codec == "mjpeg" { "mjpeg" } else { "rawvideo" };
        let mut ffmpeg = Command::new("ffmpeg");
        // What stands before a colon would be a protocol.
        let mut input = OsString::from("file:");
        input.push(path);
        ffmpeg.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-i"]).arg(input);
        ffmpeg.args(["-an", "-vf", &scale, "-r", &rate, "-c:v", codec, "-pix_fmt", pixels]);
        ffmpeg.args(["-q:v", "3", "-f", container, "-"]);
        ffmpeg
    }

    /// Ends the program that made the frames, if one did; how it ended.
    fn reap(&self) -> Option<String> {
        let mut running = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        running.child.as_ref()?;
        // It has closed its output; what else it does is not waited for.
        let status = running.kill();
        Some(status.map_or_else(|| "its output has ended".to_owned(), |status| status.to_string()))
    }
}
