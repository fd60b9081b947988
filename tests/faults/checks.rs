//! What must hold when everything is mended and nothing is under way, and at the
//! end when every agent is dead.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tenantd::wire::v1;

use crate::{
    config::{KEY, TENANTS},
    driver::Driver,
    link::Link,
};

/// How long the machine may need until what must come has come.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long sessions wait for their worker, and some spare time.
const GRACE: Duration = Duration::from_secs(4);
/// Files that a sidecar without clients may have more than at its start.
const SPARE_FILES: usize = 24;

/// How long a session of the sibling's may live that it does not know of: its TTL,
/// the grace where the sidecar starts meanwhile, and what faults add.
const UNHEARD: Duration = Duration::from_secs(20);

impl Driver {
    /// Mends all, lets everybody answer, and compares what the list says with
    /// what the event log says.
    pub async fn checkpoint(&mut self) {
        self.heal_all().await;
        self.wait("every command is answered", |driver| {
            driver.hear();
            let agents = driver.agents.iter();
            let busy: Vec<_> =
                agents.filter_map(|agent| Some((agent.is_doing(), agent.waits()?))).collect();
            if busy.is_empty() { Ok(()) } else { Err(format!("{busy:?}")) }
        })
        .await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.hear();
            self.look();
            let listed = self.operator.sessions().await;
            let Err(why) = self.compare(listed) else { break };
            if Instant::now() > deadline {
                self.fail(&why);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.judge_sibling();
        let Some(tenants) = self.operator.tenants().await else {
            self.fail("the list of tenants does not come")
        };
        if let Err(why) = self.truth.compare(&tenants) {
            self.fail(&why);
        }
        match self.world.figures().await {
            Some(figures) if figures.contains(KEY) => self.fail("the figures show a key"),
            Some(figures) if !figures.contains("tenantd_sessions_active") => {
                self.fail(&format!("the figures are none: {figures}"))
            }
            Some(_) => self.table.fact("figures searched", 1),
            None => self.fail("the figures do not come"),
        }
        self.table.fact("checkpoints", 1);
    }

    fn compare(&self, listed: Option<Vec<v1::Session>>) -> Result<(), String> {
        let sessions = listed.ok_or("the list of sessions does not come")?;
        let mut listed: Vec<_> = sessions.iter().map(|is| is.session_id.clone()).collect();
        listed.retain(|id| !id.starts_with("sibling"));
        let model = self.watcher.model.lock().unwrap();
        let live: Vec<_> =
            model.live.keys().filter(|id| !id.starts_with("sibling")).cloned().collect();
        if listed != live {
            return Err(format!("the list has {listed:?}, the log {live:?}"));
        }
        // By the list: a session may have come to another worker, which no event tells.
        if let Some(dead) = sessions.iter().find(|is| self.dead.contains(&is.worker)) {
            return Err(format!("the slot of a dead worker is still taken: {dead:?}"));
        }
        let mut must = self.truth.must_live(&model);
        if let Some((id, grant)) = must.find(|(id, _)| !model.live.contains_key(*id)) {
            return Err(format!("{id} was granted, and the log does not have it: {grant:?}"));
        }
        Ok(())
    }

    /// Right after a start: what was answered before is there, from the first call on.
    pub async fn remembers(&mut self) {
        let since = Instant::now();
        let deadline = since + PATIENCE;
        let (listed, tenants) = loop {
            let answers = (self.operator.sessions().await, self.operator.tenants().await);
            if let (Some(sessions), Some(tenants)) = answers {
                break (sessions, tenants);
            }
            if Instant::now() > deadline {
                self.fail("the lists do not come after a start");
            }
        };
        self.table.fact("starts compared", 1);
        if let Err(why) = self.truth.compare(&tenants) {
            self.fail(&format!("after a start {why}"));
        }
        if since.elapsed() > GRACE {
            // Those whose worker was slower have ended, rightly.
            return;
        }
        let model = self.watcher.model.lock().unwrap();
        let must: Vec<_> = self.truth.must_live(&model).collect();
        let gone = must.iter().find(|(id, _)| !listed.iter().any(|is| is.session_id == *id));
        let gone = gone.map(|gone| format!("{gone:?} is not live after a start"));
        let count = must.len() as u64;
        drop(model);
        if let Some(gone) = gone {
            self.fail(&gone);
        }
        self.table.fact("sessions that had to outlive a start", count);
    }

    /// The sibling was served whenever there was somebody to serve it.
    fn judge_sibling(&mut self) {
        let Some(sibling) = &self.sibling else { return };
        let tries = std::mem::take(&mut *sibling.tries.lock().unwrap());
        self.table.fact("sibling's sessions", tries.len() as u64);
        for tried in tries {
            let took = u64::try_from(tried.took.as_millis()).unwrap();
            let slowest = self.table.facts.entry("sibling's slowest, ms").or_default();
            *slowest = took.max(*slowest);
            if tried.took > PATIENCE {
                self.fail(&format!("the sibling was not told in time: {tried:?}"));
            }
            let Some(why) = &tried.refused else { continue };
            self.unheard.retain(|at| *at + UNHEARD > tried.at);
            let may_be_live = self.unheard.len() >= TENANTS[0].1.unwrap() as usize;
            if why == "UNAVAILABLE" || why.starts_with("release: ") {
                self.unheard.push(tried.at);
            }
            if why == "TENANT_AT_CAP" && may_be_live {
                self.table.fact("sibling met its own unheard sessions", 1);
            } else if why == "MACHINE_AT_CAP" && self.world.config.machine < 100 {
                self.table.fact("sibling met the machine's cap", 1);
            } else if self.world.was_away(tried.at) {
                self.table.fact("sibling met no sidecar", 1);
            } else {
                self.fail(&format!(
                    "the sibling was refused while nothing of its own was wrong: {tried:?}"
                ));
            }
        }
    }

    /// Every agent dies, and every slot comes back; the sidecar ends in order, and
    /// nothing that it left behind shows a key.
    pub async fn finish(&mut self) {
        let lost: Vec<_> = {
            let model = self.watcher.model.lock().unwrap();
            self.truth.lost_for_nothing(&model).collect()
        };
        if let Some(lost) = lost.first() {
            self.fail(&format!("lost, though nothing befell its worker: {lost}"));
        }
        let granted = |tls| {
            let links = Link::ALL.iter().filter(|link| link.is_tls() == tls);
            links.filter_map(|link| self.table.facts.get(link.sessions())).sum::<u64>()
        };
        if granted(true) == 0 || granted(false) == 0 {
            self.fail("no session was granted over one kind of network");
        }
        self.sibling = None;
        while let Some(agent) = self.agents.pop() {
            self.dead.push(agent.worker.clone());
            agent.kill().await;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.look();
            let listed = self.operator.sessions().await;
            let live = self.watcher.model.lock().unwrap().live.len();
            if live == 0 && listed.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
            if Instant::now() > deadline {
                self.fail(&format!("slots leaked: {live} by the log, the list has {listed:?}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.wait("the sidecar gives its files back", |driver| {
            let (rss, files) = driver.world.size();
            driver.table.facts.insert("resident KiB at the end", rss >> 10);
            driver.table.facts.insert("open files at the end", files as u64);
            let most = 16 + SPARE_FILES;
            if files <= most { Ok(()) } else { Err(format!("{files} of {most}")) }
        })
        .await;
        self.draining = true;
        self.world.signal("TERM");
        let code = self.world.ends(PATIENCE).await;
        if code != Some(0) {
            self.fail(&format!("the sidecar ended with {code:?}"));
        }
        if let Some(file) = shows_key(self.world.dir.path(), &self.world.config.path) {
            self.fail(&format!("{} shows a key", file.display()));
        }
        for said in self.world.all_said() {
            if let Some(line) = said.lines().find(|line| line.contains("panicked at")) {
                self.fail(&format!("the sidecar panicked: {line}"));
            }
        }
    }

    pub fn report(&mut self) {
        let model = self.watcher.model.lock().unwrap();
        for (what, count) in [
            ("events", model.events),
            ("gaps", model.gaps),
            ("epochs", model.epochs),
            ("sessions acquired", model.acquired),
            ("sessions ended", model.ended.len() as u64),
            ("sessions forgotten", model.vanished.len() as u64),
        ] {
            self.table.facts.insert(what, count);
        }
        for (kind, count) in &model.kinds {
            self.table.facts.insert(kind.as_str_name(), *count);
        }
        println!("seed {}: {} operations", self.seed, self.table.operations());
        self.table.print();
    }

    async fn wait(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> Result<(), String>) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = holds(self) {
            self.look();
            if Instant::now() > deadline {
                self.fail(&format!("gave up waiting until {what}: {why}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A file under the folder that shows a key: logs of the sidecar and of agents,
/// the state, the audit log.
fn shows_key(folder: &Path, config: &Path) -> Option<PathBuf> {
    fs::read_dir(folder).unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            return shows_key(&path, config);
        }
        let shows = |bytes: Vec<u8>| bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes());
        (kind.is_file() && path != config && shows(fs::read(&path).unwrap())).then_some(path)
    })
}
