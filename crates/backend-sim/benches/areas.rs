//! What areas cost at 10 to 60,000 of them: `find_vma` against a `BTreeMap` of the same
//! keys, and map with unmap against the system calls.

use std::{collections::BTreeMap, hint::black_box, os::fd::AsFd};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use devmap_backend_sim::{Failures, Machine};
use devmap_driver::{PageSize, Protection};
use devmap_mm::{Engine, Limits, MapRequest, Placement, SpaceId};
use devmap_sys::{
    mapping::{self, Mapping},
    memfd,
};
use memmap2::MmapMut;

const PAGE: u64 = 4096;
const BASE: u64 = 1 << 40;
const COUNTS: [u64; 4] = [10, 100, 1_000, 60_000];

/// An address space of so many areas, each a page with a free page behind it.
fn engine(count: u64) -> (Engine<Machine>, SpaceId) {
    let page_size = PageSize::new(PAGE).expect("a power of two");
    let machine = Machine::new(page_size, Failures::default());
    let mut engine = Engine::new(machine, Limits::default());
    let space = engine.new_space().expect("memory");
    for number in 0..count {
        let at = Placement::Fixed(BASE + 2 * number * PAGE);
        let request = MapRequest::new(PAGE).at(at).protection(Protection::READ);
        engine.map(space, &request).expect("an area");
    }
    (engine, space)
}

/// Addresses in no order, the same every time.
fn addresses(count: u64) -> Vec<u64> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        BASE + (state >> 33) % (2 * count) * PAGE
    };
    std::iter::repeat_with(next).take(1 << 16).collect()
}

fn find(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("find_vma");
    for count in COUNTS {
        let (engine, space) = engine(count);
        let areas = engine.areas(space);
        let mut random = addresses(count).into_iter().cycle();
        group.bench_function(BenchmarkId::new("engine", count), |bencher| {
            bencher.iter(|| areas.find(black_box(random.next().unwrap_or(0))));
        });
        // By their ends, so that one range look-up answers the same.
        let map: BTreeMap<u64, u64> =
            areas.from(0).map(|area| (area.end(), area.start())).collect();
        let mut random = addresses(count).into_iter().cycle();
        group.bench_function(BenchmarkId::new("BTreeMap", count), |bencher| {
            bencher.iter(|| map.range(black_box(random.next().unwrap_or(0)) + 1..).next());
        });
    }
    group.finish();
}

fn map_unmap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("map and unmap");
    for count in COUNTS {
        let (mut engine, space) = engine(count);
        group.bench_function(BenchmarkId::new("engine", count), |bencher| {
            bencher.iter(|| {
                let at = engine.map(space, black_box(&MapRequest::new(PAGE))).expect("room");
                engine.unmap(space, at, PAGE).expect("mapped");
            });
        });
        drop(engine);
        // Maps of one and the same page do not merge.
        let file = memfd::create("page", PAGE).expect("a memfd");
        let one = || {
            let fd = file.as_fd();
            Mapping::new(fd, 0, PAGE as usize, mapping::Protection::Read, mapping::Sharing::Shared)
        };
        let held: Vec<_> = (0..count).map(|_| one().expect("a map")).collect();
        group.bench_function(BenchmarkId::new("system calls", count), |bencher| {
            bencher.iter(|| black_box(MmapMut::map_anon(PAGE as usize).expect("a map")));
        });
        drop(held);
    }
    group.finish();
}

criterion_group!(benches, find, map_unmap);
criterion_main!(benches);
