//! Who may call: asked by every use case before anything else is done, against
//! the identities of the config that runs now, so that one that was taken away is
//! refused at its next call.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Sidecar, ports::EventSink as _, workers::Link};
use crate::domain::{
    access::{Action, Claim, Identity, Owner, Shown, TokenHash},
    budget::Budget,
    event::{Actor, Event, Kind, Subject},
    reject::Rejection,
    tenant::TenantId,
    time::Now,
};

/// Most denials that are logged in a second, so that one who keeps knocking does
/// not push the events of others out of the log.
const DENIALS_PER_SECOND: u32 = 10;

/// Who calls, and over which connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The connection.
    pub connection: Link,
    /// What it shows of itself.
    pub shown: Arc<Shown>,
}

/// Somebody who was let in.
#[derive(Debug, Clone)]
pub struct Permit {
    /// Who it is.
    pub identity: Arc<Identity>,
    shown: Arc<Shown>,
}

impl Permit {
    /// In this agent's name, on a session that is there. `lease`: its token.
    pub fn claim(&self, lease: &str) -> Claim {
        Claim::holder(&self.identity, hash(lease))
    }

    /// What its sessions and processes are known by.
    pub fn owner(&self, lease: &str) -> Owner {
        Owner::of(&self.identity, hash(lease))
    }

    /// An operator, with its words.
    pub fn says(&self, note: String) -> Actor {
        Actor { name: name(&self.identity, &self.shown), note }
    }
}

/// On events: one that no config names is called by what it shows.
fn name(identity: &Identity, shown: &Shown) -> String {
    if identity.builtin { shown.to_string() } else { identity.name.to_string() }
}

fn hash(lease: &str) -> Option<TokenHash> {
    (!lease.is_empty()).then(|| TokenHash::of(lease))
}

/// What was denied, and when to ask again.
pub struct Guard {
    budget: Mutex<Budget>,
    denied: AtomicU64,
    /// Rings when identities may have changed.
    changes: watch::Sender<()>,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            budget: Mutex::default(),
            denied: AtomicU64::new(0),
            changes: watch::Sender::new(()),
        }
    }
}

impl Guard {
    /// How many calls were denied.
    pub fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }

    /// The identities may be others now.
    pub fn changed(&self) {
        self.changes.send_replace(());
    }
}

impl Sidecar {
    /// The one way in. `tenant`: the one named by the call, where one is.
    pub(super) fn permit(
        &self,
        caller: &Caller,
        action: Action,
        tenant: Option<&TenantId>,
    ) -> Result<Permit, Rejection> {
        self.allows(caller, action, tenant).inspect_err(|refused| {
            self.note_denied(caller, action, refused);
        })
    }

    /// As [`Self::permit`], without a word to anybody.
    pub(super) fn allows(
        &self,
        caller: &Caller,
        action: Action,
        tenant: Option<&TenantId>,
    ) -> Result<Permit, Rejection> {
        let config = self.config();
        let identity = config.access.identify(&caller.shown)?;
        identity.permit(action, tenant)?;
        Ok(Permit { identity: Arc::clone(identity), shown: Arc::clone(&caller.shown) })
    }

    /// A session that is there and not the caller's is a denial too; the caller
    /// is told as if it were not there.
    pub(super) fn of_session<T>(
        &self,
        caller: &Caller,
        action: Action,
        result: Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        result.inspect_err(|refused| {
            if refused.hidden.is_some() {
                self.note_denied(caller, action, refused);
            }
        })
    }

    /// Who calls, for events: the identity where one is configured.
    pub(super) fn actor(&self, caller: &Caller) -> Actor {
        let config = self.config();
        let name = match config.access.identify(&caller.shown) {
            Ok(identity) => name(identity, &caller.shown),
            Err(_) => caller.shown.to_string(),
        };
        Actor { name, note: String::new() }
    }

    /// Counts a denied call.
    pub(super) fn count_denied(&self) {
        self.guard.denied.fetch_add(1, Ordering::Relaxed);
    }

    /// Within the denials that are told in a second.
    pub(super) fn may_tell_denied(&self, now: Now) -> bool {
        self.guard.budget.lock().take(DENIALS_PER_SECOND, now.mono)
    }

    fn note_denied(&self, caller: &Caller, action: Action, refused: &Rejection) {
        self.count_denied();
        let now = self.now();
        if !self.may_tell_denied(now) {
            return;
        }
        let hidden = refused.hidden.as_deref();
        let tenant = hidden.or(refused.tenant.as_ref()).cloned();
        let message = match hidden {
            Some(_) => "the session is another identity's, or of a tenant that is not the caller's, or the lease token is wrong".to_owned(),
            None => refused.message.clone(),
        };
        let subject = Subject { tenant, ..Subject::default() };
        let kind = Kind::CallDenied { rpc: action.rule().rpc, message };
        self.events.append(vec![Event::new(now, subject, kind).by(Some(&self.actor(caller)))]);
    }

    /// There was no identity in the config that the sidecar started with.
    #[must_use]
    pub fn started_without_identities(&self) -> bool {
        self.started_with.access.identities().is_empty()
    }

    /// Tells when to ask again whether a stream may go on.
    #[must_use]
    pub fn on_access_change(&self) -> watch::Receiver<()> {
        self.guard.changes.subscribe()
    }

    /// Whether a caller's KeepAlive stream may still go on.
    ///
    /// # Errors
    /// `NOT_PERMITTED`.
    pub fn may_keep_alive(&self, caller: &Caller) -> Result<(), Rejection> {
        self.permit(caller, Action::KeepAlive, None).map(|_| ())
    }

    /// Whether a caller may open a Work stream; each call over it is asked for by itself.
    ///
    /// # Errors
    /// `NOT_PERMITTED`.
    pub fn may_work(&self, caller: &Caller) -> Result<(), Rejection> {
        self.permit(caller, Action::Work, None).map(|_| ())
    }
}
