//! Plays one seed: what agents and the operator do, and when something breaks.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    agents::{Agent, Answer, Kind},
    config::{AGENT, KEY, TENANTS, may_have},
    dice::Dice,
    faults::Heal,
    link::Link,
    model::Model,
    operator::Operator,
    sibling::Sibling,
    state::Damage,
    table::{Table, Went},
    truth::{Change, Truth},
    watcher::Watcher,
    world::World,
};

/// Agent processes at once.
pub const AGENTS: usize = 6;
/// The first of them, one of each kind: nothing befalls them and their network.
pub const SPARED: usize = 3;
/// Sessions that each of them keeps for longer.
const KEPT: usize = 2;
/// Commands that one of them may have without an answer.
const IN_FLIGHT: usize = 8;
/// Steps between two checkpoints.
const STEPS: u64 = 250;
/// An answer that takes longer is not prompt, whatever happened.
const PROMPT: Duration = Duration::from_secs(20);
/// Machine caps: one that is met, and one that is not.
const MACHINE: [u32; 2] = [16, 10_000];

pub struct Driver {
    pub dice: Dice,
    pub world: World,
    pub watcher: Watcher,
    pub sibling: Option<Sibling>,
    /// When it was not told how a call of its own went: its session may live on.
    pub unheard: Vec<Instant>,
    pub operator: Operator,
    pub agents: Vec<Agent>,
    pub table: Table,
    pub heals: Vec<(Instant, Heal)>,
    pub truth: Truth,
    /// Workers that were killed.
    pub dead: Vec<String>,
    pub seed: u64,
    pub draining: bool,
    /// What the next start finds.
    pub found: Found,
    answers: mpsc::UnboundedReceiver<Answer>,
    answer_to: mpsc::UnboundedSender<Answer>,
    kinds: Vec<Kind>,
    started: usize,
    /// Ids that agents have acquired lately, by worker.
    recent: BTreeMap<String, Vec<String>>,
    sessions: u64,
}

/// What the next start of the sidecar finds of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is the first one.
    Nothing,
    /// All that was answered.
    All,
    /// All that was granted; it was killed while it could not write.
    Grants,
    Damaged(Damage),
}

pub async fn play(seed: u64, time: Duration) {
    let mut dice = Dice::new(seed);
    let mut world = World::new(*dice.of(&MACHINE));
    world.start().await;
    let model = Model::new(world.config.machine, AGENT);
    let (answer_to, answers) = mpsc::unbounded_channel();
    let mut driver = Driver {
        watcher: Watcher::start(world.socket(), model),
        sibling: Some(Sibling::start(world.socket())),
        unheard: Vec::new(),
        operator: Operator::new(world.socket()),
        dice,
        world,
        agents: Vec::new(),
        table: Table::default(),
        heals: Vec::new(),
        truth: Truth::default(),
        dead: Vec::new(),
        seed,
        draining: false,
        found: Found::Nothing,
        answers,
        answer_to,
        kinds: Kind::installed(),
        started: 0,
        recent: BTreeMap::new(),
        sessions: 0,
    };
    for _ in 0..AGENTS {
        driver.start_agent().await;
    }
    let end = Instant::now() + time;
    let mut steps = 0;
    while Instant::now() < end {
        driver.step().await;
        steps += 1;
        if steps % STEPS == 0 {
            driver.checkpoint().await;
        }
    }
    driver.checkpoint().await;
    driver.finish().await;
    driver.table.fact("steps", steps);
    driver.report();
    if std::env::var_os("FAULT_KEEP").is_some() {
        println!("logs: {}", driver.world.keep().display());
    }
}

impl Driver {
    /// A promise was broken: says all that is needed to look into it.
    pub fn fail(&self, why: &str) -> ! {
        let model = self.watcher.model.lock().unwrap();
        println!("live by the log: {:#?}", model.live);
        println!("place {} of epoch {}", model.place, model.epoch);
        for (n, said) in self.world.all_said().iter().enumerate() {
            let tail: Vec<_> = said.lines().rev().take(15).collect();
            println!("sidecar {}:", n + 1);
            tail.iter().rev().for_each(|line| println!("  {line}"));
        }
        self.table.print();
        // Nobody else does, where this program just exits.
        self.world.signal_any("KILL");
        let kept = self.world.keep();
        println!("BROKEN with FAULT_SEED={}: {why}\nlogs: {}", self.seed, kept.display());
        std::process::exit(1);
    }

    pub async fn start_agent(&mut self) {
        let kind = self.kinds[self.started % self.kinds.len()];
        let link = Link::of(self.started);
        self.started += 1;
        let worker = format!("w{}-{}", self.started, kind.name());
        let (dir, socket) = (self.world.dir.path(), self.world.socket());
        let to = (dir, socket.as_path(), &self.world.config.secure);
        let agent = Agent::start((kind, link), &worker, to, self.answer_to.clone()).await;
        self.agents.push(agent);
    }

