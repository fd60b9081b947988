//! A tenant's live leases: found by session id, and by when the first of them is due.
//!
//! There may be a million. A lease lies in a slab that grows in pieces, so that no growth
//! copies the others; what sessions of one process have in common is kept once; what few
//! have is in a box.

use std::{hash::BuildHasher as _, sync::Arc, time::Duration};

use hashbrown::HashTable;

use super::{Renewal, due::Due};
use crate::domain::{
    access::Owner,
    breaker::Ticket,
    event::Subject,
    hash::Keyed,
    session::{AgentName, Failure, Session, SessionId, State, WorkerId},
    tenant::TenantId,
    time::{Now, Timestamp},
};

/// Leases of a piece of the slab.
const PIECE: u32 = 32;
/// Parties that are remembered, to be shared with the next session of one of them.
const PARTIES: usize = 8;

/// Who takes part in a session: the same for all of one process and agent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Party {
    owner: Owner,
    agent: Option<AgentName>,
    worker: Option<WorkerId>,
}

/// What few leases have.
#[derive(Debug, Default)]
struct Rare {
    /// When an active probe counts as healthy.
    healthy_at: Option<Timestamp>,
    failure: Option<Failure>,
}

/// One lease.
#[derive(Debug)]
pub struct Lease {
    id: SessionId,
    party: Arc<Party>,
    acquired: Timestamp,
    /// The wall clock's reading at that time, in nanoseconds.
    acquired_wall: u64,
    pub deadline: Timestamp,
    /// In nanoseconds.
    ttl: u64,
    /// The deadline last recorded: renewals that move it little are not worth a
    /// record.
    pub recorded: Timestamp,
    ticket: Ticket,
    rare: Option<Box<Rare>>,
    pub state: State,
    pub failed: bool,
    /// Its one breaker sample has been given.
    pub sampled: bool,
    /// The worker that it waits for held sessions of this tenant alone, so its
    /// loss is this tenant's failure.
    pub blamed: bool,
    /// Its worker has an open stream for it: it renews itself when it is due.
    pub held: bool,
}

impl Lease {
    pub const fn id(&self) -> &SessionId {
        &self.id
    }

    pub fn owner(&self) -> &Owner {
        &self.party.owner
    }

    pub fn worker(&self) -> Option<&WorkerId> {
        self.party.worker.as_ref()
    }

    /// It is `worker`'s, whom `owner`'s identity runs.
    pub fn is_of(&self, worker: &WorkerId, owner: &Owner) -> bool {
        self.worker() == Some(worker) && self.owner().identity == owner.identity
    }

    pub const fn acquired(&self) -> Timestamp {
        self.acquired
    }

    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    pub const fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl)
    }

    pub fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = nanos(ttl);
    }

    /// When an active probe counts as healthy.
    pub fn healthy_at(&self) -> Option<Timestamp> {
        self.rare.as_ref().and_then(|rare| rare.healthy_at)
    }

    pub fn set_healthy_at(&mut self, at: Option<Timestamp>) {
        if at.is_some() || self.rare.is_some() {
            self.rare.get_or_insert_default().healthy_at = at;
        }
    }

    pub fn failure(&self) -> Option<&Failure> {
        self.rare.as_ref().and_then(|rare| rare.failure.as_ref())
    }

    pub fn set_failure(&mut self, failure: Option<Failure>) {
        if failure.is_some() || self.rare.is_some() {
            self.rare.get_or_insert_default().failure = failure;
        }
    }

    /// It ends now. One that is held goes on instead.
    pub fn is_due(&mut self, now: Timestamp) -> bool {
        if self.held && self.deadline <= now {
            self.deadline = now.plus(self.ttl());
        }
        self.deadline <= now
    }

    /// When something changes by itself.
    pub fn next_wake(&self) -> Timestamp {
        self.healthy_at().map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// As others may see it.
    pub fn session(&self, tenant: &TenantId) -> Session {
        Session {
            id: self.id.clone(),
            tenant: tenant.clone(),
            owner: self.owner().clone(),
            agent: self.party.agent.clone(),
            worker: self.party.worker.clone(),
            state: self.state,
            acquired: Now { mono: self.acquired, wall: Duration::from_nanos(self.acquired_wall) },
            deadline: self.deadline,
            ttl: self.ttl(),
            probe: self.ticket.probe,
            failed: self.failed,
        }
    }

    /// Whom an event about it is about.
    pub fn subject(&self, tenant: &TenantId) -> Subject {
        Subject {
            tenant: Some(tenant.clone()),
            session: Some(self.id.clone()),
            agent: self.party.agent.clone(),
            worker: self.party.worker.clone(),
        }
    }
}

