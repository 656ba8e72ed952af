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
    pinned: Processors,
    uid: u32,
    command: String,
}

/// The processors that all runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Processors {
    /// That of all processes.
    first: usize,
    /// That of the clients, where it is another.
    pub(crate) clients: Option<usize>,
}

impl Machine {
    pub(crate) fn describe(pinned: Processors) -> io::Result<Machine> {
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
        let Processors { first, clients } = pinned;
        let where_ = match clients {
            None => format!("all processes on processor {first}"),
            Some(second) => {
                format!("clients on processor {second}, whoever serves them on processor {first}")
            }
        };
        format!(
            "$ {command}\n\
             Linux {kernel}, {architecture}, {processors} processors ({processor}), user {uid}\n\
             {rounds} rounds of each side in turn ({} of whole programs), {where_}",
            crate::measure::program_rounds(rounds)
        )
    }

    pub(crate) fn as_json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "architecture": self.architecture,
            "processor": self.processor,
            "processors": self.processors,
            "pinned_to": self.pinned.first,
            "clients_pinned_to": self.pinned.clients.unwrap_or(self.pinned.first),
            "uid": self.uid,
            "command": self.command,
        })
    }
}

/// Pins this process, and so all that it starts, to the first processor it may use. With `apart`,
/// clients shall pin themselves to the second.
pub(crate) fn pin(apart: bool) -> io::Result<Processors> {
    let allowed = sched_getaffinity(None)?;
    let mut all = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let first = all.next().ok_or_else(|| io::Error::other("no processor to run on"))?;
    let clients = all.next().filter(|_| apart);
    if apart && clients.is_none() {
        return Err(io::Error::other("--apart takes two processors, and this command may use one"));
    }
    pin_to(first)?;
    Ok(Processors { first, clients })
}

/// Pins this process to a processor.
pub(crate) fn pin_to(processor: usize) -> io::Result<()> {
    let mut one = CpuSet::new();
    one.set(processor);
    Ok(sched_setaffinity(None, &one)?)
}
