//! The checks of `[[sources]]`.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use super::{Check, is_name};
use crate::{
    config::{
        credential, raw,
        source::{SourceConfig, SourceKind, Tls, VaultAuth, VaultConfig},
        spanned::Spanned,
    },
    domain::provider::CredentialRef,
};

/// Most sources: each acquire of a tenant may ask each of them.
const MAX_SOURCES: usize = 8;

impl Check<'_> {
    pub(super) fn sources(&mut self, raw: Vec<raw::Source>) -> Vec<SourceConfig> {
        let mut sources = Vec::new();
        let mut names = BTreeSet::new();
        for one in raw {
            let place = one.kind.span();
            let name = one.name.as_ref().map_or_else(
                || kind_name(*one.kind.get_ref()).to_owned(),
                |name| name.get_ref().clone(),
            );
            let at = one.name.as_ref().map_or_else(|| place.clone(), Spanned::span);
            if !is_name(&name) || name == "file" || name == "defaults" {
                self.wrong(
                    at.clone(),
                    "must be 1-64 characters of [A-Za-z0-9_.-], and not \"file\" or \"defaults\"",
                );
            }
            if !names.insert(name.clone()) {
                self.wrong(at, &format!("two sources have the name {name}; give each its own"));
            }
            if sources.len() >= MAX_SOURCES {
                self.wrong(place, &format!("must be at most {MAX_SOURCES} sources"));
                break;
            }
            sources.push(self.source(name, one));
        }
        sources
    }

    fn source(&mut self, name: String, raw: raw::Source) -> SourceConfig {
        let second = Duration::from_secs(1);
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let kind = self.source_kind(&raw);
        SourceConfig {
            name,
            kind,
            ttl: self.span(raw.ttl.as_ref(), Duration::from_secs(60), second),
            negative_ttl: self.span(
                raw.negative_ttl.as_ref(),
                Duration::from_secs(5),
                Duration::ZERO,
            ),
            stale_for: self.span(raw.stale_for.as_ref(), Duration::from_secs(600), Duration::ZERO),
            timeout: self.span(
                raw.timeout.as_ref(),
                Duration::from_secs(5),
                Duration::from_millis(10),
            ),
            max_in_flight: size(self.count(raw.max_in_flight.as_ref(), 16, 1, 1000)),
            max_entries: self.count(raw.max_entries.as_ref(), 10_000, 1, 1_000_000).into(),
            max_entry_bytes: size(self.count(
                raw.max_entry_bytes.as_ref(),
                256 * 1024,
                1024,
                16 * 1024 * 1024,
            )),
            literals: raw.literals.unwrap_or(false),
        }
    }

    fn source_kind(&mut self, raw: &raw::Source) -> SourceKind {
        let kind = *raw.kind.get_ref();
        let given = [
            ("query", raw.query.as_ref().map(Spanned::span), &[raw::SourceKind::Sql][..]),
            ("poll", raw.poll.as_ref().map(Spanned::span), &[raw::SourceKind::Sql]),
            (
                "max_connections",
                raw.max_connections.as_ref().map(Spanned::span),
                &[raw::SourceKind::Sql],
            ),
            (
                "bearer",
                raw.bearer.as_ref().map(Spanned::span),
                &[raw::SourceKind::Http, raw::SourceKind::Grpc],
            ),
            (
                "ca_file",
                raw.ca_file.as_ref().map(Spanned::span),
                &[raw::SourceKind::Http, raw::SourceKind::Grpc],
            ),
            (
                "cert_file",
                raw.cert_file.as_ref().map(Spanned::span),
                &[raw::SourceKind::Http, raw::SourceKind::Grpc],
            ),
            (
                "key_file",
                raw.key_file.as_ref().map(Spanned::span),
                &[raw::SourceKind::Http, raw::SourceKind::Grpc],
            ),
        ];
        for (key, place, kinds) in given {
            if let Some(place) = place
                && !kinds.contains(&kind)
            {
                let of: Vec<_> = kinds.iter().map(|kind| kind_name(*kind)).collect();
                self.wrong(place, &format!("{key} goes only with kind {}", of.join(" or ")));
            }
        }
        let url = self.url(&raw.url, kind);
        let bearer = raw.bearer.as_ref().and_then(|bearer| self.reference(bearer));
        match kind {
            raw::SourceKind::Sql => SourceKind::Sql {
                url,
                query: raw.query.as_ref().map(|query| query.get_ref().clone()),
                poll: self.span(
                    raw.poll.as_ref(),
                    Duration::from_secs(1),
                    Duration::from_millis(50),
                ),
                max_connections: self.count(raw.max_connections.as_ref(), 5, 1, 100),
            },
            raw::SourceKind::Http => SourceKind::Http { url, bearer, tls: self.tls(raw) },
            raw::SourceKind::Grpc => SourceKind::Grpc { url, bearer, tls: self.tls(raw) },
        }
    }

    /// An address, in the clear or by reference: one with a password in it is a
    /// key itself.
    fn url(&mut self, raw: &Spanned<raw::Credential>, kind: raw::SourceKind) -> CredentialRef {
        let text = raw.get_ref().0.expose();
        let schemes: &[&str] = match kind {
            raw::SourceKind::Sql => &["sqlite:", "postgres://", "postgresql://"],
            raw::SourceKind::Http => &["http://", "https://"],
            raw::SourceKind::Grpc => &["http://", "https://", "unix:"],
        };
        if schemes.iter().any(|scheme| text.starts_with(scheme)) {
            if kind == raw::SourceKind::Http && !text.contains("{tenant}") {
                self.wrong(raw.span(), "must have {tenant} in its path or query");
            }
            let with_password = text
                .split_once("://")
                .and_then(|(_, rest)| rest.split('/').next())
                .is_some_and(|host| host.contains('@') && host.contains(':'));
            self.literals |= with_password;
            return CredentialRef::Literal(raw.get_ref().0.clone());
        }
        match credential::parse(text, self.folder) {
            Ok(reference @ (CredentialRef::Env(_) | CredentialRef::File(_))) => reference,
            Ok(CredentialRef::Literal(_) | CredentialRef::Vault { .. }) | Err(_) => {
                let message = format!(
                    "must begin with {}, or be a reference to such an address (env:NAME, file:PATH)",
                    schemes.join(", ")
                );
                self.wrong(raw.span(), &message);
                CredentialRef::Env(String::new())
            }
        }
    }

    fn reference(&mut self, raw: &Spanned<raw::Credential>) -> Option<CredentialRef> {
        match credential::parse(raw.get_ref().0.expose(), self.folder) {
            Ok(reference) => {
                self.literals |= matches!(reference, CredentialRef::Literal(_));
                Some(reference)
            }
            Err(problem) => {
                self.wrong(raw.span(), &problem);
                None
            }
        }
    }

    pub(super) fn vault(&mut self, raw: &raw::Vault) -> Option<VaultConfig> {
        let address = raw.address.get_ref().trim_end_matches('/').to_owned();
        if !super::is_http(&address) {
            self.wrong(
                raw.address.span(),
                "must be an http:// or https:// address, for example \"https://vault.example.com:8200\"",
            );
        }
        let auth = match (&raw.token, &raw.role) {
            (Some(token), None) => {
                for other in [&raw.mount, &raw.jwt_file].into_iter().flatten() {
                    self.wrong(other.span(), "goes only with role (Kubernetes auth)");
                }
                VaultAuth::Token(self.reference(token)?)
            }
            (None, Some(role)) => VaultAuth::Kubernetes {
                mount: raw
                    .mount
                    .as_ref()
                    .map_or_else(|| "kubernetes".to_owned(), |mount| mount.get_ref().clone()),
                role: role.get_ref().clone(),
                jwt_file: raw.jwt_file.as_ref().map_or_else(
                    || PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/token"),
                    |path| self.folder.join(path.get_ref()),
                ),
            },
            (Some(_), Some(_)) | (None, None) => {
                self.wrong(
                    raw.address.span(),
                    "needs token (a token), or role (Kubernetes auth), and not both",
                );
                return None;
            }
        };
        let second = Duration::from_secs(1);
        Some(VaultConfig {
            address,
            auth,
            namespace: raw.namespace.as_ref().map(|name| name.get_ref().clone()),
            ca_file: raw.ca_file.as_ref().map(|path| self.folder.join(path.get_ref())),
            ttl: self.span(raw.ttl.as_ref(), Duration::from_secs(60), second),
            stale_for: self.span(raw.stale_for.as_ref(), Duration::from_secs(600), Duration::ZERO),
            timeout: self.span(
                raw.timeout.as_ref(),
                Duration::from_secs(5),
                Duration::from_millis(10),
            ),
        })
    }

    fn tls(&mut self, raw: &raw::Source) -> Tls {
        let path = |text: &Spanned<String>| -> PathBuf { self.folder.join(text.get_ref()) };
        let ca_file = raw.ca_file.as_ref().map(path);
        let identity = match (&raw.cert_file, &raw.key_file) {
            (Some(cert), Some(key)) => Some((path(cert), path(key))),
            (None, None) => None,
            (Some(alone), None) | (None, Some(alone)) => {
                self.wrong(alone.span(), "cert_file and key_file go together");
                None
            }
        };
        Tls { ca_file, identity }
    }
}

const fn kind_name(kind: raw::SourceKind) -> &'static str {
    match kind {
        raw::SourceKind::Sql => "sql",
        raw::SourceKind::Http => "http",
        raw::SourceKind::Grpc => "grpc",
    }
}
