//! The text of `/proc/PID/maps` (`show_map_vma`).

use alloc::string::String;
use core::fmt::Write;

use crate::{Area, Engine, Flags, Mmu, SpaceId};

impl<M: Mmu> Engine<M> {
    /// The areas of an address space, a line each, as `proc_pid_maps(5)` describes.
    pub fn maps(&self, space: SpaceId) -> String {
        let mut text = String::new();
        for area in self.space(space).areas.from(0) {
            // A String takes whatever is written to it.
            let _ = self.line(&mut text, area);
        }
        text
    }

    fn line(&self, text: &mut String, area: &Area<M::Frame>) -> core::fmt::Result {
        let bit = |flag, yes, no| if area.flags.contains(flag) { yes } else { no };
        let start = text.len();
        write!(
            text,
            "{:08x}-{:08x} {}{}{}{}",
            area.start,
            area.end,
            bit(Flags::READ, 'r', '-'),
            bit(Flags::WRITE, 'w', '-'),
            bit(Flags::EXEC, 'x', '-'),
            bit(Flags::MAYSHARE, 's', 'p'),
        )?;
        match area.file() {
            None => writeln!(text, " 00000000 00:00 0 "),
            Some(file) => {
                let spec = &self.objects.get(file.object.0).spec;
                let (offset, (major, minor)) = (area.page_offset * self.page_bytes(), spec.device);
                write!(text, " {offset:08x} {major:02x}:{minor:02x} {} ", spec.inode)?;
                // Names begin in one column, as far as the numbers leave it free.
                let used = text.len() - start;
                writeln!(text, "{:width$}{}", "", spec.name, width = 73_usize.saturating_sub(used))
            }
        }
    }
}
