//! Any messages to any method, one after the other, on a sidecar of their own:
//! each is answered with a status that says what is wrong, and afterwards the
//! event log, the caps and the lists still agree. A tenant's key is in the
//! answers to its own sessions and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tenantd::{
    app::Sidecar,
    config,
    domain::event::Kind,
    grpc::{
        admin_service::Admin, session_service::Sessions, status::explain, watch_service::Watches,
        work::Unmetered,
    },
    server::{self, Listeners},
    transport::peer::Peer,
    wire::{
        served::{
            session_service_server::SessionServiceServer, watch_service_server::WatchServiceServer,
        },
        v1::{self, admin_service_server::AdminServiceServer, work_answer},
    },
};
use tonic::{Code, Status, body::Body};
use tower::{Layer as _, Service as _, util::MapResponseLayer};

/// Every method; its place is its number in the input.
pub const METHODS: [&str; 22] = [
    "Session/AcquireSession",
    "Session/RenewSession",
    "Session/ReleaseSession",
    "Session/ReportFailure",
    "Session/GetSessionConfig",
    "Session/KeepAlive",
    "Session/PublishEvents",
    "Watch/WatchSessions",
    "Watch/GetSnapshot",
    "Watch/ListSessions",
    "Watch/ListTenants",
    "Watch/GetTenant",
    "Admin/SetTenantCap",
    "Admin/SuspendTenant",
    "Admin/ResumeTenant",
    "Admin/OpenBreaker",
    "Admin/ResetBreaker",
    "Admin/RevokeSession",
    "Admin/Drain",
    "Admin/ReloadConfig",
    "Admin/SetLogFilter",
    "Session/Work",
];
/// Set in a method's number: the bytes are the body as they are, frames and all.
pub const RAW: u8 = 0x80;
/// Most calls of one input, and most messages read of one answer.
const MOST: usize = 64;
const MACHINE: usize = 6;
const AGENT: usize = 2;

const CONFIG: &str = r#"
[limits]
max_sessions = 6
max_tenants = 4
[agents.a]
cap = 2
[defaults]
cap = 3
[defaults.providers.llm]
provider = "p"
credential = "k3y-of-others"
[tenants.acme]
cap = 2
[tenants.acme.providers.llm]
provider = "p"
credential = "k3y-of-acme"
[tenants.globex.providers.llm]
provider = "p"
credential = "k3y-of-globex"
"#;
const KEY: &str = "k3y-of-";

/// Calls, each: the method's number, the length in two bytes, the message.
pub fn check(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("starts").block_on(play(data));
}

/// The bytes of one call, as [`check`] reads them.
pub fn call(method: u8, message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![method];
    bytes.extend(len.to_be_bytes());
    bytes.extend_from_slice(&message[..usize::from(len)]);
    bytes
}

async fn play(data: &[u8]) {
    let path = std::path::Path::new("/nowhere/tenantd.toml");
    let config = config::parse(path, CONFIG, 0o600).expect("is valid");
    let bound = server::bind(config, Listeners::default()).await.expect("needs nothing");
    let sidecar = std::sync::Arc::clone(&bound.sidecar);
    let key_in_input = data.windows(KEY.len()).any(|window| window == KEY.as_bytes());
    let mut rest = data;
    for _ in 0..MOST {
        let [method, high, low, more @ ..] = rest else { break };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (message, more) = more.split_at(len);
        rest = more;
        let raw = method & RAW != 0;
        let name = METHODS[usize::from(method & !RAW) % METHODS.len()];
        let answer = ask(&sidecar, name, message, raw).await;
        if let Err(said) = &answer.status {
            is_explained(name, said, raw);
        }
        for message in &answer.messages {
            is_own(name, message, key_in_input);
        }
        sidecar.tick().await;
    }
    agrees(&sidecar).await;
}

struct Answer {
    status: Result<(), Status>,
    messages: Vec<Bytes>,
}

async fn ask(sidecar: &std::sync::Arc<Sidecar>, name: &str, message: &[u8], raw: bool) -> Answer {
    let mut body = Vec::new();
    if !raw {
        body.push(0);
        body.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    }
    body.extend_from_slice(message);
    let (service, method) = name.split_once('/').expect("has both");
    let mut request = http::Request::new(Body::new(Full::new(Bytes::from(body))));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = format!("/tenantd.v1.{service}Service/{method}").parse().expect("is one");
    let kind = http::HeaderValue::from_static("application/grpc");
    request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    request.extensions_mut().insert(std::sync::Arc::new(Peer::unix(1, Some((0, 0, None)), 0)));
    let sidecar = std::sync::Arc::clone(sidecar);
    let layer = MapResponseLayer::new(explain::<Body>);
    let answer = match service {
        "Session" => {
            layer
                .layer(SessionServiceServer::new(Sessions::new(
                    sidecar,
                    std::sync::Arc::new(Unmetered),
                )))
                .call(request)
                .await
        }
        "Watch" => layer.layer(WatchServiceServer::new(Watches::new(sidecar))).call(request).await,
        _ => layer.layer(AdminServiceServer::new(Admin(sidecar))).call(request).await,
    };
    let (head, mut body) = answer.expect("is infallible").into_parts();
    let mut status = Status::from_header_map(&head.headers);
    let mut bytes = Vec::new();
    for _ in 0..MOST {
        // A stream that waits for more has said what there is to say.
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = idle() => None,
        };
        let Some(frame) = frame else { break };
        let frame = frame.expect("the answer breaks off");
        match frame.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => status = frame.trailers_ref().and_then(Status::from_header_map),
        }
    }
    let mut messages = Vec::new();
    let mut left = bytes.as_slice();
    while let [_, a, b, c, d, more @ ..] = left {
        let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        messages.push(Bytes::copy_from_slice(&more[..len]));
        left = &more[len..];
    }
    let status = status.filter(|said| said.code() != Code::Ok).map_or(Ok(()), Err);
    Answer { status, messages }
}

