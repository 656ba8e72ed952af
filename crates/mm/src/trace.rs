//! What an engine tells of its operations: each step under the kernel's name, as it ran,
//! with what it called within. A step that did not run is not told.
//!
//! The form of a line is that of `devmap run --trace`; in the place of the time stands the
//! number of the step, since nothing here knows a clock.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::fmt::{self, Write};

use devmap_driver::{Access, Errno};

use crate::{Area, Engine, Fatal, Layout, Mmu, ObjectId, PageId, SpaceId};

/// A detail of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A count, or a number of a page.
    Number(u64),
    /// An address.
    Address(u64),
    /// A word.
    Word(&'static str),
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Detail::Number(number) => write!(f, "{number}"),
            Detail::Address(address) => write!(f, "{address:#x}"),
            Detail::Word(word) => f.write_str(word),
        }
    }
}

impl From<Access> for Detail {
    fn from(access: Access) -> Detail {
        Detail::Word(match access {
            Access::Read => "read",
            Access::Write => "write",
        })
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well; some answer an address.
    Done(Option<u64>),
    /// With an error of a call.
    Failed(Errno),
    /// With what a program dies of.
    Fatal(Fatal),
    /// Not yet.
    Running,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done(None) => f.write_str("0"),
            Outcome::Done(Some(address)) => write!(f, "{address:#x}"),
            Outcome::Failed(errno) => write!(f, "-{errno}"),
            Outcome::Fatal(fatal) => write!(f, "{fatal}"),
            Outcome::Running => f.write_str("?"),
        }
    }
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Outcome {
        Outcome::Failed(errno)
    }
}

impl From<Fatal> for Outcome {
    fn from(fatal: Fatal) -> Outcome {
        Outcome::Fatal(fatal)
    }
}

/// A step that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How many steps it ran within.
    pub depth: usize,
    /// The address space of the operation; `None` for what no process asked for.
    pub space: Option<SpaceId>,
    /// The name of the device or file that it is about.
    pub device: Option<String>,
    /// The kernel's name of it.
    pub call: &'static str,
    /// What it was called with.
    pub details: Vec<(&'static str, Detail)>,
    /// How it ended.
    pub outcome: Outcome,
}

impl fmt::Display for Step {
    /// `pid 1 /dev/pattern   do_read_fault(page=5) = 0`: a step stands further to the right
    /// than the one that it ran within.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(space) = self.space {
            write!(f, "pid {} ", space.0 + 1)?;
        }
        if let Some(device) = &self.device {
            write!(f, "{device} ")?;
        }
        write!(f, "{:width$}{}(", "", self.call, width = 2 * self.depth)?;
        let mut separator = "";
        for (name, value) in &self.details {
            write!(f, "{separator}{name}={value}")?;
            separator = ", ";
        }
        write!(f, ") = {}", self.outcome)
    }
}

/// The steps so far, as lines of text.
pub fn text(steps: &[Step]) -> String {
    let mut text = String::new();
    for (number, step) in steps.iter().enumerate() {
        // A String takes whatever is written to it.
        let _ = writeln!(text, "{} {step}", number + 1);
    }
    text
}

/// The same as JSON, an object a line: `step`, `pid`, `device`, `call`, `depth`, the details
/// by their names, and `result` or `errno` or `fatal`.
pub fn json(steps: &[Step]) -> String {
    let mut text = String::new();
    for (number, step) in steps.iter().enumerate() {
        let _ = writeln!(text, "{{\"step\":{}{}}}", number + 1, Members(step));
    }
    text
}

/// The members of a step's object, each after a comma.
struct Members<'a>(&'a Step);

