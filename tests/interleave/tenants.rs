//! The store's table of tenants: found, made, dropped as idle, brought to another
//! config, all at once.

use std::{sync::Arc, time::Duration};

use shuttle::{future::block_on, thread};
use tenantd::{
    app::ports::{EventSink, NoJournal, SessionStore},
    domain::{
        access::Claim,
        limits::Terms,
        reject::Reason,
        session::{AgentName, Outcome},
        time::Now,
    },
};

use crate::{
    store::memory::MemoryStore,
    support::{Ask, Bench, session, tenant, terms},
};

const IDLE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(100_000);

fn store(sink: Arc<dyn EventSink>) -> Arc<dyn SessionStore> {
    Arc::new(MemoryStore::new(sink, Arc::new(NoJournal), (1_000, LONG)))
}

/// Of a tenant without an entry, of which there may be one.
fn made_up(tenant: &'static str, id: &str) -> Ask {
    let mut ask = Ask::new(tenant, id).cap(1);
    ask.terms.known = false;
    ask.caps.unknown_tenants = 1;
    ask
}

fn acquire(bench: &Bench, ask: &Ask) -> Result<(), Reason> {
    block_on(bench.acquire(ask)).map(drop).map_err(|refused| refused.reason)
}

fn release(bench: &Bench, id: &str) {
    let id = session(id);
    let ended =
        block_on(bench.store.release(&id, &Claim::Sidecar, Outcome::Success, None, bench.now));
    ended.unwrap();
}

fn later(bench: &mut Bench) {
    let now = bench.now;
    bench.now = Now { mono: now.mono.plus(LONG), wall: now.wall + LONG };
}

/// With a tenant that nobody has used for long.
fn with_an_idle_tenant() -> Arc<Bench> {
    let mut bench = Bench::new(store);
    acquire(&bench, &made_up("walk-in", "s0")).unwrap();
    release(&bench, "s0");
    later(&mut bench);
    Arc::new(bench)
}

fn sweep(bench: &Arc<Bench>) -> thread::JoinHandle<()> {
    let bench = Arc::clone(bench);
    thread::spawn(move || block_on(bench.store.expire(IDLE, bench.now)))
}

/// There is room for one tenant without an entry, and for no second one.
fn has_one_place(bench: &Bench) {
    acquire(bench, &made_up("other", "o1")).expect("the place was given back");
    let more = acquire(bench, &made_up("third", "t1"));
    assert_eq!(more, Err(Reason::LimitReached), "the place was given back twice");
}

pub fn dropped_while_acquired() {
    let bench = with_an_idle_tenant();
    let sweeps = [sweep(&bench), sweep(&bench)];
    let acquires = ["s1", "s2"].map(|id| {
        let bench = Arc::clone(&bench);
        thread::spawn(move || acquire(&bench, &made_up("walk-in", id)).map(|()| id))
    });
    let said = acquires.map(|thread| thread.join().unwrap());
    sweeps.into_iter().for_each(|thread| thread.join().unwrap());
    let granted: Vec<_> = said.iter().flatten().collect();
    assert_eq!(granted.len(), 1, "the cap is one: {said:?}");
    let id = session(granted[0]);
    block_on(async {
        assert_eq!(bench.store.totals().await.live, 1);
        assert_eq!(bench.store.tenants().await, [tenant("walk-in")]);
        let shown = bench.store.snapshot(&tenant("walk-in"), bench.now).await.unwrap();
        assert_eq!(shown.sessions.len(), 1, "the session is in the tenant that is found");
        assert_eq!(bench.store.session(&id, &Claim::Sidecar).await.unwrap().id, id);
    });
    assert_eq!(acquire(&bench, &made_up("other", "o1")), Err(Reason::LimitReached));
    release(&bench, granted[0]);
    let mut bench = Arc::into_inner(bench).expect("everybody is gone");
    later(&mut bench);
    block_on(bench.store.expire(IDLE, bench.now));
    assert_eq!(block_on(bench.store.tenants()), []);
    has_one_place(&bench);
}

pub fn configured_while_dropped() {
    let bench = with_an_idle_tenant();
    let entry: Terms = terms(Some(1));
    let sweep = sweep(&bench);
    let configure = {
        let (bench, entry) = (Arc::clone(&bench), entry.clone());
        thread::spawn(move || {
            block_on(bench.store.configure(&tenant("walk-in"), &entry, bench.now));
        })
    };
    let mut ask = made_up("walk-in", "s1");
    ask.terms = entry;
    acquire(&bench, &ask).expect("it has an entry");
    sweep.join().unwrap();
    configure.join().unwrap();
    assert_eq!(block_on(bench.store.totals()).live, 1);
    has_one_place(&bench);
}

pub fn one_id_of_two_tenants() {
    let bench = Arc::new(Bench::new(store));
    let ask = |tenant, id| {
        let mut ask = Ask::new(tenant, id);
        (ask.agent, ask.caps.agent, ask.caps.machine) = ("narrow", Some(1), 1);
        ask
    };
    let fight = ["acme", "globex"].map(|of| {
        let (bench, ask) = (Arc::clone(&bench), ask(of, "s1"));
        thread::spawn(move || {
            let said = acquire(&bench, &ask);
            if said.is_ok() {
                release(&bench, "s1");
            }
            said
        })
    });
    let said = fight.map(|thread| thread.join().unwrap());
    assert_eq!(said.iter().flatten().count(), 1, "an id is one session: {said:?}");
    let ended =
        bench.log.count(|kind| matches!(kind, tenantd::domain::event::Kind::SessionEnded { .. }));
    assert_eq!(ended, 1, "with one end");
    assert_eq!(block_on(bench.store.totals()).live, 0);
    // The machine and the agent have their one place again.
    acquire(&bench, &ask("initech", "s2")).unwrap();
    let narrow = AgentName::parse_optional("narrow").unwrap();
    let listed = block_on(bench.store.snapshot(&tenant("initech"), bench.now)).unwrap().sessions;
    assert_eq!(listed[0].agent, narrow);
}
