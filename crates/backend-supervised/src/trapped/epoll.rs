//! `epoll_wait` and its kin, where devices are registered. What is, the kernel tells
//! (`/proc/PID/fdinfo`), with the inode of each FIFO.
//!
//! What does not live here: how the wait is ended (`waits`).

use std::{collections::HashSet, fs, io};

use devmap_driver::{Errno, PollEvents};
use devmap_sys::{
    arch::nr,
    process,
    seccomp::{Notification, Reply},
};

use super::{
    Trapped,
    poll::ALWAYS,
    polling::{ERESTARTNOHAND, Timeout},
    waits::{self, OWN_INT, Polled, Teller, Wait, Waited, Watch, ZERO},
};
use crate::{
    attach::{self, Held, NotHeld},
    client,
    filter::LAST_STANDARD,
    notify::Call,
};

/// Bytes of a `struct epoll_event`, in which the data come last.
const LEN: usize = size_of::<libc::epoll_event>();
const DATA: usize = LEN - size_of::<u64>();

/// The most events of a call (`EP_MAX_EVENTS`).
const MOST: u64 = i32::MAX as u64 / LEN as u64;

/// Bits of a registration that are no events (`EP_PRIVATE_BITS`).
const PRIVATE: u32 =
    (libc::EPOLLWAKEUP | libc::EPOLLONESHOT | libc::EPOLLET | libc::EPOLLEXCLUSIVE) as u32;

/// Where a device is registered: the process, the number of the epoll file, and the device's.
pub(super) type Place = (u32, u32, u32);

/// A call of `epoll_wait`.
struct Epoll {
    tid: u32,
    nr: u32,
    epfd: u32,
    /// Where its events go, how many at most, and what was there before.
    address: u64,
    most: usize,
    before: Vec<u8>,
    waited: Waited,
    /// Of each device, how it is registered.
    registered: Vec<Registered>,
}

struct Registered {
    fd: u32,
    /// Events, and [`PRIVATE`] bits.
    events: u32,
    data: u64,
    /// For one that is told of edges: where it is.
    place: Option<Place>,
    /// How often its queues had been woken before its driver was asked.
    wakes: u64,
}

impl Registered {
    fn is_once(&self) -> bool {
        self.events & libc::EPOLLONESHOT as u32 != 0
    }

    /// Whether there may be something new of a device.
    fn is_due(&self, polled: &Polled) -> bool {
        self.place.is_none_or(|place| polled.descriptor.told_of(place) != Some(self.wakes))
    }
}

/// Whether a call is one of these.
pub(super) fn is_one(nr: u32) -> bool {
    nr == nr::EPOLL_PWAIT || nr == nr::EPOLL_PWAIT2 || Some(nr) == nr::EPOLL_WAIT
}

/// A line of what the kernel tells of an epoll file.
struct Line {
    fd: u32,
    events: u32,
    data: u64,
    /// What it is open on.
    identity: (u64, u64),
}

impl Line {
    /// `tfd: 5 events: 19 data: 5 pos:0 ino:2c sdev:f`
    fn parse(line: &str) -> Option<Line> {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        let fd = words.next()?.parse().ok()?;
        let mut named = |name| words.find(|word| *word == name).and_then(|_| words.next());
        let hexadecimal = |word| u64::from_str_radix(word, 16).ok();
        let events = hexadecimal(named("events:")?)? as u32;
        let data = hexadecimal(named("data:")?)?;
        let mut prefixed = |name| words.find_map(|word: &str| word.strip_prefix(name));
        let inode = hexadecimal(prefixed("ino:")?)?;
        // As the kernel has it (`MINORBITS`).
        let device = hexadecimal(prefixed("sdev:")?)?;
        let device = rustix::fs::makedev((device >> 20) as u32, device as u32 & 0xf_ffff);
        Some(Line { fd, events, data, identity: (device, inode) })
    }
}

