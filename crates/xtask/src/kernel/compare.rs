//! The same programs under `devmap run`, their output held against the guest's, line
//! by line. What differs by nature has a row in COMPAT.md.
//!
//! What does not live here: the runs in the guest (`boot`).

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::boot::programs;
use crate::{
    Result,
    run::{cargo, check, root},
};

/// Runs each program under `devmap run` and compares.
///
/// # Errors
/// Every line that differs and that COMPAT.md does not name.
pub fn run(target: &Path) -> Result {
    check(&mut cargo(&["build", "--quiet", "--package", "devmap-cli"]))?;
    let devmap = super::target().join("debug/devmap");
    let guest = fs::read_to_string(target.join("test.results"))?;
    let compat = fs::read_to_string(root().join("COMPAT.md")).unwrap_or_default();
    let mut unnamed = Vec::new();
    for program in programs()? {
        let path = program.path();
        let output = Command::new(&devmap)
            .args(["run", "--device", &format!("{path}={}", program.device), "--"])
            .arg(target.join("initramfs/bin").join(&program.name))
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        let here = String::from_utf8_lossy(&output.stdout).into_owned();
        fs::write(target.join(format!("{}.supervised", program.name)), &here)?;
        let there = section(&guest, &program.line());
        for difference in differences(&there, &here) {
            let name = difference.split(' ').nth(2).unwrap_or_default().trim_end_matches(':');
            if compat.contains(&format!("`{name}`")) {
                println!("{}: {difference}: in COMPAT.md", program.name);
            } else {
                unnamed.push(format!("{}: {difference}", program.name));
            }
        }
    }
    if unnamed.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the kernel and `devmap run` differ, and COMPAT.md does not say why:\n  {}",
        unnamed.join("\n  ")
    )
    .into())
}

/// What one program printed in the guest.
fn section(results: &str, program: &str) -> String {
    let mut lines =
        results.lines().skip_while(|line| line.strip_prefix("== run ") != Some(program));
    lines.next();
    let lines = lines.take_while(|line| !line.starts_with("== "));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

/// The lines that only one of the two has: `kernel: LINE` or `supervised: LINE`.
fn differences(kernel: &str, supervised: &str) -> Vec<String> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<String>>();
    let (kernel, supervised) = (lines(kernel), lines(supervised));
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>, who: &str| {
        a.difference(b).map(|line| format!("{who}: {line}")).collect::<Vec<_>>()
    };
    let mut all = only(&kernel, &supervised, "kernel");
    all.extend(only(&supervised, &kernel, "supervised"));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_at_its_exit() {
        let results = "== run a /x\nok 1\n== exit 0\n== run b /y\nok 2\nok 3\n== exit 0\n";
        assert_eq!(section(results, "b /y"), "ok 2\nok 3\n");
        assert_eq!(section(results, "c"), "");
    }

    #[test]
    fn differences_are_named_by_side() {
        let found = differences("ok a\nnote msync EINVAL\n", "ok a\nnote msync 0\n");
        assert_eq!(found, ["kernel: note msync EINVAL", "supervised: note msync 0"]);
        assert!(differences("ok a\n", "ok a\n").is_empty());
    }
}
