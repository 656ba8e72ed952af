//! The kernel home: a devmap driver as a Linux kernel module.
//!
//! The Rust half. It adapts the `Device` trait to the functions that shim.c calls,
//! and gives drivers the platform they ask for. Together with the C half (shim.c) it
//! is built by Kbuild, for kernels without CONFIG_RUST; docs/kernel.md is the guide.
//!
//! | module | in the kernel |
//! |---|---|
//! | [`device`] | `struct file_operations` of one device type |
//! | [`area`] | `->mmap` and `vm_ops` |
//! | [`memory`] | `alloc_pages`, `vmalloc` |
//! | [`platform`] | `struct mutex`, `wait_queue_head_t`, `ktime_get` |
//! | [`alloc`] | `kmalloc` |
//! | [`log`] | `printk`, `BUG` |
//! | [`shim`] | shim.h |
//!
//! What does not live here: any kernel structure's layout (shim.c), and any driver.

#![no_std]
#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod alloc;
pub mod area;
pub mod device;
pub mod log;
pub mod memory;
pub mod platform;
pub mod shim;

pub use devmap_driver as driver;
pub use platform::Kernel;

/// Makes a module of devices: each is a path to a module with the names `NAME`,
/// `OPTIONS`, `Options` beside the device type (as in `devmap_devices`), and the type.
///
/// ```ignore
/// devmap_kernel::module! {
///     devmap_devices::hello => Hello,
///     devmap_devices::demo => Demo<devmap_kernel::Kernel>,
/// }
/// ```
#[macro_export]
macro_rules! module {
    ($($first:ident $(:: $rest:ident)* => $name:ident $(<$platform:ty>)?,)*) => {
        /// Makes every device. Called once, when the module is inserted.
        #[unsafe(no_mangle)]
        extern "C" fn devmap_init() -> i32 {
            fn init() -> Result<(), $crate::driver::Errno> {
                $({
                    use $first $(:: $rest)* as device;
                    let mut options = device::Options::default();
                    $crate::device::options(device::NAME, device::OPTIONS, |key, value| {
                        options.set(key, value)
                    })?;
                    let made = device::$name $(::<$platform>)?::new(&$crate::Kernel, &options)?;
                    $crate::device::add(device::NAME, made)?;
                })*
                Ok(())
            }
            match init() {
                Ok(()) => 0,
                Err(errno) => -errno.raw(),
            }
        }
    };
}
