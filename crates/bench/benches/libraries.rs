//! Parts of the libraries that every call passes: `cargo bench`. What a program feels of
//! all of it together is what `devmap bench` measures.

use std::{hint::black_box, os::fd::OwnedFd};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devmap_driver::{NewArea, PageSize, Plan, Protection, Sharing};
use devmap_fuse::{Channel, Operation, RequestBuffer};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// The check of a driver's plan: one extent, and as many as a plan holds.
fn plan(criterion: &mut Criterion) {
    let page = PageSize::new(4096).expect("a power of two");
    let protection = Protection { read: true, write: true, execute: false };
    let area = NewArea::new(page, 0, 16, protection, Sharing::Shared).expect("no overflow");
    let mut group = criterion.benchmark_group("plan");
    let one = Plan::remap_all(&area, &(), 0);
    group.bench_function("validate 1 extent", |bencher| {
        bencher.iter(|| black_box(&one).validate(&area, |_| 16));
    });
    let many = (0..4).rev().fold(Plan::new(), |plan: Plan<()>, at| {
        plan.remap(at * 4..at * 4 + 2, &(), at).fault(at * 4 + 2..at * 4 + 4)
    });
    many.validate(&area, |_| 16).expect("a plan that covers the area");
    group.bench_function("validate 8 extents", |bencher| {
        bencher.iter(|| black_box(&many).validate(&area, |_| 16));
    });
    group.finish();
}

/// Receiving a request: one read(2), here from a socket that keeps messages whole, and
/// its decoding. The send that feeds it is part of the time.
fn receive(criterion: &mut Criterion) {
    let (feed, fuse): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a pair of sockets");
    let channel = Channel::new(fuse);
    let mut buffer = RequestBuffer::new();
    let request = ioctl_request();
    let mut group = criterion.benchmark_group("fuse");
    group.throughput(Throughput::Elements(1));
    group.bench_function("send and receive an ioctl of 88 bytes", |bencher| {
        bencher.iter(|| {
            rustix::io::write(&feed, &request).expect("send");
            let received = channel.receive(&mut buffer).expect("receive").expect("a request");
            assert!(matches!(received.operation, Operation::Ioctl { .. }));
        });
    });
    group.finish();
}

/// `fuse_in_header`, `fuse_ioctl_in`, and the bytes.
fn ioctl_request() -> Vec<u8> {
    const IOCTL: u32 = 39;
    let mut message = Vec::new();
    let mut put = |word: u32| message.extend_from_slice(&word.to_ne_bytes());
    // Length, operation; unique, node; uid, gid, pid, padding.
    [40 + 32 + 88, IOCTL, 1, 0, 2, 0, 0, 0, 1, 0].into_iter().for_each(&mut put);
    // File; flags, command; argument; sizes.
    [1, 0, 0, 0xc058_4505, 0, 0, 88, 88].into_iter().for_each(&mut put);
    message.resize(message.len() + 88, 0x5a);
    message
}

criterion_group!(benches, plan, receive);
criterion_main!(benches);
