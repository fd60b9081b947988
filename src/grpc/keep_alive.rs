//! The KeepAlive stream: while it is open its sessions live.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use super::{
    convert,
    status::{explained, status},
};
use crate::{
    app::{
        Caller, Sidecar,
        workers::{Link, NOTICES, Notice},
    },
    domain::{
        budget::Budget,
        reject::Rejection,
        session::{SessionId, WorkerId},
    },
    wire::v1::{self, keep_alive_response::Message},
};

/// Most sessions attached by one message.
const MAX_ATTACH: usize = 1000;
/// Answers that wait for a slow worker before it is no longer read.
const ANSWERS: usize = 16;

struct Attached {
    sidecar: Arc<Sidecar>,
    caller: Caller,
    worker: WorkerId,
    link: Link,
    reports: Budget,
}

/// Serves one stream in a task of its own, which ends with the stream, its
/// connection, or the sidecar.
pub fn run(
    sidecar: Arc<Sidecar>,
    caller: Caller,
    asked: Streaming<v1::KeepAliveRequest>,
) -> impl Stream<Item = Result<v1::KeepAliveResponse, Status>> + Send {
    let (answers, outgoing) = mpsc::channel(ANSWERS);
    tokio::spawn(async move {
        if let Err(refused) = serve(sidecar, caller, asked, &answers).await {
            let _ = answers.send(Err(refused)).await;
        }
    });
    ReceiverStream::new(outgoing)
}

type Answers = mpsc::Sender<Result<v1::KeepAliveResponse, Status>>;

async fn serve(
    sidecar: Arc<Sidecar>,
    caller: Caller,
    mut asked: Streaming<v1::KeepAliveRequest>,
    answers: &Answers,
) -> Result<(), Status> {
    let mut ended = sidecar.on_end();
    let first = tokio::select! {
        first = asked.message() => first.map_err(explained)?,
        () = answers.closed() => None,
        () = over(&mut ended) => None,
    };
    let Some(first) = first else { return Ok(()) };
    let worker = WorkerId::parse(&first.worker).map_err(status)?;
    let link = sidecar.new_link();
    let (sender, mut notices) = mpsc::channel(NOTICES);
    sidecar.stream_opened(&caller, &worker, link, sender).await.map_err(status)?;
    if let Some(drain) = sidecar.draining() {
        let _ = answers.send(Ok(notice_out(Notice::Draining { deadline: drain.deadline }))).await;
    }
    let mut stream = Attached { sidecar, caller, worker, link, reports: Budget::default() };
    let result = stream.talk(first, &mut asked, &mut notices, answers).await;
    stream.sidecar.stream_closed(&stream.worker, stream.link).await;
    result
}

impl Attached {
    async fn talk(
        &mut self,
        first: v1::KeepAliveRequest,
        asked: &mut Streaming<v1::KeepAliveRequest>,
        notices: &mut mpsc::Receiver<Notice>,
        answers: &Answers,
    ) -> Result<(), Status> {
        let mut ended = self.sidecar.on_end();
        let mut access = self.sidecar.on_access_change();
        let mut next = Some(first);
        let mut is_first = true;
        loop {
            if let Some(request) = next.take() {
                let answer = self.hear(request, is_first).await.map_err(status)?;
                is_first = false;
                if let Some(answer) = answer
                    && answers.send(Ok(answer)).await.is_err()
                {
                    return Ok(());
                }
            }
            tokio::select! {
                request = asked.message() => match request.map_err(explained)? {
                    Some(request) => next = Some(request),
                    None => return Ok(()),
                },
                notice = notices.recv() => match notice {
                    Some(notice) => {
                        if answers.send(Ok(notice_out(notice))).await.is_err() {
                            return Ok(());
                        }
                    }
                    None => return Err(status(Rejection::limit_reached("notices that wait for this worker", NOTICES as u32))),
                },
                () = answers.closed() => return Ok(()),
                () = over(&mut ended) => return Ok(()),
                _ = access.changed() => {
                    self.sidecar.may_keep_alive(&self.caller).map_err(status)?;
                }
            }
        }
    }

