//! What noise on the machine cannot move: write calls, allocations and bytes. Each
//! bound is a little above what was measured; ratios of time are for `make bench`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may panic, and shows its figures"
)]

mod memory;
mod spans;
#[allow(dead_code, reason = "shared with the tests of the binary")]
#[path = "../binary/support.rs"]
mod support;
mod writes;
