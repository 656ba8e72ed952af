//! Random sequences of memory operations, on the kernel and on the simulated home: what
//! each answers, the bytes in memory, and the text of `/proc/PID/maps` must agree. A
//! sequence that disagrees is made short, and printed with the seed that replays it.
//!
//! Linux 6.17 changed which areas merge and what `mremap` moves. On a kernel before it,
//! sequences leave `mremap` out, and lines of maps that could be one count as one.
//!
//! `DEVMAP_MM_OPERATIONS` says how many operations are tried (100,000 unless told),
//! `DEVMAP_MM_SEED` with which seed to begin.

mod native;
mod operations;
mod simulated;

use std::env;

use native::Native;
use operations::{Operation, Random, sequence};

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

fn difference(native: &mut Native, operations: &[Operation]) -> Option<Difference> {
    let recent = native.is_recent();
    let on_kernel = native.run(operations);
    let simulated = simulated::run(native.page_size(), operations);
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
fn shrunk(native: &mut Native, mut operations: Vec<Operation>) -> Vec<Operation> {
    let mut size = operations.len() / 2;
    while size > 0 {
        let mut at = 0;
        let before = operations.len();
        while at < operations.len() {
            let mut fewer = operations.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            if operations::is_possible(&fewer) && difference(native, &fewer).is_some() {
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

#[test]
fn agrees_with_the_kernel() {
    let mut native = Native::start();
    let (total, first) = (setting("DEVMAP_MM_OPERATIONS", 100_000), setting("DEVMAP_MM_SEED", 1));
    for seed in first..first + total.div_ceil(LENGTH as u64) {
        let operations = sequence(&mut Random::new(seed), LENGTH, native.is_recent());
        if difference(&mut native, &operations).is_none() {
            continue;
        }
        let operations = shrunk(&mut native, operations);
        let found = difference(&mut native, &operations).expect("kept while it was made short");
        let list: Vec<String> = operations.iter().map(|op| format!("{op:x?}")).collect();
        panic!(
            "the kernel and the simulation differ at operation {}; replay: DEVMAP_MM_SEED={seed} \
             DEVMAP_MM_OPERATIONS=1\n{}\nkernel: {}\nsimulation: {}",
            found.at,
            list.join("\n"),
            text(&found.native),
            text(&found.simulated),
        );
    }
}

/// The comparison and the shrinking, by a difference that is there for certain.
#[test]
fn a_difference_is_found_and_made_short() {
    let mut native = Native::start();
    let mut operations = sequence(&mut Random::new(7), LENGTH, native.is_recent());
    // No kernel has this advice; the simulation's stand-in takes it.
    operations.insert(100, Operation::Differ);
    assert!(difference(&mut native, &operations).is_some());
    assert_eq!(shrunk(&mut native, operations), [Operation::Differ]);
}
