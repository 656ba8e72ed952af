//! What goes wrong on demand, the same in each run with the same seed.

use std::time::Duration;

/// Faults that a camera shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// The camera is unplugged after this many frames: `ENODEV` and a hang-up.
    pub unplug: Option<u64>,
    /// No frame comes after this many.
    pub stall: Option<u64>,
    /// Each Nth frame is garbled and flagged `V4L2_BUF_FLAG_ERROR`.
    pub corrupt: Option<u64>,
    /// The Nth ioctl answers `EIO`.
    pub eio: Option<u64>,
    /// Frames come up to this much late.
    pub late: Duration,
    /// What lateness and garbling are drawn from.
    pub seed: u64,
}

impl Trouble {
    pub(crate) fn dice(&self) -> Dice {
        Dice(self.seed)
    }

    /// How late the next frame is.
    pub(crate) fn delay(&self, dice: &mut Dice) -> Duration {
        if self.late.is_zero() {
            return Duration::ZERO;
        }
        let nanoseconds = u64::try_from(self.late.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(dice.next() % nanoseconds)
    }

    /// Whether the frame after `before` others is garbled.
    pub(crate) fn is_corrupt(&self, before: u64) -> bool {
        self.corrupt.is_some_and(|each| (before + 1).is_multiple_of(each))
    }
}

/// A generator of numbers that look random (`splitmix64`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Fills bytes with what is drawn.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_ne_bytes()[..piece.len()]);
        }
    }
}
