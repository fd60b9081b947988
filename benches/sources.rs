//! An acquire with a warm cache costs the same whatever source the tenant's config
//! comes from: one acquire and release over the socket, interleaved over sidecars
//! that differ in nothing but their source. `cargo bench --bench sources`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may panic and prints")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use tenantd::source::sql;

#[path = "../tests/sources/backend.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod backend;
#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod support;

use backend::{Backend, Behaviour};
use support::{Running, acquire, release, start};

const ROUNDS: usize = 15;
const PAIRS: usize = 300;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let entry = json!({
        "cap": 100,
        "providers": { "llm": { "provider": "openai", "model": "m", "credential": "env:PATH" } },
    });
    let backend = Backend::default();
    backend.set("acme", Behaviour::Entry(entry.clone()));
    let (http, grpc) = (backend.serve_http().await, backend.serve_grpc(None).await);
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("t.db").display());
    let database = sql::open(&url, Path::new("/"), 2, Duration::from_secs(5)).unwrap();
    database.init().await.unwrap();
    database.put(&[("acme".to_owned(), entry.to_string())]).await.unwrap();
    let source =
        |kind: &str, url: &str| format!("[[sources]]\nkind='{kind}'\nurl='{url}'\nttl='1h'\n");
    let file = "[tenants.acme]\ncap=100\n[tenants.acme.providers.llm]\nprovider='openai'\nmodel='m'\ncredential='env:PATH'\n";
    let sidecars = [
        ("file", start(file).await),
        ("sql", start(&source("sql", &url)).await),
        ("http", start(&source("http", &http.url())).await),
        ("grpc", start(&source("grpc", &format!("http://127.0.0.1:{}", grpc.port))).await),
    ];
    let mut figures = vec![Vec::new(); sidecars.len()];
    for round in 0..=ROUNDS {
        for at in 0..sidecars.len() {
            // Each round begins with another one.
            let at = (at + round) % sidecars.len();
            let took = pairs(&sidecars[at].1).await;
            if round > 0 {
                figures[at].push(took.as_secs_f64() * 1e6 / PAIRS as f64);
            }
        }
    }
    let median = |figures: &[f64]| {
        let mut sorted = figures.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        (sorted[sorted.len() / 2], sorted[sorted.len() / 4], sorted[sorted.len() * 3 / 4])
    };
    let (base, ..) = median(&figures[0]);
    println!("source   us per acquire+release (quartiles)   ratio to file");
    for ((name, _), figures) in sidecars.iter().zip(&figures) {
        let (middle, low, high) = median(figures);
        println!(
            "{name:<8} {middle:>8.1}  ({low:.1} to {high:.1})               {:.2}",
            middle / base
        );
    }
    for (_, sidecar) in sidecars {
        sidecar.stop().await;
    }
}

async fn pairs(running: &Running) -> Duration {
    let mut sessions = running.sessions().await;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let began = Instant::now();
    for n in 0..PAIRS {
        let id = format!("{id}-{n}");
        sessions.acquire_session(acquire(&id, "acme")).await.unwrap();
        sessions.release_session(release(&id)).await.unwrap();
    }
    began.elapsed()
}
