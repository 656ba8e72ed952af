//! `select` and `pselect6` that ask for exceptions (`POLLPRI`): a FIFO never has one. They are
//! served here as long as every descriptor that they name is a device's; others go on, and hear
//! of no exception of a device.
//!
//! What does not live here: how a FIFO shows readiness to all others (`fifo`).

use std::sync::Arc;

use devmap_driver::{Errno, PollEvents};
use devmap_sys::{
    arch::nr,
    process,
    seccomp::{Notification, Reply},
};

use super::{
    Trapped,
    fifo::{POLLIN_SET, POLLOUT_SET},
    polling::{self, MOST, Polled, Timeout, read_words},
};
use crate::{Core, notify::Call};

/// What says to `select` that there is an exception (fs/select.c).
const POLLEX_SET: PollEvents = PollEvents::PRI;

/// By what each of the sets, in their order among the arguments, is told.
const GROUPS: [PollEvents; 3] = [POLLIN_SET, POLLOUT_SET, POLLEX_SET];

/// Descriptors of a word of a set (`BITS_PER_LONG`).
const BITS: usize = u64::BITS as usize;

/// A call of `select`.
struct Select {
    tid: u32,
    /// Where its sets are; 0 for one that it does not give.
    sets: [u64; 3],
    /// Words of each.
    words: usize,
    /// The descriptors that it names, and in which of the sets.
    named: Vec<(usize, [bool; 3])>,
    files: Vec<Polled>,
    timeout: Option<Timeout>,
}

/// Serves a call if it is a `select`.
pub(super) fn serve(core: &Arc<Core>, trapped: &Trapped, call: &Call<'_>) -> bool {
    let nr = call.notification.nr;
    if nr != nr::PSELECT6 && Some(nr) != nr::SELECT {
        return false;
    }
    match Select::read(trapped, call.notification) {
        Some(select) => {
            let timeout = select.timeout.as_ref();
            polling::serve(core, call, &select.files, timeout, |masks| select.tell(masks));
        }
        None => call.answer(Reply::Continue),
    }
    true
}

impl Select {
    /// The call, if all that it names are open files of devices. What is wrong with it otherwise
    /// says the kernel.
    fn read(trapped: &Trapped, notification: &Notification) -> Option<Select> {
        let Notification { tid, nr, args: [count, sets @ .., timeout, mask], .. } = *notification;
        let is_select = Some(nr) == nr::SELECT;
        if !is_select && has_signal_mask(tid, mask)? {
            return None;
        }
        let count = usize::try_from(count as i32).ok().filter(|count| *count <= MOST)?;
        let words = count.div_ceil(BITS);
        let mut bits = [const { Vec::new() }; 3];
        for (bits, address) in bits.iter_mut().zip(sets) {
            *bits = read_words(tid, address, words)?;
        }
        let is_in = |fd: usize| {
            let word = |words: &Vec<u64>| words.get(fd / BITS).copied().unwrap_or_default();
            [0, 1, 2].map(|set| word(&bits[set]) >> (fd % BITS) & 1 != 0)
        };
        let named: Vec<_> =
            (0..count).map(|fd| (fd, is_in(fd))).filter(|(_, sets)| sets.contains(&true)).collect();
        let polled = |(fd, sets): &(usize, [bool; 3])| {
            let groups = GROUPS.into_iter().zip(sets).filter(|(_, is_in)| **is_in);
            let asked = groups.fold(PollEvents::NONE, |asked, (group, _)| asked.union(group));
            let file = trapped.open_file(tid, *fd as u32)?;
            // Exceptions always (`wait_key_set`).
            Some(Polled { file, asked, wanted: asked.union(POLLEX_SET) })
        };
        let files = named.iter().map(polled).collect::<Option<Vec<_>>>()?;
        if files.is_empty() {
            return None;
        }
        let units = if is_select { 1_000_000 } else { 1_000_000_000 };
        let timeout = match timeout {
            0 => None,
            address => Some(Timeout::read(tid, address, units)?),
        };
        Some(Select { tid, sets, words, named, files, timeout })
    }

    /// Writes the sets of those that are ready: how many there are in them.
    fn tell(&self, masks: &[PollEvents]) -> Result<i64, Errno> {
        let mut count = 0;
        for set in (0..3).filter(|set| self.sets[*set] != 0) {
            let mut words = vec![0_u64; self.words];
            for ((fd, sets), mask) in self.named.iter().zip(masks) {
                if sets[set] && mask.intersects(GROUPS[set]) {
                    words[fd / BITS] |= 1 << (fd % BITS);
                    count += 1;
                }
            }
            let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
            process::write_memory(self.tid, self.sets[set], &bytes).map_err(|_| Errno::EFAULT)?;
        }
        Ok(count)
    }
}

/// Whether a `pselect6` changes the signal mask for as long as it waits, which nobody can do for
/// it. `None`: what says so cannot be read.
fn has_signal_mask(tid: u32, address: u64) -> Option<bool> {
    let mask = if address == 0 { 0 } else { *read_words(tid, address, 1)?.first()? };
    Some(mask != 0)
}
