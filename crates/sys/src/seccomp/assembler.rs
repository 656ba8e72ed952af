//! An assembler for seccomp's classic BPF: labels, forward jumps of any length.
//! What does not live here: installing the program (`listener`).

use std::mem::offset_of;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD,
    BPF_MISC, BPF_RET, BPF_TAX, BPF_W, BPF_X, seccomp_data, sock_filter,
};

/// The longest program the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is made.
    Allow,
    /// It is reported to the listener and waits for the answer.
    Notify,
    /// It fails with this errno.
    Errno(u16),
    /// The process is killed, as if by SIGSYS.
    Kill,
}

impl Action {
    fn value(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Self::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// A place in a program, to be jumped to. Of the [`Assembler`] that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// Why a program cannot be assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// A jump to a label that was never bound.
    #[error("instruction {0} jumps to a label that is bound nowhere")]
    Unbound(usize),
    /// A jump to a label bound before it; BPF jumps forward only.
    #[error("instruction {0} jumps backward")]
    Backward(usize),
    /// A label was bound at two places.
    #[error("a label is bound twice")]
    BoundTwice,
    /// The last instruction does not return.
    #[error("the program runs off its end")]
    NoReturn,
    /// More instructions than the kernel takes.
    #[error("{0} instructions, more than 4096")]
    TooLong(usize),
}

#[derive(Clone, Copy, Debug)]
enum Instruction {
    Plain { code: u32, k: u32 },
    Branch { condition: u32, k: u32, to: Label },
    Jump { to: Label },
}

/// A program under construction. Instructions act on one register, the
/// accumulator, and run in the order of the calls made here.
#[derive(Debug, Default)]
pub struct Assembler {
    instructions: Vec<Instruction>,
    /// For each label the instruction it is bound before.
    labels: Vec<Option<usize>>,
    bound_twice: bool,
}

impl Assembler {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads the system call's number.
    pub fn load_nr(&mut self) {
        self.load(offset_of!(seccomp_data, nr));
    }

    /// Loads the architecture, `AUDIT_ARCH_*`.
    pub fn load_arch(&mut self) {
        self.load(offset_of!(seccomp_data, arch));
    }

    /// Loads the low 32 bits of argument `i`.
    ///
    /// # Panics
    /// For `i` above 5.
    pub fn load_arg_low(&mut self, i: usize) {
        self.load(argument_offset(i) + if cfg!(target_endian = "big") { 4 } else { 0 });
    }

    /// Loads the high 32 bits of argument `i`.
    ///
    /// # Panics
    /// For `i` above 5.
    pub fn load_arg_high(&mut self, i: usize) {
        self.load(argument_offset(i) + if cfg!(target_endian = "big") { 0 } else { 4 });
    }

    fn load(&mut self, offset: usize) {
        self.plain(BPF_LD | BPF_W | BPF_ABS, offset as u32);
    }

    /// Keeps only the accumulator's bits that are in `mask`.
    pub fn and(&mut self, mask: u32) {
        self.plain(BPF_ALU | BPF_AND | BPF_K, mask);
    }

    /// Jumps to `to` when the accumulator is `k`.
    pub fn jump_if_eq(&mut self, k: u32, to: Label) {
        self.branch(BPF_JEQ, k, to);
    }

    /// Jumps to `to` when the accumulator is `k` or more, unsigned.
    pub fn jump_if_ge(&mut self, k: u32, to: Label) {
        self.branch(BPF_JGE, k, to);
    }

    /// Jumps to `to` when the accumulator has any bit of `mask`.
    pub fn jump_if_set(&mut self, mask: u32, to: Label) {
        self.branch(BPF_JSET, mask, to);
    }

    /// Jumps to `to` when argument `a` is greater than argument `b`, both as
    /// unsigned 64-bit numbers. Changes the accumulator.
    ///
    /// # Panics
    /// For an argument above 5.
    pub fn jump_if_arg_greater(&mut self, a: usize, b: usize, to: Label) {
        let (equal, not) = (self.label(), self.label());
        self.load_arg_high(b);
        self.plain(BPF_MISC | BPF_TAX, 0);
        self.load_arg_high(a);
        self.branch(BPF_JGT | BPF_X, 0, to);
        self.branch(BPF_JEQ | BPF_X, 0, equal);
        self.jump(not);
        self.bind(equal);
        self.load_arg_low(b);
        self.plain(BPF_MISC | BPF_TAX, 0);
        self.load_arg_low(a);
        self.branch(BPF_JGT | BPF_X, 0, to);
        self.bind(not);
    }

