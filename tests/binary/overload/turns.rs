//! Whoever has many calls at once has them answered in turns with everybody else's.

use prost::Message as _;
use tenantd::wire::v1::{
    ReleaseSessionRequest, WatchSessionsRequest, WorkCall, WorkRequest, WorkResponse,
    event::Detail, watch_service_client::WatchServiceClient, watch_sessions_response::Item,
    work_call::Call,
};

use super::wire::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Peer, SETTINGS, WINDOW_UPDATE, call, frame, message,
};
use crate::support::{Running, Start, acquire};

/// One thread, so that all of them share it.
const ONE: &str = "[limits]\nthreads = 1\n[defaults]\ncap = 1000\n";
const FLOODERS: usize = 4;
/// Calls that each of them sends at once.
const EACH: usize = 100;
/// Each of them has one turn, the first perhaps that of one which is alone.
const FEW: usize = 32 + 3 * 8;

/// A peer whose connection is taken.
fn peer(running: &Running) -> Peer {
    let mut peer = Peer::unix(&running.socket());
    peer.hello(&[]);
    assert_eq!(peer.next().map(|(kind, ..)| kind), Some(SETTINGS));
    peer
}

/// An acquire as a call of its own.
fn unary(stream: u32, id: &str, tenant: &str) -> Vec<u8> {
    let head = call("/tenantd.v1.SessionService/AcquireSession");
    let body = message(&acquire(id, tenant));
    [frame(HEADERS, END_HEADERS, stream, &head), frame(DATA, END_STREAM, stream, &body)].concat()
}

/// An acquire over a `Work` stream.
fn work(id: u64, session: &str) -> WorkCall {
    let call = Some(Call::AcquireSession(acquire(session, "flood")));
    WorkCall { id, call, ..Default::default() }
}

