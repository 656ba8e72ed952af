//! The smallest device: a text. `cargo run --example hello -- cat /dev/hello`

use devmap::prelude::*;

struct Hello;

impl<P: Platform> Device<P> for Hello {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        transfer.read_from(b"Hello from user space.\n")
    }
}

fn main() -> ExitCode {
    Server::new("hello").device("/dev/hello", |_host| Ok(Hello)).main()
}
