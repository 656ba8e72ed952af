//! Devices whose faults access other maps of the same home.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use devmap_backend_local::{
    Error, Local, LocalMemory, LocalPlatform, MapOptions, Mapping, OpenMode,
};
use devmap_driver::{Device, Errno, Fault, NewArea, NewPage, Open, Plan, Supply};

use crate::{
    disk::{Disk, PAGE, expected},
    limited, open,
};

/// Pages of a block: what is so far apart is found under locks of its own.
const BLOCK: usize = 64;

/// Each page holds a byte of another map. The first faults go on once there are so many.
struct Over {
    below: Mapping,
    plainly: bool,
    together: Barrier,
    first: AtomicUsize,
}

impl Device<LocalPlatform> for Over {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<LocalMemory>, Errno> {
        Ok(Plan::fault_all(area))
    }

    fn fault(
        &self,
        _file: &(),
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<LocalMemory>, Errno> {
        let is_first = |left: usize| left.checked_sub(1);
        // A page that is dropped before it is mapped is asked for again.
        if self.first.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_first).is_ok() {
            self.together.wait();
        }
        let at = fault.page as usize * BLOCK * PAGE;
        let byte = if self.plainly {
            self.below.load_plain(at)
        } else {
            self.below.load(at).map_err(|error| error.errno())?
        };
        page.bytes()?.fill(byte);
        Ok(Supply::Filled)
    }
}

/// What that many threads find that look at the upper of two devices at once.
fn look(home: &Local, threads: usize, plainly: bool) -> Vec<Result<u8, Error>> {
    let pages = threads * BLOCK;
    let below = open(home, &Disk::new(pages * PAGE)).map(&MapOptions::new()).unwrap();
    let over =
        Over { below, plainly, together: Barrier::new(threads), first: AtomicUsize::new(threads) };
    let file = home.add("over", over).unwrap().open(OpenMode::ReadOnly).unwrap();
    let map = Arc::new(file.map(&MapOptions::new().len((threads * PAGE) as u64)).unwrap());
    let (found, finds) = mpsc::channel();
    for page in 0..threads {
        let (map, found) = (map.clone(), found.clone());
        thread::spawn(move || {
            let value =
                if plainly { Ok(map.load_plain(page * PAGE)) } else { map.load(page * PAGE) };
            found.send((page, value)).unwrap();
        });
    }
    let mut all = vec![Ok(0); threads];
    for _ in 0..threads {
        let (page, value) =
            finds.recv_timeout(Duration::from_secs(60)).expect("they wait for one another");
        all[page] = value;
    }
    all
}

#[test]
fn more_plain_faults_than_threads_are_kept_need_others() {
    let home = Local::new().unwrap();
    if home.is_lazy() {
        let found = look(&home, 20, true);
        assert!((0..20).all(|page| found[page] == Ok(expected(page * BLOCK * PAGE))));
        assert!(home.stats().faults_by_handler >= 40);
    }
}

/// Of as many pages as there is room for, each waits for one more: one of them has to go.
#[test]
fn who_holds_all_room_there_is_and_needs_more_does_not_wait_for_itself() {
    let failed = Err(Error::Failed { call: "fault", page: 0, errno: Errno::ENOMEM });
    assert_eq!(look(&limited(1), 1, false), [failed]);
    assert_eq!(look(&limited(2), 1, false), [Ok(expected(0))]);
    for threads in [2, 5] {
        for found in [
            look(&limited(threads), threads as usize, false),
            look(&limited(threads + 1), threads as usize, false),
        ] {
            let mut there = 0;
            for (page, value) in found.into_iter().enumerate() {
                match value {
                    Ok(value) => {
                        assert_eq!(value, expected(page * BLOCK * PAGE));
                        there += 1;
                    }
                    Err(error) => assert_eq!(error.errno(), Errno::ENOMEM),
                }
            }
            assert!(there > 0);
        }
    }
}
