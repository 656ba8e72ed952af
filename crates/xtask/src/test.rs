//! `cargo xtask test`: the gate, in the order in which things fail soonest.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{
    Result, packages,
    run::{cargo, check, text},
    user,
};

/// Runs everything. The last line counts the tests.
///
/// # Errors
/// The first step that failed.
pub fn run() -> Result {
    let start = Instant::now();
    packages::ensure()?;
    check(&mut cargo(&["fmt", "--all", "--check"]))?;
    check(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ]))?;
    check(
        cargo(&["doc", "--workspace", "--no-deps", "--locked"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    crate::aarch64::run()?;
    let count = tests()?;
    if count.failed == 0 {
        check(Command::new(env::current_exe()?).args(["kernel", "--test"]))?;
    }
    eprintln!("\nAll of it took {} s.", start.elapsed().as_secs());
    println!("{} passed, {} failed", count.passed, count.failed);
    if count.failed > 0 { Err("tests failed".into()) } else { Ok(()) }
}

/// What the test runner counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    /// Adds the counts of a line such as `test result: ok. 3 passed; 0 failed; ...`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']) {
            match part.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// All tests, those in documentation too, and some again as an ordinary user. Goes on
/// after a failure, to count them all.
fn tests() -> Result<Count> {
    let mut count = Count::default();
    let mut all = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    counted(&text(&all), &mut all, &mut count)?;
    for (text, mut command) in user::commands()? {
        counted(&text, &mut command, &mut count)?;
    }
    Ok(count)
}

/// Runs a command that reads as `text`, and adds what it counted.
fn counted(text: &str, command: &mut Command, count: &mut Count) -> Result {
    eprintln!("\n$ {text}");
    let failed_before = count.failed;
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    if let Some(output) = child.stdout.take() {
        copy_counting(output, count)?;
    }
    let status = child.wait()?;
    if !status.success() && count.failed == failed_before {
        return Err(format!("{text}: {status}").into());
    }
    Ok(())
}

fn copy_counting(output: impl Read, count: &mut Count) -> Result {
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        count.add(&line);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn results_add_up() {
        let mut count = Count::default();
        count.add("test result: ok. 3 passed; 0 failed; 0 ignored; finished in 0.00s");
        count.add("test result: FAILED. 1 passed; 2 failed; 0 ignored");
        count.add("test driver::reads_7_passed ... ok");
        assert_eq!(count, Count { passed: 4, failed: 2 });
    }
}
