//! The bells of those who follow the event log, of whom there may be thousands.
//!
//! One task rings them, so that whoever appends an event wakes that one and nobody
//! else. Followers are dealt out to bells, and one bell rings after the other: all of
//! them at once would hold up the agents whose connections the same thread serves.

use std::{future::Future, time::Duration};

use tokio::sync::watch;

/// How often each bell rings while there is something new; the first one after a quiet
/// time rings at once.
const PACE: Duration = Duration::from_millis(50);
/// Bells. Followers beyond what they are for share them all the same.
const BELLS: usize = 16;
/// Followers of one bell, before the next one is begun.
const FOLLOWERS: usize = 64;

/// The bells; each tells how far the log is.
pub struct Bells(Vec<watch::Sender<u64>>);

impl Bells {
    /// Bells that know of the log up to `head`.
    pub fn new(head: u64) -> Self {
        Self((0..BELLS).map(|_| watch::Sender::new(head)).collect())
    }

    /// One for a new follower: the first with a place, or the one with the fewest.
    pub fn take_one(&self) -> watch::Receiver<u64> {
        let counts = || self.0.iter().map(|bell| (bell, bell.receiver_count()));
        let free = counts().find(|(_, count)| *count < FOLLOWERS);
        let chosen = free.or_else(|| counts().min_by_key(|(_, count)| *count));
        chosen.map_or_else(|| watch::channel(0).1, |(bell, _)| bell.subscribe())
    }

    /// Rings for each move of `head`. `leave` waits so long, or less when there is much
    /// that is new.
    pub async fn ring<W: Future<Output = ()>>(
        &self,
        mut head: watch::Receiver<u64>,
        leave: impl Fn(Duration) -> W,
    ) {
        loop {
            let now = *head.borrow_and_update();
            let mut behind: Vec<_> = self.0.iter().filter(|bell| *bell.borrow() < now).collect();
            let news = !behind.is_empty();
            behind.retain(|bell| {
                let followed = bell.receiver_count() > 0;
                if !followed {
                    bell.send_replace(now);
                }
                followed
            });
            if behind.is_empty() {
                if news {
                    // Nobody follows: whoever appends must not wake this task for
                    // each event all the same.
                    leave(PACE).await;
                }
                if head.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let pace = PACE / u32::try_from(behind.len()).unwrap_or(1);
            for bell in behind {
                bell.send_replace(*head.borrow());
                leave(pace).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    #[test]
    fn followers_fill_one_bell_after_the_other_and_then_share_them() {
        let bells = Bells::new(0);
        let mut followers: Vec<_> = (0..FOLLOWERS + 1).map(|_| bells.take_one()).collect();
        let counts = |bells: &Bells| -> Vec<_> {
            bells.0.iter().map(watch::Sender::receiver_count).collect()
        };
        assert_eq!(counts(&bells)[..3], [FOLLOWERS, 1, 0]);
        followers.remove(0);
        followers.push(bells.take_one());
        assert_eq!(counts(&bells)[..3], [FOLLOWERS, 1, 0], "a place that is free is taken again");
        followers.extend((0..FOLLOWERS * BELLS).map(|_| bells.take_one()));
        assert!(counts(&bells).iter().all(|count| (68..=69).contains(count)));
    }

    #[tokio::test]
    async fn with_nobody_to_hear_it_the_ringer_is_not_woken_for_each_event() {
        let (head, gate) = (watch::Sender::new(0), Arc::new(Semaphore::new(0)));
        let (paused, mut pauses) = mpsc::unbounded_channel();
        let ringing = {
            let (heard, gate) = (head.subscribe(), Arc::clone(&gate));
            let leave = move |_| {
                let gate = Arc::clone(&gate);
                paused.send(()).unwrap();
                async move { gate.acquire().await.unwrap().forget() }
            };
            tokio::spawn(async move { Bells::new(0).ring(heard, leave).await })
        };
        for now in 1..=3 {
            // It leaves the log alone, whatever happens meanwhile.
            for step in 0..100 {
                head.send_replace(now * 100 + step);
            }
            let limit = Duration::from_secs(20);
            tokio::time::timeout(limit, pauses.recv()).await.unwrap().unwrap();
            head.send_replace(now * 100 + 100);
            tokio::task::yield_now().await;
            assert!(pauses.try_recv().is_err());
            gate.add_permits(1);
            tokio::time::timeout(limit, pauses.recv()).await.unwrap().unwrap();
            gate.add_permits(1);
        }
        drop(head);
        ringing.await.unwrap();
    }

    #[tokio::test]
    async fn each_follower_hears_of_the_newest_event_and_one_that_does_not_listen_holds_nobody_up()
    {
        let bells = Arc::new(Bells::new(0));
        let _deaf = bells.take_one();
        let mut followers: Vec<_> = (0..FOLLOWERS * 2).map(|_| bells.take_one()).collect();
        let head = watch::Sender::new(0);
        let ringing = {
            let (bells, heard) = (Arc::clone(&bells), head.subscribe());
            tokio::spawn(async move { bells.ring(heard, |_| tokio::task::yield_now()).await })
        };
        for now in 1..=100 {
            head.send_replace(now);
        }
        for follower in &mut followers {
            let heard = follower.wait_for(|heard| *heard == 100);
            tokio::time::timeout(Duration::from_secs(20), heard).await.unwrap().unwrap();
        }
        drop(head);
        ringing.await.unwrap();
    }
}
