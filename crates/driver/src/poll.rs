//! Readiness: `poll(2)`, `select(2)` and `epoll(7)`.

use core::fmt;

/// A `poll` mask, with Linux's bit values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollEvents(u32);

impl PollEvents {
    /// Nothing is ready.
    pub const NONE: PollEvents = PollEvents(0);
    /// `POLLIN`: a read will not block.
    pub const IN: PollEvents = PollEvents(0x001);
    /// `POLLPRI`: an exceptional condition.
    pub const PRI: PollEvents = PollEvents(0x002);
    /// `POLLOUT`: a write will not block.
    pub const OUT: PollEvents = PollEvents(0x004);
    /// `POLLERR`: an error; reported whether asked for or not.
    pub const ERR: PollEvents = PollEvents(0x008);
    /// `POLLHUP`: hung up; reported whether asked for or not.
    pub const HUP: PollEvents = PollEvents(0x010);
    /// `POLLRDNORM`: as `POLLIN`.
    pub const RDNORM: PollEvents = PollEvents(0x040);
    /// `POLLRDBAND`: priority data may be read.
    pub const RDBAND: PollEvents = PollEvents(0x080);
    /// `POLLWRNORM`: as `POLLOUT`.
    pub const WRNORM: PollEvents = PollEvents(0x100);
    /// `POLLWRBAND`: priority data may be written.
    pub const WRBAND: PollEvents = PollEvents(0x200);
    /// `POLLRDHUP`: the peer closed its writing half.
    pub const RDHUP: PollEvents = PollEvents(0x2000);
    /// What a device without a poll method says (`DEFAULT_POLLMASK`).
    pub const DEFAULT: PollEvents = PollEvents(0x001 | 0x004 | 0x040 | 0x100);

    /// Every bit that a driver may report.
    const KNOWN: u32 = 0x23df;

    /// From Linux's bits; unknown ones are dropped.
    pub const fn from_bits(bits: u32) -> PollEvents {
        PollEvents(bits & Self::KNOWN)
    }

    /// Linux's bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Both sets.
    #[must_use]
    pub const fn union(self, other: PollEvents) -> PollEvents {
        PollEvents(self.0 | other.0)
    }

    /// What both sets hold.
    #[must_use]
    pub const fn intersection(self, other: PollEvents) -> PollEvents {
        PollEvents(self.0 & other.0)
    }

    /// Whether any of `other` is set.
    pub const fn intersects(self, other: PollEvents) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: PollEvents) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is ready.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for PollEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::IN, "IN"),
            (Self::PRI, "PRI"),
            (Self::OUT, "OUT"),
            (Self::ERR, "ERR"),
            (Self::HUP, "HUP"),
            (Self::RDNORM, "RDNORM"),
            (Self::RDBAND, "RDBAND"),
            (Self::WRNORM, "WRNORM"),
            (Self::WRBAND, "WRBAND"),
            (Self::RDHUP, "RDHUP"),
        ];
        if self.is_empty() {
            return f.write_str("0");
        }
        let mut separator = "";
        for (_, name) in names.iter().filter(|(event, _)| self.contains(*event)) {
            write!(f, "{separator}{name}")?;
            separator = "|";
        }
        Ok(())
    }
}

/// The queues on which a poller waits (`poll_table`).
pub trait PollTable<Q> {
    /// A wake of `queue` asks the driver's poll method again (`poll_wait`). Register
    /// first, then look at the state: a wake in between is then not lost.
    fn register(&mut self, queue: &Q);

    /// What the poller asks for (`poll_requested_events`). `None`: the home does not know,
    /// or asks for a reason of its own.
    fn wanted(&self) -> Option<PollEvents> {
        None
    }
}