/// All `floods` lie in their sockets when the neighbour's only call comes: how many of
/// them were granted before it.
async fn granted_before(running: &Running, floods: Vec<(Peer, Vec<u8>)>) -> usize {
    let mut watch = WatchServiceClient::new(running.channel().await);
    let events = watch.watch_sessions(WatchSessionsRequest::default()).await.unwrap();
    let mut events = events.into_inner();
    let mut neighbour = peer(running);
    running.signal("STOP");
    let mut flooders = Vec::new();
    for (mut flooder, all) in floods {
        flooder.send(&all).unwrap();
        flooders.push(flooder);
    }
    neighbour.send(&unary(1, "neighbour", "neighbour")).unwrap();
    running.signal("CONT");
    let mut before = 0;
    loop {
        let said = events.message().await.unwrap().unwrap();
        let Some(Item::Event(event)) = said.item else { continue };
        if !matches!(event.detail, Some(Detail::SessionAcquired(_))) {
            continue;
        }
        if event.session_id == "neighbour" {
            return before;
        }
        before += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_does_not_wait_for_all_calls_that_others_sent_before_it() {
    let running = Start { config: ONE, ..Start::default() }.run();
    let flood = |of: usize| {
        let calls = (0..EACH).map(|n| (2 * n as u32 + 1, format!("f{of}-{n}")));
        calls.flat_map(|(stream, id)| unary(stream, &id, "flood")).collect()
    };
    let floods = (0..FLOODERS).map(|of| (peer(&running), flood(of))).collect();
    let before = granted_before(&running, floods).await;
    assert!(before <= FEW, "{before} of {} calls came first", FLOODERS * EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_for_all_that_they_sent_over_work_streams() {
    let running = Start { config: ONE, ..Start::default() }.run();
    let flood = |of: usize| {
        let mut all = frame(HEADERS, END_HEADERS, 1, &call("/tenantd.v1.SessionService/Work"));
        for n in 0..EACH {
            let calls = vec![work(n as u64 + 1, &format!("f{of}-{n}"))];
            let asked = WorkRequest { calls };
            all.extend(frame(DATA, 0, 1, &message(&asked)));
        }
        all
    };
    let floods = (0..FLOODERS).map(|of| (peer(&running), flood(of))).collect();
    let before = granted_before(&running, floods).await;
    assert!(before <= FEW, "{before} of {} calls came first", FLOODERS * EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_for_all_that_they_asked_for_together() {
    let running = Start { config: ONE, ..Start::default() }.run();
    let flood = |of: usize| {
        let calls = (0..EACH).map(|n| work(n as u64 + 1, &format!("f{of}-{n}"))).collect();
        let head = frame(HEADERS, END_HEADERS, 1, &call("/tenantd.v1.SessionService/Work"));
        [head, frame(DATA, 0, 1, &message(&WorkRequest { calls }))].concat()
    };
    let floods = (0..FLOODERS).map(|of| (peer(&running), flood(of))).collect();
    let before = granted_before(&running, floods).await;
    assert!(before <= FEW, "{before} of {} calls came first", FLOODERS * EACH);
}

/// h2 ends a connection that has too many small frames which nobody has looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_over_one_work_stream_is_answered_whole() {
    const BURST: usize = 3000;
    let running = Start { config: ONE, ..Start::default() }.run();
    let mut agent = peer(&running);
    let mut all = frame(HEADERS, END_HEADERS, 1, &call("/tenantd.v1.SessionService/Work"));
    for n in 0..BURST {
        let asked = WorkRequest { calls: vec![work(n as u64 + 1, &format!("b-{n}"))] };
        all.extend(frame(DATA, 0, 1, &message(&asked)));
    }
    all.extend(frame(DATA, END_STREAM, 1, &[]));
    running.signal("STOP");
    agent.send(&all).unwrap();
    running.signal("CONT");
    let mut answered = Vec::new();
    loop {
        let (kind, flags, stream, payload) = agent.frame().expect("the connection goes on");
        if (kind, stream) == (DATA, 1) {
            // What was read may be sent again.
            let more = u32::try_from(payload.len()).unwrap().to_be_bytes();
            if !payload.is_empty() {
                agent.send(&frame(WINDOW_UPDATE, 0, 0, &more)).unwrap();
                agent.send(&frame(WINDOW_UPDATE, 0, 1, &more)).unwrap();
            }
            answered.extend(payload);
        }
        if (kind, stream) == (HEADERS, 1) && flags & END_STREAM != 0 {
            break;
        }
    }
    let (mut count, mut rest) = (0, &answered[..]);
    while let Some((head, body)) = rest.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        count += WorkResponse::decode(&body[..length]).unwrap().answers.len();
        rest = &body[length..];
    }
    assert_eq!(count, BURST);
}

/// As client libraries send a burst: a message is ready only when its call has begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_calls_that_begin_before_their_messages_come_is_answered_whole() {
    const BURST: u32 = 3000;
    let running = Start { config: ONE, ..Start::default() }.run();
    let mut agent = peer(&running);
    let streams = || (0..BURST).map(|n| 2 * n + 1);
    let head = call("/tenantd.v1.SessionService/ReleaseSession");
    let begun: Vec<u8> = streams().flat_map(|n| frame(HEADERS, END_HEADERS, n, &head)).collect();
    let asked = streams().flat_map(|n| {
        let release = ReleaseSessionRequest { session_id: n.to_string(), ..Default::default() };
        frame(DATA, 0, n, &message(&release))
    });
    let asked: Vec<u8> = asked.collect();
    let ended: Vec<u8> = streams().flat_map(|n| frame(DATA, END_STREAM, n, &[])).collect();
    let window = frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
    agent.send(&[window, begun].concat()).unwrap();
    running.signal("STOP");
    agent.send(&asked).unwrap();
    running.signal("CONT");
    agent.send(&ended).unwrap();
    let mut answered = 0;
    while answered < BURST {
        let (kind, flags, ..) = agent.frame().expect("the connection goes on");
        answered += u32::from(kind == HEADERS && flags & END_STREAM != 0);
    }
}
