//! The gRPC edge: decode, call the use case, encode. Decides nothing.

pub mod admin_service;
mod calls;
pub mod convert;
mod deadline;
pub mod direct;
pub mod keep_alive;
pub mod of_peer;
pub mod session_service;
pub mod status;
pub mod watch;
pub mod watch_service;
pub mod work;

use tonic::{Request, Status};

use crate::{
    app::Caller,
    domain::{access::TokenHash, reject::Rejection},
};

/// Who calls, from what the listener noted about the connection and what the
/// call shows itself.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let token = token(request).map_err(status::status)?;
    request
        .extensions()
        .get::<std::sync::Arc<crate::transport::peer::Peer>>()
        .map(|peer| peer.caller(token))
        .ok_or_else(|| {
            status::status(Rejection::new(
                crate::domain::reject::Reason::NotPermitted,
                "the connection has no identity",
            ))
        })
}

/// The call's bearer token, hashed: nothing behind this needs it in clear.
fn token<T>(request: &Request<T>) -> Result<Option<TokenHash>, Rejection> {
    let mut shown = request.metadata().get_all("authorization").iter();
    let Some(value) = shown.next() else { return Ok(None) };
    let problem = "the authorization of the call must be one Bearer TOKEN";
    let refused = || Rejection::new(crate::domain::reject::Reason::NotPermitted, problem);
    let text = value.to_str().map_err(|_| refused())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(refused)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || shown.next().is_some() {
        return Err(refused());
    }
    Ok(Some(TokenHash::of(token)))
}
