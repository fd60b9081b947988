//! A tenant that minds its own business: one session after the other on a
//! connection of its own. Whatever happens to the others, it is never refused.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tenantd::wire::v1::{self, session_service_client::SessionServiceClient};
use tokio::task::JoinHandle;

use crate::{
    bare::{channel, prompt, reason, timed},
    config::may_have,
};

/// One try of it.
#[derive(Debug, Clone)]
pub struct Try {
    pub at: Instant,
    pub took: Duration,
    /// None: it went well.
    pub refused: Option<String>,
}

pub struct Sibling {
    pub tries: Arc<Mutex<Vec<Try>>>,
    task: JoinHandle<()>,
}

impl Sibling {
    pub fn start(socket: PathBuf) -> Self {
        let tries: Arc<Mutex<Vec<Try>>> = Arc::default();
        let told = Arc::clone(&tries);
        let task = tokio::spawn(async move {
            let mut calls = SessionServiceClient::new(channel(socket));
            for n in 0_u64.. {
                let at = Instant::now();
                let refused = live(&mut calls, &format!("sibling-{n}")).await.err();
                told.lock().unwrap().push(Try { at, took: at.elapsed(), refused });
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        });
        Self { tries, task }
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn live(
    calls: &mut SessionServiceClient<tonic::transport::Channel>,
    id: &str,
) -> Result<(), String> {
    let asked = v1::AcquireSessionRequest {
        session_id: id.to_owned(),
        job_metadata: "{\"tenant\":\"sibling\"}".to_owned(),
        activate: true,
        ..Default::default()
    };
    let answer =
        prompt(calls.acquire_session(timed(asked))).await.map_err(|refused| reason(&refused))?;
    let config = answer.into_inner().config.unwrap_or_default();
    let key = &config.providers["llm"].credentials["api_key"].value;
    if !may_have("sibling", key) {
        return Err("it was given another's key".to_owned());
    }
    let asked = v1::ReleaseSessionRequest {
        session_id: id.to_owned(),
        outcome: v1::Outcome::Success.into(),
        ..Default::default()
    };
    match prompt(calls.release_session(timed(asked))).await.map_err(|refused| reason(&refused)) {
        // A restart lies between that forgot it, or a drain that ended it.
        Ok(_) => Ok(()),
        Err(refused) => Err(format!("release: {refused}")),
    }
}
