//! Pages supplied at first access: what `vm_ops->fault` is for.
//!
//! Each aligned 64-bit little-endian word holds its own byte offset, so any page can
//! be checked by itself, and a device of 1 TiB costs only the pages that are touched.
//! A map that begins or ends past `size`: `EINVAL`. `read` gives the same bytes.

use devmap_driver::{
    Device, Errno, Fault, NewArea, NewPage, Open, OptionError, OptionSpec, Plan, Platform,
    SeekFrom, Supply, Transfer, parse_size,
};

use crate::copy;

/// What `--device PATH=NAME` calls it.
pub const NAME: &str = "pattern";
/// One line of help.
pub const ABOUT: &str = "faulted pages whose 64-bit words hold their own offsets";
/// `size`.
pub const OPTIONS: &[OptionSpec] = &[OptionSpec {
    name: "size",
    value: "BYTES",
    default: "16M",
    help: "length, rounded up to pages; at most 1T",
}];

/// The longest device, in bytes: 1 TiB.
pub const MAX_SIZE: u64 = 1 << 40;

/// The options of [`Pattern`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Length of the device in bytes.
    pub size: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { size: 16 << 20 }
    }
}

impl Options {
    /// Sets one option from text.
    ///
    /// # Errors
    /// [`OptionError`]: no such key, or not a size of 1 to [`MAX_SIZE`].
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        if key != "size" {
            return Err(OptionError::Unknown);
        }
        match parse_size(value)? {
            size @ 1..=MAX_SIZE => {
                self.size = size;
                Ok(())
            }
            _ => Err(OptionError::BadValue("a size from 1 to 1T")),
        }
    }
}

/// The device: only its length.
pub struct Pattern {
    /// Bytes: a multiple of the page size.
    size: u64,
}

impl Pattern {
    /// Makes the device.
    ///
    /// # Errors
    /// `EINVAL` for a size that [`Options::set`] refuses.
    pub fn new<P: Platform>(platform: &P, options: &Options) -> Result<Pattern, Errno> {
        if !(1..=MAX_SIZE).contains(&options.size) {
            return Err(Errno::EINVAL);
        }
        let page_size = platform.page_size();
        Ok(Pattern { size: page_size.pages_for(options.size) * page_size.bytes() })
    }
}

/// The bytes that stand at `offset` of the device.
fn fill(offset: u64, into: &mut [u8]) {
    let head = (offset.next_multiple_of(8) - offset).min(into.len() as u64);
    let (head, rest) = into.split_at_mut(head as usize);
    let (words, tail) = rest.as_chunks_mut();
    part(offset, head);
    let mut offset = offset + head.len() as u64;
    for word in words {
        *word = offset.to_le_bytes();
        // Far from wrapping: no device is longer than MAX_SIZE.
        offset = offset.wrapping_add(8);
    }
    part(offset, tail);
}

/// Bytes of one word, from `offset` on.
fn part(offset: u64, into: &mut [u8]) {
    let start = (offset % 8) as usize;
    let word = (offset - offset % 8).to_le_bytes();
    into.copy_from_slice(&word[start..start + into.len()]);
}

impl<P: Platform> Device<P> for Pattern {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        if area.offset() + area.len() > self.size {
            return Err(Errno::EINVAL);
        }
        Ok(Plan::fault_all(area))
    }

    fn fault(
        &self,
        _file: &(),
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<P::Memory>, Errno> {
        let bytes = page.bytes()?;
        let offset = fault.page.checked_mul(bytes.len() as u64).ok_or(Errno::EIO)?;
        if offset >= self.size {
            return Err(Errno::EIO);
        }
        fill(offset, bytes);
        Ok(Supply::Filled)
    }

    fn read(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        copy::read_pieces(transfer, self.size, |at, into| {
            fill(at, into);
            Ok(())
        })
    }

    fn llseek(&self, _file: &(), to: SeekFrom) -> Result<u64, Errno> {
        to.within(self.size)
    }
}
