//! A control group of a measurement: processes that share so much memory, page cache
//! counted (cgroups(7), either version).

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use crate::local::GROUP;

/// Where cgroups are mounted, and what bounds memory there.
const PLACES: [(&str, &str); 2] =
    [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];

/// A group with [`GROUP`] bytes of memory, removed on drop.
pub(crate) struct Group(PathBuf);

impl Group {
    /// # Errors
    /// Where groups cannot be made: it takes root, and a memory controller.
    pub(crate) fn new(name: &str) -> io::Result<Group> {
        let name = format!("devmap-bench-{name}-{}", process::id());
        for (place, limit) in PLACES {
            let path = Path::new(place).join(&name);
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Group(path);
            if fs::write(group.0.join(limit), GROUP.to_string()).is_ok() {
                return Ok(group);
            }
        }
        Err(io::Error::other("no control group for memory can be made here; it takes root"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes have been waited for.
        let _ = fs::remove_dir(&self.0);
    }
}
