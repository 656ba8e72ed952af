//! A client of a V4L2 camera: frames of one size in YUYV, in buffers that it maps.
//!
//! What does not live here: the device's side, which needs no `unsafe`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use crate::{
    check,
    mapping::{Mapping, Protection, Sharing},
};

const WRITES: u32 = 1;
const WRITES_AND_READS: u32 = 3;
/// `V4L2_BUF_TYPE_VIDEO_CAPTURE`.
const CAPTURE: u32 = 1;
/// `V4L2_MEMORY_MMAP`.
const MMAP: u32 = 1;

/// A camera that streams to this process.
#[derive(Debug)]
pub struct Capture {
    file: OwnedFd,
    #[expect(dead_code, reason = "mapped, as in each client")]
    buffers: Vec<Mapping>,
    /// Those that the camera does not have.
    idle: Vec<u32>,
}

/// A call of `linux/videodev2.h`, whose argument has `N` bytes.
///
/// # Invariants
/// The argument holds no pointers: buffers are `V4L2_MEMORY_MMAP`, and of the other
/// structures that this module passes none has any.
fn call<const N: usize>(
    file: impl AsFd,
    number: u8,
    direction: u32,
    argument: &mut [u8; N],
) -> io::Result<()> {
    let command = direction << 30 | (N as u32) << 16 | u32::from(b'V') << 8 | u32::from(number);
    let file = file.as_fd().as_raw_fd();
    // SAFETY: the command says that N bytes are read and written at the argument, which is
    // that long; no others are, since it holds no pointers (see the invariant).
    check(unsafe { libc::ioctl(file, libc::Ioctl::from(command), argument.as_mut_ptr()) })?;
    Ok(())
}

fn put(argument: &mut [u8], offset: usize, value: u32) {
    argument[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
}

fn get(argument: &[u8], offset: usize) -> u32 {
    argument[offset..offset + 4].try_into().map_or(0, u32::from_ne_bytes)
}

fn buffer(index: u32) -> [u8; 88] {
    let mut buffer = [0; 88];
    for (offset, value) in [(0, index), (4, CAPTURE), (60, MMAP)] {
        put(&mut buffer, offset, value);
    }
    buffer
}

impl Capture {
    /// Starts a stream of `size` (width and height) with `count` buffers, of which none is
    /// queued.
    ///
    /// # Errors
    /// Those of the calls; `EINVAL` when the camera has no YUYV of this size.
    pub fn start(file: OwnedFd, size: (u32, u32), count: u32) -> io::Result<Capture> {
        let mut format = [0; 208];
        let wanted = [(0, CAPTURE), (8, size.0), (12, size.1), (16, u32::from_le_bytes(*b"YUYV"))];
        for (offset, value) in wanted {
            put(&mut format, offset, value);
        }
        call(&file, 5, WRITES_AND_READS, &mut format)?;
        if wanted.iter().any(|(offset, value)| get(&format, *offset) != *value) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut request = [0; 20];
        for (offset, value) in [(0, count), (4, CAPTURE), (8, MMAP)] {
            put(&mut request, offset, value);
        }
        call(&file, 8, WRITES_AND_READS, &mut request)?;
        let mut buffers = Vec::new();
        for index in 0..get(&request, 0) {
            let mut buffer = buffer(index);
            call(&file, 9, WRITES_AND_READS, &mut buffer)?;
            let (offset, length) = (get(&buffer, 64).into(), get(&buffer, 72) as usize);
            let (protection, sharing) = (Protection::ReadWrite, Sharing::Shared);
            buffers.push(Mapping::new(file.as_fd(), offset, length, protection, sharing)?);
        }
        call(&file, 18, WRITES, &mut CAPTURE.to_ne_bytes())?;
        let idle = (0..buffers.len() as u32).collect();
        Ok(Capture { file, buffers, idle })
    }

    /// Takes so many frames, each as soon as it comes, and queues no buffer for more: what
    /// the camera does for them is over when this is.
    ///
    /// # Errors
    /// The camera's.
    pub fn take(&mut self, frames: u64) -> io::Result<()> {
        let mut wanted = frames;
        for _ in 0..frames {
            while wanted > 0
                && let Some(index) = self.idle.pop()
            {
                self.queue(index)?;
                wanted -= 1;
            }
            let index = self.dequeue()?;
            self.idle.push(index);
        }
        Ok(())
    }

    /// Waits for the next frame of a stream that goes on.
    ///
    /// # Errors
    /// The camera's.
    pub fn next_frame(&mut self) -> io::Result<()> {
        while let Some(index) = self.idle.pop() {
            self.queue(index)?;
        }
        let index = self.dequeue()?;
        self.idle.push(index);
        Ok(())
    }

    fn queue(&self, index: u32) -> io::Result<()> {
        call(&self.file, 15, WRITES_AND_READS, &mut buffer(index))
    }

    fn dequeue(&self) -> io::Result<u32> {
        let mut taken = buffer(0);
        call(&self.file, 17, WRITES_AND_READS, &mut taken)?;
        Ok(get(&taken, 0))
    }
}
