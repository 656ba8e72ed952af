//! Holding one thread of another process by ptrace(2), for the short time in
//! which system calls are made in its place.
//!
//! What does not live here: which calls are injected and why; reading memory
//! (`process`).

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::ptr;

use crate::arch::{Registers, SYSCALL_INSTRUCTION_LEN};
use crate::check;

/// The mask under which [`Tracee::inject`] is used: every signal but SIGTRAP and SIGSYS.
/// A step ends with a forced SIGTRAP, and a seccomp filter may answer a call with a forced
/// SIGSYS; the kernel resets the program's handler when such a signal comes while blocked
/// (`force_sig_info_to_task`).
pub const INJECTION_MASK: u64 = !(1 << (libc::SIGTRAP - 1) | 1 << (libc::SIGSYS - 1));

/// `SYS_SECCOMP`, which libc lacks: a SIGSYS is a seccomp filter's.
const SYS_SECCOMP: i32 = 1;

/// `PTRACE_EVENT_STOP`, which libc lacks.
const EVENT_STOP: i32 = 128;

/// `NT_PRSTATUS`: the general registers.
const NT_PRSTATUS: usize = 1;

/// Why a traced thread has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// By [`Tracee::interrupt`] (`PTRACE_EVENT_STOP` with SIGTRAP), or because a
    /// group stop has ended.
    Interrupted,
    /// By a stop signal that the whole process obeys. When [`Tracee::interrupt`]
    /// was called before, this is its stop: no [`Stop::Interrupted`] follows, and
    /// the thread is as good to inject calls into. [`Tracee::listen`] leaves it
    /// stopped, [`Tracee::resume`] with 0 runs it all the same; after a detach it
    /// stops again until SIGCONT.
    GroupStop(i32),
    /// On the way to this signal, which is delivered only if the caller passes
    /// it to [`Tracee::resume`] (or detaches).
    Signal(i32),
    /// After a single step.
    Step,
    /// It has ended: nothing more can be asked of it.
    Ended,
}

/// What the tracer knows of the thread's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Stopped; the signal is delivered when it goes on (0: none).
    Stopped(i32),
    Ended,
}

/// A thread held by ptrace from the calling thread, which alone may ask
/// anything of it, so this is not `Send`. Detached on drop.
///
/// Dropping waits until the thread stops. A thread that waits for an answer to
/// a seccomp notification does not stop: answer it first.
#[derive(Debug)]
pub struct Tracee {
    tid: i32,
    state: Cell<State>,
    /// Signals of the program's own that were met while stepping, bit n-1 for signal n; sent
    /// again at detach.
    deferred: Cell<u64>,
    of_this_thread: PhantomData<*const ()>,
}

impl Tracee {
    /// Attaches to thread `tid` without stopping it. Should this process die
    /// before the detach, the thread's process is killed (`PTRACE_O_EXITKILL`).
    ///
    /// # Errors
    /// `EPERM` when it is traced already (gdb, strace) or may not be, `ESRCH`
    /// when it is gone.
    pub fn seize(tid: u32) -> io::Result<Self> {
        let tid = tid as i32;
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        request(libc::PTRACE_SEIZE, tid, 0, options as usize)?;
        Ok(Self {
            tid,
            state: Cell::new(State::Running),
            deferred: Cell::new(0),
            of_this_thread: PhantomData,
        })
    }

