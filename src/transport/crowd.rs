//! How many connections each peer has, and what it has under way over them: a process
//! or an address that opens them without end must not take the places of all others.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;

use super::account::{Account, Share};

/// Whose connections are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A process on this machine.
    Process(i32),
    /// An address; of IPv6 a /64, which one machine has for itself.
    Address(IpAddr),
    /// All of this machine, over TCP.
    Loopback,
}

impl Whose {
    /// At the other end of TCP.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            here if here.is_loopback() => Self::Loopback,
            IpAddr::V4(v4) => Self::Address(v4.into()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self::Address([a, b, c, d, 0, 0, 0, 0].into())
            }
        }
    }
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Address(IpAddr::V6(net)) => write!(f, "{net}/64"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Loopback => f.write_str("this machine over TCP"),
        }
    }
}

/// One peer's connections, and its account for as long as it has some.
struct Present {
    connections: u32,
    account: Arc<Account>,
}

/// Of one listener.
#[derive(Clone)]
pub struct Crowd {
    present: Arc<Mutex<HashMap<Whose, Present>>>,
    each: u32,
    loopback: u32,
    share: Share,
}

/// One connection's place, until it is dropped.
pub struct Seat {
    present: Arc<Mutex<HashMap<Whose, Present>>>,
    whose: Option<Whose>,
    account: Arc<Account>,
}

impl Seat {
    /// What its peer has under way.
    #[must_use]
    pub const fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Crowd {
    /// Peers on the unix socket: at most `each`.
    #[must_use]
    pub fn of_processes(each: u32, share: Share) -> Self {
        Self { present: Arc::default(), each, loopback: each, share }
    }

    /// Peers on TCP: at most `each`, and never all of the listener's places; but
    /// those of this machine, where nobody else can come in.
    #[must_use]
    pub fn of_addresses(each: u32, places: usize, only_loopback: bool, share: Share) -> Self {
        let places = u32::try_from(places).unwrap_or(u32::MAX);
        let most = (places - places / 4).min(places.saturating_sub(1)).max(1);
        let loopback = if only_loopback { places } else { most };
        Self { present: Arc::default(), each: each.min(most), loopback, share }
    }

    /// How many it may have.
    #[must_use]
    pub const fn most(&self, whose: Whose) -> u32 {
        match whose {
            Whose::Process(_) | Whose::Address(_) => self.each,
            Whose::Loopback => self.loopback,
        }
    }

    /// A place for one more. None: the peer has too many. Who cannot be told apart
    /// is not counted.
    #[must_use]
    pub fn enter(&self, whose: Option<Whose>) -> Option<Seat> {
        let account = match whose {
            None => Account::new(self.share),
            Some(whose) => {
                let mut all = self.present.lock();
                let present = all.entry(whose).or_insert_with(|| Present {
                    connections: 0,
                    account: Account::new(self.share),
                });
                if present.connections >= self.most(whose) {
                    return None;
                }
                present.connections += 1;
                Arc::clone(&present.account)
            }
        };
        Some(Seat { present: Arc::clone(&self.present), whose, account })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(whose) = self.whose else { return };
        if let Entry::Occupied(mut present) = self.present.lock().entry(whose) {
            present.get_mut().connections -= 1;
            if present.get().connections == 0 {
                present.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Share = Share { calls: 1, operators: 1, partial: 1 };

    #[test]
    fn one_process_cannot_take_anothers_place() {
        let crowd = Crowd::of_processes(2, SHARE);
        let of = |pid| crowd.enter(Some(Whose::Process(pid)));
        let seats = (of(1).unwrap(), of(1).unwrap());
        assert!(of(1).is_none());
        let other = of(2).unwrap();
        drop(seats);
        assert!(of(1).is_some());
        drop(other);
        assert!(crowd.present.lock().is_empty(), "who has none is forgotten");
    }

    #[test]
    fn no_address_can_take_all_places() {
        let at = |text: &str| Whose::at(text.parse().unwrap());
        for (places, most) in [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (10_000, 7500)] {
            let crowd = Crowd::of_addresses(1_000_000, places, false, SHARE);
            assert_eq!(crowd.most(at("192.0.2.1")), most, "{places}");
            assert_eq!(crowd.most(at("127.0.0.1")), most, "{places}");
        }
        let crowd = Crowd::of_addresses(1000, 10_000, true, SHARE);
        assert_eq!(crowd.most(at("127.0.0.1")), 10_000, "nobody else can come in");
        assert_eq!(crowd.most(at("192.0.2.1")), 1000);
    }

    #[test]
    fn one_machine_has_one_address_however_many_it_uses() {
        let at = |text: &str| Whose::at(text.parse().unwrap());
        assert_eq!(at("2001:db8:1:2:a::1"), at("2001:db8:1:2:b::2"));
        assert_ne!(at("2001:db8:1:2:a::1"), at("2001:db8:1:3:a::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_eq!(at("::ffff:127.0.0.1"), at("::1"));
        assert_eq!(at("2001:db8:1:2:a::1").to_string(), "2001:db8:1:2::/64");
    }
}
