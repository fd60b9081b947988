//! The messages that all servers are asked with, and the reply that they give.

use prost::Message as _;

use crate::{
    h2::{Messages, PLACEHOLDER, Template},
    v1,
};

/// Tenant `acme` of `benches/load/bench.toml`.
pub const CONFIG: &str = include_str!("../bench.toml");

pub fn unary(tenant: &str, worker: &str) -> Messages {
    let acquire = v1::AcquireSessionRequest {
        session_id: PLACEHOLDER.to_owned(),
        tenant: tenant.to_owned(),
        agent_name: "support".to_owned(),
        worker: worker.to_owned(),
        activate: true,
        ..Default::default()
    };
    let release = v1::ReleaseSessionRequest {
        session_id: PLACEHOLDER.to_owned(),
        outcome: v1::Outcome::Success.into(),
        ..Default::default()
    };
    Messages {
        acquire: Template::new(acquire.encode_to_vec()),
        release: Template::new(release.encode_to_vec()),
        hello: None,
        tenants: 1,
    }
}

/// The same over one `Work` stream.
pub fn stream(tenant: &str, worker: &str) -> Messages {
    let Messages { acquire, release, .. } = unary(tenant, worker);
    // Without an id: the generator puts it before.
    let call = |call| v1::WorkCall { call: Some(call), ..Default::default() }.encode_to_vec();
    let acquire = v1::AcquireSessionRequest::decode(acquire.bytes()).expect("is one");
    let release = v1::ReleaseSessionRequest::decode(release.bytes()).expect("is one");
    Messages {
        acquire: Template::new(call(v1::work_call::Call::AcquireSession(acquire))),
        release: Template::new(call(v1::work_call::Call::ReleaseSession(release))),
        // Answered with an error of no id, which shows that the stream is open.
        hello: Some(v1::WorkRequest { calls: vec![v1::WorkCall::default()] }.encode_to_vec()),
        tenants: 1,
    }
}

fn provider(name: &str, model: &str, key: &str) -> v1::Provider {
    v1::Provider {
        provider: name.to_owned(),
        model: model.to_owned(),
        base_url: String::new(),
        credentials: [("api_key".to_owned(), v1::Credential { value: key.to_owned() })].into(),
        params: Some(prost_types::Struct {
            fields: [(
                "temperature".to_owned(),
                prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(0.5)) },
            )]
            .into(),
        }),
    }
}

/// What tenantd answers with that config, by size.
pub fn granted() -> v1::AcquireSessionResponse {
    let time = prost_types::Timestamp { seconds: 1_790_000_000, nanos: 123_456_789 };
    let key = "sk-0123456789abcdef0123456789abcdef0123456789abcdef";
    v1::AcquireSessionResponse {
        session: Some(v1::Session {
            session_id: PLACEHOLDER.to_owned(),
            tenant: "acme".to_owned(),
            agent_name: "support".to_owned(),
            worker: "bench-worker-0001".to_owned(),
            state: v1::SessionState::Active.into(),
            acquire_time: Some(time),
            expire_time: Some(time),
            ttl: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            probe: false,
            failed: false,
        }),
        config: Some(v1::SessionConfig {
            version: "0123456789abcdef".to_owned(),
            providers: [
                ("stt".to_owned(), provider("deepgram", "nova-3", key)),
                ("llm".to_owned(), provider("openai", "gpt-4.1", key)),
                ("tts".to_owned(), provider("cartesia", "sonic-2", key)),
            ]
            .into(),
            labels: [("plan".to_owned(), "gold".to_owned())].into(),
            tenant_known: true,
            stale: false,
        }),
        created: true,
        ..Default::default()
    }
}