async fn idle() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

fn is_explained(name: &str, said: &Status, raw: bool) {
    let by_us = !said.details().is_empty();
    assert!(by_us || raw, "{name}: a bare {:?}: {}", said.code(), said.message());
    assert!(
        !matches!(said.code(), Code::Unknown | Code::DataLoss | Code::Aborted),
        "{name}: {said:?}"
    );
    assert!(raw || said.code() != Code::Internal, "{name}: {said:?}");
    let text = said.message();
    assert!(text.len() < 4096 && !text.chars().any(char::is_control), "{name}: {text:?}");
    assert!(!text.contains(KEY), "{name}: {text}");
}

/// Keys are in the config of a session, and of its own tenant.
fn is_own(name: &str, message: &Bytes, key_in_input: bool) {
    match name {
        "Session/AcquireSession" => {
            granted_own(v1::AcquireSessionResponse::decode(message.clone()).expect("is one"));
        }
        "Session/GetSessionConfig" => {}
        "Session/Work" => {
            use work_answer::Answer as Said;
            let response = v1::WorkResponse::decode(message.clone()).expect("is one");
            assert!(!response.answers.is_empty(), "answered with nothing");
            for answer in response.answers {
                match answer.answer.expect("each is answered") {
                    Said::AcquireSession(answer) => granted_own(answer),
                    Said::Error(said) => {
                        let has_key = said.windows(KEY.len()).any(|w| w == KEY.as_bytes());
                        assert!(!has_key, "shows a key");
                    }
                    Said::GetSessionConfig(_)
                    | Said::RenewSession(_)
                    | Said::ReleaseSession(_)
                    | Said::ReportFailure(_) => {}
                }
            }
        }
        _ => {
            let has_key = message.windows(KEY.len()).any(|window| window == KEY.as_bytes());
            assert!(key_in_input || !has_key, "{name} shows a key");
        }
    }
}

fn granted_own(answer: v1::AcquireSessionResponse) {
    let tenant = answer.session.expect("is given").tenant;
    let config = answer.config.expect("is given");
    let owner = if ["acme", "globex"].contains(&tenant.as_str()) { &tenant } else { "others" };
    let key = &config.providers["llm"].credentials["api_key"].value;
    assert_eq!(key, &format!("{KEY}{owner}"), "{tenant} got another's key");
}

/// The event log alone gives the sessions that the lists show, and never more
/// than the caps.
async fn agrees(sidecar: &std::sync::Arc<Sidecar>) {
    let mut live: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut was: BTreeSet<String> = BTreeSet::new();
    let mut place = 0;
    loop {
        let entries = sidecar.events.after(place).expect("nothing was dropped");
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            assert_eq!(entry.sequence, place + 1, "a hole in the log");
            place = entry.sequence;
            let subject = &entry.event.subject;
            let text = |of: Option<String>| of.unwrap_or_default();
            let session = text(subject.session.as_ref().map(ToString::to_string));
            let tenant = text(subject.tenant.as_ref().map(ToString::to_string));
            let agent = text(subject.agent.as_ref().map(ToString::to_string));
            match &entry.event.kind {
                Kind::SessionAcquired { live: counted, cap, .. } => {
                    assert!(was.insert(session.clone()), "an id lives twice");
                    live.insert(session, (tenant.clone(), agent.clone()));
                    let of = |wanted: &str| live.values().filter(|(t, _)| t == wanted).count();
                    assert_eq!(of(&tenant), *counted as usize);
                    assert!(cap.is_none_or(|cap| *counted <= cap), "over the tenant's cap");
                    assert!(live.len() <= MACHINE, "over the machine's cap");
                    let of_agent = live.values().filter(|(_, a)| a == "a").count();
                    assert!(of_agent <= AGENT, "over the agent's cap");
                }
                Kind::SessionEnded { .. } => {
                    assert!(live.remove(&session).is_some(), "ended twice, or never acquired");
                }
                _ => {}
            }
        }
    }
    let listed = ask(sidecar, "Watch/ListSessions", &[], false).await;
    let listed = v1::ListSessionsResponse::decode(listed.messages[0].clone()).expect("is one");
    let listed: BTreeSet<_> = listed.sessions.into_iter().map(|s| s.session_id).collect();
    assert_eq!(listed, live.into_keys().collect(), "the list and the log differ");
}
