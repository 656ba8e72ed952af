//! What `--trace` and `--stats` tell: one line for each event that devmap saw.
//!
//! An event is written after it happened, with its outcome; nothing is written for
//! a step that did not run here.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use devmap_driver::Errno;
use parking_lot::Mutex;
use serde_json::{Map, Value};

/// The form of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// `0.001234 pid 71 /dev/mmap mmap(pages=16, ...) = 0`: for people.
    Text,
    /// One JSON object a line: for scripts.
    Json,
}

/// One event.
pub(crate) struct Event<'a> {
    /// The device's path.
    pub(crate) device: &'a Path,
    /// The calling thread; 0 where no thread is known (a release).
    pub(crate) tid: u32,
    /// The system call, or `release`.
    pub(crate) call: &'static str,
    /// The arguments, in the order of the call.
    pub(crate) details: Vec<(&'static str, Value)>,
    /// What the program got; `Ok(None)` when the kernel answered and devmap did not see.
    pub(crate) result: Result<Option<u64>, Errno>,
}

/// Takes the events of a run.
pub(crate) struct Trace {
    started: Instant,
    sink: Option<Mutex<Sink>>,
    stats: Option<Mutex<BTreeMap<(String, &'static str), Stat>>>,
}

struct Sink {
    file: File,
    format: TraceFormat,
    /// Told once that the file takes no more: the run goes on, the lines are lost.
    failed: bool,
    path: String,
}

#[derive(Default)]
struct Stat {
    calls: u64,
    errors: u64,
    time: Duration,
}

impl Trace {
    /// A trace to a file, which is made, and counts if they are wanted.
    ///
    /// # Errors
    /// A message with the path.
    pub(crate) fn create(
        file: Option<&(PathBuf, TraceFormat)>,
        stats: bool,
    ) -> Result<Trace, String> {
        let sink = file
            .map(|(path, format)| {
                let (format, path_text) = (*format, path.display().to_string());
                create(path)
                    .map_err(|error| format!("cannot create the trace {path_text}: {error}"))
                    .map(|file| Sink { file, format, failed: false, path: path_text })
            })
            .transpose()?;
        Ok(Trace {
            started: Instant::now(),
            sink: sink.map(Mutex::new),
            stats: stats.then(Mutex::default),
        })
    }

    /// Whether anybody reads events: the details need not be gathered otherwise.
    pub(crate) fn is_on(&self) -> bool {
        self.sink.is_some() || self.stats.is_some()
    }

    /// Writes `event`, which took `time` in devmap.
    pub(crate) fn write(&self, event: &Event<'_>, time: Duration) {
        if let Some(stats) = &self.stats {
            let key = (event.device.display().to_string(), event.call);
            let mut stats = stats.lock();
            let stat = stats.entry(key).or_default();
            stat.calls += 1;
            stat.errors += u64::from(event.result.is_err());
            stat.time += time;
        }
        if let Some(sink) = &self.sink {
            let pid = crate::client::process_of(event.tid).unwrap_or(event.tid);
            let mut sink = sink.lock();
            // Within the lock, so that later lines have later times.
            let at = self.started.elapsed();
            let line = match sink.format {
                TraceFormat::Text => text(event, at, pid),
                TraceFormat::Json => json(event, at, pid),
            };
            let written = sink.file.write_all(line.as_bytes());
            if let (Err(error), false) = (written, sink.failed) {
                sink.failed = true;
                crate::report(format_args!(
                    "cannot write the trace {}: {}; the program goes on without it",
                    sink.path,
                    crate::with_remedy(&error)
                ));
            }
        }
    }

    /// The table of `--stats`, if it was asked for.
    pub(crate) fn stats_table(&self) -> Option<String> {
        let stats = self.stats.as_ref()?.lock();
        let mut table = format!(
            "{:<24} {:<10} {:>10} {:>8} {:>12}\n",
            "device", "call", "calls", "errors", "mean time"
        );
        for ((device, call), stat) in stats.iter() {
            let mean = stat.time / u32::try_from(stat.calls).unwrap_or(u32::MAX).max(1);
            let mean = format!("{:.1} us", mean.as_secs_f64() * 1e6);
            let _ = writeln!(
                table,
                "{device:<24} {call:<10} {:>10} {:>8} {mean:>12}",
                stat.calls, stat.errors
            );
        }
        Some(table)
    }
}

fn create(path: &Path) -> io::Result<File> {
    // Opened anew, a file there would be emptied, and each would write over the other's lines.
    match path.to_str() {
        Some("/dev/stdout") => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        Some("/dev/stderr") => io::stderr().as_fd().try_clone_to_owned().map(File::from),
        _ => File::create(path),
    }
}

fn text(event: &Event<'_>, at: Duration, pid: u32) -> String {
    let mut line = format!("{:.6} ", at.as_secs_f64());
    if event.tid != 0 {
        let _ = write!(line, "pid {pid} ");
        if event.tid != pid {
            let _ = write!(line, "tid {} ", event.tid);
        }
    }
    let _ = write!(line, "{} {}(", event.device.display(), event.call);
    for (at, (name, value)) in event.details.iter().enumerate() {
        let separator = if at == 0 { "" } else { ", " };
        let _ = match value {
            Value::String(value) => write!(line, "{separator}{name}={value}"),
            value => write!(line, "{separator}{name}={value}"),
        };
    }
    let _ = match event.result {
        Ok(None) => writeln!(line, ") = ?"),
        Ok(Some(value)) if event.call == "mmap" => writeln!(line, ") = {value:#x}"),
        Ok(Some(value)) => writeln!(line, ") = {value}"),
        Err(errno) => writeln!(line, ") = -{errno}"),
    };
    line
}

fn json(event: &Event<'_>, at: Duration, pid: u32) -> String {
    let mut object = Map::new();
    object.insert("time".into(), at.as_secs_f64().into());
    if event.tid != 0 {
        object.insert("pid".into(), pid.into());
        object.insert("tid".into(), event.tid.into());
    }
    object.insert("device".into(), event.device.display().to_string().into());
    object.insert("call".into(), event.call.into());
    for (name, value) in &event.details {
        object.insert((*name).into(), value.clone());
    }
    match event.result {
        Ok(value) => object.insert("result".into(), value.into()),
        Err(errno) => object.insert("errno".into(), errno.name().into()),
    };
    format!("{}\n", Value::Object(object))
}
