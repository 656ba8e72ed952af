//! The figures as a table for people and as JSON.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use crate::{Figure, Mode, machine::Machine, measure::Round, statistics::Summary};

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// A figure in one mode.
pub(crate) struct Row {
    pub(crate) figure: Figure,
    pub(crate) mode: Mode,
    /// What was measured, or why nothing was.
    pub(crate) rounds: Result<Vec<Round>, String>,
}

/// How much JSON holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    Summary,
    Rounds,
}

/// Three summaries of the rounds of a figure.
struct Summaries {
    devmap: Summary,
    peer: Summary,
    /// Of each round's ratio, so what slows both sides of a round cancels out.
    ratio: Summary,
}

impl Summaries {
    fn of(rounds: &[Round]) -> Summaries {
        Summaries {
            devmap: Summary::of(rounds.iter().map(|round| round.devmap)),
            peer: Summary::of(rounds.iter().map(|round| round.peer)),
            ratio: Summary::of(rounds.iter().map(|round| round.devmap / round.peer)),
        }
    }

    /// Whether the goal is met, to the two digits that are printed.
    fn meets(&self, goal: f64) -> bool {
        (self.ratio.median * 100.0).round() <= goal * 100.0
    }
}

/// The table. Errors are the output's.
pub(crate) fn table(
    machine: &Machine,
    rounds: u32,
    rows: &[Row],
    out: &mut impl Write,
) -> io::Result<()> {
    writeln!(out, "{}", machine.lines(rounds))?;
    writeln!(out, "Times are medians; ratios are medians of the rounds', with quartiles.\n")?;
    writeln!(
        out,
        "{HEADING}{:<34} {:<10} {:>10} {:>10}  {:<18} {:>5} {:>17}  {:>5}{HEADING:#}",
        "figure", "mode", "devmap", "peer", "which is", "ratio", "quartiles", "goal"
    )?;
    for row in rows {
        let (about, peer) = (row.figure.about(), row.figure.peer());
        write!(out, "{about:<34} {:<10} ", row.mode.name())?;
        let rounds = match &row.rounds {
            Ok(rounds) => rounds,
            Err(why) => {
                writeln!(out, "{BAD}not measured{BAD:#}: {why}")?;
                continue;
            }
        };
        let summaries = Summaries::of(rounds);
        let Summaries { devmap, peer: peers, ratio } = &summaries;
        let spread = format!("{:.2} .. {:.2}", ratio.lower, ratio.upper);
        write!(
            out,
            "{:>10} {:>10}  {peer:<18} {:>5.2} {spread:>17}  ",
            time(devmap.median),
            time(peers.median),
            ratio.median
        )?;
        match row.figure.goal(row.mode) {
            None => writeln!(out, "{:>5}", "-")?,
            Some(goal) if summaries.meets(goal) => {
                writeln!(out, "{goal:>5.2}  {GOOD}met{GOOD:#}")?;
            }
            Some(goal) => writeln!(out, "{goal:>5.2}  {BAD}missed{BAD:#}")?,
        }
    }
    Ok(())
}

/// All of it, with the time of every round if asked for. Times are nanoseconds.
pub(crate) fn as_json(machine: &Machine, rounds: u32, rows: &[Row], detail: Detail) -> Value {
    let summary = |summary: &Summary| {
        let Summary { median, lower, upper } = summary;
        json!({ "median": median, "lower_quartile": lower, "upper_quartile": upper })
    };
    let row = |row: &Row| {
        let goal = row.figure.goal(row.mode);
        let mut value = json!({
            "figure": row.figure.name(),
            "about": row.figure.about(),
            "mode": row.mode.name(),
            "peer": row.figure.peer(),
            "goal": goal,
        });
        match &row.rounds {
            Err(why) => value["not_measured"] = json!(why),
            Ok(rounds) => {
                let summaries = Summaries::of(rounds);
                value["devmap_ns"] = summary(&summaries.devmap);
                value["peer_ns"] = summary(&summaries.peer);
                value["ratio"] = summary(&summaries.ratio);
                value["met"] = json!(goal.map(|goal| summaries.meets(goal)));
                if detail == Detail::Rounds {
                    value["rounds"] =
                        rounds.iter().map(|round| json!([round.devmap, round.peer])).collect();
                }
            }
        }
        value
    };
    json!({
        "machine": machine.as_json(),
        "rounds": rounds,
        "figures": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Nanoseconds in a unit that suits.
fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ..1e3 => format!("{nanoseconds:.1} ns"),
        ..1e6 => format!("{:.2} us", nanoseconds / 1e3),
        _ => format!("{:.2} ms", nanoseconds / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_to_two_digits() {
        let at = |ratio| Summaries::of(&[Round { devmap: ratio, peer: 1.0 }]).meets(1.1);
        assert!(at(1.1) && at(1.104) && at(0.5));
        assert!(!at(1.106));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time(142.04), "142.0 ns");
        assert_eq!(time(8_512.0), "8.51 us");
        assert_eq!(time(2e9), "2000.00 ms");
    }
}
