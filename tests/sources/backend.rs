//! An operator's endpoint that behaves per tenant as it is told, over HTTP and
//! over gRPC.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::get,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tenantd::wire::v1::{
    self,
    tenant_config_service_server::{TenantConfigService, TenantConfigServiceServer},
};
use tokio::{net::TcpListener, runtime::Runtime, sync::broadcast};
use tokio_stream::{Stream, StreamExt as _, wrappers::BroadcastStream};

/// How it answers for one tenant.
#[derive(Debug, Clone)]
pub enum Behaviour {
    Entry(Value),
    Cached {
        entry: Value,
        headers: Vec<(&'static str, String)>,
    },
    Missing,
    /// An answer, later.
    Slow(Duration, Value),
    Status(u16),
    /// Bytes that are no JSON, or not that of an entry.
    Body(String),
    Large(usize),
    Redirect(String),
    /// Headers, and then never the body.
    Hang,
    /// An error whose details are not what the protocol says.
    Garbled,
}

impl Behaviour {
    /// With the tenant's name where it needs one.
    pub fn of(self, tenant: &str) -> Self {
        match self {
            Self::Redirect(to) => Self::Redirect(to.replace("{tenant}", tenant)),
            other => other,
        }
    }
}

#[derive(Default)]
struct Table {
    behaviours: HashMap<String, Behaviour>,
    asked: BTreeMap<String, u32>,
    headers: Vec<HeaderMap>,
}

/// Shared by the server and the test.
#[derive(Clone)]
pub struct Backend {
    table: Arc<Mutex<Table>>,
    told: broadcast::Sender<Vec<String>>,
}

impl Default for Backend {
    fn default() -> Self {
        Self { table: Arc::default(), told: broadcast::channel(16).0 }
    }
}

/// A server, ended when dropped.
pub struct Serving {
    pub port: u16,
    /// Its own, so that its connections end with it.
    runtime: Option<Runtime>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

impl Serving {
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/tenants/{{tenant}}", self.port)
    }
}

pub fn entry(cap: u32) -> Value {
    json!({ "cap": cap, "providers": { "llm": { "provider": "openai", "model": format!("m{cap}") } } })
}

fn bind(port: u16) -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

impl Backend {
    pub fn set(&self, tenant: &str, behaviour: Behaviour) {
        self.table.lock().behaviours.insert(tenant.to_owned(), behaviour);
    }

    /// How often it was asked about a tenant.
    pub fn asked(&self, tenant: &str) -> u32 {
        self.table.lock().asked.get(tenant).copied().unwrap_or_default()
    }

    pub fn asked_in_all(&self) -> u32 {
        self.table.lock().asked.values().sum()
    }

    /// The headers of the last question.
    pub fn header(&self, name: &str) -> Option<String> {
        let table = self.table.lock();
        let last = table.headers.last()?;
        last.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    /// Tells watchers.
    pub fn tell(&self, tenants: &[&str]) {
        let _ = self.told.send(tenants.iter().map(|&tenant| tenant.to_owned()).collect());
    }

    fn behaviour(&self, tenant: &str, headers: Option<HeaderMap>) -> Behaviour {
        let mut table = self.table.lock();
        *table.asked.entry(tenant.to_owned()).or_default() += 1;
        table.headers.extend(headers);
        table.behaviours.get(tenant).cloned().unwrap_or(Behaviour::Missing)
    }

    pub async fn serve_http(&self) -> Serving {
        self.serve_http_at(0).await
    }

    pub async fn serve_http_at(&self, port: u16) -> Serving {
        let listener = bind(port);
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/tenants/{tenant}", get(answer)).with_state(self.clone());
        let runtime = runtime();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        Serving { port, runtime: Some(runtime) }
    }

    pub async fn serve_grpc(&self, tls: Option<tonic::transport::ServerTlsConfig>) -> Serving {
        self.serve_grpc_at(0, tls).await
    }

    pub async fn serve_grpc_at(
        &self,
        port: u16,
        tls: Option<tonic::transport::ServerTlsConfig>,
    ) -> Serving {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = bind(port);
        let port = listener.local_addr().unwrap().port();
        let garble = |mut answer: axum::http::Response<_>| {
            if answer.headers().contains_key(GARBLED) {
                let details = "not base64".parse().unwrap();
                answer.headers_mut().insert("grpc-status-details-bin", details);
            }
            answer
        };
        let mut server =
            tonic::transport::Server::builder().layer(tower::util::MapResponseLayer::new(garble));
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let served = server.add_service(TenantConfigServiceServer::new(self.clone()));
        let runtime = runtime();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            served.serve_with_incoming(incoming).await.unwrap();
        });
        Serving { port, runtime: Some(runtime) }
    }
}

