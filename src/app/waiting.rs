//! How many acquires wait for their tenant's config: bounded, for each tenant and
//! for all, so that a slow source or a flood fills no memory.

use std::sync::Arc;

use dashmap::{DashMap, Entry};
use parking_lot::Mutex;

use super::atomic::{AtomicU32, Ordering};
use crate::domain::{
    budget::Budget,
    reject::{Reason, Rejection},
    tenant::TenantId,
    time::Now,
};

/// Most refusals that have an event, in a second; all are counted.
const TOLD_PER_SECOND: u32 = 10;

/// Those that wait.
#[derive(Default)]
pub struct Waiting {
    all: AtomicU32,
    of: DashMap<TenantId, u32>,
    told: Mutex<Budget>,
}

/// One that waits, until it is dropped.
pub struct Place {
    waiting: Arc<Waiting>,
    tenant: TenantId,
}

impl Waiting {
    /// Takes a place among the most of all and the most of one tenant.
    ///
    /// # Errors
    /// `OVERLOADED`.
    pub fn enter(
        self: &Arc<Self>,
        tenant: &TenantId,
        (most, most_of_one): (u32, u32),
    ) -> Result<Place, Rejection> {
        let overloaded = |whose: &str, most| {
            let message =
                format!("{most} acquires of {whose} wait for a config already, the most that may");
            Rejection::new(Reason::Overloaded, message).of(tenant)
        };
        let mut mine = self.of.entry(tenant.clone()).or_insert(0);
        if *mine >= most_of_one {
            return Err(overloaded("the tenant", most_of_one));
        }
        let taken = self
            .all
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < most).then_some(n + 1));
        if taken.is_err() {
            let unused = *mine == 0;
            drop(mine);
            if unused {
                self.of.remove_if(tenant, |_, count| *count == 0);
            }
            return Err(overloaded("all tenants", most));
        }
        *mine += 1;
        drop(mine);
        Ok(Place { waiting: Arc::clone(self), tenant: tenant.clone() })
    }

    /// A refusal may have an event.
    pub fn may_tell(&self, now: Now) -> bool {
        self.told.lock().take(TOLD_PER_SECOND, now.mono)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.all.fetch_sub(1, Ordering::AcqRel);
        if let Entry::Occupied(mut count) = self.waiting.of.entry(self.tenant.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_that_waits_takes_no_place_of_anothers_and_gives_back_what_it_took() {
        let waiting = Arc::<Waiting>::default();
        let tenant = |id: &str| TenantId::parse(id).unwrap();
        let (a, b) = (tenant("a"), tenant("b"));
        let most = (3, 2);
        let first: Vec<_> = (0..2).map(|_| waiting.enter(&a, most).ok().unwrap()).collect();
        let refused = waiting.enter(&a, most).err().unwrap();
        assert_eq!(refused.reason, Reason::Overloaded);
        assert!(refused.message.contains("2 acquires of the tenant"), "{refused}");
        let other = waiting.enter(&b, most).ok().unwrap();
        let refused = waiting.enter(&b, most).err().unwrap();
        assert!(refused.message.contains("3 acquires of all tenants"), "{refused}");
        drop((first, other));
        assert!(waiting.of.is_empty(), "idle tenants are forgotten");
        assert_eq!(waiting.all.load(Ordering::Acquire), 0);
    }
}
