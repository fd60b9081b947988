//! What outlives the process, as one list of records, and what a list of them
//! amounts to. The last record of each thing holds.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    access::Owner,
    admission::{LeaseRecord, Saved, Switches},
    breaker::Breaker,
    limits::Terms,
    session::{Outcome, SessionId},
    tenant::TenantId,
    time::Timestamp,
};

/// What a record leaves out: it is read as it was. There is one for each call, and each is
/// read and written as text.
pub fn says_nothing<T: Default + PartialEq>(of: &T) -> bool {
    *of == T::default()
}

/// One thing as it is from here on. Those that a later version adds are passed
/// over by an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Record {
    Lease(Box<LeaseRecord>),
    Ended {
        session: SessionId,
        tenant: TenantId,
        #[serde(default, skip_serializing_if = "says_nothing")]
        owner: Owner,
        outcome: Outcome,
        at: Timestamp,
    },
    Breaker {
        tenant: TenantId,
        breaker: Breaker,
    },
    Switches {
        tenant: TenantId,
        #[serde(flatten)]
        switches: Switches,
    },
    Terms {
        tenant: TenantId,
        terms: Terms,
    },
    #[serde(other)]
    Unknown,
}

/// An ended session, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct EndedRecord {
    pub tenant: TenantId,
    pub owner: Owner,
    pub outcome: Outcome,
    pub at: Timestamp,
}

/// What records amount to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    /// Tenants with the terms that they ran on.
    pub tenants: HashMap<TenantId, (Terms, Saved)>,
    /// Sessions that have ended.
    pub ended: HashMap<SessionId, EndedRecord>,
}

impl Image {
    /// Takes the next record.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Lease(lease) => {
                let id = lease.session.id.clone();
                self.ended.remove(&id);
                let (_, saved) = self.tenants.entry(lease.session.tenant.clone()).or_default();
                saved.leases.insert(id, *lease);
            }
            Record::Ended { session, tenant, owner, outcome, at } => {
                if let Some((_, saved)) = self.tenants.get_mut(&tenant) {
                    saved.leases.remove(&session);
                }
                self.ended.insert(session, EndedRecord { tenant, owner, outcome, at });
            }
            Record::Breaker { tenant, breaker } => {
                self.tenants.entry(tenant).or_default().1.breaker = Some(breaker);
            }
            Record::Switches { tenant, switches } => {
                self.tenants.entry(tenant).or_default().1.switches = switches;
            }
            Record::Terms { tenant, terms } => self.tenants.entry(tenant).or_default().0 = terms,
            Record::Unknown => {}
        }
    }

    /// How many sessions are live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.tenants.values().map(|(_, saved)| saved.leases.len()).sum()
    }
}
