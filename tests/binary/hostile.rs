//! Hostile inputs and calls over the real wire, in a table: what is tried, and the one
//! answer to expect. After each the sidecar's state is what it was before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use bytes::Bytes;
use prost::Message as _;
use tenantd::{domain::access::TokenHash, wire::v1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Request, Status, transport::Channel};
use tonic_types::StatusExt as _;
use v1::{
    admin_service_client::AdminServiceClient, keep_alive_response::Message::Attached,
    session_service_client::SessionServiceClient, watch_service_client::WatchServiceClient,
};

use crate::support::{Running, Start, acquire, release};

/// Acts for acme alone.
const MALLORY: &str = "tnd_mallory-0123456789abcdef0123456789";
/// Acts for globex; its sessions are what Mallory is after.
const VICTIM: &str = "tnd_victim-0123456789abcdef01234567890";
const SHARED: &str = "tnd_shared-0123456789abcdef01234567890";
const VIEWER: &str = "tnd_viewer-0123456789abcdef01234567890";
const ADMIN: &str = "tnd_admin-0123456789abcdef012345678901";
const KEY: &str = "sk-canary-of-globex";
const LEASE: &str = "the-lease-token-of-one-process";

const DENIED: &str = "NOT_PERMITTED";
const UNKNOWN: &str = "SESSION_UNKNOWN";
const FIELD: &str = "INVALID_FIELD";
const MALFORMED: &str = "TENANT_MALFORMED";

fn config() -> String {
    let mut text = format!(
        "[lease]\ngrace='60s'\n[tenants.acme]\ncap=5\n[tenants.globex]\ncap=5\n\
         [tenants.globex.providers.llm]\nprovider='p'\ncredential='{KEY}'\n"
    );
    for (name, role, tenants, token, shared) in [
        ("mallory", "agent", "acme", MALLORY, false),
        ("victim", "agent", "globex", VICTIM, false),
        ("shared", "agent", "*", SHARED, true),
        ("viewer", "viewer", "acme", VIEWER, false),
        ("admin", "admin", "acme", ADMIN, false),
    ] {
        let hash = TokenHash::of(token).hex();
        write!(
            text,
            "[[identities]]\nname='{name}'\nroles=['{role}']\ntenants=['{tenants}']\ntokens=['sha256:{hash}']\nshared={shared}\n"
        )
        .unwrap();
    }
    text
}

struct Scene {
    running: Running,
    channel: Channel,
    before: String,
    tried: BTreeMap<String, String>,
}

/// What an answer says: the reason, or the code of one that is not ours.
fn said<T>(answer: Result<T, Status>) -> String {
    match answer {
        Ok(_) => "OK".to_owned(),
        Err(status) => match status.get_error_details().error_info() {
            Some(info) => info.reason.clone(),
            None => format!("{:?}", status.code()),
        },
    }
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

impl Scene {
    async fn new() -> Self {
        let running =
            Start { config: &config(), env: &[("TENANTD_LOG_FORMAT", "json")], ..Start::default() }
                .run();
        let channel = running.channel().await;
        let mut scene = Self { running, channel, before: String::new(), tried: BTreeMap::new() };
        let mut sessions = scene.sessions();
        for (token, id, tenant) in
            [(VICTIM, "live", "globex"), (VICTIM, "ended", "globex"), (MALLORY, "own", "acme")]
        {
            sessions.acquire_session(with(token, acquire(id, tenant))).await.unwrap();
        }
        sessions.release_session(with(VICTIM, release("ended"))).await.unwrap();
        let leased = v1::AcquireSessionRequest {
            lease_token: LEASE.to_owned(),
            ..acquire("leased", "acme")
        };
        sessions.acquire_session(with(SHARED, leased)).await.unwrap();
        scene.before = scene.state().await;
        scene
    }

    fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone()).max_encoding_message_size(64 << 20)
    }

    fn watches(&self) -> WatchServiceClient<Channel> {
        WatchServiceClient::new(self.channel.clone())
    }

    fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    /// Everything that a call could change, as the operator of the whole sees it.
    async fn state(&self) -> String {
        let mut watches = self.watches();
        let listed = watches.list_sessions(v1::ListSessionsRequest::default()).await.unwrap();
        let mut sessions = listed.into_inner().sessions;
        for session in &mut sessions {
            // Time goes on.
            session.expire_time = None;
        }
        let listed = watches.list_tenants(v1::ListTenantsRequest::default()).await.unwrap();
        let mut tenants = listed.into_inner().tenants;
        for tenant in &mut tenants {
            tenant.total_rejections = 0;
        }
        let snapshot = watches.get_snapshot(v1::GetSnapshotRequest { details: true }).await;
        let snapshot = snapshot.unwrap().into_inner();
        let whole = (
            snapshot.draining,
            snapshot.active_sessions,
            snapshot.total_sessions_started,
            snapshot.total_session_failures,
            snapshot.machine_cap,
            snapshot.tenants_in_memory,
            snapshot.config.map(|config| config.load_time),
        );
        format!("{sessions:#?}\n{tenants:#?}\n{whole:#?}")
    }

    /// One row of the table.
    async fn row(&mut self, what: &str, want: &str, got: String) {
        assert_eq!(got, want, "{what}");
        assert!(!got.contains(KEY));
        let now = self.state().await;
        let was: BTreeSet<&str> = self.before.lines().collect();
        let new: Vec<&str> = now.lines().filter(|line| !was.contains(line)).collect();
        assert!(now == self.before, "{what} changed something: {new:?}");
        let known = self.tried.insert(what.to_owned(), got);
        assert!(known.is_none(), "{what} is tried twice");
    }
}

