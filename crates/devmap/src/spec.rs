//! `--device PATH=NAME[:key=value,...]`: one built-in device at one path.
//!
//! Everything about it that can be wrong is found here, before any program starts,
//! except what only the making of the device can show (such as a lack of memory).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Component, Path, PathBuf},
};

use devmap_backend_supervised::{Host, Node};
use devmap_driver::{Kind, Number, OptionError};

use crate::builtin::{self, Builtin, builtins};

/// A built-in device, its options, and the path at which programs find it.
#[derive(Clone, Debug)]
pub struct DeviceSpec {
    path: PathBuf,
    builtin: &'static Builtin,
    options: Vec<(String, String)>,
}

/// What is wrong with a `--device` argument, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No `=NAME`.
    #[error("it names no device; write PATH=NAME, such as /dev/mmap=demo")]
    NoDevice,
    /// A NAME that is not built in.
    #[error("there is no device {name:?}{}; there are {names}", suggest(.similar))]
    UnknownDevice {
        /// The NAME given.
        name: String,
        /// The device that may have been meant.
        similar: Option<&'static str>,
        /// All devices.
        names: String,
    },
    /// An option without `=`.
    #[error("the option {option:?} has no value; write KEY=VALUE")]
    NoValue {
        /// The text given.
        option: String,
    },
    /// Without the option that it cannot do without.
    #[error("the device {device:?} needs {key:?}; write {device}:{key}=VALUE")]
    Missing {
        /// The device.
        device: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A key that the device does not have.
    #[error("the device {device:?} has no option {key:?}{}; {has}", suggest(.similar))]
    UnknownOption {
        /// The device.
        device: &'static str,
        /// The key given.
        key: String,
        /// The option that may have been meant.
        similar: Option<&'static str>,
        /// What options there are.
        has: String,
    },
    /// A value that the option does not take.
    #[error("the option {key:?} does not take {value:?}: expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// The value given.
        value: String,
        /// What the option takes.
        expected: &'static str,
    },
    /// One key twice.
    #[error("the option {key:?} is given twice")]
    OptionTwice {
        /// The key.
        key: String,
    },
    /// A path that is not absolute.
    #[error("the path {path:?} is not absolute; it begins with /, such as /dev/{path}")]
    NotAbsolute {
        /// The path given.
        path: String,
    },
    /// A path that ends in `/`, or has `.` or `..` in it.
    #[error(
        "the path {path:?} is not that of a file: write it without '.', '..' and a '/' at its end"
    )]
    NotAFile {
        /// The path given.
        path: String,
    },
    /// A path whose directory is not there.
    #[error(
        "the directory {directory:?} does not exist; choose a path in one that does, such as /dev"
    )]
    NoDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// A path that is a directory.
    #[error("the path {path:?} is a directory; a device would hide all that is in it")]
    IsDirectory {
        /// The path.
        path: PathBuf,
    },
    /// One path twice.
    #[error("the path {path:?} is given twice; each device has a path of its own")]
    PathTwice {
        /// The path.
        path: PathBuf,
    },
}

fn suggest(similar: &Option<&'static str>) -> String {
    similar.map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}

/// The candidate that `given` is a slip of, if there is one.
fn similar(given: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // More than a third of the letters is no slip: short names would all be similar.
    let most = |name: &str| given.chars().count().max(name.len()) / 3;
    candidates
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= most(name).min(2))
        .min()
        .map(|(_, name)| name)
}

/// The names, as a list in a sentence.
fn list(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

impl DeviceSpec {
    /// Parses and checks `PATH=NAME[:key=value,...]`. PATH ends at the first `=`.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn parse(text: &str) -> Result<DeviceSpec, SpecError> {
        let (path, device) = text.split_once('=').ok_or(SpecError::NoDevice)?;
        let (name, rest) = device.split_once(':').unwrap_or((device, ""));
        if name.is_empty() {
            return Err(SpecError::NoDevice);
        }
        let builtin = builtin::find(name).ok_or_else(|| SpecError::UnknownDevice {
            name: name.to_owned(),
            similar: similar(name, builtins().iter().map(|builtin| builtin.name)),
            names: list(builtins().iter().map(|builtin| builtin.name)),
        })?;
        let mut options = parse_options(builtin, rest)?;
        check_path(Path::new(path))?;
        if let Some(numbers) = &builtin.numbers {
            options.retain(|(key, value)| (key.as_str(), value.as_str()) != (MINOR, "auto"));
            let minor = (numbers.minor_at)(Path::new(path));
            if let Some(minor) = minor.filter(|_| minor_of(&options).is_none()) {
                options.push((MINOR.to_owned(), minor.to_string()));
            }
        }
        Ok(DeviceSpec { path: path.into(), builtin, options })
    }

    /// The path of the device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number, unless that is its home's choice or still open.
    fn number(&self) -> Option<(u32, u32)> {
        Some((self.builtin.numbers.as_ref()?.major, minor_of(&self.options)?))
    }

    /// Makes the device, in the process that will serve it.
    ///
    /// # Errors
    /// Why it could not be made.
    pub(crate) fn node(self, host: &Host) -> Result<Node, String> {
        let device = self.builtin.build(host, &self.options).map_err(|error| {
            format!("cannot make the device {}={}: {error}", self.path.display(), self.builtin.name)
        })?;
        Ok(Node { path: self.path, name: self.builtin.name.to_owned(), device })
    }
}