    async fn step(&mut self) {
        self.hear();
        self.heal_due().await;
        match self.dice.roll(100) {
            0..92 => self.operate().await,
            92..98 => {
                let tenant = TENANTS[1 + usize::try_from(self.dice.roll(3)).unwrap()].0;
                let session = self.some_session();
                let done = self
                    .operator
                    .act(&mut self.dice, tenant, session.as_deref(), &mut self.table)
                    .await;
                match done {
                    Ok((Change::Revoked, _)) => self.truth.ends(&session.unwrap_or_default()),
                    Ok((change, answered)) => self.truth.changed(tenant, change, answered),
                    Err(why) => self.fail(&why),
                }
            }
            _ => self.inject().await,
        }
        self.look();
        let pause = self.dice.millis(0, 16);
        tokio::time::sleep(pause).await;
    }

    /// What is watched all the time.
    pub fn look(&mut self) {
        if let Some(why) = self.watcher.broken().first() {
            self.fail(why);
        }
        if let Err(why) = self.world.is_bounded() {
            self.fail(&why);
        }
        if self.world.has_ended() && !self.draining {
            self.fail("the sidecar has ended by itself");
        }
        let waits = self.agents.iter().find_map(|agent| {
            let asked = agent.waits()?;
            (asked.at.elapsed() > 2 * PROMPT)
                .then(|| format!("{} waits for {asked:?}", agent.worker))
        });
        if let Some(why) = waits {
            self.fail(&why);
        }
    }

    fn some_session(&mut self) -> Option<String> {
        let model = self.watcher.model.lock().unwrap();
        let others: Vec<_> = model
            .live
            .iter()
            .filter(|(_, live)| live.tenant != "sibling")
            .map(|(id, _)| id)
            .collect();
        (!others.is_empty()).then(|| (*self.dice.of(&others)).clone())
    }

    /// One command to one agent.
    async fn operate(&mut self) {
        let at = usize::try_from(self.dice.roll(self.agents.len() as u64)).unwrap();
        if self.agents[at].in_flight() >= IN_FLIGHT || self.agents[at].stopped {
            return;
        }
        let (worker, link) = (self.agents[at].worker.clone(), self.agents[at].link);
        let op = self.dice.weighted(&[
            (40, "acquire"),
            (24, "end"),
            (3, "fail"),
            (8, "publish"),
            (6, "refresh"),
            (6, "renew"),
            (u64::from(at >= SPARED), "reconnect"),
        ]);
        let ask =
            if op == "acquire" { self.acquire(&worker) } else { self.other(op, (&worker, link)) };
        let id = ask["id"].as_str().unwrap_or_default();
        match op {
            "acquire" => self.truth.asks(id, (&worker, link)),
            "end" => self.truth.asks_to_end(id, link),
            "reconnect" => self.truth.disturb(&worker),
            _ => {}
        }
        self.agents[at].ask(ask).await;
    }

    fn acquire(&mut self, worker: &str) -> serde_json::Value {
        self.sessions += 1;
        // Sometimes an id that was used before, by whomever.
        let id = if self.dice.roll(20) == 0 {
            id(1 + self.dice.roll(self.sessions))
        } else {
            id(self.sessions)
        };
        let tenant = *self.dice.of(&["acme", "globex", "initech", "walk-in"]);
        let of = |tenant: &str| format!("{{\"tenant\":\"{tenant}\"}}");
        let (job, room, explicit, bound) = match self.dice.roll(24) {
            0 => (String::new(), of(tenant), "", Ok(tenant)),
            1 => (of(&format!(" {tenant}\\t")), of("globex"), "", Ok(tenant)),
            2 => ("call from +49 30".to_owned(), String::new(), tenant, Ok(tenant)),
            3 => ("{\"tenant\":null}".to_owned(), of(tenant), "", Ok("default")),
            4 => ("{\"tenant\":7}".to_owned(), String::new(), "", Err("TENANT_MALFORMED")),
            5 => (of("two words"), String::new(), "", Err("TENANT_MALFORMED")),
            6 => (of(tenant), String::new(), "nobody", Err("TENANT_CONFLICT")),
            _ => (of(tenant), String::new(), "", Ok(tenant)),
        };
        let agent = *self.dice.of(&["", "wide", AGENT.0]);
        let known = self.recent.entry(worker.to_owned()).or_default();
        known.push(id.clone());
        if known.len() > 12 {
            known.remove(0);
        }
        let (bound, refused) = (bound.unwrap_or_default(), bound.err().unwrap_or_default());
        json!({
            "op": "acquire", "id": id, "job": job, "room": room, "tenant": explicit,
            "agent": agent, "bound": bound, "refused": refused,
        })
    }

