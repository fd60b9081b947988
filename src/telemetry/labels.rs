//! Which tenants metrics tell apart.

use std::collections::HashSet;

use opentelemetry::KeyValue;
use parking_lot::Mutex;

use super::names;
use crate::domain::tenant::TenantId;

/// Most tenants with an entry of their own that are told by name.
const MAX_KNOWN: usize = 10_000;

/// Tenants with an entry by name, so that a flood of made-up ids cannot push one
/// out; of the others the first few by name and the rest together, so that it
/// cannot fill a metrics store either. A name once told stays told: a series that
/// changes its name would be two.
pub struct TenantLabels {
    told: Mutex<Told>,
    max: usize,
}

#[derive(Default)]
struct Told {
    known: HashSet<TenantId>,
    others: HashSet<TenantId>,
}

impl TenantLabels {
    /// Tells at most `max` tenants without an entry apart.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { told: Mutex::default(), max }
    }

    /// Most tenants told by name, and the rest as one.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.max + MAX_KNOWN + 1
    }

    /// The label; true when it stands for several.
    #[must_use]
    pub fn label(&self, tenant: &TenantId, known: bool) -> (KeyValue, bool) {
        let told = &mut *self.told.lock();
        let named = told.known.contains(tenant) || told.others.contains(tenant) || {
            let (names, max) =
                if known { (&mut told.known, MAX_KNOWN) } else { (&mut told.others, self.max) };
            names.len() < max && names.insert(tenant.clone())
        };
        let value = if named { tenant.to_string() } else { names::OTHER.to_owned() };
        (KeyValue::new(names::TENANT, value), !named)
    }
}
