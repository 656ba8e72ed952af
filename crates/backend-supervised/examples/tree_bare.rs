//! `devmap run` without devices: the process tree alone, for `tests/tree.rs` and
//! for a look at it with ps(1).
//!
//! `tree_bare [--fail-prepare | --hang-prepare | --fail-enter] PROGRAM [ARGUMENT...]`
//!
//! What does not live here: anything that a real supervisor does.

#![forbid(unsafe_code)]

use std::io::Read;
use std::os::unix::net::UnixStream;

use devmap_backend_supervised::tree::{self, Program, Role, SupervisorSide};

#[derive(Clone, Copy, PartialEq)]
enum Bare {
    Plain,
    FailPrepare,
    HangPrepare,
    FailEnter,
}

impl Role for Bare {
    fn prepare(&mut self) -> Result<(), String> {
        match self {
            Bare::FailPrepare => Err("prepare failed".to_owned()),
            Bare::HangPrepare => {
                eprintln!("preparing");
                loop {
                    std::thread::park();
                }
            }
            _ => Ok(()),
        }
    }

    fn enter(&mut self, channel: &UnixStream) -> Result<(), String> {
        let _ = channel;
        if *self == Bare::FailEnter { Err("enter failed".to_owned()) } else { Ok(()) }
    }

    fn supervise(self, channel: UnixStream, tree: SupervisorSide) -> Result<(), String> {
        drop(channel);
        let mut ended = std::fs::File::from(tree.program_ended.try_clone().map_err(text)?);
        ended.read_to_end(&mut Vec::new()).map_err(text)?;
        tree.settled();
        Ok(())
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

fn main() {
    let mut args = std::env::args_os().skip(1).peekable();
    let role = match args.peek().and_then(|arg| arg.to_str()) {
        Some("--fail-prepare") => Bare::FailPrepare,
        Some("--hang-prepare") => Bare::HangPrepare,
        Some("--fail-enter") => Bare::FailEnter,
        _ => Bare::Plain,
    };
    if role != Bare::Plain {
        args.next();
    }
    let Some(file) = args.next() else {
        eprintln!("usage: tree_bare [--fail-prepare | --hang-prepare | --fail-enter] PROGRAM ...");
        std::process::exit(2);
    };
    let program = Program { file, args: args.collect() };
    std::process::exit(tree::run(&program, role));
}