    fn other(&mut self, op: &str, (worker, link): (&str, Link)) -> serde_json::Value {
        let held = self.truth.held_by(worker);
        let recent = self.recent.get(worker).cloned().unwrap_or_default();
        let id = match self.dice.roll(10) {
            // Some live on, so that there is something to forget.
            0..7 if op == "end" && held.len() <= KEPT => id(self.sessions + 1),
            0..7 if !held.is_empty() => self.dice.of(&held).clone(),
            7..9 if !recent.is_empty() => self.dice.of(&recent).clone(),
            // Somebody else's, or nobody's.
            _ => {
                let at = self.dice.roll(self.sessions + 2);
                let others = self.truth.held_by_others(link);
                let is_nobodys = others.is_empty() || at.is_multiple_of(4);
                if is_nobodys { id(1 + at) } else { others[at as usize % others.len()].clone() }
            }
        };
        let outcome = self.dice.weighted(&[(7, "success"), (1, "failure"), (2, "cancelled")]);
        json!({ "op": op, "id": id, "outcome": outcome })
    }

    /// Takes the answers that came.
    pub fn hear(&mut self) {
        while let Ok(answer) = self.answers.try_recv() {
            if let Err(why) = self.judge(&answer) {
                self.fail(&format!("{why}; {} said so:\n{answer:#?}", answer.agent));
            }
        }
    }

    fn judge(&mut self, answer: &Answer) -> Result<(), String> {
        let text = |key: &str| answer.said[key].as_str().unwrap_or_default().to_owned();
        let asked = &answer.asked;
        let took = Duration::from_millis(answer.said["ms"].as_u64().unwrap_or_default());
        let reason = text("reason");
        let went = match (answer.said["ok"].as_bool(), reason.as_str()) {
            (Some(true), _) => Went::Well,
            (_, "UNAVAILABLE" | "UNDECIDED" | "CLOSED") => Went::Unavailable,
            _ => Went::Refused,
        };
        let what = format!("{} {}", answer.kind.name(), asked.op);
        self.table.note(&what, went, took);
        if answer.link.is_tls() {
            self.table.fact("answers over TLS", 1);
        }
        if text("text").contains(KEY) {
            return Err("an error shows a key".to_owned());
        }
        if took > PROMPT && !asked.tainted {
            return Err(format!("{} is not told within {PROMPT:?}", asked.op));
        }
        if asked.tainted {
            self.table.fact("answers after garbling", 1);
            return Ok(());
        }
        if reason == "?" {
            return Err("an error that is none of the documented ones".to_owned());
        }
        if went == Went::Unavailable && !self.world.was_away(asked.at) {
            self.table.fact("unavailable, sidecar up", 1);
        }
        let key = text("key");
        let tenant = text("tenant");
        if went == Went::Well && !key.is_empty() {
            // A refresh of the bare client tells no tenant.
            let whose = if tenant.is_empty() {
                self.truth.grant(&asked.id).map(|grant| grant.tenant.clone())
            } else {
                Some(tenant.clone())
            };
            if whose.is_some_and(|whose| !may_have(&whose, &key)) {
                return Err(format!("{tenant} was given {key}"));
            }
        }
        let granted = self.truth.grant(&asked.id).filter(|grant| grant.at < asked.at);
        let is_own = granted.map(|grant| grant.link == answer.link);
        if is_own == Some(false) && asked.op != "acquire" {
            self.table.fact("calls about another identity's session", 1);
            if went == Went::Well && asked.op == "refresh" {
                return Err(format!("{} is another identity's, and its keys were given", asked.id));
            }
        }
        if reason == "SESSION_UNKNOWN" && is_own == Some(true) {
            return Err(format!("{} was granted, and is not known any more", asked.id));
        }
        if asked.op != "acquire" {
            return Ok(());
        }
        match (&asked.bound, went) {
            (Ok(bound), Went::Well) => {
                if tenant != *bound {
                    return Err(format!("{} was bound to {tenant} instead of {bound}", asked.id));
                }
                self.table.fact(answer.link.sessions(), 1);
                self.truth.granted(&asked.id, &tenant, (&answer.agent, answer.link));
            }
            (Err(_), Went::Well) => return Err("odd metadata was granted a slot".to_owned()),
            (Err(must), Went::Refused) if reason != *must => {
                return Err(format!("refused with {reason} instead of {must}"));
            }
            (Ok(_), Went::Refused) if reason.starts_with("TENANT_MAL") => {
                return Err(format!("good metadata was refused with {reason}"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// A session id of which no other one is made by flipping a bit: garbled calls
/// must not be about somebody else's session.
fn id(n: u64) -> String {
    format!("s{n}-{:04x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48)
}
