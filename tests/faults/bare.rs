//! One agent process on the generated stubs alone, as somebody's own client in
//! some language would be: a stream that attaches what it holds, and calls with
//! a deadline. Commands and answers as in `agents/agent.py`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tenantd::wire::v1::{self, session_service_client::SessionServiceClient};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt as _;

const DEADLINE: Duration = Duration::from_secs(2);

/// A channel to a socket that connects when it is used, and again.
pub fn channel(socket: PathBuf) -> Channel {
    let connect = tower::service_fn(move |_| {
        let path = socket.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect)
}

/// A request with the deadline on it and on the wire.
pub fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// A call, given up when the deadline is over: tonic's own ends with the headers
/// of the answer, and a connection may break, or be garbled, between.
pub async fn prompt<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(DEADLINE + Duration::from_secs(1), call).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("given up by the client")))
}

/// What it comes to; tonic's client panics on status details that are garbled.
async fn survive<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> Option<T> {
    tokio::spawn(call).await.ok()
}

/// The stable reason of an error; `UNAVAILABLE` where nobody decided, `?` where
/// it is none that is documented.
pub fn reason(status: &Status) -> String {
    if let Some(info) = status.get_error_details().error_info() {
        return info.reason.clone();
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => "UNAVAILABLE".to_owned(),
        // What tonic makes of a connection that breaks in the middle of a call.
        Code::Unknown | Code::Internal => "UNAVAILABLE".to_owned(),
        _ => "?".to_owned(),
    }
}

