//! An author's own binary as a device server.

use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::{self, ExitCode},
};

use clap::{Args, FromArgMatches, error::ErrorKind};
use devmap_backend_supervised::{self as supervised, Host, Node};
use devmap_driver::{Device, Errno};

use crate::options::{DEVMAP_FAILED, RunOptions};

type Make = Box<dyn FnOnce(&Host) -> Result<Node, String>>;

/// A device server: `Server::new("hello").device(...).main()` is a whole program,
/// with the same options as `devmap run`.
pub struct Server {
    name: &'static str,
    paths: Vec<PathBuf>,
    devices: Vec<Make>,
}

impl Server {
    /// A server without devices. `name` stands in its help and its messages.
    pub fn new(name: &'static str) -> Server {
        Server { name, paths: Vec::new(), devices: Vec::new() }
    }

    /// Adds a device at `path`. `make` is called once, in the process that serves
    /// it, before the program starts; the [`Host`] gives it memory, locks and wait
    /// queues.
    #[must_use]
    pub fn device<D: Device<Host>>(
        mut self,
        path: impl Into<PathBuf>,
        make: impl FnOnce(&Host) -> Result<D, Errno> + 'static,
    ) -> Server {
        let path = path.into();
        let name = self.name.to_owned();
        self.paths.push(path.clone());
        self.devices.push(Box::new(move |host| {
            let failed = |why: &dyn Display| {
                format!("cannot make the device {}={name}: {why}", path.display())
            };
            match catch_unwind(AssertUnwindSafe(|| make(host))) {
                Ok(Ok(device)) => Ok(Node { device: supervised::erase(device), path, name }),
                Ok(Err(errno)) => Err(failed(&errno)),
                Err(_) => Err(failed(&"the driver panicked")),
            }
        }));
        self
    }

    /// Reads the command line, `[OPTIONS] PROGRAM [ARG]...`, runs the program and
    /// serves it. The status is the program's, or 125 to 127 as for `devmap run`;
    /// does not return when the program dies by a signal.
    ///
    /// Must be called while the process has one thread, since it forks.
    pub fn main(self) -> ExitCode {
        let devices: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        let about = format!("Runs a program that finds the device {}", devices.join(" and "));
        let command = RunOptions::augment_args(clap::Command::new(self.name)).about(about);
        let parsed =
            command.try_get_matches().and_then(|matches| RunOptions::from_arg_matches(&matches));
        let options = match parsed {
            Ok(options) => options,
            Err(error) => return usage(&error),
        };
        let make = self.devices;
        let nodes = move |host: &Host| make.into_iter().map(|make| make(host)).collect();
        ExitCode::from(options.run_with(self.paths, Box::new(nodes)))
    }
}

/// Prints clap's help or complaint to where it belongs; the status for it: 125 for a
/// complaint, since clap's own 2 may be the program's.
pub fn usage(error: &clap::Error) -> ExitCode {
    if error.print().is_err() {
        process::exit(DEVMAP_FAILED.into());
    }
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(DEVMAP_FAILED),
    }
}
