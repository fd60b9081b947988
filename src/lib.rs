//! tenantd: the multi-tenant runtime for AI-agent fleets, as a sidecar.
//!
//! Dependencies point one way: `domain` <- `app` <- { `store`, `source`,
//! `grpc`, `telemetry`, `transport` } <- `server` <- `cli`. `tests/architecture.rs`
//! fails when a module imports outward. ARCHITECTURE.md has the code map.

pub mod app;
pub mod domain;
pub mod store;
pub mod transport;
pub mod wire;
