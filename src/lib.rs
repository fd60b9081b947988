//! tenantd: the multi-tenant runtime for AI-agent fleets, as a sidecar.
pub mod transport;
pub mod wire;
