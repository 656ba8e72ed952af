//! The options of `devmap run`, which every [`Server`](crate::Server) has too: one
//! definition for the command line, its help and what is done with it.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use clap::{
    ValueEnum,
    builder::{PathBufValueParser, TypedValueParser},
};
use devmap_backend_supervised::{
    self as supervised, Host, Mode, Node, Service, Settings, TraceFormat,
};

use crate::{
    serve::serve,
    spec::{self, DeviceSpec},
};

/// The exit status when devmap itself failed, as of `env`, `timeout` and `nohup`.
/// Also theirs: 126 for a program that cannot be executed and 127 for one that is
/// not there.
pub const DEVMAP_FAILED: u8 = 125;

/// The exit status of `devmap run`, for its help and its manual page.
pub const EXIT_STATUS: &str = "the program's own, or death by the same signal; 125 when devmap \
    itself failed, 126 when the program cannot be executed, 127 when it is not there.";

/// Makes the devices of an author's own, in the supervisor.
pub(crate) type MakeNodes = Box<dyn FnOnce(&Host) -> Result<Vec<Node>, String>>;

/// Runs a program that finds devices at the paths given
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = format!("Exit status: {EXIT_STATUS}"))]
pub struct RunOptions {
    /// A built-in device and the path at which the program finds it (repeat for more)
    ///
    /// `devmap devices` lists the devices and their options.
    #[arg(long = "device", short = 'd', value_name = "PATH=NAME[:KEY=VALUE,...]")]
    devices: Vec<String>,

    /// The socket of a `devmap serve`, whose devices the program finds too (repeat for more)
    ///
    /// The devices are the same for all who join: their memory, and what they are doing.
    #[arg(long = "join", value_name = "SOCKET")]
    joins: Vec<PathBuf>,

    /// How the paths come to be
    #[arg(long, value_enum, default_value_t = ModeArgument::Auto)]
    mode: ModeArgument,

    /// Print counts of what was served, at the end, to standard error
    #[arg(long)]
    stats: bool,

    #[command(flatten)]
    trace: TraceOptions,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArgument {
    /// By a mount namespace where the machine permits it, else trapped
    Auto,
    /// By a private mount namespace: other files cost nothing
    Namespace,
    /// By answering the system calls that take a path
    Trapped,
}

impl From<ModeArgument> for Mode {
    fn from(mode: ModeArgument) -> Mode {
        match mode {
            ModeArgument::Auto => Mode::Auto,
            ModeArgument::Namespace => Mode::Namespace,
            ModeArgument::Trapped => Mode::Trapped,
        }
    }
}

// No documentation: it would be that of the command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TraceOptions {
    /// Write a line for each observed event to FILE
    ///
    /// If it is a pipe, its reader has to keep up: the calls that are told of wait for it.
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(trace_file))]
    trace: Option<PathBuf>,

    /// The form of the trace
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value_t = FormatArgument::Text,
        requires = "trace"
    )]
    trace_format: FormatArgument,
}

impl TraceOptions {
    /// The file and its form.
    pub(crate) fn wanted(self) -> Option<(PathBuf, TraceFormat)> {
        Some((self.trace?, self.trace_format.into()))
    }
}

/// Where a trace goes. Standard output is the program's own, and who writes `-` may mean that.
fn trace_file(path: PathBuf) -> Result<PathBuf, &'static str> {
    if path.as_os_str() == "-" {
        return Err("name /dev/stderr for standard error, or ./- for a file of this name");
    }
    Ok(path)
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArgument {
    /// For people
    Text,
    /// One JSON object on each line
    Json,
}

impl From<FormatArgument> for TraceFormat {
    fn from(format: FormatArgument) -> TraceFormat {
        match format {
            FormatArgument::Text => TraceFormat::Text,
            FormatArgument::Json => TraceFormat::Json,
        }
    }
}

