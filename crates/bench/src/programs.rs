//! The whole programs that are measured, and what they work on.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// The tree that `git status` looks at.
const DIRECTORIES: usize = 300;
const FILES_EACH: usize = 100;

const SMALL: &str = "\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		printf(\"%zu %s\\n\", strlen(argv[i]), argv[i]);
	return argc > 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}
";

/// `find /usr`.
pub(crate) fn find() -> Vec<OsString> {
    ["find", "/usr"].map(OsString::from).into()
}

/// `gcc -c` of a small file in `directory`.
pub(crate) fn gcc(directory: &Path) -> io::Result<Vec<OsString>> {
    let (source, object) = (directory.join("small.c"), directory.join("small.o"));
    fs::write(&source, SMALL)?;
    let line = ["gcc".into(), "-c".into(), source.into(), "-o".into(), object.into()];
    finish(&mut quiet(&line))?;
    Ok(line.into())
}

/// `git status` of 30,000 files; the first call makes them.
pub(crate) fn git(directory: &TempDir) -> io::Result<Vec<OsString>> {
    let tree = directory.path().join("tree");
    let git = |arguments: &[&str]| {
        let mut line: Vec<OsString> = vec!["git".into(), "-C".into(), PathBuf::from(&tree).into()];
        line.extend(arguments.iter().map(OsString::from));
        line
    };
    let status = git(&["status", "--short"]);
    if !tree.exists() {
        for number in 0..DIRECTORIES {
            let parent = tree.join(format!("directory-{number}"));
            fs::create_dir_all(&parent)?;
            for file in 0..FILES_EACH {
                fs::write(parent.join(format!("file-{file}.txt")), "one line\n")?;
            }
        }
        let commit = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit"];
        finish(&mut quiet(&git(&["init", "--quiet"])))?;
        finish(&mut quiet(&git(&["add", "."])))?;
        finish(&mut quiet(&git(&[&commit[..], &["--quiet", "--message", "tree"]].concat())))?;
        // Files as young as the index are looked into; this writes it anew.
        finish(&mut quiet(&status))?;
    }
    Ok(status)
}

/// A command without input or output.
pub(crate) fn quiet(line: &[OsString]) -> Command {
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Runs a command to its end. `find` ends with 1 where it may not look into a directory,
/// which is the same on both sides.
pub(crate) fn finish(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| io::Error::other(format!("cannot run {program}: {error}")))?;
    let is_find = command.get_args().last().is_some_and(|last| last == "/usr");
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) if is_find => Ok(()),
        _ => {
            let complaints = String::from_utf8_lossy(&output.stderr);
            let (status, complaints) = (output.status, complaints.trim());
            Err(io::Error::other(format!("{program}: {status}: {complaints}")))
        }
    }
}