pub(super) fn read(
    trapped: &Trapped,
    tid: u32,
    nr: u32,
    [epfd, address, most, timeout, ..]: [u64; 6],
) -> Option<Box<dyn Wait>> {
    let (epfd, most) = (epfd as u32, u64::from(most as u32));
    if most == 0 || most > MOST {
        return None;
    }
    let lines = fs::read_to_string(format!("/proc/{tid}/fdinfo/{epfd}")).ok()?;
    let mut before = vec![0; LEN * lines.lines().count().min(most as usize)];
    process::read_memory(tid, address, &mut before).ok()?;
    let (mut devices, mut others, mut process) = (Vec::new(), HashSet::new(), None);
    for line in lines.lines().filter_map(Line::parse) {
        let may_be_one = line.fd <= LAST_STANDARD || line.fd >= trapped.first;
        let descriptor = may_be_one.then(|| trapped.descriptors.on(line.identity)).flatten();
        let Some(descriptor) = descriptor else {
            others.insert(line.data);
            continue;
        };
        // One that was told once, and is not to be told again.
        if line.events & !PRIVATE == 0 {
            continue;
        }
        let wakes = descriptor.wakes();
        let is_of_edges = line.events & libc::EPOLLET as u32 != 0;
        if is_of_edges && process.is_none() {
            process = client::process_of(tid);
        }
        let events = PollEvents::from_bits(line.events & !PRIVATE).union(ALWAYS);
        let Some(polled) = Polled::new(descriptor, events, events) else { continue };
        devices.push((
            polled,
            Registered {
                fd: line.fd,
                events: line.events,
                data: line.data,
                place: process.filter(|_| is_of_edges).map(|process| (process, epfd, line.fd)),
                wakes,
            },
        ));
    }
    // Which event is of which of them cannot be told apart: it is as the FIFO shows.
    devices.retain(|(_, registered)| !others.contains(&registered.data));
    if devices.is_empty() {
        return None;
    }
    let timeout = match nr {
        nr::EPOLL_PWAIT2 if timeout == 0 => None,
        nr::EPOLL_PWAIT2 => Some(Timeout::read(tid, timeout, 1_000_000_000)?),
        _ => Timeout::of_milliseconds(timeout),
    };
    let (polled, registered) = devices.into_iter().unzip();
    // What is registered may change while it waits.
    let waited = Waited { polled, is_kernels: true, timeout };
    Some(Box::new(Epoll {
        tid,
        nr,
        epfd,
        address,
        most: most as usize,
        before,
        waited,
        registered,
    }))
}

/// Serves `epoll_ctl` of a device.
pub(super) fn control(trapped: &Trapped, call: &Call<'_>) {
    let Notification { id, tid, args: [epfd, operation, fd, event, ..], .. } = *call.notification;
    let descriptor = trapped.descriptors.of(tid, fd as u32);
    let (Some(descriptor), Some(process)) = (descriptor, client::process_of(tid)) else {
        return call.answer(Reply::Continue);
    };
    // Whatever comes of it: it may be told anew.
    descriptor.forget_told((process, epfd as u32, fd as u32));
    let others: Vec<_> =
        client::threads_of(process).into_iter().filter(|thread| *thread != tid).collect();
    if others.is_empty() || operation as i32 == libc::EPOLL_CTL_DEL {
        return call.answer(Reply::Continue);
    }
    // Those that wait already hear of this device too, once it is registered.
    let mut events = [0; size_of::<u32>()];
    if process::read_memory(tid, event, &mut events).is_err() {
        return call.answer(Reply::Continue);
    }
    match attach::hold(tid, || call.send(Reply::Error(ERESTARTNOHAND))) {
        Ok(mut held) => {
            let args = [OWN_INT | u64::from(epfd as u32), operation, fd, event, 0, 0];
            if let Ok(result) = held.inject(nr::EPOLL_CTL, args) {
                held.set_result(result);
            }
            // If it fails, it has been killed.
            let _ = held.release();
        }
        Err(NotHeld::Refused) => return call.answer(Reply::Continue),
        Err(NotHeld::Gone) => return,
    }
    trapped.callers.answered(id);
    let asked = PollEvents::from_bits(u32::from_ne_bytes(events) & !PRIVATE).union(ALWAYS);
    let teller = Teller::new(trapped);
    for thread in others {
        match client::blocked_in(thread) {
            Some((nr, args)) if is_one(nr) && args[0] as u32 == epfd as u32 => {
                descriptor.watch(Watch::new(id, thread, (nr, args), asked));
            }
            Some(_) => {}
            // It may just begin to wait.
            None => teller.restart(thread),
        }
    }
    waits::tell_all(trapped, &descriptor);
}

