//! Entries from a `tenantd.v1.TenantConfigService` of the operator's.

use std::{panic::AssertUnwindSafe, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use prost_types::{Struct, Value, value::Kind};
use tokio::sync::mpsc;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::reference;
use crate::{
    app::ports::{Changed, Fetched, Freshness, TenantSource},
    config::source::Tls,
    domain::{provider::CredentialRef, tenant::TenantId},
    wire::v1::{self, tenant_config_service_client::TenantConfigServiceClient},
};

/// How soon a broken watch is tried again, at first and at most.
const RETRY_WATCH: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Largest token.
const MAX_TOKEN: usize = 64 * 1024;
/// A service that answers no ping for this long is gone.
const PING: Duration = Duration::from_secs(20);

/// The source.
pub struct GrpcSource {
    client: TenantConfigServiceClient<Channel>,
    bearer: Option<CredentialRef>,
    name: String,
}

impl GrpcSource {
    /// Asks the service at `url`: `http://`, `https://` or `unix:PATH`. No
    /// connection is made yet. Certificates are read now, the token at each
    /// question.
    ///
    /// # Errors
    /// What is wrong with the address or the certificates.
    pub fn new(
        name: String,
        url: &str,
        bearer: Option<CredentialRef>,
        tls: &Tls,
        timeout: Duration,
        max_bytes: usize,
    ) -> Result<Self, String> {
        let wrong = |_| "the address is not valid".to_owned();
        let endpoint = |url: &str| {
            Endpoint::from_shared(url.to_owned()).map_err(wrong).map(|endpoint| {
                endpoint
                    .connect_timeout(timeout)
                    .http2_keep_alive_interval(PING)
                    .keep_alive_timeout(PING)
                    .keep_alive_while_idle(true)
            })
        };
        let channel = if let Some(path) = url.strip_prefix("unix:") {
            let path = std::path::PathBuf::from(path);
            // The path is no authority that HTTP/2 knows: stock servers refuse it.
            let connect = tower::service_fn(move |_| {
                let path = path.clone();
                async move {
                    tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new)
                }
            });
            endpoint("http://localhost")?.connect_with_connector_lazy(connect)
        } else if url.starts_with("https://") {
            endpoint(url)?
                .tls_config(tls_of(tls)?)
                .map_err(|_| "the certificates cannot be used".to_owned())?
                .connect_lazy()
        } else {
            endpoint(url)?.connect_lazy()
        };
        let client = TenantConfigServiceClient::new(channel).max_decoding_message_size(max_bytes);
        Ok(Self { client, bearer, name })
    }

    async fn request<T>(&self, message: T) -> Result<Request<T>, String> {
        let mut request = Request::new(message);
        let Some(reference) = &self.bearer else { return Ok(request) };
        let token = match reference {
            CredentialRef::Literal(secret) => secret.clone(),
            CredentialRef::Env(name) => reference::env(name)?,
            CredentialRef::File(path) => reference::file(path, MAX_TOKEN).await?.0,
            CredentialRef::Vault { .. } => {
                return Err("the bearer token cannot be a vault: reference".to_owned());
            }
        };
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.expose())
            .parse()
            .map_err(|_| "the bearer token has characters that no header may".to_owned())?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }

    async fn listen(&self, changed: &mpsc::Sender<Changed>) -> Result<(), Status> {
        let request =
            self.request(v1::WatchTenantsRequest {}).await.map_err(Status::unauthenticated)?;
        let mut stream = self.client.clone().watch_tenants(request).await?.into_inner();
        // What changed before the stream was there is not known.
        let _ = changed.send(Changed::All).await;
        while let Some(told) = stream.message().await? {
            if told.tenants.is_empty() {
                let _ = changed.send(Changed::All).await;
            }
            for tenant in told.tenants {
                if let Ok(tenant) = TenantId::parse(&tenant) {
                    let _ = changed.send(Changed::Tenant(tenant)).await;
                }
            }
        }
        Ok(())
    }
}

/// What a call to the service comes to. tonic panics where the details of a status
/// are not base64 (0.14.9, `Status::from_header_map`): a service that sends such
/// ones has failed, and its watch goes on all the same.
async fn survive<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = AssertUnwindSafe(call).catch_unwind().await;
    answer.unwrap_or_else(|_| Err(Status::internal("its status cannot be read")))
}

fn tls_of(tls: &Tls) -> Result<ClientTlsConfig, String> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let mut config = ClientTlsConfig::new();
    config = match &tls.ca_file {
        Some(path) => config.ca_certificate(Certificate::from_pem(read(path)?)),
        None => config.with_native_roots(),
    };
    if let Some((cert, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(config)
}

#[async_trait]
impl TenantSource for GrpcSource {
    async fn fetch(&self, tenant: &TenantId, revision: Option<&str>) -> Result<Fetched, String> {
        let asked = v1::ResolveTenantRequest {
            tenant: tenant.to_string(),
            revision: revision.unwrap_or_default().to_owned(),
        };
        let request = self.request(asked).await?;
        let answer = match survive(self.client.clone().resolve_tenant(request)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(Fetched::Missing),
            // Its message is the operator's own code's, and may quote anything.
            Err(status) => return Err(format!("answered {:?}", status.code())),
        };
        let ttl = answer.ttl.and_then(|ttl| Duration::try_from(ttl).ok());
        let freshness = Freshness { ttl, stale_for: None };
        if answer.unchanged && revision.is_some() {
            return Ok(Fetched::Unchanged { freshness });
        }
        let Some(config) = answer.config else { return Ok(Fetched::Missing) };
        let revision = Some(answer.revision).filter(|revision| !revision.is_empty());
        Ok(Fetched::Entry { value: object(config), revision, freshness })
    }

    async fn watch(&self, changed: &mpsc::Sender<Changed>) {
        let (mut wait, longest) = RETRY_WATCH;
        loop {
            let heard = survive(self.listen(changed)).await;
            let _ = changed.send(Changed::Lost).await;
            match heard {
                Err(status) if status.code() == Code::Unimplemented => return,
                Err(status) => {
                    let code = status.code();
                    tracing::debug!(source = %self.name, ?code, "the watch of the source broke");
                    wait = (wait * 2).min(longest);
                }
                Ok(()) => wait = RETRY_WATCH.0,
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed.closed() => return,
            }
        }
    }
}

fn object(of: Struct) -> serde_json::Value {
    serde_json::Value::Object(of.fields.into_iter().map(|(key, v)| (key, json(v))).collect())
}

/// A Struct has only doubles; a whole one is meant as a whole number.
fn json(value: Value) -> serde_json::Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(b)) => b.into(),
        #[allow(clippy::cast_possible_truncation, reason = "whole and within the exact range")]
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() <= EXACT => (n as i64).into(),
        Some(Kind::NumberValue(n)) => n.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
        Some(Kind::StructValue(inner)) => object(inner),
    }
}
