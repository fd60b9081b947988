//! The sidecar over a real socket, called through generated stubs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod access;
mod admission;
mod bad_input;
mod certificates;
mod drain;
mod leases;
mod publish;
mod redaction;
mod reload;
mod support;
mod tls;
mod watch;
mod work;
