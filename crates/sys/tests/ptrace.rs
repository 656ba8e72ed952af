//! System calls injected into a thread that waits for the answer to a
//! notification, quietly and under signals.

mod common;

use std::os::fd::{AsFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use common::{Client, DEVICE, mmap_filter};
use devmap_sys::arch::nr;
use devmap_sys::mapping::{Mapping, Protection, Sharing};
use devmap_sys::memfd;
use devmap_sys::process::{read_memory, write_memory};
use devmap_sys::ptrace::{INJECTION_MASK, Stop, Tracee};
use devmap_sys::seccomp::{Notification, Reply};
use rustix::process::Signal;

const LEN: usize = 3 * 4096;
const ROUNDS: u64 = 2000;
const SCRATCH: u32 = 961;

/// What the mapping of round `round` holds in the word at `at`.
fn word(round: u64, at: u64) -> u64 {
    round * 1_000_003 + at
}

/// Maps the device and looks whether round `round` is there: 0, or what is wrong.
fn round(round: u64) -> i32 {
    // SAFETY: no address is asked for; the supervisor answers with a mapping of LEN bytes.
    unsafe {
        let address = map_device(round);
        if address as isize >= -4095 && (address as isize) < 0 {
            return 10;
        }
        for at in [0, 8, 4096, LEN as u64 - 8] {
            let found = ptr::read_volatile((address as u64 + at) as *const u64);
            if found != word(round, at) {
                return 11;
            }
        }
        if libc::munmap(address as *mut _, LEN) != 0 {
            return 12;
        }
    }
    0
}

/// mmap by hand, to see that the kernel's promise about registers holds.
///
/// # Safety
/// None beyond that of mmap with no address asked for.
#[cfg(target_arch = "x86_64")]
unsafe fn map_device(round: u64) -> usize {
    let arguments = [
        0,
        LEN as u64,
        libc::PROT_READ as u64,
        libc::MAP_SHARED as u64,
        DEVICE as u64,
        round * 4096,
    ];
    let mut after = [0u64; 6];
    let mut result = nr::MMAP as u64;
    // SAFETY: one system call; every register it may change is named.
    unsafe {
        std::arch::asm!("syscall", inout("rax") result,
            inout("rdi") arguments[0] => after[0], inout("rsi") arguments[1] => after[1],
            inout("rdx") arguments[2] => after[2], inout("r10") arguments[3] => after[3],
            inout("r8") arguments[4] => after[4], inout("r9") arguments[5] => after[5],
            out("rcx") _, out("r11") _, options(nostack));
    }
    // -EFAULT for registers that are not as they were.
    if after == arguments { result as usize } else { -14isize as usize }
}

/// # Safety
/// None beyond that of mmap with no address asked for.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn map_device(round: u64) -> usize {
    let offset = round as i64 * 4096;
    // SAFETY: no address is asked for.
    unsafe {
        libc::mmap(ptr::null_mut(), LEN, libc::PROT_READ, libc::MAP_SHARED, DEVICE, offset) as usize
    }
}

fn rounds() -> i32 {
    (0..ROUNDS).map(round).find(|&code| code != 0).unwrap_or(0)
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Counts `signal` by a handler with SA_RESTART.
fn handle(signal: i32) {
    // SAFETY: the handler only adds to an atomic number.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &action, ptr::null_mut());
    }
}

fn rounds_under_timer() -> i32 {
    handle(libc::SIGALRM);
    let every = libc::timeval { tv_sec: 0, tv_usec: 1000 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: starts a timer whose signal has a handler.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()) };
    let mut done = 0;
    while done < ROUNDS || SIGNALS.load(Ordering::Relaxed) < 20 {
        match round(done) {
            0 => done += 1,
            code => return code,
        }
    }
    0
}

fn rounds_under_traps() -> i32 {
    handle(libc::SIGTRAP);
    let mut done = 0;
    while done < ROUNDS || SIGNALS.load(Ordering::Relaxed) < 20 {
        match round(done) {
            0 => done += 1,
            code => return code,
        }
    }
    0
}

