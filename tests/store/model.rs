//! The store against a naive model: random interleavings over several tenants.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::support::Log;
use proptest::prelude::*;
use tenantd::{
    app::ports::{EventSink, SessionStore, SharedCaps, TenantSnapshot},
    domain::{
        access::{Claim, Owner},
        admission::Acquire,
        event::{Event, Kind},
        limits::{BreakerPolicy, LeasePolicy, TenantLimits, Terms},
        reject::Reason,
        session::{Failure, Outcome, Renewal, SessionId, WorkerId},
        tenant::TenantId,
        time::{Now, Timestamp},
    },
};

const TENANTS: [&str; 3] = ["a", "b", "c"];
const MACHINE: u32 = 5;

#[derive(Debug, Clone)]
pub enum Op {
    Acquire {
        tenant: usize,
        session: u8,
        worker: u8,
        activate: bool,
    },
    Renew {
        session: u8,
    },
    Hold {
        session: u8,
        worker: u8,
    },
    Release {
        session: u8,
        outcome: Outcome,
    },
    Report {
        session: u8,
        end: bool,
    },
    Detach {
        worker: u8,
    },
    Attach {
        worker: u8,
    },
    Wait {
        millis: u64,
    },
    Cap {
        tenant: usize,
        cap: u32,
    },
    /// The process is killed, and another one takes over.
    Restart,
}

/// What a restart may not change. Leases may be longer, and wait for a sign of
/// life.
fn lasting(snapshot: &TenantSnapshot) -> String {
    let mut sessions: Vec<_> = snapshot
        .sessions
        .iter()
        .map(|s| format!("{} {:?} {:?} {} {}", s.id, s.worker, s.acquired, s.probe, s.failed))
        .collect();
    sessions.sort();
    let view = &snapshot.view;
    format!("{sessions:?} {:?} {:?} {:?} {}", view.breaker, view.probes, view.cap, view.pending)
}

pub fn op() -> impl Strategy<Value = Op> {
    let outcome =
        prop_oneof![Just(Outcome::Success), Just(Outcome::Failure), Just(Outcome::Cancelled)];
    prop_oneof![
        4 => (0..3_usize, 0..12_u8, 0..3_u8, any::<bool>())
            .prop_map(|(tenant, session, worker, activate)| Op::Acquire { tenant, session, worker, activate }),
        2 => (0..12_u8).prop_map(|session| Op::Renew { session }),
        1 => (0..12_u8, 0..3_u8).prop_map(|(session, worker)| Op::Hold { session, worker }),
        3 => (0..12_u8, outcome).prop_map(|(session, outcome)| Op::Release { session, outcome }),
        1 => (0..12_u8, any::<bool>()).prop_map(|(session, end)| Op::Report { session, end }),
        1 => (0..3_u8).prop_map(|worker| Op::Detach { worker }),
        1 => (0..3_u8).prop_map(|worker| Op::Attach { worker }),
        2 => (1..40_000_u64).prop_map(|millis| Op::Wait { millis }),
        1 => (0..3_usize, 1..4_u32).prop_map(|(tenant, cap)| Op::Cap { tenant, cap }),
    ]
}

/// What the events alone say is live, by tenant.
fn live_by_events(events: &[Event]) -> BTreeMap<String, BTreeSet<String>> {
    let mut live: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in events {
        let tenant = event.subject.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let session = event.subject.session.as_ref().map(ToString::to_string).unwrap_or_default();
        match event.kind {
            Kind::SessionAcquired { .. } => {
                assert!(live.entry(tenant).or_default().insert(session), "acquired twice");
            }
            Kind::SessionEnded { .. } => {
                assert!(
                    live.entry(tenant).or_default().remove(&session),
                    "ended twice, or never acquired"
                );
            }
            _ => {}
        }
    }
    live
}

