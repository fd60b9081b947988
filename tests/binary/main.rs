//! The real binary as a process: signals, listeners, identities, memory, secrets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod audit;
#[path = "../sources/backend.rs"]
#[allow(dead_code, reason = "shared with the tests of sources")]
mod backend;
mod catalog;
#[path = "../it/certificates.rs"]
#[allow(dead_code, reason = "shared with the tests of TLS")]
mod certificates;
mod deploy;
mod harden;
mod hostile;
mod listeners;
mod memory;
mod otlp;
mod overload;
mod prometheus;
mod restart;
mod runbooks;
mod secrets;
mod signals;
mod snapshot;
mod stock;
mod support;
mod telemetry;
mod time;
mod top;
mod upgrade;
#[path = "../sources/vault_server.rs"]
#[allow(dead_code, reason = "shared with the tests of sources")]
mod vault_server;
