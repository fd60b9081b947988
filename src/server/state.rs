//! What outlives the process: where it is kept, taken over at the start, and
//! recorded anew when its file has grown.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    address::default_socket,
    app::{
        Sidecar,
        events::EventHub,
        ports::{Clock as _, Journal, NoJournal, SessionStore as _, Unrecorded},
    },
    config,
    domain::record::Image,
    server::{
        clock::SystemClock,
        hand_over::{LET_GO, LET_GO_LOOK},
    },
    state::{self, journal::Files},
    store::memory::MemoryStore,
};

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two pieces of what is recorded anew, each a fraction of a millisecond: where
/// there is one core the threads that serve need it, and they do not stop to be asked.
const PAUSE: Duration = Duration::from_millis(1);
/// Pieces between two syncs, each about 50 KB: of all at once the kernel makes one long
/// piece of work.
const SYNC_EVERY: u32 = 16;
/// Tenants in a piece.
const SMALL_TENANTS: u32 = 64;

/// What was found at the start.
pub struct Found {
    pub journal: Arc<dyn Journal>,
    pub epoch: String,
    pub head: u64,
    /// Nanoseconds that the clock of the run before had left out.
    pub left_out: u64,
    files: Option<Arc<Files>>,
    /// The directory.
    pub folder: Option<PathBuf>,
    image: Image,
    rebooted: bool,
}

/// As [`open`], where the one before has just left, or died: a process that dies lets
/// go of its connections a moment before it lets go of its lock.
pub async fn open_left(folder: Option<PathBuf>) -> anyhow::Result<Found> {
    let deadline = tokio::time::Instant::now() + LET_GO;
    loop {
        let opened = open(folder.clone());
        let is_held = opened
            .as_ref()
            .is_err_and(|error| matches!(error.downcast_ref(), Some(state::Error::InUse { .. })));
        if !is_held || tokio::time::Instant::now() > deadline {
            return opened;
        }
        tokio::time::sleep(LET_GO_LOOK).await;
    }
}

/// Opens the state in its directory; none: nothing is kept.
pub fn open(folder: Option<PathBuf>) -> anyhow::Result<Found> {
    let Some(folder) = folder else {
        return Ok(Found {
            journal: Arc::new(NoJournal),
            epoch: uuid::Uuid::new_v4().simple().to_string(),
            head: 0,
            left_out: 0,
            files: None,
            folder: None,
            image: Image::default(),
            rebooted: false,
        });
    };
    let opened = state::open(&folder)?;
    if let Some(lost) = &opened.lost {
        tracing::error!(
            lost,
            "the state of the run before cannot be read: its sessions, breakers, run-time caps and suspensions are forgotten"
        );
    }
    Ok(Found {
        journal: Arc::<Files>::clone(&opened.journal),
        epoch: opened.epoch,
        head: opened.head,
        left_out: opened.left_out,
        files: Some(opened.journal),
        folder: Some(folder),
        image: opened.image,
        rebooted: opened.rebooted,
    })
}

/// The directory; none: nothing is kept.
pub fn place(
    config: &config::State,
    (unix, port): (Option<&Path>, Option<u16>),
) -> Option<PathBuf> {
    if !config.enabled {
        return None;
    }
    // systemd's StateDirectory= may name several.
    let given = env::var_os("STATE_DIRECTORY").filter(|given| !given.is_empty());
    let given = given.and_then(|given| env::split_paths(&given).next());
    let beside = || unix.map(|path| path.with_extension("state"));
    let of_port = || {
        // One that the system chose finds no successor, and may find a stranger.
        let Some(port) = port.filter(|port| *port != 0) else {
            tracing::warn!(
                "a restart will forget live sessions: a port chosen by the system has no state directory; give a [state] path"
            );
            return None;
        };
        let uid = rustix::process::getuid().as_raw();
        let socket = default_socket(|name| env::var(name).ok(), uid);
        Some(socket.with_file_name(format!("tcp-{port}.state")))
    };
    config.path.clone().or(given).or_else(beside).or_else(of_port)
}

