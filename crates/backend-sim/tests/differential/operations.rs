//! The operations, how they are chosen, and the form in which maps are compared.

use std::collections::BTreeMap;

/// Pages of the window in which everything lies.
pub const WINDOW: u64 = 48;
/// Pages of the two files; the second ends in the middle of its last page.
pub const FILES: [u64; 2] = [16, 6];
/// Where the window begins.
pub const BASE: u64 = 0x1000_0000_0000;

/// One operation of one process. Addresses are relative to the window, in bytes but
/// where pages are said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Map {
        process: u64,
        at: u64,
        len: u64,
        protection: u64,
        flags: u64,
        file: u64,
        offset: u64,
    },
    Unmap {
        process: u64,
        at: u64,
        len: u64,
    },
    Protect {
        process: u64,
        at: u64,
        len: u64,
        protection: u64,
    },
    Remap {
        process: u64,
        at: u64,
        len: u64,
        new_len: u64,
        flags: u64,
        to: u64,
    },
    Sync {
        process: u64,
        at: u64,
        len: u64,
        flags: u64,
    },
    Advise {
        process: u64,
        at: u64,
        len: u64,
        advice: u64,
    },
    Resident {
        process: u64,
        at: u64,
        len: u64,
    },
    /// `on_fault`: 1 for `MLOCK_ONFAULT`.
    Lock {
        process: u64,
        at: u64,
        len: u64,
        on_fault: u64,
    },
    /// `flags` as of `mlockall`; 0: `munlockall`.
    LockEverything {
        process: u64,
        flags: u64,
    },
    Unlock {
        process: u64,
        at: u64,
        len: u64,
    },
    Load {
        process: u64,
        at: u64,
        len: u64,
    },
    Store {
        process: u64,
        at: u64,
        len: u64,
        value: u64,
    },
    Fork {
        process: u64,
        child: u64,
    },
    Exit {
        process: u64,
    },
    Truncate {
        file: u64,
        len: u64,
    },
    Maps {
        process: u64,
    },
    Contents {
        process: u64,
    },
}

impl Operation {
    pub fn process(&self) -> u64 {
        use Operation::*;
        match *self {
            Map { process, .. }
            | Unmap { process, .. }
            | Protect { process, .. }
            | Remap { process, .. }
            | Sync { process, .. }
            | Advise { process, .. }
            | Resident { process, .. }
            | Lock { process, .. }
            | LockEverything { process, .. }
            | Unlock { process, .. }
            | Load { process, .. }
            | Store { process, .. }
            | Fork { process, .. }
            | Exit { process }
            | Maps { process }
            | Contents { process } => process,
            Truncate { .. } => 0,
        }
    }

    /// As `struct op` of the C program.
    pub fn words(&self) -> [u64; 7] {
        use Operation::*;
        let process = self.process();
        let range = |kind, at, len, x| [kind, process, at, len, x, 0, 0];
        match *self {
            Map { at, len, protection, flags, file, offset, .. } => {
                [0, process, at, len, protection, file << 32 | flags, offset]
            }
            Unmap { at, len, .. } => range(1, at, len, 0),
            Protect { at, len, protection, .. } => range(2, at, len, protection),
            Remap { at, len, new_len, flags, to, .. } => [3, process, at, len, new_len, flags, to],
            Sync { at, len, flags, .. } => range(4, at, len, flags),
            Advise { at, len, advice, .. } => range(5, at, len, advice),
            Resident { at, len, .. } => range(6, at, len, 0),
            Lock { at, len, on_fault, .. } => range(7, at, len, on_fault),
            LockEverything { flags, .. } => range(16, 0, 0, flags),
            Unlock { at, len, .. } => range(8, at, len, 0),
            Load { at, len, .. } => range(9, at, len, 0),
            Store { at, len, value, .. } => range(10, at, len, value),
            Fork { child, .. } => range(11, 0, 0, child),
            Exit { .. } => range(12, 0, 0, 0),
            Truncate { file, len } => range(13, 0, len, file),
            Maps { .. } => range(14, 0, 0, 0),
            Contents { .. } => range(15, 0, 0, 0),
        }
    }
}

