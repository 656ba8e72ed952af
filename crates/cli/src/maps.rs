//! `devmap maps`: the areas of a program that runs with devices.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anstyle::{Color, Style};
use clap::Args;
use devmap::DEVMAP_FAILED;
use devmap_inspect::{Area, Wanted, areas, escaped};

use crate::style::{HEADING, NAME, QUIET};

/// Shows the areas of a program that maps devices
///
/// One line for each area, in the form of /proc/PID/maps, with the device's own path,
/// number and offset; then how its pages come (remap: all at once, fault: each at first
/// access), how many the program's page table holds, and how many of those were written
/// and not written back.
#[derive(Args)]
pub struct MapsOptions {
    /// A process of a `devmap run`, or one with a home of its own that answers
    pid: u32,
    /// Areas of other files, and of none, too
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "heatmap")]
    json: bool,
    /// Draw which pages are resident
    #[arg(long)]
    heatmap: bool,
}

/// Rows of a picture, at most.
const ROWS: u32 = 8;
/// Where the width of the terminal is not known.
const WIDTH: u16 = 80;

impl MapsOptions {
    /// Prints them.
    ///
    /// # Errors
    /// Standard output's.
    pub fn run(&self) -> io::Result<ExitCode> {
        let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| width.0);
        let width = u32::from(width).saturating_sub(2).max(8);
        let cells = if self.heatmap { width * ROWS } else { 0 };
        let found = match areas(self.pid, Wanted { all: self.all, cells }) {
            Ok(found) => found,
            Err(error) => {
                anstream::eprintln!("devmap: {error}");
                return Ok(ExitCode::from(DEVMAP_FAILED));
            }
        };
        let mut out = anstream::stdout().lock();
        if self.json {
            writeln!(out, "{:#}", serde_json::to_value(&found)?)?;
        } else if self.heatmap {
            found.iter().try_for_each(|area| picture(&mut out, area, width as usize))?;
            legend(&mut out)?;
        } else {
            found.iter().try_for_each(|area| writeln!(out, "{area}"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A cell's look by how full it is, in eighths: a character that tells without colour, and
/// a colour from cold to hot.
const LOOKS: [(char, u8); 9] = [
    ('·', 238),
    ('░', 24),
    ('░', 31),
    ('▒', 37),
    ('▒', 71),
    ('▓', 106),
    ('▓', 178),
    ('█', 172),
    ('█', 202),
];

fn look(cell: u8) -> (char, Style) {
    // Some is not none, and not quite all is not all.
    let eighth = match cell {
        0 => 0,
        255 => 8,
        some => 1 + usize::from(some) * 7 / 255,
    };
    let (character, colour) = LOOKS[eighth];
    (character, Style::new().fg_color(Some(Color::Ansi256(colour.into()))))
}

fn picture(out: &mut impl Write, area: &Area, width: usize) -> io::Result<()> {
    let pages = (area.end - area.start) / area.page;
    writeln!(
        out,
        "{NAME}{}{NAME:#} {HEADING}{}{HEADING:#} +{:#x} {QUIET}{:x}-{:x}{QUIET:#} {pages} pages, resident={} dirty={}",
        escaped(&area.name),
        escaped(&area.permissions),
        area.offset,
        area.start,
        area.end,
        area.resident,
        area.dirty
    )?;
    for row in area.cells.chunks(width) {
        write!(out, "  ")?;
        let mut last = None;
        for cell in row {
            let (character, style) = look(*cell);
            if last != Some(style) {
                if let Some(last) = last {
                    write!(out, "{last:#}")?;
                }
                write!(out, "{style}")?;
            }
            write!(out, "{character}")?;
            last = Some(style);
        }
        writeln!(out, "{:#}", last.unwrap_or_default())?;
    }
    Ok(())
}

fn legend(out: &mut impl Write) -> io::Result<()> {
    write!(out, "{QUIET}resident:{QUIET:#}")?;
    for (cell, text) in [(0, "none"), (20, "few"), (130, "half"), (220, "most"), (255, "all")] {
        let (character, style) = look(cell);
        write!(out, " {style}{character}{style:#} {text}")?;
    }
    writeln!(out)
}
