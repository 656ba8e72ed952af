//! `devmap demo`: runs this very command as a small client under `devmap run`, and
//! shows the trace. What the client does stands in `demo_client`.

use std::{
    env, fs,
    io::{self, Write},
    process::{Command, ExitCode},
};

use crate::{
    demo_client::{MEMORY, TWO_AREAS},
    style::{BAD, GOOD, HEADING, QUIET},
};

/// Runs the demonstration.
///
/// # Errors
/// What kept it from running at all.
pub fn run() -> io::Result<ExitCode> {
    let program = env::current_exe()?;
    let trace = tempfile::NamedTempFile::with_prefix("devmap-trace-")?;
    let devices = [format!("{TWO_AREAS}=demo"), format!("{MEMORY}=mem:size=64K")];

    let mut out = anstream::stdout().lock();
    writeln!(out, "{HEADING}An unmodified program maps devices written in safe Rust{HEADING:#}")?;
    let [demo, mem] = &devices;
    writeln!(
        out,
        "{QUIET}$ devmap run --device {demo} --device {mem} --trace FILE \
         -- devmap demo-client{QUIET:#}\n"
    )?;
    out.flush()?;

    let mut run = Command::new(&program);
    run.arg("run");
    for device in &devices {
        run.arg("--device").arg(device);
    }
    run.arg("--trace").arg(trace.path());
    let status = run.arg("--").arg(&program).arg("demo-client").status()?;

    writeln!(out, "\n{HEADING}What devmap saw{HEADING:#} {QUIET}(--trace){QUIET:#}")?;
    for line in fs::read_to_string(trace.path())?.lines() {
        writeln!(out, "  {line}")?;
    }
    if status.success() {
        writeln!(out, "\n{GOOD}All as it should be.{GOOD:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "\n{BAD}The demonstration failed ({status}).{BAD:#} \
         `devmap doctor` says what this machine permits."
    )?;
    Ok(ExitCode::FAILURE)
}
