//! What a process calls on its descriptors: modes, positions, arguments, and answers that no
//! driver may give.

use std::{
    io::SeekFrom,
    sync::{Arc, Mutex},
};

use devmap_backend_sim::{MockKernel, SimPlatform, SimQueue};
use devmap_driver::{
    Command, Device, Errno, Ioctl, Metadata, Open, OpenFlags, PollEvents, PollTable, Transfer,
};

const BOTH: OpenFlags = OpenFlags { read: true, write: true, nonblocking: false, append: false };

/// Answers what it is told, and tells what it was asked.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    stream: bool,
    /// What reads, writes and seeks answer; `None`: what is right.
    answer: Option<usize>,
    events: PollEvents,
    /// Where the last transfer was to begin, and with which flags.
    asked: Option<(u64, OpenFlags)>,
}

impl Told {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn transfer(&self, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.with(|state| {
            state.asked = Some((transfer.position(), transfer.flags()));
            Ok(state.answer.unwrap_or(transfer.user().len()))
        })
    }
}

impl Device<SimPlatform> for Told {
    type File = ();

    fn open(&self, _open: &Open) -> Result<(), Errno> {
        Ok(())
    }

    fn metadata(&self) -> Metadata {
        Metadata { stream: self.with(|state| state.stream), ..Metadata::CHARACTER }
    }

    fn read(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.transfer(transfer)
    }

    fn write(&self, _file: &(), transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.transfer(transfer)
    }

    fn llseek(&self, _file: &(), to: devmap_driver::SeekFrom) -> Result<u64, Errno> {
        match self.with(|state| state.answer) {
            Some(answer) => Ok(answer as u64),
            None => to.within(100),
        }
    }

    fn ioctl(&self, _file: &(), call: &Ioctl<'_>) -> Result<u32, Errno> {
        if call.command().size() == 0 {
            return Ok(call.argument() as u32);
        }
        Ok(u32::from_ne_bytes(call.user()?.array()?))
    }

    fn poll(&self, _file: &(), _table: &mut dyn PollTable<SimQueue>) -> PollEvents {
        self.with(|state| state.events)
    }
}

fn told() -> (MockKernel, Told) {
    let (kernel, device) = (MockKernel::new(), Told::default());
    kernel.add("/dev/told", device.clone());
    (kernel, device)
}

#[test]
fn the_mode_of_a_descriptor_holds() {
    let (kernel, device) = told();
    let process = kernel.process().unwrap();
    let read = process.open_with("/dev/told", OpenFlags { write: false, ..BOTH }).unwrap();
    let write = process.open_with("/dev/told", OpenFlags { read: false, ..BOTH }).unwrap();
    assert_eq!(process.write(read, b"x"), Err(Errno::EBADF));
    assert_eq!(process.pwrite(read, b"x", 0), Err(Errno::EBADF));
    assert_eq!(process.read(write, &mut [0]), Err(Errno::EBADF));
    assert_eq!(process.pread(write, &mut [0], 0), Err(Errno::EBADF));
    assert_eq!(device.with(|state| state.asked), None, "the driver was not asked");
    assert_eq!((process.read(read, &mut [0]), process.write(write, b"x")), (Ok(1), Ok(1)));
}

#[test]
fn an_answer_past_the_buffer_is_an_error() {
    let (kernel, device) = told();
    let process = kernel.process().unwrap();
    let open = process.open("/dev/told").unwrap();
    assert_eq!(process.read(open, &mut [0; 3]), Ok(3));
    for answer in [5, usize::MAX] {
        device.with(|state| state.answer = Some(answer));
        assert_eq!(process.read(open, &mut [0; 4]), Err(Errno::EIO));
        assert_eq!(process.write(open, &[0; 4]), Err(Errno::EIO));
    }
    assert_eq!(process.lseek(open, SeekFrom::Start(1)), Err(Errno::EIO));
    let wild = process.ioctl_value(open, Command(0), 1 << 31);
    assert_eq!(wild, Err(Errno::EIO), "programs see a negative number as an error");
    device.with(|state| state.answer = None);
    assert_eq!(process.lseek(open, SeekFrom::Current(0)), Ok(3), "the position stays");
}

