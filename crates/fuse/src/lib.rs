//! The FUSE kernel protocol, as far as a device needs it.

#![forbid(unsafe_code)]
