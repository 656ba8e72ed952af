//! A guest: a kernel in QEMU by software emulation, whose only file system is an
//! initramfs with the modules and the programs, and whose results come by a serial
//! line.
//!
//! What does not live here: what the guest does (kernel/guest/init.sh).

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Image, supervised};
use crate::{
    Result,
    run::{check, root, text},
};

/// Longer than any boot takes on a slow machine; a guest that hangs ends then.
const SECONDS: u32 = 300;

/// The kernel's parameters. On a busy machine an emulated timer may not tick within the
/// moment in which the kernel tries whether it does.
const PARAMETERS: &str = "console=ttyS0 oops=panic panic=-1 no_timer_check";

/// What taints the kernel: a module from elsewhere (4096), unsigned (8192). No oops,
/// no warning.
const TAINT: &str = "12288";

/// What the kernel's log may not hold.
const ALARMS: [&str; 9] = [
    "BUG",
    "WARNING:",
    "Oops",
    "Call Trace",
    "Kernel panic",
    "general protection",
    "panicked at",
    "blocked for more than",
    "page allocation failure",
];

/// What a guest needs, ready to boot.
pub struct Guest {
    kernel: PathBuf,
    target: PathBuf,
    initramfs: PathBuf,
}

/// What a guest said.
#[derive(Debug, Default)]
struct Outcome {
    /// The kernel's own lines.
    console: String,
    /// What init.sh and the programs printed.
    results: String,
    /// It did not end by itself.
    hung: bool,
}

