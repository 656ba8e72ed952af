//! What the kernel asks of a driver: a table of C functions for each device type, and
//! the making of devices when the module is inserted.
//!
//! What does not live here: `struct file_operations` itself (shim.c).

use core::{ffi::CStr, ffi::c_void, marker::PhantomData};

use devmap_driver::{
    Access, Caller, Command, Device, Errno, Ioctl, Kind, Number, Open, OpenFlags, OptionError,
    OptionSpec, PollTable, SeekFrom, Sharing, Source, Store, Transfer, UserSlice,
};

use crate::{
    alloc::KBox,
    area, log,
    platform::{Kernel, Queue},
    shim,
};

/// 0 or a negative error number, as C answers it.
///
/// # Errors
/// The error number.
pub fn check(answer: i32) -> Result<(), Errno> {
    match answer {
        0 => Ok(()),
        error => Err(Errno::from_raw(-error).unwrap_or(Errno::EIO)),
    }
}

/// As C wants it.
fn negative(errno: Errno) -> i32 {
    -errno.raw()
}

/// The process whose call runs now, and the file it has open.
struct CurrentCaller(*mut shim::File);

impl Caller for CurrentCaller {
    fn copy_from(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        // SAFETY: `into` is a slice; the kernel checks the program's address.
        let copied =
            unsafe { shim::devmap_copy_from_user(into.as_mut_ptr().cast(), address, into.len()) };
        copied.then_some(()).ok_or(Errno::EFAULT)
    }

    fn copy_to(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        // SAFETY: `from` is a slice; the kernel checks the program's address.
        let copied =
            unsafe { shim::devmap_copy_to_user(address, from.as_ptr().cast(), from.len()) };
        copied.then_some(()).ok_or(Errno::EFAULT)
    }

    fn flags(&self) -> OpenFlags {
        // SAFETY: the file is open for as long as the call runs, and a caller lives
        // no longer.
        open_flags(unsafe { shim::devmap_file_flags(self.0) })
    }
}

fn open_flags(bits: u32) -> OpenFlags {
    OpenFlags {
        read: bits & shim::flag::READ != 0,
        write: bits & shim::flag::WRITE != 0,
        nonblocking: bits & shim::flag::NONBLOCK != 0,
        append: bits & shim::flag::APPEND != 0,
    }
}

/// `poll_wait`.
struct Table {
    file: *mut shim::File,
    table: *mut shim::PollTableStruct,
}

impl PollTable<Queue> for Table {
    fn register(&mut self, queue: &Queue) {
        // SAFETY: file and table are those of the call that runs now. The queue is
        // the device's or the open file's, and outlives the poller's registration.
        unsafe { shim::devmap_queue_poll(queue.as_ptr(), self.file, self.table) };
    }
}

/// The functions of one device type.
struct Methods<D>(PhantomData<D>);

/// The contract of every function: `device` came from `KBox<D>::into_raw` and is not
/// yet dropped; `state` came from `open` of the same device, which has not been
/// released; other pointers are those of the call that the kernel makes. C keeps it.
impl<D: Device<Kernel>> Methods<D> {
    const TABLE: shim::Operations = shim::Operations {
        open: Self::open,
        release: Self::release,
        read: Self::read,
        write: Self::write,
        llseek: Self::llseek,
        ioctl: Self::ioctl,
        poll: Self::poll,
        mmap: Self::mmap,
        fault: Self::fault,
        drop: Self::drop,
    };

    unsafe extern "C" fn open(
        device: *mut c_void,
        flags: u32,
        pid: u32,
        state: *mut *mut c_void,
    ) -> i32 {
        // SAFETY: the contract.
        let device = unsafe { &*device.cast::<D>() };
        match device.open(&Open { flags: open_flags(flags), pid }).and_then(KBox::new) {
            Ok(file) => {
                // SAFETY: the contract: C has room for it there.
                unsafe { state.write(file.into_raw().cast()) };
                0
            }
            Err(errno) => negative(errno),
        }
    }

