//! `devmap doctor`: what this machine permits, for people and as JSON.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use devmap::probe::{self, Finding, Need, Report};
use serde_json::json;

use crate::style::{BAD, GOOD, HEADING, LACKING, QUIET};

/// Prints the report; status 1 when `devmap run` cannot do its main job.
///
/// # Errors
/// Standard output's.
pub fn print(json: bool) -> io::Result<ExitCode> {
    let report = probe::examine();
    if json {
        writeln!(io::stdout(), "{:#}", as_json(&report))?;
    } else {
        table(&report, &mut anstream::stdout().lock())?;
    }
    Ok(if report.can_run() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let Report { kernel, machine, uid, findings } = report;
    writeln!(out, "{HEADING}Linux {kernel}, {machine}, user {uid}{HEADING:#}\n")?;
    for Finding { name, permitted, found, need, cost, remedy } in findings {
        let (style, mark) = match (permitted, need) {
            (true, _) => (GOOD, "yes"),
            (false, Need::Run) => (BAD, "NO"),
            (false, Need::Namespace | Need::Better) => (LACKING, "no"),
            (false, Need::Nothing) => (QUIET, "no"),
        };
        writeln!(out, "  {style}{mark:<4}{style:#} {name:<25} {QUIET}{found}{QUIET:#}")?;
        if !permitted {
            writeln!(out, "       costs {cost}")?;
            if !remedy.is_empty() {
                writeln!(out, "       {QUIET}try {remedy}{QUIET:#}")?;
            }
        }
    }
    writeln!(out)?;
    match mode(report) {
        Some(mode) => {
            writeln!(out, "{GOOD}devmap run can serve programs here, in {mode} mode.{GOOD:#}")
        }
        None => writeln!(out, "{BAD}devmap run cannot serve programs here.{BAD:#}"),
    }
}

/// The mode that a run will find.
fn mode(report: &Report) -> Option<&'static str> {
    match (report.can_run(), report.can_use_namespace()) {
        (false, _) => None,
        (true, true) => Some("namespace"),
        (true, false) => Some("trapped"),
    }
}

fn as_json(report: &Report) -> serde_json::Value {
    let finding = |finding: &Finding| {
        let Finding { name, permitted, found, need, cost, remedy } = finding;
        let need = match need {
            Need::Run => "run",
            Need::Namespace => "namespace",
            Need::Better => "better",
            Need::Nothing => "nothing",
        };
        json!({
            "name": name,
            "permitted": permitted,
            "found": found,
            "needed_for": need,
            "cost_of_lack": cost,
            "remedy": remedy,
        })
    };
    json!({
        "kernel": report.kernel,
        "machine": report.machine,
        "uid": report.uid,
        "can_run": report.can_run(),
        "mode": mode(report),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}