impl Guest {
    /// Builds the programs and the initramfs in `target`, with the modules of `build` and
    /// the `devmap` that is built.
    ///
    /// # Errors
    /// A compiler's, or a file's.
    pub fn new(image: &Image, target: &Path, build: &Path) -> Result<Guest> {
        let files = target.join("initramfs");
        if files.exists() {
            fs::remove_dir_all(&files)?;
        }
        fs::create_dir_all(files.join("bin"))?;
        fs::create_dir_all(files.join("usr/bin"))?;
        for entry in fs::read_dir(build)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "ko") {
                fs::copy(&path, files.join(path.file_name().unwrap_or_default()))?;
            }
        }
        let mut names = String::new();
        for module in &image.modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = name.trim_end_matches(".xz");
            fs::copy(module, files.join(name))?;
            writeln!(names, "{name}")?;
        }
        fs::write(files.join("packaged"), names)?;
        let devmap = files.join("bin/devmap");
        check(
            Command::new("strip").arg("-o").arg(&devmap).arg(super::target().join("debug/devmap")),
        )?;
        let setpriv = files.join("usr/bin/setpriv");
        fs::copy("/usr/bin/setpriv", &setpriv)
            .map_err(|error| format!("/usr/bin/setpriv: {error}; package util-linux has it"))?;
        libraries(&files, &[&devmap, &setpriv])?;
        fs::copy("/bin/busybox", files.join("bin/busybox"))
            .map_err(|error| format!("/bin/busybox: {error}; package busybox-static has it"))?;
        symlink("busybox", files.join("bin/sh"))?;
        fs::copy(root().join("kernel/guest/init.sh"), files.join("init"))?;
        fs::set_permissions(files.join("init"), fs::Permissions::from_mode(0o755))?;
        let mut lines = String::new();
        for program in programs()? {
            compile(&program.source, &files.join("bin").join(&program.name))?;
            writeln!(lines, "{}", program.line())?;
        }
        fs::write(files.join("programs"), lines)?;
        compile(&root().join("tests/conformance/camera.c"), &files.join("bin/camera"))?;
        for source in sources("kernel/guest")? {
            let name = source.file_stem().unwrap_or_default().to_owned();
            compile(&source, &files.join("bin").join(name))?;
        }
        let initramfs = target.join("initramfs.cpio");
        check(
            Command::new("sh")
                .args(["-c", "find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 > \"$1\""])
                .args(["sh".as_ref(), initramfs.as_os_str()])
                .current_dir(&files),
        )?;
        Ok(Guest { kernel: image.kernel.clone(), target: target.to_owned(), initramfs })
    }

    /// Boots with `devmap=task`; leaves the output in `target/task.*`.
    fn boot(&self, task: &str, options: &[&str]) -> Result<Outcome> {
        let (console, results) = self.outputs(task);
        let mut qemu = Command::new("timeout");
        qemu.args(["--kill-after=5", &SECONDS.to_string(), "qemu-system-x86_64"])
            .args(["-accel", "tcg", "-cpu", "max", "-m", "512"])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(options)
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-serial")
            .arg(format!("file:{}", results.display()))
            .args(["-append", &format!("{PARAMETERS} devmap={task}")])
            .stdin(Stdio::null());
        eprintln!("\n$ {}", text(&qemu));
        let status =
            qemu.status().map_err(|error| format!("timeout: {error}; package coreutils has it"))?;
        let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        match status.code() {
            Some(0) => {
                Ok(Outcome { console: read(console)?, results: read(results)?, hung: false })
            }
            Some(124 | 137) => {
                Ok(Outcome { console: read(console)?, results: read(results)?, hung: true })
            }
            _ => Err(format!("QEMU (package qemu-system-x86): {status}").into()),
        }
    }

    fn outputs(&self, task: &str) -> (PathBuf, PathBuf) {
        let path = |what| self.target.join(format!("{task}.{what}"));
        (path("console"), path("results"))
    }

    /// Inserts the modules, runs all programs, removes and inserts again.
    ///
    /// # Errors
    /// What failed, by program, or what the kernel complained of.
    pub fn test(&self) -> Result {
        let outcome = self.boot("test", &["-smp", "2"])?;
        for line in outcome.results.lines().filter(|line| shown(line)) {
            println!("{line}");
        }
        self.verdict("test", &problems(&outcome))
    }

    /// Runs the programs under `devmap run`, on a kernel that is older than most
    /// machines' and restricts ptrace by Yama: as root and as an ordinary user.
    ///
    /// # Errors
    /// As [`Guest::test`].
    pub fn supervised(&self) -> Result {
        let outcome = self.boot("supervised", &["-smp", "2"])?;
        let compat = fs::read_to_string(root().join("COMPAT.md"))?;
        let (count, mut problems) = supervised::judge(&outcome.results, &compat);
        problems.extend(of_machine(&outcome));
        self.verdict("supervised", &problems)?;
        println!("{count} commands did in the guest what they do here");
        Ok(())
    }

    /// An error that says where to look, if there are problems.
    fn verdict(&self, task: &str, problems: &[String]) -> Result {
        if problems.is_empty() {
            return Ok(());
        }
        let (console, results) = self.outputs(task);
        Err(format!(
            "in the guest ({}, {}):\n  {}",
            console.display(),
            results.display(),
            problems.join("\n  ")
        )
        .into())
    }

    /// A driver that panics must end as a clear failure: the machine says file and
    /// line and stops.
    ///
    /// # Errors
    /// When it ends in any other way.
    pub fn panic(&self) -> Result {
        let outcome = self.boot("panic", &["-smp", "2"])?;
        let problems = problems(&outcome);
        let place = problems.iter().find(|problem| {
            problem.contains("panicked at") && problem.contains("at kernel/devmap_checks/main.rs:")
        });
        match place {
            Some(place) if !outcome.hung && outcome.console.contains("Kernel panic") => {
                println!("a driver's panic is reported: {place}");
                Ok(())
            }
            _ => Err(format!("a driver's panic gave only:\n  {}", problems.join("\n  ")).into()),
        }
    }

    /// The camera conformance client on the kernel's vivid.
    ///
    /// # Errors
    /// As [`Guest::test`].
    pub fn camera(&self) -> Result {
        let outcome = self.boot("camera", &["-smp", "2"])?;
        self.verdict("camera", &problems(&outcome))
    }

    /// Counts instructions: one a nanosecond of the guest's clock.
    ///
    /// # Errors
    /// As [`Guest::test`].
    pub fn figures(&self) -> Result {
        let outcome = self.boot("figures", &["-icount", "shift=0,sleep=off"])?;
        for line in outcome.results.lines() {
            println!("{line}");
        }
        let problems = problems(&outcome);
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n").into()) }
    }
}

/// Whether a line of the results is worth showing: all but the checks that passed.
fn shown(line: &str) -> bool {
    !line.starts_with("ok ") || line == "ok all"
}

/// Everything that is wrong with what a guest said.
fn problems(outcome: &Outcome) -> Vec<String> {
    let mut problems = Vec::new();
    let mut running = "init";
    for line in outcome.results.lines() {
        if let Some(program) = line.strip_prefix("== run ") {
            running = program;
        } else if line.strip_prefix("== exit ").is_some_and(|status| status != "0") {
            problems.push(format!("{running}: {}", line.trim_start_matches("== ")));
        } else if let Some(taint) = line.strip_prefix("== taint ") {
            if taint != TAINT {
                problems.push(format!("the kernel's taint is {taint}, not {TAINT}"));
            }
        } else if line.starts_with("FAIL") {
            problems.push(format!("{running}: {line}"));
        }
    }
    problems.extend(of_machine(outcome));
    problems
}