/// First message and its answer: a refused attach, or how the stream ended.
async fn keep_alive(scene: &Scene, token: &str, first: v1::KeepAliveRequest) -> String {
    match scene.sessions().keep_alive(with(token, tokio_stream::iter([first]))).await {
        Err(status) => said::<()>(Err(status)),
        Ok(answers) => match answers.into_inner().message().await {
            Ok(Some(v1::KeepAliveResponse { message: Some(Attached(attached)) })) => {
                match attached.refused.into_iter().next() {
                    Some(refused) => refused.reason,
                    None => "OK".to_owned(),
                }
            }
            Ok(other) => format!("{other:?}"),
            Err(status) => said::<()>(Err(status)),
        },
    }
}

fn attach(worker: &str, id: &str, lease: &str) -> v1::KeepAliveRequest {
    let lease_tokens = if lease.is_empty() {
        Default::default()
    } else {
        [(id.to_owned(), lease.to_owned())].into()
    };
    v1::KeepAliveRequest {
        worker: worker.to_owned(),
        attach_session_ids: vec![id.to_owned()],
        lease_tokens,
        ..Default::default()
    }
}

async fn publish(scene: &Scene, token: &str, event: v1::PublishedEvent, times: usize) -> String {
    let batch = v1::PublishEventsRequest { events: vec![event; times] };
    match scene.sessions().publish_events(with(token, tokio_stream::iter([batch]))).await {
        Err(status) => said::<()>(Err(status)),
        Ok(answers) => match answers.into_inner().message().await {
            Ok(Some(answer)) => match answer.refused.into_iter().next() {
                Some(refused) => refused.reason,
                None => "OK".to_owned(),
            },
            Ok(None) => "nothing".to_owned(),
            Err(status) => said::<()>(Err(status)),
        },
    }
}

fn event(id: &str, name: &str) -> v1::PublishedEvent {
    let event = v1::AgentEvent { name: name.to_owned(), ..Default::default() };
    v1::PublishedEvent { session_id: id.to_owned(), event: Some(event), ..Default::default() }
}

/// Each call of an agent about one session.
async fn about(scene: &Scene, token: &str, id: &str, lease: &str) -> Vec<(&'static str, String)> {
    let mut sessions = scene.sessions();
    let (session_id, lease_token) = (id.to_owned(), lease.to_owned());
    let renew = v1::RenewSessionRequest {
        session_id: session_id.clone(),
        lease_token: lease_token.clone(),
        ..Default::default()
    };
    let let_go = v1::ReleaseSessionRequest { lease_token: lease_token.clone(), ..release(id) };
    let report = v1::ReportFailureRequest {
        session_id: session_id.clone(),
        lease_token: lease_token.clone(),
        end_session: true,
        ..Default::default()
    };
    let asked = v1::GetSessionConfigRequest { session_id, lease_token };
    let published = v1::PublishedEvent { lease_token: lease.to_owned(), ..event(id, "x") };
    vec![
        ("renew", said(sessions.renew_session(with(token, renew)).await)),
        ("release", said(sessions.release_session(with(token, let_go)).await)),
        ("report", said(sessions.report_failure(with(token, report)).await)),
        ("config", said(sessions.get_session_config(with(token, asked)).await)),
        ("attach", keep_alive(scene, token, attach("mallory-worker", id, lease)).await),
        ("publish", publish(scene, token, published, 1).await),
    ]
}

