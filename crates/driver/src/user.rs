//! The caller's memory, as a handle. There is no raw pointer: each access is a copy
//! that is checked and may fail.

use crate::{Errno, OpenFlags};

/// The program whose call is being served.
pub trait Caller {
    /// Copies from the caller's memory (`copy_from_user`).
    ///
    /// # Errors
    /// `EFAULT` unless all bytes could be read.
    fn copy_from(&self, address: u64, into: &mut [u8]) -> Result<(), Errno>;

    /// Copies to the caller's memory (`copy_to_user`).
    ///
    /// # Errors
    /// `EFAULT` unless all bytes could be written; some may have been.
    fn copy_to(&self, address: u64, from: &[u8]) -> Result<(), Errno>;

    /// The flags of the open file now: `O_NONBLOCK` may have changed since it was
    /// opened.
    fn flags(&self) -> OpenFlags;
}

/// A part of the caller's memory: an address and a length, which every copy is
/// checked against.
#[derive(Clone, Copy)]
pub struct UserSlice<'a> {
    caller: &'a dyn Caller,
    address: u64,
    len: usize,
}

impl<'a> UserSlice<'a> {
    /// `len` bytes at `address` of the caller.
    ///
    /// # Errors
    /// `EFAULT` when the end does not fit in the address space.
    pub fn new(caller: &'a dyn Caller, address: u64, len: usize) -> Result<UserSlice<'a>, Errno> {
        address.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        Ok(UserSlice { caller, address, len })
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part `offset..offset + len`.
    ///
    /// # Errors
    /// `EINVAL` when that is not inside.
    pub fn slice(&self, offset: usize, len: usize) -> Result<UserSlice<'a>, Errno> {
        let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
        if end > self.len {
            return Err(Errno::EINVAL);
        }
        Ok(UserSlice { caller: self.caller, address: self.address + offset as u64, len })
    }

    /// Copies the first `into.len()` bytes in (`copy_from_user`).
    ///
    /// # Errors
    /// `EINVAL` when the slice is shorter; `EFAULT` as the caller's memory says.
    pub fn copy_in(&self, into: &mut [u8]) -> Result<(), Errno> {
        let part = self.slice(0, into.len())?;
        self.caller.copy_from(part.address, into)
    }

    /// Copies `from` to the first `from.len()` bytes (`copy_to_user`).
    ///
    /// # Errors
    /// `EINVAL` when the slice is shorter; `EFAULT` as the caller's memory says.
    pub fn copy_out(&self, from: &[u8]) -> Result<(), Errno> {
        let part = self.slice(0, from.len())?;
        self.caller.copy_to(part.address, from)
    }

    /// The first `N` bytes.
    ///
    /// # Errors
    /// As [`UserSlice::copy_in`].
    pub fn array<const N: usize>(&self) -> Result<[u8; N], Errno> {
        let mut bytes = [0; N];
        self.copy_in(&mut bytes)?;
        Ok(bytes)
    }
}
