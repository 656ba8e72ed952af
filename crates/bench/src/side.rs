//! One of the two sides of a comparison: a client process, and how to talk to it.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::{
    Mode,
    client::{self, MEMORY, Workload},
};

/// Where a client under devmap finds memory to map.
pub(crate) const MEMORY_PATH: &str = "/dev/devmap-bench-memory";
/// Where it finds the device with the ioctl.
pub(crate) const EVENTS_PATH: &str = "/dev/devmap-bench-events";
/// Where it finds faulted pages, of which there are always new ones.
pub(crate) const FAULTED_PATH: &str = "/dev/devmap-bench-faulted";

/// `f_type` of FUSE, in hexadecimal, as a client tells it.
const FUSE: &str = "65735546";

/// A client that waits for its turn.
pub(crate) struct Side {
    child: Child,
    turn: Option<ChildStdin>,
    result: BufReader<ChildStdout>,
    /// What it, or devmap, complains of.
    complaints: File,
    /// What it said when it was ready.
    greeting: String,
}

impl Side {
    /// Starts a client: in `mode` of devmap, or without.
    pub(crate) fn start(
        mode: Option<Mode>,
        workload: Workload,
        arguments: &[OsString],
    ) -> io::Result<Side> {
        let mut line = mode.map_or_else(|| Ok(Vec::new()), under_devmap)?;
        if let (Some(at), Some(camera)) =
            (line.iter().position(|word| word == "--"), camera(workload))
        {
            line.splice(at..at, ["--device".into(), camera]);
        }
        line.extend(client::command()?);
        line.push(workload.name().into());
        line.extend_from_slice(arguments);
        let complaints = tempfile::tempfile()?;
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone()?)
            .spawn()?;
        let turn = child.stdin.take();
        let result = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let mut side = Side { child, turn, result, complaints, greeting: String::new() };
        side.greeting = side.hear("ready ")?;
        if let Some(mode) = mode
            && (side.greeting == FUSE) != (mode == Mode::Namespace)
        {
            return Err(io::Error::other(format!("devmap did not run in {} mode", mode.name())));
        }
        Ok(side)
    }

    /// What it said when it was ready.
    pub(crate) fn greeting(&self) -> &str {
        &self.greeting
    }

    /// Has it repeat its work so many times: the nanoseconds that took.
    pub(crate) fn take_turn(&mut self, times: u64) -> io::Result<u64> {
        self.begin_turn(times)?;
        self.end_turn()
    }

    /// The first half of [`Side::take_turn`].
    pub(crate) fn begin_turn(&mut self, times: u64) -> io::Result<()> {
        let turn = self.turn.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(turn, "{times}")
    }

    /// The second half: waits for it to be over.
    pub(crate) fn end_turn(&mut self) -> io::Result<u64> {
        self.hear("")?.parse().map_err(io::Error::other)
    }

    fn hear(&mut self, begins: &str) -> io::Result<String> {
        let mut line = String::new();
        self.result.read_line(&mut line)?;
        if let Some(rest) = line.trim_end().strip_prefix(begins)
            && !line.is_empty()
            && !line.starts_with("error ")
        {
            return Ok(rest.to_owned());
        }
        if let Some(told) = line.trim_end().strip_prefix("error ") {
            return Err(io::Error::other(told.to_owned()));
        }
        // It has ended without a word, so all complaints have been made.
        let mut complaints = String::new();
        self.complaints.rewind()?;
        self.complaints.read_to_string(&mut complaints)?;
        Err(io::Error::other(format!("its process ended early: {}", complaints.trim())))
    }
}

impl Drop for Side {
    /// A client ends with its input; the server of FUSE too.
    fn drop(&mut self) {
        self.turn = None;
        let _ = self.child.wait();
    }
}

/// Where it finds the camera, and the picture that the camera shows in place of a pattern.
pub(crate) const CAMERA_PATH: &str = "/dev/devmap-bench-camera";

/// The camera for a client, if it takes one.
fn camera(workload: Workload) -> Option<OsString> {
    let options = match workload {
        // Nothing is drawn into it: it is finished.
        Workload::LargeFrames => "size=1920x1080,pattern=bars,text=off,pace=client",
        Workload::LargePictures => "size=1920x1080,pattern=gradient,text=off,pace=client",
        Workload::SmallFrames => "pattern=bars,pace=client",
        Workload::FrameSpread => "pattern=bars,fps=30",
        _ => return None,
    };
    Some(format!("{CAMERA_PATH}=camera:{options}").into())
}

/// `devmap run` with the devices of the clients.
pub(crate) fn under_devmap(mode: Mode) -> io::Result<Vec<OsString>> {
    let devices = [
        format!("{MEMORY_PATH}=mem:size={MEMORY}"),
        format!("{EVENTS_PATH}=events"),
        format!("{FAULTED_PATH}=pattern:size=1T"),
    ];
    let mut line = vec![std::env::current_exe()?.into(), "run".into()];
    line.extend(["--mode", mode.name()].map(OsString::from));
    for device in devices {
        line.extend(["--device".into(), OsString::from(device)]);
    }
    line.push("--".into());
    Ok(line)
}