/// Gives the victim's stream, which is to stay open.
async fn sessions_of_others(scene: &mut Scene) -> tonic::Streaming<v1::KeepAliveResponse> {
    for (whose, id) in [("live", "live"), ("ended", "ended"), ("of nobody", "never-was")] {
        for (call, got) in about(scene, MALLORY, id, "").await {
            scene.row(&format!("{call} another's session, {whose}"), UNKNOWN, got).await;
        }
    }
    for (what, id, tenant, want) in [
        ("acquire another's live id for one's own tenant", "live", "acme", "SESSION_CONFLICT"),
        ("acquire another's ended id for one's own tenant", "ended", "acme", "SESSION_CONFLICT"),
        ("acquire another's live id for its tenant", "live", "globex", DENIED),
        ("acquire for another's tenant", "new", "globex", DENIED),
        ("acquire for a tenant that nobody has", "new", "nobody", DENIED),
        ("acquire for the default tenant", "new", "", DENIED),
    ] {
        let got = scene.sessions().acquire_session(with(MALLORY, acquire(id, tenant))).await;
        scene.row(what, want, said(got)).await;
    }
    // The victim's process is there, with a stream.
    let first = attach("victim-worker", "live", "");
    let stream =
        tokio_stream::StreamExt::chain(tokio_stream::iter([first]), tokio_stream::pending());
    let mut held = scene.sessions().keep_alive(with(VICTIM, stream)).await.unwrap().into_inner();
    held.message().await.unwrap().unwrap();
    scene.before = scene.state().await;
    let taken = keep_alive(scene, MALLORY, attach("victim-worker", "own", "")).await;
    scene.row("take another process's name for a stream", FIELD, taken).await;
    let named =
        v1::AcquireSessionRequest { worker: "victim-worker".to_owned(), ..acquire("new", "acme") };
    let got = said(scene.sessions().acquire_session(with(MALLORY, named)).await);
    scene.row("take another process's name for a session", FIELD, got).await;
    let named = v1::RenewSessionRequest {
        session_id: "own".to_owned(),
        worker: "victim-worker".to_owned(),
        ..Default::default()
    };
    let got = said(scene.sessions().renew_session(with(MALLORY, named)).await);
    scene.row("hand one's session to another's process", FIELD, got).await;
    let asked = v1::RevokeSessionRequest { session_id: "live".to_owned(), note: String::new() };
    let got = said(scene.admin().revoke_session(with(ADMIN, asked)).await);
    scene.row("revoke a session of a tenant that is not one's own", UNKNOWN, got).await;
    held
}

async fn leases(scene: &mut Scene) {
    let hash = TokenHash::of(LEASE).hex();
    for (what, lease) in [
        ("no lease token", ""),
        ("another's lease token", "the-lease-token-of-another-process"),
        ("the hash of the lease token", &hash),
        ("the lease token with a space", "the-lease-token-of-one-process "),
    ] {
        for (call, got) in about(scene, SHARED, "leased", lease).await {
            scene.row(&format!("{call} with {what}"), UNKNOWN, got).await;
        }
        let again = v1::AcquireSessionRequest {
            lease_token: lease.to_owned(),
            ..acquire("leased", "acme")
        };
        let got = said(scene.sessions().acquire_session(with(SHARED, again)).await);
        let want = if lease.ends_with(' ') { FIELD } else { "SESSION_CONFLICT" };
        scene.row(&format!("acquire again with {what}"), want, got).await;
    }
    for (what, lease) in [("a short", "short".to_owned()), ("a long", "x".repeat(257))] {
        let asked = v1::AcquireSessionRequest { lease_token: lease, ..acquire("new", "acme") };
        let got = said(scene.sessions().acquire_session(with(SHARED, asked)).await);
        scene.row(&format!("acquire with {what} lease token"), FIELD, got).await;
    }
}