impl Found {
    /// Takes it over, before the first call, and records it in a new file.
    pub async fn restore(
        self,
        store: &Arc<MemoryStore>,
        events: &Arc<EventHub>,
        clock: &Arc<SystemClock>,
    ) -> Kept {
        let live = self.image.live();
        if live > 0 {
            tracing::info!(
                sessions = live,
                rebooted = self.rebooted,
                "sessions of the run before are taken over; they wait for their workers"
            );
        }
        store.restore(self.image, self.rebooted, clock.now());
        let kept = Kept {
            files: self.files,
            store: Arc::clone(store),
            events: Arc::clone(events),
            clock: Arc::clone(clock),
        };
        // Nobody is served yet.
        kept.record_all(Duration::ZERO).await;
        kept
    }
}

/// What is to be kept, and where.
#[derive(Clone)]
pub struct Kept {
    files: Option<Arc<Files>>,
    store: Arc<MemoryStore>,
    events: Arc<EventHub>,
    clock: Arc<SystemClock>,
}

impl Kept {
    /// Keeps it for as long as the sidecar runs.
    pub async fn keep(self) {
        let Some(files) = &self.files else { return };
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if files.is_due() {
                self.record_all(PAUSE).await;
            } else {
                sync(files).await;
            }
        }
    }

    /// Keeps what the clock leaves out, so that the times that are recorded mean the
    /// same to whoever starts next.
    pub fn keep_clock(&self) {
        if let Some(files) = &self.files {
            // Looked at first: a hole ends at the next reading.
            let _ = self.clock.now();
            files.leave_out(self.clock.left_out());
        }
    }

    /// Records everything in a new file, with a pause after each piece of it. A failure is
    /// told by the files, and tried again.
    async fn record_all(&self, pause: Duration) {
        let Some(files) = &self.files else { return };
        let mut pieces = 0_u32;
        let mut after_piece = async || {
            pieces += 1;
            if pieces.is_multiple_of(SYNC_EVERY)
                && !pause.is_zero()
                && let Some(file) = files.current()
            {
                // It is synced as a whole at the end, and that says what went wrong.
                let _ = tokio::task::spawn_blocking(move || file.sync_data()).await;
            }
            tokio::time::sleep(pause).await;
        };
        let recorded = async {
            files.begin().map_err(|_| Unrecorded)?;
            for (number, tenant) in (1..).zip(self.store.tenants().await) {
                let mut from = 0;
                while let Some(next) = self.store.record_tenant(&tenant, from)? {
                    from = next;
                    after_piece().await;
                }
                if number % SMALL_TENANTS == 0 {
                    after_piece().await;
                }
            }
            let mut from = 0;
            while let Some(next) = self.store.record_ended(from)? {
                from = next;
                after_piece().await;
            }
            files.complete()
        };
        if recorded.await.is_ok() {
            sync(files).await;
            files.remove_old();
        }
    }

    /// Tells by the health service when no session can be admitted, since it could
    /// not be recorded.
    pub async fn tell_health(self, sidecar: Arc<Sidecar>, health: super::Reporter) {
        let Some(files) = &self.files else { return };
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut told = true;
        loop {
            look.tick().await;
            let serves = files.problem().is_none();
            if serves != told && sidecar.draining().is_none() {
                super::set_health(&health, serves).await;
                told = serves;
                if sidecar.draining().is_some() {
                    // It began meanwhile.
                    super::set_health(&health, false).await;
                }
            }
        }
    }

    /// For those who tell and settle it first: steps may be recorded together from
    /// here on.
    pub fn batched(&self) -> Arc<dyn Journal> {
        match &self.files {
            Some(files) => {
                files.batch();
                Arc::<Files>::clone(files)
            }
            None => Arc::new(NoJournal),
        }
    }

    /// No more events come: leaves the state to whoever starts next.
    pub fn leave(&self) {
        self.events.close();
        if let Some(files) = &self.files {
            files.leave();
        }
    }
}

/// What operators have set must outlive the machine, too; nobody waits for it.
async fn sync(files: &Files) {
    let Some((file, folder)) = files.to_sync() else { return };
    let synced = tokio::task::spawn_blocking(move || {
        file.sync_data()?;
        std::fs::File::open(folder)?.sync_all()
    });
    if let Ok(Err(error)) = synced.await {
        tracing::warn!(%error, "the state could not be synced to the disk");
    }
}
