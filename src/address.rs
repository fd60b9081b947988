//! Where the sidecar listens and its clients call: one rule for all languages,
//! held by `tests/contract/address.json`.

use std::{fmt, path::PathBuf, str::FromStr};

/// An address in its normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An absolute path.
    Unix(PathBuf),
    /// "host:port".
    Tcp(String),
    /// "host:port", with TLS.
    Tls(String),
}

/// What an address must look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an address must be unix:/absolute/path, http://host:port or https://host:port, for example unix:/run/tenantd.sock or 127.0.0.1:7443"
)]
pub struct Invalid;

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let path = match text.strip_prefix("unix:") {
            Some(path) if path.starts_with("///") => Some(&path[2..]),
            Some(path) => Some(path),
            None => text.starts_with('/').then_some(text),
        };
        if let Some(path) = path {
            let absolute = path.starts_with('/') && path.len() > 1;
            return if absolute { Ok(Self::Unix(path.into())) } else { Err(Invalid) };
        }
        let (secure, place) = match text.strip_prefix("https://") {
            Some(place) => (true, place),
            None => (false, text.strip_prefix("http://").unwrap_or(text)),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        let (host, port) = place.rsplit_once(':').ok_or(Invalid)?;
        let port: u16 = port.parse().map_err(|_| Invalid)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let valid = port > 0
            && !host.is_empty()
            && !host.contains(['/', '@', '?', '#', ' '])
            && (bracketed || !host.contains(':'));
        let place = format!("{host}:{port}");
        match (valid, secure) {
            (true, true) => Ok(Self::Tls(place)),
            (true, false) => Ok(Self::Tcp(place)),
            (false, _) => Err(Invalid),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(place) => write!(f, "http://{place}"),
            Self::Tls(place) => write!(f, "https://{place}"),
        }
    }
}

impl Address {
    /// `TENANTD_ADDRESS`, else the default socket.
    ///
    /// # Errors
    /// When `TENANTD_ADDRESS` is no address.
    pub fn resolve(env: impl Fn(&str) -> Option<String>, uid: u32) -> Result<Self, Invalid> {
        match env("TENANTD_ADDRESS").filter(|text| !text.is_empty()) {
            Some(text) => text.parse(),
            None => Ok(Self::Unix(default_socket(env, uid))),
        }
    }
}

/// `$XDG_RUNTIME_DIR/tenantd/tenantd.sock`, else
/// `${TMPDIR:-/tmp}/tenantd-UID/tenantd.sock`. A relative folder is ignored.
pub fn default_socket(env: impl Fn(&str) -> Option<String>, uid: u32) -> PathBuf {
    let folder = |name| env(name).filter(|path| path.starts_with('/')).map(PathBuf::from);
    let own = folder("XDG_RUNTIME_DIR").map(|path| path.join("tenantd")).unwrap_or_else(|| {
        folder("TMPDIR").unwrap_or_else(|| "/tmp".into()).join(format!("tenantd-{uid}"))
    });
    own.join("tenantd.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contract_case_gives_its_address() {
        let contract: serde_json::Value =
            serde_json::from_str(include_str!("../tests/contract/address.json")).unwrap();
        for case in contract["cases"].as_array().unwrap() {
            let env = |name: &str| case["env"][name].as_str().map(str::to_owned);
            let uid = u32::try_from(case["uid"].as_u64().unwrap()).unwrap();
            let got = Address::resolve(env, uid).map(|address| address.to_string()).ok();
            assert_eq!(got.as_deref(), case["ok"].as_str(), "{case}");
        }
    }
}
