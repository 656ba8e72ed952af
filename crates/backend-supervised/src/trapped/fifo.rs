//! How a FIFO shows whether a device is ready: by how full it is. It has up to [`SLOTS`]
//! slots, each holding one packet of one byte.
//!
//! | the driver's mask, as `select` sees it | packets |
//! |---|---|
//! | reads and writes would not block | 1 |
//! | reads would not block | all slots |
//! | writes would not block, or nothing is ready | none |
//!
//! So what a FIFO cannot say is "nothing", to a descriptor that may write: it says that
//! writes would not block.
//!
//! Packets come from a pipe that has some, by `tee`: so each has a slot of its own, and one
//! call puts all of them, as one read takes them.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use devmap_driver::{OpenFlags, PollEvents};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, SpliceFlags},
};

/// What says to `select` that reads would not block (fs/select.c).
pub(super) const POLLIN_SET: PollEvents = PollEvents::IN
    .union(PollEvents::RDNORM)
    .union(PollEvents::RDBAND)
    .union(PollEvents::HUP)
    .union(PollEvents::ERR);

/// The same, of writes.
pub(super) const POLLOUT_SET: PollEvents =
    PollEvents::OUT.union(PollEvents::WRNORM).union(PollEvents::WRBAND).union(PollEvents::ERR);

/// How many packets fill a FIFO, where the kernel gives as many. To an ordinary user who
/// has many pipes it gives two (`fs.pipe-user-pages-soft`).
const SLOTS: usize = 4;

/// The FIFO of one open file.
pub(super) struct Fifo {
    /// The supervisor's end: for reading, unless the client can only read.
    held: OwnedFd,
    access: OpenFlags,
    /// How many packets fill it: two at least.
    slots: usize,
    filler: Arc<Filler>,
}

impl Fifo {
    /// A new one, and the client's end of it. The supervisor's is for reading where the
    /// client can write, and for writing where it can only read, so that alone it is hung up.
    pub(super) fn new(
        filler: Arc<Filler>,
        access: OpenFlags,
        flags: OFlags,
    ) -> io::Result<(OwnedFd, Fifo)> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let page = rustix::param::page_size();
        let bytes = match rustix::pipe::fcntl_setpipe_size(&reader, SLOTS * page) {
            Err(Errno::PERM) => rustix::pipe::fcntl_getpipe_size(&reader)?,
            set => set?,
        };
        let client = filler.open(&reader, flags)?;
        let held = if access.write { reader } else { writer };
        Ok((client, Fifo { held, access, slots: bytes / page, filler }))
    }

    /// The supervisor's end.
    pub(super) fn held(&self) -> &OwnedFd {
        &self.held
    }

    /// What it shows for a mask to `poll` and `epoll` (`pipe_poll`).
    pub(super) fn shows(&self, mask: PollEvents) -> PollEvents {
        let packets = packets(mask, self.access, self.slots);
        let mut shown = PollEvents::NONE;
        if self.access.read && packets > 0 {
            shown = shown.union(PollEvents::IN).union(PollEvents::RDNORM);
        }
        if self.access.write && packets < self.slots {
            shown = shown.union(PollEvents::OUT).union(PollEvents::WRNORM);
        }
        shown
    }

    /// Shows less than before, if this mask is less: nobody is told anything by that.
    pub(super) fn hide(&self, shown: &mut usize, mask: PollEvents) -> io::Result<()> {
        if packets(mask, self.access, self.slots) < *shown {
            self.show(shown, mask, false)?;
        }
        Ok(())
    }

    /// Shows a mask; `shown`: how many packets there are. Where none come although a queue
    /// was woken, those who wait for edges are told by one more packet for a moment.
    pub(super) fn show(&self, shown: &mut usize, mask: PollEvents, woken: bool) -> io::Result<()> {
        let packets = packets(mask, self.access, self.slots);
        let before = std::mem::replace(shown, packets);
        if packets > before {
            return self.put(packets - before);
        }
        if packets < before {
            self.take(before - packets)?;
        }
        match packets {
            0 => Ok(()),
            _ if !woken => Ok(()),
            full if full == self.slots => {
                self.take(1)?;
                self.put(1)
            }
            _ => {
                self.put(1)?;
                self.take(1)
            }
        }
    }

    fn put(&self, packets: usize) -> io::Result<()> {
        if !self.held_reads() {
            return self.filler.put(&self.held, packets);
        }
        let end = self.filler.open(&self.held, OFlags::WRONLY | OFlags::NONBLOCK)?;
        self.filler.put(&end, packets)
    }

    fn take(&self, packets: usize) -> io::Result<()> {
        if self.held_reads() {
            return Filler::take(&self.held, packets);
        }
        Filler::take(&self.filler.open(&self.held, OFlags::RDONLY | OFlags::NONBLOCK)?, packets)
    }

    fn held_reads(&self) -> bool {
        self.access.write
    }
}

/// What FIFOs are filled by.
pub(super) struct Filler {
    /// The directory of the supervisor's descriptors, through which ends are opened.
    ends: OwnedFd,
    /// A pipe of packets, which stay: [`SLOTS`], or as many as the kernel lets it have.
    packets: OwnedFd,
}

impl Filler {
    pub(super) fn new() -> io::Result<Filler> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let ends = rustix::fs::open("/proc/self/fd", directory, Mode::empty())?;
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        let ((one, writer), (packets, full)) = (pipe()?, pipe()?);
        rustix::io::write(&writer, &[0])?;
        for _ in 0..SLOTS {
            match rustix::pipe::tee(&one, &full, 1, SpliceFlags::NONBLOCK) {
                Err(Errno::AGAIN) => break,
                put => put?,
            };
        }
        Ok(Filler { ends, packets })
    }

    /// Opens another end of a FIFO.
    fn open(&self, end: &OwnedFd, flags: OFlags) -> io::Result<OwnedFd> {
        let name = end.as_raw_fd().to_string();
        Ok(rustix::fs::openat(&self.ends, name, flags | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Puts packets into a FIFO.
    fn put(&self, end: &OwnedFd, mut packets: usize) -> io::Result<()> {
        while packets > 0 {
            let most = packets.min(SLOTS);
            match rustix::pipe::tee(&self.packets, end, most, SpliceFlags::NONBLOCK) {
                Ok(count) => packets -= count,
                // Full: somebody else has written, which only harms himself. Or nobody is
                // left to be shown anything.
                Err(Errno::AGAIN | Errno::PIPE) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes packets from a FIFO.
    fn take(end: &OwnedFd, mut packets: usize) -> io::Result<()> {
        let mut taken = [0; SLOTS];
        while packets > 0 {
            let most = packets.min(SLOTS);
            match rustix::io::read(end, &mut taken[..most]) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(count) => packets -= count,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// How many packets show a mask to a client with this access, in so many slots. Whoever waits
/// for a read or a write is woken by an error too.
fn packets(mask: PollEvents, access: OpenFlags, slots: usize) -> usize {
    let (reads, writes) = (mask.intersects(POLLIN_SET), mask.intersects(POLLOUT_SET));
    match (access.read, access.write) {
        (_, false) => usize::from(reads),
        (false, true) => {
            if writes {
                0
            } else {
                slots
            }
        }
        (true, true) => match (reads, writes) {
            (true, true) => 1,
            (true, false) => slots,
            (false, _) => 0,
        },
    }
}
