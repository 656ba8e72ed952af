//! Anonymous memory by way of a device, as `/dev/zero`.
//!
//! Each map gets fresh zeroed memory of its own, whatever the offset. A shared one is
//! shared with whoever inherits it through `fork`, and with nobody else; a private
//! one is an ordinary zero-filled map. `read` gives zeros without end, `write`
//! swallows everything, `lseek` always answers 0.

use devmap_driver::{Device, Errno, NewArea, Open, OptionSpec, Plan, Platform, SeekFrom, Transfer};

use crate::copy;

pub use crate::NoOptions as Options;

/// What `--device PATH=NAME` calls it.
pub const NAME: &str = "zero";
/// One line of help.
pub const ABOUT: &str = "zeros: each map is fresh memory, shared through fork";
/// No options.
pub const OPTIONS: &[OptionSpec] = &[];

/// The device: where it asks for memory.
pub struct Zero<P: Platform> {
    platform: P,
}

impl<P: Platform> Zero<P> {
    /// Makes the device; memory is asked for at each map.
    ///
    /// # Errors
    /// None today.
    pub fn new(platform: &P, _options: &Options) -> Result<Zero<P>, Errno> {
        Ok(Zero { platform: platform.clone() })
    }
}

impl<P: Platform> Device<P> for Zero<P> {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        Ok(Plan::remap_all(area, &self.platform.scattered(area.len())?, 0))
    }

    fn read(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        copy::read_pieces(transfer, u64::MAX, |_, _| Ok(()))
    }

    fn write(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        Ok(transfer.user().len())
    }

    fn llseek(&self, _file: &(), _to: SeekFrom) -> Result<u64, Errno> {
        Ok(0)
    }
}
