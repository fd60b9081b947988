//! The decisions, and the vocabulary that they are made in.
//!
//! Plain synchronous functions over plain structs: no I/O, no locks, no tasks,
//! no clock (`now` is an argument), no wire types. Everything that touches the
//! world is an adapter around this module; `tests/architecture.rs` fails when
//! something here reaches outward.
//!
//! Invariants, each held by a test:
//! - a tenant never has more live sessions than its cap when one is admitted;
//! - a session that took a slot has exactly one end event;
//! - an outcome counts only for the breaker period that admitted the session;
//! - nothing is decided, stored or tagged for a malformed tenant id.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod access;
pub mod admission;
pub mod audit;
pub mod breaker;
pub mod budget;
pub mod event;
pub mod event_log;
pub mod hash;
pub mod limits;
pub mod provider;
pub mod record;
pub mod reject;
pub mod session;
pub mod tenant;
pub mod time;
pub mod validity;
