//! A forked child never reads zeros for a page that was not there, and never disturbs its
//! parent.

use devmap_backend_local::{Error, Local, MapOptions, Mapping, OpenMode};
use devmap_devices::{NoOptions, demo::Demo};
use devmap_sys::process;
use rustix::process::{WaitOptions, WaitStatus, waitpid};

use crate::{
    byte,
    disk::{Disk, PAGE, expected},
    limited, open,
};

/// What became of a child that did this.
pub fn in_child(child: impl FnOnce() -> bool) -> WaitStatus {
    let pid = process::fork_to(|| u8::from(!child())).unwrap();
    waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap().1
}

#[test]
fn a_child_has_no_faulted_page_and_says_so() {
    let home = limited(4);
    let disk = Disk::new(8 * PAGE);
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new().writable()).unwrap();
    map.store::<u8>(0, 0xaa).unwrap();
    let forked = |map: &Mapping| {
        map.load::<u8>(0) == Err(Error::Forked)
            && map.load::<u8>(5 * PAGE) == Err(Error::Forked)
            && map.store::<u8>(0, 1) == Err(Error::Forked)
            && map.read_at(PAGE, &mut [0; 9]) == Err(Error::Forked)
    };
    assert_eq!(in_child(|| forked(&map)).exit_status(), Some(0));
    let plain = in_child(|| map.load_plain::<u8>(5 * PAGE) == expected(5 * PAGE));
    assert_eq!(plain.terminating_signal(), Some(libc::SIGSEGV));
    // The child drops all it has: nothing of it is dropped here.
    let mut dropped = Some((home, file, map));
    let status = in_child(|| {
        dropped = None;
        true
    });
    assert_eq!(status.exit_status(), Some(0));
    let (home, _file, map) = dropped.unwrap();
    for at in (0..8 * PAGE).step_by(PAGE) {
        assert_eq!(byte(&map, at), if at == 0 { 0xaa } else { expected(at) });
        assert_eq!(map.load_plain::<u8>(at + 1), expected(at + 1));
    }
    drop(map);
    assert_eq!(disk.content().bytes[0], 0xaa);
    assert!(home.stats().held_most <= 4);
}

#[test]
fn a_child_shares_the_drivers_memory() {
    let home = Local::new().unwrap();
    let demo = Demo::new(home.platform(), &NoOptions).unwrap();
    let demo = home.add("/dev/demo", demo).unwrap().open(OpenMode::ReadWrite).unwrap();
    let map = demo.map(&MapOptions::new().len(PAGE as u64).writable()).unwrap();
    let status =
        in_child(|| map.load::<u32>(0) == Ok(0xaffe << 16) && map.store::<u32>(64, 42).is_ok());
    assert_eq!(status.exit_status(), Some(0));
    assert_eq!(map.load::<u32>(64), Ok(42));
}
