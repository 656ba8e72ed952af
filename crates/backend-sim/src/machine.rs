//! The machine: frames and tables for the engine, refused where a test asks for it.

use devmap_driver::{Errno, PageSize};
use devmap_mm::Mmu;

use crate::{Failures, PageFrame, PageTable};

/// A machine of ordinary memory.
#[derive(Clone, Debug)]
pub struct Machine {
    page_size: PageSize,
    failures: Failures,
}

impl Machine {
    /// A machine with pages of this size.
    pub fn new(page_size: PageSize, failures: Failures) -> Machine {
        Machine { page_size, failures }
    }

    /// What can be made to fail.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    fn page_shift(&self) -> u32 {
        self.page_size.bytes().trailing_zeros()
    }
}

impl Mmu for Machine {
    type Frame = PageFrame;
    type Table = PageTable;

    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn task_size(&self) -> u64 {
        // The lower half of what four levels reach, but for the last page, as on x86;
        // never more than 47 bits.
        let bits = 4 * (self.page_shift() - 3) + self.page_shift() - 1;
        (1 << bits.min(47)) - self.page_size.bytes()
    }

    fn allocate(&mut self) -> Result<PageFrame, Errno> {
        if self.failures.allocations().happens() {
            return Err(Errno::ENOMEM);
        }
        Ok(PageFrame::new(self.page_size.bytes() as usize))
    }

    fn table(&mut self) -> Result<PageTable, Errno> {
        if self.failures.allocations().happens() {
            return Err(Errno::ENOMEM);
        }
        Ok(PageTable::new(self.page_shift(), self.failures.clone()))
    }
}
