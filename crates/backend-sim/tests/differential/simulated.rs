//! The simulated side: the same operations on the engine, its invariants checked after
//! each.

use std::{collections::BTreeMap, sync::Arc};

use devmap_backend_sim::{Failures, Machine, PageFrame};
use devmap_driver::{Errno, PageSize, Protection, Sharing};
use devmap_mm::{
    Advice, Engine, Fatal, File, FileMode, Limits, LockAll, MapRequest, ObjectSpec, Placement,
    RemapRequest, RemapTo, Residency, SpaceId, SyncFlags,
};

use crate::{
    Answer,
    operations::{BASE, FILES, Operation, WINDOW},
};

/// By which rules the simulation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// The engine's.
    Engine,
    /// `mprotect` says that it is done and does nothing: for the tests of the comparison.
    ProtectsNothing,
}

struct Simulated {
    rules: Rules,
    page: u64,
    engine: Engine<Machine>,
    files: Vec<Arc<File<PageFrame>>>,
    processes: BTreeMap<u64, SpaceId>,
}

/// Runs a sequence on a fresh simulation.
pub fn run(page: u64, operations: &[Operation], rules: Rules) -> Vec<Answer> {
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
    let mut simulated = Simulated { rules, page, engine, files: vec![a, b, read_only], processes };
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
                let at = BASE.wrapping_add(at);
                let placement = match flags {
                    flags if flags & 0x10_0000 != 0 => Placement::FixedNoReplace(at),
                    flags if flags & 0x10 != 0 => Placement::Fixed(at),
                    _ => Placement::Hint(at),
                };
                let residency = match flags {
                    flags if flags & 0x2000 != 0 => Residency::Locked,
                    flags if flags & 0x8000 != 0 => Residency::Populated,
                    _ => Residency::OnUse,
                };
                let sharing = if flags & 1 != 0 { Sharing::Shared } else { Sharing::Private };
                let mut request = MapRequest::new(len)
                    .at(placement)
                    .protection(protection(bits))
                    .sharing(sharing)
                    .residency(residency);
                if let Some(file) = self.files.get(file as usize) {
                    request = request.file(file, offset);
                } else if offset % self.page != 0 {
                    return answer(Err(Errno::EINVAL.raw()));
                }
                let at = engine.map(space, &request);
                self.place(space, at, len)
            }
            Unmap { at, len, .. } => done(engine.unmap(space, BASE.wrapping_add(at), len)),
            Protect { .. } if self.rules == Rules::ProtectsNothing => answer(Ok(0)),
            Protect { at, len, protection: bits, .. } => {
                done(engine.protect(space, BASE.wrapping_add(at), len, protection(bits)))
            }
            Remap { at, len, new_len, flags, to, .. } => {
                let to = match flags {
                    0 => RemapTo::Here,
                    1 => RemapTo::Anywhere,
                    5 => RemapTo::Beside(BASE.wrapping_add(to)),
                    7 => RemapTo::BesideFixed(BASE.wrapping_add(to)),
                    _ => RemapTo::Fixed(BASE.wrapping_add(to)),
                };
                let request =
                    RemapRequest { start: BASE.wrapping_add(at), old_len: len, new_len, to };
                let at = engine.remap(space, &request);
                self.place(space, at, new_len)
            }
            Sync { at, len, flags, .. } => {
                let flags = SyncFlags {
                    later: flags & 1 != 0,
                    invalidate: flags & 2 != 0,
                    now: flags & 4 != 0,
                };
                done(engine.sync(space, BASE.wrapping_add(at), len, flags))
            }
            Advise { at, len, advice, .. } => match Advice::from_raw(advice as i32) {
                Some(advice) => done(engine.advise(space, BASE.wrapping_add(at), len, advice)),
                None => answer(Err(Errno::EINVAL.raw())),
            },
            Resident { at, len, .. } => match engine.resident(space, BASE.wrapping_add(at), len) {
                Ok(pages) => Answer { result: 0, bytes: pages.into_iter().map(u8::from).collect() },
                Err(errno) => answer(Err(errno.raw())),
            },
            Lock { at, len, on_fault: 0, .. } => {
                done(engine.lock(space, BASE.wrapping_add(at), len))
            }
            Lock { at, len, .. } => done(engine.lock_on_fault(space, BASE.wrapping_add(at), len)),
            LockEverything { flags: 0, .. } => {
                engine.unlock_all(space);
                answer(Ok(0))
            }
            LockEverything { flags, .. } => {
                let which = LockAll {
                    current: flags & 1 != 0,
                    future: flags & 2 != 0,
                    on_fault: flags & 4 != 0,
                };
                done(engine.lock_all(space, which))
            }
            Unlock { at, len, .. } => done(engine.unlock(space, BASE.wrapping_add(at), len)),
            Load { at, len, .. } => {
                let mut bytes = vec![0; len as usize];
                match engine.load(space, BASE.wrapping_add(at), &mut bytes) {
                    Ok(()) => Answer { result: 0, bytes },
                    Err(fatal) => answer(Err(cause(fatal))),
                }
            }
            Store { at, len, value, .. } => {
                let bytes: Vec<u8> =
                    value.to_le_bytes().into_iter().cycle().take(len as usize).collect();
                answer(
                    engine.store(space, BASE.wrapping_add(at), &bytes).map(|()| 0).map_err(cause),
                )
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

    /// Where a map came to lie in the window. One that was put elsewhere is undone.
    fn place(&mut self, space: SpaceId, at: Result<u64, Errno>, len: u64) -> Answer {
        match at {
            Ok(at) if (BASE..BASE + WINDOW * self.page).contains(&at) => answer(Ok(at - BASE)),
            Ok(at) => {
                self.engine.unmap(space, at, len).expect("it was just mapped");
                answer(Err(2000))
            }
            Err(errno) => answer(Err(errno.raw())),
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
