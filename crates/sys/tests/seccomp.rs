//! Notifications: received, answered, descriptors given, the end of it all.

mod common;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use common::{Client, notify_when};
use devmap_sys::arch::{AUDIT_ARCH, nr};
use devmap_sys::seccomp::{Action, Assembler, Filter, Reply};
use rustix::process::Signal;

/// The ioctl command that is reported.
const COMMAND: u32 = 0xd0d0;

fn ioctl_filter() -> Filter {
    notify_when(nr::IOCTL, 1, COMMAND)
}

fn ioctl() -> i32 {
    // SAFETY: the supervisor answers; nothing is read or written.
    match unsafe { libc::ioctl(3, libc::Ioctl::from(COMMAND), 0x1234_5678_9abcusize) } {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        value => value,
    }
}

#[test]
fn a_call_is_described_and_answered() {
    for (reply, expected) in [
        (Reply::Value(17), 17),
        (Reply::Error(libc::EDOM), libc::EDOM),
        (Reply::Continue, libc::EBADF),
    ] {
        let client = Client::start(&ioctl_filter(), || {
            // SAFETY: nothing in this process uses the descriptor.
            unsafe { libc::close(3) };
            ioctl()
        });
        let call = client.listener.recv().unwrap().unwrap();
        assert_eq!((call.nr, call.arch), (nr::IOCTL, AUDIT_ARCH));
        assert_eq!(call.args[..3], [3, COMMAND.into(), 0x1234_5678_9abc]);
        assert!(client.listener.is_valid(call.id));
        client.listener.reply(call.id, reply).unwrap();
        assert!(!client.listener.is_valid(call.id));
        let again = client.listener.reply(call.id, reply).unwrap_err();
        assert!(matches!(again.raw_os_error(), Some(libc::ENOENT | libc::EINPROGRESS)));
        assert!(client.listener.recv().unwrap().is_none());
        assert_eq!(client.finish(), expected << 8);
    }
}

#[test]
fn the_fast_wake_is_accepted_or_unknown() {
    let client = Client::start(&ioctl_filter(), ioctl);
    if let Err(error) = client.listener.set_sync_wake() {
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
    let call = client.listener.recv().unwrap().unwrap();
    client.listener.reply(call.id, Reply::Value(0)).unwrap();
    assert_eq!(client.finish(), 0);
}

#[test]
fn descriptors_are_given() {
    let client = Client::start(&ioctl_filter(), || {
        let lowest = ioctl();
        let mut bytes = [0; 3];
        // SAFETY: the bytes are ours; the descriptors, too.
        unsafe {
            let low = libc::read(lowest, bytes.as_mut_ptr().cast(), 1);
            let high = libc::read(970, bytes[1..].as_mut_ptr().cast(), 2);
            let flags = [lowest, 970].map(|fd| libc::fcntl(fd, libc::F_GETFD));
            i32::from((low, high, bytes, flags) == (1, 2, *b"abc", [libc::FD_CLOEXEC, 0]))
        }
    });
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    File::from(writer).write_all(b"abc").unwrap();
    let call = client.listener.recv().unwrap().unwrap();
    let listener = &client.listener;
    assert_eq!(listener.add_fd(call.id, reader.as_fd(), Some(970), false).unwrap(), 970);
    let number = listener.add_fd_and_reply(call.id, reader.as_fd(), true).unwrap();
    assert!(number < 970);
    let late = listener.add_fd(call.id, reader.as_fd(), None, true).unwrap_err();
    assert!(matches!(late.raw_os_error(), Some(libc::ENOENT | libc::EINPROGRESS)));
    assert_eq!(client.finish(), 1 << 8);
}

#[test]
fn a_killed_caller_ends_the_notification_and_the_listener() {
    let client = Client::start(&ioctl_filter(), ioctl);
    let call = client.listener.recv().unwrap().unwrap();
    client.kill(Signal::KILL);
    assert!(client.listener.recv().unwrap().is_none());
    let late = client.listener.reply(call.id, Reply::Value(0)).unwrap_err();
    assert_eq!(late.raw_os_error(), Some(libc::ENOENT));
    assert_eq!(client.finish(), libc::SIGKILL);
}

#[test]
fn every_receiver_learns_of_the_end() {
    let client = Client::start(&ioctl_filter(), ioctl);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(call) = client.listener.recv().unwrap() {
                    client.listener.reply(call.id, Reply::Value(3)).unwrap();
                }
            });
        }
    });
    assert_eq!(client.finish(), 3 << 8);
}

