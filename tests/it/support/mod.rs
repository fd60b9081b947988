//! One sidecar a test, on a private socket, ended at the end of the test.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tenantd::{
    app::Sidecar,
    config,
    server::{self, Listeners, Stop},
    wire::v1::{
        self, admin_service_client::AdminServiceClient,
        session_service_client::SessionServiceClient, watch_service_client::WatchServiceClient,
    },
};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

pub struct Running {
    pub sidecar: Arc<Sidecar>,
    pub config: PathBuf,
    socket: PathBuf,
    force: Option<oneshot::Sender<()>>,
    pub served: JoinHandle<anyhow::Result<()>>,
    _dir: tempfile::TempDir,
}

/// Starts one on a config file of this text.
pub async fn start(text: &str) -> Running {
    start_on(text, None).await.0
}

/// Starts one that listens on a free port of loopback as well, and gives that.
pub async fn start_tcp(text: &str) -> (Running, u16) {
    let (running, tcp) = start_on(text, Some(([127, 0, 0, 1], 0).into())).await;
    (running, tcp.unwrap().port())
}

async fn start_on(
    text: &str,
    tcp: Option<std::net::SocketAddr>,
) -> (Running, Option<std::net::SocketAddr>) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("tenantd.toml");
    // One of no bytes is refused.
    write(&config, if text.is_empty() { "# defaults" } else { text });
    let socket = dir.path().join("s.sock");
    let listeners = Listeners { unix: Some(socket.clone()), tcp, ..Listeners::default() };
    let bound = server::bind(config::load(&config).unwrap(), listeners).await.unwrap();
    let sidecar = Arc::clone(&bound.sidecar);
    let tcp = bound.tcp_address();
    let (force, forced) = oneshot::channel();
    let served = tokio::spawn(bound.run(
        async {
            _ = forced.await;
            Stop::Now
        },
        || {},
    ));
    (Running { sidecar, config, socket, force: Some(force), served, _dir: dir }, tcp)
}

/// Writes a private file in one step, as careful editors do.
pub fn write(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, path).unwrap();
}

impl Running {
    pub async fn channel(&self) -> Channel {
        let path = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // A small window, so that a client that does not read holds its sender
        // up after kilobytes, not after megabytes.
        Endpoint::from_static("http://localhost")
            .initial_stream_window_size(65_535)
            .connect_with_connector(connector)
            .await
            .unwrap()
    }

    pub async fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel().await).max_encoding_message_size(64 << 20)
    }

    pub async fn watches(&self) -> WatchServiceClient<Channel> {
        WatchServiceClient::new(self.channel().await)
    }

    pub async fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel().await)
    }

    /// Ends it at once and waits for it.
    pub async fn stop(mut self) {
        if let Some(force) = self.force.take() {
            let _ = force.send(());
        }
        tokio::time::timeout(Duration::from_secs(10), &mut self.served)
            .await
            .expect("ends in time")
            .unwrap()
            .unwrap();
    }
}

pub fn acquire(id: &str, tenant: &str) -> v1::AcquireSessionRequest {
    v1::AcquireSessionRequest {
        session_id: id.to_owned(),
        tenant: tenant.to_owned(),
        activate: true,
        ..Default::default()
    }
}

pub fn release(id: &str) -> v1::ReleaseSessionRequest {
    v1::ReleaseSessionRequest {
        session_id: id.to_owned(),
        outcome: v1::Outcome::Success.into(),
        failure: None,
        ..Default::default()
    }
}

pub fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

/// Waits until a condition holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "gave up waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