impl Wait for Epoll {
    fn waited(&self) -> &Waited {
        &self.waited
    }

    fn is_missed(&self, masks: &[PollEvents]) -> bool {
        self.devices().zip(masks).any(|((polled, registered), mask)| {
            let is_due = || mask.intersects(polled.asked) && registered.is_due(polled);
            polled.is_shown_otherwise(*mask) && (self.waited.is_over() || is_due())
        })
    }

    fn ask_kernel(&self, held: &mut Held) -> io::Result<i64> {
        let epfd = OWN_INT | u64::from(self.epfd);
        let zero = if self.nr == nr::EPOLL_PWAIT2 { held.lend(&ZERO)? } else { 0 };
        held.inject(self.nr, [epfd, self.address, self.most as u64, zero, 0, 0])
    }

    /// The devices' own events are taken out, and what their drivers say is put in.
    fn tell(
        &self,
        mut kernel: Option<(&mut Held, i64)>,
        masks: &[PollEvents],
    ) -> Result<i64, Errno> {
        let count = kernel.as_ref().map_or(0, |(_, count)| *count as usize);
        let mut events = vec![0; count * LEN];
        process::read_memory(self.tid, self.address, &mut events).map_err(|_| Errno::EFAULT)?;
        let is_of_device = |event: &[u8]| {
            self.registered.iter().any(|one| event[DATA..] == one.data.to_ne_bytes())
        };
        let (devices, mut said): (Vec<_>, Vec<_>) =
            events.chunks_exact(LEN).map(<[u8]>::to_vec).partition(|event| is_of_device(event));
        for ((polled, registered), mask) in self.devices().zip(masks) {
            let data = registered.data.to_ne_bytes();
            let was_said = devices.iter().any(|event| event[DATA..] == data);
            let mask = mask.intersection(polled.asked);
            let is_told = mask != PollEvents::NONE
                && said.len() < self.most
                && (was_said || registered.is_due(polled));
            if is_told {
                let mut event = vec![0; LEN];
                event[..size_of::<u32>()].copy_from_slice(&mask.bits().to_ne_bytes());
                event[DATA..].copy_from_slice(&data);
                said.push(event);
                if let Some(place) = registered.place {
                    polled.descriptor.set_told(place, registered.wakes);
                }
            }
            // The kernel has ended what is to be told once if it has said something.
            if registered.is_once()
                && is_told != was_said
                && let Some((held, _)) = &mut kernel
            {
                let events = if is_told { registered.events & PRIVATE } else { registered.events };
                self.modify(held, registered, events);
            }
        }
        let mut bytes = said.concat();
        // What the kernel has written behind them was not to be said.
        if let Some(rest) = self.before.get(bytes.len()..events.len()) {
            bytes.extend_from_slice(rest);
        }
        process::write_memory(self.tid, self.address, &bytes).map_err(|_| Errno::EFAULT)?;
        Ok(said.len() as i64)
    }
}

impl Epoll {
    fn devices(&self) -> impl Iterator<Item = (&Polled, &Registered)> {
        self.waited.polled.iter().zip(&self.registered)
    }

    /// Registers a device for other events.
    fn modify(&self, held: &mut Held, registered: &Registered, events: u32) {
        let mut event = [0; LEN];
        event[..size_of::<u32>()].copy_from_slice(&events.to_ne_bytes());
        event[DATA..].copy_from_slice(&registered.data.to_ne_bytes());
        if let Ok(at) = held.lend(&event) {
            let epfd = OWN_INT | u64::from(self.epfd);
            let operation = libc::EPOLL_CTL_MOD as u64;
            // It has been closed meanwhile where it fails.
            let _ = held.inject(nr::EPOLL_CTL, [epfd, operation, registered.fd.into(), at, 0, 0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_of_an_epoll_file_is_read() {
        let line =
            "tfd:      960 events: 8000001b data:         ffffffff000003c0  pos:0 ino:1a2b sdev:e";
        let line = Line::parse(line).unwrap();
        assert_eq!((line.fd, line.events, line.identity), (960, 0x8000_001b, (14, 0x1a2b)));
        assert_eq!(line.data, 0xffff_ffff_0000_03c0);
        assert!(Line::parse("flags:\t02").is_none());
    }
}
