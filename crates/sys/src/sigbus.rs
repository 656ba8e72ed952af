//! SIGBUS in an access of [`crate::span::Access`] makes that access fail, and nothing
//! else. Any other SIGBUS goes to whoever had the handler before.
//!
//! What does not live here: making a page fail, and saying so aloud.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::arch;
use crate::check;

/// One instruction that may fault: distances from each field's own address.
#[repr(C)]
struct Entry {
    access: i32,
    fixup: i32,
}

// The linker makes these of a section whose name is a C identifier.
unsafe extern "C" {
    #[link_name = "__start_devmap_extable"]
    static FIRST: Entry;
    #[link_name = "__stop_devmap_extable"]
    static END: Entry;
}

/// The action that was there before ours.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once for the process.
///
/// # Errors
/// Those of sigaction(2).
pub fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Option<i32>> = OnceLock::new();
    let failed = INSTALLED.get_or_init(|| {
        try_install().err().map(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    });
    failed.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
}

fn try_install() -> io::Result<()> {
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the present action only, into a structure of that type.
    check(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()) })?;
    // SAFETY: the call has filled it, and zeros were a value already.
    let previous = unsafe { previous.assume_init() };
    // Kept before ours can run.
    PREVIOUS.get_or_init(|| previous);
    let mut action = previous;
    action.sa_sigaction = handle as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the handler is async-signal-safe: it reads memory that does not change, and
    // calls sigaction(2) and raise(3) at most; what it passes on is called as the kernel
    // would have called it.
    check(unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) })?;
    Ok(())
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context of the interrupted thread, ours until return.
    let interrupted = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    match fixup(arch::guarded::instruction_pointer(interrupted)) {
        Some(to) => arch::guarded::set_instruction_pointer(interrupted, to),
        None => pass_on(signal, info, context),
    }
}

/// Where to go on after a fault of the instruction at `address`, if it is a guarded one.
fn fixup(address: usize) -> Option<usize> {
    let (mut entry, end) = (&raw const FIRST, &raw const END);
    while entry < end {
        // SAFETY: between the bounds the section holds entries and nothing else: each
        // guarded access puts one there, aligned to 4 bytes.
        let (access, fixup) = unsafe { (&raw const (*entry).access, &raw const (*entry).fixup) };
        // SAFETY: as above.
        let (to_access, to_fixup) = unsafe { (access.read(), fixup.read()) };
        if access.addr().wrapping_add_signed(to_access as isize) == address {
            return Some(fixup.addr().wrapping_add_signed(to_fixup as isize));
        }
        // SAFETY: at most one past the last entry.
        entry = unsafe { entry.add(1) };
    }
    None
}

/// Why a page fails, for who looks at the process' last words.
struct Explanation {
    start: AtomicUsize,
    end: AtomicUsize,
    text: [AtomicU8; 240],
}

/// The last ones. A signal handler reads them, so there is neither lock nor allocation: one
/// that is being replaced may come out garbled.
static EXPLANATIONS: [Explanation; 16] = [const {
    Explanation {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        text: [const { AtomicU8::new(0) }; 240],
    }
}; 16];

/// What to write to standard error when an access to these addresses that nobody guards
/// gets SIGBUS.
pub fn explain(addresses: Range<usize>, text: &str) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let this = &EXPLANATIONS[NEXT.fetch_add(1, Ordering::Relaxed) % EXPLANATIONS.len()];
    this.end.store(0, Ordering::Relaxed);
    let bytes = text.bytes().chain(std::iter::repeat(0));
    this.text.iter().zip(bytes).for_each(|(to, byte)| to.store(byte, Ordering::Relaxed));
    this.start.store(addresses.start, Ordering::Relaxed);
    this.end.store(addresses.end, Ordering::Release);
}

fn tell(address: usize) {
    for this in &EXPLANATIONS {
        let end = this.end.load(Ordering::Acquire);
        if !(this.start.load(Ordering::Relaxed)..end).contains(&address) {
            continue;
        }
        let mut text = [0; 240];
        let bytes = this.text.iter().map(|byte| byte.load(Ordering::Relaxed));
        text.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
        let len = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        // SAFETY: the bytes are there; write(2) may be called in a handler.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), len) };
        return;
    }
}

fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(previous) = PREVIOUS.get() else { return };
    // SAFETY: the kernel passes the signal's information.
    let sent_by_process = unsafe { (*info).si_code } <= 0;
    if !sent_by_process {
        // SAFETY: for a fault the kernel says which address it was.
        tell(unsafe { (*info).si_addr() }.addr());
    }
    match previous.sa_sigaction {
        libc::SIG_IGN if sent_by_process => {}
        // A fault cannot be ignored. With the default action back, the instruction runs
        // again and faults again, or the signal comes again.
        libc::SIG_DFL | libc::SIG_IGN => {
            let mut default = *previous;
            default.sa_sigaction = libc::SIG_DFL;
            // SAFETY: gives the signal the default action; raise is as safe in a handler.
            unsafe {
                libc::sigaction(signal, &default, ptr::null_mut());
                if sent_by_process {
                    libc::raise(signal);
                }
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Action = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: with SA_SIGINFO the action is a function of this type, and whoever
            // installed it meant it to be called in a handler.
            let handler = unsafe { std::mem::transmute::<usize, Action>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: as above, without SA_SIGINFO.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) };
            handler(signal);
        }
    }
}
