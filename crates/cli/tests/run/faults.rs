//! Faults of devmap's own: each system call of it failing in turn. Nothing hangs, no zeros are
//! taken for data, and a message says what failed.
//!
//! Here a sample, the same each time; `cargo xtask faults` has them all.

use std::{
    env, fs,
    process::Command,
    time::{Duration, Instant},
};

use crate::harness::{Client, DEVMAP, Finished, Mode, Run, in_each_mode, start};

in_each_mode!(each_call_fails_in_turn, timers_interrupt_notified_calls_alone);

/// Set for all of them.
const ALL: &str = "DEVMAP_ALL_FAULTS";

/// As long as a sample takes.
const SAMPLE: Duration = Duration::from_secs(15);

/// The clients of a run whose calls fail.
struct Subject {
    injector: Client,
    client: Client,
    mode: Mode,
}

impl Subject {
    /// Runs it with one call failing (or "count"): what came of it, and the injector's notes.
    fn run(&self, task: &str, call: &str) -> (Finished, String) {
        let notes = tempfile::NamedTempFile::new().expect("a file");
        let mut command = Command::new("sh");
        // The shell puts the notes at the number that the injector writes to.
        command.args(["-c", "exec 9>\"$0\"; exec \"$@\""]).arg(notes.path());
        command.args([&*self.injector.path(), task, call, DEVMAP, "run", "--mode", self.mode.0]);
        command.args(["-d", "/dev/demo=demo", "-d", "/dev/events=events", "--"]);
        command.args([&*self.client.path(), "/dev/demo", "/dev/events"]);
        let finished = start(command).finish();
        (finished, fs::read_to_string(notes.path()).expect("the notes"))
    }

    /// Each call of each task.
    fn calls(&self) -> Vec<(usize, usize)> {
        let (finished, notes) = self.run("count", "0");
        assert_eq!(finished.well().stdout, "right\n");
        let tasks = notes.lines().filter_map(|line| line.split_once(' '));
        let tasks = tasks.map(|(task, calls)| (task.parse(), calls.parse::<usize>()));
        let tasks = tasks.map(|(task, calls)| (task.expect("a task"), calls.expect("calls")));
        tasks.flat_map(|(task, calls)| (0..calls).map(move |call| (task, call))).collect()
    }
}

/// What may come of it: the program's own right end, its own failure with a call named, or
/// devmap's with a message.
fn is_fine(finished: &Finished) -> bool {
    // The standard library's, of a thread that it could not start.
    let panics =
        finished.stderr.contains("panicked") && !finished.stderr.contains("alternative stack");
    let own = finished.stderr.contains("devmap: ") || finished.stderr.contains("panicked");
    !panics
        && match finished.status.code() {
            Some(0) => finished.stdout == "right\n",
            // In trapped mode, a program that has lost its supervisor cannot even say so.
            Some(1) => {
                finished.stdout.contains(": ")
                    || finished.stderr.contains("devmap: the supervisor died")
            }
            Some(125..=127) => own,
            // `abort`, of that thread.
            _ => finished.stderr.contains("alternative stack"),
        }
}

fn each_call_fails_in_turn(mode: Mode) {
    let compile = |name| Client::compile_in("tests/faults", name);
    let subject = Subject { injector: compile("failing"), client: compile("client"), mode };
    let mut calls = subject.calls();
    let all = env::var_os(ALL).is_some();
    if !all {
        // Some of all tasks, in an order that is no order.
        calls.sort_by_key(|(task, call)| (call * 0x9e37 + task * 0x79b9) % 0x7f4b);
    }
    let started = Instant::now();
    let mut wrong = Vec::new();
    for (task, call) in calls {
        if !all && started.elapsed() > SAMPLE {
            break;
        }
        let (finished, notes) = subject.run(&task.to_string(), &call.to_string());
        if !is_fine(&finished) {
            let failed = notes.lines().find(|line| line.starts_with("failed")).unwrap_or("");
            wrong.push(format!("task {task}, call {call}, {failed}: {finished:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Calls that a timer without `SA_RESTART` interrupts: those that are notified, and no others.
/// How many they are, COMPAT.md says.
fn timers_interrupt_notified_calls_alone(mode: Mode) {
    let client = Client::compile_in("tests/faults", "timer");
    for hertz in ["100", "1000"] {
        let text =
            Run::new(mode, &["/dev/m=mem"]).prints(&[&*client.path(), "/dev/m", hertz, "300"]);
        let notes = text.lines().filter_map(|line| line.strip_prefix("note ")?.split_once(' '));
        let interrupted: Vec<&str> =
            notes.filter(|(_, count)| *count != "0").map(|(call, _)| call).collect();
        let never: &[&str] = if mode.is_trapped() {
            &["munmap"]
        } else {
            &["open", "read", "write", "ioctl", "poll", "munmap"]
        };
        assert!(!interrupted.iter().any(|call| never.contains(call)), "{text}");
        assert!(text.ends_with("ok all\n"), "{text}");
    }
}