/// What the kernel complained of, and whether the guest came to its end.
fn of_machine(outcome: &Outcome) -> Vec<String> {
    let mut problems = Vec::new();
    let mut runs = outcome.results.lines().filter_map(|line| line.strip_prefix("== run "));
    let running = runs.next_back().unwrap_or("init");
    for line in outcome.console.lines() {
        if ALARMS.iter().any(|alarm| line.contains(alarm)) {
            problems.push(format!("kernel: {}", line.trim()));
        }
    }
    if outcome.hung {
        problems.push(format!("{running}: no end within {SECONDS} s"));
    } else if !outcome.results.lines().any(|line| line == "== done") {
        problems.push(format!("{running}: the machine stopped"));
    }
    problems
}

/// One program of tests/conformance.
pub struct Program {
    /// The program's name.
    pub name: String,
    /// The device whose path it takes.
    pub device: String,
    /// Its one source file.
    pub source: PathBuf,
}

impl Program {
    /// The device's path: as the module calls it, and the same under `devmap run`.
    pub fn path(&self) -> String {
        format!("/dev/devmap-{}", self.device)
    }

    /// How it is run in the guest.
    pub fn line(&self) -> String {
        format!("{} {}", self.name, self.path())
    }
}

/// The programs of tests/conformance, in the order of their names, but for what is for a
/// native kernel alone, as its name says. The first word in backquotes of each names its
/// device.
///
/// # Errors
/// When one cannot be read, or names no device.
pub fn programs() -> Result<Vec<Program>> {
    let name =
        |source: &Path| source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let sources = sources("tests/conformance")?.into_iter();
    // The devices `file` and `camera` need files and threads, and are none of the module's.
    sources
        .filter(|source| {
            let name = name(source);
            !name.starts_with("native") && name != "file" && name != "camera"
        })
        .map(|source| {
            let name = name(&source);
            let text = fs::read_to_string(&source)?;
            let device = text.split('`').nth(1).unwrap_or_default().to_owned();
            if !root().join(format!("crates/devices/src/{device}.rs")).exists() {
                let path = source.display();
                return Err(format!("{path}: `{device}` is no device of crates/devices").into());
            }
            Ok(Program { name, device, source })
        })
        .collect()
}

fn sources(directory: &str) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(root().join(directory))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn compile(source: &Path, program: &Path) -> Result {
    check(
        Command::new("cc")
            .args(["-static", "-O2", "-pthread", "-I"])
            .arg(root().join("tests/conformance"))
            .arg("-o")
            .args([program, source]),
    )
}

/// Copies the libraries of these programs, at the paths that the programs name.
fn libraries(files: &Path, programs: &[&Path]) -> Result {
    let output = Command::new("ldd").args(programs).output()?;
    let output = String::from_utf8_lossy(&output.stdout);
    for path in output.split_whitespace().filter(|word| word.starts_with("/lib")) {
        let to = files.join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap_or(files))?;
        fs::copy(path, to).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Outcome, problems};

    fn outcome(results: &str, console: &str) -> Outcome {
        Outcome { console: console.to_owned(), results: results.to_owned(), hung: false }
    }

    const SOUND: &str = "== run demo /dev/devmap-demo\nok a\nnote b EINVAL\n== exit 0\n\
                         == taint 12288\n== done\n";

    #[test]
    fn a_sound_run_has_no_problems() {
        let console = "[    1.8] devmap: loading out-of-tree module taints kernel.\n";
        assert_eq!(problems(&outcome(SOUND, console)), Vec::<String>::new());
    }

    #[test]
    fn each_problem_is_seen() {
        let cases = [
            (
                SOUND.replace("ok a", "FAIL a: expected 1 got 2"),
                "",
                "demo /dev/devmap-demo: FAIL a",
            ),
            (SOUND.replace("exit 0", "exit 139"), "", "demo /dev/devmap-demo: exit 139"),
            (SOUND.replace("12288", "12800"), "", "taint is 12800"),
            (SOUND.replace("== done\n", ""), "", "the machine stopped"),
            (SOUND.to_owned(), "[ 1.0] WARNING: CPU: 0 PID: 1 at mm/memory.c:1\n", "WARNING"),
            (SOUND.to_owned(), "[ 1.0] BUG: unable to handle page fault\n", "BUG"),
            (SOUND.to_owned(), "[ 1.0] devmap: panicked at a.rs:1:2: x\n", "a.rs:1:2"),
        ];
        for (results, console, expected) in cases {
            let problems = problems(&outcome(&results, console));
            assert!(
                problems.iter().any(|text| text.contains(expected)),
                "{expected}: {problems:?}"
            );
        }
        let hung = Outcome { hung: true, ..outcome("== run events\n", "") };
        assert!(problems(&hung)[0].contains("events: no end"));
    }
}
