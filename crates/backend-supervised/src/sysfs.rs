//! What stands below `/sys` for a device: under its number, and in its class.
//!
//! With a class it is where the kernel has devices that no bus leads to:
//! `/sys/devices/virtual/CLASS/NAME`, with links to it from `/sys/class/CLASS` and from
//! `/sys/dev/char`. What does not live here: how these files come before a program
//! (`namespace`, `trapped`).

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

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
    /// What the kernel calls a device of it, but for the number.
    pub(crate) node: Option<String>,
    pub(crate) attributes: Vec<(String, String)>,
}

impl ClassEntry {
    /// Whether all its names are those of files.
    pub(crate) fn has_plain_names(&self) -> bool {
        let is_plain =
            |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        is_plain(&self.name)
            && self.node.as_deref().is_none_or(is_plain)
            && self.attributes.iter().all(|(name, _)| is_plain(name))
    }
}

/// What is at a path.
pub(crate) enum Content {
    Text(String),
    Link(PathBuf),
}

/// The name of a device of a class, with the name of the class before it, as in
/// `video4linux/video0`.
pub(crate) fn in_class(device: &DeviceEntry) -> Option<PathBuf> {
    let class = device.class.as_ref()?;
    let name = match (&device.sys_name, device.path.strip_prefix("/dev")) {
        (Some(name), _) => name.into(),
        (None, Ok(name)) => name.to_string_lossy(),
        (None, Err(_)) => device.path.file_name().unwrap_or_default().to_string_lossy(),
    };
    // As the kernel does, where a device's name is a path.
    Some(Path::new(&class.name).join(name.replace('/', "!")))
}

/// Names the devices whose class calls them by number: to the kernel a camera is `video0`, and
/// v4l2-ctl goes by that, whatever its node is called. It is the name of the node where that is
/// one of these; else the minor number says it, or the next that is free.
pub(crate) fn name_by_number(devices: &mut [DeviceEntry]) {
    let mut named: Vec<_> = devices
        .iter_mut()
        .filter_map(|device| {
            let node = device.class.as_ref()?.node.clone()?;
            let own = own_name(&device.path, &node).map(str::to_owned);
            // Who stands where the kernel has them comes first.
            let rank = (own.is_none(), device.path.parent() != Some(Path::new("/dev")));
            Some((rank, node, own, device))
        })
        .collect();
    named.sort_by_key(|(rank, ..)| *rank);
    let mut taken = HashSet::new();
    for (_, node, own, device) in named {
        let numbered = (device.number.1..).map(|number| format!("{node}{number}"));
        device.sys_name = own.into_iter().chain(numbered).find(|name| taken.insert(name.clone()));
    }
}

/// The last component of a path, if that is `node` and a number.
fn own_name<'a>(path: &'a Path, node: &str) -> Option<&'a str> {
    let name = path.file_name()?.to_str()?;
    let number = name.strip_prefix(node)?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

/// All files and links for a device. Their directories are where they are.
pub(crate) fn files(device: &DeviceEntry) -> Vec<(PathBuf, Content)> {
    let Kind::Character(_) = device.metadata.kind else { return Vec::new() };
    let (major, minor) = device.number;
    let number = format!("{major}:{minor}");
    let path = device.path.strip_prefix("/dev").unwrap_or(&device.path);
    let name = device.sys_name.as_deref().map_or(path, Path::new).display();
    let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\n");
    let by_number = Path::new(CHAR).join(&number);
    let mut files = Vec::new();
    let directory = match (&device.class, in_class(device)) {
        (Some(class), Some(inside)) => {
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
        _ => by_number,
    };
    files.push((directory.join("dev"), Content::Text(format!("{number}\n"))));
    files.push((directory.join("uevent"), Content::Text(uevent)));
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trapped::testing;

    #[test]
    fn each_device_of_a_class_with_numbers_has_a_name_of_its_own() {
        let device = |(path, minor, node): (&str, u32, Option<&str>)| {
            let (device, _) = testing::device(Path::new(path), 0);
            let mut device = std::sync::Arc::into_inner(device).expect("nobody else has it");
            let (name, node) = ("video4linux".to_owned(), node.map(str::to_owned));
            device.class = Some(ClassEntry { name, node, attributes: Vec::new() });
            device.number = (81, minor);
            device
        };
        let video = Some("video");
        let mut devices = [
            ("/dev/cam", 1, video),
            ("/tmp/video1", 7, video),
            ("/dev/video1", 0, video),
            ("/dev/video", 9, video),
            ("/dev/videos/video3", 4, video),
            ("/dev/video3x", 3, video),
            ("/dev/plain/one", 5, None),
        ]
        .map(device);
        name_by_number(&mut devices);
        let names = ["video2", "video7", "video1", "video9", "video3", "video4", "plain!one"]
            .map(|name| Path::new("video4linux").join(name));
        assert_eq!(devices.iter().filter_map(in_class).collect::<Vec<_>>(), names);
    }
}
