//! Reads and writes that go through a small buffer, piece by piece. What the bytes
//! are is each driver's own business.

use devmap_driver::{Errno, Memory, Transfer};

/// Small enough for a kernel stack.
const PIECE: usize = 512;

/// Answers a read with the bytes from the transfer's position up to `size`; `fill`
/// makes the bytes that stand at a position of the device.
///
/// # Errors
/// That of `fill` or `EFAULT`, if it came before the first byte; else the call ends
/// short.
pub(crate) fn read_pieces(
    transfer: &Transfer<'_>,
    size: u64,
    mut fill: impl FnMut(u64, &mut [u8]) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    let mut buffer = [0; PIECE];
    pieces(transfer, size, |done, position, len| {
        fill(position, &mut buffer[..len])?;
        transfer.user().slice(done, len)?.copy_out(&buffer[..len])
    })
}

/// Answers a write into `memory`: `ENOSPC` at or past its end.
///
/// # Errors
/// `ENOSPC`; `EFAULT` if it came before the first byte, else the call ends short.
pub(crate) fn write_memory(transfer: &Transfer<'_>, memory: &impl Memory) -> Result<usize, Errno> {
    if transfer.position() >= memory.len() && !transfer.user().is_empty() {
        return Err(Errno::ENOSPC);
    }
    let mut buffer = [0; PIECE];
    pieces(transfer, memory.len(), |done, position, len| {
        transfer.user().slice(done, len)?.copy_in(&mut buffer[..len])?;
        memory.write(position, &buffer[..len])
    })
}

/// Cuts a transfer that ends at `size` into pieces, each given as bytes done before,
/// position, length.
fn pieces(
    transfer: &Transfer<'_>,
    size: u64,
    mut piece: impl FnMut(usize, u64, usize) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    let left = size.saturating_sub(transfer.position());
    let total = transfer.user().len().min(usize::try_from(left).unwrap_or(usize::MAX));
    let mut done = 0;
    while done < total {
        let len = PIECE.min(total - done);
        match piece(done, transfer.position() + done as u64, len) {
            Ok(()) => done += len,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}
