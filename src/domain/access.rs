//! Who may do what: identities, their roles and tenants, and the one table of
//! everything that can be asked for.

use std::{fmt, sync::Arc};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    record::says_nothing,
    reject::{Reason, Rejection},
    tenant::TenantId,
};

/// What an identity is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs sessions of its tenants; the only one that is given credentials.
    Agent,
    /// Reads; never a credential.
    Viewer,
    /// Reads and changes; never a credential.
    Admin,
}

impl Role {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }
}

/// Whom an action concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The tenant that is named.
    Tenant,
    /// A session: its tenant, and for agents also who acquired it.
    Session,
    /// All tenants that the caller may act for; the others are left out.
    Visible,
    /// The sidecar as a whole: needs all tenants.
    Sidecar,
}

/// Everything that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the table names the method of each")]
pub enum Action {
    Acquire,
    Renew,
    Release,
    Report,
    SessionConfig,
    KeepAlive,
    Work,
    Publish,
    Watch,
    Snapshot,
    ListSessions,
    ListTenants,
    GetTenant,
    SetCap,
    Suspend,
    Resume,
    OpenBreaker,
    ResetBreaker,
    Revoke,
    Drain,
    Reload,
    SetLogFilter,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// What is asked for.
    pub action: Action,
    /// The method that asks for it.
    pub rpc: &'static str,
    /// Who may.
    pub role: Role,
    /// For whom.
    pub scope: Scope,
}

const fn rule(action: Action, rpc: &'static str, role: Role, scope: Scope) -> Rule {
    Rule { action, rpc, role, scope }
}

/// The table. Health and reflection are not in it: they are open to whoever can
/// connect, and say nothing but that the sidecar serves, and its public API.
pub const TABLE: [Rule; 22] = {
    use Action as A;
    use Role::{Admin, Agent, Viewer};
    use Scope::{Session, Sidecar, Tenant, Visible};
    [
        rule(A::Acquire, "SessionService/AcquireSession", Agent, Tenant),
        rule(A::Renew, "SessionService/RenewSession", Agent, Session),
        rule(A::Release, "SessionService/ReleaseSession", Agent, Session),
        rule(A::Report, "SessionService/ReportFailure", Agent, Session),
        rule(A::SessionConfig, "SessionService/GetSessionConfig", Agent, Session),
        rule(A::KeepAlive, "SessionService/KeepAlive", Agent, Session),
        rule(A::Work, "SessionService/Work", Agent, Session),
        rule(A::Publish, "SessionService/PublishEvents", Agent, Session),
        rule(A::Watch, "WatchService/WatchSessions", Viewer, Visible),
        rule(A::Snapshot, "WatchService/GetSnapshot", Viewer, Visible),
        rule(A::ListSessions, "WatchService/ListSessions", Viewer, Visible),
        rule(A::ListTenants, "WatchService/ListTenants", Viewer, Visible),
        rule(A::GetTenant, "WatchService/GetTenant", Viewer, Tenant),
        rule(A::SetCap, "AdminService/SetTenantCap", Admin, Tenant),
        rule(A::Suspend, "AdminService/SuspendTenant", Admin, Tenant),
        rule(A::Resume, "AdminService/ResumeTenant", Admin, Tenant),
        rule(A::OpenBreaker, "AdminService/OpenBreaker", Admin, Tenant),
        rule(A::ResetBreaker, "AdminService/ResetBreaker", Admin, Tenant),
        rule(A::Revoke, "AdminService/RevokeSession", Admin, Session),
        rule(A::Drain, "AdminService/Drain", Admin, Sidecar),
        rule(A::Reload, "AdminService/ReloadConfig", Admin, Sidecar),
        rule(A::SetLogFilter, "AdminService/SetLogFilter", Admin, Sidecar),
    ]
};

impl Action {
    /// Its row.
    #[must_use]
    pub const fn rule(self) -> &'static Rule {
        &TABLE[self as usize]
    }
}

/// The SHA-256 of a token. Tokens are long and random, so that a plain digest
/// cannot be guessed at: what is slow to compute would only slow calls down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of a token in clear.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// From 64 hexadecimal digits.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        let mut hash = [0; 32];
        let digits = hex.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
        }
        Some(Self(hash))
    }

    /// As 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Compares in a time that does not depend on where they differ.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// As its digits: what is kept over a restart cannot be shown as the token.
