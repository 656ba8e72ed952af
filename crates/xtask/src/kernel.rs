//! `cargo xtask kernel`: the drivers as a module for the newest installed Debian
//! kernel, the gates on its object, and with `--test` a boot in QEMU in which
//! unmodified programs use it. Everything is left in `target/kernel`.
//!
//! What does not live here: the module's build rules (`kernel/Kbuild`).

mod boot;
mod compare;
mod gates;
mod supervised;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{
    Result, packages,
    run::{cargo, check, command, root},
};

/// The modules: the devices, and a driver that tries the kernel home.
const MODULES: [&str; 2] = ["devmap", "devmap_checks"];

/// The oldest compiler that the drivers build with.
const OLDEST_RUSTC: (u32, u32) = (1, 88);

/// Modules of the kernel's package that the guest inserts, in this order, below
/// `kernel/`: FUSE, and vivid with what it needs.
const PACKAGED: [&str; 13] = [
    "fs/fuse/fuse",
    "drivers/media/mc/mc",
    "drivers/media/v4l2-core/videodev",
    "drivers/media/rc/rc-core",
    "drivers/media/cec/core/cec",
    "drivers/media/v4l2-core/v4l2-dv-timings",
    "drivers/media/common/v4l2-tpg/v4l2-tpg",
    "drivers/media/common/videobuf2/videobuf2-common",
    "drivers/media/common/videobuf2/videobuf2-memops",
    "drivers/media/common/videobuf2/videobuf2-v4l2",
    "drivers/media/common/videobuf2/videobuf2-vmalloc",
    "drivers/media/common/videobuf2/videobuf2-dma-contig",
    "drivers/media/test-drivers/vivid/vivid",
];

/// Options of the task
#[derive(clap::Args)]
pub struct KernelArgs {
    /// Boots the kernel in QEMU, runs the programs of tests/conformance there, with the
    /// module and under `devmap run`, and counts instructions
    #[arg(long)]
    test: bool,
    /// Only counts instructions in QEMU, against a C module that does the same
    #[arg(long)]
    figures: bool,
    /// Only boots the kernel with vivid, its test camera, and holds the device `camera`
    /// against it
    #[arg(long, conflicts_with_all = ["test", "figures"])]
    camera: bool,
}

/// Builds, checks, and as asked boots.
///
/// # Errors
/// What is missing and which package has it; the first step that failed.
pub fn run(arguments: &KernelArgs) -> Result {
    let mut steps = Steps::new();
    packages::ensure()?;
    let tools = Tools::find()?;
    let target = target().join("kernel");
    let build = target.join("build");
    steps.done("packages");
    if arguments.camera {
        let guest = guest(&tools, &target, &build, &mut steps)?;
        guest.camera()?;
        return compare::cameras(&target);
    }

    lint()?;
    steps.done("lint");
    let modules = [&MODULES[..], &["peer"]].concat();
    tools.make(&build, &root().join("kernel"), &modules)?;
    steps.done("build");
    if arguments.test {
        let guide = target.join("guide");
        write_guide(&fs::read_to_string(root().join("docs/kernel.md"))?, &guide)?;
        tools.make(&build, &guide, &["counter"])?;
        steps.done("the guide's module");
    }
    for module in MODULES {
        gates::check(&build.join(module).join("rust.o"))?;
    }
    steps.done("gates");
    if arguments.test || arguments.figures {
        let guest = guest(&tools, &target, &build, &mut steps)?;
        if arguments.test {
            guest.test()?;
            steps.done("boot and test");
            guest.supervised()?;
            steps.done("boot and devmap run");
            guest.panic()?;
            steps.done("boot and panic");
            guest.camera()?;
            steps.done("boot and vivid");
        }
        guest.figures()?;
        steps.done("figures");
        if arguments.test {
            compare::run(&target)?;
            compare::cameras(&target)?;
            steps.done("the same under devmap run");
        }
    }
    eprintln!("\nThe module is {}", build.join("devmap.ko").display());
    Ok(())
}

