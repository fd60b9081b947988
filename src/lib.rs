//! tenantd: the multi-tenant runtime for AI-agent fleets, as a sidecar.
//!
//! Dependencies point one way: `domain` <- `config` <- `app` <- { `store`,
//! `state`, `source`, `audit`, `grpc`, `transport`, `telemetry` } <- `server` <- `cli`.
//! `tests/architecture.rs` fails when a module imports outward.
//! ARCHITECTURE.md has the code map.

pub mod address;
pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod domain;
pub mod grpc;
pub mod server;
pub mod source;
pub mod state;
pub mod store;
pub mod telemetry;
pub mod transport;
pub mod wire;