impl serde::Serialize for TokenHash {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.hex())
    }
}

impl<'de> serde::Deserialize<'de> for TokenHash {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let hex = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        Self::parse(&hex).ok_or_else(|| serde::de::Error::custom("is no SHA-256 in hexadecimal"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash([redacted])")
    }
}

/// Tenants: one, all whose id begins so, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantPattern {
    /// `*`.
    All,
    /// `acme-*`.
    Prefix(String),
    /// `acme`.
    One(TenantId),
}

impl TenantPattern {
    /// Reads one. None: it is no pattern.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('*') {
            Some("") => Some(Self::All),
            Some(prefix) => {
                TenantId::parse(prefix).ok().filter(|id| id.as_str() == prefix)?;
                Some(Self::Prefix(prefix.to_owned()))
            }
            None => TenantId::parse(text).ok().filter(|id| id.as_str() == text).map(Self::One),
        }
    }

    fn covers(&self, tenant: &TenantId) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => tenant.as_str().starts_with(prefix.as_str()),
            Self::One(one) => one == tenant,
        }
    }
}

/// Somebody who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name: on events, and as the owner of sessions.
    pub name: Arc<str>,
    /// Built in, so that events name the peer instead.
    pub builtin: bool,
    /// What it is for.
    pub roles: Vec<Role>,
    /// Whom it may act for.
    pub tenants: Vec<TenantPattern>,
    /// Processes that need not trust each other use it: the lease token decides
    /// whose a session is.
    pub shared: bool,
    /// Bearer tokens; several during a rotation.
    pub tokens: Vec<TokenHash>,
    /// Users on the unix socket.
    pub uids: Vec<u32>,
    /// Groups on the unix socket.
    pub gids: Vec<u32>,
    /// Names in client certificates: `URI:` and `DNS:`, then the name.
    pub certificates: Vec<String>,
}

impl Identity {
    fn builtin(name: &str, shared: bool) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            builtin: true,
            roles: vec![Role::Agent, Role::Viewer, Role::Admin],
            tenants: vec![TenantPattern::All],
            shared,
            tokens: Vec::new(),
            uids: Vec::new(),
            gids: Vec::new(),
            certificates: Vec::new(),
        })
    }

    /// It has the role, or one that holds it: who changes may also read.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role) || (role == Role::Viewer && self.roles.contains(&Role::Admin))
    }

    /// It may act for the tenant.
    #[must_use]
    pub fn covers(&self, tenant: &TenantId) -> bool {
        self.tenants.iter().any(|pattern| pattern.covers(tenant))
    }

    /// It may act for every tenant.
    #[must_use]
    pub fn covers_all(&self) -> bool {
        self.tenants.contains(&TenantPattern::All)
    }

    /// The table's answer. `tenant`: the one that is named, or whose session it
    /// is, where that is known.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, in the same words whether the tenant exists or not.
    pub fn permit(&self, action: Action, tenant: Option<&TenantId>) -> Result<(), Rejection> {
        let rule = action.rule();
        if !self.has(rule.role) {
            return Err(not_permitted(format!(
                "{} needs the role {}, which {} does not have",
                rule.rpc,
                rule.role.name(),
                self.shown(),
            )));
        }
        if rule.scope == Scope::Sidecar && !self.covers_all() {
            return Err(not_permitted(format!(
                "{} concerns all tenants; {} may act for some only",
                rule.rpc,
                self.shown(),
            )));
        }
        match tenant.filter(|tenant| !self.covers(tenant)) {
            Some(tenant) => {
                Err(not_permitted(format!("{} may not act for tenant {tenant}", self.shown()))
                    .of(tenant))
            }
            None => Ok(()),
        }
    }

    fn shown(&self) -> String {
        if self.builtin { "the caller".to_owned() } else { format!("identity {}", self.name) }
    }
}

fn not_permitted(message: impl Into<String>) -> Rejection {
    Rejection::new(Reason::NotPermitted, message)
}

/// Over what a call came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// The unix socket: what the kernel says of the peer.
    Unix {
        /// Its user.
        uid: Option<u32>,
        /// Its group.
        gid: Option<u32>,
        /// Its process.
        pid: Option<i32>,
        /// It is the sidecar's own user, or root.
        own: bool,
    },
    /// TCP.
    Tcp {
        /// The peer's IP address.
        address: String,
        /// The listener is for anybody while no identity is configured: it is bound
        /// to loopback, and there was none when the sidecar started.
        open: bool,
    },
}