fn memory(round: u64) -> OwnedFd {
    let memory = memfd::create("round", LEN as u64).unwrap();
    let mapping =
        Mapping::new(memory.as_fd(), 0, LEN, Protection::ReadWrite, Sharing::Shared).unwrap();
    for at in (0..LEN as u64).step_by(8) {
        mapping.write(at as usize, &word(round, at).to_ne_bytes()).unwrap();
    }
    memory
}

/// Attaches to the caller, answers it, and brings it to its stop. Nothing may
/// fail between the attachment and the answer: a drop waits for the stop.
fn stop_caller(client: &Client, call: &Notification, memory: &OwnedFd) -> Tracee {
    let mut tracee = Tracee::seize(call.tid).unwrap();
    let added = client.listener.add_fd(call.id, memory.as_fd(), Some(SCRATCH), true);
    tracee.interrupt().unwrap();
    client.listener.reply(call.id, Reply::Error(libc::EIO)).unwrap();
    assert_eq!(added.unwrap(), SCRATCH);
    let stop = tracee.wait().unwrap();
    assert!(matches!(stop, Stop::Interrupted | Stop::GroupStop(_)), "{stop:?}");
    tracee
}

/// Answers one mmap, if the program has not ended.
fn serve_one(client: &Client) -> bool {
    let call = client.listener.recv().unwrap();
    if let Some(call) = call {
        let memory = memory(call.args[5] / 4096);
        let mut tracee = stop_caller(client, &call, &memory);

        let saved = tracee.registers().unwrap();
        assert_eq!(saved.result(), -i64::from(libc::EIO));
        assert_eq!(saved.syscall_number(), i64::from(nr::MMAP));
        assert_eq!(saved.instruction_pointer(), call.instruction_pointer);
        let mask = tracee.signal_mask().unwrap();
        tracee.set_signal_mask(INJECTION_MASK).unwrap();
        let arguments = [0, call.args[1], call.args[2], call.args[3], SCRATCH.into(), 0];
        let address = tracee.inject(&saved, nr::MMAP, arguments).unwrap();
        assert!(address > 0, "{address}");
        let closed = tracee.inject(&saved, nr::CLOSE, [SCRATCH.into(), 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(closed, 0);
        let mut registers = saved;
        registers.set_result(address);
        tracee.set_registers(&registers).unwrap();
        tracee.set_signal_mask(mask).unwrap();
        tracee.detach().unwrap();
    }
    call.is_some()
}

/// Answers every mmap until the program ends; how many.
fn serve(client: &Client) -> u64 {
    (0..).take_while(|_| serve_one(client)).count() as u64
}

#[test]
fn injected_mappings_arrive() {
    let client = Client::start(&mmap_filter(), rounds);
    let served = serve(&client);
    assert_eq!((client.finish(), served), (0, ROUNDS));
}

#[test]
fn injected_mappings_arrive_under_a_timer() {
    let client = Client::start(&mmap_filter(), rounds_under_timer);
    let served = serve(&client);
    assert_eq!((client.finish(), served.min(ROUNDS)), (0, ROUNDS));
}

/// Sets the flag when the serving ends, be it by a failed assertion.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// [`serve`], while the client gets the signals in turn from its first call on:
/// a few for each call, so that it comes to make calls between its handlers.
fn serve_under(client: &Client, signals: &[Signal]) -> u64 {
    assert!(serve_one(client));
    let (done, served) = (AtomicBool::new(false), AtomicU64::new(1));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                if served.load(Ordering::Relaxed) == seen {
                    std::thread::yield_now();
                    continue;
                }
                seen = served.load(Ordering::Relaxed);
                for _ in 0..4 {
                    for &signal in signals {
                        client.kill(signal);
                        std::thread::yield_now();
                    }
                }
            }
        });
        let _ending = Ending(&done);
        while serve_one(client) {
            served.fetch_add(1, Ordering::Relaxed);
        }
    });
    served.into_inner()
}

