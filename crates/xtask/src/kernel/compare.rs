//! The same programs under `devmap run`, their output held against the guest's, line
//! by line. What differs by nature is a row of a table in COMPAT.md, with the rule
//! behind it; a row that no longer holds is an error too.
//!
//! What does not live here: the runs in the guest (`boot`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::boot::programs;
use crate::{Result, run::root};

/// The heading in COMPAT.md under which the table stands.
const HEADING: &str = "## The kernel module";

/// The heading of the table of what differs between vivid and the device `camera`.
const CAMERAS: &str = "## The camera";

/// The table's word for a check or a note that one side does not print.
const ABSENT: &str = "-";

/// Program and name of a line, then what the kernel and `devmap run` say there.
type Differences = BTreeMap<(String, String), (String, String)>;

/// Runs each program under `devmap run` and compares.
///
/// # Errors
/// Every check that fails; every line that differs and has no row; every row that
/// does not hold.
pub fn run(target: &Path) -> Result {
    let devmap = super::target().join("debug/devmap");
    let guest = fs::read_to_string(target.join("test.results"))?;
    let compat = fs::read_to_string(root().join("COMPAT.md"))?;
    let mut found = Differences::new();
    let mut problems = Vec::new();
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
        if !output.status.success() {
            problems.push(format!("{} under devmap run: {}", program.name, output.status));
        }
        let failed = here.lines().filter(|line| line.starts_with("FAIL"));
        problems.extend(failed.map(|line| format!("{} under devmap run: {line}", program.name)));
        for (name, sides) in differences(&section(&guest, &program.line()), &here) {
            // A check that fails is named already.
            if !here.contains(&format!("FAIL {name}:")) {
                found.insert((program.name.clone(), name), sides);
            }
        }
    }
    problems.extend(judge(&found, &table(&compat, HEADING)));
    if problems.is_empty() {
        println!("{} lines differ from the kernel's as COMPAT.md says", found.len());
        return Ok(());
    }
    Err(format!("the kernel and devmap run:\n  {}", problems.join("\n  ")).into())
}

/// Holds the device `camera` against the kernel's vivid, by what the camera client prints.
///
/// # Errors
/// As [`run`].
pub fn cameras(target: &Path) -> Result {
    let output = Command::new(super::target().join("debug/devmap"))
        .args(["run", "--device", "/dev/video0=camera:pace=client", "--"])
        .arg(target.join("initramfs/bin/camera"))
        .arg("/dev/video0")
        .stdin(Stdio::null())
        // What VIDIOC_LOG_STATUS says.
        .stderr(Stdio::null())
        .output()?;
    let here = String::from_utf8_lossy(&output.stdout).into_owned();
    fs::write(target.join("camera.supervised"), &here)?;
    if !output.status.success() {
        return Err(format!("camera under devmap run: {}\n{here}", output.status).into());
    }
    let guest = fs::read_to_string(target.join("camera.results"))?;
    let kernel = section(&guest, "camera /dev/video0");
    let found = differences(&kernel, &here).into_iter();
    let found = found.map(|(name, sides)| (("camera".to_owned(), name), sides)).collect();
    let compat = fs::read_to_string(root().join("COMPAT.md"))?;
    let problems = judge(&found, &table(&compat, CAMERAS));
    if problems.is_empty() {
        let lines = said(&kernel).len();
        println!("camera and vivid: {} of {lines} lines differ as COMPAT.md says", found.len());
        return Ok(());
    }
    Err(format!("vivid and the camera:\n  {}", problems.join("\n  ")).into())
}

