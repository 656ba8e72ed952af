//! The simulated side: the same operations on the engine, its invariants checked after
//! each.

use std::{collections::BTreeMap, sync::Arc};

use devmap_backend_sim::{Failures, Machine, PageFrame};
use devmap_driver::{Errno, PageSize, Protection, Sharing};
use devmap_mm::{
    Advice, Engine, Fatal, File, FileMode, Limits, MapRequest, ObjectSpec, Placement, RemapRequest,
    RemapTo, SpaceId, SyncFlags,
};

use crate::{
    Answer,
    operations::{BASE, FILES, Operation, WINDOW},
};

struct Simulated {
    page: u64,
    engine: Engine<Machine>,
    files: Vec<Arc<File<PageFrame>>>,
    processes: BTreeMap<u64, SpaceId>,
}

/// Runs a sequence on a fresh simulation.
pub fn run(page: u64, operations: &[Operation]) -> Vec<Answer> {
    let page_size = PageSize::new(page).expect("a page size");
    let machine = Machine::new(page_size, Failures::default());
    let mut engine = Engine::new(machine, Limits::default());
    let a = ObjectSpec::memory("/memfd:a (deleted)", 101, FILES[0] * page);
    let a = engine.create(a, FileMode::READ_WRITE, None);
    let b = ObjectSpec::memory("/memfd:b (deleted)", 102, FILES[1] * page - page / 2);
    let b = engine.create(b, FileMode::READ_WRITE, None);
    let read_only = engine.open(a.object(), FileMode::READ, None);
    let first = engine.new_space().expect("memory");
    let processes = BTreeMap::from([(0, first)]);
    let mut simulated = Simulated { page, engine, files: vec![a, b, read_only], processes };
    operations
        .iter()
        .map(|operation| {
            let answer = simulated.run(operation);
            simulated.engine.invariants();
            answer
        })
        .collect()
}

/// A system call's result, or a signal's, as the C program answers it.
fn answer(result: Result<u64, i32>) -> Answer {
    let result = result.map_or_else(|number| -i64::from(number), |value| value as i64);
    Answer { result, bytes: Vec::new() }
}

fn done(result: Result<(), Errno>) -> Answer {
    answer(result.map(|()| 0).map_err(Errno::raw))
}

fn cause(fatal: Fatal) -> i32 {
    match fatal {
        Fatal::NotMapped => 1001,
        Fatal::NotPermitted => 1002,
        Fatal::Bus => 1003,
        Fatal::OutOfMemory => 1004,
    }
}

fn protection(bits: u64) -> Protection {
    Protection { read: bits & 1 != 0, write: bits & 2 != 0, execute: bits & 4 != 0 }
}

impl Simulated {
    fn run(&mut self, operation: &Operation) -> Answer {
        use Operation::*;
        let space = self.processes[&operation.process()];
        let engine = &mut self.engine;
        match *operation {
            Map { at, len, protection: bits, flags, file, offset, .. } => {
                let at = BASE + at;
                let placement = match flags {
                    flags if flags & 0x10_0000 != 0 => Placement::FixedNoReplace(at),
                    _ => Placement::Fixed(at),
                };
                let sharing = if flags & 1 != 0 { Sharing::Shared } else { Sharing::Private };
                let mut request = MapRequest::new(len)
                    .at(placement)
                    .protection(protection(bits))
                    .sharing(sharing);
                if let Some(file) = self.files.get(file as usize) {
                    request = request.file(file, offset);
                } else if offset % self.page != 0 {
                    return answer(Err(Errno::EINVAL.raw()));
                }
                answer(engine.map(space, &request).map(|at| at - BASE).map_err(Errno::raw))
            }
            Unmap { at, len, .. } => done(engine.unmap(space, BASE + at, len)),
            Protect { at, len, protection: bits, .. } => {
                done(engine.protect(space, BASE + at, len, protection(bits)))
            }
            Remap { at, len, new_len, flags, to, .. } => {
                let to = if flags & 2 != 0 { RemapTo::Fixed(BASE + to) } else { RemapTo::Here };
                let request = RemapRequest { start: BASE + at, old_len: len, new_len, to };
                answer(engine.remap(space, &request).map(|at| at - BASE).map_err(Errno::raw))
            }
            Sync { at, len, flags, .. } => {
                let flags = SyncFlags {
                    later: flags & 1 != 0,
                    invalidate: flags & 2 != 0,
                    now: flags & 4 != 0,
                };
                done(engine.sync(space, BASE + at, len, flags))
            }
            Advise { at, len, advice, .. } => match Advice::from_raw(advice as i32) {
                Some(advice) => done(engine.advise(space, BASE + at, len, advice)),
                None => answer(Err(Errno::EINVAL.raw())),
            },
            Differ => answer(Ok(0)),
            Resident { at, len, .. } => match engine.resident(space, BASE + at, len) {
                Ok(pages) => Answer { result: 0, bytes: pages.into_iter().map(u8::from).collect() },
                Err(errno) => answer(Err(errno.raw())),
            },
            Lock { at, len, .. } => done(engine.lock(space, BASE + at, len)),
            Unlock { at, len, .. } => done(engine.unlock(space, BASE + at, len)),
            Load { at, len, .. } => {
                let mut bytes = vec![0; len as usize];
                match engine.load(space, BASE + at, &mut bytes) {
                    Ok(()) => Answer { result: 0, bytes },
                    Err(fatal) => answer(Err(cause(fatal))),
                }
            }
            Store { at, len, value, .. } => {
                let bytes: Vec<u8> =
                    value.to_le_bytes().into_iter().cycle().take(len as usize).collect();
                answer(engine.store(space, BASE + at, &bytes).map(|()| 0).map_err(cause))
            }
            Fork { child, .. } => {
                let space = engine.fork(space).expect("memory");
                self.processes.insert(child, space);
                answer(Ok(0))
            }
            Exit { process } => {
                self.processes.remove(&process);
                engine.drop_space(space);
                answer(Ok(0))
            }
            Truncate { file, len } => {
                done(engine.truncate(self.files[file as usize].object(), len))
            }
            Maps { .. } => Answer { result: 0, bytes: engine.maps(space).into_bytes() },
            Contents { .. } => {
                Answer { result: 0, bytes: self.contents(space).to_ne_bytes().to_vec() }
            }
        }
    }

    /// Every page of the window: what a load of it gives, and a sum of its words.
    fn contents(&mut self, space: SpaceId) -> u64 {
        let mut bytes = vec![0; self.page as usize];
        let mut sum: u64 = 0;
        for page in 0..WINDOW {
            let result = self.engine.load(space, BASE + page * self.page, &mut bytes);
            let number = result.map_or_else(|fatal| -i64::from(cause(fatal)), |()| 0);
            sum = (sum ^ number as u64).wrapping_mul(0x100_0000_01b3);
            if result.is_ok() {
                for word in bytes.as_chunks().0 {
                    sum = (sum ^ u64::from_ne_bytes(*word)).wrapping_mul(0x100_0000_01b3);
                }
            }
        }
        sum
    }
}
