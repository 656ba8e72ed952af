//! The machine that figures are of, and which processor of it is used.

use std::{env, fs, io};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

/// What is printed with the figures.
pub(crate) struct Machine {
    kernel: String,
    architecture: String,
    processor: String,
    processors: usize,
    pinned: usize,
    uid: u32,
    command: String,
}

impl Machine {
    pub(crate) fn describe(pinned: usize) -> io::Result<Machine> {
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let information = fs::read_to_string("/proc/cpuinfo")?;
        let processor = information
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        // Where the command lies is nobody's business.
        let arguments = env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
        let command: Vec<_> = std::iter::once("devmap".to_owned()).chain(arguments).collect();
        Ok(Machine {
            kernel: text(uname.release()),
            architecture: text(uname.machine()),
            processor: processor.to_owned(),
            processors: information.lines().filter(|l| l.starts_with("processor")).count(),
            pinned,
            uid: rustix::process::getuid().as_raw(),
            command: command.join(" "),
        })
    }

    pub(crate) fn lines(&self, rounds: u32) -> String {
        let Machine { kernel, architecture, processor, processors, pinned, uid, command } = self;
        format!(
            "$ {command}\n\
             Linux {kernel}, {architecture}, {processors} processors ({processor}), user {uid}\n\
             {rounds} rounds of each side in turn ({} of whole programs), all processes on \
             processor {pinned}",
            crate::measure::program_rounds(rounds)
        )
    }

    pub(crate) fn as_json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "architecture": self.architecture,
            "processor": self.processor,
            "processors": self.processors,
            "pinned_to": self.pinned,
            "uid": self.uid,
            "command": self.command,
        })
    }
}

/// Pins this process, and so all that it starts, to the first processor it may use.
pub(crate) fn pin() -> io::Result<usize> {
    let allowed = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU)
        .find(|cpu| allowed.is_set(*cpu))
        .ok_or_else(|| io::Error::other("no processor to run on"))?;
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one)?;
    Ok(first)
}
