//! Finished frames that another program writes to a named pipe, or that stand in a
//! file one after the other.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileTypeExt,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    time::Duration,
};

use crate::{format::Format, frame::Frame};

use super::{Drawn, Source, Tick};

/// How many frames are read ahead.
const AHEAD: usize = 2;

/// The source of raw frames. A pipe that ends is opened again, for its next writer; a
/// file begins anew. What is left at an end and is no whole frame is lost.
pub struct Raw {
    path: PathBuf,
    frames: Option<Receiver<io::Result<Vec<u8>>>>,
}

impl Raw {
    /// From the file or the named pipe at `path`, which is opened when a stream begins.
    pub fn new(path: PathBuf) -> Raw {
        Raw { path, frames: None }
    }
}

impl Source for Raw {
    /// The reader goes on between streams, so that frames stay whole.
    fn start(&mut self, format: Format) -> Result<(), String> {
        if self.frames.is_some() {
            return Ok(());
        }
        let (sender, frames) = sync_channel(AHEAD);
        let path = self.path.clone();
        let size = format.size_image() as usize;
        let reader = move || {
            if let Err(error) = read_all(&path, size, &sender) {
                let _ = sender.send(Err(error));
            }
        };
        std::thread::Builder::new()
            .name("camera source".to_owned())
            .spawn(reader)
            .map_err(|error| error.to_string())?;
        self.frames = Some(frames);
        Ok(())
    }

    fn draw(&mut self, tick: &Tick, frame: &mut Frame<'_>) -> Result<Drawn, String> {
        let next = self.next(tick.patience)?;
        if let Some(next) = &next {
            frame.write(0, next);
        }
        Ok(if next.is_some() { Drawn::Frame } else { Drawn::Nothing })
    }

    fn skip(&mut self, tick: &Tick) -> Result<Drawn, String> {
        let next = self.next(tick.patience)?;
        Ok(if next.is_some() { Drawn::Frame } else { Drawn::Nothing })
    }
}

impl Raw {
    /// The next frame, if it comes in time.
    fn next(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, String> {
        let Some(frames) = &self.frames else { return Ok(None) };
        let ended = match frames.recv_timeout(patience) {
            Ok(Ok(next)) => return Ok(Some(next)),
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Ok(Err(error)) => format!("{}: {error}", self.path.display()),
            Err(RecvTimeoutError::Disconnected) => format!("{}: ended", self.path.display()),
        };
        // The next stream tries again.
        self.frames = None;
        Err(ended)
    }
}

/// Reads frames until nobody wants them.
fn read_all(
    path: &PathBuf,
    size: usize,
    sender: &SyncSender<io::Result<Vec<u8>>>,
) -> io::Result<()> {
    loop {
        // Of a pipe, this waits for a writer.
        let mut file = File::open(path)?;
        let is_pipe = file.metadata()?.file_type().is_fifo();
        let mut frames = 0;
        loop {
            let mut frame = vec![0; size];
            match file.read_exact(&mut frame) {
                Ok(()) => frames += 1,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
            if sender.send(Ok(frame)).is_err() {
                return Ok(());
            }
        }
        if frames == 0 && !is_pipe {
            return Err(io::Error::other(format!("it has no whole frame of {size} bytes")));
        }
    }
}
