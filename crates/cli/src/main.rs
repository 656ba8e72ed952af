//! The `devmap` command: arguments and glue. What a command does lives in its
//! module; how a program is served lives in the libraries.

#![forbid(unsafe_code)]

mod demo;
mod demo_client;
mod devices;
mod doctor;
mod maps;
mod style;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use clap_mangen::roff::{Roff, roman};
use devmap::{DEVMAP_FAILED, EXIT_STATUS, RunOptions, ServeOptions};

/// Let an unmodified program open and map devices written in safe Rust
///
/// A device is a driver in user space; a program started by `devmap run` finds it at
/// its path, opens it, maps it, reads, writes, polls and calls ioctl, as it would a
/// device of the kernel's. No kernel module, no root.
#[derive(Parser)]
#[command(
    name = "devmap",
    version,
    after_help = format!("Exit status of run: {EXIT_STATUS}")
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(override_usage = "devmap run [OPTIONS] -- PROGRAM [ARG]...")]
    Run(RunOptions),
    Serve(ServeOptions),
    Maps(maps::MapsOptions),
    /// Lists the built-in devices and their options
    Devices {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Says what this machine permits, and what each lack costs
    ///
    /// Exit status 0 when `devmap run` can work, else 1.
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows it all: a program maps two devices and shares their memory
    Demo,
    /// The program that `devmap demo` runs
    #[command(hide = true)]
    DemoClient {
        /// Be the second process, which shares the memory of the first
        #[arg(long)]
        second: bool,
    },
    Bench(devmap_bench::BenchOptions),
    #[command(hide = true)]
    BenchClient(devmap_bench::ClientOptions),
    /// Prints the manual page, or that of a subcommand
    Man {
        /// The subcommand
        subcommand: Option<String>,
    },
    /// Prints the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return devmap::usage(&error),
    };
    let done = match cli.command {
        Command::Run(options) => return ExitCode::from(options.run()),
        Command::Serve(options) => return ExitCode::from(options.run()),
        Command::Maps(options) => options.run(),
        Command::Devices { json } => devices::print(json),
        Command::Doctor { json } => doctor::print(json),
        Command::Demo => demo::run(),
        Command::DemoClient { second } => demo_client::run(second),
        Command::Bench(options) => options.run(),
        Command::BenchClient(options) => options.run(),
        Command::Man { subcommand } => man(subcommand.as_deref()),
        Command::Completions { shell } => completions(shell),
    };
    match done {
        Ok(status) => status,
        // Whoever reads has seen enough, as in `devmap devices | head -1`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("devmap: {error}");
            ExitCode::from(DEVMAP_FAILED)
        }
    }
}

/// The manual page of the command, or of one of its subcommands.
fn man(subcommand: Option<&str>) -> io::Result<ExitCode> {
    // There is no page of `devmap help`.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let command = match subcommand {
        None => &mut command,
        Some(name) => command.find_subcommand_mut(name).ok_or_else(|| {
            io::Error::other(format!("there is no subcommand {name:?}; see `devmap --help`"))
        })?,
    };
    let mut text = Vec::new();
    page(command, &mut text)?;
    io::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of a command that is built.
fn page(command: &mut clap::Command, out: &mut Vec<u8>) -> io::Result<()> {
    // What clap_mangen makes of the options by itself has no values and no repetitions.
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let more = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    let name = command.get_display_name().unwrap_or("devmap").to_owned();
    let command = command.clone().override_usage(usage).after_help(None).after_long_help(None);
    clap_mangen::Man::new(command)
        .title(name.to_uppercase())
        .section("1")
        // Pages have none, but an empty one would be left out, and the next stand for it.
        .date(" ")
        .source(concat!("devmap ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands")
        .render(out)?;
    // `Heading: text`, to which clap_mangen would give the heading "EXTRA".
    if let Some((heading, text)) = more.as_deref().and_then(|more| more.split_once(": ")) {
        let mut roff = Roff::new();
        roff.control("SH", [heading.to_uppercase().as_str()]).text([roman(text)]);
        roff.to_writer(out)?;
    }
    Ok(())
}

fn completions(shell: clap_complete::Shell) -> io::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "devmap", &mut text);
    io::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