/// A guest with the modules that are built, and the `devmap` of now.
fn guest(tools: &Tools, target: &Path, build: &Path, steps: &mut Steps) -> Result<boot::Guest> {
    let image = tools.image(&target.join("image"))?;
    steps.done("kernel image");
    check(&mut cargo(&["build", "--quiet", "--package", "devmap-cli"]))?;
    steps.done("devmap");
    fs::create_dir_all(build)?;
    let guest = boot::Guest::new(&image, target, build)?;
    steps.done("programs");
    Ok(guest)
}

/// Format and lints of the Rust half, which is outside of the workspace.
fn lint() -> Result {
    let manifest = "--manifest-path=kernel/Cargo.toml";
    check(&mut cargo(&["fmt", manifest, "--check"]))?;
    for module in MODULES {
        let main = format!("kernel/{module}/main.rs");
        check(&mut command("rustfmt", &["--check", "--edition=2024", &main]))?;
    }
    check(&mut cargo(&["clippy", manifest, "--quiet", "--locked", "--", "--deny", "warnings"]))
}

/// Says how long each step took.
struct Steps(Instant);

impl Steps {
    fn new() -> Steps {
        Steps(Instant::now())
    }

    fn done(&mut self, what: &str) {
        eprintln!("{what}: {:.1} s", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

/// Where cargo leaves what it builds.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// What the build needs from the system.
struct Tools {
    /// The headers of the newest kernel, in a directory named for its version.
    headers: PathBuf,
    rustc: PathBuf,
    /// The library directory of the same release.
    rust_source: PathBuf,
}

impl Tools {
    fn find() -> Result<Tools> {
        let rustc = PathBuf::from("/usr/bin/rustc");
        let version = Command::new(&rustc)
            .arg("--version")
            .output()
            .map_err(|error| format!("{}: {error}; package rustc-web has it", rustc.display()))?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let version = version.split(' ').nth(1).unwrap_or_default();
        if numbers(version) < vec![OLDEST_RUSTC.0, OLDEST_RUSTC.1] {
            let (major, minor) = OLDEST_RUSTC;
            return Err(format!(
                "{} is {version}, older than {major}.{minor}; package rustc-web has a newer one",
                rustc.display()
            )
            .into());
        }
        let rust_source = PathBuf::from(format!("/usr/src/rustc-{version}/library"));
        if !rust_source.join("core/src/lib.rs").exists() {
            return Err(format!(
                "no {}: the library's source of the same release is in package rust-web-src",
                rust_source.display()
            )
            .into());
        }
        let headers = newest_headers(Path::new("/usr/src"))?
            .ok_or("no /usr/src/linux-headers-*-amd64: package linux-headers-amd64 has it")?;
        Ok(Tools { headers, rustc, rust_source })
    }

    /// Builds the modules that are directories of `from`.
    fn make(&self, build: &Path, from: &Path, modules: &[&str]) -> Result {
        check(
            command("make", &["-C", "kernel", "--no-print-directory"])
                .arg(format!("BUILD={}", build.display()))
                .arg(format!("KDIR={}", self.headers.display()))
                .arg(format!("RUSTC={}", self.rustc.display()))
                .arg(format!("RUST_SOURCE={}", self.rust_source.display()))
                .arg(format!("FROM={}", from.display()))
                .arg(format!("MODULES={}", modules.join(" "))),
        )
    }

    /// The kernel that the headers are of: installed, or downloaded to `cache`.
    fn image(&self, cache: &Path) -> Result<Image> {
        let headers = self.headers.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let release = headers.trim_start_matches("linux-headers-");
        if let Some(image) = Image::find(Path::new("/"), release).or(Image::find(cache, release)) {
            return Ok(image);
        }
        fs::create_dir_all(cache)?;
        let package = format!("linux-image-{release}");
        let download =
            || check(Command::new("apt-get").args(["download", "-q", &package]).current_dir(cache));
        if download().is_err() {
            // The lists are old, or there are none.
            check(&mut command("apt-get", &["update", "-q"]))?;
            download().map_err(|error| {
                format!(
                    "{error}; are these the newest headers? apt-get install linux-headers-amd64"
                )
            })?;
        }
        let archive = fs::read_dir(cache)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.to_string_lossy().contains(&format!("{package}_")))
            .ok_or_else(|| format!("apt-get download left no {package}"))?;
        let mut contents = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&archive)
            .stdout(Stdio::piped())
            .spawn()?;
        let stream = contents.stdout.take().ok_or("dpkg-deb gives no output")?;
        check(
            Command::new("tar")
                .args(["-x", "--wildcards", "-C"])
                .arg(cache)
                .arg("./boot/vmlinuz-*")
                .args(PACKAGED.map(|module| format!("*/kernel/{module}.ko*")))
                .stdin(stream),
        )?;
        contents.wait()?;
        fs::remove_file(archive)?;
        let image = Image::find(cache, release);
        image.ok_or_else(|| format!("{package} lacks its kernel, FUSE or vivid").into())
    }
}

/// What a guest takes of a kernel's package.
struct Image {
    kernel: PathBuf,
    /// [`PACKAGED`], perhaps compressed.
    modules: Vec<PathBuf>,
}

impl Image {
    /// The kernel of this release below `place`.
    fn find(place: &Path, release: &str) -> Option<Image> {
        let kernel = place.join(format!("boot/vmlinuz-{release}"));
        let below = place.join(format!("lib/modules/{release}/kernel"));
        let find = |module: &&str| {
            let names = ["ko", "ko.xz"].map(|kind| below.join(format!("{module}.{kind}")));
            names.into_iter().find(|path| path.exists())
        };
        let modules = PACKAGED.iter().map(find).collect::<Option<Vec<_>>>()?;
        kernel.exists().then_some(Image { kernel, modules })
    }
}

/// Writes the files of the driver author's guide: each is a block of code, below a line
/// that is its path in backquotes.
fn write_guide(guide: &str, directory: &Path) -> Result {
    let mut lines = guide.lines();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let path = line.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        let Some(path) = path.filter(|path| path.contains('/')) else { continue };
        let block = lines.by_ref().skip_while(|line| !line.starts_with("```")).skip(1);
        let code = block.take_while(|line| *line != "```");
        let text = code.fold(String::new(), |text, line| text + line + "\n");
        let path = directory.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // The time of an unchanged file stays, so that make does nothing.
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            fs::write(path, text)?;
        }
        count += 1;
    }
    if count == 3 { Ok(()) } else { Err(format!("docs/kernel.md has {count} files, not 3").into()) }
}