/// SplitMix64: small, and the same on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A range of the window, seldom one that is not of whole pages.
fn range(random: &mut Random) -> (u64, u64) {
    let pages = if random.one_in(8) { 1 + random.below(WINDOW) } else { 1 + random.below(6) };
    let at = random.below(WINDOW - pages + 1) * PAGE;
    let len = pages * PAGE;
    match random.below(60) {
        0 => (at + 1, len - 1),
        1 => (at, 0),
        2..=5 => (at, len - random.below(PAGE)),
        _ => (at, len),
    }
}

/// Sequences are made for pages of this size, and scaled to the machine's.
pub const PAGE: u64 = 4096;

/// What sequences leave out where the kernel is not one to compare with.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// It merges and moves areas as the engine does: Linux 6.17 on. Otherwise no `mremap`.
    pub is_recent: bool,
    /// It lets all memory be locked. Otherwise no `mlockall`.
    pub locks_all: bool,
}

impl Kernel {
    fn is_comparable(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Remap { .. } => self.is_recent,
            Operation::LockEverything { .. } => self.locks_all,
            _ => true,
        }
    }
}

const DONT_NEED: u64 = 4;
const FREE: u64 = 8;
const PAGE_OUT: u64 = 21;

/// A sequence that ends with a look at everything.
pub fn sequence(random: &mut Random, length: usize, kernel: Kernel) -> Vec<Operation> {
    // Which processes there are; who forked deeper than twice does not fork again.
    let mut depth: BTreeMap<u64, u32> = BTreeMap::from([(0, 0)]);
    let mut next_child = 1;
    let mut all = Vec::new();
    // Which pages `MADV_PAGEOUT` finds depends on the machine, and `mincore` tells.
    let pages_out = random.one_in(2);
    while all.len() < length {
        let alive: Vec<u64> = depth.keys().copied().collect();
        let process = if random.one_in(3) { random.pick(&alive) } else { 0 };
        if random.one_in(60) {
            if random.one_in(3) && process != 0 {
                depth.remove(&process);
                all.push(Operation::Exit { process });
            } else if next_child < 4 && depth[&process] < 2 {
                depth.insert(next_child, depth[&process] + 1);
                all.push(Operation::Fork { process, child: next_child });
                next_child += 1;
            }
            continue;
        }
        let mut operation = operation(random, process);
        if random.one_in(30) {
            operation = at_an_edge(random, operation);
        }
        let left_out = match operation {
            Operation::Advise { advice: PAGE_OUT, .. } => !pages_out,
            Operation::Resident { .. } => pages_out,
            _ => !kernel.is_comparable(&operation),
        };
        if left_out {
            continue;
        }
        all.push(operation);
        if let Operation::Advise { at, len, advice: FREE, .. } = operation {
            // Whether the pages are gone now depends on the machine's memory.
            all.push(Operation::Advise { process, at, len, advice: DONT_NEED });
        }
        match operation {
            Operation::Load { .. } | Operation::Store { .. } | Operation::Resident { .. } => {}
            _ if random.one_in(2) => all.push(Operation::Maps { process }),
            _ => {}
        }
    }
    for process in depth.into_keys() {
        all.extend([Operation::Maps { process }, Operation::Contents { process }]);
    }
    all
}