    async fn hear(
        &mut self,
        request: v1::KeepAliveRequest,
        is_first: bool,
    ) -> Result<Option<v1::KeepAliveResponse>, Rejection> {
        if !request.worker.is_empty() && request.worker != self.worker.as_str() {
            return Err(Rejection::field("worker", "must stay the same on one stream"));
        }
        let got = request.attach_session_ids.len();
        if got > MAX_ATTACH {
            return Err(Rejection::field(
                "attach_session_ids",
                format_args!("must be at most {MAX_ATTACH} a message, got {got}"),
            ));
        }
        let blocked =
            convert::checked_duration("loop_blocked", request.loop_blocked)?.unwrap_or_default();
        if !blocked.is_zero() {
            let by = SessionId::parse_optional(&request.loop_blocked_session_id)?;
            // A loop that is always slow must not fill the log: the first ones of
            // each second say it.
            let per_second = self.sidecar.config().limits.worker_reports_per_second;
            if self.reports.take(per_second, self.sidecar.now().mono) {
                let lease = lease(&request, &request.loop_blocked_session_id);
                let by = by.as_ref().map(|id| (id, lease));
                self.sidecar.slow(&self.caller, &self.worker, by, blocked).await;
            }
        }
        if request.memory_bytes > 0 {
            self.sidecar.workers.note_memory(&self.worker, request.memory_bytes);
        }
        let mut answer = v1::KeepAliveAttached::default();
        for raw in &request.attach_session_ids {
            let lease = lease(&request, raw);
            let attached = match SessionId::parse(raw) {
                Ok(id) => self.sidecar.hold(&self.caller, &id, &self.worker, lease).await,
                Err(refused) => Err(refused),
            };
            match attached {
                Ok(session) => {
                    answer.sessions.push(convert::session(&session, self.sidecar.now()));
                }
                Err(refused) => answer.refused.push(v1::AttachRefusal {
                    session_id: convert::cut(raw, 128),
                    reason: refused.reason.name().to_owned(),
                    outcome: refused
                        .outcome
                        .map_or(v1::Outcome::Unspecified, convert::outcome)
                        .into(),
                }),
            }
        }
        let answers = is_first || got > 0;
        Ok(answers.then_some(v1::KeepAliveResponse { message: Some(Message::Attached(answer)) }))
    }
}

/// The lease token of a session, where one is shown.
fn lease<'a>(request: &'a v1::KeepAliveRequest, session: &str) -> &'a str {
    request.lease_tokens.get(session).map_or("", String::as_str)
}

/// Waits for the end; drops the guard that a bare `wait_for` would keep.
async fn over(ended: &mut tokio::sync::watch::Receiver<bool>) {
    let _ = ended.wait_for(|ended| *ended).await;
}

fn notice_out(notice: Notice) -> v1::KeepAliveResponse {
    let message = match notice {
        Notice::Revoked { session, tenant, cause, note } => Message::Revoked(v1::SessionRevoked {
            session_id: session.to_string(),
            tenant: tenant.to_string(),
            cause: convert::cause(cause).into(),
            note,
        }),
        Notice::Draining { deadline } => {
            Message::Draining(v1::Draining { deadline: Some(convert::duration(deadline)) })
        }
        Notice::ConfigChanged { tenant, version, sessions } => {
            Message::ConfigChanged(v1::TenantConfigChanged {
                tenant: tenant.to_string(),
                version,
                session_ids: ids(&sessions),
            })
        }
        Notice::Suspended { tenant, sessions, note } => {
            let session_ids = ids(&sessions);
            Message::Suspended(v1::TenantSuspended {
                tenant: tenant.to_string(),
                session_ids,
                note,
            })
        }
        Notice::Resumed { tenant, sessions, note } => {
            let session_ids = ids(&sessions);
            Message::Resumed(v1::TenantResumed { tenant: tenant.to_string(), session_ids, note })
        }
    };
    v1::KeepAliveResponse { message: Some(message) }
}

fn ids(sessions: &[SessionId]) -> Vec<String> {
    sessions.iter().map(ToString::to_string).collect()
}
