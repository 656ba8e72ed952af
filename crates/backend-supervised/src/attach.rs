//! Holding a client's thread for the moment in which its system call ends: to change
//! the result, or to make system calls in its place.
//!
//! The order matters and is the same for a seccomp notification and a FUSE request:
//! seize, interrupt, answer the call, wait for the stop. The interrupt is pending
//! when the answer arrives, so the thread stops on its way out of the call, before
//! it runs any instruction of its own or handles any signal.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Instant,
};

use devmap_sys::{
    arch::Registers,
    process,
    ptrace::{INJECTION_MASK, Stop, Tracee},
};
use parking_lot::Mutex;

use crate::{client, pool};

/// The most bytes of [`Held::lend`].
const LENT: usize = 64;

/// Why a thread is not held.
#[derive(Debug)]
pub(crate) enum NotHeld {
    /// It may not be traced, usually because a debugger traces it. Nothing has been
    /// answered yet.
    Refused,
    /// It has been killed, or its call could not be answered.
    Gone,
}

/// A thread that stands at the exit of its system call.
pub(crate) struct Held {
    tid: u32,
    tracee: Tracee,
    registers: Registers,
    /// The program's own signal mask, once injecting has replaced it.
    mask: Option<u64>,
    /// What was where [`Held::lend`] has written.
    lent: Option<[u8; LENT]>,
}

/// Holds thread `tid`, whose system call `answer` answers.
pub(crate) fn hold(tid: u32, answer: impl FnOnce() -> io::Result<()>) -> Result<Held, NotHeld> {
    let mut tracee = match Tracee::seize(tid) {
        Ok(tracee) => tracee,
        Err(_) if client::is_killed(tid) => {
            let _ = answer();
            return Err(NotHeld::Gone);
        }
        Err(_) => return Err(NotHeld::Refused),
    };
    let interrupted = tracee.interrupt();
    if answer().is_err() || interrupted.is_err() {
        return Err(NotHeld::Gone);
    }
    loop {
        match tracee.wait() {
            // In a group stop the thread is at the same place, and stays stopped
            // after the detach.
            Ok(Stop::Interrupted | Stop::GroupStop(_)) => break,
            Ok(Stop::Signal(signal)) => {
                let _ = tracee.resume(signal);
            }
            Ok(Stop::Step) => {
                let _ = tracee.resume(0);
            }
            Ok(Stop::Ended) | Err(_) => return Err(NotHeld::Gone),
        }
    }
    let registers = tracee.registers().map_err(|_| NotHeld::Gone)?;
    Ok(Held { tid, tracee, registers, mask: None, lent: None })
}

/// An answer to a FUSE request, which is sent once, by whoever comes first.
pub(crate) struct Answer {
    send: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
    /// What came of it, or the errno.
    sent: OnceLock<Result<(), Option<i32>>>,
}

impl Answer {
    pub(crate) fn new(send: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Arc<Answer> {
        Arc::new(Answer { send: Box::new(send), sent: OnceLock::new() })
    }

    /// Sends it, unless it has been sent. What came of it.
    pub(crate) fn send(&self) -> io::Result<()> {
        let sent = self.sent.get_or_init(|| (self.send)().map_err(|error| error.raw_os_error()));
        sent.map_err(|errno| {
            errno.map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error)
        })
    }
}

/// A thread that is about to be held.
struct Seizing {
    tid: u32,
    since: Instant,
    answer: Arc<Answer>,
}

/// The threads that are about to be held, of those that wait for the answer to a FUSE request.
static SEIZING: Mutex<Vec<Seizing>> = Mutex::new(Vec::new());

/// As [`hold`], for a thread that waits for the answer to a FUSE request.
///
/// Another thread of its process may be in `execve`. That kills this one, waits until it is
/// gone, and lets nobody attach until then (`cred_guard_mutex`); but FUSE lets no thread go
/// without an answer. So an answer that is held up so is sent by [`relieve`].
pub(crate) fn hold_in_fuse(tid: u32, answer: &Arc<Answer>) -> Result<Held, NotHeld> {
    SEIZING.lock().push(Seizing { tid, since: Instant::now(), answer: answer.clone() });
    pool::attend();
    let held = hold(tid, || answer.send());
    SEIZING.lock().retain(|seizing| !Arc::ptr_eq(&seizing.answer, answer));
    held
}

/// Answers threads that are killed and cannot be held. Whether any are about to be held.
pub(crate) fn relieve() -> bool {
    let seizing = SEIZING.lock();
    for one in seizing.iter().filter(|one| one.since.elapsed() >= pool::PATIENCE) {
        if client::is_killed(one.tid) {
            // Who was about to send it sees what came of it.
            let _ = one.answer.send();
        }
    }
    !seizing.is_empty()
}

impl Held {
    pub(crate) fn tid(&self) -> u32 {
        self.tid
    }

    /// What it returns.
    pub(crate) fn result(&self) -> i64 {
        self.registers.result()
    }

    /// Has it return something else.
    pub(crate) fn set_result(&mut self, result: i64) {
        self.registers.set_result(result);
    }

    /// The call that it is at the exit of: its number, and its arguments but the first, which may
    /// be the result by now.
    pub(crate) fn call(&self) -> (i64, [u64; 5]) {
        let registers = &self.registers;
        (registers.syscall_number(), std::array::from_fn(|i| registers.argument(i + 1)))
    }

    /// Puts bytes, 64 at most, into the thread's memory, as an argument of calls that it makes
    /// here: their address. It is below its stack; on a small one, such as a coroutine's, something
    /// else lies there, so [`Held::release`] puts back what was there.
    pub(crate) fn lend(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.below_stack();
        if self.lent.is_none() {
            let mut before = [0; LENT];
            process::read_memory(self.tid, at, &mut before)?;
            self.lent = Some(before);
        }
        process::write_memory(self.tid, at, bytes)?;
        Ok(at)
    }

    /// Beyond the red zone.
    fn below_stack(&self) -> u64 {
        self.registers.stack_pointer().wrapping_sub(512 + LENT as u64) & !15
    }

    /// Makes a system call in the thread: its value, or the negated errno.
    pub(crate) fn inject(&mut self, nr: u32, args: [u64; 6]) -> io::Result<i64> {
        if self.mask.is_none() {
            let mask = self.tracee.signal_mask()?;
            self.tracee.set_signal_mask(INJECTION_MASK)?;
            self.mask = Some(mask);
        }
        self.tracee.inject(&self.registers, nr, args)
    }

    /// Lets the thread go on, as if its own call had done all this.
    pub(crate) fn release(self) -> io::Result<()> {
        if let Some(before) = &self.lent {
            // It fails where nothing is mapped any more.
            let _ = process::write_memory(self.tid, self.below_stack(), before);
        }
        self.tracee.set_registers(&self.registers)?;
        if let Some(mask) = self.mask {
            self.tracee.set_signal_mask(mask)?;
        }
        self.tracee.detach()
    }
}