    /// Asks the thread to stop; [`Tracee::wait`] tells when it has.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn interrupt(&self) -> io::Result<()> {
        request(libc::PTRACE_INTERRUPT, self.tid, 0, 0)
    }

    /// Waits until the thread stops or ends. The stop asked for by
    /// [`Tracee::interrupt`] may be preceded by others: give a
    /// [`Stop::Signal`] back by [`Tracee::resume`], and wait again.
    ///
    /// # Errors
    /// Those of waitpid(2); `ECHILD` when the thread is not traced any more.
    pub fn wait(&mut self) -> io::Result<Stop> {
        self.next_stop()
    }

    fn next_stop(&self) -> io::Result<Stop> {
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes one int to `status`.
            match check(unsafe {
                libc::waitpid(self.tid, &mut status, libc::__WALL | libc::__WNOTHREAD)
            }) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
                Ok(_) => return self.stopped(status),
            }
        }
    }

    fn stopped(&self, status: i32) -> io::Result<Stop> {
        if !libc::WIFSTOPPED(status) {
            self.state.set(State::Ended);
            return Ok(Stop::Ended);
        }
        let signal = libc::WSTOPSIG(status);
        let stop = match status >> 16 {
            EVENT_STOP if signal == libc::SIGTRAP => Stop::Interrupted,
            EVENT_STOP => Stop::GroupStop(signal),
            _ if signal == libc::SIGTRAP && self.is_step() => Stop::Step,
            _ => Stop::Signal(signal),
        };
        let pending = if let Stop::Signal(signal) = stop { signal } else { 0 };
        self.state.set(State::Stopped(pending));
        Ok(stop)
    }

    /// Whether the SIGTRAP that stopped the thread is the end of a step and not
    /// one that somebody sent or a breakpoint raised.
    fn is_step(&self) -> bool {
        let Some(info) = self.signal() else { return false };
        match info.si_code {
            // A step over a system call ends with TRAP_BRKPT on x86-64, and as if
            // by kill(2) from process 0 elsewhere (`user_single_step_report`).
            // SAFETY: SI_USER says that the pid member is the valid one.
            libc::SI_USER => unsafe { info.si_pid() == 0 },
            libc::TRAP_TRACE | libc::TRAP_BRKPT => true,
            _ => false,
        }
    }

    /// The signal that the thread is on its way to.
    fn signal(&self) -> Option<libc::siginfo_t> {
        // SAFETY: siginfo_t is integers and pointers, for which zero is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let at = ptr::from_mut(&mut info) as usize;
        request(libc::PTRACE_GETSIGINFO, self.tid, 0, at).is_ok().then_some(info)
    }

    /// Keeps a signal for the detach.
    fn defer(&self, signal: i32) {
        self.deferred.set(self.deferred.get() | 1 << (signal - 1));
    }

    /// Lets the stopped thread run, delivering `signal` (0: none).
    ///
    /// # Errors
    /// `ESRCH` when it is not stopped or has been killed meanwhile.
    pub fn resume(&self, signal: i32) -> io::Result<()> {
        self.proceed(libc::PTRACE_CONT, signal)
    }

    /// Lets the thread stay in its group stop, but be woken by SIGCONT and by
    /// [`Tracee::interrupt`].
    ///
    /// # Errors
    /// `EIO` when it is not in a group stop.
    pub fn listen(&self) -> io::Result<()> {
        self.proceed(libc::PTRACE_LISTEN, 0)
    }

    fn proceed(&self, how: libc::c_uint, signal: i32) -> io::Result<()> {
        request(how, self.tid, 0, signal as usize)?;
        self.state.set(State::Running);
        Ok(())
    }

    /// The registers of the stopped thread.
    ///
    /// # Errors
    /// `ESRCH` when it is not stopped.
    pub fn registers(&self) -> io::Result<Registers> {
        let mut registers = Registers::zeroed();
        let mut vector = register_vector(&mut registers);
        let at = ptr::from_mut(&mut vector) as usize;
        request(libc::PTRACE_GETREGSET, self.tid, NT_PRSTATUS, at)?;
        Ok(registers)
    }

    /// Sets the registers of the stopped thread.
    ///
    /// # Errors
    /// `ESRCH` when it is not stopped.
    pub fn set_registers(&self, registers: &Registers) -> io::Result<()> {
        let mut registers = *registers;
        let mut vector = register_vector(&mut registers);
        let at = ptr::from_mut(&mut vector) as usize;
        request(libc::PTRACE_SETREGSET, self.tid, NT_PRSTATUS, at)
    }

    /// The blocked signals of the stopped thread: bit n-1 for signal n.
    ///
    /// # Errors
    /// `ESRCH` when it is not stopped.
    pub fn signal_mask(&self) -> io::Result<u64> {
        let mut mask = 0u64;
        let at = ptr::from_mut(&mut mask) as usize;
        request(libc::PTRACE_GETSIGMASK, self.tid, size_of::<u64>(), at)?;
        Ok(mask)
    }

    /// Sets the blocked signals of the stopped thread.
    ///
    /// # Errors
    /// `ESRCH` when it is not stopped.
    pub fn set_signal_mask(&self, mask: u64) -> io::Result<()> {
        let mut mask = mask;
        let at = ptr::from_mut(&mut mask) as usize;
        request(libc::PTRACE_SETSIGMASK, self.tid, size_of::<u64>(), at)
    }

    /// Makes the stopped thread execute one system call and returns the call's
    /// result: a value, or a negated errno.
    ///
    /// The thread must have been stopped at the exit of a system call, where
    /// `saved` was read: the instruction before its instruction pointer is used
    /// again. The other registers come from `saved`, and remain changed: set
    /// them back after the last call. Block signals before by
    /// [`INJECTION_MASK`]. The thread's own seccomp filters judge the call; the program's handler
    /// for what they trap (`SECCOMP_RET_TRAP`) is not asked: the result is that of a call that
    /// does not exist, `ENOSYS`. A call that wants to be restarted returns -512 to -516 (`ERESTART*`).
    ///
    /// # Errors
    /// `ESRCH` when the thread has been killed. `EINTR` when a signal that the
    /// caller has not blocked is on its way; the call may have been made or not.
    /// `EILSEQ` when no system call instruction is where `saved` says.
    pub fn inject(&mut self, saved: &Registers, nr: u32, args: [u64; 6]) -> io::Result<i64> {
        let after = saved.instruction_pointer();
        let before = after.wrapping_sub(SYSCALL_INSTRUCTION_LEN);
        let mut registers = *saved;
        registers.prepare_syscall(nr, args);
        registers.set_instruction_pointer(before);
        self.set_registers(&registers)?;
        let mut signal = 0;
        let mut is_trapped = false;
        loop {
            self.proceed(libc::PTRACE_SINGLESTEP, signal)?;
            signal = 0;
            match self.wait()? {
                // The instruction pointer says more than the signal: the program's
                // own SIGTRAP may come before the step, or take its place.
                stop @ (Stop::Step | Stop::Signal(libc::SIGTRAP)) => {
                    let registers = self.registers()?;
                    let at = registers.instruction_pointer();
                    if at == before || stop != Stop::Step {
                        // Not to be lost, and not to run a handler now.
                        self.defer(libc::SIGTRAP);
                    }
                    if at == after && is_trapped {
                        return Ok(-i64::from(libc::ENOSYS));
                    }
                    if at == after {
                        return Ok(registers.result());
                    }
                    if at != before {
                        // There was no system call instruction.
                        return Err(io::Error::from_raw_os_error(libc::EILSEQ));
                    }
                }
                // The end of the step follows.
                Stop::Signal(libc::SIGSYS)
                    if self.signal().is_some_and(|info| info.si_code == SYS_SECCOMP) =>
                {
                    is_trapped = true;
                }
                Stop::Signal(libc::SIGSYS) => self.defer(libc::SIGSYS),
                // SIGSTOP cannot be blocked. Delivered, it stops the other threads;
                // this one reports a group stop and goes on until the detach.
                Stop::Signal(stop @ libc::SIGSTOP) => signal = stop,
                Stop::Signal(other) => {
                    self.state.set(State::Stopped(other));
                    return Err(io::Error::from_raw_os_error(libc::EINTR));
                }
                Stop::Interrupted | Stop::GroupStop(_) => {}
                Stop::Ended => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
            }
        }
    }

    /// Lets the thread go, delivering the signal it was stopped by, if any.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn detach(self) -> io::Result<()> {
        self.let_go()
    }

    fn let_go(&self) -> io::Result<()> {
        let State::Stopped(signal) = self.state.replace(State::Ended) else {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        };
        for signal in [libc::SIGTRAP, libc::SIGSYS] {
            if self.deferred.get() & 1 << (signal - 1) != 0 {
                // SAFETY: sends a signal; fails only when the thread has been killed.
                unsafe { libc::syscall(libc::SYS_tkill, self.tid, signal) };
            }
        }
        let result = request(libc::PTRACE_DETACH, self.tid, 0, signal as usize);
        if result.is_err() {
            // Killed while held: its parent hears of that only after its tracer.
            self.reap();
        }
        result
    }

    fn reap(&self) {
        while !matches!(self.next_stop(), Ok(Stop::Ended) | Err(_)) {}
        self.state.set(State::Ended);
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if self.state.get() == State::Running {
            // A failure says that it has ended, which wait then tells, too.
            let _ = self.interrupt();
            if self.next_stop().is_err() {
                return;
            }
        }
        // An error says that the thread has been killed: then it is not held.
        let _ = self.let_go();
    }
}

fn register_vector(registers: &mut Registers) -> libc::iovec {
    libc::iovec { iov_base: ptr::from_mut(registers).cast(), iov_len: size_of::<Registers>() }
}

/// A ptrace request that returns nothing but success. Private: `data` must be
/// what `what` takes, and where that is an address, one of live memory of the
/// size that the request reads or writes.
fn request(what: libc::c_uint, tid: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: all callers are in this module and keep the rule above.
    check(unsafe { libc::ptrace(what, tid, address, data) }).map(drop)
}
