//! Drivers that need nothing but core.

#![forbid(unsafe_code)]
#![no_std]
