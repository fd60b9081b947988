//! What HTTP/2 lets a peer do to a server.

use std::time::Duration;

use tenantd::wire::v1::{
    self, keep_alive_response::Message::Attached, session_service_client::SessionServiceClient,
};
use tokio::task::spawn_blocking;

use super::{
    COUNTED, Holds, Neighbour, QUIET, shed,
    wire::{
        CALM, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, Peer, RESET, call, frame, header,
    },
};
use crate::support::{Start, acquire, eventually, free};

const ACQUIRE: &str = "/tenantd.v1.SessionService/AcquireSession";

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_as_fast_as_they_open_end_their_connection() {
    let metrics = free();
    let config = format!("[telemetry]\nprometheus = '{metrics}'\n");
    let running = Start { config: &config, with: COUNTED, env: QUIET, ..Start::default() }.run();
    let neighbour = Neighbour::of(&running).await;
    neighbour.is_served();
    let before = Holds::of(&running);
    let path = running.socket();
    let flood = move || {
        let call = call(ACQUIRE);
        let cancelled = 8_u32.to_be_bytes();
        for _ in 0..30 {
            let mut peer = Peer::unix(&path);
            peer.hello(&[]);
            let mut all = Vec::new();
            for stream in (1..20_000).step_by(2) {
                all.extend(frame(HEADERS, END_HEADERS, stream, &call));
                all.extend(frame(RESET, 0, stream, &cancelled));
            }
            // It is cut off in the middle.
            let _ = peer.send(&all);
            let said = peer.farewell();
            // Where it was still writing, the word may be lost with the connection.
            if let Some((code, why)) = said {
                assert_eq!((code, why.as_str()), (CALM, "too_many_resets"));
            }
        }
    };
    spawn_blocking(flood).await.unwrap();
    eventually("each of them is counted", || shed(metrics, "flood") == 30);
    let said = running.said();
    let process = format!("\"pid\":{}", std::process::id());
    assert!(said.contains("excessive load") && said.contains(&process), "{said}");
    assert!(said.lines().count() < 60, "a line for each: {said}");
    neighbour.ends().await;
    before.is_over(&running, 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cancels_a_batch_keeps_its_connection() {
    let running = Start::default().run();
    let path = running.socket();
    let batch = move || {
        let call = call(ACQUIRE);
        let mut peer = Peer::unix(&path);
        peer.hello(&[]);
        let mut all = Vec::new();
        for stream in (1..300).step_by(2) {
            all.extend(frame(HEADERS, END_HEADERS, stream, &call));
            all.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
        }
        // Answered at once, since it has no body: INVALID_FIELD or the like.
        all.extend(frame(HEADERS, END_HEADERS | END_STREAM, 301, &call));
        peer.send(&all).unwrap();
        while let Some((kind, stream, _)) = peer.next() {
            if (kind, stream) == (HEADERS, 301) {
                return;
            }
        }
        panic!("its connection was closed");
    };
    spawn_blocking(batch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_end_their_connection() {
    let metrics = free();
    let config = format!("[telemetry]\nprometheus = '{metrics}'\n");
    let running = Start { config: &config, with: COUNTED, env: QUIET, ..Start::default() }.run();
    let neighbour = Neighbour::of(&running).await;
    neighbour.is_served();
    let before = Holds::of(&running);
    let path = running.socket();
    let flood = move || {
        for size in [0, 1, 100, 16_000] {
            for _ in 0..5 {
                let mut peer = Peer::unix(&path);
                peer.hello(&[]);
                let mut sent = peer.send(&frame(HEADERS, 0, 1, &call(ACQUIRE)));
                // A header that goes on for ever, in frames of this size.
                let block = header("x", &"y".repeat(size.max(1)));
                let more = frame(CONTINUATION, 0, 1, &block[..size.min(block.len())]);
                let more = more.repeat(100);
                for _ in 0..100 {
                    sent = sent.and_then(|()| peer.send(&more));
                }
                let _ = peer.farewell();
            }
        }
    };
    spawn_blocking(flood).await.unwrap();
    eventually("each of them is counted", || {
        shed(metrics, "flood") + shed(metrics, "protocol") == 20
    });
    neighbour.ends().await;
    before.is_over(&running, 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_too_large_headers_is_refused_and_its_connection_goes_on() {
    let running = Start::default().run();
    let channel = running.channel().await;
    let mut calls = SessionServiceClient::new(channel);
    // A stream beside it, on the same connection.
    let attach = v1::KeepAliveRequest { worker: "w".to_owned(), ..Default::default() };
    let (send, receive) = tokio::sync::mpsc::channel(4);
    send.send(attach).await.unwrap();
    let receive = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut kept = calls.keep_alive(receive).await.unwrap().into_inner();
    let first = kept.message().await.unwrap().unwrap();
    assert!(matches!(first.message, Some(Attached(_))), "{first:?}");
    for (size, fits) in [(12 * 1024, true), (17 * 1024, false), (60 * 1024, false)] {
        let mut asked = tonic::Request::new(acquire(&format!("s{size}"), "acme"));
        asked.metadata_mut().insert("x-baggage", "b".repeat(size).parse().unwrap());
        let answer = calls.acquire_session(asked).await;
        if fits {
            answer.unwrap();
        } else {
            let said = answer.unwrap_err();
            assert!(said.message().contains("431"), "{size}: {said:?}");
        }
        calls.acquire_session(acquire(&format!("after-{size}"), "acme")).await.unwrap();
    }
    let still = tokio::time::timeout(Duration::from_millis(1), kept.message()).await;
    assert!(still.is_err(), "the stream beside it ended: {still:?}");
    drop(send);
}
