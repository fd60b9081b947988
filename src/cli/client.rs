//! Calls to a running sidecar.

use std::{fs, io::Read as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt as _;
use zeroize::Zeroizing;

use crate::address::Address;

/// Largest token or PEM file.
const MAX_FILE: u64 = 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("no sidecar answers at {address}: {problem}\n{advice}")]
pub struct Unreachable {
    address: Address,
    problem: String,
    advice: &'static str,
}

/// Somebody answered the connection and closed it: a sidecar at a bound says which.
#[derive(Debug, thiserror::Error)]
#[error("the sidecar does not go on with this connection: {0}")]
pub struct Closed(String);

/// Which sidecar to call, and what to show it. A token is in no argument: every
/// user of the machine can read those.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// Sidecar to call: unix:PATH, http://HOST:PORT or https://HOST:PORT [env: TENANTD_ADDRESS] [default: the default socket]
    // The environment is read by the rule of `Target`, for which an empty
    // variable is none.
    #[arg(long, global = true, value_name = "ADDR")]
    address: Option<Address>,
    /// File with the bearer token to show [env: TENANTD_TOKEN_FILE; or the token itself in TENANTD_TOKEN]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM certificates to trust for https [env: TENANTD_CA_FILE] [default: the system's]
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// PEM client certificate to show over https [env: TENANTD_CERT_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    cert_file: Option<PathBuf>,
    /// PEM key of it [env: TENANTD_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// A sidecar, and what is shown to it.
#[derive(Debug, Clone)]
pub struct Target {
    address: Address,
    token: Option<Token>,
    ca_file: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone)]
enum Token {
    File(PathBuf),
    Given(Zeroizing<String>),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token([redacted])")
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

impl From<Address> for Target {
    fn from(address: Address) -> Self {
        Self { address, token: None, ca_file: None, identity: None }
    }
}

impl Flags {
    /// Flags, then the environment, then the default rule.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn target(self) -> anyhow::Result<Target> {
        let uid = rustix::process::getuid().as_raw();
        let env = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let address = match self.address {
            Some(address) => address,
            None => Address::resolve(env, uid)?,
        };
        let file = |flag: Option<PathBuf>, name| flag.or_else(|| env(name).map(PathBuf::from));
        let token = match (self.token_file, env("TENANTD_TOKEN_FILE"), env("TENANTD_TOKEN")) {
            (Some(path), _, _) => Some(Token::File(path)),
            (None, Some(_), Some(_)) => {
                anyhow::bail!("TENANTD_TOKEN_FILE and TENANTD_TOKEN are both set; set one")
            }
            (None, Some(path), None) => Some(Token::File(path.into())),
            (None, None, Some(token)) => Some(Token::Given(Zeroizing::new(token))),
            (None, None, None) => None,
        };
        let identity = match (
            file(self.cert_file, "TENANTD_CERT_FILE"),
            file(self.key_file, "TENANTD_KEY_FILE"),
        ) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => anyhow::bail!(
                "a client certificate and its key go together: --cert-file and --key-file, or TENANTD_CERT_FILE and TENANTD_KEY_FILE"
            ),
        };
        Ok(Target { address, token, ca_file: file(self.ca_file, "TENANTD_CA_FILE"), identity })
    }
}

/// Calls that show the token.
pub type Calls = InterceptedService<Channel, Bearer>;

/// Shows the token with each call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Connects. Files are read now, so that a rotated token or certificate holds for
/// the next connection.
///
/// # Errors
/// [`Unreachable`]; a file that cannot be read.
pub async fn connect(target: &Target) -> anyhow::Result<Calls> {
    let bearer = Bearer(target.bearer()?);
    let endpoint = |url: String| -> anyhow::Result<Endpoint> {
        Ok(Endpoint::from_shared(url)?.connect_timeout(CONNECT_TIMEOUT))
    };
    let connected = match &target.address {
        Address::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
            });
            endpoint("http://localhost".to_owned())?.connect_with_connector(connector).await
        }
        Address::Tcp(_) => endpoint(target.to_string())?.connect().await,
        Address::Tls(_) => endpoint(target.to_string())?.tls_config(target.tls()?)?.connect().await,
    };
    let channel = connected.map_err(|error| Unreachable {
        address: target.address.clone(),
        problem: root(&error),
        advice: match &target.address {
            Address::Unix(_) | Address::Tcp(_) => {
                "start one with `tenantd serve`, or set TENANTD_ADDRESS or --address to where it listens"
            }
            Address::Tls(_) => {
                "is it there, is it for this name, and is TENANTD_CA_FILE or --ca-file who signed its certificate?"
            }
        },
    })?;
    Ok(InterceptedService::new(channel, bearer))
}

fn root(error: &dyn std::error::Error) -> String {
    let mut problem = error;
    while let Some(source) = problem.source() {
        problem = source;
    }
    problem.to_string()
}

impl Target {
    fn bearer(&self) -> anyhow::Result<Option<MetadataValue<Ascii>>> {
        let text = match &self.token {
            None => return Ok(None),
            Some(Token::Given(token)) => token.clone(),
            Some(Token::File(path)) => {
                let bytes = read(path, "the token")?;
                let text = String::from_utf8_lossy(&bytes);
                Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())
            }
        };
        if let Address::Tcp(place) = &self.address {
            anyhow::ensure!(
                is_loopback(place),
                "a token goes over https, loopback or a unix socket, and not in clear to {}",
                self.address
            );
        }
        let valid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        anyhow::ensure!(valid, "the token must be one line of printable ASCII without spaces");
        let mut value: MetadataValue<Ascii> =
            Zeroizing::new(format!("Bearer {}", *text)).parse().context("the token")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = match &self.ca_file {
            Some(path) => {
                let certificates = read(path, "the certificates to trust")?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&*certificates))
            }
            None => ClientTlsConfig::new().with_native_roots(),
        };
        let Some((cert, key)) = &self.identity else { return Ok(config) };
        let (cert, key) = (read(cert, "the client certificate")?, read(key, "its key")?);
        Ok(config.identity(Identity::from_pem(&*cert, &*key)))
    }
}

fn read(path: &std::path::Path, what: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    read.with_context(|| format!("{what} cannot be read: {}", path.display()))?;
    Ok(bytes)
}

/// "localhost", or an address of loopback, before the port.
fn is_loopback(place: &str) -> bool {
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A refusal in words: reason, message, when to come back; or [`Closed`].
#[must_use]
pub fn refused(status: &Status) -> anyhow::Error {
    if let Some(broken) = std::error::Error::source(status) {
        return Closed(super::text::escape(&root(broken)).to_string()).into();
    }
    let details = status.get_error_details();
    let reason = details.error_info().map_or("ERROR", |info| info.reason.as_str());
    let after = details.retry_info().and_then(|info| info.retry_delay);
    let after = after.map(|after| format!(" (retry after {after:?})")).unwrap_or_default();
    let escape = super::text::escape;
    anyhow::anyhow!("refused: {}: {}{after}", escape(reason), escape(status.message()))
}
