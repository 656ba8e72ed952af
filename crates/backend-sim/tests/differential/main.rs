//! Random sequences of memory operations, on the kernel and on the simulated home: what
//! each answers, the bytes in memory, and the text of `/proc/PID/maps` must agree. A
//! sequence that disagrees is made short, and printed with the seed that replays it.
//!
//! Linux 6.17 changed which areas merge and what `mremap` moves. On a kernel before it,
//! sequences leave `mremap` out, and lines of maps that could be one count as one.
//!
//! `DEVMAP_MM_OPERATIONS` says how many operations are tried (a million unless told),
//! `DEVMAP_MM_SEED` with which seed to begin; `cargo xtask differential` sets them.

// Its other side is another process, which Miri cannot start.
#![cfg(not(miri))]

mod native;
mod operations;
mod simulated;

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use native::Native;
use operations::{Operation, Random, sequence};
use simulated::Rules;

/// How many operations a sequence has.
const LENGTH: usize = 200;

/// What an operation gave: its result, or a negated errno, and bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    result: i64,
    bytes: Vec<u8>,
}

/// Where the two part.
struct Difference {
    at: usize,
    native: Answer,
    simulated: Answer,
}

fn difference(native: &mut Native, operations: &[Operation], rules: Rules) -> Option<Difference> {
    let recent = native.kernel().is_recent;
    let on_kernel = native.run(operations);
    let simulated = simulated::run(native.page_size(), operations, rules);
    let pairs = on_kernel.into_iter().zip(simulated).zip(operations).enumerate();
    pairs.into_iter().find_map(|(at, ((native, simulated), operation))| {
        let same = match operation {
            Operation::Maps { .. } => {
                let form = |answer: &Answer| operations::normalised(&answer.bytes, recent);
                form(&native) == form(&simulated)
            }
            _ => native == simulated,
        };
        (!same).then_some(Difference { at, native, simulated })
    })
}

/// A shorter sequence that still makes a difference: parts are left out for as long as
/// that can be done.
fn shrunk(native: &mut Native, mut operations: Vec<Operation>, rules: Rules) -> Vec<Operation> {
    let mut size = operations.len() / 2;
    while size > 0 {
        let mut at = 0;
        let before = operations.len();
        while at < operations.len() {
            let mut fewer = operations.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            if operations::is_possible(&fewer) && difference(native, &fewer, rules).is_some() {
                operations = fewer;
            } else {
                at += size;
            }
        }
        if operations.len() == before || size > 1 {
            size /= 2;
        }
    }
    operations
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn text(answer: &Answer) -> String {
    let is_text = !answer.bytes.is_empty() && answer.bytes.is_ascii() && answer.bytes.len() > 40;
    if is_text {
        format!("\n{}", String::from_utf8_lossy(&answer.bytes))
    } else {
        format!("{} {:02x?}", answer.result, answer.bytes)
    }
}

/// What is printed of a seed whose sequence differs, made short.
fn report(native: &mut Native, seed: u64, operations: Vec<Operation>) -> String {
    let operations = shrunk(native, operations, Rules::Engine);
    let found =
        difference(native, &operations, Rules::Engine).expect("kept while it was made short");
    let list: Vec<String> = operations.iter().map(|op| format!("{op:x?}")).collect();
    format!(
        "the kernel and the simulation differ at operation {}; replay: \
         cargo xtask differential --seed {seed} --operations 1\n{}\nkernel: {}\nsimulation: {}",
        found.at,
        list.join("\n"),
        text(&found.native),
        text(&found.simulated),
    )
}

#[test]
fn agrees_with_the_kernel() {
    let (total, first) = (setting("DEVMAP_MM_OPERATIONS", 1_000_000), setting("DEVMAP_MM_SEED", 1));
    let (next, end) = (AtomicU64::new(first), first + total.div_ceil(LENGTH as u64));
    let found = Mutex::new(None);
    // Each thread has a kernel's side of its own.
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(4));
    let work = || {
        let mut native = Native::start();
        while found.lock().is_ok_and(|found| found.is_none()) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let operations = sequence(&mut Random::new(seed), LENGTH, native.kernel());
            if difference(&mut native, &operations, Rules::Engine).is_some() {
                let report = report(&mut native, seed, operations);
                found.lock().expect("no one panics with it").get_or_insert(report);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    if let Some(report) = found.into_inner().expect("no one panics with it") {
        panic!("{report}");
    }
}

/// An engine with a broken rule: the seed shows it, each time alike, and what is left of the
/// sequence is as short as can be.
#[test]
fn a_broken_rule_is_found_and_made_short() {
    let mut native = Native::start();
    let kernel = native.kernel();
    let broken = |seed| sequence(&mut Random::new(seed), LENGTH, kernel);
    let mut differs = |seed| difference(&mut native, &broken(seed), Rules::ProtectsNothing);
    let seed = (1..).find(|seed| differs(*seed).is_some()).expect("soon");
    let (first, again) = (differs(seed), differs(seed));
    assert_eq!(first.map(|found| found.at), again.map(|found| found.at), "it replays");
    let short = shrunk(&mut native, broken(seed), Rules::ProtectsNothing);
    let protects = |operation: &&Operation| matches!(operation, Operation::Protect { .. });
    assert_eq!(short.iter().filter(protects).count(), 1, "{short:x?}");
    assert!(short.len() <= 4, "{short:x?}");
    assert!(difference(&mut native, &short, Rules::ProtectsNothing).is_some());
    assert!(difference(&mut native, &short, Rules::Engine).is_none());
}
