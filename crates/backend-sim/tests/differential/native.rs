//! The kernel's side: a small C program that carries the operations out.

use std::{
    io::{BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    Answer,
    operations::{FILES, Kernel, Operation, WINDOW},
};

pub struct Native {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    page_size: u64,
    kernel: Kernel,
    /// Holds the program.
    _directory: TempDir,
}

impl Native {
    pub fn start() -> Native {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("native_mm");
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/native_mm.c");
        let compiled = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&program, &source])
            .status();
        assert!(compiled.expect("a C compiler").success(), "the C program compiles");
        let mut child = Command::new(program)
            .args([WINDOW, FILES[0], FILES[1]].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the C program starts");
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let page_size = word(&mut output);
        let kernel = Kernel { is_recent: is_recent(), locks_all: word(&mut output) == 1 };
        Native { child, input, output, page_size, kernel, _directory: directory }
    }

    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// What can be compared with it.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    pub fn run(&mut self, operations: &[Operation]) -> Vec<Answer> {
        let words = operations.iter().flat_map(Operation::words);
        let words = std::iter::once(operations.len() as u64).chain(words);
        let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
        let input = self.input.as_mut().expect("open until the end");
        input.write_all(&bytes).expect("the C program listens");
        operations
            .iter()
            .map(|_| {
                let result = word(&mut self.output) as i64;
                let mut bytes = vec![0; word(&mut self.output) as usize];
                self.output.read_exact(&mut bytes).expect("the C program answers");
                Answer { result, bytes }
            })
            .collect()
    }
}

fn is_recent() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next()) >= (6, 17)
}

fn word(from: &mut impl Read) -> u64 {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes).expect("the C program answers");
    u64::from_ne_bytes(bytes)
}

impl Drop for Native {
    fn drop(&mut self) {
        self.input = None;
        // After a failure it may be in the middle of something.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
