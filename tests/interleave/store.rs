//! The shipped files of it, over shuttle's locks, tables and atomics.

#[path = "../../src/store/ended.rs"]
pub mod ended;
#[path = "../../src/store/memory.rs"]
pub mod memory;
