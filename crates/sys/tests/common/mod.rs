//! A program under a filter, as a grandchild of the test: the process that
//! answers and traces is an ancestor but not the parent, as in devmap.

#![allow(dead_code, reason = "each test file uses a part")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use devmap_sys::arch::nr;
use devmap_sys::seccomp::{Action, Assembler, Filter, Listener, install};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal,
};

/// A filter that reports calls `nr` whose argument `argument` is `value`.
pub fn notify_when(nr: u32, argument: usize, value: u32) -> Filter {
    let mut asm = Assembler::new();
    let (same_nr, notify) = (asm.label(), asm.label());
    asm.load_nr();
    asm.jump_if_eq(nr, same_nr);
    asm.ret(Action::Allow);
    asm.bind(same_nr);
    asm.load_arg_low(argument);
    asm.jump_if_eq(value, notify);
    asm.ret(Action::Allow);
    asm.bind(notify);
    asm.ret(Action::Notify);
    asm.finish().unwrap()
}

/// The descriptor number that [`mmap_filter`] reports.
pub const DEVICE: i32 = 1000;

/// Reports `mmap` of [`DEVICE`].
pub fn mmap_filter() -> Filter {
    notify_when(nr::MMAP, 4, DEVICE as u32)
}

pub struct Client {
    pub listener: Listener,
    pidfd: OwnedFd,
    parent: i32,
    status: File,
}

impl Client {
    /// Runs `program` under `filter`; its result is the exit status. It runs in
    /// a fork of a process with threads, so it may not allocate or lock.
    pub fn start(filter: &Filter, program: fn() -> i32) -> Self {
        let (ready_out, ready_in) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (go_out, go_in) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (status_out, status_in) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        // SAFETY: the child makes system calls and neither allocates nor locks.
        let parent = unsafe { libc::fork() };
        assert!(parent >= 0);
        if parent == 0 {
            // SAFETY: as above.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let code = match install(filter, true) {
                    Ok(listener) => {
                        let raw = [std::process::id(), listener.as_fd().as_raw_fd() as u32];
                        let raw: [[u8; 4]; 2] = raw.map(u32::to_ne_bytes);
                        let _ = rustix::io::write(&ready_in, raw.as_flattened());
                        drop(ready_in);
                        drop(go_in);
                        let _ = rustix::io::read(&go_out, &mut [0; 1]);
                        drop(listener);
                        program()
                    }
                    Err(_) => 99,
                };
                // SAFETY: ends the process.
                unsafe { libc::_exit(code) };
            }
            drop(ready_in);
            let mut status = 0;
            // SAFETY: the kernel writes one int to `status`; then the process ends.
            unsafe {
                libc::waitpid(child, &mut status, 0);
                let _ = rustix::io::write(&status_in, &status.to_ne_bytes());
                libc::_exit(0);
            }
        }
        drop((ready_in, status_in, go_out));
        let mut raw = [[0; 4]; 2];
        File::from(ready_out).read_exact(raw.as_flattened_mut()).unwrap();
        let [pid, fd] = raw.map(u32::from_ne_bytes);
        let pidfd = pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap();
        let listener = pidfd_getfd(&pidfd, fd as i32, PidfdGetfdFlags::empty()).unwrap();
        File::from(go_in).write_all(&[1]).unwrap();
        Self { listener: listener.into(), pidfd, parent, status: status_out.into() }
    }

    /// Sends a signal to the program, if it still lives.
    pub fn kill(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// The wait status of the program, as its parent saw it.
    pub fn finish(mut self) -> i32 {
        let mut status = [0; 4];
        self.status.read_exact(&mut status).unwrap();
        // SAFETY: no status is asked for.
        assert_eq!(unsafe { libc::waitpid(self.parent, std::ptr::null_mut(), 0) }, self.parent);
        i32::from_ne_bytes(status)
    }
}
