//! The nodes of the device file system: a fixed tree of directories, placeholders,
//! links and devices, and one node for each open of a device.
//!
//! What does not live here: answering requests (`devfs`).

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    namespace::{self, DevEntries, EntryKind},
    opens::DeviceEntry,
    sysfs,
};

/// Nodes of opens have numbers from here on: past any fixed node.
pub(crate) const FIRST_OPEN: u64 = 1 << 32;

/// Nodes from here on are links of the old `/sys/dev/char`: its number is in the low bits.
const FIRST_LINK: u64 = 1 << 48;
const MINOR_BITS: u32 = 20;

/// The node of a link of the old `/sys/dev/char`, if a name there can be one.
pub(crate) fn link_node(name: &OsStr) -> Option<u64> {
    let (major, minor) = name.to_str()?.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    let node = FIRST_LINK | u64::from(major) << MINOR_BITS | u64::from(minor);
    (link_name(node)?.as_str() == name).then_some(node)
}

/// The name of a link in the old `/sys/dev/char`; `None` for other nodes.
pub(crate) fn link_name(node: u64) -> Option<String> {
    let number = node.checked_sub(FIRST_LINK)?;
    Some(format!("{}:{}", number >> MINOR_BITS, number & ((1 << MINOR_BITS) - 1)))
}

/// What a fixed node is.
pub(crate) enum Content {
    Directory(BTreeMap<OsString, u64>),
    /// Something that the old entry is mounted on.
    Placeholder,
    /// The node of an old entry, at its path outside.
    Old(PathBuf),
    Symlink(PathBuf),
    Text(String),
    /// A device, by its index.
    Device(usize),
    /// The file whose pages are a device's faulted ones.
    Backing,
}

/// The directory of backing files, and of regular files, by the devices' indices, within that of
/// devices: listed nowhere, and found by the supervisor alone.
pub(crate) const BACKING: &str = ".devmap-faulted";

struct OpenNode {
    device: usize,
    /// References that the kernel holds.
    lookups: u64,
    /// Open files that it has had.
    opens: u64,
}

/// All nodes.
pub(crate) struct Nodes {
    /// By node number, less [`devmap_fuse::ROOT_ID`].
    fixed: Vec<Content>,
    /// Where the backing files are, and the directory in which that is found.
    backing: (u64, u64),
    /// The directory that takes the place of `/sys/dev/char`.
    char: u64,
    open: Mutex<HashMap<u64, OpenNode>>,
}

impl Nodes {
    pub(crate) fn new(devices: &[Arc<DeviceEntry>], entries: &DevEntries) -> Nodes {
        let mut nodes =
            Nodes { fixed: Vec::new(), backing: (0, 0), char: 0, open: Mutex::default() };
        let root = nodes.add(Content::Directory(BTreeMap::new()));
        let dev = nodes.directory(root, OsStr::new(namespace::DEV));
        let char = nodes.directory(root, OsStr::new(namespace::CHAR));
        nodes.char = char;
        nodes.backing = (nodes.add(Content::Directory(BTreeMap::new())), dev);
        let mut trees = vec![(sysfs::CHAR, char)];
        let mut old: Vec<_> = entries.dev.iter().map(|entry| (dev, entry)).collect();
        for tree in &entries.classes {
            let root_of_tree = nodes.directory(root, OsStr::new(tree.name));
            trees.push((tree.place, root_of_tree));
            old.extend(tree.entries.iter().map(|entry| (root_of_tree, entry)));
        }
        for (directory, (path, kind)) in old {
            let content = match kind {
                EntryKind::Directory => Content::Directory(BTreeMap::new()),
                EntryKind::File => Content::Placeholder,
                EntryKind::Node => Content::Old(Path::new("/dev").join(path)),
                EntryKind::Symlink(target) => Content::Symlink(target.clone()),
            };
            nodes.insert(directory, path, content);
        }
        let files = nodes.directory(root, OsStr::new(namespace::FILES));
        for (index, device) in devices.iter().enumerate() {
            let name = PathBuf::from(index.to_string());
            let shown = match device.path.strip_prefix("/dev") {
                Ok(path) => nodes.insert(dev, path, Content::Device(index)),
                Err(_) => nodes.insert(files, &name, Content::Device(index)),
            };
            let pages = if device.is_regular() { shown } else { nodes.add(Content::Backing) };
            nodes.link(nodes.backing.0, &name, pages);
        }
        for (path, content) in devices.iter().flat_map(|device| sysfs::files(device)) {
            let found = trees.iter().find_map(|(place, root)| {
                path.strip_prefix(place).ok().map(|inside| (*root, inside))
            });
            let Some((root, inside)) = found else { continue };
            let content = match content {
                sysfs::Content::Text(text) => Content::Text(text),
                sysfs::Content::Link(target) => Content::Symlink(target),
            };
            nodes.insert(root, inside, content);
        }
        nodes
    }

