//! `poll` and `ppoll` of devices alone: they are served here, since a FIFO can show few masks.
//! Others go on, and hear of a device what its FIFO shows.

use std::{sync::Arc, time::Duration};

use devmap_driver::{Errno, PollEvents};
use devmap_sys::{
    arch::nr,
    process,
    seccomp::{Notification, Reply},
};

use super::{
    Trapped,
    polling::{self, MOST, Polled, Timeout},
};
use crate::{Core, filter::LAST_STANDARD, notify::Call};

/// Bytes of a `struct pollfd`, and where what it says is in it.
const LEN: usize = 8;
const REVENTS: u64 = 6;

/// What is said whether asked for or not.
const ALWAYS: PollEvents = PollEvents::ERR.union(PollEvents::HUP);

/// A call of `poll`.
struct Poll {
    tid: u32,
    /// Where its descriptors are, and how many.
    address: u64,
    count: usize,
    /// The places of the devices among them.
    places: Vec<usize>,
    files: Vec<Polled>,
    timeout: Option<Timeout>,
}

/// Serves a call if it is a `poll`.
pub(super) fn serve(core: &Arc<Core>, trapped: &Trapped, call: &Call<'_>) -> bool {
    let nr = call.notification.nr;
    if nr != nr::PPOLL && Some(nr) != nr::POLL {
        return false;
    }
    match Poll::read(trapped, call.notification) {
        Some(poll) => {
            let timeout = poll.timeout.as_ref();
            polling::serve(core, call, &poll.files, timeout, |masks| poll.tell(masks));
        }
        None => call.answer(Reply::Continue),
    }
    true
}

impl Poll {
    /// The call, if all that it names are open files of devices, at numbers of theirs. What is
    /// wrong with it otherwise says the kernel.
    fn read(trapped: &Trapped, notification: &Notification) -> Option<Poll> {
        let Notification { tid, nr, args: [address, count, timeout, mask, ..], .. } = *notification;
        let is_poll = Some(nr) == nr::POLL;
        // Nobody can change the signal mask for it.
        if !is_poll && mask != 0 {
            return None;
        }
        // An unsigned int, whatever the register holds.
        let count = usize::try_from(count as u32).ok().filter(|count| *count <= MOST)?;
        let mut bytes = vec![0; count * LEN];
        process::read_memory(tid, address, &mut bytes).ok()?;
        let (mut places, mut files) = (Vec::new(), Vec::new());
        for (at, one) in bytes.chunks_exact(LEN).enumerate() {
            let [fd @ .., a, b, _, _] = one else { return None };
            let fd = i32::from_ne_bytes(fd.try_into().ok()?);
            let Ok(fd) = u32::try_from(fd) else { continue };
            if fd > LAST_STANDARD && fd < trapped.first {
                return None;
            }
            let file = trapped.open_file(tid, fd)?;
            let events = PollEvents::from_bits(u16::from_ne_bytes([*a, *b]).into()).union(ALWAYS);
            places.push(at);
            files.push(Polled { file, asked: events, wanted: events });
        }
        if files.is_empty() {
            return None;
        }
        let timeout = match (is_poll, timeout) {
            (true, milliseconds) => {
                let milliseconds = u64::try_from(milliseconds as i32).ok();
                milliseconds.map(|time| Timeout::after(Duration::from_millis(time)))
            }
            (false, 0) => None,
            (false, address) => Some(Timeout::read(tid, address, 1_000_000_000)?),
        };
        Some(Poll { tid, address, count, places, files, timeout })
    }

    /// Writes what each of them says of itself: how many say anything.
    fn tell(&self, masks: &[PollEvents]) -> Result<i64, Errno> {
        let mut said = vec![0_u16; self.count];
        for ((place, polled), mask) in self.places.iter().zip(&self.files).zip(masks) {
            said[*place] = mask.intersection(polled.asked).bits() as u16;
        }
        for (place, events) in (0..).zip(&said) {
            let at = self.address + place * LEN as u64 + REVENTS;
            let written = process::write_memory(self.tid, at, &events.to_ne_bytes());
            written.map_err(|_| Errno::EFAULT)?;
        }
        Ok(said.iter().filter(|events| **events != 0).count() as i64)
    }
}
