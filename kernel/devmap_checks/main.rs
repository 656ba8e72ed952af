//! The module devmap_checks: one driver that answers every kind of plan and fault,
//! good and bad, and panics when told to. For tests only; its programs are in guest/.

#![no_std]

devmap_kernel::module! {
    plans => Plans<devmap_kernel::Kernel>,
}

/// The driver. The page at which an area begins chooses its plan.
mod plans {
    use devmap_kernel::driver::{
        AreaFlags, Command, Device, Direction, Errno, Fault, Ioctl, Lock, Memory, NewArea, NewPage,
        Open, OptionError, OptionSpec, Plan, Platform, Supply,
    };

    pub const NAME: &str = "plans";
    pub const OPTIONS: &[OptionSpec] = &[];

    #[derive(Default)]
    pub struct Options;

    impl Options {
        pub fn set(&mut self, _key: &str, _value: &str) -> Result<(), OptionError> {
            Err(OptionError::Unknown)
        }
    }

    /// Pages of each of the two memories.
    const PAGES: u64 = 8;

    /// Sums all bytes of the contiguous and of the scattered memory: two u64 out.
    const SUM: Command = Command::new(Direction::Read, b'P', 1, 16);
    /// Returns bit 0: the contiguous memory is mapped; bit 1: the scattered one.
    const MAPPED: Command = Command::new(Direction::None, b'P', 2, 0);
    /// Returns how many files are open.
    const OPENS: Command = Command::new(Direction::None, b'P', 3, 0);
    /// Returns how often the fault method was called.
    const FAULTS: Command = Command::new(Direction::None, b'P', 4, 0);
    /// Panics.
    const PANIC: Command = Command::new(Direction::None, b'P', 5, 0);

    struct Counts {
        opens: u32,
        faults: u32,
    }

    pub struct Plans<P: Platform> {
        platform: P,
        contiguous: P::Memory,
        scattered: P::Memory,
        counts: P::Lock<Counts>,
    }

    impl<P: Platform> Plans<P> {
        pub fn new(platform: &P, _options: &Options) -> Result<Plans<P>, Errno> {
            let bytes = PAGES * platform.page_size().bytes();
            Ok(Plans {
                platform: platform.clone(),
                contiguous: platform.contiguous(bytes)?,
                scattered: platform.scattered(bytes)?,
                counts: platform.lock(Counts { opens: 0, faults: 0 })?,
            })
        }

        fn sum(memory: &P::Memory) -> Result<u64, Errno> {
            let mut sum: u64 = 0;
            let mut piece = [0; 256];
            for offset in (0..memory.len()).step_by(piece.len()) {
                memory.read(offset, &mut piece)?;
                sum += piece.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            }
            Ok(sum)
        }
    }

    impl<P: Platform> Device<P> for Plans<P> {
        type File = u32;

        fn open(&self, _open: &Open) -> Result<u32, Errno> {
            Ok(self.counts.with(|counts| {
                counts.opens += 1;
                counts.opens
            }))
        }

        fn mmap(&self, _file: &u32, area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
            let (contiguous, scattered) = (&self.contiguous, &self.scattered);
            let pages = area.pages();
            Ok(match area.first_page() {
                // Both methods and both memories in one area of 6 pages.
                0 => {
                    Plan::new().fault(4..pages).remap(0..2, contiguous, 1).remap(2..4, scattered, 3)
                }
                // One extent each.
                100 => Plan::remap_all(area, contiguous, 0),
                200 => Plan::remap_all(area, scattered, 0).flags(AreaFlags::DONTEXPAND),
                300 => Plan::fault_all(area).flags(AreaFlags::DONTDUMP),
                // Fresh memory that only the area holds.
                400 => Plan::remap_all(area, &self.platform.contiguous(area.len())?, 0),
                // Plans that do not hold.
                1000 => Plan::new(),
                1001 => Plan::new().fault(0..1),
                1002 => Plan::new().fault(0..pages).remap(1..2, contiguous, 0),
                1003 => Plan::remap_all(area, contiguous, PAGES - pages + 1),
                1004 => Plan::remap_all(area, scattered, u64::MAX),
                1005 => Plan::new().remap(0..pages + 1, contiguous, 0),
                1006 => (0..9).fold(Plan::new(), |plan, at| plan.fault(at..at + 1)),
                _ => return Err(Errno::ENXIO),
            })
        }

        fn fault(
            &self,
            file: &u32,
            fault: &Fault,
            page: &mut dyn NewPage,
        ) -> Result<Supply<P::Memory>, Errno> {
            self.counts.with(|counts| counts.faults += 1);
            match fault.page % 100 {
                // Pages of memories.
                0 => Ok(Supply::Page { memory: self.contiguous.clone(), page: 0 }),
                1 => Ok(Supply::Page { memory: self.scattered.clone(), page: 0 }),
                // A page that the memory does not have.
                2 => Ok(Supply::Page { memory: self.contiguous.clone(), page: PAGES }),
                3 => Err(Errno::EACCES),
                // Says filled, filled nothing.
                4 => Ok(Supply::Filled),
                // Takes a page, then fails.
                6 => {
                    page.bytes()?.fill(0xff);
                    Err(Errno::EIO)
                }
                _ => {
                    page.bytes()?.fill(fault.page as u8);
                    page.bytes()?[0] = *file as u8;
                    Ok(Supply::Filled)
                }
            }
        }

        fn ioctl(&self, _file: &u32, call: &Ioctl<'_>) -> Result<u32, Errno> {
            match call.command() {
                SUM => {
                    let user = call.user()?;
                    user.copy_out(&Self::sum(&self.contiguous)?.to_ne_bytes())?;
                    user.slice(8, 8)?.copy_out(&Self::sum(&self.scattered)?.to_ne_bytes())?;
                    Ok(0)
                }
                MAPPED => Ok(u32::from(self.contiguous.is_mapped())
                    | u32::from(self.scattered.is_mapped()) << 1),
                OPENS => Ok(self.counts.with(|counts| counts.opens)),
                FAULTS => Ok(self.counts.with(|counts| counts.faults)),
                PANIC => panic!("told to by an ioctl"),
                _ => Err(Errno::ENOTTY),
            }
        }
    }
}