#[test]
fn a_stream_has_no_position() {
    let (kernel, device) = told();
    device.with(|state| state.stream = true);
    let process = kernel.process().unwrap();
    let open = process.open("/dev/told").unwrap();
    for _ in 0..2 {
        assert_eq!(process.read(open, &mut [0; 3]), Ok(3));
        assert_eq!(device.with(|state| state.asked), Some((0, BOTH)));
    }
    assert_eq!(process.lseek(open, SeekFrom::Start(0)), Err(Errno::ESPIPE));
    assert_eq!(process.pread(open, &mut [0], 0), Err(Errno::ESPIPE));
    assert_eq!(process.pwrite(open, b"x", 0), Err(Errno::ESPIPE));
}

#[test]
fn a_character_device_is_told_where_and_how() {
    let (kernel, device) = told();
    let process = kernel.process().unwrap();
    let appending = OpenFlags { append: true, ..BOTH };
    let open = process.open_with("/dev/told", appending).unwrap();
    assert_eq!(process.write(open, b"four"), Ok(4));
    assert_eq!(process.write(open, b"x"), Ok(1));
    let asked = || device.with(|state| state.asked);
    assert_eq!(asked(), Some((4, appending)), "O_APPEND is for the driver to see");
    assert_eq!(process.pread(open, &mut [0], 70), Ok(1));
    assert_eq!(asked(), Some((70, appending)));
    assert_eq!(process.lseek(open, SeekFrom::Current(-2)), Ok(3));
    assert_eq!(process.lseek(open, SeekFrom::End(-1)), Ok(99));
    assert_eq!(process.lseek(open, SeekFrom::Start(101)), Err(Errno::EINVAL));
    let child = process.fork().unwrap();
    process.set_nonblocking(open, true).unwrap();
    assert_eq!(child.read(open, &mut [0]), Ok(1));
    assert_eq!(asked(), Some((99, OpenFlags { nonblocking: true, ..appending })));
    process.set_nonblocking(open, false).unwrap();
    assert_eq!(child.read(open, &mut [0]), Ok(1));
    assert_eq!(asked(), Some((100, appending)));
}

#[test]
fn an_ioctl_takes_a_number_a_buffer_or_an_address() {
    let (kernel, _) = told();
    let process = kernel.process().unwrap();
    let open = process.open("/dev/told").unwrap();
    assert_eq!(process.ioctl_value(open, Command(0), 7), Ok(7));
    let word = Command(4 << 16);
    assert_eq!(process.ioctl(open, word, &mut 8_u32.to_ne_bytes()), Ok(8));
    assert_eq!(process.ioctl(open, word, &mut [0; 3]), Err(Errno::EFAULT), "too small for it");
    let at = process.mmap_anonymous(&devmap_mm::MapRequest::new(4096)).unwrap();
    process.store(at, &9_u32.to_ne_bytes()).unwrap();
    assert_eq!(process.ioctl_value(open, word, at), Ok(9));
    assert_eq!(process.ioctl_value(open, word, at + 4094), Err(Errno::EFAULT));
}

#[test]
fn errors_and_hang_ups_are_reported_unasked() {
    let (kernel, device) = told();
    let process = kernel.process().unwrap();
    let open = process.open("/dev/told").unwrap();
    for events in [PollEvents::HUP, PollEvents::ERR] {
        device.with(|state| state.events = events.union(PollEvents::PRI));
        assert_eq!(process.poll_wait(open, PollEvents::IN), Ok(events));
    }
    device.with(|state| state.events = PollEvents::PRI);
    let waited = process.poll_wait(open, PollEvents::IN);
    assert_eq!(waited, Err(Errno::EINTR), "nothing that was asked for");
}
