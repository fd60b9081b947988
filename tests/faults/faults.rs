//! What breaks, and how it is mended.

use std::time::{Duration, Instant};

use crate::{
    agents::Asked,
    driver::{AGENTS, Driver, Found, SPARED},
    proxy::Mode,
    state::{self, Damage},
    table::Went,
};

/// What has to be undone later.
#[derive(Debug, Clone, PartialEq)]
pub enum Heal {
    /// The sidecar is started again.
    Start,
    /// The sidecar goes on.
    Continue,
    /// The sidecar can write again.
    Disk,
    /// The agent process goes on.
    ContinueAgent(String),
    /// The agent's network is whole again.
    Mend(String),
    /// The config file is whole again.
    Config,
}

impl Driver {
    /// Something breaks. Which things, and for how long, is the seed's.
    pub async fn inject(&mut self) {
        let fault = self.dice.weighted(&[
            (4, "agent kill -9"),
            (3, "agent SIGSTOP"),
            (4, "sidecar kill -9"),
            (1, "sidecar kill -9, state damaged"),
            (2, "sidecar SIGSTOP"),
            (1, "sidecar drain"),
            (1, "sidecar SIGTERM"),
            (3, "sidecar taken over"),
            (2, "sidecar taken over, successor killed"),
            (2, "sidecar taken over, predecessor killed"),
            (2, "disk full"),
            (4, "network cut"),
            (3, "network delay"),
            (2, "network hold"),
            (2, "network half-close"),
            (3, "network garble"),
            (3, "watcher cut"),
            (3, "config half-edit"),
            (2, "keys and certificate rotated"),
        ]);
        // The others meet faults of the sidecar alone: their sessions must outlive them.
        let at = SPARED + usize::try_from(self.dice.roll((AGENTS - SPARED) as u64)).unwrap();
        let worker = self.agents[at].worker.clone();
        let under_way = |heal: &Heal| self.heals.iter().any(|(_, other)| other == heal);
        let is_up = !under_way(&Heal::Start) && !under_way(&Heal::Continue);
        let is_full = under_way(&Heal::Disk) || self.world.fails_to_write();
        // Killed with a full disk it may be, and stopped: not asked to do things.
        let needs_disk = !matches!(fault, "sidecar kill -9" | "sidecar SIGSTOP");
        let of_sidecar = fault.starts_with("sidecar") || fault == "disk full";
        if of_sidecar && (!is_up || is_full && needs_disk) {
            return;
        }
        if fault.starts_with("network") && under_way(&Heal::Mend(worker.clone())) {
            return;
        }
        if fault.starts_with("agent") || fault.starts_with("network") {
            self.truth.disturb(&worker);
        }
        self.table.fault(fault);
        match fault {
            "agent kill -9" => self.kill_agent(at).await,
            "agent SIGSTOP" => {
                self.agents[at].signal("STOP");
                self.later(100, 3000, Heal::ContinueAgent(worker));
            }
            "sidecar kill -9" | "sidecar kill -9, state damaged" => {
                self.world.kill().await;
                self.heals.retain(|(_, heal)| *heal != Heal::Disk);
                let is_full = is_full || self.world.fails_to_write();
                self.found = if is_full { Found::Grants } else { Found::All };
                if fault != "sidecar kill -9"
                    && let Some((what, damage)) = state::damage(&self.world.state(), &mut self.dice)
                {
                    self.table.fault(what);
                    self.found = Found::Damaged(damage);
                }
                self.later(0, 1500, Heal::Start);
            }
            "sidecar SIGSTOP" => {
                self.world.gone();
                self.world.signal("STOP");
                self.later(100, 2500, Heal::Continue);
            }
            "sidecar drain" | "sidecar SIGTERM" => self.end_sidecar(fault).await,
            "sidecar taken over" => {
                // With a bad one the successor rightly does not start.
                let text = self.world.config.text();
                self.world.config.write(&text);
                self.world.gone();
                self.draining = true;
                let code = self.world.take_over().await;
                self.draining = false;
                if code != Some(0) {
                    self.fail(&format!("the one that was taken over ended with {code:?}"));
                }
                self.found = Found::All;
                self.remembers().await;
            }
            "sidecar taken over, successor killed" => {
                let text = self.world.config.text();
                self.world.config.write(&text);
                self.world.gone();
                self.draining = true;
                let after = self.dice.millis(0, 600);
                let left = self.world.successor_dies(after).await;
                self.draining = false;
                self.found = Found::All;
                if left {
                    self.table.fact("places left to a dead successor", 1);
                    self.later(0, 500, Heal::Start);
                } else {
                    self.world.back();
                    self.remembers().await;
                }
            }
            "sidecar taken over, predecessor killed" => {
                let text = self.world.config.text();
                self.world.config.write(&text);
                self.world.gone();
                self.draining = true;
                let after = self.dice.millis(0, 600);
                self.world.predecessor_dies(after).await;
                self.draining = false;
                self.found = Found::All;
                self.remembers().await;
            }
            "disk full" => {
                self.world.gone();
                self.world.fill_disk(true);
                self.later(100, 2000, Heal::Disk);
            }
            "watcher cut" => self.watcher.cut(),
            "config half-edit" => {
                let half = self.world.config.half(&mut self.dice);
                self.world.config.write(&half);
                self.later(50, 2000, Heal::Config);
            }
            "keys and certificate rotated" => {
                self.world.config.generation += 1;
                self.world.config.secure.renew();
                let text = self.world.config.text();
                self.world.config.write(&text);
            }
            _ => {
                let mode = match fault {
                    "network cut" => Mode::Cut,
                    "network delay" => Mode::Delay(self.dice.millis(10, 400)),
                    "network hold" => Mode::Hold,
                    "network half-close" => Mode::HalfClose,
                    _ => Mode::Garble { to_sidecar: self.dice.roll(2) == 0 },
                };
                if matches!(mode, Mode::Garble { .. }) {
                    self.agents[at].garble();
                }
                self.agents[at].proxy.set(mode);
                self.later(100, 2500, Heal::Mend(worker));
            }
        }
    }

