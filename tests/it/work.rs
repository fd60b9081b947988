//! Calls over one stream: as those of their own, and none holds another up.

use std::time::Duration;

use prost::Message as _;
use tenantd::wire::v1::{self, WorkRequest, work_request::Call, work_response::Answer};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::{Running, acquire, reason, release, start};

const PATIENCE: Duration = Duration::from_secs(20);

/// The status that an answer's bytes stand for.
pub fn refused(error: &[u8]) -> Status {
    let said = tonic_types::pb::Status::decode(error).unwrap();
    Status::with_details(Code::from(said.code), said.message, error.to_vec().into())
}

/// One stream.
struct Work {
    calls: mpsc::Sender<WorkRequest>,
    answers: Streaming<v1::WorkResponse>,
}

impl Work {
    async fn open(running: &Running) -> Self {
        let (calls, requests) = mpsc::channel(64);
        let stream = ReceiverStream::new(requests);
        let answers = running.sessions().await.work(stream).await.unwrap().into_inner();
        Self { calls, answers }
    }

    async fn send(&self, id: u64, call: Call) {
        let request = WorkRequest { id, call: Some(call), ..Default::default() };
        self.calls.send(request).await.unwrap();
    }

    async fn next(&mut self) -> (u64, Answer) {
        let answer = timeout(PATIENCE, self.answers.message()).await.expect("an answer in time");
        let answer = answer.unwrap().expect("the stream goes on");
        (answer.id, answer.answer.unwrap())
    }

    async fn ask(&mut self, call: Call) -> Result<Answer, Status> {
        self.send(7, call).await;
        match self.next().await {
            (7, Answer::Error(error)) => Err(refused(&error)),
            (7, answer) => Ok(answer),
            (other, _) => panic!("an answer to {other}"),
        }
    }
}

const CONFIG: &str = "[tenants.acme]\ncap = 2\n[tenants.acme.providers.llm]\nprovider = 'openai'\n\
    credential = 'sk-acme'\n[tenants.globex]\n";

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_a_stream_are_answered_as_those_of_their_own() {
    let running = start(CONFIG).await;
    let mut unary = running.sessions().await;
    let mut work = Work::open(&running).await;
    let alone = unary.acquire_session(acquire("a", "acme")).await.unwrap().into_inner();
    let Ok(Answer::AcquireSession(granted)) =
        work.ask(Call::AcquireSession(acquire("b", "acme"))).await
    else {
        panic!("not granted")
    };
    assert!(granted.created);
    assert_eq!(granted.config, alone.config);
    assert_eq!(granted.config.unwrap().providers["llm"].credentials["api_key"].value, "sk-acme");
    let asked = v1::RenewSessionRequest { session_id: "b".into(), ..Default::default() };
    let Ok(Answer::RenewSession(renewed)) = work.ask(Call::RenewSession(asked)).await else {
        panic!("not renewed")
    };
    assert_eq!(renewed.session.unwrap().tenant, "acme");
    let asked = v1::GetSessionConfigRequest { session_id: "b".into(), ..Default::default() };
    let Ok(Answer::GetSessionConfig(config)) = work.ask(Call::GetSessionConfig(asked)).await else {
        panic!("no config")
    };
    assert_eq!(config.config, alone.config);
    let asked = v1::ReportFailureRequest { session_id: "b".into(), ..Default::default() };
    let Ok(Answer::ReportFailure(reported)) = work.ask(Call::ReportFailure(asked)).await else {
        panic!("not reported")
    };
    assert!(reported.counted);
    let Ok(Answer::ReleaseSession(released)) = work.ask(Call::ReleaseSession(release("b"))).await
    else {
        panic!("not released")
    };
    assert_eq!(released.outcome(), v1::Outcome::Failure);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_over_a_stream_have_the_details_of_unary_ones_and_it_goes_on() {
    let running = start(CONFIG).await;
    let mut unary = running.sessions().await;
    let mut work = Work::open(&running).await;
    for id in ["a", "b"] {
        unary.acquire_session(acquire(id, "acme")).await.unwrap();
    }
    for (asked, want) in [
        (acquire("c", "acme"), "TENANT_AT_CAP"),
        (acquire("d", "not a tenant"), "TENANT_MALFORMED"),
        (acquire("a", "globex"), "SESSION_CONFLICT"),
    ] {
        let alone = unary.acquire_session(asked.clone()).await.unwrap_err();
        let streamed = work.ask(Call::AcquireSession(asked)).await.unwrap_err();
        assert_eq!(reason(&streamed), want);
        assert_eq!((streamed.code(), streamed.message()), (alone.code(), alone.message()));
        let (streamed, alone) = (streamed.get_error_details(), alone.get_error_details());
        assert_eq!(format!("{:?}", streamed.retry_info()), format!("{:?}", alone.retry_info()));
        let of = |info: Option<&tonic_types::ErrorInfo>| info.unwrap().metadata.clone();
        assert_eq!(of(streamed.error_info()), of(alone.error_info()));
    }
    work.calls.send(WorkRequest { id: 9, ..Default::default() }).await.unwrap();
    let (id, answer) = work.next().await;
    let Answer::Error(error) = answer else { panic!("a call of no kind was answered") };
    assert_eq!((id, reason(&refused(&error))), (9, "INVALID_FIELD".into()));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_a_source_holds_no_other_up_and_ends_with_its_own_timeout() {
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/{{tenant}}", silent.local_addr().unwrap());
    let source = format!("[[sources]]\nkind = 'http'\nurl = '{url}'\ntimeout = '1m'\n");
    let running = start(&source).await;
    let mut work = Work::open(&running).await;
    let slow = WorkRequest {
        id: 1,
        call: Some(Call::AcquireSession(acquire("s", "acme"))),
        timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    work.calls.send(slow).await.unwrap();
    work.send(2, Call::ReleaseSession(release("nobody"))).await;
    let (first, answer) = work.next().await;
    assert_eq!(first, 2, "the later call is answered first");
    let Answer::Error(error) = answer else { panic!("an unknown session was released") };
    assert_eq!(reason(&refused(&error)), "SESSION_UNKNOWN");
    let (second, answer) = work.next().await;
    let Answer::Error(error) = answer else { panic!("granted without a config") };
    // With its reason, before its caller gives up.
    assert_eq!((second, reason(&refused(&error))), (1, "CONFIG_UNAVAILABLE".into()));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_well_when_the_sidecar_does_or_its_client_has_no_more_calls() {
    let running = start(CONFIG).await;
    let done = Work::open(&running).await;
    done.send(1, Call::AcquireSession(acquire("a", "acme"))).await;
    let Work { calls, mut answers } = done;
    drop(calls);
    assert_eq!(answers.message().await.unwrap().unwrap().id, 1);
    assert!(answers.message().await.unwrap().is_none());
    let mut open = Work::open(&running).await;
    assert!(open.ask(Call::ReleaseSession(release("a"))).await.is_ok());
    running.stop().await;
    assert!(open.answers.message().await.unwrap().is_none(), "it ends without an error");
}
