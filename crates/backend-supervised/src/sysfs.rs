//! What stands below `/sys` for a device: under its number, and in its class.
//!
//! With a class it is where the kernel has devices that no bus leads to:
//! `/sys/devices/virtual/CLASS/NAME`, with links to it from `/sys/class/CLASS` and from
//! `/sys/dev/char`. What does not live here: how these files come before a program
//! (`namespace`, `trapped`).

use std::path::{Path, PathBuf};

use devmap_driver::Kind;
use serde::{Deserialize, Serialize};

use crate::opens::DeviceEntry;

/// Where devices are found by number.
pub(crate) const CHAR: &str = "/sys/dev/char";
/// Where classes are.
pub(crate) const CLASS: &str = "/sys/class";
/// Where the devices of a class are that no bus leads to.
pub(crate) const VIRTUAL: &str = "/sys/devices/virtual";

/// The class of a device, as its driver has told, and the texts of its attributes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClassEntry {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
}

impl ClassEntry {
    /// Whether all its names are those of files.
    pub(crate) fn has_plain_names(&self) -> bool {
        let is_plain =
            |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        is_plain(&self.name) && self.attributes.iter().all(|(name, _)| is_plain(name))
    }
}

/// What is at a path.
pub(crate) enum Content {
    Text(String),
    Link(PathBuf),
}

/// The name of a device of a class, with the name of the class before it, as in
/// `video4linux/video0`.
pub(crate) fn in_class(device: &Path, class: &ClassEntry) -> PathBuf {
    let name = match device.strip_prefix("/dev") {
        Ok(name) => name.to_string_lossy(),
        Err(_) => device.file_name().unwrap_or_default().to_string_lossy(),
    };
    // As the kernel does, where a device's name is a path.
    Path::new(&class.name).join(name.replace('/', "!"))
}

/// All files and links for a device. Their directories are where they are.
pub(crate) fn files(device: &DeviceEntry) -> Vec<(PathBuf, Content)> {
    let Kind::Character(_) = device.metadata.kind else { return Vec::new() };
    let (major, minor) = device.number;
    let number = format!("{major}:{minor}");
    let name = device.path.strip_prefix("/dev").unwrap_or(&device.path).display();
    let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\n");
    let by_number = Path::new(CHAR).join(&number);
    let mut files = Vec::new();
    let directory = match &device.class {
        None => by_number,
        Some(class) => {
            let inside = in_class(&device.path, class);
            let target = Path::new("../../devices/virtual").join(&inside);
            files.push((by_number, Content::Link(target.clone())));
            files.push((Path::new(CLASS).join(&inside), Content::Link(target)));
            let directory = Path::new(VIRTUAL).join(&inside);
            let subsystem = Path::new("../../../../class").join(&class.name);
            files.push((directory.join("subsystem"), Content::Link(subsystem)));
            for (name, text) in &class.attributes {
                files.push((directory.join(name), Content::Text(text.clone())));
            }
            directory
        }
    };
    files.push((directory.join("dev"), Content::Text(format!("{number}\n"))));
    files.push((directory.join("uevent"), Content::Text(uevent)));
    files
}
