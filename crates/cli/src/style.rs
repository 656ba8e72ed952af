//! The few styles of what people read. `anstream` leaves them out where the output is
//! no terminal, or `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};

/// A heading.
pub const HEADING: Style = Style::new().bold();
/// Said in passing.
pub const QUIET: Style = Style::new().dimmed();
/// What is as it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What is missed, but can be done without.
pub const LACKING: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// A device, a path, a name.
pub const NAME: Style = AnsiColor::Cyan.on_default();
