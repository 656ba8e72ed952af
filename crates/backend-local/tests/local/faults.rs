//! Devices that fail and panic, files that end, and what plain accesses get then.

use std::{env, process::Command, sync::atomic::Ordering, time::Duration};

use devmap_backend_local::{Error, Local, LocalOptions, MapOptions, OnError};
use devmap_driver::Errno;

use crate::{
    byte,
    disk::{Disk, PAGE, Trouble, expected},
    limited, open,
};

#[test]
fn a_checked_access_says_what_the_device_says() {
    let home = Local::new().unwrap();
    let disk = Disk::new(8 * PAGE);
    let map = open(&home, &disk).map(&MapOptions::new().writable()).unwrap();
    let failed = Error::Failed { call: "fault", page: 3, errno: Errno::EIO };
    disk.trouble(Trouble::Faults(4));
    assert_eq!(map.load::<u8>(3 * PAGE), Err(failed));
    assert_eq!(map.store::<u8>(3 * PAGE, 1), Err(failed));
    assert_eq!(map.read_at(3 * PAGE, &mut [0; 10]), Err(failed));
    assert_eq!(map.write_at(3 * PAGE, &[0; 10]), Err(failed));
    // It works again, and nothing was kept of the failure.
    assert_eq!(map.load::<u8>(3 * PAGE), Ok(expected(3 * PAGE)));
    disk.trouble(Trouble::Panics);
    let failed = Error::Failed { call: "fault", page: 5, errno: Errno::EIO };
    assert_eq!(map.load::<u8>(5 * PAGE), Err(failed));
    disk.trouble(Trouble::None);
    assert_eq!(map.load::<u8>(5 * PAGE), Ok(expected(5 * PAGE)));
    assert_eq!(home.stats().held, 2);
}

/// A driver is asked for the size before each fault, unless it says that it looks itself.
#[test]
fn a_file_that_its_driver_cuts_ends_there() {
    for checks in [false, true] {
        let home = Local::new().unwrap();
        if !home.is_lazy() {
            return;
        }
        let disk = Disk::new(8 * PAGE);
        let disk = if checks { disk.checks_end() } else { disk };
        let map = open(&home, &disk).map(&MapOptions::new()).unwrap();
        let asked = disk.asked.load(Ordering::Relaxed);
        assert_eq!(byte(&map, 2 * PAGE), expected(2 * PAGE));
        assert_eq!(disk.asked.load(Ordering::Relaxed) - asked, u64::from(!checks));
        disk.content().bytes.truncate(4 * PAGE);
        let past = Error::PastEnd { page: 4, size: 4 * PAGE as u64 };
        assert_eq!(map.load::<u8>(4 * PAGE), Err(past));
        // Not all that fails is past the end.
        disk.trouble(Trouble::Faults(1));
        let failed = Error::Failed { call: "fault", page: 1, errno: Errno::EIO };
        assert_eq!(map.load::<u8>(PAGE), Err(failed));
        assert_eq!(home.stats().held, 1);
    }
}

#[test]
fn a_file_that_ends_is_an_error_and_grows_back() {
    let home = Local::new().unwrap();
    let disk = Disk::new(8 * PAGE);
    let file = open(&home, &disk);
    let map = file.map(&MapOptions::new().writable()).unwrap();
    let last = 7 * PAGE;
    assert_eq!(byte(&map, last), expected(last));
    assert_eq!(byte(&map, 3 * PAGE + 200), expected(3 * PAGE + 200));
    map.store::<u8>(3 * PAGE, 0x11).unwrap();
    let size = 3 * PAGE as u64 + 100;
    file.truncate(size).unwrap();
    assert_eq!(map.load::<u8>(last), Err(Error::PastEnd { page: 7, size }));
    assert_eq!(map.store::<u8>(4 * PAGE, 1), Err(Error::PastEnd { page: 4, size }));
    let mut bytes = vec![0; 2 * PAGE];
    assert!(map.read_at(3 * PAGE, &mut bytes).is_err());
    map.sync(3 * PAGE..4 * PAGE).unwrap();
    assert_eq!(bytes[..PAGE][..100], disk.content().bytes[3 * PAGE..]);
    assert_eq!(byte(&map, 3 * PAGE), 0x11);
    assert_eq!(byte(&map, 3 * PAGE + 200), 0);
    file.truncate(8 * PAGE as u64).unwrap();
    assert_eq!(byte(&map, last), 0);
    map.store::<u8>(last, 5).unwrap();
    drop(map);
    assert_eq!(disk.content().bytes[last], 5);
}