    unsafe extern "C" fn release(_device: *mut c_void, state: *mut c_void) {
        // SAFETY: open() gave it out, and release comes once.
        drop(unsafe { KBox::<D::File>::from_raw(state.cast()) });
    }

    unsafe extern "C" fn read(
        device: *mut c_void,
        state: *mut c_void,
        file: *mut shim::File,
        address: u64,
        len: usize,
        position: u64,
    ) -> isize {
        // SAFETY: the contract.
        let (device, state) = unsafe { (&*device.cast::<D>(), &*state.cast()) };
        transfer(file, address, len, position, |transfer| device.read(state, transfer))
    }

    unsafe extern "C" fn write(
        device: *mut c_void,
        state: *mut c_void,
        file: *mut shim::File,
        address: u64,
        len: usize,
        position: u64,
    ) -> isize {
        // SAFETY: the contract.
        let (device, state) = unsafe { (&*device.cast::<D>(), &*state.cast()) };
        transfer(file, address, len, position, |transfer| device.write(state, transfer))
    }

    unsafe extern "C" fn llseek(
        device: *mut c_void,
        state: *mut c_void,
        whence: u32,
        by: i64,
        position: u64,
    ) -> i64 {
        // SAFETY: the contract.
        let (device, state) = unsafe { (&*device.cast::<D>(), &*state.cast()) };
        let to = match whence {
            0 => SeekFrom::Start(by),
            1 => SeekFrom::Current { position, by },
            2 => SeekFrom::End(by),
            _ => return i64::from(negative(Errno::EINVAL)),
        };
        match device.llseek(state, to) {
            Ok(position) => {
                i64::try_from(position).unwrap_or(i64::from(negative(Errno::EOVERFLOW)))
            }
            Err(errno) => i64::from(negative(errno)),
        }
    }

    unsafe extern "C" fn ioctl(
        device: *mut c_void,
        state: *mut c_void,
        file: *mut shim::File,
        command: u32,
        argument: u64,
    ) -> i64 {
        // SAFETY: the contract.
        let (device, state) = unsafe { (&*device.cast::<D>(), &*state.cast()) };
        let caller = CurrentCaller(file);
        match device.ioctl(state, &Ioctl::new(Command(command), argument, &caller)) {
            Ok(value) => i64::from(value),
            Err(errno) => i64::from(negative(errno)),
        }
    }

    unsafe extern "C" fn poll(
        device: *mut c_void,
        state: *mut c_void,
        file: *mut shim::File,
        table: *mut shim::PollTableStruct,
    ) -> u32 {
        // SAFETY: the contract.
        let (device, state) = unsafe { (&*device.cast::<D>(), &*state.cast()) };
        device.poll(state, &mut Table { file, table }).bits()
    }

    unsafe extern "C" fn mmap(
        device: *mut c_void,
        state: *mut c_void,
        open: *mut shim::OpenFile,
        vma: *mut shim::VmArea,
        first_page: u64,
        pages: u64,
        bits: u32,
        mapping: *mut *mut c_void,
        by_page: *mut bool,
    ) -> i32 {
        // SAFETY: the contract.
        let (device, state) = unsafe { (&*device.cast::<D>(), &*state.cast()) };
        let mapped = area::new_area(first_page, pages, bits).and_then(|area| {
            let plan = device.mmap(state, &area)?;
            let faults = plan.extents().any(|extent| matches!(extent.source, Source::Fault));
            if faults && area.sharing() == Sharing::Shared && device.store() == Store::Device {
                // Nothing here would give it back what programs store.
                return Err(Errno::ENODEV);
            }
            // SAFETY: the contract: `vma` is the area that the numbers describe.
            unsafe { area::map(open, vma, area, &plan) }
        });
        match mapped {
            Ok(answer) => {
                // SAFETY: the contract: C has room for both there.
                unsafe {
                    mapping.write(answer.0.cast());
                    by_page.write(answer.1);
                }
                0
            }
            Err(errno) => negative(errno),
        }
    }

