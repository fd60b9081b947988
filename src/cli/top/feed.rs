//! Asks the sidecar, and goes on asking through its restarts: one stream of
//! changes, and figures beside it.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::model::Fed;
use crate::{
    cli::client::{self, Calls, Target},
    wire::v1::{self, watch_service_client::WatchServiceClient, watch_sessions_response::Item},
};

/// Items that wait to be shown. When they are full the stream is not read, and
/// the sidecar tells a gap instead of keeping more.
pub const WAITING: usize = 1024;
/// Largest answer: every tenant in memory.
const MOST_BYTES: usize = 64 << 20;
/// How long figures may take before it says so.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of the time, the sidecar gives figures in at most one part in so many.
const SHARE: u32 = 4;
/// Longest wait before a new try.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Of whom.
    pub target: Target,
    /// Only these tenants; empty: all.
    pub tenants: Vec<String>,
    /// Only these agents; empty: all.
    pub agents: Vec<String>,
    /// How often figures are asked for.
    pub refresh: Duration,
}

/// The screen is gone.
struct Gone;

/// Feeds until the screen is gone.
///
/// # Errors
/// `Unreachable`, or the sidecar's refusal, where it never answered.
pub async fn run(asked: Asked, to: mpsc::Sender<Fed>) -> anyhow::Result<()> {
    let mut channel = Some(client::connect(&asked.target).await?);
    let mut cursor = None;
    let mut answered = false;
    let mut wait = Duration::from_millis(100);
    loop {
        let connected = match channel.take() {
            Some(channel) => Ok(channel),
            None => client::connect(&asked.target).await,
        };
        let problem = match connected {
            Ok(channel) => {
                let mut told = Told { to: &to, cursor: &mut cursor, answered: false };
                let ended = told.follow(&asked, channel).await;
                if told.answered {
                    answered = true;
                    wait = Duration::from_millis(100);
                }
                match ended {
                    Ok(()) => "the stream ended".to_owned(),
                    Err(Ended::Gone) => return Ok(()),
                    Err(Ended::Status(status)) if !answered => {
                        return Err(client::refused(&status));
                    }
                    Err(Ended::Status(status)) if status.code() == Code::Unavailable => {
                        "it went away".to_owned()
                    }
                    Err(Ended::Status(status)) => client::refused(&status).to_string(),
                }
            }
            // The first words say what; what to do is of no use here.
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        if to.send(Fed::Down(problem)).await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF_MAX);
    }
}

enum Ended {
    Gone,
    Status(Box<Status>),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<Gone> for Ended {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

struct Told<'a> {
    to: &'a mpsc::Sender<Fed>,
    cursor: &'a mut Option<v1::Cursor>,
    answered: bool,
}

impl Told<'_> {
    async fn follow(&mut self, asked: &Asked, channel: Calls) -> Result<(), Ended> {
        let client = WatchServiceClient::new(channel).max_decoding_message_size(MOST_BYTES);
        let request = v1::WatchSessionsRequest {
            tenants: asked.tenants.clone(),
            agent_names: asked.agents.clone(),
            cursor: self.cursor.clone(),
            ..Default::default()
        };
        let mut stream = client.clone().watch_sessions(request).await?.into_inner();
        self.answered = true;
        send(self.to, Fed::Up { resumed: self.cursor.is_some() }).await?;
        let figures = figures(client, asked.refresh, self.to);
        let changes = async {
            while let Some(answer) = stream.message().await? {
                let Some(item) = answer.item else { continue };
                match &item {
                    Item::SnapshotEnd(end) => self.cursor.clone_from(&end.cursor),
                    Item::Heartbeat(beat) => self.cursor.clone_from(&beat.cursor),
                    Item::Event(event) => {
                        if let Some(cursor) = self.cursor.as_mut() {
                            cursor.sequence = event.sequence;
                        }
                    }
                    // Broken off in the snapshot that follows, it is wanted anew.
                    Item::Gap(_) => *self.cursor = None,
                    Item::Tenant(_) | Item::Session(_) => {}
                }
                send(self.to, Fed::Item(item)).await?;
            }
            Ok(())
        };
        either(changes, figures).await
    }
}

/// Whichever ends first.
async fn either<T>(a: impl Future<Output = T>, b: impl Future<Output = T>) -> T {
    tokio::select! {
        ended = a => ended,
        ended = b => ended,
    }
}

async fn figures(
    mut client: WatchServiceClient<Calls>,
    every: Duration,
    to: &mpsc::Sender<Fed>,
) -> Result<(), Ended> {
    let mut turn = tokio::time::interval(every);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        let asked = v1::GetSnapshotRequest { details: true };
        let began = Instant::now();
        match tokio::time::timeout(PATIENCE, client.get_snapshot(asked)).await {
            Ok(answer) => send(to, Fed::Figures(Box::new(answer?.into_inner()))).await?,
            Err(_) => send(to, Fed::Stalled(format!("no answer within {PATIENCE:?}"))).await?,
        }
        // A sidecar with very many tenants is not kept busy by being looked at.
        tokio::time::sleep(began.elapsed() * SHARE).await;
    }
}

async fn send(to: &mpsc::Sender<Fed>, fed: Fed) -> Result<(), Gone> {
    to.send(fed).await.map_err(|_| Gone)
}