/// What a caller shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Over what it came.
    pub transport: Transport,
    /// Names in its verified certificate, as in `Identity.certificates`.
    pub certificates: Arc<[String]>,
    /// The token of this call.
    pub token: Option<TokenHash>,
}

/// Who is at the other end, for events: "uid:1000", "tcp:127.0.0.1",
/// "URI:spiffe://example.org/agent".
impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.certificates.first() {
            return f.write_str(name);
        }
        match &self.transport {
            Transport::Unix { uid: Some(uid), .. } => write!(f, "uid:{uid}"),
            Transport::Unix { uid: None, .. } => f.write_str("uid:?"),
            Transport::Tcp { address, .. } => write!(f, "tcp:{address}"),
        }
    }
}

/// Everybody who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    identities: Vec<Arc<Identity>>,
    /// The sidecar's own user and root, where no identity names them: they can
    /// read the sidecar's memory and replace its config anyhow.
    local: Arc<Identity>,
    /// Whoever connects over loopback TCP while no identity is configured.
    anyone: Arc<Identity>,
}

impl Default for Access {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Access {
    /// With these identities; the first that matches is taken.
    #[must_use]
    pub fn new(identities: Vec<Identity>) -> Self {
        Self {
            identities: identities.into_iter().map(Arc::new).collect(),
            local: Identity::builtin("(local)", false),
            anyone: Self::anyone(),
        }
    }

    /// Whoever connects over loopback TCP while no identity is configured: all
    /// roles for all tenants.
    #[must_use]
    pub fn anyone() -> Arc<Identity> {
        Identity::builtin("(anyone)", false)
    }

    /// The configured ones.
    #[must_use]
    pub fn identities(&self) -> &[Arc<Identity>] {
        &self.identities
    }

    /// Who calls. A token decides where one is shown, then the certificate, then
    /// the user: a wrong credential is never overlooked for a lesser one.
    ///
    /// # Errors
    /// `NOT_PERMITTED`.
    pub fn identify(&self, shown: &Shown) -> Result<&Arc<Identity>, Rejection> {
        if let Some(token) = &shown.token {
            // All are compared, so that the time says nothing of which matched.
            let mut found = None;
            for identity in &self.identities {
                let matches = identity.tokens.iter().filter(|known| known.is(token)).count() > 0;
                if matches && found.is_none() {
                    found = Some(identity);
                }
            }
            return found.ok_or_else(|| {
                not_permitted("the call's bearer token is not one of any identity's tokens")
            });
        }
        if !shown.certificates.is_empty() {
            let named = |of: &&Arc<Identity>| {
                shown.certificates.iter().any(|n| of.certificates.contains(n))
            };
            return self.identities.iter().find(named).ok_or_else(|| {
                not_permitted("no identity names the client certificate's URI or DNS name")
            });
        }
        match &shown.transport {
            Transport::Unix { uid, gid, own, .. } => {
                let by = |list: fn(&Identity) -> &[u32], id: &Option<u32>| {
                    let id = (*id)?;
                    self.identities.iter().find(|identity| list(identity).contains(&id))
                };
                by(|of| &of.uids, uid)
                    .or_else(|| by(|of| &of.gids, gid))
                    .or_else(|| own.then_some(&self.local))
                    .ok_or_else(|| {
                        not_permitted(
                            "over this socket only the sidecar's own user, root and the users and groups of configured identities may call",
                        )
                    })
            }
            Transport::Tcp { open: true, .. } if self.identities.is_empty() => Ok(&self.anyone),
            Transport::Tcp { .. } => Err(not_permitted(
                "the call carries no credential; send a bearer token, or connect with a client certificate",
            )),
        }
    }
}

/// Who acquired a session. Kept over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    /// The identity.
    #[serde(with = "shared_text")]
    pub identity: Option<Arc<str>>,
    /// The lease token, where the identity is shared.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub lease: Option<TokenHash>,
}

mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub fn serialize<S: Serializer>(text: &Option<Arc<str>>, to: S) -> Result<S::Ok, S::Error> {
        text.as_deref().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Into::into))
    }
}

