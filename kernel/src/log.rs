//! Lines for the kernel log, formatted on the stack, and the end of a driver that
//! panics.
//!
//! What does not live here: what is logged and when.

use core::fmt::{self, Write as _};

use crate::shim;

/// One line: what does not fit is cut off.
pub struct Line {
    bytes: [u8; 200],
    len: usize,
}

impl Line {
    /// Formats a line.
    pub fn format(arguments: fmt::Arguments<'_>) -> Line {
        let mut line = Line { bytes: [0; 200], len: 0 };
        // An error is a Display that gave up: what it wrote is kept.
        let _ = line.write_fmt(arguments);
        line
    }

    /// Its bytes.
    pub fn text(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let count = text.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        Ok(())
    }
}

/// Logs an error (`pr_err`).
pub fn error(arguments: fmt::Arguments<'_>) {
    let line = Line::format(arguments);
    let text = line.text();
    // SAFETY: the text is a slice.
    unsafe { shim::devmap_log(text.as_ptr(), text.len()) };
}

/// Says which file and line, then stops as the kernel's own `BUG()` does: an invalid
/// instruction, so an oops for the process whose call it was.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let line = Line::format(format_args!("{info}"));
    let text = line.text();
    // SAFETY: the text is a slice.
    unsafe { shim::devmap_panic(text.as_ptr(), text.len()) };
    // SAFETY: ud2 raises the invalid-opcode exception and does not return. objtool
    // knows it for the end of the path.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}
