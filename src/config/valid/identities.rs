//! Who may call.

use std::collections::BTreeSet;

use super::{Check, is_name};
use crate::{
    config::{ListenTls, raw, spanned::Spanned},
    domain::access::{Access, Identity, Role, TenantPattern, TokenHash},
};

/// Most identities: a token is compared with those of all of them.
const MAX_IDENTITIES: usize = 1000;
/// Most entries in each list of one identity.
const MAX_LISTED: usize = 64;
/// Most tokens of one identity: a rotation needs two.
const MAX_TOKENS: usize = 4;

/// What shows an identity; the same for two would be whoever comes first.
type Taken = BTreeSet<String>;

impl Check<'_> {
    /// `tls`: of the listener, which alone can see client certificates.
    pub(super) fn identities(
        &mut self,
        raw: Vec<raw::Identity>,
        tls: Option<&ListenTls>,
    ) -> Access {
        let certified = tls.is_some_and(|tls| tls.client_ca_file.is_some());
        let mut taken = Taken::new();
        let mut identities = Vec::with_capacity(raw.len());
        for (index, identity) in raw.into_iter().enumerate() {
            if index == MAX_IDENTITIES {
                let message = format!("must be at most {MAX_IDENTITIES} identities");
                self.wrong(identity.name.span(), &message);
                break;
            }
            if let Some(name) = identity.uris.iter().chain(&identity.dns_names).next()
                && !certified
            {
                let message = "needs listen.tls.client_ca_file: without it no client certificate is asked for";
                self.wrong(name.span(), message);
            }
            identities.push(self.identity(identity, &mut taken));
        }
        Access::new(identities)
    }

    fn identity(&mut self, raw: raw::Identity, taken: &mut Taken) -> Identity {
        let place = raw.name.span();
        if !is_name(raw.name.get_ref()) {
            self.wrong(place.clone(), "must be 1-64 characters of [A-Za-z0-9_.-]");
        }
        self.once(&raw.name, format!("name {}", raw.name.get_ref()), taken);
        if raw.roles.get_ref().is_empty() {
            self.wrong(raw.roles.span(), "must be some of \"agent\", \"viewer\" and \"admin\"");
        }
        if raw.tenants.get_ref().is_empty() {
            let message = "must name tenants: \"acme\", \"acme-*\", or \"*\" for all";
            self.wrong(raw.tenants.span(), message);
        }
        let shows = [&raw.tokens, &raw.uris, &raw.dns_names].iter().any(|list| !list.is_empty())
            || !raw.uids.is_empty()
            || !raw.gids.is_empty();
        if !shows {
            self.wrong(place.clone(), "needs tokens, uids, gids, uris or dns_names to be known by");
        }
        let lengths = [
            raw.tenants.get_ref().len(),
            raw.uids.len(),
            raw.gids.len(),
            raw.uris.len(),
            raw.dns_names.len(),
        ];
        if lengths.into_iter().any(|length| length > MAX_LISTED) {
            self.wrong(place.clone(), &format!("each list must have at most {MAX_LISTED} entries"));
        }
        if raw.tokens.len() > MAX_TOKENS {
            self.wrong(place, &format!("must have at most {MAX_TOKENS} tokens"));
        }
        let mut certificates = Vec::new();
        for uri in &raw.uris {
            let valid = uri.get_ref().len() <= 2048
                && uri.get_ref().bytes().all(|b| b.is_ascii_graphic())
                && uri.get_ref().split_once("://").is_some_and(|(scheme, _)| !scheme.is_empty());
            if !valid {
                let message = "must be a URI, for example \"spiffe://example.org/agent\"";
                self.wrong(uri.span(), message);
            }
            let name = format!("URI:{}", uri.get_ref());
            self.once(uri, name.clone(), taken);
            certificates.push(name);
        }
        for dns in &raw.dns_names {
            let valid = (1..=253).contains(&dns.get_ref().len())
                && dns.get_ref().bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if !valid {
                let message =
                    "must be a DNS name without wildcards, for example \"agent.example.org\"";
                self.wrong(dns.span(), message);
            }
            let name = format!("DNS:{}", dns.get_ref().to_ascii_lowercase());
            self.once(dns, name.clone(), taken);
            certificates.push(name);
        }
        Identity {
            name: raw.name.get_ref().as_str().into(),
            builtin: false,
            roles: raw.roles.into_inner().into_iter().map(role).collect(),
            tenants: self.patterns(raw.tenants.into_inner()),
            shared: raw.shared,
            tokens: self.tokens(&raw.tokens, taken),
            uids: self.ids(&raw.uids, "uid", taken),
            gids: self.ids(&raw.gids, "gid", taken),
            certificates,
        }
    }

    fn patterns(&mut self, raw: Vec<Spanned<String>>) -> Vec<TenantPattern> {
        let mut patterns = Vec::with_capacity(raw.len());
        for text in raw {
            match TenantPattern::parse(text.get_ref()) {
                Some(pattern) => patterns.push(pattern),
                None => self.wrong(
                    text.span(),
                    "must be a tenant (\"acme\"), a beginning (\"acme-*\") or \"*\" for all",
                ),
            }
        }
        patterns
    }

    fn tokens(&mut self, raw: &[Spanned<String>], taken: &mut Taken) -> Vec<TokenHash> {
        let mut tokens = Vec::with_capacity(raw.len());
        for text in raw {
            match text.get_ref().strip_prefix("sha256:").and_then(TokenHash::parse) {
                Some(hash) => {
                    self.once(text, hash.hex(), taken);
                    tokens.push(hash);
                }
                // Never the value: it may be the token itself.
                None => self.wrong(
                    text.span(),
                    "must be \"sha256:\" and 64 hexadecimal digits, as `tenantd token new` prints them; never the token itself",
                ),
            }
        }
        tokens
    }

    fn ids(&mut self, raw: &[Spanned<u32>], what: &str, taken: &mut Taken) -> Vec<u32> {
        for id in raw {
            self.once(id, format!("{what} {}", id.get_ref()), taken);
        }
        raw.iter().map(|id| *id.get_ref()).collect()
    }

    fn once<T>(&mut self, place: &Spanned<T>, shown: String, taken: &mut Taken) {
        if !taken.insert(shown) {
            self.wrong(place.span(), "is given twice; each must be of one identity");
        }
    }
}

const fn role(raw: raw::Role) -> Role {
    match raw {
        raw::Role::Agent => Role::Agent,
        raw::Role::Viewer => Role::Viewer,
        raw::Role::Admin => Role::Admin,
    }
}
