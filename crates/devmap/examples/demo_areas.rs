//! A device with two areas, one for each way in which a kernel gets memory, written
//! out in full as a pattern for devices that share memory with programs.
//!
//! ```sh
//! cargo run --example demo_areas -- python3 -c '
//! import mmap
//! device = open("/dev/areas", "r+b", buffering=0)
//! area = mmap.mmap(device.fileno(), 16 * mmap.PAGESIZE)
//! print(area[:8].hex())'
//! ```

use devmap::prelude::*;

/// Each area's length in pages.
const PAGES: u64 = 16;

struct Areas<P: Platform> {
    /// At offset 0: pages from anywhere (`vmalloc`).
    scattered: P::Memory,
    /// At offset 16 pages: pages side by side (`kmalloc`).
    contiguous: P::Memory,
}

impl<P: Platform> Areas<P> {
    fn new(host: &P) -> Result<Areas<P>, Errno> {
        let bytes = PAGES * host.page_size().bytes();
        let areas =
            Areas { scattered: host.scattered(bytes)?, contiguous: host.contiguous(bytes)? };
        fill(&areas.scattered, 0xaffe_0000)?;
        fill(&areas.contiguous, 0xdead_0000)?;
        Ok(areas)
    }
}

/// Pairs of 32-bit words: `high + i` and `0xbeef0000 + i` for every even `i`.
fn fill<M: Memory>(memory: &M, high: u32) -> Result<(), Errno> {
    for offset in (0..memory.len()).step_by(8) {
        let i = (offset / 4) as u32;
        memory.store_u32(offset, high.wrapping_add(i))?;
        memory.store_u32(offset + 4, 0xbeef_0000_u32.wrapping_add(i))?;
    }
    Ok(())
}

impl<P: Platform> Device<P> for Areas<P> {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    /// The plan says which pages stand in the area. The home maps them, and shares
    /// them: what the program writes, the driver reads from its memory.
    fn mmap(&self, _file: &(), area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        if area.pages() > PAGES {
            return Err(Errno::EIO);
        }
        match area.first_page() {
            0 => Ok(Plan::remap_all(area, &self.scattered, 0)),
            PAGES => Ok(Plan::remap_all(area, &self.contiguous, 0)),
            _ => Err(Errno::EIO),
        }
    }
}

fn main() -> ExitCode {
    Server::new("areas").device("/dev/areas", Areas::new).main()
}
