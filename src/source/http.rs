//! Entries from an HTTP(S) endpoint of the operator's.

use std::time::Duration;

use async_trait::async_trait;
use headers::{CacheControl, HeaderMapExt as _};
use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH},
    redirect,
};
use zeroize::Zeroize as _;

use super::reference;
use crate::{
    app::ports::{Fetched, Freshness, TenantSource},
    config::source::Tls,
    domain::{
        provider::{CredentialRef, Secret},
        tenant::TenantId,
    },
};

/// Most redirects followed.
const MAX_REDIRECTS: usize = 3;
/// Largest token.
const MAX_TOKEN: usize = 64 * 1024;

/// The source.
pub struct HttpSource {
    client: reqwest::Client,
    /// With `{tenant}` in it.
    url: Secret,
    bearer: Option<CredentialRef>,
    max_bytes: usize,
}

impl HttpSource {
    /// Asks `url`. Certificates are read now, the bearer token at each question.
    ///
    /// # Errors
    /// Files that cannot be read or are no certificates.
    pub fn new(
        url: Secret,
        bearer: Option<CredentialRef>,
        tls: &Tls,
        max_bytes: usize,
    ) -> Result<Self, String> {
        // No timeout of its own: the cache gives a question up, and with it the
        // connection.
        let mut builder = reqwest::Client::builder()
            .tls_backend_rustls()
            .no_proxy()
            .user_agent(concat!("tenantd/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::custom(follow));
        if let Some(path) = &tls.ca_file {
            let pem = read(path)?;
            let trusted = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|_| format!("{} holds no PEM certificates", path.display()))?;
            builder = builder.tls_certs_only(trusted);
        } else if url.expose().starts_with("http://") {
            // Without TLS the system's certificates, which may be missing in a
            // container, are not looked for.
            builder = builder.tls_certs_only(Vec::new());
        }
        if let Some((cert, key)) = &tls.identity {
            let mut pem = read(cert)?;
            pem.push(b'\n');
            pem.extend(read(key)?);
            let identity = reqwest::Identity::from_pem(&pem);
            pem.zeroize();
            builder = builder.identity(identity.map_err(|_| {
                let (cert, key) = (cert.display(), key.display());
                format!("{cert} and {key} are no PEM certificate with its key")
            })?);
        }
        let client = builder.build().map_err(|error| {
            format!("TLS cannot be used; is a ca_file given, or are the system's certificates installed? {error}")
        })?;
        Ok(Self { client, url, bearer, max_bytes })
    }

    async fn body(&self, mut answer: reqwest::Response) -> Result<Vec<u8>, String> {
        let too_large = || format!("the answer is larger than {} bytes", self.max_bytes);
        if answer.content_length().is_some_and(|len| len > self.max_bytes as u64) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(said)? {
            if body.len() + chunk.len() > self.max_bytes {
                body.zeroize();
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// A token must not go where it was not meant for: to another host, or in clear.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let Some(from) = attempt.previous().last() else { return attempt.stop() };
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("too many redirects");
    }
    let same = from.scheme() == attempt.url().scheme()
        && from.host_str() == attempt.url().host_str()
        && from.port_or_known_default() == attempt.url().port_or_known_default();
    if same { attempt.follow() } else { attempt.error("redirected to another host") }
}

/// The chain of causes, without the address: it may hold a token.
fn said(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// RFC 9111: max-age less Age; no-cache asks each time, no-store and
/// must-revalidate are never served stale. RFC 5861: stale-if-error.
fn freshness(headers: &HeaderMap) -> Freshness {
    let Some(control) = headers.typed_get::<CacheControl>() else { return Freshness::default() };
    let age = headers.typed_get::<headers::Age>().map(|age| age.as_secs()).unwrap_or_default();
    let zero = Some(Duration::ZERO);
    let stale_if_error = headers
        .get_all(reqwest::header::CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|directive| directive.trim().strip_prefix("stale-if-error="))
        .find_map(|seconds| seconds.trim_matches('"').parse().ok())
        .map(Duration::from_secs);
    Freshness {
        ttl: if control.no_store() || control.no_cache() {
            zero
        } else {
            control.max_age().map(|max| max.saturating_sub(Duration::from_secs(age)))
        },
        stale_for: if control.no_store() || control.must_revalidate() {
            zero
        } else {
            stale_if_error
        },
    }
}

#[async_trait]
impl TenantSource for HttpSource {
    async fn fetch(&self, tenant: &TenantId, revision: Option<&str>) -> Result<Fetched, String> {
        // A tenant id has no character that an address gives a meaning to.
        let mut url = self.url.expose().replace("{tenant}", tenant.as_str());
        let parsed = reqwest::Url::parse(&url).map_err(|_| "the address is not valid".to_owned());
        url.zeroize();
        let mut question = self.client.get(parsed?);
        if let Some(reference) = &self.bearer {
            let token = match reference {
                CredentialRef::Literal(secret) => secret.clone(),
                CredentialRef::Env(name) => reference::env(name)?,
                CredentialRef::File(path) => reference::file(path, MAX_TOKEN).await?.0,
                CredentialRef::Vault { .. } => {
                    return Err("the bearer token cannot be a vault: reference".to_owned());
                }
            };
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_| "the bearer token has characters that no header may".to_owned())?;
            value.set_sensitive(true);
            question = question.header(AUTHORIZATION, value);
        }
        if let Some(revision) = revision {
            question = question.header(IF_NONE_MATCH, revision);
        }
        let answer = question.send().await.map_err(said)?;
        let freshness = freshness(answer.headers());
        match answer.status() {
            StatusCode::OK => {
                let etag = answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
                let revision = etag.map(str::to_owned);
                let mut body = self.body(answer).await?;
                let value = serde_json::from_slice(&body);
                body.zeroize();
                let value = value.map_err(|error| {
                    format!(
                        "the answer is not JSON at line {}, column {}",
                        error.line(),
                        error.column()
                    )
                })?;
                Ok(Fetched::Entry { value, revision, freshness })
            }
            StatusCode::NOT_MODIFIED if revision.is_some() => Ok(Fetched::Unchanged { freshness }),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Fetched::Missing),
            other => Err(format!("answered with status {}", other.as_u16())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(control: &'static str, age: &'static str) -> (Option<u64>, Option<u64>) {
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", HeaderValue::from_static(control));
        headers.insert("age", HeaderValue::from_static(age));
        let said = freshness(&headers);
        (said.ttl.map(|ttl| ttl.as_secs()), said.stale_for.map(|stale| stale.as_secs()))
    }

    #[test]
    fn cache_control_decides_where_it_says_something() {
        assert_eq!(of("max-age=60", "0"), (Some(60), None));
        assert_eq!(of("max-age=60", "45"), (Some(15), None));
        assert_eq!(of("max-age=60", "99"), (Some(0), None));
        assert_eq!(of("max-age=60, must-revalidate", "0"), (Some(60), Some(0)));
        assert_eq!(of("max-age=60, stale-if-error=600", "0"), (Some(60), Some(600)));
        assert_eq!(of("no-cache", "0"), (Some(0), None));
        assert_eq!(of("no-store", "0"), (Some(0), Some(0)));
        assert_eq!(of("private", "0"), (None, None));
    }
}
