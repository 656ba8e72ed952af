//! A server whose driver misbehaves, for the tests: nobody but the program that calls it
//! may be harmed.
//!
//! `BAD=WHAT:WHERE bad_driver [OPTIONS] PROGRAM [ARG]...` serves `/dev/bad`. WHAT is
//! `panic`, `block` or `absurd`, and WHERE the method of the driver in which it does, or
//! `second-fault`, the fault of any page but the first; or
//! WHAT is `errno`, an unusual one, and WHERE is `open` or `read`; or WHAT is `plan`, and WHERE
//! says what is wrong with the plan; or WHAT is `store`, the device is a regular file, and WHERE
//! is the error of its store, or `block`; or WHAT is `end`, which is not wrong: a line is added to
//! the file WHERE when the driver is dropped.

#![forbid(unsafe_code)]

use std::{
    env,
    fs::OpenOptions,
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    thread,
};

use devmap::{
    Server,
    driver::{
        Device, Errno, Fault, Fsync, Ioctl, Kind, Memory, Metadata, NewArea, NewPage, Open, Plan,
        Platform, PollEvents, PollTable, SeekFrom, Store, Supply, Transfer,
    },
};

/// The memory's length in pages.
const PAGES: u64 = 4;

/// What the driver does wrong, and where.
struct Wrong {
    what: String,
    place: String,
}

impl Wrong {
    fn asked() -> Wrong {
        let asked = env::var("BAD").unwrap_or_default();
        let (what, place) = asked.split_once(':').unwrap_or_default();
        Wrong { what: what.to_owned(), place: place.to_owned() }
    }

    fn is(&self, what: &str, place: &str) -> bool {
        self.what == what && self.place == place
    }

    /// 524, the kernel's `ENOTSUPP`, in the method that shall answer it.
    fn unusual(&self, method: &str) -> Result<(), Errno> {
        if self.is("errno", method) {
            return Err(Errno::from_raw(524).unwrap_or(Errno::EIO));
        }
        Ok(())
    }

    /// Each method begins with this. Whether it shall answer nonsense.
    fn in_method(&self, method: &str) -> bool {
        if self.is("panic", method) {
            panic!("on purpose");
        }
        if self.is("block", method) {
            block(method);
        }
        self.is("absurd", method)
    }
}

fn block(method: &str) -> ! {
    // The test waits for this line.
    let _ = writeln!(io::stderr(), "blocked in {method}");
    loop {
        thread::park();
    }
}

struct Bad<P: Platform> {
    memory: P::Memory,
    wrong: Arc<Wrong>,
}

impl<P: Platform> Bad<P> {
    fn new(host: &P) -> Result<Bad<P>, Errno> {
        let wrong = Arc::new(Wrong::asked());
        wrong.in_method("make");
        let memory = host.scattered(PAGES * host.page_size().bytes())?;
        Ok(Bad { memory, wrong })
    }
}

impl<P: Platform> Drop for Bad<P> {
    fn drop(&mut self) {
        if self.wrong.what == "end" {
            let file = OpenOptions::new().append(true).open(&self.wrong.place);
            let _ = file.and_then(|mut file| file.write_all(b"dropped\n"));
        }
    }
}

/// One open file.
struct File(Arc<Wrong>);

impl Drop for File {
    fn drop(&mut self) {
        self.0.in_method("release");
    }
}

impl<P: Platform> Device<P> for Bad<P> {
    type File = File;

    fn open(&self, _open: &Open) -> Result<File, Errno> {
        self.wrong.in_method("open");
        self.wrong.unusual("open")?;
        Ok(File(self.wrong.clone()))
    }

    fn metadata(&self) -> Metadata {
        self.wrong.in_method("metadata");
        if self.wrong.what == "store" {
            let kind = Kind::Regular { size: self.memory.len() };
            return Metadata { kind, ..Metadata::CHARACTER };
        }
        Metadata::CHARACTER
    }

    fn store(&self) -> Store {
        Store::Device
    }

    fn write_back(&self, _offset: u64, _bytes: &[u8]) -> Result<(), Errno> {
        self.wrong.in_method("write_back");
        if self.wrong.is("store", "block") {
            block("write_back");
        }
        match Errno::from_name(&self.wrong.place) {
            Some(errno) => Err(errno),
            None => Ok(()),
        }
    }

    fn fsync(&self, _file: &File, _what: Fsync) -> Result<(), Errno> {
        self.wrong.in_method("fsync");
        Ok(())
    }

    fn mmap(&self, _file: &File, area: &NewArea) -> Result<Plan<P::Memory>, Errno> {
        self.wrong.in_method("mmap");
        let (pages, memory) = (area.pages(), &self.memory);
        if self.wrong.what != "plan" {
            return Ok(match self.wrong.place.as_str() {
                "fault" | "second-fault" => Plan::new().fault(0..pages),
                _ => Plan::remap_all(area, memory, 0),
            });
        }
        Ok(match self.wrong.place.as_str() {
            "hole" => Plan::new().remap(0..1, memory, 0).remap(2..pages, memory, 2),
            "overlap" => Plan::new().remap(0..2, memory, 0).remap(1..pages, memory, 1),
            "past-memory" => Plan::new().remap(0..pages, memory, memory.pages() - 1),
            "past-area" => Plan::new().remap(0..pages + 1, memory, 0),
            "far-away" => Plan::new().remap(u64::MAX - pages..u64::MAX, memory, u64::MAX),
            "empty" => Plan::new().remap(0..pages, memory, 0).remap(1..1, memory, 0),
            "too-many" => (0..9).fold(Plan::new(), |plan, _| plan.remap(0..1, memory, 0)),
            _ => Plan::new(),
        })
    }

    fn fault(
        &self,
        _file: &File,
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<P::Memory>, Errno> {
        if self.wrong.in_method("fault") {
            return Ok(Supply::Page { memory: self.memory.clone(), page: u64::MAX });
        }
        if fault.page > 0 {
            self.wrong.in_method("second-fault");
        }
        page.bytes()?.fill(fault.page as u8);
        Ok(Supply::Filled)
    }

    fn read(&self, _file: &File, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        if self.wrong.in_method("read") {
            return Ok(transfer.user().len() + 1);
        }
        self.wrong.unusual("read")?;
        transfer.read_from(b"well\n")
    }

    fn write(&self, _file: &File, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        if self.wrong.in_method("write") {
            return Ok(usize::MAX);
        }
        Ok(transfer.user().len())
    }

    fn llseek(&self, _file: &File, to: SeekFrom) -> Result<u64, Errno> {
        if self.wrong.in_method("llseek") {
            return Ok(u64::MAX);
        }
        to.within(self.memory.len())
    }

    fn ioctl(&self, _file: &File, _call: &Ioctl<'_>) -> Result<u32, Errno> {
        if self.wrong.in_method("ioctl") {
            return Ok(u32::MAX);
        }
        Ok(7)
    }

    fn poll(&self, _file: &File, _table: &mut dyn PollTable<P::WaitQueue>) -> PollEvents {
        if self.wrong.in_method("poll") {
            return PollEvents::from_bits(u32::MAX);
        }
        PollEvents::IN
    }
}

fn main() -> ExitCode {
    Server::new("bad_driver").device("/dev/bad", Bad::new).main()
}
