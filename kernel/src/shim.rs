//! The C half (shim.c) as Rust sees it: the same names as shim.h, in the same order.
//! The two files change together. What the functions mean stands there.
//!
//! What does not live here: any use of them.

use core::ffi::c_void;

/// A kernel structure that only C looks into.
macro_rules! opaque {
    ($($name:ident, $text:literal;)*) => {
        $(#[doc = $text]
        #[repr(C)]
        pub struct $name {
            _private: [u8; 0],
            /// Not `Send`, not `Sync`: C says who may use it and when.
            _marker: core::marker::PhantomData<*mut u8>,
        })*
    };
}

opaque! {
    File, "`struct file`.";
    Page, "`struct page`.";
    PollTableStruct, "`struct poll_table_struct`.";
    VmArea, "`struct vm_area_struct`.";
    OpenFile, "`struct devmap_open`: one open file.";
}

/// `DEVMAP_READ` and its siblings.
pub mod flag {
    /// `FMODE_READ`.
    pub const READ: u32 = 1;
    /// `FMODE_WRITE`.
    pub const WRITE: u32 = 2;
    /// `O_NONBLOCK`.
    pub const NONBLOCK: u32 = 4;
    /// `O_APPEND`.
    pub const APPEND: u32 = 8;
}

/// `DEVMAP_AREA_READ` and its siblings.
pub mod area {
    /// `PROT_READ`.
    pub const READ: u32 = 1;
    /// `PROT_WRITE`.
    pub const WRITE: u32 = 2;
    /// `PROT_EXEC`.
    pub const EXEC: u32 = 4;
    /// `MAP_SHARED`.
    pub const SHARED: u32 = 8;
}

/// `DEVMAP_IO` and its siblings: area flags.
pub mod area_flag {
    /// `VM_IO`.
    pub const IO: u32 = 1;
    /// `VM_DONTEXPAND`.
    pub const DONTEXPAND: u32 = 2;
    /// `VM_DONTDUMP`.
    pub const DONTDUMP: u32 = 4;
}

/// `struct devmap_operations`: one device's methods.
#[repr(C)]
#[allow(missing_docs, reason = "shim.h documents each")]
pub struct Operations {
    pub open: unsafe extern "C" fn(*mut c_void, u32, u32, *mut *mut c_void) -> i32,
    pub release: unsafe extern "C" fn(*mut c_void, *mut c_void),
    pub read: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut File, u64, usize, u64) -> isize,
    pub write: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut File, u64, usize, u64) -> isize,
    pub llseek: unsafe extern "C" fn(*mut c_void, *mut c_void, u32, i64, u64) -> i64,
    pub ioctl: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut File, u32, u64) -> i64,
    pub poll:
        unsafe extern "C" fn(*mut c_void, *mut c_void, *mut File, *mut PollTableStruct) -> u32,
    #[allow(clippy::type_complexity, reason = "a C signature")]
    pub mmap: unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        *mut OpenFile,
        *mut VmArea,
        u64,
        u64,
        u32,
        *mut *mut c_void,
        *mut bool,
    ) -> i32,
    pub fault: unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        *mut OpenFile,
        *mut c_void,
        u64,
        bool,
        *mut *mut Page,
    ) -> i32,
    pub drop: unsafe extern "C" fn(*mut c_void),
}

#[allow(missing_docs, reason = "shim.h documents each")]
unsafe extern "C" {
    pub fn devmap_option(
        device: *const u8,
        device_len: usize,
        option: *const u8,
        option_len: usize,
        known: *mut bool,
    ) -> *const core::ffi::c_char;
    pub fn devmap_add(
        operations: *const Operations,
        device: *mut c_void,
        name: *const u8,
        name_len: usize,
        major: i64,
        minor: u32,
        mode: u16,
        stream: bool,
    ) -> i32;
    pub fn devmap_log(text: *const u8, len: usize);
    pub fn devmap_refused(open: *mut OpenFile, text: *const u8, len: usize);
    pub fn devmap_panic(text: *const u8, len: usize);

    pub fn devmap_alloc(bytes: usize) -> *mut c_void;
    pub fn devmap_free(address: *mut c_void);
    pub fn devmap_pages_alloc(pages: u64, contiguous: bool) -> *mut c_void;
    pub fn devmap_pages_free(address: *mut c_void, pages: u64, contiguous: bool);
    pub fn devmap_pages_get(address: *mut c_void, page: u64, contiguous: bool) -> *mut Page;
    pub fn devmap_pages_mapped(address: *mut c_void, pages: u64, contiguous: bool) -> bool;
    pub fn devmap_copy(to: *mut c_void, from: *const c_void, len: usize);
    pub safe fn devmap_page_size() -> u32;
    pub safe fn devmap_now() -> u64;

    pub fn devmap_filled_alloc(page: *mut *mut Page) -> *mut c_void;
    pub fn devmap_filled_free(page: *mut Page);
    pub fn devmap_filled_get(open: *mut OpenFile, index: u64) -> *mut Page;
    pub fn devmap_filled_add(open: *mut OpenFile, index: u64, page: *mut *mut Page) -> i32;

    pub safe fn devmap_mutex_new() -> *mut c_void;
    pub fn devmap_mutex_lock(mutex: *mut c_void);
    pub fn devmap_mutex_unlock(mutex: *mut c_void);
    pub safe fn devmap_queue_new() -> *mut c_void;
    pub fn devmap_queue_wake(queue: *mut c_void);
    pub fn devmap_queue_wait(
        queue: *mut c_void,
        ready: unsafe extern "C" fn(*mut c_void) -> bool,
        data: *mut c_void,
    ) -> bool;
    pub fn devmap_queue_poll(queue: *mut c_void, file: *mut File, table: *mut PollTableStruct);

    pub fn devmap_file_flags(file: *mut File) -> u32;
    pub fn devmap_copy_from_user(to: *mut c_void, from: u64, len: usize) -> bool;
    pub fn devmap_copy_to_user(to: u64, from: *const c_void, len: usize) -> bool;

    pub fn devmap_area_flags(vma: *mut VmArea, flags: u32);
    pub fn devmap_area_remap(vma: *mut VmArea, address: *mut c_void) -> i32;
    pub fn devmap_area_insert(
        vma: *mut VmArea,
        at: u64,
        address: *mut c_void,
        first_page: u64,
        pages: u64,
        contiguous: bool,
    ) -> i32;
}
