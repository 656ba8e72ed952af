//! `devmap run` without devices: this program once more, as the process tree
//! alone. Its arguments: `MODE PROGRAM [ARGUMENT...]`.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::net::UnixStream;

use devmap_backend_supervised::tree::{self, Program, Role, SupervisorSide};

/// Given as the first argument, one of these makes the process tree.
pub const MODES: [&str; 7] =
    [PLAIN, FAIL_PREPARE, HANG_PREPARE, FAIL_ENTER, PANIC_ENTER, FAIL_SUPERVISE, ALARM];
pub const PLAIN: &str = "--bare";
pub const FAIL_PREPARE: &str = "--fail-prepare";
/// Says "preparing" and waits for ever.
pub const HANG_PREPARE: &str = "--hang-prepare";
pub const FAIL_ENTER: &str = "--fail-enter";
pub const PANIC_ENTER: &str = "--panic-enter";
pub const FAIL_SUPERVISE: &str = "--fail-supervise";
/// An alarm is due in one second.
pub const ALARM: &str = "--alarm";

pub fn main(mode: &str, args: impl IntoIterator<Item = OsString>) -> i32 {
    let mut args = args.into_iter();
    let file = args.next().expect("a program");
    let mode = MODES.into_iter().find(|known| *known == mode).expect("a mode");
    if mode == ALARM {
        nix::unistd::alarm::set(1);
    }
    tree::run(&Program { file, args: args.collect() }, Bare { mode, dropped: Dropped })
}

struct Bare {
    mode: &'static str,
    /// Says when it is dropped, in [`FAIL_PREPARE`], [`FAIL_ENTER`], [`PANIC_ENTER`].
    dropped: Dropped,
}

struct Dropped;

impl Drop for Dropped {
    fn drop(&mut self) {
        if std::env::var_os("SAY_DROPPED").is_some() {
            eprintln!("dropped");
        }
    }
}

impl Role for Bare {
    fn prepare(&mut self) -> Result<(), String> {
        match self.mode {
            FAIL_PREPARE => Err("prepare failed".to_owned()),
            HANG_PREPARE => {
                eprintln!("preparing");
                loop {
                    std::thread::park();
                }
            }
            _ => Ok(()),
        }
    }

    fn enter(&mut self, _channel: &UnixStream) -> Result<(), String> {
        match self.mode {
            FAIL_ENTER => Err("enter failed".to_owned()),
            PANIC_ENTER => panic!("enter panicked"),
            _ => Ok(()),
        }
    }

    fn supervise(self, channel: UnixStream, tree: SupervisorSide) -> Result<(), String> {
        drop(channel);
        if self.mode == FAIL_SUPERVISE {
            return Err("supervise failed".to_owned());
        }
        let ended = tree.program_ended.try_clone().map_err(|error| error.to_string())?;
        // At its end, not before, and nothing is in it.
        match std::fs::File::from(ended).read(&mut [0]) {
            Ok(0) => {}
            other => return Err(format!("program_ended: {other:?}")),
        }
        drop(self.dropped);
        tree.settled();
        Ok(())
    }
}