    /// Jumps to `to`.
    pub fn jump(&mut self, to: Label) {
        self.instructions.push(Instruction::Jump { to });
    }

    /// Ends the program with `action`.
    pub fn ret(&mut self, action: Action) {
        self.plain(BPF_RET | BPF_K, action.value());
    }

    /// A new label, to be bound once, after the jumps to it.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Binds `label` to the next instruction.
    pub fn bind(&mut self, label: Label) {
        self.bound_twice |= self.labels[label.0].replace(self.instructions.len()).is_some();
    }

    /// The finished program.
    ///
    /// # Errors
    /// When the program is not one that the kernel would take.
    pub fn finish(self) -> Result<Filter, AssembleError> {
        if self.bound_twice {
            return Err(AssembleError::BoundTwice);
        }
        match self.instructions.last() {
            Some(Instruction::Plain { code, .. }) if *code == BPF_RET | BPF_K => {}
            _ => return Err(AssembleError::NoReturn),
        }
        let targets = self.targets()?;
        let starts = place(&self.instructions, &targets);
        let len = starts[self.instructions.len()];
        if len > MAX_INSTRUCTIONS {
            return Err(AssembleError::TooLong(len));
        }
        let mut program = Vec::with_capacity(len);
        for (i, instruction) in self.instructions.iter().enumerate() {
            let distance = |from: usize| (starts[targets[i]] - from - 1) as u32;
            let start = starts[i];
            match *instruction {
                Instruction::Plain { code, k } => program.push(encode(code, k, 0, 0)),
                Instruction::Jump { .. } => program.push(jump_always(distance(start))),
                Instruction::Branch { condition, k, .. } => {
                    let code = BPF_JMP | condition | BPF_K;
                    if starts[i + 1] - start == 1 {
                        program.push(encode(code, k, distance(start) as u8, 0));
                    } else {
                        program.push(encode(code, k, 0, 1));
                        program.push(jump_always(distance(start + 1)));
                    }
                }
            }
        }
        Ok(Filter(program))
    }

    /// For each instruction the one it may jump to (itself when it is no jump).
    fn targets(&self) -> Result<Vec<usize>, AssembleError> {
        let target = |(i, instruction): (usize, &Instruction)| match *instruction {
            Instruction::Plain { .. } => Ok(i),
            Instruction::Branch { to, .. } | Instruction::Jump { to } => match self.labels[to.0] {
                None => Err(AssembleError::Unbound(i)),
                Some(target) if target <= i => Err(AssembleError::Backward(i)),
                // Bound after the last instruction.
                Some(target) if target == self.instructions.len() => Err(AssembleError::NoReturn),
                Some(target) => Ok(target),
            },
        };
        self.instructions.iter().enumerate().map(target).collect()
    }

    fn plain(&mut self, code: u32, k: u32) {
        self.instructions.push(Instruction::Plain { code, k });
    }

