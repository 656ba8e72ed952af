//! The home for unmodified programs.

#![forbid(unsafe_code)]
