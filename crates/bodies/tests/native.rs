//! Every body on Linux itself, by a file and by a memfd. Their accesses are those of the
//! processor, and forked children die of them: so no other home is in this process.

use std::{fs::File, io::Write, os::fd::AsRawFd, path::PathBuf};

use devmap_bodies::{BODIES, NativeHome, content, run_all};
use rustix::fs::{MemfdFlags, memfd_create};

#[test]
fn a_file() {
    run_all(|| Box::new(NativeHome::fresh()));
}

#[test]
fn a_memfd() {
    for (name, body) in BODIES {
        eprintln!("{name}");
        let memory = memfd_create("bodies", MemfdFlags::CLOEXEC).expect("a memfd");
        let mut memory = File::from(memory);
        memory.write_all(&content(rustix::param::page_size())).expect("memory");
        let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
        body(&NativeHome::new(&path, &path));
    }
}
