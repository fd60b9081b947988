//! What an operator and a live session's process see.

use std::time::Duration;

use tenantd::wire::v1::{
    self, keep_alive_response::Message, watch_sessions_response::Item as Watched,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Running, acquire, eventually, reason, release};

pub type Granted = Result<v1::AcquireSessionResponse, tonic::Status>;

/// Acquires a session under a made-up id, and releases it.
pub async fn try_acquire(running: &Running, tenant: &str) -> Granted {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut sessions = running.sessions().await;
    let granted = sessions.acquire_session(acquire(&id, tenant)).await?.into_inner();
    sessions.release_session(release(&id)).await?;
    Ok(granted)
}

/// Waits until the source tells changes by itself.
pub async fn watching(running: &Running) {
    eventually("changes are told", || async { snapshot(running).await.sources[0].watching }).await;
}

/// The model of a new session's LLM; the reason of a refusal.
pub async fn model(running: &Running, tenant: &str) -> Result<String, String> {
    match try_acquire(running, tenant).await {
        Ok(granted) => Ok(granted
            .config
            .unwrap()
            .providers
            .get("llm")
            .map(|provider| provider.model.clone())
            .unwrap_or_default()),
        Err(refused) => Err(reason(&refused)),
    }
}

/// The key of a new session's LLM.
pub async fn key(running: &Running, tenant: &str) -> String {
    let granted = try_acquire(running, tenant).await.unwrap();
    granted.config.unwrap().providers["llm"].credentials["api_key"].value.clone()
}

/// Waits until new sessions get this model.
pub async fn eventually_model(running: &Running, tenant: &str, wanted: Result<&str, &str>) {
    let wanted = wanted.map(str::to_owned).map_err(str::to_owned);
    eventually(&format!("{tenant} gets {wanted:?}"), || async {
        model(running, tenant).await == wanted
    })
    .await;
}

/// The events told so far of a tenant, by their kinds.
pub async fn kinds(running: &Running, tenant: &str) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    let mut place = 0;
    loop {
        let entries = running.sidecar.events.after(place).unwrap();
        if entries.is_empty() {
            return kinds;
        }
        for entry in entries {
            place = entry.sequence;
            if entry.event.subject.tenant.as_ref().is_some_and(|of| of.as_str() == tenant) {
                kinds.push(entry.event.kind.name());
            }
        }
    }
}

/// All that was ever told, as it is printed.
pub async fn all_events(running: &Running) -> String {
    let request = v1::WatchSessionsRequest {
        cursor: Some(v1::Cursor { epoch: running.sidecar.events.epoch().to_owned(), sequence: 0 }),
        ..Default::default()
    };
    let mut stream = running.watches().await.watch_sessions(request).await.unwrap().into_inner();
    let head = tenantd::app::ports::EventSink::head(&*running.sidecar.events);
    let mut text = String::new();
    while let Some(told) = stream.message().await.unwrap() {
        text.push_str(&format!("{told:?}"));
        if let Some(Watched::Event(event)) = told.item
            && event.sequence >= head
        {
            break;
        }
    }
    text
}

pub async fn snapshot(running: &Running) -> v1::GetSnapshotResponse {
    running
        .watches()
        .await
        .get_snapshot(v1::GetSnapshotRequest::default())
        .await
        .unwrap()
        .into_inner()
}

/// A worker process with its stream.
pub struct Worker {
    pub name: String,
    asked: mpsc::Sender<v1::KeepAliveRequest>,
    told: tonic::Streaming<v1::KeepAliveResponse>,
    /// The version that it knows of.
    known: String,
}

impl Worker {
    pub async fn start(running: &Running, name: &str) -> Self {
        let (asked, requests) = mpsc::channel(8);
        let hello = v1::KeepAliveRequest { worker: name.to_owned(), ..Default::default() };
        asked.send(hello).await.unwrap();
        let stream = running.sessions().await.keep_alive(ReceiverStream::new(requests)).await;
        let mut told = stream.unwrap().into_inner();
        told.message().await.unwrap().unwrap();
        Self { name: name.to_owned(), asked, told, known: String::new() }
    }

    /// A live session of this process.
    pub async fn acquire(
        &mut self,
        running: &Running,
        id: &str,
        tenant: &str,
    ) -> v1::SessionConfig {
        let request =
            v1::AcquireSessionRequest { worker: self.name.clone(), ..acquire(id, tenant) };
        let granted = running.sessions().await.acquire_session(request).await.unwrap();
        let attach =
            v1::KeepAliveRequest { attach_session_ids: vec![id.to_owned()], ..Default::default() };
        self.asked.send(attach).await.unwrap();
        while let Message::ConfigChanged(_) = self.notice().await {}
        let config = granted.into_inner().config.unwrap();
        self.known.clone_from(&config.version);
        config
    }

    /// The next notice.
    pub async fn notice(&mut self) -> Message {
        let told = tokio::time::timeout(Duration::from_secs(15), self.told.message());
        let told = told.await.expect("a notice comes in time");
        told.unwrap().unwrap().message.unwrap()
    }

    /// The next change of config. Notices come a little after the change and name the
    /// version of then: one may name what is known already.
    pub async fn config_changed(&mut self) -> v1::TenantConfigChanged {
        loop {
            match self.notice().await {
                Message::ConfigChanged(changed) if changed.version == self.known => {}
                Message::ConfigChanged(changed) => {
                    self.known.clone_from(&changed.version);
                    return changed;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The config of a live session as it is now.
pub async fn session_config(running: &Running, id: &str) -> v1::SessionConfig {
    let asked = v1::GetSessionConfigRequest { session_id: id.to_owned(), ..Default::default() };
    let answer = running.sessions().await.get_session_config(asked).await.unwrap();
    answer.into_inner().config.unwrap()
}