    unsafe extern "C" fn fault(
        device: *mut c_void,
        state: *mut c_void,
        open: *mut shim::OpenFile,
        mapping: *mut c_void,
        page_of_device: u64,
        write: bool,
        page: *mut *mut shim::Page,
    ) -> i32 {
        // SAFETY: the contract.
        let (device, state) = unsafe { (&*device.cast::<D>(), &*state.cast()) };
        let access = if write { Access::Write } else { Access::Read };
        // SAFETY: the contract: `mapping` is that of the area at fault.
        match unsafe { area::fault(device, state, open, mapping.cast(), page_of_device, access) } {
            Ok(found) => {
                // SAFETY: the contract: C has room for it there.
                unsafe { page.write(found) };
                0
            }
            Err(errno) => negative(errno),
        }
    }

    unsafe extern "C" fn drop(device: *mut c_void) {
        // SAFETY: add() gave it out, and drop comes once, after every release.
        core::mem::drop(unsafe { KBox::<D>::from_raw(device.cast()) });
    }
}

/// A read or a write of `len` bytes at `address` of the caller.
fn transfer(
    file: *mut shim::File,
    address: u64,
    len: usize,
    position: u64,
    method: impl FnOnce(&Transfer<'_>) -> Result<usize, Errno>,
) -> isize {
    let caller = CurrentCaller(file);
    let done = UserSlice::new(&caller, address, len)
        .and_then(|user| method(&Transfer::new(&caller, user, position)));
    match done {
        Ok(done) => done.min(len) as isize,
        Err(errno) => negative(errno) as isize,
    }
}

/// Gives the module parameters `NAME_OPTION` of the device `name` to `set`.
///
/// # Errors
/// `EINVAL`, having logged why: a parameter that main.c lacks, or a bad value.
pub fn options(
    name: &str,
    specs: &[OptionSpec],
    mut set: impl FnMut(&str, &str) -> Result<(), OptionError>,
) -> Result<(), Errno> {
    for spec in specs {
        let mut known = false;
        // SAFETY: two slices and a place for a bool.
        let value = unsafe {
            let (device, option) = (name.as_bytes(), spec.name.as_bytes());
            shim::devmap_option(
                device.as_ptr(),
                device.len(),
                option.as_ptr(),
                option.len(),
                &raw mut known,
            )
        };
        let refuse = |why: core::fmt::Arguments<'_>| {
            log::error(format_args!("{name}_{}: {why}", spec.name));
            Errno::EINVAL
        };
        if !known {
            return Err(refuse(format_args!("not in DEVMAP_OPTIONS of the module's main.c")));
        }
        if value.is_null() {
            continue;
        }
        // SAFETY: not null, so it is a parameter's text, which the kernel ends with
        // a zero byte and keeps as long as the module.
        let value = unsafe { CStr::from_ptr(value) };
        let value = value.to_str().map_err(|_| refuse(format_args!("not UTF-8")))?;
        set(spec.name, value).map_err(|error| refuse(format_args!("{value}: {error}")))?;
    }
    Ok(())
}

/// Adds a device, which appears as `/dev/MODULE-NAME` when all have been added.
///
/// # Errors
/// `EINVAL` for one that is no character device; `ENOMEM`.
pub fn add<D: Device<Kernel>>(name: &str, device: D) -> Result<(), Errno> {
    let metadata = device.metadata();
    let (major, minor) = match metadata.kind {
        Kind::Character(Number::Fixed { major, minor }) => (i64::from(major), minor),
        Kind::Character(Number::Dynamic) => (-1, 0),
        Kind::Regular { .. } => {
            log::error(format_args!("{name}: a module makes character devices only"));
            return Err(Errno::EINVAL);
        }
    };
    let device = KBox::new(device)?.into_raw();
    // SAFETY: the table and the device are of one type, and C keeps the contract.
    let added = check(unsafe {
        shim::devmap_add(
            const { &Methods::<D>::TABLE },
            device.cast(),
            name.as_ptr(),
            name.len(),
            major,
            minor,
            metadata.mode,
            metadata.stream,
        )
    });
    added.inspect_err(|_| {
        // SAFETY: given out above, and C did not take it.
        drop(unsafe { KBox::from_raw(device) });
    })
}