#[test]
fn injected_mappings_arrive_under_stop_and_continue() {
    let client = Client::start(&mmap_filter(), rounds);
    let served = serve_under(&client, &[Signal::STOP, Signal::CONT]);
    assert_eq!((client.finish(), served), (0, ROUNDS));
}

#[test]
fn injected_mappings_arrive_under_the_programs_own_traps() {
    let client = Client::start(&mmap_filter(), rounds_under_traps);
    let served = serve_under(&client, &[Signal::TRAP]);
    assert_eq!((client.finish(), served.min(ROUNDS)), (0, ROUNDS));
}

fn one_failing_call() -> i32 {
    // SAFETY: no address is asked for.
    match unsafe { map_device(0) } as isize {
        -5 => 0,
        _ => 1,
    }
}

#[test]
fn dropping_lets_the_thread_go_on() {
    let client = Client::start(&mmap_filter(), one_failing_call);
    let call = client.listener.recv().unwrap().unwrap();
    let tracee = Tracee::seize(call.tid).unwrap();
    client.listener.reply(call.id, Reply::Error(libc::EIO)).unwrap();
    drop(tracee);
    assert!(client.listener.recv().unwrap().is_none());
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_second_tracer_is_refused() {
    let client = Client::start(&mmap_filter(), one_failing_call);
    let call = client.listener.recv().unwrap().unwrap();
    let tracee = Tracee::seize(call.tid).unwrap();
    let second = Tracee::seize(call.tid).unwrap_err();
    assert_eq!(second.raw_os_error(), Some(libc::EPERM));
    client.listener.reply(call.id, Reply::Error(libc::EIO)).unwrap();
    drop(tracee);
    assert_eq!(client.finish(), 0);
}

#[test]
fn death_while_held_is_seen_by_the_parent() {
    let client = Client::start(&mmap_filter(), one_failing_call);
    let call = client.listener.recv().unwrap().unwrap();
    let memory = memory(0);
    let mut tracee = stop_caller(&client, &call, &memory);
    let saved = tracee.registers().unwrap();
    client.kill(Signal::KILL);
    let error = tracee.inject(&saved, nr::GETPID, [0; 6]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    drop(tracee);
    assert_eq!(client.finish(), libc::SIGKILL);
}

#[test]
fn a_signal_stop_is_reported_and_delivered() {
    let client = Client::start(&mmap_filter(), one_failing_call);
    let call = client.listener.recv().unwrap().unwrap();
    let mut tracee = Tracee::seize(call.tid).unwrap();
    client.kill(Signal::TERM);
    client.listener.reply(call.id, Reply::Error(libc::EIO)).unwrap();
    assert_eq!(tracee.wait().unwrap(), Stop::Signal(libc::SIGTERM));
    tracee.resume(libc::SIGTERM).unwrap();
    assert_eq!(tracee.wait().unwrap(), Stop::Ended);
    drop(tracee);
    assert_eq!(client.finish(), libc::SIGTERM);
}

#[test]
fn memory_of_another_process_is_read_and_written() {
    static SHARED: AtomicU32 = AtomicU32::new(7);
    let client = Client::start(&mmap_filter(), || {
        one_failing_call();
        SHARED.load(Ordering::Relaxed) as i32
    });
    let call = client.listener.recv().unwrap().unwrap();
    let address = ptr::from_ref(&SHARED) as u64;
    let mut word = [0; 4];
    read_memory(call.tid, address, &mut word).unwrap();
    assert_eq!(u32::from_ne_bytes(word), 7);
    write_memory(call.tid, address, &42u32.to_ne_bytes()).unwrap();
    assert!(client.listener.is_valid(call.id));
    client.listener.reply(call.id, Reply::Error(libc::EIO)).unwrap();
    assert_eq!(client.finish(), 42 << 8);
}
