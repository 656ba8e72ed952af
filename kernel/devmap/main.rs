//! The module devmap: the drivers of crates/devices, unchanged. Its C half is main.c.

#![no_std]

devmap_kernel::module! {
    devmap_devices::hello => Hello,
    devmap_devices::demo => Demo<devmap_kernel::Kernel>,
    devmap_devices::mem => Mem<devmap_kernel::Kernel>,
    devmap_devices::zero => Zero<devmap_kernel::Kernel>,
    devmap_devices::events => Events<devmap_kernel::Kernel>,
    devmap_devices::pattern => Pattern,
}