#[test]
fn long_jumps_and_conditions_hold_in_the_kernel() {
    // Each test that fails skips to the end over hundreds of instructions.
    let mut asm = Assembler::new();
    let allow = asm.label();
    let other = asm.label();
    asm.load_nr();
    asm.jump_if_eq(nr::IOCTL, other);
    asm.jump(allow);
    asm.bind(other);
    asm.load_arg_low(1);
    let is_command = asm.label();
    asm.jump_if_eq(COMMAND, is_command);
    asm.jump(allow);
    asm.bind(is_command);
    for i in 0..300 {
        asm.jump_if_eq(i, allow);
    }
    let (high, kill, notify) = (asm.label(), asm.label(), asm.label());
    asm.load_arg_high(2);
    asm.jump_if_eq(0x1234, high);
    asm.jump(kill);
    asm.bind(high);
    asm.load_arg_low(2);
    asm.jump_if_ge(0x5678_9abd, kill);
    asm.jump_if_set(0x0000_0043, kill);
    asm.and(0xffff);
    asm.jump_if_eq(0x9abc, notify);
    asm.bind(kill);
    asm.ret(Action::Kill);
    asm.bind(notify);
    asm.ret(Action::Notify);
    asm.bind(allow);
    asm.ret(Action::Allow);
    let filter = asm.finish().unwrap();

    let client = Client::start(&filter, ioctl);
    let call = client.listener.recv().unwrap().unwrap();
    client.listener.reply(call.id, Reply::Value(5)).unwrap();
    assert_eq!(client.finish(), 5 << 8);
}

#[test]
fn a_filter_can_refuse_and_kill() {
    let mut asm = Assembler::new();
    let (kill, refuse) = (asm.label(), asm.label());
    asm.load_nr();
    asm.jump_if_eq(nr::FSYNC, kill);
    asm.jump_if_eq(nr::IOCTL, refuse);
    asm.ret(Action::Allow);
    asm.bind(kill);
    asm.ret(Action::Kill);
    asm.bind(refuse);
    asm.ret(Action::Errno(libc::EXDEV as u16));
    let filter = asm.finish().unwrap();

    assert_eq!(Client::start(&filter, ioctl).finish(), libc::EXDEV << 8);
    let status = Client::start(&filter, || {
        // SAFETY: there is no such descriptor.
        unsafe { libc::fsync(-1) }
    })
    .finish();
    assert_eq!(libc::WTERMSIG(status), libc::SIGSYS);
}

#[test]
fn arguments_are_compared_as_64_bit_numbers() {
    // Of (3, 0xd0d0, 0x1234_5678_9abc): low words alone, high words, and itself.
    for (a, b, greater) in
        [(1, 0, true), (0, 1, false), (2, 1, true), (1, 2, false), (1, 1, false), (2, 2, false)]
    {
        let mut asm = Assembler::new();
        let (ioctl_call, yes) = (asm.label(), asm.label());
        asm.load_nr();
        asm.jump_if_eq(nr::IOCTL, ioctl_call);
        asm.ret(Action::Allow);
        asm.bind(ioctl_call);
        asm.jump_if_arg_greater(a, b, yes);
        asm.ret(Action::Errno(libc::EDOM as u16));
        asm.bind(yes);
        asm.ret(Action::Errno(libc::ERANGE as u16));
        let errno = if greater { libc::ERANGE } else { libc::EDOM };
        let status = Client::start(&asm.finish().unwrap(), ioctl).finish();
        assert_eq!(status, errno << 8, "argument {a} against {b}");
    }
}