/// What one program printed in the guest.
fn section(results: &str, program: &str) -> String {
    let mut lines =
        results.lines().skip_while(|line| line.strip_prefix("== run ") != Some(program));
    lines.next();
    let lines = lines.take_while(|line| !line.starts_with("== "));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

/// What each line says: the name of a check or note, and `ok` or the note's value. A
/// failed check is reported by itself, and so is the last line.
fn said(output: &str) -> BTreeMap<String, String> {
    let lines = output.lines().filter(|line| *line != "ok all");
    lines
        .filter_map(|line| match line.split_once(' ')? {
            ("ok", name) => Some((name.to_owned(), "ok".to_owned())),
            ("note", note) => {
                let (name, value) = note.split_once(' ').unwrap_or((note, ""));
                Some((name.to_owned(), value.to_owned()))
            }
            _ => None,
        })
        .collect()
}

/// The names of which the two do not say the same, with what they say.
fn differences(kernel: &str, supervised: &str) -> Vec<(String, (String, String))> {
    let (kernel, supervised) = (said(kernel), said(supervised));
    let names: BTreeSet<&String> = kernel.keys().chain(supervised.keys()).collect();
    let of = |side: &BTreeMap<String, String>, name| {
        side.get(name).cloned().unwrap_or_else(|| ABSENT.to_owned())
    };
    names
        .into_iter()
        .map(|name| (name.clone(), (of(&kernel, name), of(&supervised, name))))
        .filter(|(_, (kernel, supervised))| kernel != supervised)
        .collect()
}

/// The rows of COMPAT.md: program, name, kernel's value, supervised value, the rule.
fn table(compat: &str, heading: &str) -> Differences {
    let mut lines = compat.lines().skip_while(|line| *line != heading);
    lines.next();
    let lines = lines.take_while(|line| !line.starts_with("## "));
    lines
        .filter_map(|line| {
            let cells: Vec<&str> =
                line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            match cells[..] {
                ["", program, name, kernel, supervised, rule, ""]
                    if !rule.is_empty() && !rule.starts_with('-') && name != "line" =>
                {
                    let sides = (kernel.to_owned(), supervised.to_owned());
                    Some(((program.to_owned(), name.to_owned()), sides))
                }
                _ => None,
            }
        })
        .collect()
}

/// What does not agree between what was found and what the table says.
fn judge(found: &Differences, table: &Differences) -> Vec<String> {
    let mut problems = Vec::new();
    for ((program, name), (kernel, supervised)) in found {
        if table.get(&(program.clone(), name.clone()))
            != Some(&(kernel.clone(), supervised.clone()))
        {
            problems.push(format!(
                "COMPAT.md has no row: | {program} | `{name}` | {kernel} | {supervised} | WHY |"
            ));
        }
    }
    for (program, name) in table.keys().filter(|key| !found.contains_key(*key)) {
        problems.push(format!("COMPAT.md has a row for {program} {name}, which does not differ"));
    }
    problems
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

    const COMPAT: &str = "## Other\n| `x` | same | | |\n## The kernel module\n\n\
        | program | line | kernel | `devmap run` | the rule |\n|---|---|---|---|---|\n\
        | a | `msync` | EINVAL | 0 | no `fsync` |\n| a | `extra` | - | ok | follows |\n\
        ## More\n| a | `no` | 1 | 2 | 3 |\n";

    fn judged(kernel: &str, supervised: &str) -> Vec<String> {
        let found = differences(kernel, supervised).into_iter();
        judge(
            &found.map(|(name, sides)| (("a".into(), name), sides)).collect(),
            &table(COMPAT, HEADING),
        )
    }

    #[test]
    fn what_the_table_says_may_differ_and_nothing_else() {
        let (kernel, supervised) = ("ok b\nnote msync EINVAL\n", "ok b\nnote msync 0\nok extra\n");
        assert_eq!(judged(kernel, supervised), Vec::<String>::new());
        assert!(judged(kernel, &supervised.replace("msync 0", "msync EIO"))[0].contains("no row"));
        assert!(
            judged(kernel, &supervised.replace("ok b\n", ""))[0].contains("| a | `b` | ok | - |")
        );
        let same = judged(kernel, kernel);
        assert!(
            same.iter().any(|text| text.contains("a msync, which does not differ")),
            "{same:?}"
        );
    }
}