pub async fn play(
    mut make: impl AsyncFnMut(Arc<dyn EventSink>, Now) -> Arc<dyn SessionStore>,
    ops: Vec<Op>,
) {
    let log = Arc::new(Log::default());
    let tenants = TENANTS.map(|id| TenantId::parse(id).unwrap());
    let mut caps = [2_u32; 3];
    let mut now =
        Now { mono: Timestamp::new(Duration::from_secs(1)), wall: Duration::from_secs(1) };
    let mut store = make(log.clone(), now).await;
    let limits = |cap: u32| Terms {
        known: true,
        version: cap.to_string(),
        limits: Arc::new(TenantLimits {
            acquires_per_second: None,
            cap: Some(cap),
            lease: LeasePolicy::default(),
            breaker: BreakerPolicy {
                min_samples: 2,
                cooldown: Duration::from_secs(20),
                probes: 1,
                ..Default::default()
            },
        }),
        generation: tenantd::config::next_generation(),
        credentials: Some(0),
    };
    let session = |n: u8| SessionId::parse(&format!("s{n}")).unwrap();
    let worker = |n: u8| WorkerId::parse(&format!("w{n}")).unwrap();
    for op in ops {
        let seen = log.all().len();
        let mut touched = None;
        match op {
            Op::Acquire { tenant, session: id, worker: by, activate } => {
                touched = Some(tenant);
                let request = Acquire {
                    session: session(id),
                    owner: Owner::default(),
                    agent: None,
                    worker: Some(worker(by)),
                    ttl: None,
                    activate,
                    draining: false,
                    config_failed: None,
                    config_version: String::new(),
                    per_second: None,
                };
                let shared = SharedCaps { agent: None, machine: MACHINE, unknown_tenants: 10 };
                let before = live_by_events(&log.all());
                let result = store
                    .acquire(&tenants[tenant], &limits(caps[tenant]), request, shared, now)
                    .await;
                let after = live_by_events(&log.all());
                let of = |live: &BTreeMap<String, BTreeSet<String>>| {
                    live.get(TENANTS[tenant]).map_or(0, BTreeSet::len)
                };
                match result {
                    Ok(grant) if grant.created => {
                        assert!(of(&after) <= caps[tenant] as usize, "over the cap");
                    }
                    Ok(_) => assert!(before.values().any(|ids| ids.contains(&format!("s{id}")))),
                    Err(refused) if refused.reason == Reason::TenantAtCap => {
                        assert!(
                            of(&after) >= caps[tenant] as usize,
                            "refused below the cap: a slot is lost"
                        );
                    }
                    Err(refused) if refused.reason == Reason::MachineAtCap => {
                        let all: usize = after.values().map(BTreeSet::len).sum();
                        assert_eq!(all, MACHINE as usize, "refused below the machine's cap");
                    }
                    Err(_) => {}
                }
            }
            Op::Renew { session: id } => {
                _ = store.renew(&session(id), &Claim::Sidecar, Renewal::default(), now).await
            }
            Op::Hold { session: id, worker: by } => {
                let renewal = Renewal { worker: Some(worker(by)), ttl: None, held: true };
                _ = store.renew(&session(id), &Claim::Sidecar, renewal, now).await
            }
            Op::Release { session: id, outcome } => {
                _ = store.release(&session(id), &Claim::Sidecar, outcome, None, now).await
            }
            Op::Report { session: id, end } => {
                _ = store.report(&session(id), &Claim::Sidecar, Failure::default(), end, now).await
            }
            Op::Detach { worker: by } => {
                _ = store.detach(&worker(by), &Owner::default(), now).await
            }
            Op::Attach { worker: by } => store.attach(&worker(by), &Owner::default(), now).await,
            Op::Wait { millis } => {
                let by = Duration::from_millis(millis);
                now = Now { mono: now.mono.plus(by), wall: now.wall + by };
                store.expire(Duration::from_secs(60), now).await;
            }
            Op::Restart => {
                store.expire(Duration::from_secs(60), now).await;
                let mut before = Vec::new();
                for tenant in &tenants {
                    before.push(store.snapshot(tenant, now).await);
                }
                drop(store);
                store = make(log.clone(), now).await;
                for (tenant, before) in tenants.iter().zip(before) {
                    let Some(before) = before else { continue };
                    let after = store.snapshot(tenant, now).await.expect("it is remembered");
                    assert_eq!(lasting(&after), lasting(&before));
                }
            }
            Op::Cap { tenant, cap } => {
                touched = Some(tenant);
                caps[tenant] = cap;
                store.configure(&tenants[tenant], &limits(cap), now).await;
            }
        }
        let events = log.all();
        if let Some(tenant) = touched {
            for event in &events[seen..] {
                let of = event.subject.tenant.as_ref().map(TenantId::as_str);
                assert_eq!(of, Some(TENANTS[tenant]), "an operation on one tenant changed another");
            }
        }
        let live = live_by_events(&events);
        let all: usize = live.values().map(BTreeSet::len).sum();
        assert!(all <= MACHINE as usize, "over the machine's cap");
        assert_eq!(store.totals().await.live as usize, all, "the count and the events differ");
        for (index, tenant) in tenants.iter().enumerate() {
            let held: BTreeSet<String> = store
                .snapshot(tenant, now)
                .await
                .map(|snapshot| snapshot.sessions.iter().map(|s| s.id.to_string()).collect())
                .unwrap_or_default();
            assert_eq!(held, live.get(TENANTS[index]).cloned().unwrap_or_default());
        }
    }
    // Every worker dies: no slot outlives TTL and grace.
    for by in 0..3 {
        store.detach(&worker(by), &Owner::default(), now).await;
    }
    let later = Duration::from_secs(80);
    now = Now { mono: now.mono.plus(later), wall: now.wall + later };
    store.expire(Duration::from_secs(60), now).await;
    assert_eq!(store.totals().await.live, 0, "a slot leaked");
}
