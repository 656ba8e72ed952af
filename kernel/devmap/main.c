// SPDX-License-Identifier: MIT OR Apache-2.0
/* The module devmap: the drivers of crates/devices. Its Rust half is main.rs. */

/* Each option of each device: a parameter DEVICE_OPTION. */
#define DEVMAP_OPTIONS(parameter) \
	parameter(mem, size)      \
	parameter(pattern, size)

#include "../shim.c"

MODULE_DESCRIPTION("devices written in safe Rust, the same as in user space");
