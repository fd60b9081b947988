//! The gRPC edge: decode, call the use case, encode. Decides nothing.

pub mod admin_service;
pub mod convert;
mod deadline;
pub mod keep_alive;
pub mod session_service;
pub mod status;
pub mod watch;
pub mod watch_service;

use tonic::{Request, Status};

use crate::{app::Caller, domain::reject::Rejection};

/// Who calls, from what the listener noted about the connection.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<crate::transport::peer::Peer>()
        .map(crate::transport::peer::Peer::caller)
        .ok_or_else(|| {
            status::status(Rejection::new(
                crate::domain::reject::Reason::NotPermitted,
                "the connection has no identity",
            ))
        })
}
