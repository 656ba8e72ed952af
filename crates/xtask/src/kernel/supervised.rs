//! What the programs print under `devmap run` in the guest: each check holds but for
//! those that COMPAT.md names for trapped mode, which must fail; a row for a check that
//! holds is an error too.
//!
//! What does not live here: the boot (`boot`), the comparison with the module
//! (`compare`).

use std::collections::{BTreeMap, BTreeSet};

/// The beginning of the line in COMPAT.md below which the table of trapped mode stands.
const HEADING: &str = "These lines of the programs in tests/conformance fail in trapped mode";

/// The checks that fail in trapped mode, by program.
type Failures = BTreeMap<String, BTreeSet<String>>;

/// One command in the guest.
#[derive(Default)]
struct Run<'a> {
    /// The command as init.sh prints it.
    command: &'a str,
    /// Names of the checks that failed.
    failed: BTreeSet<String>,
    /// Those lines.
    lines: Vec<&'a str>,
    status: &'a str,
}

impl<'a> Run<'a> {
    /// All commands in these results.
    fn all(results: &'a str) -> Vec<Run<'a>> {
        let mut runs = vec![Run::default()];
        for line in results.lines() {
            if let Some(command) = line.strip_prefix("== run ") {
                runs.push(Run { command, status: "none", ..Run::default() });
            } else if let Some(run) = runs.last_mut() {
                if let Some(failure) = line.strip_prefix("FAIL ") {
                    let name = failure.split_once(':').map_or(failure, |(name, _)| name);
                    run.failed.insert(name.to_owned());
                    run.lines.push(line);
                } else if let Some(status) = line.strip_prefix("== exit ") {
                    run.status = status;
                }
            }
        }
        runs.split_off(1)
    }

    /// What is wrong with it.
    fn problems(&self, failures: &Failures) -> Vec<String> {
        let none = BTreeSet::new();
        let program = self.command.split_once(" -- ").and_then(|(options, program)| {
            let name = program.split(' ').next()?;
            options.contains("--mode trapped").then_some(name)
        });
        let expected = program.and_then(|name| failures.get(name)).unwrap_or(&none);
        let status = if expected.is_empty() { "0" } else { "1" };
        let mut problems = Vec::new();
        if self.failed != *expected {
            problems.extend(self.lines.iter().map(|line| (*line).to_owned()));
            problems.extend(expected.difference(&self.failed).map(|name| {
                format!("`{name}` holds, and stands in COMPAT.md as one that fails in trapped mode")
            }));
        }
        if self.status != status {
            problems.push(format!("exit {}, not {status}", self.status));
        }
        problems.into_iter().map(|problem| format!("{}: {problem}", self.command)).collect()
    }
}

/// How many commands ran, and everything that is wrong with what they said.
pub fn judge(results: &str, compat: &str) -> (usize, Vec<String>) {
    let failures = table(compat);
    let runs = Run::all(results);
    (runs.len(), runs.iter().flat_map(|run| run.problems(&failures)).collect())
}

/// The rows of COMPAT.md: program, and the names of its checks in backquotes.
fn table(compat: &str) -> Failures {
    let mut lines = compat.lines().skip_while(|line| !line.starts_with(HEADING));
    lines.next();
    let lines = lines.take_while(|line| !line.starts_with("## "));
    lines
        .filter_map(|line| match line.split('|').map(str::trim).collect::<Vec<_>>()[..] {
            ["", program, names, ""] if names.contains('`') => {
                let names = names.split('`').skip(1).step_by(2).map(str::to_owned);
                Some((program.to_owned(), names.collect()))
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::judge;

    const COMPAT: &str = "These lines of the programs in tests/conformance fail in trapped mode,\n\n\
        | program | line |\n|---|---|\n| a | `x`, `y` |\n## More\n| b | `z` |\n";

    const SOUND: &str = "== run insmod /fuse.ko\n== exit 0\n\
        == run devmap run --device /d=d -- a /d\nok x\nok all\n== exit 0\n\
        == run devmap run --mode trapped --device /d=d -- a /d\n\
        FAIL x: expected 1 got 2\nFAIL y: expected 0 got 1\n== exit 1\n";

    #[test]
    fn what_the_table_names_fails_in_trapped_mode_alone() {
        assert_eq!(judge(SOUND, COMPAT), (3, Vec::new()));
        let cases = [
            ("ok x", "FAIL x: expected 1 got 2", "-- a /d: FAIL x"),
            ("FAIL y: expected 0 got 1", "ok y", "`y` holds"),
            ("FAIL y", "FAIL z", "FAIL z: expected"),
            ("== exit 1", "== exit 139", "exit 139, not 1"),
            ("ok all\n== exit 0", "ok all\n== exit 125", "exit 125, not 0"),
            ("ok all\n== exit 0\n", "ok all\n", "exit none"),
        ];
        for (from, to, expected) in cases {
            let (_, problems) = judge(&SOUND.replace(from, to), COMPAT);
            assert!(problems.iter().any(|text| text.contains(expected)), "{to}: {problems:?}");
        }
    }
}