/// The option that says a device's minor number.
const MINOR: &str = "minor";

fn minor_of(options: &[(String, String)]) -> Option<u32> {
    options.iter().find(|(key, _)| key == MINOR)?.1.parse().ok()
}

/// The number that a device's driver fixes. One that panics is found when the run begins.
fn fixed_number(node: &Node) -> Option<(u32, u32)> {
    match catch_unwind(AssertUnwindSafe(|| node.device.metadata())).ok()?.kind {
        Kind::Character(Number::Fixed { major, minor }) => Some((major, minor)),
        _ => None,
    }
}

/// Gives the devices whose number is still open the lowest ones that neither one of them nor
/// of `others` has.
pub(crate) fn number<'a>(specs: &mut [DeviceSpec], others: impl Iterator<Item = &'a Node>) {
    let mut taken: Vec<_> = specs.iter().filter_map(DeviceSpec::number).collect();
    taken.extend(others.filter_map(fixed_number));
    for spec in specs {
        let Some(numbers) = &spec.builtin.numbers else { continue };
        let is_free = |minor: &u32| !taken.contains(&(numbers.major, *minor));
        if let (None, Some(minor)) = (minor_of(&spec.options), (0..).find(is_free)) {
            taken.push((numbers.major, minor));
            spec.options.push((MINOR.to_owned(), minor.to_string()));
        }
    }
}

fn parse_options(builtin: &Builtin, text: &str) -> Result<Vec<(String, String)>, SpecError> {
    let mut options: Vec<(String, String)> = Vec::new();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        let main = builtin.main.filter(|_| options.is_empty()).map(|main| (main, option));
        // What may do without its key may hold a `=` itself.
        let is_key = |key: &str| builtin.options.iter().any(|option| option.name == key);
        let (key, value) = option
            .split_once('=')
            .filter(|(key, _)| main.is_none() || is_key(key))
            .or(main)
            .ok_or(SpecError::NoValue { option: option.to_owned() })?;
        if options.iter().any(|(other, _)| other == key) {
            return Err(SpecError::OptionTwice { key: key.to_owned() });
        }
        options.push((key.to_owned(), value.to_owned()));
    }
    if let Some(key) = builtin.main.filter(|main| options.iter().all(|(key, _)| key != main)) {
        return Err(SpecError::Missing { device: builtin.name, key });
    }
    builtin.check(&options).map_err(|(index, error)| {
        let (key, value) = options[index].clone();
        match error {
            OptionError::Unknown => SpecError::UnknownOption {
                device: builtin.name,
                similar: similar(&key, builtin.options.iter().map(|option| option.name)),
                key,
                has: if builtin.options.is_empty() {
                    "it has none".to_owned()
                } else {
                    format!("it has {}", list(builtin.options.iter().map(|option| option.name)))
                },
            },
            OptionError::BadValue(expected) => SpecError::BadValue { key, value, expected },
        }
    })?;
    Ok(options)
}

/// Whether a device can stand at `path`.
///
/// # Errors
/// What is wrong, with the remedy.
pub(crate) fn check_path(path: &Path) -> Result<(), SpecError> {
    let text = || path.to_string_lossy().into_owned();
    if !path.is_absolute() {
        return Err(SpecError::NotAbsolute { path: text() });
    }
    // `components` drops "." and a "/" at the end: compare with the text itself.
    let plain =
        path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let rebuilt: PathBuf = path.components().collect();
    let (Some(directory), true) = (path.parent(), plain && rebuilt.as_os_str() == path.as_os_str())
    else {
        return Err(SpecError::NotAFile { path: text() });
    };
    if !directory.is_dir() {
        return Err(SpecError::NoDirectory { directory: directory.to_owned() });
    }
    if path.is_dir() {
        return Err(SpecError::IsDirectory { path: path.to_owned() });
    }
    Ok(())
}

