//! A value on the kernel's heap (`kmalloc`): fallible, and nothing more.
//!
//! What does not live here: pages (`memory`).

use core::{marker::PhantomData, ptr::NonNull};

use devmap_driver::Errno;

use crate::shim;

/// Owns one `T`.
///
/// # Invariants
/// The pointer is to an initialised `T` that nobody else frees. For a `T` of size 0
/// it dangles and was never allocated.
pub struct KBox<T>(NonNull<T>, PhantomData<T>);

// SAFETY: by the invariant a KBox<T> is as good as the T itself.
unsafe impl<T: Send> Send for KBox<T> {}
// SAFETY: a shared KBox<T> gives out only &T.
unsafe impl<T: Sync> Sync for KBox<T> {}

impl<T> KBox<T> {
    /// kmalloc aligns every allocation to at least 8 bytes (`ARCH_KMALLOC_MINALIGN`).
    const ALIGNED: () = assert!(align_of::<T>() <= 8);

    /// Moves `value` to the heap.
    ///
    /// # Errors
    /// `ENOMEM`; the value is dropped.
    pub fn new(value: T) -> Result<KBox<T>, Errno> {
        let () = Self::ALIGNED;
        let pointer = if size_of::<T>() == 0 {
            NonNull::dangling()
        } else {
            // SAFETY: any size may be asked for.
            let pointer = unsafe { shim::devmap_alloc(size_of::<T>()) };
            NonNull::new(pointer.cast()).ok_or(Errno::ENOMEM)?
        };
        // SAFETY: the pointer is to size_of::<T>() bytes of our own, aligned as
        // ALIGNED says (or dangling and aligned for a T of size 0).
        unsafe { pointer.write(value) };
        // INVARIANT: just written; only this box knows it.
        Ok(KBox(pointer, PhantomData))
    }

    /// Gives up ownership: [`KBox::from_raw`] takes it back.
    pub fn into_raw(self) -> *mut T {
        let pointer = self.0.as_ptr();
        core::mem::forget(self);
        pointer
    }

    /// Takes back what [`KBox::into_raw`] gave up.
    ///
    /// # Safety
    /// `pointer` came from `into_raw` of the same type, and comes back once.
    pub unsafe fn from_raw(pointer: *mut T) -> KBox<T> {
        // SAFETY: into_raw gave out a NonNull.
        // INVARIANT: by into_raw the value is there and no box owns it.
        KBox(unsafe { NonNull::new_unchecked(pointer) }, PhantomData)
    }
}

impl<T> core::ops::Deref for KBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: by the invariant.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for KBox<T> {
    fn drop(&mut self) {
        // SAFETY: by the invariant the value is there, and this is its end.
        unsafe { self.0.drop_in_place() };
        if size_of::<T>() != 0 {
            // SAFETY: new() allocated it, and nobody else frees it.
            unsafe { shim::devmap_free(self.0.as_ptr().cast()) };
        }
    }
}