    fn add(&mut self, content: Content) -> u64 {
        self.fixed.push(content);
        self.fixed.len() as u64 - 1 + devmap_fuse::ROOT_ID
    }

    /// Puts `content` at `path` below `directory`, making the directories between: its node.
    fn insert(&mut self, directory: u64, path: &Path, content: Content) -> u64 {
        let node = self.add(content);
        self.link(directory, path, node);
        node
    }

    /// The same, with a node that there is.
    fn link(&mut self, directory: u64, path: &Path, node: u64) {
        let Some(name) = path.file_name() else { return };
        let parents = path.parent().into_iter().flat_map(Path::iter);
        let mut directory = directory;
        for parent in parents {
            directory = self.directory(directory, parent);
        }
        if let Some(Content::Directory(children)) = self.content_mut(directory) {
            children.insert(name.to_owned(), node);
        }
    }

    fn directory(&mut self, parent: u64, name: &OsStr) -> u64 {
        if let Some(node) = self.lookup(parent, name.as_bytes()) {
            return node;
        }
        let node = self.add(Content::Directory(BTreeMap::new()));
        if let Some(Content::Directory(children)) = self.content_mut(parent) {
            children.insert(name.to_owned(), node);
        }
        node
    }

    fn content_mut(&mut self, node: u64) -> Option<&mut Content> {
        self.fixed.get_mut(usize::try_from(node.checked_sub(devmap_fuse::ROOT_ID)?).ok()?)
    }

    /// What a fixed node is.
    pub(crate) fn content(&self, node: u64) -> Option<&Content> {
        self.fixed.get(usize::try_from(node.checked_sub(devmap_fuse::ROOT_ID)?).ok()?)
    }

    /// The node of a name in a directory.
    pub(crate) fn lookup(&self, directory: u64, name: &[u8]) -> Option<u64> {
        match self.content(directory)? {
            Content::Directory(children) => children.get(OsStr::from_bytes(name)).copied(),
            _ => None,
        }
    }

    /// Whether the node is the directory that takes the place of `/sys/dev/char`.
    pub(crate) fn is_char(&self, node: u64) -> bool {
        node == self.char
    }

    /// The directory of backing files, if that is what the name means.
    pub(crate) fn backing(&self, directory: u64, name: &[u8]) -> Option<u64> {
        let (node, parent) = self.backing;
        (directory == parent && name == BACKING.as_bytes()).then_some(node)
    }

    /// The device whose faulted pages, or content, the node has.
    pub(crate) fn mapped_device(&self, node: u64) -> Option<u64> {
        match self.content(node)? {
            Content::Device(index) => Some(*index as u64),
            Content::Backing => {
                let Content::Directory(files) = self.content(self.backing.0)? else { return None };
                let (name, _) = files.iter().find(|(_, file)| **file == node)?;
                name.to_str()?.parse().ok()
            }
            _ => None,
        }
    }

    /// Whether the node is a backing file.
    pub(crate) fn is_backing(&self, node: u64) -> bool {
        matches!(self.content(node), Some(Content::Backing))
    }

    /// The node that shows a device to `stat`.
    pub(crate) fn node_of(&self, device: u64) -> Option<u64> {
        let shows =
            |content: &Content| matches!(content, Content::Device(at) if *at as u64 == device);
        Some(self.fixed.iter().position(shows)? as u64 + devmap_fuse::ROOT_ID)
    }

    /// Makes a node for an open that may follow its lookup.
    pub(crate) fn add_open(&self, id: u64, device: usize) {
        let node = OpenNode { device, lookups: 1, opens: 0 };
        self.open.lock().insert(id, node);
    }

    /// The device of a node of an open.
    pub(crate) fn device_of(&self, node: u64) -> Option<usize> {
        Some(self.open.lock().get(&node)?.device)
    }

    /// Counts an open of a node; true for its first.
    pub(crate) fn opened(&self, node: u64) -> bool {
        let mut open = self.open.lock();
        let Some(node) = open.get_mut(&node) else { return false };
        node.opens += 1;
        node.opens == 1
    }

    /// How many open files a node has had: more than one, and its number does not
    /// tell which.
    pub(crate) fn opens_of(&self, node: u64) -> u64 {
        self.open.lock().get(&node).map_or(0, |node| node.opens)
    }

    /// The kernel gives back references.
    pub(crate) fn forget(&self, node: u64, count: u64) {
        let mut open = self.open.lock();
        if let Some(entry) = open.get_mut(&node) {
            entry.lookups = entry.lookups.saturating_sub(count);
            if entry.lookups == 0 {
                open.remove(&node);
            }
        }
    }
}