impl RunOptions {
    /// Runs the program; the status with which the caller shall exit. Does not
    /// return when the program dies by a signal: this process then dies by the same.
    ///
    /// Must be called while the process has one thread, since it forks.
    pub fn run(self) -> u8 {
        self.run_with(Vec::new(), Box::new(|_| Ok(Vec::new())))
    }

    /// Serves what `make` makes at `paths`, and the `--device`s, to the runs that join.
    pub(crate) fn serve_with(
        self,
        socket: PathBuf,
        socket_mode: u32,
        paths: Vec<PathBuf>,
        make: MakeNodes,
    ) -> u8 {
        let specs = match self.checked(&paths) {
            Ok(specs) => specs,
            Err(message) => return fail(message),
        };
        serve(Service {
            socket,
            mode: socket_mode,
            nodes: Box::new(|host| with_specs(host, make, specs, &[])),
            trace: self.trace.wanted(),
            stats: self.stats,
        })
    }

    /// As [`RunOptions::run`], with more devices, which `make` makes at `paths`.
    pub(crate) fn run_with(self, paths: Vec<PathBuf>, make: MakeNodes) -> u8 {
        let specs = match self.checked(&paths) {
            Ok(specs) => specs,
            Err(message) => return fail(message),
        };
        let joins = self.joins;
        let nodes = move |host: &Host| {
            let mut joined = Vec::new();
            for socket in joins {
                let of_socket = supervised::join(host, &socket)?;
                // Another process's paths, which may not do here.
                for node in &of_socket {
                    spec::check_path(&node.path)
                        .map_err(|error| format!("--join {}: {error}", socket.display()))?;
                }
                joined.extend(of_socket);
            }
            let mut nodes = with_specs(host, make, specs, &joined)?;
            nodes.extend(joined);
            spec::check_distinct(nodes.iter().map(|node| node.path.as_path()))
                .map_err(|error| error.to_string())?;
            Ok(nodes)
        };
        let mut command = self.command.into_iter();
        let Some(program) = command.next() else {
            return fail("there is no program to run");
        };
        let settings = Settings {
            nodes: Box::new(nodes),
            trace: self.trace.wanted(),
            stats: self.stats,
            mode: self.mode.into(),
        };
        let status = supervised::run(settings, program, command.collect());
        u8::try_from(status).unwrap_or(DEVMAP_FAILED)
    }

    /// Parses the `--device` arguments and checks all paths.
    fn checked(&self, paths: &[PathBuf]) -> Result<Vec<DeviceSpec>, String> {
        for path in paths {
            spec::check_path(path).map_err(|error| error.to_string())?;
        }
        let specs = parse_devices(&self.devices)?;
        let all = paths.iter().map(PathBuf::as_path).chain(specs.iter().map(DeviceSpec::path));
        spec::check_distinct(all.collect::<Vec<&Path>>().into_iter())
            .map_err(|error| error.to_string())?;
        Ok(specs)
    }
}

/// What `make` makes, and then the devices of `--device`, with numbers that neither of these nor
/// `joined` have.
pub(crate) fn with_specs(
    host: &Host,
    make: MakeNodes,
    mut specs: Vec<DeviceSpec>,
    joined: &[Node],
) -> Result<Vec<Node>, String> {
    let mut nodes = make(host)?;
    spec::number(&mut specs, nodes.iter().chain(joined));
    for spec in specs {
        nodes.push(spec.node(host)?);
    }
    Ok(nodes)
}

/// Parses `--device` arguments.
pub(crate) fn parse_devices(devices: &[String]) -> Result<Vec<DeviceSpec>, String> {
    let parse =
        |text: &String| DeviceSpec::parse(text).map_err(|e| format!("--device {text}: {e}"));
    devices.iter().map(parse).collect()
}

/// Says that devmap itself failed; the status for that.
pub(crate) fn fail(message: impl fmt::Display) -> u8 {
    eprintln!("devmap: {message}");
    DEVMAP_FAILED
}