fn operation(random: &mut Random, process: u64) -> Operation {
    let (at, len) = range(random);
    match random.below(100) {
        0..=24 => map(random, process, at, len),
        25..=31 => Operation::Unmap { process, at, len },
        32..=45 => Operation::Protect {
            process,
            at,
            len,
            protection: random.pick(&[0, 1, 3, 3, 1, 2, 5, 7]),
        },
        46..=55 => remap(random, process, at, len),
        56..=57 => Operation::Sync { process, at, len, flags: random.pick(&[0, 1, 2, 4, 5, 6]) },
        58..=65 => {
            let advice = random.pick(&[
                0, 1, 2, DONT_NEED, DONT_NEED, FREE, 9, 10, 11, 16, 17, 18, 19, 20, PAGE_OUT, 22,
                22, 23, 23, 24,
            ]);
            Operation::Advise { process, at, len, advice }
        }
        66..=67 => Operation::Resident { process, at, len },
        68 => match random.below(12) {
            0 => Operation::LockEverything { process, flags: random.below(8) },
            1 => Operation::LockEverything { process, flags: 0 },
            _ => Operation::Lock { process, at, len, on_fault: random.below(2) },
        },
        69 => Operation::Unlock { process, at, len },
        70..=77 => Operation::Load { process, at: random.below(WINDOW * PAGE - 8), len: 8 },
        78..=97 => {
            let at = random.below(WINDOW * PAGE - 16);
            Operation::Store { process, at, len: 1 + random.below(16), value: random.next() }
        }
        98 => {
            let file = random.below(2);
            Operation::Truncate { file, len: random.below(FILES[file as usize] * PAGE + PAGE) }
        }
        _ => Operation::Contents { process },
    }
}

fn map(random: &mut Random, process: u64, at: u64, len: u64) -> Operation {
    const SHARED: u64 = 1;
    const PRIVATE: u64 = 2;
    const FIXED: u64 = 0x10;
    const ANONYMOUS: u64 = 0x20;
    const NO_REPLACE: u64 = 0x10_0000;
    let protection = random.pick(&[3, 3, 3, 1, 1, 0, 2, 5, 7]);
    const POPULATE: u64 = 0x8000;
    const LOCKED: u64 = 0x2000;
    let fixed = random.pick(&[NO_REPLACE, 0, FIXED, FIXED, FIXED, FIXED, FIXED, FIXED]);
    let sharing = random.pick(&[SHARED, PRIVATE]);
    let (mut flags, file, mut offset) = match random.below(8) {
        0..=3 => (ANONYMOUS | PRIVATE, 9, 0),
        4 => (ANONYMOUS | SHARED, 9, 0),
        // The same place of the file at the same address, so that neighbours merge.
        file => (
            sharing,
            file - 5,
            if random.one_in(4) { random.below(16) * PAGE } else { at % (16 * PAGE) / PAGE * PAGE },
        ),
    };
    flags |= fixed;
    match random.below(24) {
        0 | 1 => flags |= POPULATE,
        2 => flags |= LOCKED,
        _ => {}
    }
    if random.one_in(50) {
        offset += 1;
    }
    Operation::Map { process, at, len, protection, flags, file, offset }
}

fn remap(random: &mut Random, process: u64, at: u64, len: u64) -> Operation {
    const MAY_MOVE: u64 = 1;
    const MOVE_HERE: u64 = 3;
    const KEEP: u64 = 4;
    let left = WINDOW * PAGE - at;
    let new_len = match random.below(4) {
        0 => len,
        1 => len / 2,
        _ => (len + random.below(4) * PAGE).min(left),
    };
    match random.below(9) {
        0..=2 => return Operation::Remap { process, at, len, new_len, flags: 0, to: 0 },
        3 => return Operation::Remap { process, at, len, new_len, flags: MAY_MOVE, to: 0 },
        _ => {}
    }
    let (len, new_len) = if random.one_in(2) { (len, len) } else { (len, new_len) };
    let pages = new_len.div_ceil(PAGE).max(1);
    let to = random.below(WINDOW - pages.min(WINDOW) + 1) * PAGE;
    let flags = match random.below(12) {
        0 => MAY_MOVE | KEEP,
        1 | 2 => MOVE_HERE | KEEP,
        _ => MOVE_HERE,
    };
    let len = if random.one_in(16) { 0 } else { len };
    Operation::Remap { process, at, len, new_len, flags, to }
}

/// Lengths that wrap, or are 0 once they are whole pages.
const WRAPPING: [u64; 4] = [u64::MAX, 1_u64.wrapping_sub(PAGE), PAGE.wrapping_neg(), FAR_PAGE];
/// Lengths that no address space has.
const LONG: [u64; 5] = [WRAPPING[0], WRAPPING[1], WRAPPING[2], WRAPPING[3], 1 << 63];
/// The last page but one of all that 64 bits count.
const FAR_PAGE: u64 = (2 * PAGE).wrapping_neg();
/// Addresses that are the kernel's, but none that looks like an errno.
const HIGH: [u64; 4] =
    [0xffff_8000_0000_0000, PAGE.wrapping_neg(), FAR_PAGE, 0xffff_8000_0000_0001];
