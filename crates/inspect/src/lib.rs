//! How `devmap maps` asks a home for the areas of a process: the answer's form, and the
//! socket.
//!
//! It is an abstract Unix socket with the process number of the home in its name, so it leaves
//! no file, and a process's own number or its ancestors lead to it. Both sides look at who the
//! other is: anybody could have taken the name before, and anybody can connect.
//!
//! What does not live here: which areas there are, which each home knows.

#![forbid(unsafe_code)]

mod socket;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use socket::{AreasError, Home, Listener, ancestors, areas};

/// How the pages of an area come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// All at once, when it is mapped (`remap_pfn_range`).
    Remap,
    /// Each at first access (`vm_ops->fault`).
    Fault,
}

/// An area of a program, as `/proc/PID/maps` has it (`proc_pid_maps(5)`), but for what is
/// mapped there: of a device's area these are the device's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// The first address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// Such as `rw-s`.
    pub permissions: String,
    /// Byte of the device, or of the file.
    pub offset: u64,
    /// Major number: of the device, or of the file's file system.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Inode number.
    pub inode: u64,
    /// The device's path, or the last column.
    pub name: String,
    /// `None`: no device's area.
    pub method: Option<Method>,
    /// The page size in bytes.
    pub page: u64,
    /// Pages of it that the program's page table holds.
    pub resident: u64,
    /// Those of them that were written, and not written back since.
    pub dirty: u64,
    /// How full its equal parts are, from 0 to 255, if that was asked for.
    pub cells: Vec<u8>,
}

impl Area {
    /// Whether there can be such an area, of what was wanted: whoever answers may say anything.
    fn is_sound(&self, wanted: Wanted) -> bool {
        self.start < self.end
            && self.page.is_power_of_two()
            && self.cells.len() <= wanted.cells as usize
    }
}

/// Which areas are wanted, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Not those of devices alone.
    pub all: bool,
    /// At most so many [`Area::cells`].
    pub cells: u32,
}

/// A cell for so many resident pages of all: some are not none, and not quite all not all.
pub fn fullness(resident: u64, all: u64) -> u8 {
    match resident {
        0 => 0,
        some => (some.min(all) * 255 / all.max(1)).max(1) as u8,
    }
}

/// A text without characters that a terminal would obey: they become the octal numbers of their
/// bytes, as in `/proc/PID/maps` (`seq_path`).
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            let mut bytes = [0; 4];
            let bytes = character.encode_utf8(&mut bytes).bytes();
            escaped.extend(bytes.map(|byte| format!("\\{byte:03o}")));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

impl fmt::Display for Area {
    /// The form of `/proc/PID/maps` (`show_map_vma`); for a device's area the counts follow.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Area { start, end, permissions, offset, major, minor, inode, .. } = self;
        let numbers = format!(
            "{start:08x}-{end:08x} {} {offset:08x} {major:02x}:{minor:02x} {inode} ",
            escaped(permissions)
        );
        // Names begin in one column, as far as the numbers leave it free.
        write!(f, "{numbers:<73}{}", escaped(&self.name))?;
        match self.method {
            None => Ok(()),
            Some(method) => {
                write!(f, "  {method} resident={} dirty={}", self.resident, self.dirty)
            }
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Remap => "remap",
            Method::Fault => "fault",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_terminal_obeys_a_name() {
        let text = escaped("/dev/\x1b]0;x\x07ä\u{9b}2J\n");
        assert_eq!(text, "/dev/\\033]0;x\\007ä\\302\\2332J\\012");
    }
}