fn nanos(of: Duration) -> u64 {
    u64::try_from(of.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
enum Slot {
    Live(Lease),
    /// The next free one.
    Free(u32),
}

/// Not a slot.
const NONE: u32 = u32::MAX;

/// The leases. A *slot* names a live one until it ends.
#[derive(Debug)]
pub struct Leases {
    pieces: Vec<Vec<Slot>>,
    free: u32,
    /// Half of each id's hash, and its slot: a table that grows need not look the ids up.
    ids: HashTable<(u32, u32)>,
    due: Due,
    parties: Vec<Arc<Party>>,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            free: NONE,
            ids: HashTable::new(),
            due: Due::default(),
            parties: Vec::new(),
        }
    }
}

const fn place(slot: u32) -> (usize, usize) {
    ((slot / PIECE) as usize, (slot % PIECE) as usize)
}

/// The table takes 64 bits, and looks at the upper ones too.
fn spread(hash: u32) -> u64 {
    u64::from(hash) | u64::from(hash) << 32
}

impl Leases {
    pub fn len(&self) -> u32 {
        u32::try_from(self.ids.len()).unwrap_or(u32::MAX)
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn hash(&self, id: &SessionId) -> u32 {
        let hash = Keyed.hash_one(id);
        u32::try_from(hash >> 32).unwrap_or_default()
    }

    /// The slot of a session.
    pub fn find(&self, id: &SessionId) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        let hash = self.hash(id);
        let is_it = |(of, slot): &(u32, u32)| {
            *of == hash && self.get(*slot).is_some_and(|lease| lease.id == *id)
        };
        self.ids.find(spread(hash), is_it).map(|(_, slot)| *slot)
    }

