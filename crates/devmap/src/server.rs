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

use crate::{
    options::{DEVMAP_FAILED, RunOptions},
    serve,
};

type Make = Box<dyn FnOnce(&Host) -> Result<Node, String>>;

/// What a server has besides the options of `run`.
#[derive(clap::Args)]
struct ServeArguments {
    /// Run no program, but serve all runs that join at this new socket
    ///
    /// As `devmap serve` does. `devmap run --join SOCKET -- PROGRAM` joins.
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["command", "joins", "mode"])]
    serve: Option<PathBuf>,

    /// The permissions of that socket, in octal: who may write to it may join
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = serve::socket_mode)]
    socket_mode: u32,
}

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
    /// queues. It may start no thread, since that process has to fork yet: a driver
    /// starts its threads when it is first opened. The device is dropped when the run
    /// ends, in the same process, unless that is killed.
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
    /// serves it; or `[OPTIONS] --serve SOCKET`, and serves all runs that join, as
    /// `devmap serve` does. The status is the program's, or 125 to 127 as for `devmap run`;
    /// does not return when the program dies by a signal.
    ///
    /// Must be called while the process has one thread, since it forks.
    pub fn main(self) -> ExitCode {
        let devices: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        let about = format!("Runs a program that finds the device {}", devices.join(" and "));
        let name = self.name;
        let command = RunOptions::augment_args(clap::Command::new(name));
        let command = ServeArguments::augment_args(command)
            .mut_arg("command", |arg| arg.required(false).required_unless_present("serve"))
            // Both sets of options have brought their own.
            .about(about)
            .override_usage(format!(
                "{name} [OPTIONS] -- PROGRAM [ARG]...\n       {name} [OPTIONS] --serve <SOCKET>"
            ));
        let parsed = command.try_get_matches().and_then(|matches| {
            Ok((
                RunOptions::from_arg_matches(&matches)?,
                ServeArguments::from_arg_matches(&matches)?,
            ))
        });
        let (options, ServeArguments { serve, socket_mode }) = match parsed {
            Ok(options) => options,
            Err(error) => return usage(&error),
        };
        let make = self.devices;
        let nodes = Box::new(move |host: &Host| make.into_iter().map(|make| make(host)).collect());
        ExitCode::from(match serve {
            Some(socket) => options.serve_with(socket, socket_mode, self.paths, nodes),
            None => options.run_with(self.paths, nodes),
        })
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
