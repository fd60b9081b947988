//! Where tenant config comes from. `file` is the embedded default.

pub mod file;
