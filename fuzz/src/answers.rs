//! What sources and the secret store answer: any bytes from an HTTP server that
//! was sent a token, and any message of an operator's gRPC service. Whatever
//! comes, a question ends, says what is wrong without the token, and gives
//! nothing that is larger than its bound.

use std::{
    convert::Infallible,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use tenantd::{
    app::ports::{Fetched, TenantSource},
    config::{
        Config,
        entry::Entry,
        source::{Tls, VaultAuth, VaultConfig},
    },
    domain::{
        provider::{CredentialRef, Secret},
        tenant::TenantId,
    },
    source::{credentials::vault::Vault, grpc::GrpcSource, http::HttpSource},
};
use tonic::body::Body;

use super::CANARY;

const MAX: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(30);

/// The first byte chooses who is asked.
pub fn check(data: &[u8]) {
    let Some((who, answer)) = data.split_first() else { return };
    let world = World::get();
    *world.answer.lock().expect("is whole") = answer.to_vec();
    let asked = async {
        match who % 4 {
            0 => world.http().await,
            1 => world.vault().await,
            2 => world.grpc(true).await,
            _ => world.grpc(false).await,
        }
    };
    world.runtime.block_on(async {
        tokio::time::timeout(PATIENCE, asked).await.expect("an answer never ends");
    });
}

struct World {
    runtime: tokio::runtime::Runtime,
    answer: Arc<Mutex<Vec<u8>>>,
    http: SocketAddr,
    grpc: PathBuf,
    _dir: tempfile::TempDir,
}

impl World {
    fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("starts");
            let answer = Arc::new(Mutex::new(Vec::new()));
            let dir = tempfile::tempdir().expect("a folder");
            let grpc = dir.path().join("s.sock");
            let listener = {
                let _in = runtime.enter();
                tokio::net::UnixListener::bind(&grpc).expect("a socket")
            };
            let service = Raw(Arc::clone(&answer));
            runtime.spawn(
                tonic::transport::Server::builder()
                    .add_service(service)
                    .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener)),
            );
            Self { http: serve_http(Arc::clone(&answer)), answer, runtime, grpc, _dir: dir }
        })
    }

    async fn http(&self) {
        let url = Secret::new(format!("http://{}/t/{{tenant}}", self.http));
        let source = HttpSource::new(url, Some(token()), &Tls::default(), MAX).expect("is valid");
        is_sound(source.fetch(&acme(), Some("before")).await);
    }

    async fn grpc(&self, framed: bool) {
        if framed {
            let mut answer = self.answer.lock().expect("is whole");
            let mut frame = vec![0];
            frame.extend(u32::try_from(answer.len()).unwrap_or(u32::MAX).to_be_bytes());
            frame.append(&mut answer);
            *answer = frame;
        }
        let url = format!("unix:{}", self.grpc.display());
        let name = "own".to_owned();
        let source = GrpcSource::new(name, &url, Some(token()), &Tls::default(), PATIENCE, MAX)
            .expect("valid");
        is_sound(source.fetch(&acme(), Some("before")).await);
    }

    async fn vault(&self) {
        let vault = Arc::new(Vault::new(VaultConfig {
            address: format!("http://{}", self.http),
            auth: VaultAuth::Token(token()),
            namespace: None,
            ca_file: None,
            ttl: PATIENCE,
            stale_for: Duration::ZERO,
            timeout: Duration::from_secs(5),
        }));
        match vault.read("secret/tenants/acme", "api_key").await {
            Ok((secret, _)) => {
                let shown = format!("{secret:?}");
                assert!(secret.expose().len() < 8 || !shown.contains(secret.expose()), "{shown}");
            }
            Err(said) => assert!(!said.is_empty() && !said.contains(CANARY), "{said}"),
        }
    }
}

fn acme() -> TenantId {
    TenantId::parse("acme").expect("is one")
}

fn token() -> CredentialRef {
    CredentialRef::Literal(Secret::new(format!("{CANARY}-token")))
}

fn is_sound(fetched: Result<Fetched, String>) {
    match fetched {
        Ok(Fetched::Entry { value, .. }) => {
            assert!(value.to_string().len() < 64 * MAX, "larger than its bound");
            let read = Entry::from_json(&acme(), value, &Config::builtin().base, true);
            if let Ok(read) = read {
                let _ = read.complete(&Config::builtin().base);
            }
        }
        Ok(Fetched::Missing | Fetched::Unchanged { .. }) => {}
        Err(said) => assert!(!said.is_empty() && !said.contains(CANARY), "{said}"),
    }
}

/// Answers each question with the bytes as they are, and hangs up.
fn serve_http(answer: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("has one");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { continue };
            let mut asked = Vec::new();
            let mut room = [0; 2048];
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                match connection.read(&mut room) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => asked.extend_from_slice(&room[..read]),
                }
            }
            let bytes = answer.lock().expect("is whole").clone();
            let _ = connection.write_all(&bytes);
        }
    });
    address
}

/// A service that answers with the bytes as they are.
#[derive(Clone)]
struct Raw(Arc<Mutex<Vec<u8>>>);

impl tonic::server::NamedService for Raw {
    const NAME: &'static str = "tenantd.v1.TenantConfigService";
}

impl tower::Service<http::Request<Body>> for Raw {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let bytes = self.0.lock().expect("is whole").clone();
        let body = Body::new(http_body_util::Full::new(bytes::Bytes::from(bytes)));
        let mut answer = http::Response::new(body);
        let kind = http::HeaderValue::from_static("application/grpc");
        answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        std::future::ready(Ok(answer))
    }
}
