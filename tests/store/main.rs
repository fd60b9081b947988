//! What every session store must do, run on each of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod model;
mod restart;
mod suite;
mod support;

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use tenantd::{
    app::ports::{EventSink, NoJournal, SessionStore},
    store::memory::MemoryStore,
};

fn memory(sink: Arc<dyn EventSink>) -> Arc<dyn SessionStore> {
    Arc::new(MemoryStore::new(sink, Arc::new(NoJournal), (100_000, Duration::from_secs(100_000))))
}

/// Each case of the suite as a test of its own, for one kind of store.
macro_rules! on {
    ($make:ident: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                suite::$case($make).await;
            }
        )*
    };
}

on!(memory:
    never_one_over_the_cap_when_threads_collide,
    churn_under_threads_loses_no_slot,
    an_id_is_one_session_of_one_tenant,
    an_ended_id_starts_no_ghost,
    however_many_are_due_at_once_each_has_ended_for_whoever_asks_about_it,
    a_held_session_outlives_its_ttl_and_ends_with_its_worker,
    a_session_taken_by_another_worker_does_not_fall_with_the_first,
    a_lost_worker_is_blamed_on_a_tenant_only_when_it_served_that_tenant_alone,
    a_session_that_fails_is_counted_once,
    agent_and_machine_caps_hold_over_tenants,
    a_refused_session_takes_nothing,
    made_up_tenants_are_bounded_and_dropped,
    a_made_up_tenant_has_one_burst_however_soon_its_sessions_end,
    a_flood_of_refusals_is_answered_in_turn,
    terms_reach_a_live_tenant_once,
    an_acquire_brings_later_terms_with_it_and_no_earlier_ones,
    agent_events_are_bounded_per_tenant,
    a_session_is_its_holders_alone,
    a_worker_name_means_nothing_to_another_identity,
);

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_breaks_a_cap_loses_a_slot_or_touches_a_sibling(ops in prop::collection::vec(model::op(), 1..120)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(model::play(async |sink, _| memory(sink), ops));
    }

    #[test]
    fn no_restart_forgets_a_session_frees_a_slot_or_changes_a_breaker(ops in prop::collection::vec(restart::op(), 1..80)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(restart::play(ops));
    }
}
