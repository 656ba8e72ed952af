//! The buffers of a stream and their states, by the rules of `videobuf2-core.c`.
//!
//! The buffers of one request lie in one memory; those of the first, each at the offset
//! that `VIDIOC_QUERYBUF` says. What does not live here: who may call (`ioctl`), and who fills (`drawing`).

use std::collections::VecDeque;

use devmap_driver::{Errno, Memory, PageSize};

use crate::uapi::{self, Buffer, Time, buf_flag, memory};

/// The most buffers of one queue (`VB2_MAX_FRAME`).
pub(crate) const MAX_BUFFERS: u32 = 32;
/// The fewest that a stream runs well with.
pub(crate) const MIN_BUFFERS: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The program has it.
    Dequeued,
    /// The program has it, and it is ready to be queued (`VIDIOC_PREPARE_BUF`).
    Prepared,
    /// It waits to be filled.
    Queued,
    /// It is filled.
    Done,
}

struct Slot<M> {
    place: Place,
    memory: M,
    /// Where it begins in the memory.
    start: u64,
    /// Where it begins in the device.
    offset: u64,
    /// Whole pages from there.
    span: u64,
    /// Bytes that it holds.
    length: u32,
    /// Where a frame goes with `V4L2_MEMORY_USERPTR`, and how much fits there.
    user: (u64, u32),
    filled: Filled,
    was_filled: bool,
}

/// What is known of a filled buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    pub(crate) bytes_used: u32,
    pub(crate) sequence: u32,
    pub(crate) timestamp: Time,
    /// The content is wrong (`V4L2_BUF_FLAG_ERROR`).
    pub(crate) is_corrupt: bool,
}

impl Filled {
    pub(crate) const NEVER: Filled = Filled {
        bytes_used: 0,
        sequence: 0,
        timestamp: Time { seconds: 0, microseconds: 0 },
        is_corrupt: false,
    };
}

/// The progress of `read(2)` through a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// The buffer being read, and how much of it has been.
    pub(crate) current: Option<(u32, u32)>,
}

/// How a program hands a buffer over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handing {
    /// `VIDIOC_PREPARE_BUF`.
    Prepare,
    /// `VIDIOC_QBUF`.
    Queue,
}

/// The buffers of a queue.
pub(crate) struct Buffers<M> {
    /// The open file that asked for them.
    pub(crate) owner: u64,
    /// Present when `read(2)` made them.
    pub(crate) reading: Option<Reading>,
    /// `V4L2_MEMORY_*`.
    kind: u32,
    /// None was queued since they were made, or since `VIDIOC_STREAMOFF`
    /// (`waiting_for_buffers`).
    awaits_first: bool,
    slots: Vec<Slot<M>>,
    queued: VecDeque<u32>,
    /// The one that is being filled; to the program it is queued.
    filling: Option<u32>,
    done: VecDeque<u32>,
}

/// Where a frame goes.
pub(crate) struct Claim<M> {
    pub(crate) memory: M,
    /// Where it begins in the memory.
    pub(crate) start: u64,
    /// How long it may be.
    pub(crate) length: u32,
}

/// How far apart buffers of this length lie.
pub(crate) fn stride(page: PageSize, length: u32) -> u64 {
    page.pages_for(length.into()) * page.bytes()
}

impl<M: Memory> Buffers<M> {
    /// No buffers yet.
    pub(crate) fn new(owner: u64, kind: u32) -> Buffers<M> {
        Buffers {
            owner,
            reading: None,
            kind,
            awaits_first: true,
            slots: Vec::new(),
            queued: VecDeque::new(),
            filling: None,
            done: VecDeque::new(),
        }
    }