/// Offsets around the last of a file, and past it.
const OFFSETS: [u64; 6] =
    [(1 << 63) - 3 * PAGE, (1 << 63) - 2 * PAGE, (1 << 63) - PAGE, 1 << 63, FAR_PAGE, HIGH[1]];

/// The operation with an address, a length or an offset where arithmetic wraps. None of them
/// is one of the C program's own, which must live.
fn at_an_edge(random: &mut Random, mut operation: Operation) -> Operation {
    use Operation::*;
    let high = random.pick(&HIGH).wrapping_sub(BASE);
    let is_high = random.one_in(3);
    if let Map { offset, .. } = &mut operation
        && random.one_in(2)
    {
        *offset = random.pick(&OFFSETS);
    }
    if let Remap { new_len, to, .. } = &mut operation {
        match random.below(4) {
            0 => *new_len = random.pick(&LONG),
            1 => *to = high,
            _ => {}
        }
    }
    match &mut operation {
        Map { at, .. }
        | Unmap { at, .. }
        | Protect { at, .. }
        | Remap { at, .. }
        | Sync { at, .. }
        | Advise { at, .. }
        | Resident { at, .. }
        | Lock { at, .. }
        | Unlock { at, .. }
            if is_high =>
        {
            *at = high;
        }
        Map { len, .. }
        | Unmap { len, .. }
        | Protect { len, .. }
        | Remap { len, .. }
        | Resident { len, .. }
            if random.one_in(2) =>
        {
            *len = random.pick(&LONG);
        }
        // These go on past what is not mapped.
        Sync { len, .. } | Advise { len, .. } => *len = random.pick(&WRAPPING),
        // And there may be a limit of what is locked.
        Lock { at, len, .. } | Unlock { at, len, .. } => {
            (*at, *len) = (*at + random.below(8), random.pick(&WRAPPING[..2]));
        }
        _ => {}
    }
    operation
}

/// Whether every process that acts is there, which leaving parts out may break.
pub fn is_possible(operations: &[Operation]) -> bool {
    let mut alive = vec![0];
    operations.iter().all(|operation| {
        let known = alive.contains(&operation.process());
        match operation {
            Operation::Fork { child, .. } => alive.push(*child),
            Operation::Exit { process } => alive.retain(|other| other != process),
            _ => {}
        }
        known
    })
}

/// A line of maps: where, and what.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    start: u64,
    end: u64,
    protection: String,
    offset: u64,
    /// Inodes are numbered as they come.
    inode: usize,
    name: String,
}

/// Maps with what differs by nature made equal: devices left out, inodes numbered. Unless
/// `exact`, neighbours that could be one line are.
pub fn normalised(text: &[u8], exact: bool) -> Vec<Line> {
    let text = String::from_utf8_lossy(text);
    let mut inodes: Vec<&str> = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |text| u64::from_str_radix(text, 16).expect("a hexadecimal number");
        let (start, end) = words[0].split_once('-').expect("a range");
        let (start, end, offset) = (hex(start), hex(end), hex(words[2]));
        let known = inodes.iter().position(|known| *known == words[4]);
        let inode = known.unwrap_or_else(|| {
            inodes.push(words[4]);
            inodes.len() - 1
        });
        let (protection, name) = (words[1].to_owned(), words[5..].join(" "));
        let line = Line { start, end, protection, offset, inode, name };
        match lines.last_mut().filter(|last| !exact && last.continues_in(&line)) {
            Some(last) => last.end = end,
            None => lines.push(line),
        }
    }
    lines
}

impl Line {
    fn continues_in(&self, next: &Line) -> bool {
        self.end == next.start
            && self.protection == next.protection
            && self.inode == next.inode
            && (self.name.is_empty() || self.offset + (self.end - self.start) == next.offset)
    }
}
