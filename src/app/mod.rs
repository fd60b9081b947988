//! The use cases.
pub mod events;
pub mod ports;
pub mod workers;
