//! The measurements behind `devmap bench`.

#![forbid(unsafe_code)]
