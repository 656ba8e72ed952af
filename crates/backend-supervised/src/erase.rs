//! Devices of different types in one table: [`Device`] without its associated type.

use std::any::Any;

use devmap_driver::{
    Device, Errno, Fault, Fsync, Ioctl, Metadata, NewArea, NewPage, Open, Plan, PollEvents,
    PollTable, SeekFrom, Store, Supply, Transfer,
};

use parking_lot::RwLock;

use crate::{
    host::{Host, HostMemory, HostWaitQueue},
    sysfs::ClassEntry,
};

/// The per-open state of some device.
pub type AnyFile = Box<dyn Any + Send + Sync>;

/// A [`Device`] of this home whose `File` type is forgotten. Made by [`erase`].
pub trait AnyDevice: Send + Sync {
    /// [`Device::open`].
    ///
    /// # Errors
    /// The device's.
    fn open(&self, open: &Open) -> Result<AnyFile, Errno>;
    /// [`Device::metadata`].
    fn metadata(&self) -> Metadata;
    /// [`Device::class`], with what [`Device::show`] says of its attributes.
    fn class(&self) -> Option<ClassEntry>;
    /// [`Device::mmap`].
    ///
    /// # Errors
    /// The device's.
    fn mmap(&self, file: &AnyFile, area: &NewArea) -> Result<Plan<HostMemory>, Errno>;
    /// The run has forked: from here on there may be threads.
    fn started(&self) {}
    /// The run ends, and nobody has it open: drops the device, unless a method of it does not
    /// return.
    fn end(&self) {}
    /// Whether other runs change its pages too: then `renew` is called when the kernel shall
    /// forget those that this run has. It may wait.
    fn is_shared(&self) -> bool {
        false
    }
    /// See [`AnyDevice::is_shared`].
    fn set_renewal(&self, _renew: Box<dyn Fn() + Send + Sync>) {}
    /// Whether other runs have changed content of a regular file that this run may have in its
    /// page cache. Said once.
    fn take_changed(&self) -> bool {
        false
    }
    /// The last descriptor is closed. The file is dropped when its last map is gone, which
    /// may be now.
    fn closed(&self, _file: &AnyFile) {}
    /// [`Device::fault`].
    ///
    /// # Errors
    /// The device's.
    fn fault(
        &self,
        file: &AnyFile,
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<HostMemory>, Errno>;
    /// [`Device::readahead`]. Left out where a call for each page costs no less.
    ///
    /// # Errors
    /// The device's.
    fn readahead(&self, _file: &AnyFile, _first: u64, _bytes: &mut [u8]) -> Result<usize, Errno> {
        Ok(0)
    }
    /// [`Device::store`].
    fn store(&self) -> Store;
    /// [`Device::write_back`].
    ///
    /// # Errors
    /// The device's.
    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;
    /// [`Device::fsync`].
    ///
    /// # Errors
    /// The device's.
    fn fsync(&self, file: &AnyFile, what: Fsync) -> Result<(), Errno>;
    /// [`Device::truncate`].
    ///
    /// # Errors
    /// The device's.
    fn truncate(&self, size: u64) -> Result<(), Errno>;
    /// [`Device::read`].
    ///
    /// # Errors
    /// The device's.
    fn read(&self, file: &AnyFile, transfer: &Transfer<'_>) -> Result<usize, Errno>;
    /// [`Device::write`].
    ///
    /// # Errors
    /// The device's.
    fn write(&self, file: &AnyFile, transfer: &Transfer<'_>) -> Result<usize, Errno>;
    /// [`Device::llseek`].
    ///
    /// # Errors
    /// The device's.
    fn llseek(&self, file: &AnyFile, to: SeekFrom) -> Result<u64, Errno>;
    /// [`Device::ioctl`].
    ///
    /// # Errors
    /// The device's.
    fn ioctl(&self, file: &AnyFile, call: &Ioctl<'_>) -> Result<u32, Errno>;
    /// [`Device::poll`].
    fn poll(&self, file: &AnyFile, table: &mut dyn PollTable<HostWaitQueue>) -> PollEvents;
}

/// Forgets the type of a device's per-open state.
pub fn erase<D: Device<Host>>(device: D) -> Box<dyn AnyDevice> {
    Box::new(Erased(RwLock::new(Some(device))))
}

/// `None` when it has ended.
struct Erased<D>(RwLock<Option<D>>);

impl<D: Device<Host>> Erased<D> {
    /// `open` below is the only maker of the files that come back here.
    fn file(file: &AnyFile) -> &D::File {
        file.downcast_ref().expect("a file comes back to the device that opened it")
    }

    /// Asks the device, unless it has ended.
    fn ask<T>(&self, ask: impl FnOnce(&D) -> Result<T, Errno>) -> Result<T, Errno> {
        self.0.read().as_ref().map_or(Err(Errno::ENODEV), ask)
    }
}

impl<D: Device<Host>> AnyDevice for Erased<D> {
    fn open(&self, open: &Open) -> Result<AnyFile, Errno> {
        self.ask(|device| Ok(Box::new(device.open(open)?) as AnyFile))
    }

    fn metadata(&self) -> Metadata {
        self.0.read().as_ref().map_or(Metadata::CHARACTER, Device::metadata)
    }

    fn class(&self) -> Option<ClassEntry> {
        let device = self.0.read();
        let device = device.as_ref()?;
        let class = device.class()?;
        let show = |name: &&str| {
            let mut text = String::new();
            // A string takes all that it is given.
            let _ = device.show(name, &mut text);
            ((*name).to_owned(), text)
        };
        let attributes = class.attributes.iter().map(show).collect();
        let node = class.node.map(str::to_owned);
        Some(ClassEntry { name: class.name.to_owned(), node, attributes })
    }

    fn mmap(&self, file: &AnyFile, area: &NewArea) -> Result<Plan<HostMemory>, Errno> {
        self.ask(|device| device.mmap(Self::file(file), area))
    }

    fn fault(
        &self,
        file: &AnyFile,
        fault: &Fault,
        page: &mut dyn NewPage,
    ) -> Result<Supply<HostMemory>, Errno> {
        self.ask(|device| device.fault(Self::file(file), fault, page))
    }

    fn readahead(&self, file: &AnyFile, first: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        self.ask(|device| device.readahead(Self::file(file), first, bytes))
    }

    fn store(&self) -> Store {
        self.0.read().as_ref().map_or(Store::Home, Device::store)
    }

    fn write_back(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.ask(|device| device.write_back(offset, bytes))
    }

    fn fsync(&self, file: &AnyFile, what: Fsync) -> Result<(), Errno> {
        self.ask(|device| device.fsync(Self::file(file), what))
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.ask(|device| device.truncate(size))
    }

    fn read(&self, file: &AnyFile, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.ask(|device| device.read(Self::file(file), transfer))
    }

    fn write(&self, file: &AnyFile, transfer: &Transfer<'_>) -> Result<usize, Errno> {
        self.ask(|device| device.write(Self::file(file), transfer))
    }

    fn llseek(&self, file: &AnyFile, to: SeekFrom) -> Result<u64, Errno> {
        self.ask(|device| device.llseek(Self::file(file), to))
    }

    fn ioctl(&self, file: &AnyFile, call: &Ioctl<'_>) -> Result<u32, Errno> {
        self.ask(|device| device.ioctl(Self::file(file), call))
    }

    fn poll(&self, file: &AnyFile, table: &mut dyn PollTable<HostWaitQueue>) -> PollEvents {
        let gone = PollEvents::ERR.union(PollEvents::HUP);
        self.0.read().as_ref().map_or(gone, |device| device.poll(Self::file(file), table))
    }

    fn end(&self) {
        // Who is still in a method of it may stay there for ever.
        let device = self.0.try_write().and_then(|mut device| device.take());
        drop(device);
    }
}
