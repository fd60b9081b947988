//! Tenants' config from databases, HTTP, gRPC and secret stores: real ones, and
//! what happens when they misbehave.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod backend;
mod certificates;
mod chain;
mod credentials;
mod faults;
mod grpc;
mod http;
mod once;
mod postgres;
mod sqlite;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "shared with the other tests over a socket")]
mod support;
mod vault;
mod vault_server;
mod watcher;

/// Says so, past the harness's capture.
fn skipped(why: &str) {
    use std::io::Write as _;
    let _ = write!(std::io::stderr().lock(), "SKIPPED: {why}");
}
