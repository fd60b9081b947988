//! Secrets in HashiCorp Vault or OpenBao, KV version 2.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use vaultrs::{
    api::AuthInfo,
    auth::kubernetes,
    client::{VaultClient, VaultClientSettingsBuilder},
    error::ClientError,
    kv2, token,
};
use zeroize::Zeroize as _;

use crate::{
    config::source::{VaultAuth, VaultConfig},
    domain::provider::{CredentialRef, Secret},
    source::{
        reference,
        shelf::{Held, Said, Shelf},
    },
};

/// Most secrets kept; the least used are dropped.
const MAX_SECRETS: u64 = 10_000;
/// Largest token.
const MAX_TOKEN: usize = 64 * 1024;
/// How soon a failed renewal is tried again.
const RETRY_RENEWAL: Duration = Duration::from_secs(5);

type Fields = BTreeMap<String, Secret>;

struct Login {
    client: VaultClient,
    /// When to renew; none: it does not end.
    renew_at: Option<Instant>,
    renewable: bool,
}

/// One server.
pub struct Vault {
    config: VaultConfig,
    login: ArcSwapOption<Login>,
    logging_in: Mutex<()>,
    shelf: Arc<Shelf<String, Fields>>,
    changed: AtomicBool,
}

impl Vault {
    /// Not yet logged in: a server that is down at the start must not stop it.
    #[must_use]
    pub fn new(config: VaultConfig) -> Self {
        Self {
            config,
            login: ArcSwapOption::empty(),
            logging_in: Mutex::new(()),
            shelf: Arc::new(Shelf::new(MAX_SECRETS)),
            changed: AtomicBool::new(false),
        }
    }

    /// One field of a secret, and why it is what was read before, where the
    /// server fails now.
    ///
    /// # Errors
    /// What failed, without any secret.
    pub async fn read(
        self: &Arc<Self>,
        path: &str,
        field: &str,
    ) -> Result<(Secret, Option<Arc<str>>), String> {
        let key = path.to_owned();
        let served = self
            .shelf
            .get(
                &key,
                |_| false,
                || {
                    let (this, path) = (Arc::clone(self), key.clone());
                    Box::pin(async move { this.ask(path).await })
                },
            )
            .await
            .map_err(|why| why.to_string())?;
        let found = served.held.value.get(field).cloned();
        found
            .map(|secret| (secret, served.stale))
            .ok_or_else(|| "the secret has no such field".to_owned())
    }

    /// It is time to ask again.
    #[must_use]
    pub fn is_due(&self, path: &str) -> bool {
        self.shelf.peek(&path.to_owned()).is_none_or(|held| !held.is_fresh())
    }

