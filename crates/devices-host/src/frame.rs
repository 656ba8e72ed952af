//! A frame being made: the memory that the program maps, open for writing while the
//! stream runs.
//!
//! What does not live here: which buffer that is (`queue`), and when (`drawing`, `thread`).

use std::{
    cell::{Ref, RefCell},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use devmap_driver::Memory;

/// Whether a stream runs. Held while its buffers are written to: so nothing is written
/// once `VIDIOC_STREAMOFF` has given them back.
pub(crate) type Running = Mutex<bool>;

/// Where the bytes of a frame go.
trait Place {
    fn put(&self, offset: u64, bytes: &[u8]);
}

impl<M: Memory> Place for M {
    fn put(&self, offset: u64, bytes: &[u8]) {
        // Within the buffer (see `Frame::repeat`), and that is within the memory.
        let _ = self.write(offset, bytes);
    }
}

/// Memory of this process alone, in which frames can be made without a camera.
#[derive(Debug)]
pub struct Canvas {
    bytes: RefCell<Vec<u8>>,
    running: Running,
}

impl Canvas {
    /// For frames of at most `capacity` bytes.
    pub fn new(capacity: usize) -> Canvas {
        Canvas { bytes: RefCell::new(vec![0; capacity]), running: Mutex::new(true) }
    }

    /// A frame to be made.
    pub fn frame(&self) -> Frame<'_> {
        let capacity = self.bytes.borrow().len();
        Frame {
            place: self,
            start: 0,
            capacity,
            len: 0,
            is_cut: false,
            running: &self.running,
            writing: None,
        }
    }

    /// What was made last.
    pub fn bytes(&self) -> Ref<'_, [u8]> {
        Ref::map(self.bytes.borrow(), Vec::as_slice)
    }
}

impl Place for Canvas {
    fn put(&self, offset: u64, bytes: &[u8]) {
        // Within the capacity (see `Frame::repeat`).
        let offset = offset as usize;
        self.bytes.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// A frame that a source makes, in the memory in which the program will see it.
///
/// It holds anything at first, often an older frame: write all of it. It is memory that
/// programs may change at any time, so it is only written, never read. Many small writes
/// cost more than a few of whole lines.
pub struct Frame<'a> {
    place: &'a dyn Place,
    start: u64,
    capacity: usize,
    len: usize,
    is_cut: bool,
    running: &'a Running,
    writing: Option<MutexGuard<'a, bool>>,
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} of {} bytes)", self.len, self.capacity)
    }
}

impl<'a> Frame<'a> {
    /// A frame of at most `capacity` bytes from `start` on in a memory.
    pub(crate) fn new<M: Memory>(
        memory: &'a M,
        start: u64,
        capacity: usize,
        running: &'a Running,
    ) -> Frame<'a> {
        Frame { place: memory, start, capacity, len: 0, is_cut: false, running, writing: None }
    }

    /// Bytes that it can hold; what is written behind them is lost.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Its length: up to the last byte that was written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether something was lost.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Writes bytes to their place.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.repeat(offset, bytes, 1);
    }

    /// Writes the same bytes `count` times, one after the other.
    pub fn repeat(&mut self, offset: usize, bytes: &[u8], count: usize) {
        let writing = self
            .writing
            .get_or_insert_with(|| self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let is_running = **writing;
        let mut offset = offset;
        for _ in 0..count {
            let rest = self.capacity.saturating_sub(offset);
            self.is_cut |= rest < bytes.len();
            let bytes = &bytes[..rest.min(bytes.len())];
            if is_running {
                self.place.put(self.start + offset as u64, bytes);
            }
            offset += bytes.len();
            self.len = self.len.max(offset);
        }
    }
}
