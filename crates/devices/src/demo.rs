//! Two memories to map: what `remap_pfn_range` is for.
//!
//! | offset | what is mapped | 32-bit words, for even `i` |
//! |---|---|---|
//! | 0 | the scattered area (`vmalloc`), 16 pages | `(0xaffe << 16) + i`, `(0xbeef << 16) + i` |
//! | 16 pages | the contiguous area (`kmalloc`), 16 pages | `(0xdead << 16) + i`, `(0xbeef << 16) + i` |
//!
//! Any other offset, or more than 16 pages: `EIO`. There is nothing to read, write or
//! call: those methods are left out. The words are little-endian on every machine.

use devmap_driver::{AreaFlags, Device, Errno, Memory, NewArea, Open, OptionSpec, Plan, Platform};

pub use crate::NoOptions as Options;

/// What `--device PATH=NAME` calls it.
pub const NAME: &str = "demo";
/// One line of help.
pub const ABOUT: &str = "two areas of 16 pages: scattered at offset 0, contiguous at 16 pages";
/// No options.
pub const OPTIONS: &[OptionSpec] = &[];

/// The length of each area in pages.
pub const PAGES: u64 = 16;

/// The device: its two areas.
pub struct Demo<P: Platform> {
    scattered: P::Memory,
    contiguous: P::Memory,
}

impl<P: Platform> Demo<P> {
    /// Makes both areas and writes their patterns.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(platform: &P, _options: &Options) -> Result<Demo<P>, Errno> {
        let bytes = PAGES * platform.page_size().bytes();
        let scattered = platform.scattered(bytes)?;
        let contiguous = platform.contiguous(bytes)?;
        for (memory, tag) in [(&scattered, 0xaffe), (&contiguous, 0xdead)] {
            for i in (0..memory.len() as u32 / 4).step_by(2) {
                let offset = u64::from(i) * 4;
                memory.store_u32(offset, (tag << 16) + i)?;
                memory.store_u32(offset + 4, (0xbeef << 16) + i)?;
            }
        }
        Ok(Demo { scattered, contiguous })
    }
}

impl<P: Platform> Device<P> for Demo<P> {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        let memory = match area.first_page() {
            0 => &self.scattered,
            PAGES => &self.contiguous,
            _ => return Err(Errno::EIO),
        };
        if area.pages() > PAGES {
            return Err(Errno::EIO);
        }
        // The flags that remap_pfn_range sets.
        Ok(Plan::remap_all(area, memory, 0).flags(AreaFlags::IO).flags(AreaFlags::RESERVED))
    }
}
