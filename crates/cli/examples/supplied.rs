//! A server whose driver supplies pages at first access, beside one that is remapped, for the
//! tests: who sees what of whom.
//!
//! `supplied [OPTIONS] PROGRAM [ARG]...` serves four devices of eight pages. Of a map of any
//! the first page is remapped and the others are faulted: those of `/dev/shared` are pages of
//! the driver's memory, in which they lie in reverse; those of `/dev/filled` are copies of
//! them, and what a program stores is written to the memory when it comes back; of
//! `/dev/mixed` the first half is filled and the other shared, in an extent each, and of `/dev/late`
//! in the same extent. Each page begins with its number. `read` and `write`, within a page, are of
//! the driver's memory.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use devmap::{
    Server,
    driver::{
        Device, Errno, Fault, Fsync, Memory, NewArea, NewPage, Open, Plan, Platform, Store, Supply,
        Transfer,
    },
};

const PAGES: u64 = 8;

/// How a fault is answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Shared,
    Filled,
    /// Filled in the first half.
    Mixed,
    /// As `Mixed`, but not in extents of their own.
    Late,
}

struct Supplied<P: Platform> {
    memory: P::Memory,
    page_len: u64,
    how: How,
}

impl<P: Platform> Supplied<P> {
    fn new(host: &P, how: How) -> Result<Supplied<P>, Errno> {
        let page_len = host.page_size().bytes();
        let memory = host.scattered(PAGES * page_len)?;
        let device = Supplied::<P> { memory, page_len, how };
        for page in 0..PAGES {
            device.memory.write(device.place(page * page_len)?, &[page as u8])?;
        }
        Ok(device)
    }

    /// Where an offset of the device is in the memory.
    fn place(&self, offset: u64) -> Result<u64, Errno> {
        let (page, within) = (offset / self.page_len, offset % self.page_len);
        let page = (PAGES - 1).checked_sub(page).ok_or(Errno::EIO)?;
        Ok(page * self.page_len + within)
    }
}

impl<P: Platform> Device<P> for Supplied<P> {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn store(&self) -> Store {
        Store::Device
    }

    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        if area.first_page() + area.pages() > PAGES || area.pages() < 2 {
            return Err(Errno::EINVAL);
        }
        let first = self.place(area.offset())? / self.page_len;
        let plan = Plan::new().remap(0..1, &self.memory, first);
        // An extent for each sort.
        let half = (PAGES / 2).saturating_sub(area.first_page());
        Ok(match self.how {
            How::Mixed if (2..area.pages()).contains(&half) => {
                plan.fault(1..half).fault(half..area.pages())
            }
            _ => plan.fault(1..area.pages()),
        })
    }

    fn fault(
        &self,
        _file: &(),
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<P::Memory>, Errno> {
        let place = self.place(fault.page * self.page_len)?;
        let is_shared = match self.how {
            How::Shared => true,
            How::Filled => false,
            How::Mixed | How::Late => fault.page >= PAGES / 2,
        };
        if is_shared {
            let memory = self.memory.clone();
            return Ok(Supply::Page { memory, page: place / self.page_len });
        }
        self.memory.read(place, page.bytes()?)?;
        Ok(Supply::Filled)
    }

    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let page_len = self.page_len;
        for (bytes, offset) in
            bytes.chunks(page_len as usize).zip((offset..).step_by(page_len as usize))
        {
            self.memory.write(self.place(offset)?, bytes)?;
        }
        Ok(())
    }

    fn fsync(&self, _file: &(), _what: Fsync) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        let mut bytes = vec![0; transfer.user().len()];
        self.memory.read(self.place(transfer.position())?, &mut bytes)?;
        transfer.user().copy_out(&bytes)?;
        Ok(bytes.len())
    }

    fn write(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        let mut bytes = vec![0; transfer.user().len()];
        transfer.user().copy_in(&mut bytes)?;
        self.memory.write(self.place(transfer.position())?, &bytes)?;
        Ok(bytes.len())
    }
}

fn main() -> ExitCode {
    Server::new("supplied")
        .device("/dev/shared", |host| Supplied::new(host, How::Shared))
        .device("/dev/filled", |host| Supplied::new(host, How::Filled))
        .device("/dev/mixed", |host| Supplied::new(host, How::Mixed))
        .device("/dev/late", |host| Supplied::new(host, How::Late))
        .main()
}