/// Marks an answer whose status is to be garbled: tonic itself would mend it.
const GARBLED: &str = "x-garbled";

async fn answer(
    State(backend): State<Backend>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
) -> Response {
    let known = headers.get("if-none-match").map(|tag| tag.to_str().unwrap().to_owned());
    let behaviour = backend.behaviour(&tenant, Some(headers));
    let with = |status: u16, body: Body| {
        Response::builder().status(StatusCode::from_u16(status).unwrap()).body(body).unwrap()
    };
    match behaviour {
        Behaviour::Entry(entry) => with(200, Body::from(entry.to_string())),
        Behaviour::Cached { entry, headers } => {
            let same =
                headers.iter().any(|(name, tag)| *name == "etag" && Some(tag) == known.as_ref());
            let mut answer = if same {
                with(304, Body::empty())
            } else {
                with(200, Body::from(entry.to_string()))
            };
            for (name, value) in headers {
                answer.headers_mut().insert(name, value.parse().unwrap());
            }
            answer
        }
        Behaviour::Missing => with(404, Body::empty()),
        Behaviour::Slow(wait, entry) => {
            tokio::time::sleep(wait).await;
            with(200, Body::from(entry.to_string()))
        }
        Behaviour::Garbled => with(599, Body::from("\0")),
        Behaviour::Status(status) => with(status, Body::from("sk-canary-in-an-error-page")),
        Behaviour::Body(text) => with(200, Body::from(text)),
        Behaviour::Large(bytes) => {
            with(200, Body::from(json!({ "labels": { "a": "x".repeat(bytes) } }).to_string()))
        }
        Behaviour::Redirect(to) => {
            let mut answer = with(302, Body::empty());
            answer.headers_mut().insert("location", to.parse().unwrap());
            answer
        }
        Behaviour::Hang => {
            let never = tokio_stream::pending::<Result<axum::body::Bytes, std::io::Error>>();
            with(200, Body::from_stream(never))
        }
    }
}

#[tonic::async_trait]
impl TenantConfigService for Backend {
    async fn resolve_tenant(
        &self,
        request: tonic::Request<v1::ResolveTenantRequest>,
    ) -> Result<tonic::Response<v1::ResolveTenantResponse>, tonic::Status> {
        let headers = request.metadata().clone().into_headers();
        let asked = request.into_inner();
        let entry = match self.behaviour(&asked.tenant, Some(headers)) {
            Behaviour::Entry(entry) | Behaviour::Cached { entry, .. } => entry,
            Behaviour::Slow(wait, entry) => {
                tokio::time::sleep(wait).await;
                entry
            }
            Behaviour::Missing => return Err(tonic::Status::not_found("no such tenant")),
            Behaviour::Large(bytes) => json!({ "labels": { "a": "x".repeat(bytes) } }),
            Behaviour::Body(text) => serde_json::from_str(&text).unwrap_or_default(),
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Garbled => {
                let mut status = tonic::Status::internal("sk-canary-in-an-error");
                status.metadata_mut().insert(GARBLED, "1".parse().unwrap());
                return Err(status);
            }
            Behaviour::Status(_) | Behaviour::Redirect(_) => {
                return Err(tonic::Status::internal("sk-canary-in-an-error"));
            }
        };
        let config = match entry {
            Value::Object(map) => tenantd::grpc::convert::struct_out(&map),
            _ => prost_types::Struct::default(),
        };
        let revision = format!("{:?}", config).len().to_string();
        Ok(tonic::Response::new(v1::ResolveTenantResponse {
            config: Some(config),
            revision,
            ..Default::default()
        }))
    }

    type WatchTenantsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchTenantsResponse, tonic::Status>> + Send>>;

    async fn watch_tenants(
        &self,
        _: tonic::Request<v1::WatchTenantsRequest>,
    ) -> Result<tonic::Response<Self::WatchTenantsStream>, tonic::Status> {
        let told = BroadcastStream::new(self.told.subscribe());
        let answers = told
            .map(|tenants| Ok(v1::WatchTenantsResponse { tenants: tenants.unwrap_or_default() }));
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}