/// The numbers of a version, for comparison: `6.1.0-56-amd64` is 6, 1, 0, 56.
fn numbers(version: &str) -> Vec<u32> {
    version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

fn newest_headers(place: &Path) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(place)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let version = name.strip_prefix("linux-headers-").filter(|rest| rest.ends_with("-amd64"));
        if let Some(version) = version {
            found.push((numbers(version), place.join(&name)));
        }
    }
    Ok(found.into_iter().max().map(|(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_headers_are_taken() {
        let place = env::temp_dir().join(format!("xtask-headers-{}", std::process::id()));
        for name in ["6.1.0-9-amd64", "6.1.0-56-amd64", "6.1.0-56-common", "6.1.0-57-arm64"] {
            fs::create_dir_all(place.join(format!("linux-headers-{name}"))).unwrap();
        }
        let newest = newest_headers(&place).unwrap().unwrap();
        fs::remove_dir_all(&place).unwrap();
        assert!(newest.ends_with("linux-headers-6.1.0-56-amd64"), "{}", newest.display());
    }

    #[test]
    fn the_guides_files_are_found() {
        let place = env::temp_dir().join(format!("xtask-guide-{}", std::process::id()));
        let file = |name: &str| format!("text\n\n`m/{name}`\n\n```c\nint {name};\n\n```\n");
        let guide = file("a") + &file("b") + "`no path`\n" + &file("c");
        write_guide(&guide, &place).unwrap();
        let b = fs::read_to_string(place.join("m/b"));
        fs::remove_dir_all(&place).unwrap();
        assert_eq!(b.unwrap(), "int b;\n\n");
        assert!(write_guide("", &place).is_err());
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.96.0+dfsg1") > vec![1, 88]);
        assert!(numbers("1.63.0") < vec![1, 88]);
    }
}
