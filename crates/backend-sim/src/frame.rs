//! Page frames: bytes of this process that several hold.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devmap_mm::Frame;

/// One page frame. Clones are the same bytes.
#[derive(Clone, Debug)]
pub struct PageFrame(Arc<Mutex<Box<[u8]>>>);

impl PageFrame {
    /// A frame of `len` zeros.
    pub(crate) fn new(len: usize) -> PageFrame {
        PageFrame(Arc::new(Mutex::new(vec![0; len].into())))
    }

    /// No code of others runs under this lock, so a panic leaves no bytes half written.
    fn bytes(&self) -> MutexGuard<'_, Box<[u8]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many handles there are.
    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl Frame for PageFrame {
    fn read(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes()[offset..offset + into.len()]);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.bytes()[offset..offset + from.len()].copy_from_slice(from);
    }
}
