//! Who may do what, over a real socket: every method of the API for every role,
//! for its own tenant and another's.

use std::collections::BTreeSet;

use tenantd::{
    domain::access::{Role, Scope, TABLE, TokenHash},
    wire::v1,
};
use tonic::{Request, Status};

use crate::support::{self, Running, eventually, reason};

const ROLES: [(Role, &str); 3] =
    [(Role::Agent, "agent"), (Role::Viewer, "viewer"), (Role::Admin, "admin")];

/// An identity of each role for acme, one of each for all, and one shared.
fn config() -> String {
    let mut text = "[lease]\ngrace='1s'\n".to_owned();
    for (_, role) in ROLES {
        for (of, tenants) in [("acme", "acme"), ("all", "*")] {
            let token = format!("{role}-{of}");
            text.push_str(&identity(&token, role, tenants, ""));
        }
    }
    text.push_str(&identity("agent-globex", "agent", "globex", ""));
    text.push_str(&identity("shared", "agent", "*", "shared=true\n"));
    text
}

fn identity(token: &str, role: &str, tenants: &str, more: &str) -> String {
    let hash = TokenHash::of(token).hex();
    format!(
        "[[identities]]\nname='{token}'\nroles=['{role}']\ntenants=['{tenants}']\ntokens=['sha256:{hash}']\n{more}"
    )
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn acquire(id: &str, tenant: &str, lease: &str) -> v1::AcquireSessionRequest {
    v1::AcquireSessionRequest { lease_token: lease.to_owned(), ..support::acquire(id, tenant) }
}

/// One call of each method about `tenant` and `session`. A stream's first answer
/// counts, and of batches the first refusal. `None`: a method that this does not
/// know, so that a new one fails the test.
async fn call(
    on: &Running,
    token: &str,
    rpc: &str,
    tenant: &str,
    session: &str,
) -> Option<Result<(), String>> {
    let (mut sessions, mut watches, mut admin) =
        (on.sessions().await, on.watches().await, on.admin().await);
    let tenant = tenant.to_owned();
    let session_id = session.to_owned();
    let note = String::new();
    let said = |status: Status| reason(&status);
    fn done<T>(result: Result<T, Status>) -> Result<(), Status> {
        result.map(|_| ())
    }
    macro_rules! unary {
        ($client:ident.$method:ident($message:expr)) => {
            done($client.$method(with(token, $message)).await).map_err(said)
        };
    }
    Some(match rpc {
        "SessionService/AcquireSession" => {
            unary!(sessions.acquire_session(support::acquire("fresh", &tenant)))
        }
        "SessionService/RenewSession" => {
            unary!(
                sessions
                    .renew_session(v1::RenewSessionRequest { session_id, ..Default::default() })
            )
        }
        "SessionService/ReleaseSession" => {
            unary!(sessions.release_session(support::release(session)))
        }
        "SessionService/ReportFailure" => unary!(
            sessions.report_failure(v1::ReportFailureRequest { session_id, ..Default::default() })
        ),
        "SessionService/GetSessionConfig" => {
            unary!(sessions.get_session_config(v1::GetSessionConfigRequest {
                session_id,
                ..Default::default()
            }))
        }
        "SessionService/KeepAlive" => {
            let first = v1::KeepAliveRequest {
                worker: format!("worker-of-{token}"),
                attach_session_ids: vec![session_id],
                ..Default::default()
            };
            let stream = tokio_stream::iter([first]);
            match sessions.keep_alive(with(token, stream)).await {
                Err(status) => Err(said(status)),
                Ok(answer) => match answer.into_inner().message().await {
                    Err(status) => Err(said(status)),
                    Ok(Some(v1::KeepAliveResponse {
                        message: Some(v1::keep_alive_response::Message::Attached(attached)),
                    })) => match attached.refused.into_iter().next() {
                        Some(refused) => Err(refused.reason),
                        None => Ok(()),
                    },
                    Ok(other) => Err(format!("{other:?}")),
                },
            }
        }
        "SessionService/Work" => {
            let release = support::release(session);
            let call = Some(v1::work_call::Call::ReleaseSession(release));
            let calls = vec![v1::WorkCall { id: 1, call, ..Default::default() }];
            let stream = tokio_stream::iter([v1::WorkRequest { calls }]);
            match sessions.work(with(token, stream)).await {
                Err(status) => Err(said(status)),
                Ok(answers) => {
                    let response = answers.into_inner().message().await.unwrap().unwrap();
                    match response.answers[0].answer.as_ref() {
                        Some(v1::work_answer::Answer::Error(error)) => {
                            Err(said(crate::work::refused(error)))
                        }
                        _ => Ok(()),
                    }
                }
            }
        }
        "SessionService/PublishEvents" => {
            let event = v1::AgentEvent { name: "x".to_owned(), ..Default::default() };
            let event = v1::PublishedEvent { session_id, event: Some(event), ..Default::default() };
            let stream = tokio_stream::iter([v1::PublishEventsRequest { events: vec![event] }]);
            let answer = sessions.publish_events(with(token, stream)).await;
            let answer = answer.unwrap().into_inner().message().await.unwrap().unwrap();
            match answer.refused.into_iter().next() {
                Some(refused) => Err(refused.reason),
                None => Ok(()),
            }
        }
        "WatchService/WatchSessions" => {
            let asked = v1::WatchSessionsRequest { tenants: vec![tenant], ..Default::default() };
            unary!(watches.watch_sessions(asked))
        }
        "WatchService/GetSnapshot" => {
            unary!(watches.get_snapshot(v1::GetSnapshotRequest { details: true }))
        }
        "WatchService/ListSessions" => {
            unary!(watches.list_sessions(v1::ListSessionsRequest { tenant, ..Default::default() }))
        }
        "WatchService/ListTenants" => {
            unary!(watches.list_tenants(v1::ListTenantsRequest::default()))
        }
        "WatchService/GetTenant" => {
            unary!(watches.get_tenant(v1::GetTenantRequest { tenant, explain: true }))
        }
        "AdminService/SetTenantCap" => {
            let change = Some(v1::set_tenant_cap_request::Change::ClearOverride(true));
            unary!(admin.set_tenant_cap(v1::SetTenantCapRequest { tenant, change, note }))
        }
        "AdminService/SuspendTenant" => {
            unary!(admin.suspend_tenant(v1::SuspendTenantRequest { tenant, note }))
        }
        "AdminService/ResumeTenant" => {
            unary!(admin.resume_tenant(v1::ResumeTenantRequest { tenant, note }))
        }
        "AdminService/OpenBreaker" => unary!(admin.open_breaker(v1::OpenBreakerRequest {
            tenant,
            note,
            ..Default::default()
        })),
        "AdminService/ResetBreaker" => {
            unary!(admin.reset_breaker(v1::ResetBreakerRequest { tenant, note }))
        }
        "AdminService/RevokeSession" => {
            unary!(admin.revoke_session(v1::RevokeSessionRequest { session_id, note }))
        }
        // With a message that is refused only after the caller was let in, so
        // that the sidecar goes on.
        "AdminService/Drain" => {
            let timeout = Some(prost_types::Duration { seconds: 86_400, nanos: 0 });
            unary!(admin.drain(v1::DrainRequest { timeout, note }))
        }
        "AdminService/ReloadConfig" => {
            unary!(admin.reload_config(v1::ReloadConfigRequest { note }))
        }
        "AdminService/SetLogFilter" => {
            unary!(admin.set_log_filter(v1::SetLogFilterRequest { filter: "[".to_owned() }))
        }
        _ => return None,
    })
}

/// What the table says of a call, as a reason; none: it is let in.
fn expected(
    role: Role,
    all: bool,
    row: &tenantd::domain::access::Rule,
    own: bool,
) -> Option<&'static str> {
    let has = role == row.role || (role == Role::Admin && row.role == Role::Viewer);
    // Methods that name no tenant leave others out of their answers instead.
    let unnamed = row.rpc.ends_with("/GetSnapshot") || row.rpc.ends_with("/ListTenants");
    match row.scope {
        _ if !has => Some("NOT_PERMITTED"),
        Scope::Sidecar => (!all).then_some("NOT_PERMITTED"),
        Scope::Tenant | Scope::Visible if !own && !all && !unnamed => Some("NOT_PERMITTED"),
        Scope::Session if !own && (row.role != Role::Admin || !all) => Some("SESSION_UNKNOWN"),
        Scope::Tenant | Scope::Visible | Scope::Session => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_for_the_role_and_the_tenants_of_the_table_and_nobody_else() {
    let known: BTreeSet<String> = tenantd::wire::methods()
        .into_iter()
        .filter_map(|method| method.strip_prefix("tenantd.v1.").map(str::to_owned))
        .filter(|method| !method.starts_with("TenantConfigService/"))
        .collect();
    let rows: BTreeSet<String> = TABLE.iter().map(|row| row.rpc.to_owned()).collect();
    assert_eq!(known, rows, "each method of the API has one row in domain::access::TABLE");
    let mut tried = 0;
    for row in &TABLE {
        // A sidecar each: a drain and a suspension stay.
        let running = support::start(&config()).await;
        for (role, name) in ROLES {
            for of in ["acme", "all"] {
                for own in [true, false] {
                    let token = format!("{name}-{of}");
                    // Whoever asks about its own session asks as its agent.
                    let holder = match (own, role) {
                        (true, Role::Agent) => token.clone(),
                        (true, Role::Viewer | Role::Admin) => "agent-acme".to_owned(),
                        (false, _) => "agent-globex".to_owned(),
                    };
                    let tenant = if own { "acme" } else { "globex" };
                    let session = format!("s-{name}-{of}-{own}");
                    let mut sessions = running.sessions().await;
                    let drained =
                        row.rpc.ends_with("/Drain") && running.sidecar.draining().is_some();
                    if !drained {
                        _ = sessions
                            .acquire_session(with(&holder, acquire(&session, tenant, "")))
                            .await;
                    }
                    let got = call(&running, &token, row.rpc, tenant, &session).await;
                    let got = got.unwrap_or_else(|| panic!("{} is not tried here", row.rpc));
                    let got = got.err().unwrap_or_default();
                    let shown = format!("{} as {token} on {tenant}: {got}", row.rpc);
                    match expected(role, of == "all", row, own) {
                        Some(want) => assert_eq!(got, want, "{shown}"),
                        None => {
                            let denied = ["NOT_PERMITTED", "SESSION_UNKNOWN"];
                            assert!(!denied.contains(&got.as_str()), "{shown}");
                        }
                    }
                    tried += 1;
                    let fresh = v1::ReleaseSessionRequest { ..support::release("fresh") };
                    _ = sessions.release_session(with(&token, fresh)).await;
                    let undo =
                        v1::ResumeTenantRequest { tenant: tenant.to_owned(), note: String::new() };
                    _ = running.admin().await.resume_tenant(with("admin-all", undo)).await;
                    let undo =
                        v1::ResetBreakerRequest { tenant: tenant.to_owned(), note: String::new() };
                    _ = running.admin().await.reset_breaker(with("admin-all", undo)).await;
                }
            }
        }
        running.stop().await;
    }
    assert_eq!(tried, TABLE.len() * 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_of_some_tenants_sees_nothing_of_the_others() {
    let running = support::start(&config()).await;
    let mut sessions = running.sessions().await;
    let mut watches = running.watches().await;
    let asked = v1::WatchSessionsRequest::default();
    let mut watch = watches.watch_sessions(with("viewer-acme", asked)).await.unwrap().into_inner();
    for (token, tenant) in [("agent-globex", "globex"), ("agent-acme", "acme")] {
        sessions.acquire_session(with(token, acquire(tenant, tenant, ""))).await.unwrap();
    }
    // A denial about globex, then the last event that is acme's.
    let taken = support::release("globex");
    assert!(sessions.release_session(with("agent-acme", taken)).await.is_err());
    sessions.release_session(with("agent-acme", support::release("acme"))).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let item = watch.message().await.unwrap().unwrap().item.unwrap();
        if let v1::watch_sessions_response::Item::Event(event) = item {
            seen.push((event.tenant.clone(), event.kind()));
            if event.kind() == v1::EventKind::SessionEnded {
                break;
            }
        }
    }
    use v1::EventKind::{SessionAcquired, SessionEnded};
    let acme = "acme".to_owned();
    assert_eq!(seen, [(acme.clone(), SessionAcquired), (acme, SessionEnded)]);
    let snapshot = with("viewer-acme", v1::GetSnapshotRequest { details: true });
    let snapshot = watches.get_snapshot(snapshot).await.unwrap().into_inner();
    assert_eq!((snapshot.active_sessions, snapshot.total_sessions_started), (0, 1));
    assert!(!format!("{snapshot:?}").contains("globex"));
    assert!(snapshot.config.is_none(), "the path and the size of the config are everybody's");
    let listed = with("viewer-acme", v1::ListTenantsRequest::default());
    let listed = watches.list_tenants(listed).await.unwrap().into_inner();
    let listed: Vec<_> = listed.tenants.into_iter().map(|of| of.tenant).collect();
    assert_eq!(listed, ["acme"]);
    let listed = with("viewer-all", v1::ListSessionsRequest::default());
    let listed = watches.list_sessions(listed).await.unwrap().into_inner().sessions;
    assert_eq!(listed.len(), 1);
    let listed = with("viewer-acme", v1::ListSessionsRequest::default());
    assert!(watches.list_sessions(listed).await.unwrap().into_inner().sessions.is_empty());
    running.stop().await;
}

/// Whoever cannot tell a refusal of what exists from one of what does not learns
/// nothing by asking.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_the_same_whether_the_tenant_or_session_exists() {
    let running = support::start(&format!("{}[tenants.globex]\ncap=3\n", config())).await;
    let mut sessions = running.sessions().await;
    let live = acquire("live", "globex", "");
    sessions.acquire_session(with("agent-globex", live)).await.unwrap();
    let ended = acquire("ended", "globex", "");
    sessions.acquire_session(with("agent-globex", ended)).await.unwrap();
    sessions.release_session(with("agent-globex", support::release("ended"))).await.unwrap();
    let same = |a: &Status, b: &Status, from: &str, to: &str| {
        assert_eq!(a.code(), b.code());
        assert_eq!(a.message().replace(from, to), b.message());
        use tonic_types::StatusExt as _;
        let details = |of: &Status| {
            let details = of.get_error_details();
            let info = details.error_info().unwrap().clone();
            let metadata: std::collections::BTreeMap<_, _> = info.metadata.into_iter().collect();
            let rest = (details.retry_info().is_some(), details.bad_request().is_some());
            format!("{} {metadata:?} {rest:?}", info.reason)
        };
        assert_eq!(details(a).replace(from, to), details(b));
    };
    let never = sessions.release_session(with("agent-acme", support::release("never"))).await;
    let never = never.unwrap_err();
    assert_eq!(reason(&never), "SESSION_UNKNOWN");
    for id in ["live", "ended"] {
        let said = sessions.release_session(with("agent-acme", support::release(id))).await;
        same(&said.unwrap_err(), &never, "-", "-");
    }
    let mut refused = Vec::new();
    for tenant in ["globex", "nobody"] {
        let asked = with("agent-acme", acquire("x", tenant, ""));
        refused.push(sessions.acquire_session(asked).await.unwrap_err());
    }
    same(&refused[0], &refused[1], "globex", "nobody");
    let mut watches = running.watches().await;
    let mut refused = Vec::new();
    for tenant in ["globex", "nobody"] {
        let asked = v1::GetTenantRequest { tenant: tenant.to_owned(), explain: true };
        refused.push(watches.get_tenant(with("viewer-acme", asked)).await.unwrap_err());
    }
    same(&refused[0], &refused[1], "globex", "nobody");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_identity_is_shared_the_lease_token_says_whose_a_session_is() {
    let running = support::start(&config()).await;
    let mut sessions = running.sessions().await;
    let made = sessions.acquire_session(with("shared", acquire("made", "acme", ""))).await.unwrap();
    let lease = made.into_inner().lease_token;
    assert!(lease.len() >= 16);
    let chosen = "chosen-by-the-client";
    let got = sessions.acquire_session(with("shared", acquire("own", "acme", chosen))).await;
    assert_eq!(got.unwrap().into_inner().lease_token, chosen);
    let again = sessions.acquire_session(with("shared", acquire("own", "acme", chosen))).await;
    assert!(!again.unwrap().into_inner().created, "a retry shows the same");
    for wrong in ["", "another-of-the-clients"] {
        let said = sessions.acquire_session(with("shared", acquire("own", "acme", wrong))).await;
        assert_eq!(reason(&said.unwrap_err()), "SESSION_CONFLICT");
        let asked = v1::GetSessionConfigRequest {
            session_id: "made".to_owned(),
            lease_token: wrong.to_owned(),
        };
        let said = sessions.get_session_config(with("shared", asked)).await.unwrap_err();
        assert_eq!(reason(&said), "SESSION_UNKNOWN");
    }
    let short = sessions.acquire_session(with("shared", acquire("x", "acme", "short"))).await;
    let short = short.unwrap_err();
    assert_eq!(reason(&short), "INVALID_FIELD");
    assert!(!short.message().contains("short"), "the token is not shown");
    // Attached with its token, and not without.
    let first = v1::KeepAliveRequest {
        worker: "w".to_owned(),
        attach_session_ids: vec!["made".to_owned(), "own".to_owned()],
        lease_tokens: [("made".to_owned(), lease.clone())].into(),
        ..Default::default()
    };
    let stream =
        tokio_stream::StreamExt::chain(tokio_stream::iter([first]), tokio_stream::pending());
    let mut answers = sessions.keep_alive(with("shared", stream)).await.unwrap().into_inner();
    let attached = answers.message().await.unwrap().unwrap().message.unwrap();
    let v1::keep_alive_response::Message::Attached(attached) = attached else { panic!() };
    assert_eq!(attached.sessions[0].session_id, "made");
    assert_eq!(attached.refused[0].reason, "SESSION_UNKNOWN");
    let asked = v1::ReleaseSessionRequest { lease_token: lease, ..support::release("made") };
    sessions.release_session(with("shared", asked)).await.unwrap();
    // Where the identity is enough there is none to keep.
    let got = sessions.acquire_session(with("agent-acme", acquire("plain", "acme", chosen))).await;
    assert_eq!(got.unwrap().into_inner().lease_token, "");
    let again = sessions.acquire_session(with("agent-acme", acquire("plain", "acme", ""))).await;
    assert!(!again.unwrap().into_inner().created, "another process of the same identity goes on");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_taken_away_is_refused_at_once_and_its_streams_end() {
    let running = support::start(&config()).await;
    let mut sessions = running.sessions().await;
    let mut watches = running.watches().await;
    let asked = v1::WatchSessionsRequest::default();
    let mut watch = watches.watch_sessions(with("viewer-acme", asked)).await.unwrap().into_inner();
    let first = v1::KeepAliveRequest { worker: "w".to_owned(), ..Default::default() };
    let stream =
        tokio_stream::StreamExt::chain(tokio_stream::iter([first]), tokio_stream::pending());
    let mut alive = sessions.keep_alive(with("agent-acme", stream)).await.unwrap().into_inner();
    alive.message().await.unwrap().unwrap();
    sessions.acquire_session(with("agent-acme", acquire("s", "acme", ""))).await.unwrap();
    support::write(&running.config, &identity("admin-all", "admin", "*", ""));
    let said = loop {
        match watch.message().await {
            Ok(item) => assert!(item.is_some(), "it ends with a reason"),
            Err(said) => break said,
        }
    };
    assert_eq!(reason(&said), "NOT_PERMITTED");
    let said = alive.message().await.unwrap_err();
    assert_eq!(reason(&said), "NOT_PERMITTED");
    let asked = v1::RenewSessionRequest { session_id: "s".to_owned(), ..Default::default() };
    let said = sessions.renew_session(with("agent-acme", asked)).await;
    assert_eq!(reason(&said.unwrap_err()), "NOT_PERMITTED");
    let said = sessions.acquire_session(with("agent-acme", acquire("t", "acme", ""))).await;
    assert_eq!(reason(&said.unwrap_err()), "NOT_PERMITTED");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denials_are_events_with_the_actor_and_do_not_flood_the_log() {
    let running = support::start(&config()).await;
    let mut sessions = running.sessions().await;
    let mut watches = running.watches().await;
    let asked = v1::WatchSessionsRequest::default();
    let mut watch = watches.watch_sessions(with("viewer-all", asked)).await.unwrap().into_inner();
    sessions.acquire_session(with("agent-globex", acquire("s", "globex", ""))).await.unwrap();
    for _ in 0..100 {
        let said = sessions.release_session(with("agent-acme", support::release("s"))).await;
        assert_eq!(reason(&said.unwrap_err()), "SESSION_UNKNOWN");
    }
    for n in 0..100 {
        let asked = with("agent-acme", acquire(&format!("no-{n}"), "globex", ""));
        let said = sessions.acquire_session(asked).await.unwrap_err();
        assert_eq!(reason(&said), "NOT_PERMITTED");
    }
    sessions.release_session(with("agent-globex", support::release("s"))).await.unwrap();
    let (mut denials, mut rejections) = (Vec::new(), 0);
    loop {
        let item = watch.message().await.unwrap().unwrap().item.unwrap();
        let v1::watch_sessions_response::Item::Event(event) = item else { continue };
        match event.kind() {
            v1::EventKind::CallDenied => denials.push(event),
            v1::EventKind::SessionRejected => rejections += 1,
            v1::EventKind::SessionEnded => break,
            _ => {}
        }
    }
    assert!((1..100).contains(&denials.len()), "{}", denials.len());
    assert!(rejections < 100, "{rejections}");
    let first = &denials[0];
    assert_eq!((first.actor.as_str(), first.tenant.as_str()), ("agent-acme", "globex"));
    let Some(v1::event::Detail::CallDenied(denied)) = &first.detail else { panic!("{first:?}") };
    assert_eq!(denied.rpc, "SessionService/ReleaseSession");
    eventually("all are counted", || async { running.sidecar.figures().await.denied == 200 }).await;
    running.stop().await;
}
