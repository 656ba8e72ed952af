//! A server whose driver gives one page of a memory of several, for the hostile programs of
//! tests/hostile: they try to reach the others.
//!
//! `one_page [OPTIONS] PROGRAM [ARG]...` serves `/dev/page`. Each page holds its own number
//! plus [`FIRST`] in every 32-bit word; the middle one is given, whatever the offset. Reading
//! says whether the others hold what they did.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use devmap::{
    Server,
    driver::{Device, Errno, Memory, NewArea, Open, Plan, Platform, Transfer},
};

/// The memory's length in pages.
const PAGES: u64 = 9;

/// The page that is given.
const GIVEN: u64 = 4;

/// What the words of page 0 hold.
const FIRST: u32 = 0x5ec2_e700;

struct OnePage<P: Platform> {
    memory: P::Memory,
    page_size: u64,
}

impl<P: Platform> OnePage<P> {
    fn new(host: &P) -> Result<OnePage<P>, Errno> {
        let page_size = host.page_size().bytes();
        let memory = host.scattered(PAGES * page_size)?;
        for at in (0..memory.len()).step_by(4) {
            memory.store_u32(at, FIRST + (at / page_size) as u32)?;
        }
        Ok(OnePage { memory, page_size })
    }

    fn is_whole(&self) -> Result<bool, Errno> {
        for at in (0..self.memory.len()).step_by(4) {
            let page = at / self.page_size;
            if page != GIVEN && self.memory.load_u32(at)? != FIRST + page as u32 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<P: Platform> Device<P> for OnePage<P> {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        if area.pages() != 1 {
            return Err(Errno::EINVAL);
        }
        Ok(Plan::new().remap(0..1, &self.memory, GIVEN))
    }

    fn read(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        transfer.read_from(if self.is_whole()? { b"whole\n" } else { b"broken\n" })
    }
}

fn main() -> ExitCode {
    Server::new("one_page").device("/dev/page", OnePage::new).main()
}
