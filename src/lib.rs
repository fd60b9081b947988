//! tenantd: the multi-tenant runtime for AI-agent fleets, as a sidecar.
pub mod app;
pub mod domain;
pub mod store;
pub mod wire;
