//! What the tests need from the system: `ci/packages.txt`, Debian's names, one a line,
//! with the reason after `#`; and `ci/requirements.txt`, Python packages from PyPI, which
//! go below `target/python`.

use std::{fs, path::PathBuf};

use crate::{
    Result,
    run::{check, command, root},
};

/// Installs what is missing, as root; else says which command would.
///
/// # Errors
/// When something is missing and was not installed.
pub fn ensure() -> Result {
    debian()?;
    python()
}

/// Where the Python packages are, as the tests find them too.
fn python_directory() -> PathBuf {
    crate::kernel::target().join("python")
}

/// The Python packages, for the Python of the system.
fn python() -> Result {
    const LIST: &str = "ci/requirements.txt";
    let list = fs::read_to_string(root().join(LIST))?;
    let directory = python_directory();
    // Written last: the list that is installed there whole.
    let installed = directory.join("requirements.txt");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == list) {
        return Ok(());
    }
    let arguments = ["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--upgrade"];
    let mut install = command("/usr/bin/python3", &arguments);
    install.args(["-r", LIST, "--target"]).arg(&directory);
    check(&mut install).map_err(|error| {
        format!("{error}; the tests need the packages of {LIST}, from PyPI or a mirror of it")
    })?;
    Ok(fs::write(installed, list)?)
}

fn debian() -> Result {
    let list = fs::read_to_string(root().join("ci/packages.txt"))?;
    let missing: Vec<&str> = names(&list).filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        let names = missing.join(" ");
        return Err(format!(
            "the tests need packages that are not installed; install them by\n\n    \
             sudo apt-get install --no-install-recommends {names}\n"
        )
        .into());
    }
    check(&mut command("apt-get", &["update", "-q"]))?;
    let mut install = command("apt-get", &["install", "-q", "-y", "--no-install-recommends"]);
    check(install.args(missing).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(|line| line.split_once('#').map_or(line, |(name, _)| name).trim())
        .filter(|name| !name.is_empty())
}

fn is_installed(name: &str) -> bool {
    let query = command("dpkg-query", &["-W", "-f", "${db:Status-Status}", name]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

#[cfg(test)]
mod tests {
    #[test]
    fn reasons_are_no_names() {
        let list = "# What tests need\ngcc # C clients\n\npython3#mmap\n";
        assert_eq!(super::names(list).collect::<Vec<_>>(), ["gcc", "python3"]);
    }
}