    pub fn get(&self, slot: u32) -> Option<&Lease> {
        let (piece, at) = place(slot);
        match self.pieces.get(piece)?.get(at)? {
            Slot::Live(lease) => Some(lease),
            Slot::Free(_) => None,
        }
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Lease> {
        let (piece, at) = place(slot);
        match self.pieces.get_mut(piece)?.get_mut(at)? {
            Slot::Live(lease) => Some(lease),
            Slot::Free(_) => None,
        }
    }

    /// All slots are below.
    pub fn places(&self) -> u32 {
        let pieces = u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
        pieces.saturating_mul(PIECE)
    }

    /// All slots, in no order.
    pub fn slots(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.places()
    }

    /// All leases, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.pieces.iter().flatten().filter_map(|slot| match slot {
            Slot::Live(lease) => Some(lease),
            Slot::Free(_) => None,
        })
    }

    /// A lease for a session that has none.
    pub fn insert(&mut self, session: Session, ticket: Ticket) -> u32 {
        let Session { id, tenant: _, owner, agent, worker, state, acquired, deadline, ttl, .. } =
            session;
        let party = self.party(Party { owner, agent, worker });
        let hash = self.hash(&id);
        let lease = Lease {
            id,
            party,
            acquired: acquired.mono,
            acquired_wall: nanos(acquired.wall),
            deadline,
            ttl: nanos(ttl),
            recorded: deadline,
            ticket,
            rare: None,
            state,
            failed: session.failed,
            sampled: false,
            blamed: false,
            held: false,
        };
        let slot = self.put(lease);
        self.ids.insert_unique(spread(hash), (hash, slot), |(hash, _)| spread(*hash));
        self.due.set(slot, deadline);
        slot
    }

    fn put(&mut self, lease: Lease) -> u32 {
        let (piece, at) = place(self.free);
        if let Some(slot) = self.pieces.get_mut(piece).and_then(|piece| piece.get_mut(at))
            && let Slot::Free(next) = *slot
        {
            *slot = Slot::Live(lease);
            return std::mem::replace(&mut self.free, next);
        }
        let full = self.pieces.last().is_none_or(|last| last.len() == PIECE as usize);
        if full {
            // The first grows with its leases: most tenants have few.
            let room = if self.pieces.is_empty() { 1 } else { PIECE as usize };
            self.pieces.push(Vec::with_capacity(room));
        }
        let before = u32::try_from(self.pieces.len() - 1).unwrap_or(u32::MAX);
        let Some(last) = self.pieces.last_mut() else { return NONE };
        let slot = before.saturating_mul(PIECE) + u32::try_from(last.len()).unwrap_or(PIECE);
        last.push(Slot::Live(lease));
        slot
    }

    /// Ends one.
    pub fn remove(&mut self, slot: u32) -> Option<Lease> {
        let hash = self.hash(&self.get(slot)?.id);
        if let Ok(entry) = self.ids.find_entry(spread(hash), |(_, other)| *other == slot) {
            entry.remove();
        }
        self.due.remove(slot);
        let (piece, at) = place(slot);
        let place = self.pieces.get_mut(piece)?.get_mut(at)?;
        let lease = match std::mem::replace(place, Slot::Free(self.free)) {
            Slot::Live(lease) => Some(lease),
            Slot::Free(_) => None,
        };
        self.free = slot;
        lease
    }

    /// Gives the room of leases that have ended back, when there is none any more.
    pub fn trim(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Another process runs it from now on.
    pub fn move_to(&mut self, slot: u32, renewal: &Renewal) {
        let Some(worker) = &renewal.worker else { return };
        let Some(lease) = self.get(slot).filter(|lease| lease.worker() != Some(worker)) else {
            return;
        };
        let party = Party { worker: Some(worker.clone()), ..(*lease.party).clone() };
        let party = self.party(party);
        if let Some(lease) = self.get_mut(slot) {
            lease.party = party;
        }
    }

    fn party(&mut self, wanted: Party) -> Arc<Party> {
        if let Some(known) = self.parties.iter().find(|known| ***known == wanted) {
            return Arc::clone(known);
        }
        let new = Arc::new(wanted);
        if self.parties.len() == PARTIES {
            self.parties.remove(0);
        }
        self.parties.push(Arc::clone(&new));
        new
    }

    /// The first that has something to do, and when.
    pub fn first_due(&self) -> Option<(Timestamp, u32)> {
        self.due.first()
    }

    /// When it next has something to do, or did not have by then: a renewal leaves it,
    /// and who is woken early sleeps on.
    pub fn due_at(&self, slot: u32) -> Option<Timestamp> {
        self.due.at(slot)
    }

    /// Sets that to what its lease says.
    pub fn rearm(&mut self, slot: u32) {
        if let Some(at) = self.get(slot).map(Lease::next_wake) {
            self.due.set(slot, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, mem::size_of};

    use proptest::prelude::*;

    use super::*;

    fn session(n: u32, worker: &str) -> Session {
        Session {
            id: SessionId::parse(&format!("s{n}")).unwrap(),
            tenant: TenantId::default_tenant(),
            owner: Owner::default(),
            agent: None,
            worker: WorkerId::parse_optional(worker).unwrap(),
            state: State::Active,
            acquired: Now::default(),
            deadline: Timestamp::new(Duration::from_secs(u64::from(n))),
            ttl: Duration::from_secs(60),
            probe: false,
            failed: false,
        }
    }

    fn ticket() -> Ticket {
        crate::domain::breaker::Breaker::default().admit()
    }

    #[test]
    fn a_lease_is_small() {
        assert!(size_of::<Slot>() <= 112, "{} bytes", size_of::<Slot>());
    }

    #[test]
    fn sessions_of_one_process_share_what_they_have_in_common() {
        let mut leases = Leases::default();
        let slots: Vec<u32> = (0..40)
            .map(|n| leases.insert(session(n, ["a", "b"][n as usize % 2]), ticket()))
            .collect();
        let party = |leases: &Leases, at: usize| Arc::as_ptr(&leases.get(slots[at]).unwrap().party);
        assert_eq!(party(&leases, 0), party(&leases, 38));
        assert_ne!(party(&leases, 0), party(&leases, 1));
        let renewal = Renewal::by(WorkerId::parse("b").ok().as_ref());
        leases.move_to(slots[0], &renewal);
        assert_eq!(party(&leases, 0), party(&leases, 1));
        assert_ne!(party(&leases, 0), party(&leases, 2), "the others stay");
    }

    #[test]
    fn without_leases_all_room_is_given_back() {
        let mut leases = Leases::default();
        let slots: Vec<u32> = (0..100).map(|n| leases.insert(session(n, ""), ticket())).collect();
        for slot in slots {
            assert!(leases.remove(slot).is_some());
            assert!(leases.remove(slot).is_none());
            leases.trim();
        }
        assert!(leases.pieces.capacity() == 0 && leases.ids.capacity() == 0);
        assert!(leases.first_due().is_none());
    }

    proptest! {
        /// Against a map.
        #[test]
        fn what_was_put_in_is_found_until_it_is_taken_out(
            steps in prop::collection::vec((0_u32..120, any::<bool>()), 1..600)
        ) {
            let (mut leases, mut model) = (Leases::default(), HashMap::new());
            for (n, insert) in steps {
                let id = SessionId::parse(&format!("s{n}")).unwrap();
                match (insert, leases.find(&id)) {
                    (true, None) => _ = model.insert(n, leases.insert(session(n, "w"), ticket())),
                    (false, Some(slot)) => {
                        prop_assert_eq!(model.remove(&n), Some(slot));
                        prop_assert_eq!(leases.remove(slot).unwrap().id, id);
                    }
                    (true, found) => prop_assert_eq!(found, model.get(&n).copied()),
                    (false, None) => prop_assert!(!model.contains_key(&n)),
                }
                prop_assert_eq!(leases.len() as usize, model.len());
                prop_assert_eq!(leases.iter().count(), model.len());
                let first = leases.first_due().map(|(at, _)| at.since_origin().as_secs());
                prop_assert_eq!(first, model.keys().min().copied().map(u64::from));
            }
        }
    }
}