    /// A secret was another one when it was asked for again; told once.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    async fn ask(&self, path: String) -> Said<Fields> {
        let asked = tokio::time::timeout(self.config.timeout, self.fetch(&path)).await;
        let fields = match asked {
            Ok(fields) => fields.map_err(Arc::<str>::from)?,
            Err(_) => {
                let timeout = humantime::format_duration(self.config.timeout);
                return Err(format!("the server did not answer within {timeout}").into());
            }
        };
        if let Some(before) = self.shelf.peek(&path)
            && !same(&before.value, &fields)
        {
            self.changed.store(true, Ordering::Release);
        }
        let held = Held::new(fields, 0, self.config.ttl, self.config.stale_for);
        Ok(self.shelf.put(path, held))
    }

    async fn fetch(&self, path: &str) -> Result<Fields, String> {
        let (mount, path) = path.split_once('/').ok_or("must be MOUNT/PATH")?;
        let mut login = self.login(None).await?;
        let mut fields = read(&login, mount, path).await;
        if matches!(&fields, Err(ClientError::APIError { code: 401 | 403, .. })) {
            // The login may have ended, or its token been replaced.
            login = self.login(Some(&login)).await?;
            fields = read(&login, mount, path).await;
        }
        fields.map_err(|error| said(&error))
    }

    /// A login; another one than `ended`.
    async fn login(&self, ended: Option<&Arc<Login>>) -> Result<Arc<Login>, String> {
        let usable = || {
            self.login
                .load_full()
                .filter(|login| ended.is_none_or(|ended| !Arc::ptr_eq(login, ended)))
        };
        if let Some(login) = usable() {
            return Ok(login);
        }
        let _turn = self.logging_in.lock().await;
        if let Some(login) = usable() {
            return Ok(login);
        }
        let login = Arc::new(match &self.config.auth {
            VaultAuth::Token(reference) => self.by_token(reference).await?,
            VaultAuth::Kubernetes { mount, role, jwt_file } => {
                let (jwt, _) = reference::file(jwt_file, MAX_TOKEN).await?;
                let client = self.client("")?;
                let mut auth = kubernetes::login(&client, mount, role, jwt.expose())
                    .await
                    .map_err(|error| format!("logging in failed: {}", said(&error)))?;
                let client = self.client(&auth.client_token)?;
                auth.client_token.zeroize();
                Login { client, renew_at: renew_at(&auth), renewable: auth.renewable }
            }
        });
        self.login.store(Some(Arc::clone(&login)));
        Ok(login)
    }

    async fn by_token(&self, reference: &CredentialRef) -> Result<Login, String> {
        let secret = match reference {
            CredentialRef::Literal(secret) => secret.clone(),
            CredentialRef::Env(name) => reference::env(name)?,
            CredentialRef::File(path) => reference::file(path, MAX_TOKEN).await?.0,
            CredentialRef::Vault { .. } => {
                return Err("the token cannot be in the store".to_owned());
            }
        };
        let client = self.client(secret.expose())?;
        // A token that may not look at itself is used until it ends.
        let looked = token::lookup_self(&client).await;
        let (ttl, renewable) =
            looked.map_or((0, false), |about| (about.ttl, about.renewable.unwrap_or(false)));
        let renew_at = (ttl > 0).then(|| Instant::now() + Duration::from_secs(ttl) * 2 / 3);
        Ok(Login { client, renew_at, renewable })
    }

    fn client(&self, token: &str) -> Result<VaultClient, String> {
        let mut settings = VaultClientSettingsBuilder::default();
        settings
            .address(&self.config.address)
            .token(token)
            .verify(true)
            .identity(None)
            .timeout(Some(self.config.timeout))
            .ca_certs(self.config.ca_file.iter().map(|path| path.display().to_string()).collect());
        if let Some(namespace) = &self.config.namespace {
            settings.set_namespace(namespace.clone());
        }
        let settings = settings.build().map_err(|error| error.to_string())?;
        VaultClient::new(settings).map_err(|error| said(&error))
    }

    /// Renews the login before it ends, for as long as it is polled.
    pub async fn keep_login(self: Arc<Self>) {
        loop {
            let due = self.login.load_full().and_then(|login| login.renew_at);
            let wait = due.map_or(Duration::from_secs(1), |at| {
                at.saturating_duration_since(Instant::now()).min(Duration::from_secs(1))
            });
            tokio::time::sleep(wait).await;
            let Some(login) = self.login.load_full() else { continue };
            if login.renew_at.is_none_or(|at| Instant::now() < at) {
                continue;
            }
            if let Err(problem) = self.renew(&login).await {
                tracing::warn!("the login of the secret store could not be renewed: {problem}");
                tokio::time::sleep(RETRY_RENEWAL).await;
            }
        }
    }

    async fn renew(&self, login: &Arc<Login>) -> Result<(), String> {
        if !login.renewable {
            return self.login(Some(login)).await.map(drop);
        }
        match token::renew_self(&login.client, None).await {
            Ok(mut auth) => {
                let client = self.client(&auth.client_token)?;
                auth.client_token.zeroize();
                // At its longest life a renewal gives no more time.
                let renewable = auth.renewable && auth.lease_duration > 1;
                let renewed = Login { client, renew_at: renew_at(&auth), renewable };
                self.login.store(Some(Arc::new(renewed)));
                Ok(())
            }
            Err(ClientError::APIError { code: 400 | 401 | 403, .. }) => {
                self.login(Some(login)).await.map(drop)
            }
            Err(error) => Err(said(&error)),
        }
    }
}

async fn read(login: &Login, mount: &str, path: &str) -> Result<Fields, ClientError> {
    let read: BTreeMap<String, serde_json::Value> = kv2::read(&login.client, mount, path).await?;
    let mut fields = Fields::new();
    for (name, value) in read {
        match value {
            serde_json::Value::String(text) => _ = fields.insert(name, Secret::new(text)),
            serde_json::Value::Number(number) => {
                fields.insert(name, Secret::new(number.to_string()));
            }
            other => crate::config::entry::wipe(other),
        }
    }
    Ok(fields)
}

fn renew_at(auth: &AuthInfo) -> Option<Instant> {
    let lasts = Duration::from_secs(auth.lease_duration);
    (!lasts.is_zero()).then(|| Instant::now() + lasts * 2 / 3)
}

fn same(a: &Fields, b: &Fields) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((x, v), (y, w))| x == y && v.expose() == w.expose())
}

/// Never the server's own words, which may quote what it was sent.
fn said(error: &ClientError) -> String {
    match error {
        ClientError::APIError { code: 404, .. } => "the server has no such secret".to_owned(),
        ClientError::APIError { code: 401 | 403, .. } => {
            "the server refuses the login, or the login may not read it".to_owned()
        }
        ClientError::APIError { code, .. } => format!("the server answered with status {code}"),
        ClientError::RestClientError { .. } => "the server could not be reached".to_owned(),
        ClientError::JsonParseError { .. }
        | ClientError::ResponseEmptyError
        | ClientError::ResponseDataEmptyError => {
            "the answer is not that of a KV version 2 secret".to_owned()
        }
        other => other.to_string(),
    }
}