impl Owner {
    /// What an identity is to be known by. `lease`: the token that it showed or
    /// was given.
    #[must_use]
    pub fn of(identity: &Identity, lease: Option<TokenHash>) -> Self {
        Self {
            identity: Some(Arc::clone(&identity.name)),
            lease: lease.filter(|_| identity.shared),
        }
    }

    /// `other` is the same, and shows the lease token where there is one.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let shows = match (&self.lease, &other.lease) {
            (Some(held), Some(shown)) => held.is(shown),
            (Some(_), None) => false,
            (None, _) => true,
        };
        self.identity == other.identity && shows
    }
}

/// In whose name something is done to a session that is there.
#[derive(Debug, Clone)]
pub enum Claim {
    /// The sidecar's own.
    Sidecar,
    /// An operator's: the tenant decides.
    Operator(Arc<Identity>),
    /// An agent's: the tenant, and who acquired it.
    Holder {
        /// Who calls.
        identity: Arc<Identity>,
        /// With this to show.
        owner: Owner,
    },
}

impl Claim {
    /// An agent's.
    #[must_use]
    pub fn holder(identity: &Arc<Identity>, lease: Option<TokenHash>) -> Self {
        Self::Holder { identity: Arc::clone(identity), owner: Owner::of(identity, lease) }
    }

    /// It holds for a session.
    #[must_use]
    pub fn admits(&self, tenant: &TenantId, owner: &Owner) -> bool {
        match self {
            Self::Sidecar => true,
            Self::Operator(identity) => identity.covers(tenant),
            Self::Holder { identity, owner: by } => identity.covers(tenant) && owner.is(by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> TenantId {
        TenantId::parse(id).unwrap()
    }

    fn identity(name: &str, roles: &[Role], tenants: &[&str]) -> Identity {
        Identity {
            name: name.into(),
            builtin: false,
            roles: roles.to_vec(),
            tenants: tenants.iter().map(|t| TenantPattern::parse(t).unwrap()).collect(),
            shared: false,
            tokens: vec![TokenHash::of(name)],
            uids: Vec::new(),
            gids: Vec::new(),
            certificates: vec![format!("URI:spiffe://x/{name}")],
        }
    }

    fn over(transport: Transport) -> Shown {
        Shown { transport, certificates: Arc::new([]), token: None }
    }

    fn unix(uid: u32, gid: u32, own: bool) -> Shown {
        over(Transport::Unix { uid: Some(uid), gid: Some(gid), pid: Some(7), own })
    }

    fn tcp(open: bool) -> Shown {
        over(Transport::Tcp { address: "127.0.0.1".to_owned(), open })
    }

    #[test]
    fn every_action_is_the_row_of_its_own_number() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.action as usize, index);
            assert_eq!(row.action.rule().rpc, row.rpc);
        }
    }

    #[test]
    fn each_role_may_what_the_table_says_for_its_tenants_and_nothing_else() {
        for role in [Role::Agent, Role::Viewer, Role::Admin] {
            let one = identity("x", &[role], &["acme", "globex-*"]);
            let all = identity("y", &[role], &["*"]);
            for row in &TABLE {
                let has = row.role == role || (row.role == Role::Viewer && role == Role::Admin);
                let whole = row.scope == Scope::Sidecar;
                for (id, own) in [("acme", true), ("globex-1", true), ("globex", false)] {
                    let id = tenant(id);
                    assert_eq!(one.permit(row.action, Some(&id)).is_ok(), has && own && !whole);
                    assert_eq!(all.permit(row.action, Some(&id)).is_ok(), has);
                }
                assert_eq!(one.permit(row.action, None).is_ok(), has && !whole, "{row:?}");
                assert_eq!(all.permit(row.action, None).is_ok(), has);
            }
        }
    }

    #[test]
    fn patterns_are_exact_prefixes_or_all() {
        for bad in ["", " acme", "a*b", "**", "a**", "acme *", "ac/me", "é*"] {
            assert_eq!(TenantPattern::parse(bad), None, "{bad:?}");
        }
        let prefix = TenantPattern::parse("acme-*").unwrap();
        assert!(prefix.covers(&tenant("acme-")) && prefix.covers(&tenant("acme-eu")));
        assert!(!prefix.covers(&tenant("acme")) && !prefix.covers(&tenant("Acme-eu")));
    }

