//! The memory into which drivers fill pages before they are installed: one buffer for each
//! thread, aligned as direct I/O wants it.

use std::cell::Cell;

use devmap_driver::{self as driver, Errno};

/// What direct I/O asks for, at most.
const ALIGNMENT: usize = 4096;

/// A buffer.
#[derive(Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Where aligned bytes begin.
    start: usize,
}

thread_local! {
    /// Taken while in use, so that a driver whose method faults itself gets another.
    static SPARE: Cell<Buffer> = Cell::default();
}

/// A buffer of at least `len` bytes.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn take(len: usize) -> Result<Buffer, Errno> {
    let spare = SPARE.take();
    if spare.bytes.len() >= spare.start + len && !spare.bytes.is_empty() {
        return Ok(spare);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len + ALIGNMENT).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len + ALIGNMENT, 0);
    let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    Ok(Buffer { bytes, start })
}

/// The thread may need it again.
pub(crate) fn give_back(buffer: Buffer) {
    SPARE.set(buffer);
}

impl Buffer {
    /// The first `len` bytes, whatever they hold.
    pub(crate) fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len]
    }
}

/// The home's page, given to the driver to fill.
pub(crate) struct NewPage<'a> {
    page: &'a mut [u8],
    taken: bool,
}

impl<'a> NewPage<'a> {
    pub(crate) fn new(buffer: &'a mut Buffer, len: usize) -> NewPage<'a> {
        NewPage { page: buffer.bytes(len), taken: false }
    }

    /// What the driver filled in; zeros where it did not look.
    pub(crate) fn content(self) -> &'a [u8] {
        if !self.taken {
            self.page.fill(0);
        }
        self.page
    }
}

impl driver::NewPage for NewPage<'_> {
    fn bytes(&mut self) -> Result<&mut [u8], Errno> {
        if !self.taken {
            self.page.fill(0);
            self.taken = true;
        }
        Ok(self.page)
    }
}
