//! A word to a peer that is not let in, before its connection is closed.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    task::JoinSet,
};

use crate::domain::{budget::Budget, time::Timestamp};

/// Peers that are told at a time; further ones find their connection closed.
const AT_ONCE: usize = 64;
/// And in a second: in a flood, telling is dearer than closing.
const PER_SECOND: u32 = 500;
/// For one peer, to hear it.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is read of it meanwhile and thrown away: closing on bytes that were not read
/// would take the word back.
const SWALLOWED: u64 = 64 * 1024;
/// HTTP/2's ENHANCE_YOUR_CALM.
const CALM: u32 = 11;

/// Those that are being told.
#[derive(Default)]
pub struct Farewells {
    told: JoinSet<()>,
    budget: Budget,
}

impl Farewells {
    /// One more may be told.
    pub fn may_say(&mut self, now: Timestamp) -> bool {
        while self.told.try_join_next().is_some() {}
        self.told.len() < AT_ONCE && self.budget.take(PER_SECOND, now)
    }

    /// Tells one, and closes its connection.
    pub fn say<S>(&mut self, socket: S, text: &str)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let word = word(text);
        self.told.spawn(async move {
            let told = async move {
                let (mut from, mut to) = tokio::io::split(socket);
                to.write_all(&word).await?;
                to.shutdown().await?;
                tokio::io::copy(&mut (&mut from).take(SWALLOWED), &mut tokio::io::sink()).await
            };
            // One that does not listen is closed all the same.
            let _ = tokio::time::timeout(PATIENCE, told).await;
        });
    }
}

/// The server's preface and a GOAWAY that says why: clients show its text.
fn word(text: &str) -> Vec<u8> {
    let frame = |kind: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        [&length[1..], &[kind, 0], &[0; 4], payload].concat()
    };
    let (settings, goaway) = (4, 7);
    let why = [&[0; 4][..], &CALM.to_be_bytes(), text.as_bytes()].concat();
    [frame(settings, &[]), frame(goaway, &why)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_not_let_in_is_told_why_and_at_most_so_many_at_a_time() {
        let mut farewells = Farewells::default();
        let mut peers = Vec::new();
        for _ in 0..AT_ONCE + 8 {
            let (peer, socket) = tokio::io::duplex(1024);
            if farewells.may_say(Timestamp::default()) {
                farewells.say(socket, "too many of you");
            }
            peers.push(peer);
        }
        let (mut heard, mut silent) = (0, 0);
        for mut peer in peers {
            let mut said = Vec::new();
            let _ = peer.read_to_end(&mut said).await;
            match said.as_slice() {
                [] => silent += 1,
                said => {
                    assert!(said.ends_with(b"\0\0\0\x0btoo many of you"), "{said:?}");
                    heard += 1;
                }
            }
        }
        assert_eq!((heard, silent), (AT_ONCE, 8));
        let mut more = 0;
        while farewells.may_say(Timestamp::default()) {
            farewells.say(tokio::io::empty(), "too many of you");
            while farewells.told.join_next().await.is_some() {}
            more += 1;
        }
        let more = u32::try_from(AT_ONCE).unwrap() + more;
        assert_eq!(more, PER_SECOND, "in one second");
    }
}
