//! What was answered, and so must not be forgotten, whatever dies: sessions that
//! clients were granted, and what the operator has set.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tenantd::wire::v1;

use crate::{link::Link, model::Model};

/// How long after a disturbance of its worker a session may still end of it: TTL,
/// grace, and what a loaded machine adds.
const AFTERMATH: Duration = Duration::from_secs(12);
/// How long a call that had no answer may still be done.
const LATE: Duration = Duration::from_secs(10);

/// A session that a client was granted.
#[derive(Debug)]
pub struct Grant {
    pub tenant: String,
    /// When the answer was heard.
    pub at: Instant,
    /// Whose it is.
    pub link: Link,
    worker: String,
    /// Somebody asked to end it, or something befell its worker.
    may_end: bool,
}

/// What the operator was told that it holds; none: it is not known.
#[derive(Debug, Default)]
struct Switches {
    /// The run-time cap; `Some(None)`: lifted; the outer none: the config's.
    cap: Option<Option<Option<u32>>>,
    suspended: Option<bool>,
    /// Until when calls without an answer may still be done.
    cap_open: Option<Instant>,
    suspended_open: Option<Instant>,
}

/// A change by the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Cap(Option<Option<u32>>),
    Suspended(bool),
    /// The session that it was given.
    Revoked,
    /// None that would have to outlive a start.
    None,
}

#[derive(Debug, Default)]
pub struct Truth {
    grants: BTreeMap<String, Grant>,
    /// Sessions that somebody asked to end, granted or not yet.
    ending: BTreeSet<String>,
    /// Sessions that more than one worker asked for, by the first one.
    asked_by: BTreeMap<String, (String, Link)>,
    disturbed: BTreeMap<String, Instant>,
    tenants: BTreeMap<String, Switches>,
}

impl Truth {
    /// A worker asks for a session.
    pub fn asks(&mut self, id: &str, (worker, link): (&str, Link)) {
        let asks = (worker.to_owned(), link);
        let first = self.asked_by.entry(id.to_owned()).or_insert_with(|| asks.clone());
        if *first != asks {
            self.ends(id);
        }
    }

    pub fn granted(&mut self, id: &str, tenant: &str, (worker, link): (&str, Link)) {
        let disturbed = self.disturbed.get(worker).is_some_and(|at| at.elapsed() < AFTERMATH);
        let may_end = disturbed || self.ending.contains(id);
        let at = self.grants.get(id).map_or_else(Instant::now, |grant| grant.at);
        let (tenant, worker) = (tenant.to_owned(), worker.to_owned());
        let grant = Grant { tenant, at, link, worker, may_end };
        self.grants.insert(id.to_owned(), grant);
    }

    pub fn grant(&self, id: &str) -> Option<&Grant> {
        self.grants.get(id)
    }

    /// Sessions that it was granted and that nobody asked to end.
    pub fn held_by(&self, worker: &str) -> Vec<String> {
        let own =
            |(id, grant): &(&String, &Grant)| grant.worker == worker && !self.ending.contains(*id);
        self.grants.iter().filter(own).map(|(id, _)| id.clone()).collect()
    }

    /// Sessions that another identity was granted and that nobody asked to end.
    pub fn held_by_others(&self, link: Link) -> Vec<String> {
        let others = |(id, grant): &(&String, &Grant)| {
            grant.link != link && !grant.may_end && !self.ending.contains(*id)
        };
        self.grants.iter().filter(others).map(|(id, _)| id.clone()).collect()
    }

    /// A worker asks to end it. Where it is of another identity it may not.
    pub fn asks_to_end(&mut self, id: &str, link: Link) {
        if self.asked_by.get(id).is_none_or(|(_, owner)| *owner == link) {
            self.ends(id);
        }
    }

    /// Somebody who may ends it.
    pub fn ends(&mut self, id: &str) {
        self.ending.insert(id.to_owned());
        if let Some(grant) = self.grants.get_mut(id) {
            grant.may_end = true;
        }
    }

    /// Something befell this worker, or still does.
    pub fn disturb(&mut self, worker: &str) {
        self.disturbed.insert(worker.to_owned(), Instant::now());
        for grant in self.grants.values_mut().filter(|grant| grant.worker == worker) {
            grant.may_end = true;
        }
    }

    /// All sessions may end: a drain.
    pub fn all_may_end(&mut self) {
        for grant in self.grants.values_mut() {
            grant.may_end = true;
        }
    }

    /// The state was destroyed: nothing is promised of what was before.
    pub fn forget(&mut self) {
        *self = Self { disturbed: std::mem::take(&mut self.disturbed), ..Self::default() };
    }

    /// The state could not be written: what was set meanwhile may be forgotten.
    pub fn forget_switches(&mut self) {
        self.tenants.clear();
    }

    /// Sessions that must be live now.
    pub fn must_live<'a>(&'a self, model: &'a Model) -> impl Iterator<Item = (&'a str, &'a Grant)> {
        let over = |id: &String| model.ended.contains_key(id) || model.vanished.contains(id);
        let must = self.grants.iter().filter(move |(id, grant)| !grant.may_end && !over(id));
        must.map(|(id, grant)| (id.as_str(), grant))
    }

    /// Sessions that ended as lost although nothing had befallen their worker.
    pub fn lost_for_nothing<'a>(&'a self, model: &'a Model) -> impl Iterator<Item = String> {
        let lost = |id: &String| {
            model.ended.get(id) == Some(&v1::Outcome::Lost) || model.vanished.contains(id)
        };
        let lost = self.grants.iter().filter(move |(id, grant)| !grant.may_end && lost(id));
        lost.map(|(id, grant)| format!("{id} {grant:?}: {:?}", model.ended.get(id)))
    }

    /// The operator was answered, or not: then it may be done, or not, or later.
    pub fn changed(&mut self, tenant: &str, change: Change, answered: Option<bool>) {
        let of = self.tenants.entry(tenant.to_owned()).or_default();
        let now = Instant::now();
        let open = |until: &Option<Instant>| until.is_some_and(|until| until > now);
        match (change, answered) {
            (Change::None | Change::Revoked, _) | (_, Some(false)) => {}
            (Change::Cap(_), None) => (of.cap, of.cap_open) = (None, Some(now + LATE)),
            (Change::Suspended(_), None) => {
                (of.suspended, of.suspended_open) = (None, Some(now + LATE));
            }
            (Change::Cap(cap), Some(true)) => of.cap = (!open(&of.cap_open)).then_some(cap),
            (Change::Suspended(is), Some(true)) => {
                of.suspended = (!open(&of.suspended_open)).then_some(is);
            }
        }
    }

    /// Whether the tenants are as the operator was told.
    pub fn compare(&self, listed: &[v1::Tenant]) -> Result<(), String> {
        for (name, of) in &self.tenants {
            let is = listed.iter().find(|tenant| tenant.tenant == *name);
            let is_suspended = is.is_some_and(|tenant| tenant.suspension.is_some());
            if of.suspended.is_some_and(|suspended| suspended != is_suspended) {
                return Err(format!("{name} was left with {of:?}, and is {is:?}"));
            }
            let cap = is.filter(|tenant| tenant.cap_overridden).map(|tenant| tenant.cap);
            if of.cap.is_some_and(|set| set != cap) {
                return Err(format!("{name} was left with {of:?}, and is {is:?}"));
            }
        }
        Ok(())
    }
}
