//! The cases.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tenantd::{
    app::ports::{Publish, SharedCaps},
    domain::{
        access::{Access, Claim, Identity, Owner, Role, TenantPattern, TokenHash},
        event::{Kind, Severity},
        limits::Terms,
        reject::{Reason, Rejection},
        session::{EndCause, Failure, Outcome, Renewal},
        time::Now,
    },
};

use crate::support::{Ask, Bench, Make, session, tenant, terms, worker};

const HOUR: Duration = Duration::from_secs(3600);

fn held_by(name: &str) -> Renewal {
    Renewal { worker: Some(worker(name)), ttl: None, held: true }
}

pub async fn never_one_over_the_cap_when_threads_collide(make: Make) {
    for round in 0..20 {
        let bench = Arc::new(Bench::new(make));
        let start = Arc::new(tokio::sync::Barrier::new(64));
        let tries: Vec<_> = (0..64)
            .map(|n| {
                let (bench, start) = (Arc::clone(&bench), Arc::clone(&start));
                tokio::spawn(async move {
                    start.wait().await;
                    bench.acquire(&Ask::new("a", format!("s{n}")).cap(10)).await
                })
            })
            .collect();
        let mut granted = 0;
        for tried in tries {
            match tried.await.unwrap() {
                Ok(_) => granted += 1,
                Err(refused) => assert_eq!(refused.reason, Reason::TenantAtCap),
            }
        }
        assert_eq!(granted, 10, "round {round}");
    }
}

