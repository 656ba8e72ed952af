//! The tests of programs that are run, once more as an ordinary user: uid 65534.
//!
//! Some machines let only root open `/dev/fuse`; here the user gets a node of it that
//! is as most distributions have it, in a mount namespace which nobody else sees.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{Result, run::cargo};

/// The packages whose tests are run.
const PACKAGES: [&str; 2] = ["devmap", "devmap-cli"];

/// Becomes the user and runs the arguments. Run by root in a mount namespace.
const BECOME_USER: &str = "set -e
mount -t tmpfs none /mnt
mknod /mnt/fuse c 10 229
chmod 666 /mnt/fuse
mount --bind /mnt/fuse /dev/fuse
umount --lazy /mnt
exec setpriv --reuid 65534 --regid 65534 --clear-groups -- \"$@\"";

/// The test programs, each with the command that runs it as the user. None unless this
/// is root.
///
/// # Errors
/// The tests cannot be built, or the user cannot reach them.
pub fn commands() -> Result<Vec<(String, Command)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let mut build = cargo(&["test", "--no-run", "--locked", "--message-format=json"]);
    build.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    let output = build.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("the tests cannot be built".into());
    }
    let programs: Vec<_> = String::from_utf8(output.stdout)?.lines().filter_map(program).collect();
    programs
        .into_iter()
        .map(|(program, package)| {
            let text = format!("{}, as uid 65534", program.display());
            Ok((text, as_user(&program, &package)?))
        })
        .collect()
}

/// The test program that a message of cargo's tells of, and its package's directory.
fn program(message: &str) -> Option<(PathBuf, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_test = message["profile"]["test"] == true;
    let program = message["executable"].as_str().filter(|_| is_test)?;
    let package = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some((program.into(), package.to_owned()))
}

fn as_user(program: &Path, package: &Path) -> Result<Command> {
    let reach = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--", "test", "-x"])
        .arg(program)
        .current_dir("/")
        .status()?;
    if !reach.success() {
        return Err(format!(
            "an ordinary user cannot reach {}: set CARGO_TARGET_DIR to a place that all can enter",
            program.display()
        )
        .into());
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", BECOME_USER, "sh"]).arg(program).current_dir(package);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_programs_are_run() {
        let message = |test| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/p/Cargo.toml",
                "profile":{{"test":{test}}},"executable":"/t/deps/x-1"}}"#
            )
        };
        let expected = (PathBuf::from("/t/deps/x-1"), PathBuf::from("/p"));
        assert_eq!(program(&message(true)), Some(expected));
        assert_eq!(program(&message(false)), None);
        assert_eq!(program("{}"), None);
    }
}
