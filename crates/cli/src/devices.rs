//! `devmap devices`: the built-in devices and their options.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde_json::json;

use crate::style::{HEADING, NAME, QUIET};

/// Prints them.
///
/// # Errors
/// Standard output's.
pub fn print(json: bool) -> io::Result<ExitCode> {
    if json {
        writeln!(io::stdout(), "{:#}", as_json())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = anstream::stdout().lock();
    for device in devmap::builtins() {
        writeln!(out, "{NAME}{:<10}{NAME:#}{}", device.name, device.about)?;
        for option in device.options {
            let given = format!("{}={}", option.name, option.value);
            let (help, default) = (option.help, option.default);
            write!(out, "  :{given:<20}{help}")?;
            match default {
                "" => writeln!(out)?,
                default => writeln!(out, " {QUIET}(default {default}){QUIET:#}")?,
            }
        }
    }
    writeln!(
        out,
        "\n{HEADING}Use:{HEADING:#} devmap run --device /dev/mem0=mem:size=64K -- PROGRAM"
    )?;
    Ok(ExitCode::SUCCESS)
}

fn as_json() -> serde_json::Value {
    let device = |device: &devmap::Builtin| {
        let options: Vec<_> = device
            .options
            .iter()
            .map(|option| {
                json!({
                    "name": option.name,
                    "value": option.value,
                    "default": option.default,
                    "help": option.help,
                })
            })
            .collect();
        json!({ "name": device.name, "about": device.about, "options": options })
    };
    devmap::builtins().iter().map(device).collect()
}