    /// Adds `count` buffers of `length` bytes, `stride` apart in `memory`.
    pub(crate) fn add(&mut self, memory: &M, (stride, length): (u64, u32), count: u32) {
        let base = self.slots.last().map_or(0, |last| last.offset + last.span);
        self.slots.extend((0..u64::from(count)).map(|n| Slot {
            place: Place::Dequeued,
            memory: memory.clone(),
            start: n * stride,
            offset: base + n * stride,
            span: stride,
            length,
            user: (0, length),
            filled: Filled::NEVER,
            was_filled: false,
        }));
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn kind(&self) -> u32 {
        self.kind
    }

    pub(crate) fn is_mapped_kind(&self) -> bool {
        self.kind == memory::MMAP
    }

    /// The buffer that begins at this byte of the device: its memory, where it begins
    /// there, and the whole pages that it takes.
    pub(crate) fn at_offset(&self, offset: u64) -> Option<(&M, u64, u64)> {
        let slot = self.slots.iter().find(|slot| slot.offset == offset)?;
        Some((&slot.memory, slot.start, slot.span))
    }

    /// As `VIDIOC_QUERYBUF` says it.
    ///
    /// # Errors
    /// `EINVAL`: no such buffer.
    pub(crate) fn describe(&self, index: u32) -> Result<Buffer, Errno> {
        let slot = self.slots.get(index as usize).ok_or(Errno::EINVAL)?;
        let mut flags = buf_flag::TIMESTAMP_MONOTONIC;
        flags |= match slot.place {
            Place::Dequeued => 0,
            Place::Prepared => buf_flag::PREPARED,
            Place::Queued => buf_flag::QUEUED,
            Place::Done => buf_flag::DONE,
        };
        if slot.filled.is_corrupt {
            flags |= buf_flag::ERROR;
        }
        let m = if self.is_mapped_kind() {
            if slot.memory.is_mapped() {
                flags |= buf_flag::MAPPED;
            }
            slot.offset
        } else {
            slot.user.0
        };
        Ok(Buffer {
            index,
            kind: uapi::VIDEO_CAPTURE,
            bytes_used: slot.filled.bytes_used,
            flags,
            // V4L2_FIELD_ANY, until there was a frame.
            field: if slot.was_filled { uapi::FIELD_NONE } else { 0 },
            pad: 0,
            timestamp: slot.filled.timestamp,
            timecode: [0; 4],
            sequence: slot.filled.sequence,
            memory: self.kind,
            m,
            length: if self.is_mapped_kind() { slot.length } else { slot.user.1 },
            reserved2: 0,
            request_fd: 0,
            pad2: 0,
        })
    }

    /// Checks a buffer that a program wants to queue or prepare; its place.
    fn check(&self, buffer: &Buffer, handing: Handing) -> Result<usize, Errno> {
        const REQUEST_FD: u32 = 0x0080_0000;
        const EBADR: i32 = 53;
        let index = buffer.index as usize;
        let slot = self.slots.get(index).ok_or(Errno::EINVAL)?;
        if buffer.memory != self.kind {
            return Err(Errno::EINVAL);
        }
        if !matches!(slot.place, Place::Dequeued | Place::Prepared) {
            return Err(Errno::EINVAL);
        }
        let is_prepared = slot.place == Place::Prepared;
        if buffer.flags & REQUEST_FD != 0 {
            // There are no requests here, and nowhere are buffers prepared for one.
            let refused = Errno::from_raw(EBADR).filter(|_| handing == Handing::Queue);
            return Err(refused.unwrap_or(Errno::EINVAL));
        }
        if is_prepared && handing == Handing::Prepare {
            return Err(Errno::EINVAL);
        }
        if !self.is_mapped_kind() && !is_prepared && buffer.length < slot.length {
            return Err(Errno::EINVAL);
        }
        Ok(index)
    }

    /// Whether a buffer that is to be queued or prepared brings a pointer of the
    /// program's: one that is prepared has it already.
    ///
    /// # Errors
    /// As [`Buffers::hand`].
    pub(crate) fn brings_pointer(&self, buffer: &Buffer, handing: Handing) -> Result<bool, Errno> {
        let index = self.check(buffer, handing)?;
        Ok(!self.is_mapped_kind() && self.slots[index].place == Place::Dequeued)
    }

    /// Takes a buffer of the program's.
    ///
    /// # Errors
    /// `EINVAL`: no such buffer, not of this memory, too short, or not the program's.
    /// `EBADR`: queued with a request.
    pub(crate) fn hand(&mut self, buffer: &Buffer, handing: Handing) -> Result<(), Errno> {
        let index = self.check(buffer, handing)?;
        let slot = &mut self.slots[index];
        if slot.place == Place::Dequeued {
            slot.user = (buffer.m, buffer.length);
        }
        match handing {
            Handing::Prepare => (slot.place, slot.filled) = (Place::Prepared, Filled::NEVER),
            Handing::Queue => self.enqueue(buffer.index),
        }
        Ok(())
    }

    /// Puts a buffer that exists behind those that wait to be filled.
    pub(crate) fn enqueue(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.place = Place::Queued;
        // What the last frame left (`vb2_fill_vb2_v4l2_buffer`).
        slot.filled = Filled::NEVER;
        self.awaits_first = false;
        self.queued.push_back(index);
    }

    pub(crate) fn enqueue_all(&mut self) {
        (0..self.slots.len() as u32).for_each(|index| self.enqueue(index));
    }

    /// Whether a buffer waits to be filled.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Whether poll has nothing to wait for: no buffer was queued yet.
    pub(crate) fn awaits_first(&self) -> bool {
        self.awaits_first
    }

    /// Whether a frame waits to be taken.
    pub(crate) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Takes the buffer that waits longest, to be filled; `None`: none waits.
    pub(crate) fn claim(&mut self) -> Option<Claim<M>> {
        let index = self.queued.pop_front()?;
        self.filling = Some(index);
        let slot = &self.slots[index as usize];
        Some(Claim { memory: slot.memory.clone(), start: slot.start, length: slot.length })
    }

    /// The claimed buffer is filled.
    pub(crate) fn complete(&mut self, filled: Filled) {
        let Some(index) = self.filling.take() else { return };
        let slot = &mut self.slots[index as usize];
        slot.place = Place::Done;
        slot.filled = filled;
        slot.was_filled = true;
        self.done.push_back(index);
    }

    /// Takes the oldest frame; it is the program's now.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let index = self.done.pop_front()?;
        self.slots[index as usize].place = Place::Dequeued;
        Some(index)
    }

    /// The bytes of a taken frame, from `from` on, at most as many as fit.
    pub(crate) fn read(&self, index: u32, from: u32, into: &mut [u8]) -> Result<usize, Errno> {
        let slot = self.slots.get(index as usize).ok_or(Errno::EINVAL)?;
        let rest = slot.filled.bytes_used.saturating_sub(from) as usize;
        let count = rest.min(into.len());
        slot.memory.read(slot.start + u64::from(from), &mut into[..count])?;
        Ok(count)
    }

    /// The length of the frame in a buffer.
    pub(crate) fn bytes_used(&self, index: u32) -> u32 {
        self.slots.get(index as usize).map_or(0, |slot| slot.filled.bytes_used)
    }

    /// All buffers are the program's again (`VIDIOC_STREAMOFF`).
    pub(crate) fn cancel(&mut self) {
        self.queued.clear();
        self.filling = None;
        self.done.clear();
        self.awaits_first = true;
        self.slots.iter_mut().for_each(|slot| slot.place = Place::Dequeued);
    }
}
