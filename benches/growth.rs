//! How the cost of a decision grows: with tenants, with live sessions, with outcomes in
//! the breaker's window; and what the expiry of a million sessions at once does to others.
//! In process, without a socket. `cargo bench --bench growth`; `GROWTH_MOST` (default
//! 1000000) bounds the sessions.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may panic and prints")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tenantd::{
    app::{
        events::EventHub,
        ports::{EventSink as _, NoJournal, SessionStore, SharedCaps},
    },
    domain::{
        access::{Claim, Owner},
        admission::{Acquire, TenantState},
        event::{Event, Kind, Subject},
        limits::Terms,
        session::{AgentName, Outcome, Renewal, SessionId},
        tenant::TenantId,
        time::{Now, Timestamp},
    },
    store::memory::MemoryStore,
};

const CAPS: SharedCaps = SharedCaps { agent: None, machine: u32::MAX, unknown_tenants: u32::MAX };
/// Pairs timed at a size.
const PAIRS: usize = 20_000;

struct Bench {
    runtime: tokio::runtime::Runtime,
    store: MemoryStore,
    events: Arc<EventHub>,
    terms: Terms,
    now: Now,
    next: usize,
}

impl Bench {
    fn new() -> Self {
        let kept = (10_000, 64 << 20);
        let events = Arc::new(EventHub::new(kept, "bench".to_owned(), 0, Arc::new(NoJournal)));
        let sink = Arc::<EventHub>::clone(&events);
        let ended = (100_000, Duration::from_secs(600));
        let store = MemoryStore::new(sink, Arc::new(NoJournal), ended);
        let terms = Terms {
            known: true,
            limits: Arc::default(),
            version: "v".to_owned(),
            generation: 1,
            credentials: Some(0),
        };
        let second = Duration::from_secs(1);
        let now = Now { mono: Timestamp::new(second), wall: second };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, store, events, terms, now, next: 0 }
    }

    fn acquire(&mut self, tenant: &TenantId) -> SessionId {
        self.next += 1;
        let session = SessionId::parse(&format!("AJ_{:012}", self.next)).unwrap();
        let request = Acquire { session: session.clone(), ..asked() };
        let acquired = self.store.acquire(tenant, &self.terms, request, CAPS, self.now);
        self.runtime.block_on(acquired).unwrap();
        session
    }

    fn release(&self, session: &SessionId) {
        let released =
            self.store.release(session, &Claim::Sidecar, Outcome::Success, None, self.now);
        self.runtime.block_on(released).unwrap();
    }

    /// Nanoseconds of one acquire and release, median of some rounds, over `tenants` in turn.
    fn pair(&mut self, tenants: &[TenantId]) -> f64 {
        let mut rounds: Vec<f64> = (0..7)
            .map(|_| {
                let began = Instant::now();
                for n in 0..PAIRS {
                    let session = self.acquire(&tenants[n * 7919 % tenants.len()]);
                    self.release(&session);
                }
                began.elapsed().as_nanos() as f64 / PAIRS as f64
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        rounds[3]
    }
}

fn tenants(count: usize) -> Vec<TenantId> {
    (0..count).map(|n| TenantId::parse(&format!("tenant-{n}")).unwrap()).collect()
}

fn by_tenants() {
    let mut first = 0.0;
    for count in [1, 100, 10_000, 100_000] {
        let mut bench = Bench::new();
        let tenants = tenants(count);
        for tenant in &tenants {
            let session = bench.acquire(tenant);
            bench.release(&session);
        }
        let pair = bench.pair(&tenants);
        if count == 1 {
            first = pair;
        }
        println!("tenants {count:>9}: {pair:>7.0} ns a pair, x{:.2} of one", pair / first);
    }
}

fn by_sessions(most: usize) {
    let tenant = TenantId::parse("acme").unwrap();
    for count in [1, 1_000, 100_000, 1_000_000] {
        if count > most {
            continue;
        }
        let mut bench = Bench::new();
        let began = Instant::now();
        let live: Vec<SessionId> = (0..count).map(|_| bench.acquire(&tenant)).collect();
        let filling = began.elapsed().as_nanos() as f64 / count as f64;
        let pair = bench.pair(std::slice::from_ref(&tenant));
        let began = Instant::now();
        let renewals = PAIRS.min(live.len() * 100);
        for n in 0..renewals {
            let renewal = Renewal { worker: None, ttl: None, held: false };
            let session = &live[n * 7919 % live.len()];
            let renewed = bench.store.renew(session, &Claim::Sidecar, renewal, bench.now);
            bench.runtime.block_on(renewed).unwrap();
        }
        let renew = began.elapsed().as_nanos() as f64 / renewals as f64;
        println!(
            "live sessions {count:>9}: {filling:>6.0} ns an acquire while filling, {pair:>6.0} ns a pair, {renew:>6.0} ns a renewal"
        );
    }
}

/// All sessions of one tenant are due at once, while another's are admitted.
fn expiry(count: usize) {
    let (crowd, other) = (TenantId::parse("crowd").unwrap(), TenantId::parse("other").unwrap());
    let mut bench = Bench::new();
    for _ in 0..count {
        bench.acquire(&crowd);
    }
    let later = Duration::from_secs(3600);
    let due = Now { mono: bench.now.mono.plus(later), wall: bench.now.wall + later };
    bench.now = due;
    let over = AtomicBool::new(false);
    let Bench { store, .. } = &bench;
    let (whole, waits) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut waits = Vec::new();
            let mut n = 0;
            while !over.load(Ordering::Acquire) {
                n += 1;
                for tenant in [&crowd, &other] {
                    let session = SessionId::parse(&format!("x-{tenant}-{n}")).unwrap();
                    let request = Acquire { session, ..asked() };
                    let began = Instant::now();
                    let asked = store.acquire(tenant, &bench.terms, request, CAPS, due);
                    runtime.block_on(asked).unwrap();
                    waits.push(began.elapsed());
                }
            }
            waits.sort();
            waits
        });
        let began = Instant::now();
        bench.runtime.block_on(store.expire(Duration::from_secs(600), due));
        let whole = began.elapsed();
        over.store(true, Ordering::Release);
        (whole, waiting.join().unwrap())
    });
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    println!(
        "expiry of {count} at once: {whole:?} in all; {} acquires beside it: median {:?}, 99% {:?}, worst {:?}",
        waits.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// The lease alone, in the pure state of its tenant: without the store's tables, the
/// event log and what a call is made of.
fn leases(most: usize) {
    let tenant = TenantId::parse("acme").unwrap();
    let second = Duration::from_secs(1);
    let now = Now { mono: Timestamp::new(second), wall: second };
    for count in [1_000, 100_000, 1_000_000] {
        if count > most {
            continue;
        }
        let mut state = TenantState::new(tenant.clone(), Arc::default(), now);
        let mut events = Vec::new();
        let id = |n: usize| SessionId::parse(&format!("AJ_{n:012}")).unwrap();
        let mut live: Vec<SessionId> = (0..count).map(id).collect();
        let mut acquire = |state: &mut TenantState, session: &SessionId, at: Now| {
            let request = Acquire { session: session.clone(), ..asked() };
            state.acquire(&request, |_| Ok(()), at, &mut events).unwrap();
            events.clear();
            drop(state.take_changes());
        };
        for session in &live {
            acquire(&mut state, session, now);
        }
        let new: Vec<SessionId> = (count..count + PAIRS).map(id).collect();
        let each = |began: Duration| (cpu() - began).as_nanos() as f64 / PAIRS as f64;
        let began = cpu();
        for session in &new {
            acquire(&mut state, session, now);
        }
        let acquiring = each(began);
        let mut events = Vec::new();
        let began = cpu();
        for n in 0..PAIRS {
            let session = &live[n * 7919 % live.len()];
            state.renew(session, &Renewal::default(), now, &mut events).unwrap();
            drop(state.take_changes());
        }
        let renewing = each(began);
        live.extend(new);
        let began = cpu();
        for n in 0..PAIRS {
            // Anywhere among the others.
            let at = n * 7919 % live.len();
            let session = live.swap_remove(at);
            state.release(&session, Outcome::Success, None, now, &mut events).unwrap();
            events.clear();
            drop(state.take_changes());
        }
        let releasing = each(began);
        println!(
            "leases {count:>9}: {acquiring:>5.0} ns to acquire one more, {renewing:>5.0} ns to renew, {releasing:>5.0} ns to release"
        );
    }
}

fn asked() -> Acquire {
    Acquire {
        session: SessionId::parse("s").unwrap(),
        owner: Owner::default(),
        agent: None,
        worker: None,
        ttl: None,
        activate: true,
        draining: false,
        config_failed: None,
        config_version: String::new(),
        per_second: None,
    }
}

/// This thread's time on a CPU: what others take from it is not counted.
fn cpu() -> Duration {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(at.tv_sec.unsigned_abs(), u32::try_from(at.tv_nsec).unwrap_or(0))
}

/// How long one step holds its tenant, while so many sessions are due: each acquire ends
/// some of them before it is decided, and the timer ends as many at a time.
fn longest_hold(count: usize) {
    let crowd = TenantId::parse("crowd").unwrap();
    let mut bench = Bench::new();
    for _ in 0..count {
        bench.acquire(&crowd);
    }
    let later = Duration::from_secs(3600);
    bench.now = Now { mono: bench.now.mono.plus(later), wall: bench.now.wall + later };
    let mut holds: Vec<Duration> = (0..2_000)
        .map(|_| {
            let began = cpu();
            bench.acquire(&crowd);
            cpu() - began
        })
        .collect();
    holds.sort();
    let at = |share: f64| holds[((holds.len() - 1) as f64 * share) as usize];
    println!(
        "a step while {count} are due: median {:?}, 99% {:?}, longest {:?} of CPU",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn by_outcomes() {
    let tenant = TenantId::parse("acme").unwrap();
    for count in [10, 1_000, 100_000] {
        let mut bench = Bench::new();
        for _ in 0..count {
            let session = bench.acquire(&tenant);
            bench.release(&session);
        }
        let pair = bench.pair(std::slice::from_ref(&tenant));
        println!("outcomes in the window {count:>7}: {pair:>6.0} ns a pair");
        assert!(bench.events.epoch() == "bench");
    }
}

/// What an event costs whoever publishes it, beside so many followers of the log, each of
/// whom takes all that is new when its bell rings.
fn publish() {
    const EVENTS: u64 = 100_000;
    for followers in [0, 10, 100, 1_000] {
        let kept = (10_000, 64 << 20);
        let hub = Arc::new(EventHub::new(kept, "bench".to_owned(), 0, Arc::new(NoJournal)));
        let stop = Arc::new(AtomicBool::new(false));
        let following = {
            let (hub, stop) = (Arc::clone(&hub), Arc::clone(&stop));
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let ringing = tokio::spawn(Arc::clone(&hub).ring());
                    let mut tasks = tokio::task::JoinSet::new();
                    for _ in 0..followers {
                        let (hub, mut bell) = (Arc::clone(&hub), hub.bell());
                        tasks.spawn(async move {
                            let mut place = 0;
                            while place < EVENTS {
                                let heard = bell.wait_for(|head| *head > place).await;
                                place = *heard.unwrap();
                                std::hint::black_box(hub.head());
                            }
                        });
                    }
                    while tasks.join_next().await.is_some() {}
                    while !stop.load(Ordering::Acquire) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    ringing.abort();
                });
            })
        };
        let (tenant, agent) =
            (TenantId::parse("acme").unwrap(), AgentName::parse("support").unwrap());
        let now = Now { mono: Timestamp::new(Duration::from_secs(1)), wall: Duration::ZERO };
        let mut took = Vec::new();
        for n in 0..EVENTS {
            let session = SessionId::parse(&format!("AJ_{n:012}")).unwrap();
            let subject = Subject {
                tenant: Some(tenant.clone()),
                session: Some(session),
                agent: Some(agent.clone()),
                worker: None,
            };
            let event = vec![Event::new(now, subject, Kind::SessionActivated)];
            let began = Instant::now();
            hub.append(event);
            took.push(began.elapsed().as_nanos());
        }
        stop.store(true, Ordering::Release);
        following.join().unwrap();
        // Whoever is put off its core meanwhile is not what is measured.
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        println!(
            "publish beside {followers:>5} followers: median {:>5} ns, 90% {:>5} ns, 99% {:>6} ns",
            at(0.5),
            at(0.9),
            at(0.99)
        );
    }
}

fn main() {
    publish();
    let most = std::env::var("GROWTH_MOST").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    by_tenants();
    by_outcomes();
    by_sessions(most);
    leases(most);
    longest_hold(most);
    expiry(most);
}
