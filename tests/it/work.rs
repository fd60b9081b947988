//! Calls over one stream: as those of their own, and none holds another up.

use std::{collections::VecDeque, time::Duration};

use prost::Message as _;
use tenantd::wire::v1::{self, WorkCall, WorkRequest, work_answer::Answer, work_call::Call};
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
    /// Come together with one that was taken.
    rest: VecDeque<v1::WorkAnswer>,
}

fn numbered(id: u64, call: Call) -> WorkCall {
    WorkCall { id, call: Some(call), ..Default::default() }
}

impl Work {
    async fn open(running: &Running) -> Self {
        let (calls, requests) = mpsc::channel(64);
        let stream = ReceiverStream::new(requests);
        let answers = running.sessions().await.work(stream).await.unwrap().into_inner();
        Self { calls, answers, rest: VecDeque::new() }
    }

    async fn together(&self, calls: Vec<WorkCall>) {
        self.calls.send(WorkRequest { calls }).await.unwrap();
    }

    async fn send(&self, id: u64, call: Call) {
        self.together(vec![numbered(id, call)]).await;
    }

    async fn response(&mut self) -> Result<Option<v1::WorkResponse>, Status> {
        timeout(PATIENCE, self.answers.message()).await.expect("an answer in time")
    }

    async fn next(&mut self) -> (u64, Answer) {
        if self.rest.is_empty() {
            let response = self.response().await.unwrap().expect("the stream goes on");
            self.rest.extend(response.answers);
        }
        let answer = self.rest.pop_front().expect("is never empty");
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
    work.together(vec![WorkCall { id: 9, ..Default::default() }]).await;
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
    let slow = WorkCall {
        timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..numbered(1, Call::AcquireSession(acquire("s", "acme")))
    };
    // Though they are asked together.
    work.together(vec![slow, numbered(2, Call::ReleaseSession(release("nobody")))]).await;
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
    let Work { calls, mut answers, .. } = done;
    drop(calls);
    assert_eq!(answers.message().await.unwrap().unwrap().answers[0].id, 1);
    assert!(answers.message().await.unwrap().is_none());
    let mut open = Work::open(&running).await;
    assert!(open.ask(Call::ReleaseSession(release("a"))).await.is_ok());
    running.stop().await;
    assert!(open.answers.message().await.unwrap().is_none(), "it ends without an error");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_asked_together_are_decided_in_their_order_and_answered_together() {
    let running = start(CONFIG).await;
    let mut work = Work::open(&running).await;
    // Nothing is asked, and nothing answered.
    work.together(Vec::new()).await;
    work.together(vec![
        numbered(1, Call::AcquireSession(acquire("a", "acme"))),
        numbered(2, Call::AcquireSession(acquire("b", "acme"))),
        numbered(3, Call::AcquireSession(acquire("c", "acme"))),
        numbered(4, Call::ReleaseSession(release("a"))),
        numbered(5, Call::AcquireSession(acquire("c", "acme"))),
    ])
    .await;
    let answers = work.response().await.unwrap().unwrap().answers;
    let said = answers.into_iter().map(|answer| match answer.answer.unwrap() {
        Answer::Error(error) => (answer.id, reason(&refused(&error))),
        _ => (answer.id, "done".to_owned()),
    });
    let said: Vec<_> = said.collect();
    let want = [(1, "done"), (2, "done"), (3, "TENANT_AT_CAP"), (4, "done"), (5, "done")];
    assert_eq!(said, want.map(|(id, said)| (id, said.to_owned())));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_large_configs_are_given_in_messages_that_clients_take() {
    const CALLS: u64 = 100;
    // One answer is a small part of the 4 MiB that clients take, and all of them are more.
    let config = format!(
        "[defaults]\ncap = {CALLS}\n[defaults.providers.llm]\nprovider = 'p'\n\
         params = {{ prompt = '{}' }}\n",
        "x".repeat(60_000)
    );
    let running = start(&config).await;
    let mut work = Work::open(&running).await;
    let calls = (1..=CALLS)
        .map(|id| numbered(id, Call::AcquireSession(acquire(&format!("s{id}"), "acme"))));
    work.together(calls.collect()).await;
    for id in 1..=CALLS {
        let (answered, Answer::AcquireSession(_)) = work.next().await else {
            panic!("{id} is refused")
        };
        assert_eq!(answered, id);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_together_than_allowed_end_the_stream_after_what_was_asked_before() {
    let running = start(CONFIG).await;
    let mut work = Work::open(&running).await;
    work.send(1, Call::AcquireSession(acquire("a", "acme"))).await;
    let many = (0..101).map(|id| numbered(id, Call::ReleaseSession(release("a"))));
    work.together(many.collect()).await;
    let Answer::AcquireSession(_) = work.next().await.1 else { panic!("not granted") };
    let refused = work.response().await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_FIELD");
    assert!(refused.message().contains("must be at most 100, got 101"), "{refused}");
    // None of them was done.
    assert!(running.sessions().await.release_session(release("a")).await.is_ok());
    running.stop().await;
}