async fn roles(scene: &mut Scene) {
    let tenant = || "acme".to_owned();
    let note = String::new;
    for (who, token) in [("agent", MALLORY), ("viewer", VIEWER)] {
        let mut admin = scene.admin();
        let change = Some(v1::set_tenant_cap_request::Change::Cap(1));
        let session_id = "own".to_owned();
        let all = [
            (
                "cap",
                said(
                    admin
                        .set_tenant_cap(with(
                            token,
                            v1::SetTenantCapRequest { tenant: tenant(), change, note: note() },
                        ))
                        .await,
                ),
            ),
            (
                "suspend",
                said(
                    admin
                        .suspend_tenant(with(
                            token,
                            v1::SuspendTenantRequest { tenant: tenant(), note: note() },
                        ))
                        .await,
                ),
            ),
            (
                "resume",
                said(
                    admin
                        .resume_tenant(with(
                            token,
                            v1::ResumeTenantRequest { tenant: tenant(), note: note() },
                        ))
                        .await,
                ),
            ),
            (
                "open the breaker",
                said(
                    admin
                        .open_breaker(with(
                            token,
                            v1::OpenBreakerRequest { tenant: tenant(), ..Default::default() },
                        ))
                        .await,
                ),
            ),
            (
                "reset the breaker",
                said(
                    admin
                        .reset_breaker(with(
                            token,
                            v1::ResetBreakerRequest { tenant: tenant(), note: note() },
                        ))
                        .await,
                ),
            ),
            (
                "revoke",
                said(
                    admin
                        .revoke_session(with(
                            token,
                            v1::RevokeSessionRequest { session_id, note: note() },
                        ))
                        .await,
                ),
            ),
            ("drain", said(admin.drain(with(token, v1::DrainRequest::default())).await)),
            (
                "reload",
                said(admin.reload_config(with(token, v1::ReloadConfigRequest::default())).await),
            ),
            (
                "log filter",
                said(
                    admin
                        .set_log_filter(with(
                            token,
                            v1::SetLogFilterRequest { filter: "trace".to_owned() },
                        ))
                        .await,
                ),
            ),
        ];
        for (call, got) in all {
            scene.row(&format!("{call} as {who}"), DENIED, got).await;
        }
    }
    let mut watches = scene.watches();
    let all = [
        (
            "watch",
            said(watches.watch_sessions(with(MALLORY, v1::WatchSessionsRequest::default())).await),
        ),
        (
            "snapshot",
            said(watches.get_snapshot(with(MALLORY, v1::GetSnapshotRequest::default())).await),
        ),
        (
            "list sessions",
            said(watches.list_sessions(with(MALLORY, v1::ListSessionsRequest::default())).await),
        ),
        (
            "list tenants",
            said(watches.list_tenants(with(MALLORY, v1::ListTenantsRequest::default())).await),
        ),
        (
            "show a tenant",
            said(
                watches
                    .get_tenant(with(
                        MALLORY,
                        v1::GetTenantRequest { tenant: tenant(), explain: true },
                    ))
                    .await,
            ),
        ),
    ];
    for (call, got) in all {
        scene.row(&format!("{call} as agent"), DENIED, got).await;
    }
    for (who, token) in [("viewer", VIEWER), ("admin", ADMIN)] {
        for (call, got) in about(scene, token, "own", "").await {
            scene.row(&format!("{call} as {who}"), DENIED, got).await;
        }
        let got = said(scene.sessions().acquire_session(with(token, acquire("new", "acme"))).await);
        scene.row(&format!("acquire as {who}"), DENIED, got).await;
        let globex = vec!["globex".to_owned()];
        let asked = v1::WatchSessionsRequest { tenants: globex, ..Default::default() };
        let got = said(scene.watches().watch_sessions(with(token, asked)).await);
        scene.row(&format!("watch another tenant as {who}"), DENIED, got).await;
        let asked = v1::GetTenantRequest { tenant: "globex".to_owned(), explain: false };
        let got = said(scene.watches().get_tenant(with(token, asked)).await);
        scene.row(&format!("show another tenant as {who}"), DENIED, got).await;
    }
    let mut admin = scene.admin();
    let all = [
        (
            "suspend another tenant",
            said(
                admin
                    .suspend_tenant(with(
                        ADMIN,
                        v1::SuspendTenantRequest { tenant: "globex".to_owned(), note: note() },
                    ))
                    .await,
            ),
        ),
        ("drain", said(admin.drain(with(ADMIN, v1::DrainRequest::default())).await)),
        (
            "reload",
            said(admin.reload_config(with(ADMIN, v1::ReloadConfigRequest::default())).await),
        ),
        (
            "log filter",
            said(
                admin
                    .set_log_filter(with(
                        ADMIN,
                        v1::SetLogFilterRequest { filter: "trace".to_owned() },
                    ))
                    .await,
            ),
        ),
    ];
    for (call, got) in all {
        scene.row(&format!("{call} as admin of one tenant"), DENIED, got).await;
    }
}