#[test]
fn retries_are_made_and_zeros_are_given_where_asked_for() {
    let home = Local::new().unwrap();
    let disk = Disk::new(8 * PAGE);
    let file = open(&home, &disk);
    let retry = OnError::Retry { times: 10, pause: Duration::from_millis(1) };
    let map = file.map(&MapOptions::new().on_error(retry)).unwrap();
    disk.trouble(Trouble::Faults(10));
    assert_eq!(map.load_plain::<u8>(PAGE), expected(PAGE));
    assert_eq!(disk.faults.load(Ordering::Relaxed), 11);

    let zeros = file.map(&MapOptions::new().on_error(OnError::ZeroFill).writable()).unwrap();
    disk.trouble(Trouble::Faults(1));
    assert_eq!(zeros.load_plain::<u64>(2 * PAGE), 0);
    zeros.store_plain::<u64>(2 * PAGE, 7);
    assert_eq!(zeros.load_plain::<u64>(2 * PAGE), 7);
    // They never reach the device, nor anybody else.
    assert_eq!(byte(&map, 2 * PAGE), expected(2 * PAGE));
    zeros.sync(0..zeros.len()).unwrap();
    assert_eq!(disk.content().bytes[2 * PAGE], expected(2 * PAGE));
}

/// Runs a test of this program in a process of its own, which is expected to die of SIGBUS:
/// what it said.
fn dies(test: &str) -> String {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env("DEVMAP_TEST_DIES", "1");
    let output = command.output().unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(signal, Some(7), "{said}");
    said
}

fn is_to_die() -> bool {
    env::var_os("DEVMAP_TEST_DIES").is_some()
}

#[test]
fn a_plain_access_that_fails_is_a_sigbus_with_a_reason() {
    if !is_to_die() {
        let said = dies("faults::a_plain_access_that_fails_is_a_sigbus_with_a_reason");
        assert!(said.contains("devmap: disk: SIGBUS: fault of page 3: EIO\n"), "{said}");
        return;
    }
    let home = Local::new().unwrap();
    let disk = Disk::new(8 * PAGE);
    let map = open(&home, &disk).map(&MapOptions::new()).unwrap();
    disk.trouble(Trouble::Faults(1));
    map.load_plain::<u8>(3 * PAGE);
}

#[test]
fn a_plain_access_past_the_end_is_a_sigbus() {
    if !is_to_die() {
        let said = dies("faults::a_plain_access_past_the_end_is_a_sigbus");
        assert!(said.contains("page 8 lies past the end of the file"), "{said}");
        return;
    }
    let home = Local::new().unwrap();
    let disk = Disk::new(8 * PAGE);
    let options = MapOptions::new().len(9 * PAGE as u64);
    let map = open(&home, &disk).map(&options).unwrap();
    map.load_plain::<u8>(8 * PAGE);
}

#[test]
fn a_plain_access_past_the_end_is_a_sigbus_without_userfaultfd() {
    if !is_to_die() {
        dies("faults::a_plain_access_past_the_end_is_a_sigbus_without_userfaultfd");
        return;
    }
    let home = LocalOptions::new().without_userfaultfd().build().unwrap();
    let file = open(&home, &Disk::new(8 * PAGE));
    let map = file.map(&MapOptions::new()).unwrap();
    file.truncate(4 * PAGE as u64).unwrap();
    map.load_plain::<u8>(4 * PAGE);
}

#[test]
fn a_page_that_failed_a_plain_access_is_there_once_the_device_works() {
    let home = limited(4);
    let disk = Disk::new(64 * PAGE);
    let map = open(&home, &disk).map(&MapOptions::new().writable()).unwrap();
    for round in 0..200 {
        let at = (round * 7 % 64) * PAGE;
        disk.trouble(Trouble::Faults(u64::from(round % 3 == 0)));
        let load = map.load::<u8>(at);
        if load.is_err() {
            assert_eq!(map.load::<u8>(at), Ok(expected(at)));
        }
    }
    assert!(home.stats().held_most <= 4);
}
