//! What this machine permits, tried for real where that is possible, and what each
//! lack costs. Each trial runs in a child process, which it may change as it likes.
//!
//! What does not live here: how the answers are shown (`devmap doctor`), and the
//! choice of a mode for a run, which is made by trying.

use std::{
    fs,
    io::{self, Write},
};

use devmap_sys::{
    probe, process,
    process::Fork,
    ptrace::Tracee,
    seccomp::{self, Action, Assembler, Listener},
};
use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitOptions, WaitStatus};

use crate::namespace::{self, Access};

/// What a part of the system is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it no program can be run with devices.
    Run,
    /// Without it programs are run in trapped mode.
    Namespace,
    /// Without it something is slower or less exact.
    Better,
    /// Nothing that devmap does today needs it.
    Nothing,
}

/// One part of the system.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// Whether the machine permits it.
    pub permitted: bool,
    /// What was found, in a few words.
    pub found: String,
    /// What it is good for.
    pub need: Need,
    /// What its lack costs, in one line.
    pub cost: &'static str,
    /// What may bring it, in one line; empty where there is nothing to do.
    pub remedy: &'static str,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The kernel's release, such as `6.12.9-amd64`.
    pub kernel: String,
    /// The machine's architecture.
    pub machine: String,
    /// The user's id.
    pub uid: u32,
    /// Every part looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether `devmap run` can do its main job.
    pub fn can_run(&self) -> bool {
        self.permits(Need::Run)
    }

    /// Whether it can do so in namespace mode.
    pub fn can_use_namespace(&self) -> bool {
        self.can_run() && self.permits(Need::Namespace)
    }

    fn permits(&self, need: Need) -> bool {
        self.findings.iter().all(|finding| finding.need != need || finding.permitted)
    }
}

/// Stands before the reason in the answer of a trial that failed.
const REFUSED: &str = "refused: ";

/// Looks at the machine. Forks, so the caller must have one thread.
pub fn examine() -> Report {
    let system = rustix::system::uname();
    let text = |value: &std::ffi::CStr| value.to_string_lossy().into_owned();
    let kernel = text(system.release());
    let uid = rustix::process::geteuid().as_raw();
    let findings = vec![
        kernel_version(&kernel),
        files(),
        notifications(),
        wait_killable(),
        sync_wake(),
        attach(),
        namespaces(),
        fuse(),
        pidfd_getfd(),
        userfaultfd(),
    ];
    Report { kernel, machine: text(system.machine()), uid, findings }
}

/// The oldest kernel on which everything works: the one that has synchronous wake.
/// Older ones are judged by what they permit, below.
const FULL_KERNEL: (u32, u32) = (6, 6);

fn kernel_version(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    let version = (numbers.next().flatten().unwrap_or(0), numbers.next().flatten().unwrap_or(0));
    Finding {
        name: "kernel",
        permitted: version >= FULL_KERNEL,
        found: release.to_owned(),
        need: Need::Better,
        cost: "what the lines below say: before 6.6 some of it is missing",
        remedy: "a newer kernel",
    }
}

/// What every run opens, which a bare root directory may lack.
fn files() -> Finding {
    let missing = ["/proc/self/fdinfo", "/dev/null"].into_iter().find(|path| !there(path));
    Finding {
        name: "/proc and /dev/null",
        permitted: missing.is_none(),
        found: missing.map_or_else(|| "there".to_owned(), |path| format!("{path} is missing")),
        need: Need::Run,
        cost: "everything: no program can be started",
        remedy: "mount -t proc proc /proc; mknod -m 666 /dev/null c 1 3",
    }
}

fn there(path: &str) -> bool {
    std::path::Path::new(path).exists()
}

fn notifications() -> Finding {
    finding(
        "seccomp notifications",
        Need::Run,
        "everything: devmap cannot answer a program's system calls",
        "in a container, allow seccomp(2); within another devmap run it cannot work",
        in_child(|| listen().map(drop)),
        "a filter with a listener can be installed",
    )
}

fn wait_killable() -> Finding {
    Finding {
        name: "seccomp killable wait",
        permitted: probe::has_wait_killable(),
        found: "since Linux 5.19".to_owned(),
        need: Need::Better,
        cost: "a signal that arrives while a call is answered may make it fail with EINTR",
        remedy: "a newer kernel",
    }
}

fn sync_wake() -> Finding {
    finding(
        "seccomp synchronous wake",
        Need::Better,
        "time: each answered call wakes another processor, and takes several times as long",
        "a newer kernel",
        in_child(|| listen()?.set_sync_wake()),
        "since Linux 6.6",
    )
}

fn attach() -> Finding {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let yama = match scope.trim() {
        "" => "no Yama",
        "0" => "Yama 0: any process of the user",
        "1" => "Yama 1: descendants only, which is enough",
        "2" => "Yama 2: only with CAP_SYS_PTRACE",
        _ => "Yama 3: nobody",
    };
    finding(
        "ptrace of a descendant",
        Need::Run,
        "mmap: devmap cannot enter the program to make its areas",
        "sysctl kernel.yama.ptrace_scope=1; in a container, allow ptrace(2)",
        attach_to_child(),
        yama,
    )
}

fn namespaces() -> Finding {
    let is_root = rustix::process::geteuid().is_root();
    finding(
        "mount namespace",
        Need::Namespace,
        "time: every open and stat of any file is answered by devmap (trapped mode)",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or user.max_user_namespaces; \
         in a container, allow unshare(2)",
        in_child(move || {
            if is_root {
                devmap_sys::namespace::unshare_mounts()
            } else {
                devmap_sys::namespace::unshare_user_and_mounts()
            }
        }),
        if is_root { "as root" } else { "with a user namespace" },
    )
}

