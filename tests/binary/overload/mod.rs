//! Floods are shed with a word, and hurt nobody else.

mod http2;
mod peers;
mod rates;
mod readers;
mod scrapes;
mod turns;

mod wire;

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tenantd::wire::v1::session_service_client::SessionServiceClient;

use crate::support::{Running, acquire, eventually, release};

/// Somebody of another tenant who minds its own business meanwhile.
struct Neighbour {
    served: Arc<AtomicU64>,
    enough: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Neighbour {
    async fn of(running: &Running) -> Self {
        let mut calls = SessionServiceClient::new(running.channel().await);
        let (served, enough) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, stop) = (Arc::clone(&served), Arc::clone(&enough));
        let task = tokio::spawn(async move {
            while !stop.load(Ordering::Acquire) {
                let id = format!("n{}", count.load(Ordering::Acquire));
                let one = async {
                    calls.acquire_session(acquire(&id, "neighbour")).await.unwrap();
                    calls.release_session(release(&id)).await.unwrap();
                };
                let served = tokio::time::timeout(Duration::from_secs(20), one).await;
                served.expect("the neighbour is not served");
                count.fetch_add(1, Ordering::AcqRel);
            }
        });
        Self { served, enough, task }
    }

    /// It is served, from now on.
    fn is_served(&self) {
        let before = self.served.load(Ordering::Acquire);
        eventually("the neighbour is served", || {
            assert!(!self.task.is_finished(), "the neighbour met an error");
            self.served.load(Ordering::Acquire) >= before + 5
        });
    }

    /// It was served all the time, and still is.
    async fn ends(self) {
        self.is_served();
        self.enough.store(true, Ordering::Release);
        self.task.await.unwrap();
    }
}

/// What the sidecar holds. Its open files can only be counted with
/// `--allow-core-dumps`.
#[derive(Debug, Clone, Copy)]
struct Holds {
    mib: u64,
    files: usize,
}

impl Holds {
    fn of(running: &Running) -> Self {
        let pid = running.child.id();
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { mib: (pages * 4096) >> 20, files }
    }

    /// No more memory than `mib` more, and, in the end, no more files than before.
    fn is_over(self, running: &Running, mib: u64) {
        let now = Self::of(running);
        assert!(now.mib <= self.mib + mib, "{self:?} before, {now:?} after");
        eventually("its files are given back", || Self::of(running).files <= self.files);
    }
}

/// Without a line for each of the neighbour's sessions.
const QUIET: &[(&str, &str)] = &[("TENANTD_LOG", "warn,tenantd::server=info")];
/// A sidecar whose open files can be counted.
const COUNTED: &[&str] = &["--allow-core-dumps"];

/// Connections that were shed, by cause.
fn shed(metrics: SocketAddr, cause: &str) -> u64 {
    figure(metrics, &format!("tenantd_connections_shed_total{{cause=\"{cause}\"}}"))
}

/// Calls that were shed, by cause.
fn calls_shed(metrics: SocketAddr, cause: &str) -> u64 {
    figure(metrics, &format!("tenantd_calls_shed_total{{cause=\"{cause}\"}}"))
}

/// One figure that it tells.
fn figure(metrics: SocketAddr, name: &str) -> u64 {
    let text = scraped(metrics);
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value: f64 = values.next().unwrap_or_else(|| panic!("no {name}")).parse().unwrap();
    value as u64
}

fn scraped(at: SocketAddr) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(at).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