async fn tenants(scene: &mut Scene) {
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let nested = format!("{{\"tenant\":{deep}}}");
    for (what, job, want) in [
        ("named twice", r#"{"tenant":"acme","tenant":"globex"}"#, DENIED),
        ("in escapes", r#"{"\u0074enant":"\u0067lobex"}"#, DENIED),
        ("padded", r#"{"tenant":" globex\t"}"#, DENIED),
        ("in other case", r#"{"tenant":"ACME"}"#, DENIED),
        ("null", r#"{"tenant":null}"#, DENIED),
        ("empty", r#"{"tenant":""}"#, DENIED),
        ("a number", r#"{"tenant":5}"#, MALFORMED),
        ("true", r#"{"tenant":true}"#, MALFORMED),
        ("a list", r#"{"tenant":["acme"]}"#, MALFORMED),
        ("an object", r#"{"tenant":{"tenant":"acme"}}"#, MALFORMED),
        ("blank", r#"{"tenant":"  "}"#, MALFORMED),
        ("with a line break", r#"{"tenant":"acme\nglobex"}"#, MALFORMED),
        ("with NUL", r#"{"tenant":"acme\u0000"}"#, MALFORMED),
        ("with a terminal command", r#"{"tenant":"\u001b[2Jacme"}"#, MALFORMED),
        ("in Cyrillic", r#"{"tenant":"асme"}"#, MALFORMED),
        ("with a joiner", r#"{"tenant":"ac\u200dme"}"#, MALFORMED),
        ("backwards", r#"{"tenant":"\u202eemca"}"#, MALFORMED),
        ("a path", r#"{"tenant":"../globex"}"#, MALFORMED),
        ("a pattern", r#"{"tenant":"*"}"#, MALFORMED),
        ("SQL", r#"{"tenant":"' OR 1=1 --"}"#, MALFORMED),
        ("5,000 deep", &nested, MALFORMED),
    ] {
        let asked =
            v1::AcquireSessionRequest { job_metadata: job.to_owned(), ..acquire("new", "") };
        let got = said(scene.sessions().acquire_session(with(MALLORY, asked)).await);
        scene.row(&format!("a tenant in metadata, {what}"), want, got).await;
    }
    let both = |explicit: &str, job: &str, room: &str| v1::AcquireSessionRequest {
        job_metadata: job.to_owned(),
        room_metadata: room.to_owned(),
        ..acquire("new", explicit)
    };
    let (acme, globex) = (r#"{"tenant":"acme"}"#, r#"{"tenant":"globex"}"#);
    for (what, asked, want) in [
        (
            "one's own by hand over another's in metadata",
            both("acme", globex, ""),
            "TENANT_CONFLICT",
        ),
        ("one's own in the room over another's in the job", both("", globex, acme), DENIED),
        ("one's own in the room over none in the job", both("", r#"{"tenant":""}"#, acme), DENIED),
        ("by hand, of 129 characters", both(&"x".repeat(129), "", ""), MALFORMED),
        ("by hand, with a line break", both("acme\n\rglobex", "", ""), MALFORMED),
        ("metadata of a megabyte", both("acme", &"x".repeat(1_000_000), ""), FIELD),
        ("a message of 2 MiB", both("acme", &"x".repeat(2 << 20), ""), FIELD),
    ] {
        let got = said(scene.sessions().acquire_session(with(MALLORY, asked)).await);
        scene.row(&format!("a tenant: {what}"), want, got).await;
    }
}

async fn fields(scene: &mut Scene) {
    let seconds = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let good = || acquire("new", "acme");
    for (what, asked) in [
        ("a session id with a space", acquire("a b", "acme")),
        ("a session id with a line break", acquire("a\nb", "acme")),
        ("a session id with NUL", acquire("a\0b", "acme")),
        ("a session id with a terminal command", acquire("\u{1b}]0;x\u{7}", "acme")),
        ("a session id of 129 characters", acquire(&"x".repeat(129), "acme")),
        (
            "an agent with a terminal command",
            v1::AcquireSessionRequest { agent_name: "a\u{1b}[2J".into(), ..good() },
        ),
        (
            "a worker with a line break",
            v1::AcquireSessionRequest { worker: "w\n".into(), ..good() },
        ),
        ("a TTL of -1 s", v1::AcquireSessionRequest { ttl: seconds(-1, 0), ..good() }),
        (
            "a TTL of 292 billion years",
            v1::AcquireSessionRequest { ttl: seconds(i64::MAX, i32::MAX), ..good() },
        ),
        (
            "a TTL of mixed signs",
            v1::AcquireSessionRequest { ttl: seconds(1, -2_000_000_000), ..good() },
        ),
    ] {
        let got = said(scene.sessions().acquire_session(with(MALLORY, asked)).await);
        scene.row(what, FIELD, got).await;
    }
    for outcome in [0, 4, -1] {
        let asked = v1::ReleaseSessionRequest { outcome, ..release("own") };
        let got = said(scene.sessions().release_session(with(MALLORY, asked)).await);
        scene.row(&format!("release with outcome {outcome}"), FIELD, got).await;
    }
    let failure = Some(v1::Failure { slot: "\u{1b}[31m".to_owned(), ..Default::default() });
    let asked =
        v1::ReportFailureRequest { session_id: "own".to_owned(), failure, ..Default::default() };
    let got = said(scene.sessions().report_failure(with(MALLORY, asked)).await);
    scene.row("a failure of a slot with a terminal command", FIELD, got).await;
    let got = publish(scene, MALLORY, event("own", "x"), 101).await;
    scene.row("101 events at once", FIELD, got).await;
    for (what, name) in
        [("no name", ""), ("a name with a line break", "a\nb"), ("a long name", &"x".repeat(65))]
    {
        let got = publish(scene, MALLORY, event("own", name), 1).await;
        scene.row(&format!("an event with {what}"), FIELD, got).await;
    }
    let mut odd = event("own", "x");
    odd.event.as_mut().unwrap().severity = 99;
    let got = publish(scene, MALLORY, odd, 1).await;
    scene.row("an event of severity 99", FIELD, got).await;
    let large =
        prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("x".repeat(5000))) };
    let mut odd = event("own", "x");
    odd.event.as_mut().unwrap().attributes =
        Some(prost_types::Struct { fields: [("a".to_owned(), large)].into() });
    let got = publish(scene, MALLORY, odd, 1).await;
    scene.row("an event of 5 kB", FIELD, got).await;
    let many = v1::KeepAliveRequest {
        attach_session_ids: vec!["own".to_owned(); 1001],
        ..attach("mallory-worker", "own", "")
    };
    let got = keep_alive(scene, MALLORY, many).await;
    scene.row("1,001 attached at once", FIELD, got).await;
    let got = keep_alive(scene, MALLORY, attach("", "own", "")).await;
    scene.row("a stream of no worker", FIELD, got).await;
    let late = v1::Cursor { epoch: epoch(scene).await, sequence: u64::MAX };
    for (what, asked) in [
        (
            "a cursor from the future",
            v1::WatchSessionsRequest { cursor: Some(late), ..Default::default() },
        ),
        (
            "a filter of 101 tenants",
            v1::WatchSessionsRequest {
                tenants: vec!["acme".to_owned(); 101],
                ..Default::default()
            },
        ),
        (
            "a filter of no kind",
            v1::WatchSessionsRequest { kinds: vec![9999], ..Default::default() },
        ),
    ] {
        let got = said(scene.watches().watch_sessions(with(VIEWER, asked)).await);
        scene.row(&format!("watch with {what}"), FIELD, got).await;
    }
    for page_size in [-1, 1001] {
        let asked = v1::ListSessionsRequest { page_size, ..Default::default() };
        let got = said(scene.watches().list_sessions(with(VIEWER, asked)).await);
        scene.row(&format!("a page of {page_size}"), FIELD, got).await;
    }
    let mut admin = scene.admin();
    let cap = |cap| Some(v1::set_tenant_cap_request::Change::Cap(cap));
    let set = |change, note: &str| v1::SetTenantCapRequest {
        tenant: "acme".to_owned(),
        change,
        note: note.to_owned(),
    };
    let all = [
        ("no cap", said(admin.set_tenant_cap(with(ADMIN, set(None, ""))).await)),
        (
            "a cap of 4 billion",
            said(admin.set_tenant_cap(with(ADMIN, set(cap(u32::MAX), ""))).await),
        ),
        (
            "a note of 2 kB",
            said(admin.set_tenant_cap(with(ADMIN, set(cap(3), &"n".repeat(2048)))).await),
        ),
        (
            "a drain of -1 s",
            said(
                admin
                    .drain(v1::DrainRequest { timeout: seconds(-1, 0), note: String::new() })
                    .await,
            ),
        ),
        (
            "a drain of a year",
            said(
                admin
                    .drain(v1::DrainRequest {
                        timeout: seconds(31_536_000, 0),
                        note: String::new(),
                    })
                    .await,
            ),
        ),
        (
            "a log filter that is none",
            said(admin.set_log_filter(v1::SetLogFilterRequest { filter: "[".to_owned() }).await),
        ),
    ];
    for (what, got) in all {
        scene.row(&format!("an operator's {what}"), FIELD, got).await;
    }
}

async fn epoch(scene: &Scene) -> String {
    let snapshot = scene.watches().get_snapshot(v1::GetSnapshotRequest::default()).await.unwrap();
    snapshot.into_inner().cursor.unwrap().epoch
}

/// One request as it is written down here, over a connection of its own: HTTP's
/// status where it is no success, else gRPC's.
async fn raw(scene: &Scene, path: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let socket = tokio::net::UnixStream::connect(scene.running.socket()).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    let running = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let asked = async {
        let mut client = client.ready().await?;
        let (answer, mut sending) = client.send_request(request.body(()).unwrap(), false)?;
        // The answer may come before all of it is read.
        let _ = sending.send_data(Bytes::copy_from_slice(body), true);
        let answer = answer.await?;
        let status = answer.status();
        let code = |headers: &http::HeaderMap| {
            headers.get("grpc-status").map(|code| code.to_str().unwrap().to_owned())
        };
        let mut said = code(answer.headers());
        let mut body = answer.into_body();
        while let Some(chunk) = body.data().await {
            chunk?;
        }
        if let Some(trailers) = body.trailers().await? {
            said = said.or(code(&trailers));
        }
        Ok::<_, h2::Error>(match said {
            Some(code) => format!("grpc {code}"),
            None => format!("http {}", status.as_u16()),
        })
    };
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), asked).await;
    running.abort();
    match answer.expect("is answered") {
        Ok(said) => said,
        Err(error) => format!("reset: {:?}", error.reason()),
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

async fn wire(scene: &mut Scene) {
    const RELEASE: &str = "/tenantd.v1.SessionService/ReleaseSession";
    let grpc = ("content-type", "application/grpc");
    let bearer = format!("Bearer {MALLORY}");
    let me = ("authorization", bearer.as_str());
    let own = release("own").encode_to_vec();
    let good = framed(&own);
    let hash = format!("Bearer sha256:{}", TokenHash::of(VICTIM).hex());
    let (padded, long) = (format!("Bearer {VICTIM}x"), format!("Bearer {}", "x".repeat(8000)));
    let victim = format!("Bearer {VICTIM}");
    // Who one is.
    for (what, headers) in [
        ("no token after the word", vec![("authorization", "Bearer ")]),
        ("another scheme", vec![("authorization", "Basic dXNlcjpwYXNz")]),
        ("no scheme", vec![("authorization", VICTIM)]),
        ("the hash for the token", vec![("authorization", hash.as_str())]),
        ("a token and one byte", vec![("authorization", padded.as_str())]),
        ("a token of 8 kB", vec![("authorization", long.as_str())]),
        (
            "two tokens",
            vec![("authorization", bearer.as_str()), ("authorization", victim.as_str())],
        ),
        ("bytes that are no text", vec![("authorization", "Bearer \u{e9}\u{e9}")]),
    ] {
        let headers = [&[grpc][..], &headers].concat();
        // Permission denied.
        let got = raw(scene, RELEASE, &headers, &framed(&release("live").encode_to_vec())).await;
        scene.row(&format!("release with {what}"), "grpc 7", got).await;
    }
    // What one sends.
    let (cut, more) = (&good[..good.len() - 1], [&good[..4], &[0xff], &good[5..]].concat());
    let packed = [&[1], &good[1..]].concat();
    let giant = [0, 0xff, 0xff, 0xff, 0xff];
    let text = framed(&[0x0a, 0x02, 0xc3, 0x28]);
    let numbers = framed(&[0x08, 0x01]);
    let endless = framed(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    let group = framed(&[0x0b; 300]);
    for (what, headers, body, want) in [
        ("no frame", vec![grpc, me], &[][..], "grpc 13"),
        ("half a frame", vec![grpc, me], cut, "grpc 13"),
        ("a frame longer than it says", vec![grpc, me], &more, "grpc 13"),
        ("a frame of 4 GiB, announced", vec![grpc, me], &giant, "grpc 3"),
        ("a frame that is packed by nothing", vec![grpc, me], &packed, "grpc 13"),
        ("text that is not UTF-8", vec![grpc, me], &text, "grpc 3"),
        ("a number for a text", vec![grpc, me], &numbers, "grpc 3"),
        ("a text of 4 GiB, announced", vec![grpc, me], &endless, "grpc 3"),
        ("groups in groups", vec![grpc, me], &group, "grpc 3"),
        ("another content type", vec![("content-type", "application/json"), me], &good, "http 415"),
        ("no content type", vec![me], &good, "http 415"),
    ] {
        let got = raw(scene, RELEASE, &headers, body).await;
        // A call that broke off is the client's own affair: nothing was done.
        scene.row(&format!("release with {what}"), want, got).await;
    }
    for (what, path, want) in [
        ("a method that is none", "/tenantd.v1.SessionService/DropTables", "grpc 12"),
        ("a service that is none", "/tenantd.v1.Nothing/Do", "grpc 12"),
        ("a path that climbs", "/tenantd.v1.SessionService/../AdminService/Drain", "grpc 12"),
        ("another case", "/tenantd.v1.adminservice/drain", "grpc 12"),
        ("a path of 4 kB", &format!("/{}", "x".repeat(4000)), "grpc 12"),
    ] {
        let got = raw(scene, path, &[grpc, me], &good).await;
        scene.row(what, want, got).await;
    }
    // What is no HTTP/2 at all.
    for (what, bytes) in [
        ("HTTP/1.1", &b"POST /tenantd.v1.AdminService/Drain HTTP/1.1\r\nhost: x\r\n\r\n"[..]),
        ("TLS", &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]),
        ("noise", &[0xa5; 4096]),
        (
            "the preface and noise",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
        (
            "frames of no stream",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\0\x01\0\0\0\x05ABCD",
        ),
        (
            "an authority of a megabyte",
            &[
                &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\x10\0\0\x01\x04\0\0\0\x01"
                    [..],
                &[0x41; 1 << 20],
            ]
            .concat(),
        ),
    ] {
        let mut socket = tokio::net::UnixStream::connect(scene.running.socket()).await.unwrap();
        // It may hang up before all is said.
        let _ = socket.write_all(bytes).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), read).await;
        let got = if ended.is_ok() && answer.len() < 1024 { "hangs up" } else { "goes on" };
        scene.row(&format!("{what} instead of HTTP/2"), "hangs up", got.to_owned()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_calls_get_the_answer_of_the_table_and_change_nothing() {
    let mut scene = Scene::new().await;
    let held = sessions_of_others(&mut scene).await;
    leases(&mut scene).await;
    roles(&mut scene).await;
    tenants(&mut scene).await;
    fields(&mut scene).await;
    wire(&mut scene).await;
    assert!(scene.tried.len() >= 190, "{} rows", scene.tried.len());
    // Whoever may goes on as if nothing had been.
    let mut sessions = scene.sessions();
    sessions.release_session(with(VICTIM, release("live"))).await.unwrap();
    sessions.release_session(with(MALLORY, release("own"))).await.unwrap();
    let last = v1::ReleaseSessionRequest { lease_token: LEASE.to_owned(), ..release("leased") };
    sessions.release_session(with(SHARED, last)).await.unwrap();
    drop(held);
    // Each line of the log is one object, and holds no secret and no control character.
    let log = scene.running.said();
    let lines = log.lines().filter(|line| line.contains("\"level\""));
    let mut counted = 0;
    for line in lines {
        counted += 1;
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok() && !line.chars().any(char::is_control), "{line:?}");
        for secret in [KEY, LEASE, MALLORY, VICTIM, SHARED, VIEWER, ADMIN] {
            assert!(!line.contains(secret), "{line}");
        }
    }
    assert!(counted > 20, "{log}");
    let audit = std::fs::read_to_string(scene.running.audit()).unwrap();
    assert!(audit.contains("access.denied") && !audit.contains(KEY) && !audit.contains(LEASE));
}
