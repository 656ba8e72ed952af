//! The trace of a test's kernel, as text and as JSON: one line for each step, in the form of
//! `devmap run --trace`. What is told is the engine's affair (`devmap_mm::trace`).

use devmap_mm::trace;

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

    /// The same as JSON, an object a line: see [`trace::json`].
    pub fn trace_json(&self) -> String {
        trace::json(&self.with_engine(|engine| engine.take_trace()))
    }
}