pub async fn churn_under_threads_loses_no_slot(make: Make) {
    let bench = Arc::new(Bench::new(make));
    let workers: Vec<_> = (0..8)
        .map(|thread| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                let of = ["a", "b"][thread % 2];
                for n in 0..500 {
                    // Half of the ids are fought over by all threads.
                    let id =
                        if n % 2 == 0 { format!("own-{thread}-{n}") } else { format!("{of}-{n}") };
                    if bench.acquire(&Ask::new(of, id.clone()).cap(3)).await.is_ok() {
                        let _ = bench
                            .store
                            .release(
                                &session(&id),
                                &Claim::Sidecar,
                                Outcome::Success,
                                None,
                                bench.now,
                            )
                            .await;
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(bench.store.totals().await.live, 0);
    let acquired = bench.log.count(|kind| matches!(kind, Kind::SessionAcquired { .. }));
    let ended = bench.log.count(|kind| matches!(kind, Kind::SessionEnded { .. }));
    assert_eq!(acquired, ended, "exactly one end for each acquired session");
    for n in 0..3 {
        bench.acquire(&Ask::new("a", format!("after-{n}")).cap(3)).await.unwrap();
    }
}

pub async fn an_id_is_one_session_of_one_tenant(make: Make) {
    let bench = Bench::new(make);
    assert!(bench.acquire(&Ask::new("a", "s")).await.unwrap().created);
    assert!(!bench.acquire(&Ask::new("a", "s")).await.unwrap().created);
    let refused = bench.acquire(&Ask::new("b", "s")).await.unwrap_err();
    assert_eq!(refused.reason, Reason::SessionConflict);
    assert_eq!(bench.store.totals().await.live, 1);
}

pub async fn an_ended_id_starts_no_ghost(make: Make) {
    let bench = Bench::new(make);
    bench.acquire(&Ask::new("a", "s")).await.unwrap();
    bench
        .store
        .release(&session("s"), &Claim::Sidecar, Outcome::Cancelled, None, bench.now)
        .await
        .unwrap();
    for _ in 0..2 {
        let refused = bench.acquire(&Ask::new("a", "s")).await.unwrap_err();
        assert_eq!(
            (refused.reason, refused.outcome),
            (Reason::SessionEnded, Some(Outcome::Cancelled))
        );
    }
    let again = bench
        .store
        .release(&session("s"), &Claim::Sidecar, Outcome::Success, None, bench.now)
        .await;
    assert_eq!(again.unwrap_err().outcome, Some(Outcome::Cancelled));
    assert_eq!(bench.store.totals().await.live, 0);
}

/// A step ends a bounded number of sessions for being due.
pub async fn however_many_are_due_at_once_each_has_ended_for_whoever_asks_about_it(make: Make) {
    const DUE: usize = 700;
    let mut bench = Bench::new(make);
    let ask = |n: usize| Ask { terms: terms(Some(1000)), ..Ask::new("acme", format!("s{n}")) };
    for n in 0..DUE {
        bench.acquire(&ask(n)).await.unwrap();
    }
    // Nothing but these calls lets time pass.
    let later = Duration::from_secs(3600);
    bench.now = Now { mono: bench.now.mono.plus(later), wall: bench.now.wall + later };
    // Those that no step has ended yet.
    let left = |bench: &Bench| -> Vec<usize> {
        let all = bench.log.all();
        let ended = all.iter().filter(|event| matches!(event.kind, Kind::SessionEnded { .. }));
        let ended: BTreeSet<_> = ended.filter_map(|event| event.subject.session.clone()).collect();
        (0..DUE).filter(|n| !ended.contains(&session(&format!("s{n}")))).collect()
    };
    for turn in 0..3 {
        let renewed = session(&format!("s{}", left(&bench)[turn * 7]));
        let by = Renewal::default();
        let renewed = bench.store.renew(&renewed, &Claim::Sidecar, by, bench.now).await;
        assert_eq!(renewed.unwrap_err().reason, Reason::SessionEnded);
    }
    let again = bench.acquire(&ask(left(&bench)[20])).await;
    assert_eq!(again.unwrap_err().reason, Reason::SessionEnded, "no ghost");
    let other = Owner { identity: Some("other".into()), lease: None };
    let other = Ask { owner: other, ..ask(left(&bench)[10]) };
    assert_eq!(bench.acquire(&other).await.unwrap_err().reason, Reason::SessionConflict);
    // A slot is free at once, though not all have ended.
    bench.acquire(&ask(DUE)).await.unwrap();
    let ended = |bench: &Bench| bench.log.count(|kind| matches!(kind, Kind::SessionEnded { .. }));
    assert!(ended(&bench) < DUE, "one step ends a bounded number");
    bench.wait(Duration::ZERO).await;
    assert_eq!(ended(&bench), DUE, "each once");
    assert_eq!(bench.store.totals().await.live, 1);
}

pub async fn a_held_session_outlives_its_ttl_and_ends_with_its_worker(make: Make) {
    let mut bench = Bench::new(make);
    bench.acquire(&Ask::new("a", "held").worker("w")).await.unwrap();
    bench.acquire(&Ask::new("a", "bare")).await.unwrap();
    bench.store.renew(&session("held"), &Claim::Sidecar, held_by("w"), bench.now).await.unwrap();
    bench.wait(HOUR).await;
    assert!(bench.store.session(&session("held"), &Claim::Sidecar).await.is_ok());
    let gone = bench.store.session(&session("bare"), &Claim::Sidecar).await.unwrap_err();
    assert_eq!(gone.outcome, Some(Outcome::Lost), "nobody renewed it");
    assert_eq!(bench.store.detach(&worker("w"), &Owner::default(), bench.now).await.sessions, 1);
    bench.wait(Duration::from_secs(10)).await;
    assert_eq!(bench.store.totals().await.live, 0, "no later than the grace");
}

pub async fn a_session_taken_by_another_worker_does_not_fall_with_the_first(make: Make) {
    let mut bench = Bench::new(make);
    bench.acquire(&Ask::new("a", "s").worker("request")).await.unwrap();
    bench.store.renew(&session("s"), &Claim::Sidecar, held_by("request"), bench.now).await.unwrap();
    bench.store.renew(&session("s"), &Claim::Sidecar, held_by("job"), bench.now).await.unwrap();
    assert_eq!(
        bench.store.detach(&worker("request"), &Owner::default(), bench.now).await.sessions,
        0
    );
    bench.wait(HOUR).await;
    let found = bench.store.session(&session("s"), &Claim::Sidecar).await.unwrap();
    assert_eq!(found.worker, Some(worker("job")));
    bench.store.detach(&worker("job"), &Owner::default(), bench.now).await;
    bench.wait(Duration::from_secs(10)).await;
    assert!(bench.store.session(&session("s"), &Claim::Sidecar).await.is_err());
}

pub async fn a_lost_worker_is_blamed_on_a_tenant_only_when_it_served_that_tenant_alone(make: Make) {
    for (other, opened) in [("a", 1), ("b", 0)] {
        let mut bench = Bench::new(make);
        for (of, id) in [("a", "s1"), ("a", "s2"), (other, "s3")] {
            bench.acquire(&Ask::new(of, id).worker("w")).await.unwrap();
        }
        bench.store.detach(&worker("w"), &Owner::default(), bench.now).await;
        bench.wait(Duration::from_secs(11)).await;
        let opens = bench.log.count(|kind| matches!(kind, Kind::BreakerOpened { .. }));
        assert_eq!(opens, opened, "with a session of {other}");
        let counted =
            bench.log.count(|kind| matches!(kind, Kind::SessionEnded { counted: true, .. }));
        // The two that open it count; what comes after belongs to its past.
        assert_eq!(counted, opened * 2, "with a session of {other}");
    }
}

pub async fn a_session_that_fails_is_counted_once(make: Make) {
    let bench = Bench::new(make);
    bench.acquire(&Ask::new("a", "s")).await.unwrap();
    for first in [true, false] {
        let (_, counted) = bench
            .store
            .report(&session("s"), &Claim::Sidecar, Failure::default(), false, bench.now)
            .await
            .unwrap();
        assert_eq!(counted, first);
    }
    let booked = bench
        .store
        .release(&session("s"), &Claim::Sidecar, Outcome::Success, None, bench.now)
        .await;
    assert_eq!(booked.unwrap(), Outcome::Failure);
    assert_eq!(bench.store.totals().await.failures, 1);
    let view = bench.store.snapshot(&tenant("a"), bench.now).await.unwrap().view;
    assert_eq!(view.totals.failures, 1);
}

pub async fn agent_and_machine_caps_hold_over_tenants(make: Make) {
    let bench = Bench::new(make);
    let caps = SharedCaps { agent: Some(1), machine: 2, unknown_tenants: 10 };
    let ask = |of, id: &str, agent| Ask { agent, caps, ..Ask::new(of, id) };
    bench.acquire(&ask("a", "s1", "booker")).await.unwrap();
    let refused = bench.acquire(&ask("b", "s2", "booker")).await.unwrap_err();
    assert_eq!((refused.reason, refused.current), (Reason::AgentAtCap, Some(1)));
    bench.acquire(&ask("b", "s3", "other")).await.unwrap();
    let refused = bench.acquire(&ask("c", "s4", "third")).await.unwrap_err();
    assert_eq!((refused.reason, refused.limit), (Reason::MachineAtCap, Some(2)));
    bench
        .store
        .release(&session("s1"), &Claim::Sidecar, Outcome::Success, None, bench.now)
        .await
        .unwrap();
    bench.acquire(&ask("c", "s5", "booker")).await.unwrap();
}

pub async fn a_refused_session_takes_nothing(make: Make) {
    let bench = Bench::new(make);
    let full = SharedCaps { agent: None, machine: 1, unknown_tenants: 10 };
    bench.acquire(&Ask::new("a", "s1")).await.unwrap();
    for n in 0..50 {
        let ask = Ask { caps: full, agent: "x", ..Ask::new("b", format!("no-{n}")) };
        assert!(bench.acquire(&ask).await.is_err());
        // The id is free: it was never a session.
        let gone =
            bench.store.session(&session(&format!("no-{n}")), &Claim::Sidecar).await.unwrap_err();
        assert_eq!(gone.reason, Reason::SessionUnknown);
    }
    assert_eq!(bench.store.totals().await.live, 1);
    bench
        .store
        .release(&session("s1"), &Claim::Sidecar, Outcome::Success, None, bench.now)
        .await
        .unwrap();
    bench.acquire(&Ask { caps: full, agent: "x", ..Ask::new("b", "yes") }).await.unwrap();
}

pub async fn made_up_tenants_are_bounded_and_dropped(make: Make) {
    let mut bench = Bench::new(make);
    let names: Vec<&'static str> =
        (0..20).map(|n| &*Box::leak(format!("made-up-{n}").into_boxed_str())).collect();
    let mut refused = BTreeSet::new();
    for name in &names {
        let mut ask = Ask::new(name, format!("s-{name}"));
        ask.terms.known = false;
        if let Err(said) = bench.acquire(&ask).await {
            refused.insert(said.reason.name());
        }
    }
    assert_eq!(refused, BTreeSet::from(["LIMIT_REACHED"]));
    assert_eq!(bench.store.totals().await.tenants, 10);
    bench.acquire(&Ask::new("configured", "s")).await.expect("a configured tenant has its place");
    bench.wait(HOUR).await;
    bench.wait(HOUR).await;
    assert_eq!(bench.store.totals().await.tenants, 0, "idle state is dropped");
}

pub async fn a_made_up_tenant_has_one_burst_however_soon_its_sessions_end(make: Make) {
    let mut bench = Bench::new(make);
    let mut ask = Ask::new("a", "");
    ask.terms.known = false;
    Arc::make_mut(&mut ask.terms.limits).acquires_per_second = Some(10);
    // Its samples would hold the state, too.
    Arc::make_mut(&mut ask.terms.limits).breaker.enabled = false;
    let mut granted = 0;
    // Ten seconds, in which its state has nothing to hold again and again.
    for n in 0..200 {
        for of in 0..5 {
            let id = format!("s-{n}-{of}");
            match bench.acquire(&Ask { session: id.clone(), ..ask.clone() }).await {
                Ok(_) => {
                    granted += 1;
                    let id = session(&id);
                    let release = bench.store.release(
                        &id,
                        &Claim::Sidecar,
                        Outcome::Success,
                        None,
                        bench.now,
                    );
                    release.await.unwrap();
                }
                Err(refused) => assert_eq!(refused.reason, Reason::RateLimited),
            }
        }
        bench.wait(Duration::from_millis(50)).await;
    }
    // A little more where its state was dropped with nearly a burst to have.
    assert!((108..=120).contains(&granted), "a burst of 10 and 10 a second: {granted}");
    bench.wait(HOUR).await;
    assert_eq!(bench.store.totals().await.tenants, 0, "it is dropped all the same");
}

pub async fn a_flood_of_refusals_is_answered_in_turn(make: Make) {
    let mut bench = Bench::new(make);
    bench.acquire(&Ask::new("a", "first").cap(1)).await.unwrap();
    let ask = Ask::new("a", "more").cap(1);
    let mut pauses = Vec::new();
    for _ in 0..2500 {
        pauses.push(bench.acquire(&ask).await.unwrap_err().pause_millis);
    }
    assert!(pauses[..1000].iter().all(|pause| *pause == 0), "a thousand are answered at once");
    assert_eq!((pauses[1100], pauses[1500]), (100, 500), "further ones in turn");
    assert_eq!(pauses.last(), Some(&1000), "and none later than a second");
    bench.acquire(&Ask::new("b", "other").cap(1)).await.expect("others have turns of their own");
    bench.wait(Duration::from_secs(3)).await;
    assert_eq!(bench.acquire(&ask).await.unwrap_err().pause_millis, 0, "it is over");
}

pub async fn terms_reach_a_live_tenant_once(make: Make) {
    let bench = Bench::new(make);
    for id in ["s1", "s2", "s3"] {
        bench.acquire(&Ask::new("a", id).cap(3)).await.unwrap();
    }
    let lower = terms(Some(1));
    assert!(bench.store.configure(&tenant("a"), &lower, bench.now).await);
    assert!(!bench.store.configure(&tenant("a"), &lower, bench.now).await, "it is on them");
    let changes = bench.log.count(|kind| matches!(kind, Kind::ConfigChanged { .. }));
    assert_eq!(changes, 1);
    assert_eq!(bench.store.totals().await.live, 3, "those above a lowered cap go on");
    let refused = bench.acquire(&Ask::new("a", "s4").cap(1)).await.unwrap_err();
    assert_eq!((refused.limit, refused.current), (Some(1), Some(3)));
}

pub async fn agent_events_are_bounded_per_tenant(make: Make) {
    let mut bench = Bench::new(make);
    for (of, id) in [("a", "s1"), ("a", "s2"), ("b", "s3")] {
        bench.acquire(&Ask::new(of, id)).await.unwrap();
    }
    let event = |id: &str| Publish {
        session: session(id),
        name: "turn".to_owned(),
        severity: Severity::Info,
        attributes: serde_json::Map::new(),
    };
    let mut taken = 0;
    for n in 0..20 {
        let id = if n % 2 == 0 { "s1" } else { "s2" };
        taken +=
            u32::from(bench.store.publish(event(id), &Claim::Sidecar, 5, bench.now).await.is_ok());
    }
    assert_eq!(taken, 5, "the tenant's sessions share one budget");
    bench
        .store
        .publish(event("s3"), &Claim::Sidecar, 5, bench.now)
        .await
        .expect("a sibling has its own");
    bench.wait(Duration::from_secs(1)).await;
    bench
        .store
        .publish(event("s1"), &Claim::Sidecar, 5, bench.now)
        .await
        .expect("the next second's");
}

pub async fn an_acquire_brings_later_terms_with_it_and_no_earlier_ones(make: Make) {
    let bench = Bench::new(make);
    let (first, second, third) = (terms(Some(1)), terms(Some(2)), terms(Some(1)));
    let on = |id: &str, terms: &Terms| Ask { terms: terms.clone(), ..Ask::new("a", id) };
    bench.acquire(&on("s1", &first)).await.unwrap();
    bench.acquire(&on("s2", &second)).await.expect("the raised cap holds at once");
    bench.acquire(&on("s3", &first)).await.expect_err("full");
    let version = |snapshot: Option<tenantd::app::ports::TenantSnapshot>| snapshot.unwrap().version;
    let held = version(bench.store.snapshot(&tenant("a"), bench.now).await);
    assert_eq!(held, second.told(), "a slow caller's terms are not gone back to");
    let refused = bench.acquire(&on("s3", &third)).await.unwrap_err();
    assert_eq!((refused.limit, refused.current), (Some(1), Some(2)));
}

fn identity(name: &str, tenants: &[&str]) -> Identity {
    Identity {
        name: name.into(),
        roles: vec![Role::Agent],
        tenants: tenants.iter().map(|of| TenantPattern::parse(of).unwrap()).collect(),
        ..Identity::clone(&Access::anyone())
    }
}

pub async fn a_session_is_its_holders_alone(make: Make) {
    let bench = Bench::new(make);
    let shared = Identity { shared: true, ..identity("shared", &["a"]) };
    let mine = Owner::of(&shared, Some(TokenHash::of("mine")));
    bench.acquire(&Ask { owner: mine.clone(), ..Ask::new("a", "s") }).await.unwrap();
    let holder = |identity: Identity, lease: &str| {
        Claim::holder(&Arc::new(identity), Some(TokenHash::of(lease)))
    };
    let wrong = [
        holder(shared.clone(), "other"),
        Claim::holder(&Arc::new(shared.clone()), None),
        holder(identity("another", &["*"]), "mine"),
        holder(Identity { shared: true, ..identity("shared", &["b"]) }, "mine"),
        Claim::Operator(Arc::new(identity("ops", &["b"]))),
    ];
    let before = bench.log.all().len();
    let (id, never) = (session("s"), session("never"));
    let (store, now) = (&bench.store, bench.now);
    let event = || Publish {
        session: session("s"),
        name: "x".to_owned(),
        severity: Severity::Info,
        attributes: serde_json::Map::new(),
    };
    // Before it ends, and after: the same words as of one that never was.
    for ended in [false, true] {
        let unknown = store.session(&never, &Claim::Sidecar).await.unwrap_err();
        for claim in &wrong {
            let refusals = [
                store.renew(&id, claim, held_by("w"), now).await.unwrap_err(),
                store.release(&id, claim, Outcome::Failure, None, now).await.unwrap_err(),
                store.report(&id, claim, Failure::default(), true, now).await.unwrap_err(),
                store.revoke(&id, claim, EndCause::Revoked, None, now).await.unwrap_err(),
                store.publish(event(), claim, 5, now).await.unwrap_err(),
                store.session(&id, claim).await.unwrap_err(),
            ];
            for refused in refusals {
                assert_eq!(refused.hidden.as_deref(), Some(&tenant("a")), "operators are told");
                assert_eq!(Rejection { hidden: None, ..refused }, unknown);
            }
        }
        for owner in [Owner::default(), Owner::of(&shared, None)] {
            let refused = bench.acquire(&Ask { owner, ..Ask::new("a", "s") }).await.unwrap_err();
            assert_eq!(refused.reason, Reason::SessionConflict);
        }
        if !ended {
            assert_eq!(bench.log.all().len(), before, "nothing happened");
            let again = Ask { owner: mine.clone(), ..Ask::new("a", "s") };
            assert!(!bench.acquire(&again).await.unwrap().created);
            let claim = holder(shared.clone(), "mine");
            store.release(&id, &claim, Outcome::Success, None, now).await.unwrap();
        }
    }
}

pub async fn a_worker_name_means_nothing_to_another_identity(make: Make) {
    let mut bench = Bench::new(make);
    let (a, b) = (Owner::of(&identity("a", &["*"]), None), Owner::of(&identity("b", &["*"]), None));
    bench.acquire(&Ask { owner: a.clone(), ..Ask::new("a", "s").worker("w") }).await.unwrap();
    assert_eq!(bench.store.detach(&worker("w"), &b, bench.now).await.sessions, 0);
    assert_eq!(bench.store.detach(&worker("w"), &a, bench.now).await.sessions, 1);
    bench.store.attach(&worker("w"), &b, bench.now).await;
    bench.wait(Duration::from_secs(11)).await;
    assert_eq!(bench.store.totals().await.live, 0, "the other one kept it alive");
}
