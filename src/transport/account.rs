//! What one peer has under way, over all its connections: calls, and what has come in
//! of messages that are not whole yet. A peer that holds calls open, or sends messages
//! up to their last byte, fills its own share and no memory beyond it.

use std::sync::Arc;

use crate::app::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Length of what gRPC writes before each message.
const HEAD: usize = 5;

/// A peer's share.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Calls of agents at once, streams included, each until its answer was read.
    pub calls: u32,
    /// Calls of operators at once, likewise.
    pub operators: u32,
    /// Bytes of messages that are not whole.
    pub partial: usize,
}

/// Whose calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// `SessionService`.
    Agents,
    /// Everything else.
    Operators,
}

/// One peer's.
#[derive(Debug)]
pub struct Account {
    share: Share,
    agents: AtomicU32,
    operators: AtomicU32,
    partial: AtomicUsize,
}

impl Account {
    /// Nothing is under way.
    #[must_use]
    pub fn new(share: Share) -> Arc<Self> {
        let (agents, operators) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Self { share, agents, operators, partial: AtomicUsize::new(0) })
    }

    const fn calls(&self, of: Of) -> (&AtomicU32, u32) {
        match of {
            Of::Agents => (&self.agents, self.share.calls),
            Of::Operators => (&self.operators, self.share.operators),
        }
    }

    /// One more call.
    ///
    /// # Errors
    /// How many there may be, and are.
    pub fn begin(self: &Arc<Self>, of: Of) -> Result<UnderWay, u32> {
        let (count, most) = self.calls(of);
        // In one step: one that is refused must not be in the way of another one meanwhile.
        let taken = count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < most).then_some(n + 1));
        taken.map_err(|_| most)?;
        Ok(UnderWay { account: Arc::clone(self), of })
    }
}

/// A call, until it is dropped.
pub struct UnderWay {
    account: Arc<Account>,
    of: Of,
}

impl UnderWay {
    /// What comes in for it.
    #[must_use]
    pub fn partial(&self) -> Partial {
        Partial { account: Arc::clone(&self.account), head: 0, length: [0; 4], missing: 0, held: 0 }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.account.calls(self.of).0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The message that comes in, as far as it has.
pub struct Partial {
    account: Arc<Account>,
    /// Of its head.
    head: usize,
    length: [u8; 4],
    /// Of its body.
    missing: usize,
    /// What the account has of it.
    held: usize,
}

impl Partial {
    /// Takes what came.
    ///
    /// # Errors
    /// How much its peer may have, when it has more: the call is to be ended.
    pub fn take(&mut self, mut chunk: &[u8]) -> Result<(), usize> {
        let mut held = self.held;
        while let Some(&byte) = chunk.first() {
            if self.head < HEAD {
                // A flag, and a length.
                if let Some(place) = self.head.checked_sub(1) {
                    self.length[place] = byte;
                }
                self.head += 1;
                held += 1;
                chunk = &chunk[1..];
                if self.head == HEAD {
                    self.missing =
                        usize::try_from(u32::from_be_bytes(self.length)).unwrap_or(usize::MAX);
                }
            } else {
                let come = chunk.len().min(self.missing);
                self.missing -= come;
                held += come;
                chunk = &chunk[come..];
            }
            if self.head == HEAD && self.missing == 0 {
                (self.head, held) = (0, 0);
            }
        }
        self.hold(held)
    }

    /// By far the most come whole, and cost nothing.
    fn hold(&mut self, held: usize) -> Result<(), usize> {
        let before = std::mem::replace(&mut self.held, held);
        let partial = &self.account.partial;
        if held <= before {
            if held < before {
                partial.fetch_sub(before - held, Ordering::AcqRel);
            }
            return Ok(());
        }
        let more = held - before;
        let most = self.account.share.partial;
        if partial.fetch_add(more, Ordering::AcqRel) + more > most { Err(most) } else { Ok(()) }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.held > 0 {
            self.account.partial.fetch_sub(self.held, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Share = Share { calls: 2, operators: 1, partial: 100 };

    fn message(length: u8) -> Vec<u8> {
        [&[0, 0, 0, 0, length][..], &vec![7; length.into()]].concat()
    }

    #[test]
    fn calls_are_bounded_and_given_back_and_operators_take_none_of_agents() {
        let account = Account::new(SHARE);
        let calls = (account.begin(Of::Agents).ok().unwrap(), account.begin(Of::Agents));
        assert_eq!(account.begin(Of::Agents).err(), Some(2));
        let operator = account.begin(Of::Operators).ok().unwrap();
        assert_eq!(account.begin(Of::Operators).err(), Some(1));
        drop(calls);
        assert!(account.begin(Of::Agents).is_ok());
        drop(operator);
        assert!(account.begin(Of::Operators).is_ok());
    }

    #[test]
    fn whole_messages_hold_nothing_however_they_are_cut() {
        let account = Account::new(SHARE);
        let call = account.begin(Of::Agents).ok().unwrap();
        let all = [message(0), message(60), message(1), message(90)].concat();
        for size in 1..all.len() {
            let mut partial = call.partial();
            for chunk in all.chunks(size) {
                partial.take(chunk).unwrap();
            }
            assert_eq!(account.partial.load(Ordering::Acquire), 0, "cut by {size}");
        }
    }

    #[test]
    fn messages_that_are_not_whole_are_bounded_for_the_peer_and_given_back() {
        let account = Account::new(SHARE);
        let call = account.begin(Of::Agents).ok().unwrap();
        let (mut one, mut other) = (call.partial(), call.partial());
        one.take(&message(200)[..60]).unwrap();
        assert_eq!(other.take(&message(200)[..60]), Err(100));
        drop(one);
        let mut next = call.partial();
        next.take(&message(200)[..40]).unwrap();
        drop((other, next));
        assert_eq!(account.partial.load(Ordering::Acquire), 0);
    }
}