/// Checks that no path comes twice.
///
/// # Errors
/// [`SpecError::PathTwice`].
pub(crate) fn check_distinct<'a>(
    paths: impl Iterator<Item = &'a Path> + Clone,
) -> Result<(), SpecError> {
    let mut rest = paths;
    while let Some(path) = rest.next() {
        if rest.clone().any(|other| other == path) {
            return Err(SpecError::PathTwice { path: path.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        DeviceSpec::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn whole_specifications_pass() {
        assert!(DeviceSpec::parse("/dev/mmap=demo").is_ok());
        assert!(DeviceSpec::parse("/dev/mmap=demo:").is_ok());
        assert!(DeviceSpec::parse("/dev/mem0=mem:size=64K").is_ok());
        assert!(DeviceSpec::parse("/dev/x=file:/etc/passwd").is_ok());
        assert!(DeviceSpec::parse("/dev/x=file:access=ro,path=/etc/passwd").is_ok());
        let path = std::env::temp_dir().join(format!("devmap-{}-a=b", std::process::id()));
        std::fs::write(&path, "").unwrap();
        for key in ["", "path="] {
            let text = format!("/dev/x=file:{key}{},access=ro", path.display());
            assert!(DeviceSpec::parse(&text).is_ok(), "{text}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn every_error_says_what_would_be_right() {
        assert!(error("/dev/mmap").contains("PATH=NAME"));
        assert!(error("/dev/mmap=").contains("PATH=NAME"));
        let unknown = error("/dev/mmap=dmeo");
        assert!(unknown.contains("did you mean \"demo\"?"), "{unknown}");
        assert!(unknown.contains("mem"), "{unknown}");
        assert!(!error("/dev/mmap=framebuffer").contains("did you mean"));
        let option = error("/dev/mem0=mem:sise=64K");
        assert!(option.contains("did you mean \"size\"?"), "{option}");
        assert!(error("/dev/h=hello:size=1").contains("it has none"));
        let value = error("/dev/mem0=mem:size=many");
        assert!(value.contains("expected a number of bytes"), "{value}");
        assert!(error("/dev/mem0=mem:size").contains("KEY=VALUE"));
        assert!(error("/dev/mem0=mem:size=1K,size=2K").contains("twice"));
        assert!(error("/dev/x=file").contains("file:path=VALUE"));
        assert!(error("/dev/x=file:/no/such/file").contains("a regular file"));
        assert!(error("dev/mmap=demo").contains("/dev/dev/mmap"));
        assert!(error("/dev/../mmap=demo").contains("'..'"));
        assert!(error("/dev/mmap/=demo").contains("'/'"));
        assert!(error("/=demo").contains("not that of a file"));
        assert!(error("/no/such/place/mmap=demo").contains("/no/such/place"));
        assert!(error("/dev=demo").contains("is a directory"));
    }

    #[test]
    fn only_a_slip_is_corrected() {
        for slip in ["=men", "=memm", "=hallo", "=camear", "=camera:fsp=5", "=camera:colour=red"] {
            let error = error(&format!("/dev/x{slip}"));
            assert!(error.contains("did you mean"), "{error}");
        }
        for far in ["=camera:foo=bar", "=camera:x=1", "=mad", "=x", "=zen", "=files.txt"] {
            let error = error(&format!("/dev/x{far}"));
            assert!(!error.contains("did you mean"), "{error}");
        }
    }

    #[test]
    fn a_number_is_the_one_given_the_paths_or_a_free_one() {
        let devices = [
            "/dev/front=camera",
            "/dev/video2=camera",
            "/dev/back=camera:minor=auto",
            "/dev/video0=camera:minor=1",
            "/dev/video3=camera:minor=auto",
            "/dev/m=mem",
        ];
        let mut specs = devices.map(|device| DeviceSpec::parse(device).unwrap());
        number(&mut specs, std::iter::empty());
        let minors = [Some(0), Some(2), Some(4), Some(1), Some(3), None];
        assert_eq!(specs.map(|spec| spec.number().map(|(_, minor)| minor)), minors);
    }

    #[test]
    fn a_path_stands_once() {
        let paths = [Path::new("/dev/a"), Path::new("/dev/b"), Path::new("/dev/a")];
        assert!(check_distinct(paths[..2].iter().copied()).is_ok());
        assert_eq!(
            check_distinct(paths.iter().copied()),
            Err(SpecError::PathTwice { path: "/dev/a".into() })
        );
    }
}
