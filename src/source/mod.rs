//! Where config comes from: the file, what lies beside it, and the stores of
//! credentials.

mod build;
pub mod cache;
pub mod chain;
pub mod credentials;
pub mod file;
pub mod grpc;
pub mod http;
mod reference;
mod shelf;
pub mod sql;

pub use build::{Sources, build, database};
