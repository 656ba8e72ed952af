//! One contiguous block, mapped at its offset, as `/dev/mem` maps the machine's.
//!
//! The block holds zeros at first. A map that begins or ends past it: `EINVAL`. The
//! area is `VM_IO` and `VM_RESERVED`. `read` and `write` reach the same bytes (0 at
//! the end, `ENOSPC` past it), and `lseek` knows the block's length.

use devmap_driver::{
    AreaFlags, Device, Errno, Memory, NewArea, Open, OptionError, OptionSpec, Plan, Platform,
    SeekFrom, Transfer, parse_size,
};

use crate::copy;

/// What `--device PATH=NAME` calls it.
pub const NAME: &str = "mem";
/// One line of help.
pub const ABOUT: &str = "one contiguous block of memory, zeros at first";
/// `size`.
pub const OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: "size",
    value: "BYTES",
    default: "1M",
    help: "length of the block, rounded up to pages",
}];

/// The options of [`Mem`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Length of the block in bytes.
    pub size: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { size: 1 << 20 }
    }
}

impl Options {
    /// Sets one option from text.
    ///
    /// # Errors
    /// [`OptionError`]: no such key, or not a size of at least 1.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        if key != "size" {
            return Err(OptionError::Unknown);
        }
        match parse_size(value)? {
            0 => Err(OptionError::BadValue("a size of at least 1")),
            size => {
                self.size = size;
                Ok(())
            }
        }
    }
}

/// The device: its block.
pub struct Mem<P: Platform> {
    block: P::Memory,
}

impl<P: Platform> Mem<P> {
    /// Makes the block.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` for a size of 0.
    pub fn new(platform: &P, options: &Options) -> Result<Mem<P>, Errno> {
        Ok(Mem { block: platform.contiguous(options.size)? })
    }
}

impl<P: Platform> Device<P> for Mem<P> {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        if area.first_page() + area.pages() > self.block.pages() {
            return Err(Errno::EINVAL);
        }
        let flags = AreaFlags::IO.union(AreaFlags::RESERVED);
        Ok(Plan::remap_all(area, &self.block, area.first_page()).flags(flags))
    }

    fn read(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        copy::read_pieces(transfer, self.block.len(), |at, into| self.block.read(at, into))
    }

    fn write(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        copy::write_memory(transfer, &self.block)
    }

    fn llseek(&self, _file: &(), to: SeekFrom) -> Result<u64, Errno> {
        to.within(self.block.len())
    }
}
