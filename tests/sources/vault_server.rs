//! A fake of Vault's documented HTTP endpoints (KV version 2 read, token lookup
//! and renewal, Kubernetes login): no registry that the tests can reach has the
//! real server.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, Method},
    response::Response,
    routing::any,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

#[derive(Default)]
pub struct Table {
    pub secrets: HashMap<String, Value>,
    pub tokens: Vec<String>,
    /// Seconds that a login lasts.
    pub lasts: u64,
    pub logins: u32,
    pub renewals: u32,
    pub reads: u32,
}

#[derive(Clone, Default)]
pub struct Vault(pub Arc<Mutex<Table>>);

pub struct Serving {
    pub port: u16,
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Vault {
    pub fn put(&self, path: &str, data: Value) {
        self.0.lock().secrets.insert(path.to_owned(), data);
    }

    pub async fn serve(&self, port: u16) -> Serving {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/v1/{*path}", any(answer)).with_state(self.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Serving { port, task }
    }
}

fn say(status: u16, body: Value) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

fn auth(token: &str, lasts: u64) -> Value {
    json!({
        "request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0, "data": null,
        "warnings": null,
        "auth": {
            "client_token": token, "accessor": "a", "policies": [], "token_policies": [],
            "metadata": null, "lease_duration": lasts, "renewable": lasts > 0, "entity_id": "",
            "token_type": "service", "orphan": true, "mfa_requirement": null, "num_uses": 0,
        },
    })
}

fn data(of: Value) -> Value {
    json!({
        "request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0, "data": of,
        "warnings": null, "auth": null,
    })
}

async fn answer(
    State(Vault(table)): State<Vault>,
    method: Method,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut table = table.lock();
    if path == "auth/kubernetes/login" {
        let asked: Value = serde_json::from_slice(&body).unwrap();
        if asked != json!({ "role": "tenantd", "jwt": "the-jwt" }) {
            return say(403, json!({ "errors": ["permission denied"] }));
        }
        table.logins += 1;
        let token = format!("hvs.login-{}", table.logins);
        table.tokens.push(token.clone());
        return say(200, auth(&token, table.lasts));
    }
    let token = headers.get("x-vault-token").map(|token| token.to_str().unwrap().to_owned());
    let Some(token) = token.filter(|token| table.tokens.contains(token)) else {
        return say(403, json!({ "errors": ["permission denied: sk-canary"] }));
    };
    match (&method, path.as_str()) {
        (&Method::GET, "auth/token/lookup-self") => say(
            200,
            data(json!({
                "accessor": "a", "creation_time": 0, "creation_ttl": table.lasts,
                "display_name": "token", "entity_id": "", "expire_time": null,
                "explicit_max_ttl": 0, "id": token, "identity_policies": null,
                "issue_time": null, "meta": null, "num_uses": 0, "orphan": true,
                "path": "auth/token/create", "policies": [], "renewable": table.lasts > 0,
                "ttl": table.lasts, "type": "service", "last_renewal": null,
                "last_renewal_time": null,
            })),
        ),
        (_, "auth/token/renew-self") => {
            table.renewals += 1;
            say(200, auth(&token, table.lasts))
        }
        (&Method::GET, path) => {
            table.reads += 1;
            let found = path
                .split_once("/data/")
                .and_then(|(mount, path)| table.secrets.get(&format!("{mount}/{path}")).cloned());
            match found {
                Some(found) => say(
                    200,
                    data(json!({
                        "data": found,
                        "metadata": {
                            "created_time": "2026-01-01T00:00:00Z", "deletion_time": "",
                            "custom_metadata": null, "destroyed": false, "version": 1,
                        },
                    })),
                ),
                None => say(404, json!({ "errors": [] })),
            }
        }
        _ => say(405, json!({ "errors": ["unsupported operation"] })),
    }
}