    #[test]
    fn a_wrong_credential_is_never_overlooked_for_a_lesser_one() {
        let access = Access::new(vec![identity("a", &[Role::Agent], &["*"])]);
        let mut own = unix(1000, 1000, true);
        assert_eq!(&*access.identify(&own).unwrap().name, "(local)");
        own.token = Some(TokenHash::of("a"));
        assert_eq!(&*access.identify(&own).unwrap().name, "a");
        own.token = Some(TokenHash::of("b"));
        assert!(access.identify(&own).is_err(), "a wrong token, though the user would do");
        let mut certified = tcp(false);
        certified.certificates = Arc::new(["URI:spiffe://x/b".to_owned()]);
        assert!(access.identify(&certified).is_err());
        certified.certificates = Arc::new(["DNS:x".to_owned(), "URI:spiffe://x/a".to_owned()]);
        assert_eq!(&*access.identify(&certified).unwrap().name, "a");
        certified.token = Some(TokenHash::of("b"));
        assert!(access.identify(&certified).is_err());
    }

    #[test]
    fn loopback_is_open_only_while_nobody_is_configured() {
        let open = Access::default();
        assert_eq!(&*open.identify(&tcp(true)).unwrap().name, "(anyone)");
        assert!(open.identify(&tcp(false)).is_err());
        let closed = Access::new(vec![identity("a", &[Role::Agent], &["*"])]);
        assert!(closed.identify(&tcp(true)).is_err());
    }

    #[test]
    fn users_and_groups_are_those_that_identities_name_then_the_own() {
        let by_uid = Identity { uids: vec![0, 1001], ..identity("u", &[Role::Viewer], &["*"]) };
        let by_gid = Identity { gids: vec![50], ..identity("g", &[Role::Agent], &["acme"]) };
        let access = Access::new(vec![by_gid, by_uid]);
        let name = |shown: Shown| access.identify(&shown).map(|of| of.name.to_string()).ok();
        assert_eq!(name(unix(1001, 50, false)).as_deref(), Some("u"), "the user before the group");
        assert_eq!(name(unix(1002, 50, false)).as_deref(), Some("g"));
        assert_eq!(name(unix(0, 0, true)).as_deref(), Some("u"), "root can be made less");
        assert_eq!(name(unix(1000, 0, true)).as_deref(), Some("(local)"));
        assert_eq!(name(unix(1002, 1002, false)), None);
        let unknown = Transport::Unix { uid: None, gid: None, pid: None, own: false };
        assert_eq!(name(over(unknown)), None);
    }

    #[test]
    fn a_session_is_its_identitys_and_where_that_is_shared_the_lease_tokens() {
        let (a, b) =
            (identity("a", &[Role::Agent], &["acme"]), identity("b", &[Role::Agent], &["acme"]));
        let shared = Identity { shared: true, ..identity("s", &[Role::Agent], &["acme"]) };
        let (mine, other) = (Some(TokenHash::of("mine")), Some(TokenHash::of("other")));
        let claim = |of: &Identity, lease| Claim::holder(&Arc::new(of.clone()), lease);
        let acme = tenant("acme");
        let plain = Owner::of(&a, mine);
        assert!(claim(&a, None).admits(&acme, &plain) && claim(&a, other).admits(&acme, &plain));
        assert!(!claim(&b, mine).admits(&acme, &plain));
        let leased = Owner::of(&shared, mine);
        assert!(claim(&shared, mine).admits(&acme, &leased));
        assert!(!claim(&shared, other).admits(&acme, &leased));
        assert!(!claim(&shared, None).admits(&acme, &leased));
        assert!(!claim(&a, None).admits(&tenant("globex"), &plain), "its tenants may be taken");
        assert!(Claim::Operator(Arc::new(b)).admits(&acme, &plain));
    }

    #[test]
    fn a_hash_is_read_as_it_is_written_and_not_printed() {
        let hash = TokenHash::of("abc");
        assert!(hash.hex().starts_with("ba7816bf"));
        assert_eq!(TokenHash::parse(&hash.hex()), Some(hash));
        assert_eq!(TokenHash::parse("abc"), None);
        assert_eq!(TokenHash::parse(&"é".repeat(32)), None);
        assert!(!format!("{hash:?}").contains("ba78"));
    }
}
