//! Peers that know nothing of tenantd, and peers that break off.

use std::{path::Path, process::Command};

use tenantd::wire::v1;

use crate::support::{Running, Start, acquire, skipped, text};

/// One gRPC message as it is on the wire.
fn framed(message: &impl prost::Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend(body);
    frame
}

#[test]
fn h2load_with_default_options_gets_an_answer_to_each_call() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/h2load.sh");
    let found = Command::new(script).output().unwrap();
    if !found.status.success() {
        skipped(&text(&found));
        return;
    }
    let running = Start::default().run();
    let body = running.dir.path().join("body");
    std::fs::write(&body, framed(&v1::GetSnapshotRequest::default())).unwrap();
    let output = Command::new("h2load")
        .args(["-n", "500", "-c", "4", "-m", "8", "-H", "content-type: application/grpc"])
        .args(["-H", "te: trailers", "-d", body.to_str().unwrap(), "-B", &running.address()])
        .arg("http://localhost/tenantd.v1.WatchService/GetSnapshot")
        .output()
        .unwrap();
    assert!(text(&output).contains("500 succeeded, 0 failed, 0 errored"), "{}", text(&output));
}

/// A bare HTTP/2 connection to it.
async fn http2(running: &Running) -> h2::client::SendRequest<bytes::Bytes> {
    let socket = tokio::net::UnixStream::connect(running.socket()).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn post(method: &str) -> http::Request<()> {
    http::Request::post(format!("http://localhost/tenantd.v1.SessionService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

async fn live(running: &Running) -> u64 {
    let output = running.call(&["snapshot", "--json"]);
    let snapshot: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    snapshot["active_sessions"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_in_mid_message_takes_nothing() {
    let running = Start::default().run();
    let whole = framed(&acquire("half", "acme"));
    for (cut, reset) in [(3, false), (whole.len() - 1, false), (7, true), (whole.len() - 1, true)] {
        let (_answer, mut body) =
            http2(&running).await.send_request(post("AcquireSession"), false).unwrap();
        body.send_data(bytes::Bytes::copy_from_slice(&whole[..cut]), !reset).unwrap();
        if reset {
            body.send_reset(h2::Reason::CANCEL);
        }
    }
    for method in ["KeepAlive", "PublishEvents"] {
        let (_answer, mut body) = http2(&running).await.send_request(post(method), false).unwrap();
        body.send_data(bytes::Bytes::from_static(&[0, 0, 0, 0, 50, 10]), true).unwrap();
    }
    // Bytes that are no message of that type.
    let (answer, mut body) =
        http2(&running).await.send_request(post("AcquireSession"), false).unwrap();
    body.send_data(bytes::Bytes::from_static(&[0, 0, 0, 0, 3, 0xff, 0xff, 0xff]), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "3", "INVALID_ARGUMENT");
    assert!(answer.headers().contains_key("grpc-status-details-bin"));
    assert_eq!(live(&running).await, 0);
    let (answer, mut body) =
        http2(&running).await.send_request(post("AcquireSession"), false).unwrap();
    body.send_data(bytes::Bytes::from(whole), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert_eq!(live(&running).await, 1);
}