impl fmt::Display for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.0;
        if let Some(space) = step.space {
            write!(f, ",\"pid\":{}", space.0 + 1)?;
        }
        if let Some(device) = &step.device {
            write!(f, ",\"device\":{}", Quoted(device))?;
        }
        write!(f, ",\"call\":{},\"depth\":{}", Quoted(step.call), step.depth)?;
        for (name, detail) in &step.details {
            match detail {
                Detail::Number(number) => write!(f, ",{}:{number}", Quoted(name))?,
                // Numbers of JSON lose digits of addresses in some readers.
                Detail::Address(_) | Detail::Word(_) => {
                    write!(f, ",{}:{}", Quoted(name), Quoted(&detail.to_string()))?;
                }
            }
        }
        match step.outcome {
            Outcome::Done(address) => write!(f, ",\"result\":{}", address.unwrap_or(0)),
            Outcome::Failed(errno) => write!(f, ",\"errno\":{}", Quoted(errno.name())),
            Outcome::Fatal(fatal) => write!(f, ",\"fatal\":{}", Quoted(&fatal.to_string())),
            Outcome::Running => Ok(()),
        }
    }
}

/// A string of JSON.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                '\0'..'\x20' => write!(f, "\\u{:04x}", u32::from(character))?,
                _ => f.write_char(character)?,
            }
        }
        f.write_char('"')
    }
}

/// The steps of an engine that tells.
#[derive(Default)]
pub(crate) struct Trace {
    steps: Vec<Step>,
    /// The steps that run now, the innermost last.
    running: Vec<usize>,
}

/// What a step is about, besides its details.
#[derive(Clone, Copy, Default)]
pub(crate) struct About {
    /// `None`: that of the step around it.
    pub space: Option<SpaceId>,
    pub object: Option<ObjectId>,
}

impl From<SpaceId> for About {
    fn from(space: SpaceId) -> About {
        About { space: Some(space), object: None }
    }
}

impl From<ObjectId> for About {
    fn from(object: ObjectId) -> About {
        About { space: None, object: Some(object) }
    }
}

/// What of an answer is told.
pub(crate) trait Told {
    /// An address, if it is one.
    fn told(&self) -> Option<u64> {
        None
    }
}

impl Told for () {}
impl Told for PageId {}
impl<F> Told for Layout<F> {}

impl Told for u64 {
    fn told(&self) -> Option<u64> {
        Some(*self)
    }
}

impl<F> Told for Area<F> {
    fn told(&self) -> Option<u64> {
        Some(self.start)
    }
}

impl<M: Mmu> Engine<M> {
    /// Tells each step from here on, for [`Engine::take_trace`] to take.
    pub fn start_trace(&mut self) {
        self.trace.get_or_insert_default();
    }

    /// The steps since the last time, in the order in which they began.
    pub fn take_trace(&mut self) -> Vec<Step> {
        self.trace.as_mut().map(|trace| core::mem::take(&mut trace.steps)).unwrap_or_default()
    }

    /// Runs a step, and tells of it.
    pub(crate) fn step<T: Told, E: Copy + Into<Outcome>, const N: usize>(
        &mut self,
        about: impl Into<About>,
        call: &'static str,
        details: [(&'static str, Detail); N],
        run: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.trace.is_none() {
            return run(self);
        }
        let begun = self.begin(about.into(), call, &details);
        let result = run(self);
        let outcome = result.as_ref().map_or_else(|e| (*e).into(), |t| Outcome::Done(t.told()));
        if let Some(trace) = &mut self.trace {
            trace.running.pop();
            if let Some(step) = begun.and_then(|at| trace.steps.get_mut(at)) {
                step.outcome = outcome;
            }
        }
        result
    }

    fn begin(
        &mut self,
        about: About,
        call: &'static str,
        details: &[(&'static str, Detail)],
    ) -> Option<usize> {
        let device = about.object.map(|object| self.objects.get(object.0).spec.name.clone());
        let trace = self.trace.as_mut()?;
        let around = trace.running.last().and_then(|at| trace.steps.get(*at));
        let space = about.space.or(around.and_then(|step| step.space));
        let depth = trace.running.len();
        let (details, outcome) = (details.to_vec(), Outcome::Running);
        trace.steps.push(Step { depth, space, device, call, details, outcome });
        trace.running.push(trace.steps.len() - 1);
        trace.running.last().copied()
    }
}
