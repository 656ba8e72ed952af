//! The trace of a test's kernel, as text and as JSON: one line for each step, in the form of
//! `devmap run --trace`. What is told is the engine's affair (`devmap_mm::trace`).

use devmap_mm::trace::{self, Detail, Outcome, Step};
use serde_json::{Map, Value};

use crate::MockKernel;

impl MockKernel {
    /// Records each step of the operations from here on.
    pub fn start_trace(&self) {
        self.with_engine(|engine| engine.start_trace());
    }

    /// The steps since the last time, a line each: the number of the step, the process, what
    /// it is about, and the kernel's function with how it ended. A step stands further to the
    /// right than the one that it ran within.
    pub fn trace(&self) -> String {
        trace::text(&self.with_engine(|engine| engine.take_trace()))
    }

    /// The same as JSON, an object a line: `step`, `pid`, `device`, `call`, `depth`, the
    /// details by their names, and `result` or `errno` or `fatal`.
    pub fn trace_json(&self) -> String {
        let steps = self.with_engine(|engine| engine.take_trace());
        steps.iter().zip(1..).map(|(step, number)| json(step, number)).collect()
    }
}

fn json(step: &Step, number: u64) -> String {
    let mut object = Map::new();
    object.insert("step".into(), number.into());
    if let Some(space) = step.space {
        object.insert("pid".into(), (space.0 + 1).into());
    }
    if let Some(device) = &step.device {
        object.insert("device".into(), device.as_str().into());
    }
    object.insert("call".into(), step.call.into());
    object.insert("depth".into(), step.depth.into());
    for (name, detail) in &step.details {
        let value = match detail {
            Detail::Number(number) => Value::from(*number),
            // Numbers of JSON lose digits of addresses in some readers.
            Detail::Address(_) | Detail::Word(_) => Value::from(detail.to_string()),
        };
        object.insert((*name).into(), value);
    }
    match step.outcome {
        Outcome::Done(address) => object.insert("result".into(), address.unwrap_or(0).into()),
        Outcome::Failed(errno) => object.insert("errno".into(), errno.name().into()),
        Outcome::Fatal(fatal) => object.insert("fatal".into(), fatal.to_string().into()),
        Outcome::Running => None,
    };
    format!("{}\n", Value::Object(object))
}
