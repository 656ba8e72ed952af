//! A client of a V4L2 camera: frames of one size in YUYV, in buffers that it maps.
//!
//! What does not live here: the device's side, which needs no `unsafe`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
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
    /// Starts a stream of `size` (width and height) with `count` buffers, all queued.
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
            call(&file, 15, WRITES_AND_READS, &mut buffer)?;
        }
        call(&file, 18, WRITES, &mut CAPTURE.to_ne_bytes())?;
        Ok(Capture { file, buffers })
    }

    /// Waits for the next frame, and gives its buffer back at once: when it was taken, by
    /// `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// The camera's.
    pub fn next_frame(&mut self) -> io::Result<Duration> {
        let mut taken = buffer(0);
        call(&self.file, 17, WRITES_AND_READS, &mut taken)?;
        let (seconds, microseconds) = (get(&taken, 24), get(&taken, 32));
        let mut queued = buffer(get(&taken, 0));
        call(&self.file, 15, WRITES_AND_READS, &mut queued)?;
        Ok(Duration::from_secs(seconds.into()) + Duration::from_micros(microseconds.into()))
    }
}
