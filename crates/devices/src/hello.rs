//! The smallest device: text to read. Everything else is left out.

use devmap_driver::{Device, Errno, Open, OptionSpec, Platform, Transfer};

pub use crate::NoOptions as Options;

/// What `--device PATH=NAME` calls it.
pub const NAME: &str = "hello";
/// One line of help.
pub const ABOUT: &str = "a line of text to read";
/// No options.
pub const OPTIONS: &[OptionSpec] = &[];

/// What a read gives.
pub const TEXT: &[u8] = b"Hello from a device in safe Rust.\n";

/// The device.
pub struct Hello;

impl Hello {
    /// Makes the device.
    ///
    /// # Errors
    /// None today.
    pub fn new<P: Platform>(_platform: &P, _options: &Options) -> Result<Hello, Errno> {
        Ok(Hello)
    }
}

impl<P: Platform> Device<P> for Hello {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        transfer.read_from(TEXT)
    }
}