/// As `channel`, over TLS, with what the environment names.
fn secure_channel(address: String) -> Channel {
    let read = |name| std::env::var(name).ok().map(|path| std::fs::read(path).unwrap());
    let ca = read("TENANTD_CA_FILE").expect("it is told whom to trust");
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    if let (Some(certificate), Some(key)) = (read("TENANTD_CERT_FILE"), read("TENANTD_KEY_FILE")) {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Endpoint::from_shared(address).unwrap().tls_config(tls).unwrap().connect_lazy()
}

/// Shows the token with each call, where there is one.
#[derive(Clone)]
struct Shows {
    bearer: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Shows {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

struct Agent {
    calls: SessionServiceClient<InterceptedService<Channel, Shows>>,
    worker: String,
    /// Sessions that it runs, by what it last knew of them.
    held: Arc<Mutex<BTreeSet<String>>>,
    changed: Arc<tokio::sync::Notify>,
}

/// Does what stdin says until it ends.
pub async fn serve() {
    let worker = std::env::var("FAULT_WORKER").unwrap();
    let address = std::env::var("FAULT_ADDRESS").unwrap();
    let channel = match address.strip_prefix("unix:") {
        Some(socket) => channel(PathBuf::from(socket)),
        None => secure_channel(address),
    };
    let token = std::env::var("TENANTD_TOKEN").ok();
    let bearer = token.map(|token| format!("Bearer {token}").parse().unwrap());
    let agent = Arc::new(Agent {
        calls: SessionServiceClient::with_interceptor(channel, Shows { bearer }),
        worker,
        held: Arc::default(),
        changed: Arc::default(),
    });
    let streaming = tokio::spawn(keep_alive(Arc::clone(&agent)));
    let (told, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if told.send(line).is_err() {
                break;
            }
        }
    });
    while let Some(line) = lines.recv().await {
        let ask: Value = serde_json::from_str(&line).unwrap();
        let agent = Arc::clone(&agent);
        tokio::spawn(async move {
            let start = Instant::now();
            let n = ask["n"].clone();
            let act = async move { prompt(agent.act(&ask)).await };
            let garbled = || Err(Status::unavailable("the answer is garbled"));
            let mut said = match survive(act).await.unwrap_or_else(garbled) {
                Ok(said) => said,
                Err(refused) => json!({
                    "ok": false, "class": format!("{:?}", refused.code()),
                    "reason": reason(&refused), "text": refused.message(),
                }),
            };
            said["n"] = n;
            said["ms"] = json!(start.elapsed().as_millis() as u64);
            writeln!(std::io::stdout().lock(), "{said}").unwrap();
        });
    }
    streaming.abort();
}

impl Agent {
    async fn act(&self, ask: &Value) -> Result<Value, Status> {
        let text = |key: &str| ask[key].as_str().unwrap_or_default().to_owned();
        let id = text("id");
        let mut calls = self.calls.clone();
        let fine = json!({ "ok": true });
        match text("op").as_str() {
            "acquire" => {
                let asked = v1::AcquireSessionRequest {
                    session_id: id.clone(),
                    job_metadata: text("job"),
                    room_metadata: text("room"),
                    tenant: text("tenant"),
                    agent_name: text("agent"),
                    worker: self.worker.clone(),
                    activate: true,
                    ..Default::default()
                };
                let answer = calls.acquire_session(timed(asked)).await?.into_inner();
                self.held.lock().unwrap().insert(id);
                self.changed.notify_one();
                let tenant = answer.session.unwrap_or_default().tenant;
                Ok(json!({ "ok": true, "tenant": tenant, "key": key(answer.config) }))
            }
            "end" => {
                let outcome = match text("outcome").as_str() {
                    "success" => v1::Outcome::Success,
                    "failure" => v1::Outcome::Failure,
                    _ => v1::Outcome::Cancelled,
                };
                self.held.lock().unwrap().remove(&id);
                let asked = v1::ReleaseSessionRequest {
                    session_id: id,
                    outcome: outcome.into(),
                    ..Default::default()
                };
                calls.release_session(timed(asked)).await.map(|_| fine)
            }
            "fail" => {
                let asked = v1::ReportFailureRequest { session_id: id, ..Default::default() };
                calls.report_failure(timed(asked)).await.map(|_| fine)
            }
            "publish" => {
                let event =
                    v1::AgentEvent { name: "turn_started".to_owned(), ..Default::default() };
                let event =
                    v1::PublishedEvent { session_id: id, event: Some(event), ..Default::default() };
                let asked = v1::PublishEventsRequest { events: vec![event] };
                let stream = tokio_stream::once(asked);
                let mut answers = calls.publish_events(timed(stream)).await?.into_inner();
                while answers.message().await?.is_some() {}
                Ok(fine)
            }
            "refresh" => {
                let asked = v1::GetSessionConfigRequest { session_id: id, ..Default::default() };
                let answer = calls.get_session_config(timed(asked)).await?.into_inner();
                Ok(json!({ "ok": true, "key": key(answer.config) }))
            }
            "renew" => {
                let asked = v1::RenewSessionRequest {
                    session_id: id,
                    worker: self.worker.clone(),
                    ..Default::default()
                };
                calls.renew_session(timed(asked)).await.map(|_| fine)
            }
            _ => {
                // What it held it gives up; its stream goes on without them.
                self.held.lock().unwrap().clear();
                Ok(fine)
            }
        }
    }
}

fn key(config: Option<v1::SessionConfig>) -> String {
    let providers: BTreeMap<_, _> = config.unwrap_or_default().providers.into_iter().collect();
    let llm = providers.get("llm").and_then(|llm| llm.credentials.get("api_key"));
    llm.map(|credential| credential.value.clone()).unwrap_or_default()
}

/// One stream after the other, each with all that is held.
async fn keep_alive(agent: Arc<Agent>) {
    loop {
        survive(stream(Arc::clone(&agent))).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn stream(agent: Arc<Agent>) {
    let (asks, asked) = tokio::sync::mpsc::channel(16);
    let stream = tokio_stream::wrappers::ReceiverStream::new(asked);
    let attach = |first: bool| v1::KeepAliveRequest {
        worker: if first { agent.worker.clone() } else { String::new() },
        attach_session_ids: agent.held.lock().unwrap().iter().cloned().collect(),
        ..Default::default()
    };
    asks.send(attach(true)).await.unwrap();
    if let Ok(answers) = agent.calls.clone().keep_alive(stream).await {
        let mut answers = answers.into_inner();
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => hear(&agent, answer),
                    Ok(None) | Err(_) => break,
                },
                () = agent.changed.notified() => {
                    if asks.send(attach(false)).await.is_err() {
                        break;
                    }
                }
            }
        }
    }
}

fn hear(agent: &Agent, answer: v1::KeepAliveResponse) {
    use v1::keep_alive_response::Message;
    let mut held = agent.held.lock().unwrap();
    match answer.message {
        Some(Message::Attached(attached)) => {
            for refused in attached.refused {
                held.remove(&refused.session_id);
            }
        }
        Some(Message::Revoked(revoked)) => _ = held.remove(&revoked.session_id),
        _ => {}
    }
}
