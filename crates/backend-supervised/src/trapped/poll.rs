//! `poll` and `ppoll`.
//!
//! What does not live here: how it is waited (`waits`).

use std::io;

use devmap_driver::{Errno, PollEvents};
use devmap_sys::{arch::nr, process};

use super::{
    Trapped,
    polling::{MOST, Timeout},
    waits::{OWN_INT, Polled, Wait, Waited, ZERO},
};
use crate::{attach::Held, filter::LAST_STANDARD};

/// Bytes of a `struct pollfd`, and where what it says is in it.
const LEN: usize = 8;
const REVENTS: usize = 6;

/// What is said whether asked for or not.
pub(super) const ALWAYS: PollEvents = PollEvents::ERR.union(PollEvents::HUP);

/// A call of `poll`.
struct Poll {
    tid: u32,
    nr: u32,
    /// Where its descriptors are, and how many.
    address: u64,
    count: usize,
    /// The places of the devices among them.
    places: Vec<usize>,
    waited: Waited,
}

/// Whether a call is one of these.
pub(super) fn is_one(nr: u32) -> bool {
    nr == nr::PPOLL || Some(nr) == nr::POLL
}

pub(super) fn read(
    trapped: &Trapped,
    tid: u32,
    nr: u32,
    [address, count, timeout, mask, ..]: [u64; 6],
) -> Option<Box<dyn Wait>> {
    let is_poll = Some(nr) == nr::POLL;
    // An unsigned int, whatever the register holds.
    let count = usize::try_from(count as u32).ok().filter(|count| *count <= MOST)?;
    let mut bytes = vec![0; count * LEN];
    process::read_memory(tid, address, &mut bytes).ok()?;
    let (mut places, mut polled) = (Vec::new(), Vec::new());
    let mut is_kernels = !is_poll && mask != 0;
    for (at, one) in bytes.chunks_exact(LEN).enumerate() {
        let [fd @ .., a, b, _, _] = one else { return None };
        let fd = i32::from_ne_bytes(fd.try_into().ok()?);
        let Ok(fd) = u32::try_from(fd) else { continue };
        let may_be_one = fd <= LAST_STANDARD || fd >= trapped.first;
        let events = PollEvents::from_bits(u16::from_ne_bytes([*a, *b]).into()).union(ALWAYS);
        let descriptor = may_be_one.then(|| trapped.descriptors.of(tid, fd)).flatten();
        match descriptor.and_then(|descriptor| Polled::new(descriptor, events, events)) {
            Some(device) => {
                places.push(at);
                polled.push(device);
            }
            None => is_kernels = true,
        }
    }
    if polled.is_empty() {
        return None;
    }
    let timeout = match (is_poll, timeout) {
        (true, milliseconds) => Timeout::of_milliseconds(milliseconds),
        (false, 0) => None,
        (false, address) => Some(Timeout::read(tid, address, 1_000_000_000)?),
    };
    let waited = Waited { polled, is_kernels, timeout };
    Some(Box::new(Poll { tid, nr, address, count, places, waited }))
}

impl Wait for Poll {
    fn waited(&self) -> &Waited {
        &self.waited
    }

    fn ask_kernel(&self, held: &mut Held) -> io::Result<i64> {
        let count = OWN_INT | self.count as u64;
        let zero = if self.nr == nr::PPOLL { held.lend(&ZERO)? } else { 0 };
        held.inject(self.nr, [self.address, count, zero, 0, 0, 0])
    }

    fn tell(&self, kernel: Option<(&mut Held, i64)>, masks: &[PollEvents]) -> Result<i64, Errno> {
        let mut bytes = vec![0; self.count * LEN];
        let is_asked = kernel.is_some();
        if is_asked {
            process::read_memory(self.tid, self.address, &mut bytes).map_err(|_| Errno::EFAULT)?;
        }
        let words = bytes.chunks_exact(LEN).map(|one| [one[REVENTS], one[REVENTS + 1]]);
        let there: Vec<_> = words.map(u16::from_ne_bytes).collect();
        let mut said = there.clone();
        for ((place, polled), mask) in self.places.iter().zip(&self.waited.polled).zip(masks) {
            said[*place] = mask.intersection(polled.asked).bits() as u16;
        }
        for (place, (events, there)) in said.iter().zip(&there).enumerate() {
            // The kernel has written the others.
            if is_asked && events == there {
                continue;
            }
            let at = self.address + (place * LEN + REVENTS) as u64;
            let written = process::write_memory(self.tid, at, &events.to_ne_bytes());
            written.map_err(|_| Errno::EFAULT)?;
        }
        Ok(said.iter().filter(|events| **events != 0).count() as i64)
    }
}
