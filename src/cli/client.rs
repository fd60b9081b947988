//! Calls to a running sidecar.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use crate::address::Address;

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error(
    "no sidecar answers at {address}: {problem}\nstart one with `tenantd serve`, or set TENANTD_ADDRESS or --address to where it listens"
)]
pub struct Unreachable {
    address: Address,
    problem: String,
}

/// The address given, or the default rule's.
///
/// # Errors
/// When `TENANTD_ADDRESS` is no address.
pub fn address(given: Option<Address>) -> anyhow::Result<Address> {
    let uid = rustix::process::getuid().as_raw();
    match given {
        Some(address) => Ok(address),
        None => Ok(Address::resolve(|name| std::env::var(name).ok(), uid)?),
    }
}

/// Connects.
///
/// # Errors
/// [`Unreachable`].
pub async fn connect(address: &Address) -> anyhow::Result<Channel> {
    let connected = match address {
        Address::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
            });
            Endpoint::from_static("http://localhost")
                .connect_timeout(Duration::from_secs(2))
                .connect_with_connector(connector)
                .await
        }
        Address::Tcp(place) => {
            Endpoint::from_shared(format!("http://{place}"))?
                .connect_timeout(Duration::from_secs(2))
                .connect()
                .await
        }
    };
    connected.map_err(|error| {
        let mut problem: &dyn std::error::Error = &error;
        while let Some(source) = problem.source() {
            problem = source;
        }
        Unreachable { address: address.clone(), problem: problem.to_string() }.into()
    })
}

/// A refusal in words: reason, message, when to come back.
#[must_use]
pub fn refused(status: &Status) -> anyhow::Error {
    let details = status.get_error_details();
    let reason = details.error_info().map_or("ERROR", |info| info.reason.as_str());
    let after = details.retry_info().and_then(|info| info.retry_delay);
    let after = after.map(|after| format!(" (retry after {after:?})")).unwrap_or_default();
    anyhow::anyhow!("refused: {reason}: {}{after}", super::text::escape(status.message()))
}