    fn branch(&mut self, condition: u32, k: u32, to: Label) {
        self.instructions.push(Instruction::Branch { condition, k, to });
    }
}

/// Where each instruction starts in the program, and where the program ends. A
/// branch reaches 255 instructions; one that must reach further takes two,
/// which may push others out of reach, hence the loop.
fn place(instructions: &[Instruction], targets: &[usize]) -> Vec<usize> {
    let mut sizes = vec![1; instructions.len()];
    loop {
        let mut starts = vec![0];
        starts.extend(sizes.iter().scan(0, |end, size| {
            *end += size;
            Some(*end)
        }));
        let mut grown = false;
        for (i, instruction) in instructions.iter().enumerate() {
            let is_branch = matches!(instruction, Instruction::Branch { .. });
            if is_branch && sizes[i] == 1 && starts[targets[i]] - starts[i] - 1 > 255 {
                sizes[i] = 2;
                grown = true;
            }
        }
        if !grown {
            return starts;
        }
    }
}

fn argument_offset(i: usize) -> usize {
    assert!(i < 6, "system calls have six arguments");
    offset_of!(seccomp_data, args) + 8 * i
}

fn encode(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

fn jump_always(distance: u32) -> sock_filter {
    encode(BPF_JMP | BPF_JA, distance, 0, 0)
}

/// A finished program.
#[derive(Clone)]
pub struct Filter(pub(super) Vec<sock_filter>);

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filter({} instructions)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a run of the program ends, for system call `nr`: the returned value.
    fn run(filter: &Filter, nr: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let instruction = filter.0[at];
            let (k, code) = (instruction.k, u32::from(instruction.code));
            at += 1;
            let mut branch = |taken: bool| {
                at += usize::from(if taken { instruction.jt } else { instruction.jf });
            };
            if code == BPF_LD | BPF_W | BPF_ABS {
                accumulator = nr;
            } else if code == BPF_JMP | BPF_JEQ | BPF_K {
                branch(accumulator == k);
            } else if code == BPF_JMP | BPF_JGE | BPF_K {
                branch(accumulator >= k);
            } else if code == BPF_JMP | BPF_JA {
                at += k as usize;
            } else {
                assert_eq!(code, BPF_RET | BPF_K);
                return k;
            }
        }
    }

    /// A ladder: call number i ends at the i-th rung from the bottom, with errno i.
    fn ladder(rungs: u16) -> Result<Filter, AssembleError> {
        let mut asm = Assembler::new();
        asm.load_nr();
        let labels: Vec<Label> = (0..rungs).map(|_| asm.label()).collect();
        for (i, &label) in labels.iter().enumerate() {
            asm.jump_if_eq(i as u32, label);
        }
        asm.ret(Action::Allow);
        for (i, &label) in labels.iter().enumerate().rev() {
            asm.bind(label);
            asm.ret(Action::Errno(i as u16));
        }
        asm.finish()
    }

    #[test]
    fn jumps_of_every_length_arrive() {
        for rungs in [1, 100, 126, 127, 128, 129, 130, 200, 254, 255, 256, 257, 1000] {
            let filter = ladder(rungs).unwrap();
            for i in 0..rungs {
                assert_eq!(run(&filter, i.into()), Action::Errno(i).value(), "{i} of {rungs}");
            }
            assert_eq!(run(&filter, rungs.into()), Action::Allow.value());
        }
    }

    #[test]
    fn near_jumps_take_one_instruction() {
        assert_eq!(ladder(10).unwrap().0.len(), 22);
    }

    #[test]
    fn bad_programs_are_refused() {
        assert_eq!(ladder(2000).unwrap_err(), AssembleError::TooLong(ladder_len(2000)));
        assert_eq!(Assembler::new().finish().unwrap_err(), AssembleError::NoReturn);

        let mut asm = Assembler::new();
        let label = asm.label();
        asm.jump_if_eq(1, label);
        asm.ret(Action::Kill);
        assert_eq!(asm.finish().unwrap_err(), AssembleError::Unbound(0));

        let mut asm = Assembler::new();
        let label = asm.label();
        asm.bind(label);
        asm.load_arch();
        asm.jump(label);
        asm.ret(Action::Kill);
        assert_eq!(asm.finish().unwrap_err(), AssembleError::Backward(1));

        let mut asm = Assembler::new();
        let label = asm.label();
        asm.jump(label);
        asm.ret(Action::Kill);
        asm.bind(label);
        assert_eq!(asm.finish().unwrap_err(), AssembleError::NoReturn);

        let mut asm = Assembler::new();
        let label = asm.label();
        asm.bind(label);
        asm.bind(label);
        asm.ret(Action::Kill);
        assert_eq!(asm.finish().unwrap_err(), AssembleError::BoundTwice);
    }

    /// The load, one or two instructions for each branch, and the returns.
    fn ladder_len(rungs: usize) -> usize {
        // Branch i of n has n-1-i branches, 1 + n-1-i returns behind it to skip.
        let near = (0..rungs).filter(|i| 2 * (rungs - i) - 1 <= 255).count();
        1 + near + 2 * (rungs - near) + rungs + 1
    }
}
