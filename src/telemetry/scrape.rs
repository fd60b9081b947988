//! The Prometheus endpoint: `GET /metrics`.

use std::sync::Arc;

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use prometheus::{Encoder as _, TextEncoder};

use super::gauges::Latest;
use crate::app::Sidecar;

#[derive(Clone)]
struct Scraped {
    registry: prometheus::Registry,
    sidecar: Arc<Sidecar>,
    latest: Latest,
}

/// What is served.
pub fn router(registry: prometheus::Registry, sidecar: Arc<Sidecar>, latest: Latest) -> Router {
    let state = Scraped { registry, sidecar, latest };
    Router::new().route("/metrics", get(metrics)).with_state(state)
}

async fn metrics(State(of): State<Scraped>) -> axum::response::Response {
    // Not what was true seconds ago.
    of.latest.store(Arc::new(of.sidecar.figures().await));
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&of.registry.gather(), &mut text) {
        Ok(()) => {
            ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response()
        }
        Err(error) => {
            (axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}
