//! Why an acquire is refused, over the wire: reason, figures, disposition.

use std::time::{Duration, Instant};

use tenantd::{app::shed::Shed, wire::v1};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{acquire, reason, release, start};

fn figure(refused: &Status, name: &str) -> String {
    let details = refused.get_error_details();
    let info = details.error_info().expect("ErrorInfo");
    info.metadata.get(name).cloned().unwrap_or_default()
}

fn by(agent: &str, id: &str, tenant: &str) -> v1::AcquireSessionRequest {
    v1::AcquireSessionRequest { agent_name: agent.to_owned(), ..acquire(id, tenant) }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_agent_and_machine_caps_refuse_in_this_order_with_their_figures() {
    let running =
        start("[limits]\nmax_sessions = 3\n[agents.booker]\ncap = 2\n[tenants.acme]\ncap = 1\n")
            .await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(by("booker", "a1", "acme")).await.unwrap();
    for (agent, id, tenant, want, limit) in [
        ("booker", "a2", "acme", "TENANT_AT_CAP", "1"),
        ("booker", "g1", "globex", "", ""),
        ("booker", "g2", "globex", "AGENT_AT_CAP", "2"),
        ("", "g3", "globex", "", ""),
        ("", "g4", "globex", "MACHINE_AT_CAP", "3"),
        ("booker", "a3", "acme", "TENANT_AT_CAP", "1"),
        ("booker", "g5", "globex", "AGENT_AT_CAP", "2"),
    ] {
        let tried = sessions.acquire_session(by(agent, id, tenant)).await;
        let Err(refused) = tried else {
            assert_eq!(want, "", "{id}");
            continue;
        };
        assert_eq!(reason(&refused), want, "{id}");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(
            (figure(&refused, "limit"), figure(&refused, "current")),
            (limit.into(), limit.into())
        );
        assert_eq!(figure(&refused, "disposition"), "retry_elsewhere");
        assert_eq!(figure(&refused, "tenant"), tenant);
    }
    sessions.release_session(release("a1")).await.unwrap();
    sessions.acquire_session(by("booker", "a4", "acme")).await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_is_refused_before_its_cap_and_its_sibling_goes_on() {
    let running = start("[tenants.acme]\ncap = 1\n").await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("a1", "acme")).await.unwrap();
    let asked = v1::SuspendTenantRequest { tenant: "acme".into(), note: "key leaked".into() };
    running.admin().await.suspend_tenant(asked).await.unwrap();
    let refused = sessions.acquire_session(acquire("a2", "acme")).await.unwrap_err();
    assert_eq!(
        (reason(&refused).as_str(), refused.code()),
        ("TENANT_SUSPENDED", Code::FailedPrecondition)
    );
    assert!(refused.message().contains("key leaked"));
    sessions.acquire_session(acquire("g1", "globex")).await.unwrap();
    let renew = v1::RenewSessionRequest { session_id: "a1".into(), ..Default::default() };
    sessions.renew_session(renew).await.expect("live sessions go on");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tenants_can_be_rejected_and_those_without_a_name_are_not_unknown() {
    let running = start("unknown_tenants = 'reject'\n[tenants.acme]\n").await;
    let mut sessions = running.sessions().await;
    let refused = sessions.acquire_session(acquire("s", "globex")).await.unwrap_err();
    assert_eq!((reason(&refused).as_str(), refused.code()), ("TENANT_UNKNOWN", Code::NotFound));
    sessions.acquire_session(acquire("a", "acme")).await.unwrap();
    sessions.acquire_session(acquire("d", "")).await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_resolve_refuses_its_tenant_alone_and_is_told_once() {
    let running =
        start("[tenants.acme.providers.llm]\nprovider = 'openai'\ncredential = 'file:missing'\n")
            .await;
    let mut sessions = running.sessions().await;
    for id in ["a1", "a2"] {
        let refused = sessions.acquire_session(acquire(id, "acme")).await.unwrap_err();
        assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE");
        assert!(refused.message().contains("llm.api_key: file:"), "{refused}");
    }
    sessions.acquire_session(acquire("g", "globex")).await.unwrap();
    let failed = || {
        let entries = running.sidecar.events.after(0).unwrap();
        entries.iter().filter(|entry| entry.event.kind.name() == "tenant_config_failed").count()
    };
    assert_eq!(failed(), 1, "the change is the event, not each try");
    std::fs::write(running.config.with_file_name("missing"), "sk-now-there").unwrap();
    let granted = sessions.acquire_session(acquire("a3", "acme")).await.unwrap().into_inner();
    let providers = granted.config.unwrap().providers;
    assert_eq!(providers["llm"].credentials["api_key"].value, "sk-now-there");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_beyond_a_thousand_a_second_are_answered_in_turn() {
    const BURST: usize = 3000;
    let running = start("[tenants.acme]\ncap = 1\n").await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("only", "acme")).await.unwrap();
    let began = Instant::now();
    let refused: Vec<_> = (0..BURST)
        .map(|n| {
            let mut sessions = sessions.clone();
            tokio::spawn(async move {
                let asked = acquire(&format!("r{n}"), "acme");
                let refused = sessions.acquire_session(asked).await.unwrap_err();
                assert_eq!(reason(&refused), "TENANT_AT_CAP");
            })
        })
        .collect();
    sessions.acquire_session(acquire("g1", "globex")).await.unwrap();
    for refused in refused {
        refused.await.unwrap();
    }
    // A thousand at once, a thousand more in a second, and as many in turn, or a second
    // after they were refused: a slow machine takes longer, and none takes less.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(950), "all are answered after {took:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_less_than_its_turn_is_refused_while_it_waits() {
    const BURST: usize = 4000;
    let running = start("[tenants.acme]\ncap = 1\n").await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("only", "acme")).await.unwrap();
    let burst: Vec<_> = (0..BURST)
        .map(|n| {
            let mut sessions = sessions.clone();
            tokio::spawn(async move {
                let asked = acquire(&format!("r{n}"), "acme");
                let refused = sessions.acquire_session(asked).await.unwrap_err();
                assert_eq!(reason(&refused), "TENANT_AT_CAP", "{refused:?}");
            })
        })
        .collect();
    // So many were refused that a further one is to wait for most of a second.
    let mut others = running.sessions().await;
    let mut watches = running.watches().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let asked = v1::GetSnapshotRequest::default();
        let snapshot = watches.get_snapshot(asked).await.unwrap().into_inner();
        if snapshot.total_rejections.values().sum::<u64>() >= 2000 {
            break;
        }
        assert!(Instant::now() < deadline, "{:?}", snapshot.total_rejections);
    }
    let mut asked = tonic::Request::new(acquire("hasty", "acme"));
    asked.set_timeout(Duration::from_millis(400));
    let refused = others.acquire_session(asked).await.unwrap_err();
    assert_eq!(reason(&refused), "TENANT_AT_CAP", "{refused}");
    for refused in burst {
        refused.await.unwrap();
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_more_metadata_than_may_be_is_refused_and_its_connection_goes_on() {
    let running = start("").await;
    let mut sessions = running.sessions().await;
    let with = |entries: usize, id: &str| {
        let mut asked = tonic::Request::new(acquire(id, "acme"));
        for n in 0..entries {
            asked.metadata_mut().append("x", n.to_string().parse().unwrap());
        }
        asked
    };
    // Beside those that every call has.
    sessions.acquire_session(with(110, "s1")).await.unwrap();
    let refused = sessions.acquire_session(with(129, "s2")).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::InvalidArgument, "INVALID_FIELD")
    );
    assert!(refused.message().contains("128"), "{}", refused.message());
    sessions.release_session(release("s1")).await.unwrap();
    let sheds = Shed::ALL.into_iter().zip(running.sidecar.figures().await.shed);
    let counted: Vec<_> = sheds.filter(|(_, count)| *count > 0).collect();
    assert_eq!(counted, [(Shed::TooManyHeaders, 1)]);
    running.stop().await;
}
