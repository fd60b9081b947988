//! The shipped files of it, over shuttle's locks, tables and atomics.

#[path = "../../src/transport/account.rs"]
pub mod account;
#[path = "../../src/transport/crowd.rs"]
pub mod crowd;
