// SPDX-License-Identifier: MIT OR Apache-2.0
/* The module devmap_checks: a driver that tries the kernel home. For tests only. */

#define DEVMAP_OPTIONS(parameter)

#include "../shim.c"

MODULE_DESCRIPTION("a driver that tries the kernel home; for tests only");
