//! The real binary as a process: signals, listeners, identities, memory, secrets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod listeners;
mod memory;
mod secrets;
mod signals;
mod stock;
mod support;
