//! The registry of built-in devices.

use std::path::Path;

use devmap_backend_supervised::{self as supervised, AnyDevice, Host};
use devmap_devices::{demo, events, hello, mem, pattern, zero};
use devmap_devices_host::{camera, capture::VIDEO_MAJOR, file};
use devmap_driver::{Errno, OptionError, OptionSpec};

/// Options as text, in the order given.
type Pairs = [(String, String)];

/// How a device is made.
type Build = fn(&Host, &Pairs) -> Result<Box<dyn AnyDevice>, Errno>;

/// A device that `--device PATH=NAME` can name.
#[derive(Debug)]
pub struct Builtin {
    /// Its NAME.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// The options it takes.
    pub options: &'static [OptionSpec],
    /// The option that has to be given, and whose key may be left out.
    pub(crate) main: Option<&'static str>,
    /// For one with the option `minor`: what its number is without.
    pub(crate) numbers: Option<Numbers>,
    check: fn(&Pairs) -> Result<(), (usize, OptionError)>,
    build: Build,
}

/// The numbers of the devices that share a major number.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// `major(dev)`.
    pub(crate) major: u32,
    /// The minor number that a path says.
    pub(crate) minor_at: fn(&Path) -> Option<u32>,
}

impl Builtin {
    /// Whether the device takes these options.
    ///
    /// # Errors
    /// The place of the first that it refuses, and why.
    pub(crate) fn check(&self, options: &Pairs) -> Result<(), (usize, OptionError)> {
        (self.check)(options)
    }

    /// Makes the device.
    ///
    /// # Errors
    /// The device's own; `EINVAL` for options that [`Builtin::check`] refuses.
    pub(crate) fn build(&self, host: &Host, options: &Pairs) -> Result<Box<dyn AnyDevice>, Errno> {
        (self.build)(host, options)
    }
}

/// The entry of a module of a device, all of which look alike: NAME, ABOUT,
/// OPTIONS, `Options` with `set`, and a device made from a platform and the options.
macro_rules! builtin {
    ($module:ident, $device:ident) => {
        builtin!($module, $device, main: None, numbers: None)
    };
    ($module:ident, $device:ident, main: $main:expr, numbers: $numbers:expr) => {
        Builtin {
            name: $module::NAME,
            about: $module::ABOUT,
            options: $module::OPTIONS,
            main: $main,
            numbers: $numbers,
            check: |pairs| parse($module::Options::set, pairs).map(|_| ()),
            build: |host, pairs| {
                let options = parse($module::Options::set, pairs).map_err(|_| Errno::EINVAL)?;
                Ok(supervised::erase($module::$device::new(host, &options)?))
            },
        }
    };
}

const CAMERAS: Numbers = Numbers { major: VIDEO_MAJOR, minor_at: camera::minor_at };

/// All of them, in the order in which to show them.
static BUILTINS: [Builtin; 8] = [
    builtin!(demo, Demo),
    builtin!(mem, Mem),
    builtin!(zero, Zero),
    builtin!(hello, Hello),
    builtin!(events, Events),
    builtin!(pattern, Pattern),
    builtin!(camera, Camera, main: None, numbers: Some(CAMERAS)),
    builtin!(file, File, main: Some("path"), numbers: None),
];

/// The built-in devices.
pub fn builtins() -> &'static [Builtin] {
    &BUILTINS
}

/// The built-in device of this name.
pub(crate) fn find(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|builtin| builtin.name == name)
}

/// Options from text.
fn parse<O: Default>(
    set: fn(&mut O, &str, &str) -> Result<(), OptionError>,
    pairs: &Pairs,
) -> Result<O, (usize, OptionError)> {
    let mut options = O::default();
    for (index, (key, value)) in pairs.iter().enumerate() {
        set(&mut options, key, value).map_err(|error| (index, error))?;
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_that_the_option_takes() {
        for builtin in builtins() {
            for option in builtin.options {
                let pairs = [(option.name.to_owned(), option.default.to_owned())];
                // Without one, an empty value is refused.
                let is_good = !option.default.is_empty();
                let name = (builtin.name, option.name);
                assert_eq!(builtin.check(&pairs).is_ok(), is_good, "{name:?}");
            }
        }
    }
}
