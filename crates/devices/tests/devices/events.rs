//! `events`: the queue, the mask, and every way in which a wait ends.

use std::thread;

use devmap_devices::NoOptions;
use devmap_devices::events::*;
use devmap_driver::{Command, Device, Direction, Errno, PollEvents};

use crate::mock::{Mock, Program, Table, poll};

fn device(home: &Mock) -> Events<Mock> {
    Events::new(home, &NoOptions).unwrap()
}

fn stats(device: &Events<Mock>) -> [u64; 3] {
    let program = Program::with_len(24);
    program.ioctl(device, STATS).unwrap();
    let bytes = program.bytes.borrow();
    std::array::from_fn(|i| u64::from_ne_bytes(bytes[i * 8..i * 8 + 8].try_into().unwrap()))
}

fn set_mask(device: &Events<Mock>, mask: u32) {
    assert_eq!(Program::new(&mask.to_ne_bytes()).ioctl(device, SET_MASK), Ok(0));
}

#[test]
fn bytes_come_out_in_order_round_the_ring() {
    let device = device(&Mock::new());
    let (mut put, mut got) = (0_u32, 0_u32);
    for round in 1..200_usize {
        let bytes: Vec<u8> = (0..round * 5).map(|i| (put as usize + i) as u8).collect();
        let mut program = Program::new(&bytes);
        program.nonblocking = true;
        let added = program.write(&device, 0).unwrap_or(0);
        put += added as u32;
        let mut program = Program::with_len(round * 3);
        program.nonblocking = true;
        let taken = program.read(&device, 0).unwrap();
        for byte in &program.bytes.borrow()[..taken] {
            assert_eq!(*byte, got as u8);
            got += 1;
        }
        let queued = Program::with_len(0).ioctl(&device, COUNT);
        assert_eq!(queued, Ok(put - got));
    }
    assert!(put as usize > 3 * CAPACITY, "the ring went round");
}

#[test]
fn empty_and_full_answer_eagain() {
    let device = device(&Mock::new());
    let mut program = Program::with_len(CAPACITY + 1);
    program.nonblocking = true;
    assert_eq!(program.read(&device, 0), Err(Errno::EAGAIN));
    assert_eq!(program.write(&device, 0), Ok(CAPACITY));
    assert_eq!(program.write(&device, 0), Err(Errno::EAGAIN));
    assert_eq!(Program::with_len(0).read(&device, 0), Ok(0));
    assert_eq!(Program::with_len(0).write(&device, 0), Ok(0));
    assert_eq!(program.read(&device, 0), Ok(CAPACITY));
    assert_eq!(stats(&device), [0, 0, 0]);
}

#[test]
fn a_read_that_faults_takes_nothing() {
    let device = device(&Mock::new());
    assert_eq!(Program::new(b"abc").write(&device, 0), Ok(3));
    assert_eq!(Program::with_len(0).read_past(&device, 3), Err(Errno::EFAULT));
    assert_eq!(Program::with_len(3).read(&device, 0), Ok(3));
}

#[test]
fn the_mask_follows_the_queue_or_the_ioctl() {
    let device = device(&Mock::new());
    let writable = PollEvents::OUT.union(PollEvents::WRNORM);
    assert_eq!(poll(&device), writable);
    Program::new(b"x").write(&device, 0).unwrap();
    assert_eq!(poll(&device), PollEvents::DEFAULT);
    for mask in [PollEvents::NONE, PollEvents::PRI, PollEvents::ERR, PollEvents::HUP] {
        set_mask(&device, mask.bits());
        assert_eq!(poll(&device), mask);
        let program = Program::with_len(4);
        program.ioctl(&device, GET_MASK).unwrap();
        assert_eq!(*program.bytes.borrow(), mask.bits().to_ne_bytes());
    }
    set_mask(&device, AUTOMATIC);
    assert_eq!(poll(&device), PollEvents::DEFAULT);
    set_mask(&device, 0);
    assert_eq!(Program::with_len(0).ioctl(&device, RESET), Ok(0));
    assert_eq!(poll(&device), writable);
    let mut table = Table::default();
    device.poll(&(), &mut table);
    assert_eq!(table.0, 1);
}

#[test]
fn a_blocked_read_is_woken_by_a_write() {
    let home = Mock::new();
    let device = device(&home);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let program = Program::with_len(8);
            (program.read(&device, 0), program.bytes.into_inner())
        });
        home.until_waiting(1);
        assert_eq!(stats(&device), [1, 0, 1]);
        Program::new(b"wake").write(&device, 0).unwrap();
        assert_eq!(reader.join().unwrap(), (Ok(4), b"wake\0\0\0\0".to_vec()));
    });
    assert_eq!(stats(&device), [1, 0, 0]);
}

