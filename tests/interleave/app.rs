//! The shipped files of it, over shuttle's locks, tables and atomics.

pub use shuttle::sync::atomic;
pub use tenantd::app::ports;

#[path = "../../src/app/waiting.rs"]
pub mod waiting;
#[path = "../../src/app/watchers.rs"]
pub mod watchers;
