//! The Prometheus endpoint has its bounds, too.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use super::{COUNTED, Holds, Neighbour, QUIET, scraped, shed};
use crate::support::{Start, eventually, free};

/// Connections that it has at once.
const MOST: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_figures_and_does_not_read_them_is_closed_in_time() {
    let metrics = free();
    let config = format!("[telemetry]\nprometheus = '{metrics}'\n[limits]\ndead_after = '2s'\n");
    let running = Start { config: &config, with: COUNTED, env: QUIET, ..Start::default() }.run();
    let neighbour = Neighbour::of(&running).await;
    neighbour.is_served();
    let one = scraped(metrics).len();
    let before = Holds::of(&running);
    // More than the buffers of both sockets take, which grow to some MiB.
    let asked = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat((16 << 20) / one);
    let mut stuck = Vec::new();
    for _ in 0..5 {
        let mut peer = TcpStream::connect(metrics).unwrap();
        peer.set_nonblocking(true).unwrap();
        // As far as it is taken: whoever does not read is not read, either.
        let _ = peer.write(&asked);
        stuck.push(peer);
    }
    eventually("they are there", || Holds::of(&running).files >= before.files + 5);
    eventually("they are closed", || Holds::of(&running).files <= before.files);
    scraped(metrics);
    drop(stuck);
    neighbour.ends().await;
    before.is_over(&running, 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_of_the_prometheus_endpoint_that_say_nothing_take_few_places_and_not_for_long() {
    let metrics = free();
    let config =
        format!("[telemetry]\nprometheus = '{metrics}'\n[limits]\nhandshake_timeout = '3s'\n");
    let running = Start { config: &config, with: COUNTED, env: QUIET, ..Start::default() }.run();
    let neighbour = Neighbour::of(&running).await;
    neighbour.is_served();
    scraped(metrics);
    let before = Holds::of(&running);
    let connect = |said: &[u8]| {
        let mut peer = TcpStream::connect(metrics).unwrap();
        let _ = peer.write_all(said);
        peer
    };
    let said = [&b""[..], b"GET /metrics HTTP/1.1\r\nhost: x\r\n"];
    let peers: Vec<_> = (0..4 * MOST).map(|n| connect(said[n % 2])).collect();
    neighbour.is_served();
    assert!(Holds::of(&running).files <= before.files + MOST + 8, "each peer has a file");
    for mut peer in peers {
        peer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        // Closed or reset, with or without a word.
        if let Err(error) = peer.read_to_end(&mut rest) {
            let waited = matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            );
            assert!(!waited, "it is still open");
        }
    }
    eventually("scrapes are answered again", || {
        TcpStream::connect(metrics)
            .and_then(|mut peer| {
                peer.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
                let mut text = String::new();
                peer.read_to_string(&mut text)?;
                Ok(text)
            })
            .is_ok_and(|text| text.contains("tenantd_connections"))
    });
    assert!(shed(metrics, "peer_at_bound") >= 3 * MOST as u64);
    let log = running.said();
    assert!(log.contains("Prometheus endpoint has as many connections as it may"), "{log}");
    neighbour.ends().await;
    before.is_over(&running, 32);
}