#[test]
fn a_blocked_write_is_woken_by_a_read() {
    let home = Mock::new();
    let device = device(&home);
    Program::with_len(CAPACITY).write(&device, 0).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| Program::new(b"more").write(&device, 0));
        home.until_waiting(1);
        Program::with_len(2).read(&device, 0).unwrap();
        assert_eq!(writer.join().unwrap(), Ok(2));
    });
}

#[test]
fn signals_end_every_wait() {
    let home = Mock::new();
    let device = device(&home);
    thread::scope(|scope| {
        let calls = [
            scope.spawn(|| Program::with_len(8).read(&device, 0).map(|_| 0)),
            scope.spawn(|| Program::with_len(0).ioctl(&device, SLEEP)),
            scope.spawn(|| {
                let hup = PollEvents::HUP.bits().to_ne_bytes();
                Program::new(&hup).ioctl(&device, WAIT_MASK)
            }),
        ];
        home.until_waiting(3);
        assert_eq!(stats(&device), [3, 0, 3]);
        for _ in 0..3 {
            home.interrupt();
        }
        for call in calls {
            assert_eq!(call.join().unwrap(), Err(Errno::ERESTARTSYS));
        }
    });
    assert_eq!(stats(&device), [3, 3, 0]);
}

#[test]
fn wait_mask_answers_the_bits_it_found() {
    let home = Mock::new();
    let device = device(&home);
    let wanted = PollEvents::PRI.union(PollEvents::IN).bits().to_ne_bytes();
    let mut program = Program::new(&wanted);
    program.nonblocking = true;
    assert_eq!(program.ioctl(&device, WAIT_MASK), Err(Errno::EAGAIN));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let program = Program::new(&wanted);
            (program.ioctl(&device, WAIT_MASK), program.bytes.into_inner())
        });
        home.until_waiting(1);
        set_mask(&device, PollEvents::PRI.union(PollEvents::HUP).bits());
        let found = PollEvents::PRI.bits().to_ne_bytes().to_vec();
        assert_eq!(waiter.join().unwrap(), (Ok(0), found));
    });
}

#[test]
fn structures_go_in_and_out() {
    let device = device(&Mock::new());
    let program = Program::new(&[0x0f; 88]);
    assert_eq!(program.ioctl(&device, INVERT), Ok(0));
    assert_eq!(*program.bytes.borrow(), [0xf0; 88]);
    assert_eq!(Program::with_len(87).ioctl(&device, INVERT), Err(Errno::EFAULT));
    let unknown = Command::new(Direction::None, b'E', 99, 0);
    assert_eq!(program.ioctl(&device, unknown), Err(Errno::ENOTTY));
    let wrong_size = Command::new(Direction::ReadWrite, b'E', 5, 96);
    assert_eq!(program.ioctl(&device, wrong_size), Err(Errno::ENOTTY));
}

/// A program whose memory is the argument of [`COPY`], then `text`, then room for it.
fn copy_program(from: u64, to: u64, len: u32, text: &[u8]) -> Program {
    let mut bytes = [from.to_ne_bytes(), to.to_ne_bytes()].concat();
    bytes.extend(len.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(text);
    bytes.extend(vec![0; text.len()]);
    Program::new(&bytes)
}

#[test]
fn embedded_pointers_are_followed() {
    let device = device(&Mock::new());
    let text: Vec<u8> = (0..600).map(|i| i as u8).collect();
    let from = Program::BASE + 24;
    let program = copy_program(from, from + 600, 600, &text);
    assert_eq!(program.ioctl(&device, COPY), Ok(0));
    let bytes = program.bytes.borrow();
    let sum: u32 = text.iter().map(|byte| u32::from(*byte)).sum();
    assert_eq!(bytes[20..24], sum.to_ne_bytes());
    assert!(bytes[624..].iter().zip(&text).all(|(new, old)| *new == old.wrapping_add(1)));
    for (from, to, len, errno) in [
        (0, from, 1, Errno::EFAULT),
        (from, 0, 1, Errno::EFAULT),
        (u64::MAX, from, 2, Errno::EFAULT),
        (from, from, MAX_COPY + 1, Errno::EINVAL),
    ] {
        let program = copy_program(from, to, len, &text);
        assert_eq!(program.ioctl(&device, COPY), Err(errno));
    }
    assert_eq!(copy_program(0, 0, 0, &text).ioctl(&device, COPY), Ok(0));
}