fn fuse() -> Finding {
    let (permitted, found) = match in_child_answering(|| match namespace::attempt() {
        Ok(Access::Root) => "mounted, as root".to_owned(),
        Ok(Access::User) => "mounted in a user namespace".to_owned(),
        Err(error) => format!("{REFUSED}{error}"),
    }) {
        Ok(text) => match text.strip_prefix(REFUSED) {
            Some(reason) => (false, reason.to_owned()),
            None => (true, text),
        },
        Err(error) => (false, describe(&error)),
    };
    Finding {
        name: "FUSE in that namespace",
        permitted,
        found,
        need: Need::Namespace,
        cost: "trapped mode: the descriptor of a device is a FIFO, which says fewer poll masks, \
               and no page can be supplied at first access",
        remedy: "modprobe fuse; chmod 666 /dev/fuse; in a container, --device /dev/fuse",
    }
}

fn pidfd_getfd() -> Finding {
    finding(
        "pidfd_getfd",
        Need::Better,
        "mmap under a debugger, which fails with EBUSY then, and lseek in namespace mode",
        "in a container, allow pidfd_getfd(2)",
        take_own_descriptor().map_err(io::Error::from),
        "descriptors of a program can be taken",
    )
}

/// Standard error's, of this process.
fn take_own_descriptor() -> rustix::io::Result<()> {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    rustix::process::pidfd_getfd(own, libc::STDERR_FILENO, PidfdGetfdFlags::empty()).map(drop)
}

fn userfaultfd() -> Finding {
    let (permitted, found) = match (probe::userfaultfd(false), probe::userfaultfd(true)) {
        (Ok(_), _) => (true, "for all faults".to_owned()),
        (_, Ok(_)) => (true, "for faults in user mode only".to_owned()),
        (_, Err(error)) => (false, describe(&error)),
    };
    Finding {
        name: "userfaultfd",
        permitted,
        found,
        need: Need::Nothing,
        cost: "nothing: unmodified programs are served without it",
        remedy: "",
    }
}

/// A finding from a trial.
fn finding(
    name: &'static str,
    need: Need,
    cost: &'static str,
    remedy: &'static str,
    trial: io::Result<()>,
    found: &str,
) -> Finding {
    let permitted = trial.is_ok();
    let found = trial.map_or_else(|error| describe(&error), |()| found.to_owned());
    Finding { name, permitted, found, need, cost, remedy }
}

/// The error in words, without its number.
fn describe(error: &io::Error) -> String {
    let number = error.raw_os_error();
    number.map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

/// A listener for a filter that lets everything pass.
fn listen() -> io::Result<Listener> {
    let mut assembler = Assembler::new();
    assembler.ret(Action::Allow);
    let filter = assembler.finish().map_err(io::Error::other)?;
    seccomp::install(&filter, true)
}

/// Tries in a child whether an ordinary user's program can have a name space.
///
/// # Errors
/// Why not, in words.
pub(crate) fn try_namespace() -> Result<(), String> {
    let answer = in_child_answering(|| match namespace::attempt() {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    });
    match answer {
        Ok(refused) if refused.is_empty() => Ok(()),
        Ok(refused) => Err(refused),
        Err(error) => Err(crate::with_remedy(&error)),
    }
}

/// Runs `trial` in a child process.
fn in_child(trial: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let errno = in_child_answering(|| {
        let errno = trial().err().map(|error| error.raw_os_error().unwrap_or(Errno::EIO as i32));
        errno.unwrap_or(0).to_string()
    })?;
    match errno.parse() {
        Ok(0) => Ok(()),
        Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
        Err(_) => Err(io::Error::other("the trial was killed")),
    }
}

/// Runs `trial` in a child process, and gives its answer back.
fn in_child_answering(trial: impl FnOnce() -> String) -> io::Result<String> {
    let (reader, mut writer) = io::pipe()?;
    match process::fork()? {
        Fork::Child => {
            let written = writer.write_all(trial().as_bytes());
            std::process::exit(i32::from(written.is_err()))
        }
        Fork::Parent(child) => {
            drop(writer);
            let answer = io::read_to_string(reader);
            reap(child)?;
            answer
        }
    }
}

fn reap(child: Pid) -> io::Result<WaitStatus> {
    let waited =
        rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))?;
    waited.map(|(_, status)| status).ok_or_else(|| io::ErrorKind::Other.into())
}

/// Attaches to a child, and reads its memory, as devmap does with a program.
fn attach_to_child() -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    let secret: u64 = 0x6465_766d_6170;
    match process::fork()? {
        Fork::Child => {
            drop(writer);
            // Ends when the parent has closed its end.
            let ended = io::read_to_string(reader).is_ok();
            std::process::exit(i32::from(!ended))
        }
        Fork::Parent(child) => {
            drop(reader);
            let tid = child.as_raw_nonzero().get().unsigned_abs();
            let tried = Tracee::seize(tid).and_then(|tracee| {
                let mut copy = [0; 8];
                process::read_memory(tid, (&raw const secret).addr() as u64, &mut copy)?;
                drop(tracee);
                Ok(())
            });
            drop(writer);
            rustix::process::kill_process(child, Signal::KILL)?;
            reap(child)?;
            tried
        }
    }
}
