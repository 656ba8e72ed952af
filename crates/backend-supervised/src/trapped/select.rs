//! `select` and `pselect6`.
//!
//! What does not live here: how it is waited (`waits`); how a FIFO shows readiness (`fifo`).

use std::io;

use devmap_driver::{Errno, PollEvents};
use devmap_sys::{arch::nr, process};

use super::{
    Trapped,
    fifo::{POLLIN_SET, POLLOUT_SET},
    polling::{MOST, Timeout, read_words},
    waits::{OWN_INT, Polled, Wait, Waited, ZERO},
};
use crate::attach::Held;

/// What says to `select` that there is an exception (fs/select.c).
const POLLEX_SET: PollEvents = PollEvents::PRI;

/// By what each of the sets, in their order among the arguments, is told.
const GROUPS: [PollEvents; 3] = [POLLIN_SET, POLLOUT_SET, POLLEX_SET];

/// Descriptors of a word of a set (`BITS_PER_LONG`).
const BITS: usize = u64::BITS as usize;

/// A call of `select`.
struct Select {
    tid: u32,
    nr: u32,
    /// How many descriptors its sets are of.
    count: usize,
    /// Where its sets are; 0 for one that it does not give.
    sets: [u64; 3],
    /// What is in them.
    bits: [Vec<u64>; 3],
    /// The devices in any of them, and in which.
    devices: Vec<(usize, [bool; 3])>,
    waited: Waited,
}

/// Whether a call is one of these.
pub(super) fn is_one(nr: u32) -> bool {
    nr == nr::PSELECT6 || Some(nr) == nr::SELECT
}

pub(super) fn read(
    trapped: &Trapped,
    tid: u32,
    nr: u32,
    [count, sets @ .., timeout, mask]: [u64; 6],
) -> Option<Box<dyn Wait>> {
    let is_select = Some(nr) == nr::SELECT;
    let mut is_kernels = !is_select && has_signal_mask(tid, mask)?;
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
    let (mut devices, mut polled) = (Vec::new(), Vec::new());
    for (fd, sets) in (0..count).map(|fd| (fd, is_in(fd))) {
        if sets == [false; 3] {
            continue;
        }
        let groups = GROUPS.into_iter().zip(sets).filter(|(_, is_in)| *is_in);
        let asked = groups.fold(PollEvents::NONE, |asked, (group, _)| asked.union(group));
        // Exceptions always (`wait_key_set`).
        let wanted = asked.union(POLLEX_SET);
        let descriptor = trapped.descriptors.of(tid, fd as u32);
        match descriptor.and_then(|descriptor| Polled::new(descriptor, asked, wanted)) {
            Some(device) => {
                devices.push((fd, sets));
                polled.push(device);
            }
            None => is_kernels = true,
        }
    }
    if polled.is_empty() {
        return None;
    }
    let units = if is_select { 1_000_000 } else { 1_000_000_000 };
    let timeout = match timeout {
        0 => None,
        address => Some(Timeout::read(tid, address, units)?),
    };
    let waited = Waited { polled, is_kernels, timeout };
    Some(Box::new(Select { tid, nr, count, sets, bits, devices, waited }))
}

impl Select {
    fn write(&self, set: usize, words: &[u64]) -> Result<(), Errno> {
        let bytes: Vec<u8> = words.iter().copied().flat_map(u64::to_ne_bytes).collect();
        process::write_memory(self.tid, self.sets[set], &bytes).map_err(|_| Errno::EFAULT)
    }

    /// The sets that it gives.
    fn given(&self) -> impl Iterator<Item = usize> {
        (0..3).filter(|set| self.sets[*set] != 0)
    }
}

impl Wait for Select {
    fn waited(&self) -> &Waited {
        &self.waited
    }

    fn ask_kernel(&self, held: &mut Held) -> io::Result<i64> {
        let [reads, writes, exceptions] = self.sets;
        let count = OWN_INT | self.count as u64;
        let zero = held.lend(&ZERO)?;
        held.inject(self.nr, [count, reads, writes, exceptions, zero, 0])
    }

    fn tell(&self, kernel: Option<(&mut Held, i64)>, masks: &[PollEvents]) -> Result<i64, Errno> {
        let mut count = 0;
        for set in self.given() {
            let mut words = match &kernel {
                Some(_) => {
                    let words = read_words(self.tid, self.sets[set], self.bits[set].len());
                    words.ok_or(Errno::EFAULT)?
                }
                None => vec![0; self.bits[set].len()],
            };
            for ((fd, sets), mask) in self.devices.iter().zip(masks) {
                let bit = 1 << (fd % BITS);
                words[fd / BITS] &= !bit;
                if sets[set] && mask.intersects(GROUPS[set]) {
                    words[fd / BITS] |= bit;
                }
            }
            count += words.iter().map(|word| i64::from(word.count_ones())).sum::<i64>();
            self.write(set, &words)?;
        }
        if count == 0 && kernel.is_some() && !self.waited.is_over() {
            // The call is made again.
            for set in self.given() {
                self.write(set, &self.bits[set])?;
            }
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
