//! The options of `devmap serve`, which every [`Server`](crate::Server) has too.

use std::path::PathBuf;

use devmap_backend_supervised::{self as supervised, Host, Service};

use crate::{
    options::{TraceOptions, fail, parse_devices, with_specs},
    spec,
};

/// Serves devices to all runs that join, until it is told to stop
///
/// In the foreground. It prints one line when it is ready, and ends by SIGTERM, SIGINT or
/// SIGHUP: then every driver is told of the end of its open files, and the socket is
/// removed. `devmap run --join SOCKET -- PROGRAM` runs a program with the devices.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeOptions {
    /// Where runs join: a path for a new socket
    #[arg(long, short = 's', value_name = "PATH")]
    socket: PathBuf,

    /// A built-in device and the path at which programs find it (repeat for more)
    ///
    /// `devmap devices` lists the devices and their options.
    #[arg(long = "device", short = 'd', value_name = "PATH=NAME[:KEY=VALUE,...]")]
    devices: Vec<String>,

    /// The permissions of the socket, in octal: who may write to it may join
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = socket_mode)]
    socket_mode: u32,

    /// Print counts of what was served, at the end, to standard error
    #[arg(long)]
    stats: bool,

    #[command(flatten)]
    trace: TraceOptions,
}

/// Permissions from an octal number.
pub(crate) fn socket_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "expected an octal number from 0 to 777, such as 0660".to_owned())
}

impl ServeOptions {
    /// Serves until it is told to stop; the status with which the caller shall exit.
    ///
    /// Must be called while the process has one thread, since it blocks signals.
    pub fn run(self) -> u8 {
        let specs = match parse_devices(&self.devices) {
            Ok(specs) => specs,
            Err(message) => return fail(message),
        };
        if specs.is_empty() {
            return fail("there is no device to serve; give one by --device PATH=NAME");
        }
        let paths: Vec<PathBuf> = specs.iter().map(|spec| spec.path().to_owned()).collect();
        if let Err(error) = spec::check_distinct(paths.iter().map(PathBuf::as_path)) {
            return fail(error);
        }
        let none = Box::new(|_: &Host| Ok(Vec::new()));
        let nodes = |host: &Host| with_specs(host, none, specs, &[]);
        serve(Service {
            socket: self.socket,
            mode: self.socket_mode,
            nodes: Box::new(nodes),
            trace: self.trace.wanted(),
            stats: self.stats,
        })
    }
}

/// Serves; the status with which the caller shall exit.
pub(crate) fn serve(service: Service) -> u8 {
    match supervised::serve(service) {
        Ok(()) => 0,
        Err(message) => fail(message),
    }
}
