//! Writes the seeds that are no text: `cargo test --test fuzz seeds -- --ignored`.

use std::fs;

use prost::Message;
use tenantd::wire::v1;

use crate::{checks::calls::call, folder};

fn duration(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn acquire(id: &str, tenant: &str) -> Vec<u8> {
    let asked = v1::AcquireSessionRequest {
        session_id: id.to_owned(),
        job_metadata: format!("{{\"tenant\":\"{tenant}\"}}"),
        agent_name: "a".to_owned(),
        worker: "w".to_owned(),
        ttl: duration(30),
        activate: id.len().is_multiple_of(2),
        ..Default::default()
    };
    call(0, &asked.encode_to_vec())
}

fn with_id(method: u8, id: &str) -> Vec<u8> {
    call(
        method,
        &v1::RenewSessionRequest { session_id: id.to_owned(), ..Default::default() }
            .encode_to_vec(),
    )
}

fn release(id: &str, outcome: v1::Outcome) -> Vec<u8> {
    let failure = (outcome == v1::Outcome::Failure).then(|| v1::Failure {
        slot: "llm".to_owned(),
        kind: "timeout".to_owned(),
        message: "it took too long".to_owned(),
    });
    let asked = v1::ReleaseSessionRequest {
        session_id: id.to_owned(),
        outcome: outcome.into(),
        failure,
        ..Default::default()
    };
    call(2, &asked.encode_to_vec())
}

fn write(name: &str, calls: &[Vec<u8>]) {
    fs::create_dir_all(folder("calls")).unwrap();
    fs::write(folder("calls").join(name), calls.concat()).unwrap();
}

#[test]
#[ignore = "writes the seeds"]
fn seeds_of_calls() {
    let frame = |message: Vec<u8>| {
        let len = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &len[..], &message].concat()
    };
    let watch = v1::WatchSessionsRequest {
        tenants: vec!["acme".to_owned()],
        agent_names: vec!["a".to_owned()],
        kinds: vec![1, 4],
        cursor: Some(v1::Cursor { epoch: "other".to_owned(), sequence: 3 }),
    };
    write(
        "session",
        &[
            acquire("s1", "acme"),
            acquire("s1", "acme"),
            acquire("s22", "acme"),
            acquire("s3", "acme"),
            with_id(1, "s1"),
            with_id(4, "s1"),
            call(7, &[]),
            call(7, &watch.encode_to_vec()),
            release("s1", v1::Outcome::Success),
            release("s1", v1::Outcome::Cancelled),
            acquire("s1", "acme"),
            acquire("s22", "globex"),
            call(8, &[]),
            call(
                9,
                &v1::ListSessionsRequest { page_size: 1, ..Default::default() }.encode_to_vec(),
            ),
            call(
                10,
                &v1::ListTenantsRequest { page_size: 1, page_token: "a".to_owned() }
                    .encode_to_vec(),
            ),
            call(
                11,
                &v1::GetTenantRequest { tenant: "acme".to_owned(), explain: true }.encode_to_vec(),
            ),
        ],
    );
    let many = ["acme", "globex", "x", "y"].iter().flat_map(|tenant| {
        (0..3).map(move |n| {
            let asked = v1::AcquireSessionRequest {
                session_id: format!("{tenant}-{n}"),
                tenant: (*tenant).to_owned(),
                agent_name: ["a", ""][n % 2].to_owned(),
                ..Default::default()
            };
            call(0, &asked.encode_to_vec())
        })
    });
    write("caps", &many.collect::<Vec<_>>());
    let failures = (0..6).flat_map(|n| {
        let id = format!("f{n}");
        [acquire(&id, "globex"), release(&id, v1::Outcome::Failure)]
    });
    write(
        "breaker",
        &failures.chain([acquire("g", "globex"), acquire("h", "acme")]).collect::<Vec<_>>(),
    );
    let keep_alive = v1::KeepAliveRequest {
        worker: "w".to_owned(),
        attach_session_ids: vec!["s1".to_owned(), "nobody".to_owned()],
        loop_blocked: duration(2),
        loop_blocked_session_id: "s1".to_owned(),
        memory_bytes: 1 << 20,
        ..Default::default()
    };
    let publish = v1::PublishEventsRequest {
        events: vec![v1::PublishedEvent {
            session_id: "s1".to_owned(),
            event: Some(v1::AgentEvent {
                name: "turn_started".to_owned(),
                severity: 3,
                attributes: Some(prost_types::Struct {
                    fields: [(
                        "n".to_owned(),
                        prost_types::Value {
                            kind: Some(prost_types::value::Kind::NumberValue(1.5)),
                        },
                    )]
                    .into(),
                }),
            }),
            ..Default::default()
        }],
    };
    let work = |calls: &[v1::work_call::Call]| {
        let calls = (1..).zip(calls).map(|(id, call)| v1::WorkCall {
            id,
            call: Some(call.clone()),
            timeout: duration(1),
            ..Default::default()
        });
        v1::WorkRequest { calls: calls.collect() }.encode_to_vec()
    };
    let asked = |id: &str, tenant: &str| {
        v1::work_call::Call::AcquireSession(v1::AcquireSessionRequest {
            session_id: id.to_owned(),
            tenant: tenant.to_owned(),
            ..Default::default()
        })
    };
    let ended = |id: &str| {
        v1::work_call::Call::ReleaseSession(v1::ReleaseSessionRequest {
            session_id: id.to_owned(),
            outcome: v1::Outcome::Success.into(),
            ..Default::default()
        })
    };
    let together = [asked("w1", "acme"), asked("w2", "globex"), ended("w1"), asked("w3", "?")];
    write(
        "work",
        &[
            call(21, &work(&together)),
            call(21 | 0x80, &[frame(work(&[ended("w2")])), frame(vec![])].concat()),
            call(21, &work(&vec![ended("w2"); 101])),
        ],
    );
    let two =
        [frame(keep_alive.encode_to_vec()), frame(v1::KeepAliveRequest::default().encode_to_vec())];
    write(
        "streams",
        &[
            acquire("s1", "acme"),
            call(5 | 0x80, &two.concat()),
            call(6, &publish.encode_to_vec()),
            call(6 | 0x80, &[frame(publish.encode_to_vec()), frame(vec![])].concat()),
            call(5, &keep_alive.encode_to_vec()),
            call(
                3,
                &v1::ReportFailureRequest {
                    session_id: "s1".to_owned(),
                    end_session: true,
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
        ],
    );
    let cap = v1::SetTenantCapRequest {
        tenant: "acme".to_owned(),
        note: "less".to_owned(),
        change: Some(v1::set_tenant_cap_request::Change::Cap(1)),
    };
    let named = |method| {
        let asked = v1::SuspendTenantRequest { tenant: "acme".to_owned(), note: "n".to_owned() };
        call(method, &asked.encode_to_vec())
    };
    let open = v1::OpenBreakerRequest {
        tenant: "acme".to_owned(),
        duration: duration(2),
        note: String::new(),
    };
    write(
        "admin",
        &[
            acquire("s1", "acme"),
            acquire("s22", "acme"),
            call(12, &cap.encode_to_vec()),
            acquire("s3", "acme"),
            named(13),
            acquire("s4", "acme"),
            named(14),
            call(15, &open.encode_to_vec()),
            named(16),
            call(
                17,
                &v1::RevokeSessionRequest { session_id: "s1".to_owned(), note: "n".to_owned() }
                    .encode_to_vec(),
            ),
            call(19, &[]),
            call(20, &v1::SetLogFilterRequest { filter: "info".to_owned() }.encode_to_vec()),
            call(
                18,
                &v1::DrainRequest { timeout: duration(1), note: String::new() }.encode_to_vec(),
            ),
            acquire("s5", "acme"),
        ],
    );
}
