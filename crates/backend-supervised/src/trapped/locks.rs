//! `flock` on a device in trapped mode. A lock is of the device, but each open file is a
//! FIFO of its own: so for each device there is one file here, and each open file of the
//! device locks it by a file of its own.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use devmap_driver::{Errno, WaitQueue};
use devmap_sys::memfd;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::descriptors::Descriptor;
use crate::{
    Core,
    host::HostWaitQueue,
    notify::{self, Call},
};

/// The locks of all devices, by their index.
pub(super) struct Locks(Vec<Lock>);

struct Lock {
    file: OwnedFd,
    /// Whoever waits for it.
    free: HostWaitQueue,
}

/// An open file's own file of its device's lock, once it was asked for.
pub(super) type Locker = Mutex<Option<OwnedFd>>;

impl Locks {
    pub(super) fn new(devices: usize) -> io::Result<Locks> {
        let lock =
            |_| Ok(Lock { file: memfd::create("devmap-lock", 1)?, free: HostWaitQueue::default() });
        Ok(Locks((0..devices).map(lock).collect::<io::Result<_>>()?))
    }

    /// Serves `flock(2)`.
    pub(super) fn flock(&self, core: &Arc<Core>, call: &Call<'_>, descriptor: &Descriptor) {
        let operation = call.notification.args[1] as i32;
        let result = self.lock(core, call, descriptor, operation);
        notify::answer(call, result.map(|()| 0));
    }

    fn lock(
        &self,
        core: &Arc<Core>,
        call: &Call<'_>,
        descriptor: &Descriptor,
        operation: i32,
    ) -> Result<(), Errno> {
        if descriptor.file.is_none() {
            return Err(Errno::EBADF);
        }
        let how = match operation & !libc::LOCK_NB {
            libc::LOCK_SH => FlockOperation::NonBlockingLockShared,
            libc::LOCK_EX => FlockOperation::NonBlockingLockExclusive,
            libc::LOCK_UN => FlockOperation::NonBlockingUnlock,
            _ => return Err(Errno::EINVAL),
        };
        let Some(lock) = self.0.get(descriptor.device.index as usize) else {
            return Err(Errno::EBADF);
        };
        let attempt = || {
            let mut locker = descriptor.locker.lock();
            let file = match locker.take() {
                Some(file) => file,
                None => memfd::reopen(lock.file.as_fd(), true).map_err(|_| Errno::EIO)?,
            };
            let done = rustix::fs::flock(&file, how);
            *locker = Some(file);
            done.map_err(|errno| Errno::from_raw(errno.raw_os_error()).unwrap_or(Errno::EIO))
        };
        let waits = operation & libc::LOCK_NB == 0;
        let result = notify::interruptible(core, call, || {
            lock.free.wait(|| match attempt() {
                Err(Errno::EAGAIN) if waits => None,
                other => Some(other),
            })
        });
        // A lock that was given back, or is shared now, is there for others.
        lock.free.wake_all();
        result?
    }

    /// An open file is gone, and its lock with it.
    pub(super) fn close(&self, descriptor: &Descriptor) {
        let locked = descriptor.locker.lock().take().is_some();
        if let (true, Some(lock)) = (locked, self.0.get(descriptor.device.index as usize)) {
            lock.free.wake_all();
        }
    }
}