    /// Ends the sidecar in order: by a drain, whose deadline ends what is live, or by
    /// two signals, which leave it to the next one.
    async fn end_sidecar(&mut self, fault: &str) {
        self.draining = true;
        self.world.gone();
        let within = Duration::from_secs(30);
        if fault == "sidecar drain" {
            self.truth.all_may_end();
            if let Err(why) = self.operator.drain(&mut self.table).await {
                self.fail(&why);
            }
            let code = self.world.ends(within).await;
            if code != Some(0) {
                self.fail(&format!("the drain ended with {code:?}"));
            }
        } else {
            self.world.ends_at_once(within).await;
        }
        self.draining = false;
        self.found = Found::All;
        self.later(0, 1000, Heal::Start);
    }

    fn later(&mut self, from: u64, to: u64, heal: Heal) {
        let at = Instant::now() + self.dice.millis(from, to);
        self.heals.push((at, heal));
    }

    pub async fn kill_agent(&mut self, at: usize) {
        let agent = self.agents.remove(at);
        let (kind, worker) = (agent.kind, agent.worker.clone());
        self.heals.retain(|(_, heal)| {
            *heal != Heal::ContinueAgent(worker.clone()) && *heal != Heal::Mend(worker.clone())
        });
        let unanswered: Vec<Asked> = agent.kill().await;
        for asked in unanswered {
            let what = format!("{} {}", kind.name(), asked.op);
            self.table.note(&what, Went::Unanswered, Duration::ZERO);
        }
        self.dead.push(worker);
        self.start_agent().await;
    }

    /// Mends what is due.
    pub async fn heal_due(&mut self) {
        let now = Instant::now();
        let due: Vec<Heal> =
            self.heals.iter().filter(|(at, _)| *at <= now).map(|(_, heal)| heal.clone()).collect();
        self.heals.retain(|(at, _)| *at > now);
        for heal in due {
            self.heal(heal).await;
        }
    }

    /// Mends everything at once.
    pub async fn heal_all(&mut self) {
        for (_, heal) in std::mem::take(&mut self.heals) {
            self.heal(heal).await;
        }
    }

    async fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Start => {
                // With a bad one it rightly does not start.
                let text = self.world.config.text();
                self.world.config.write(&text);
                self.start_again().await;
            }
            Heal::Continue => {
                self.world.signal("CONT");
                self.world.back();
            }
            Heal::Disk => {
                self.world.fill_disk(false);
                self.world.back();
            }
            Heal::ContinueAgent(worker) => {
                self.truth.disturb(&worker);
                if let Some(agent) = self.agents.iter_mut().find(|agent| agent.worker == worker) {
                    agent.signal("CONT");
                }
            }
            Heal::Mend(worker) => {
                self.truth.disturb(&worker);
                if let Some(agent) = self.agents.iter_mut().find(|agent| agent.worker == worker) {
                    if agent.garbled {
                        // What was garbled must not go on: HTTP/2 has a state, and
                        // TLS may wait for the rest of a record that has none.
                        agent.proxy.set(Mode::Cut);
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        agent.whole();
                    }
                    agent.proxy.set(Mode::Pass);
                }
            }
            Heal::Config => {
                let text = self.world.config.text();
                self.world.config.write(&text);
            }
        }
    }

    /// Starts the sidecar where another one ended, and compares what it knows with
    /// what that one had answered.
    async fn start_again(&mut self) {
        self.hear();
        let found = std::mem::replace(&mut self.found, Found::All);
        if found == Found::Damaged(Damage::Gone) {
            self.forget();
        }
        self.world.start().await;
        let said = self.world.said();
        let told = said.contains("cannot be read");
        match found {
            Found::Damaged(Damage::Altered) if told => {
                self.table.fact("unreadable states, told", 1);
                self.forget();
            }
            Found::Grants => self.truth.forget_switches(),
            _ => {}
        }
        if told && !matches!(found, Found::Damaged(Damage::Altered | Damage::Gone)) {
            self.fail("the state of the sidecar before cannot be read");
        }
        self.remembers().await;
    }

    /// The state was destroyed by this program: nothing is promised of what was.
    fn forget(&mut self) {
        self.truth.forget();
        self.watcher.model.lock().unwrap().forget();
        self.watcher.cut();
    }
}
