//! The trace of a home: each step of the mmap path and of the fault path, under the kernel's
//! names, told where it runs. Its form is that of the simulated home.
//!
//! A thread keeps the steps of an operation to itself until that has ended, so those of
//! several threads do not mix. What does not live here: which steps there are.

use std::{cell::RefCell, mem};

use devmap_mm::{
    Fatal,
    trace::{self, Detail, Outcome, Step},
};

use crate::{
    Error, Local,
    core::Core,
    primitives::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// Details of a step.
pub(crate) type Details<'a> = &'a [(&'static str, Detail)];

/// The steps of operations that have ended.
#[derive(Default)]
pub(crate) struct Trace {
    is_told: AtomicBool,
    steps: Mutex<Vec<Step>>,
}

/// The operation of a home that a thread is in.
struct Operation {
    /// Where the home is: a driver's method may use another one.
    home: *const Core,
    steps: Vec<Step>,
    /// The steps that run now, the innermost last.
    running: Vec<usize>,
}

thread_local! {
    static OPERATIONS: RefCell<Vec<Operation>> = const { RefCell::new(Vec::new()) };
}

/// A step that runs, if it is told.
#[must_use]
pub(crate) struct Begun(bool);

/// Pages, as details of a step.
pub(crate) fn pages(pages: &std::ops::Range<u64>) -> [(&'static str, Detail); 2] {
    [("page", Detail::Number(pages.start)), ("pages", Detail::Number(pages.end - pages.start))]
}

/// A page, as the detail of a step.
pub(crate) fn page(page: u64) -> [(&'static str, Detail); 1] {
    [("page", Detail::Number(page))]
}

fn failed(error: &Error) -> Outcome {
    match error {
        Error::PastEnd { .. } => Outcome::Fatal(Fatal::Bus),
        other => Outcome::Failed(other.errno()),
    }
}

impl Core {
    /// Begins a step of this thread, which [`Core::end`] ends.
    #[inline]
    pub(crate) fn begin(&self, device: &str, call: &'static str, details: Details<'_>) -> Begun {
        let is_told = self.trace.is_told.load(Ordering::Relaxed);
        if is_told {
            self.begin_told(device, call, details);
        }
        Begun(is_told)
    }

    /// Ends the step of this thread that began last.
    #[inline]
    pub(crate) fn end(&self, begun: Begun, outcome: impl FnOnce() -> Outcome) {
        if begun.0 {
            self.end_told(outcome());
        }
    }

    /// Runs a step, and tells of it.
    #[inline]
    pub(crate) fn step<T>(
        &self,
        device: &str,
        call: &'static str,
        details: Details<'_>,
        run: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.step_to(device, call, details, |_| None, run)
    }

    /// As [`Core::step`], of one that answers an address.
    #[inline]
    pub(crate) fn step_to<T>(
        &self,
        device: &str,
        call: &'static str,
        details: Details<'_>,
        address: impl FnOnce(&T) -> Option<usize>,
        run: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let begun = self.begin(device, call, details);
        let result = run();
        self.end(begun, || match &result {
            Ok(value) => Outcome::Done(address(value).map(|address| address as u64)),
            Err(error) => failed(error),
        });
        result
    }

    #[cold]
    fn begin_told(&self, device: &str, call: &'static str, details: Details<'_>) {
        let device = (!device.is_empty()).then(|| device.to_owned());
        let (details, outcome) = (details.to_vec(), Outcome::Running);
        OPERATIONS.with_borrow_mut(|operations| {
            if operations.last().is_none_or(|last| last.home != self) {
                let (steps, running) = (Vec::new(), Vec::new());
                operations.push(Operation { home: self, steps, running });
            }
            let Some(operation) = operations.last_mut() else { return };
            let depth = operation.running.len();
            operation.running.push(operation.steps.len());
            operation.steps.push(Step { depth, space: None, device, call, details, outcome });
        });
    }

    #[cold]
    fn end_told(&self, outcome: Outcome) {
        OPERATIONS.with_borrow_mut(|operations| {
            let Some(operation) = operations.last_mut() else { return };
            if let Some(at) = operation.running.pop() {
                operation.steps[at].outcome = outcome;
            }
            if operation.running.is_empty() {
                self.trace.steps.lock().append(&mut operation.steps);
                operations.pop();
            }
        });
    }

    fn take_trace(&self) -> Vec<Step> {
        mem::take(&mut *self.trace.steps.lock())
    }
}

impl Local {
    /// Tells each step of the operations from here on, for [`Local::trace`] to take. Until
    /// then a step costs one look.
    pub fn start_trace(&self) {
        self.core().trace.is_told.store(true, Ordering::Relaxed);
    }

    /// The steps of the operations that have ended since the last time, a line each: the
    /// number of the step, the device, and the kernel's function with how it ended. A step
    /// stands further to the right than the one that it ran within.
    pub fn trace(&self) -> String {
        trace::text(&self.core().take_trace())
    }

    /// The same as JSON, an object a line: see [`trace::json`].
    pub fn trace_json(&self) -> String {
        trace::json(&self.core().take_trace())
    }
}
