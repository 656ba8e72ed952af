//! `devmap bench`: what devmap costs, each figure as a ratio to its peer.
//!
//! A figure is measured by two processes that take turns, one under `devmap run`, one
//! against the peer; each is this very command, as a hidden subcommand ([`client`]) that
//! does one thing many times and says how long it took. All processes, the supervisor
//! among them, are pinned to one processor, or with `--apart` the clients to another.
//!
//! What does not live here: the command line's other parts (`cli`), and any access to
//! memory or system call that needs `unsafe` (`sys`).

#![forbid(unsafe_code)]

mod camera;
pub mod client;
mod engine;
mod faulted;
mod figures;
mod group;
mod local;
mod machine;
mod measure;
mod peer_fuse;
mod programs;
mod report;
mod side;
mod statistics;

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};

pub use client::ClientOptions;
pub use figures::Figure;

/// Measures what devmap costs, each figure against its peer
///
/// Rounds of both sides alternate. All processes run on one processor, the first that
/// this command may use (as under `taskset -c 0`), unless `--apart` says otherwise. Exit status 1 when a figure could not
/// be measured; missing a goal is no failure.
#[derive(Clone, Debug, Args)]
pub struct BenchOptions {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Measure these figures only
    #[arg(long, value_enum, value_name = "NAME", num_args = 1..)]
    only: Vec<Figure>,

    /// Rounds of each figure; whole programs take a fifth of that, at least 3
    #[arg(long, default_value_t = 51, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Run the clients on a second processor, and whoever serves them on the first: those figures
    /// only in which both sides have somebody who serves
    #[arg(long)]
    apart: bool,

    /// The mode of devmap
    #[arg(long, value_enum, default_value_t = Modes::Both)]
    mode: Modes,

    /// Keep the time of every round in FILE, as JSON
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Modes {
    /// Devices by a private mount namespace
    Namespace,
    /// Devices by answering the calls that take a path
    Trapped,
    /// One after the other
    Both,
}

/// How devmap makes paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Namespace,
    Trapped,
    /// There are none: the device is in the program itself.
    Local,
    /// There are none: the machine is in the program itself.
    Simulated,
}

impl Mode {
    /// As `devmap run --mode` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Namespace => "namespace",
            Mode::Trapped => "trapped",
            Mode::Local => "local",
            Mode::Simulated => "simulated",
        }
    }
}

impl BenchOptions {
    /// Measures and prints.
    ///
    /// # Errors
    /// Those of the output, and of what all figures need; a figure that cannot be measured
    /// is no error but makes the status 1.
    pub fn run(self) -> io::Result<ExitCode> {
        let modes: &[Mode] = match self.mode {
            Modes::Namespace => &[Mode::Namespace],
            Modes::Trapped => &[Mode::Trapped],
            Modes::Both => &[Mode::Namespace, Mode::Trapped],
        };
        let figures = if self.only.is_empty() { Figure::value_variants() } else { &self.only };
        let alone = self.only.iter().find(|figure| self.apart && !figure.is_served());
        if let Some(figure) = alone {
            let name = figure.name();
            return Err(io::Error::other(format!(
                "--apart: nobody serves {name:?} on both sides; leave one of the two out"
            )));
        }
        // Not when all is measured.
        let keep = self.keep.as_deref().map(create).transpose()?;
        let processors = machine::pin(self.apart)?;
        let machine = machine::Machine::describe(processors)?;
        let bench = measure::Bench::new(self.rounds, processors.clients)?;

        let shows_progress = io::stderr().is_terminal();
        let mut rows = Vec::new();
        for mode in modes.iter().chain([&Mode::Local, &Mode::Simulated]) {
            let is_here = |figure: &&Figure| match figure.home() {
                Some(home) => home == *mode,
                None => modes.contains(mode),
            };
            let is_measured = |figure: &&Figure| !self.apart || figure.is_served();
            for figure in figures.iter().filter(is_here).filter(is_measured) {
                if shows_progress {
                    eprint!("\r\x1b[K{} ({})", figure.about(), mode.name());
                }
                rows.push(report::Row {
                    figure: *figure,
                    mode: *mode,
                    rounds: bench.measure(*figure, *mode),
                });
            }
        }
        if shows_progress {
            eprint!("\r\x1b[K");
        }
        if let Some(mut keep) = keep {
            let raw = report::as_json(&machine, self.rounds, &rows, report::Detail::Rounds);
            writeln!(keep, "{raw:#}")?;
        }
        if self.json {
            let summary = report::as_json(&machine, self.rounds, &rows, report::Detail::Summary);
            writeln!(io::stdout(), "{summary:#}")?;
        } else {
            report::table(&machine, self.rounds, &rows, &mut anstream::stdout().lock())?;
        }
        let all = rows.iter().all(|row| row.rounds.is_ok());
        Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// A file for what is to be kept.
fn create(path: &Path) -> io::Result<File> {
    File::create(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
    })
}
