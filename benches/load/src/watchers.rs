//! What watchers cost: the sidecar's CPU with none, some and many of them, at one rate
//! of events. Each watcher is a connection of its own, as operators' programs are.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::{
    compare::{median, setting, tenantd},
    generate::{Load, Place, Protocol, Shape, drive},
    h2, messages,
    process::{Folder, Server, pin_self, pinned},
    v1::{self, watch_sessions_response::Item},
};

/// How many watch, and how many more do not read what they are told.
const CROWDS: [(usize, usize); 5] = [(0, 0), (10, 0), (100, 0), (1_000, 0), (1_000, 10)];

/// One stream of `WatchSessions`, read and counted. The first of a crowd also decodes.
struct Watcher {
    socket: UnixStream,
    input: Vec<u8>,
    body: Vec<u8>,
    decode: bool,
}

#[derive(Default)]
struct Seen {
    events: AtomicU64,
    gaps: AtomicU64,
    bytes: AtomicU64,
}

impl Watcher {
    fn open(path: &Path, decode: bool) -> io::Result<Self> {
        let mut socket = UnixStream::connect(path)?;
        let mut out = Vec::new();
        h2::greet(&mut out);
        h2::ask_stream(&mut out, "/tenantd.v1.WatchService/WatchSessions", &[]);
        socket.write_all(&out)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, input: Vec::new(), body: Vec::new(), decode })
    }

    /// Takes what there is. An error is the end of the stream.
    fn read(&mut self, buffer: &mut [u8], seen: &Seen) -> io::Result<()> {
        loop {
            let got = match self.socket.read(buffer) {
                Ok(0) => return Err(io::Error::other("the server closed the connection")),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.input.extend_from_slice(&buffer[..got]);
            let mut out = Vec::new();
            let mut body = std::mem::take(&mut self.body);
            let used = h2::frames(&self.input, &mut out, |data| body.extend_from_slice(data))?;
            self.input.drain(..used);
            self.body = body;
            self.count(seen);
            if !out.is_empty() {
                // A few bytes on an empty socket.
                self.socket.write_all(&out)?;
            }
        }
    }

    fn count(&mut self, seen: &Seen) {
        let (mut at, mut events, mut gaps) = (0, 0, 0);
        while let Some(head) = self.body.get(at..at + 5) {
            let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let Some(message) = self.body.get(at + 5..at + 5 + len) else { break };
            at += 5 + len;
            // Fields 4 and 5 of WatchSessionsResponse.
            events += u64::from(message.first() == Some(&0x22));
            gaps += u64::from(message.first() == Some(&0x2a));
            if self.decode && message.first() == Some(&0x22) {
                let item = v1::WatchSessionsResponse::decode(message).expect("a whole message");
                let Some(Item::Event(event)) = item.item else { panic!("not an event") };
                assert!(event.sequence > 0 && event.kind != 0, "a whole event");
            }
        }
        self.body.drain(..at);
        seen.bytes.fetch_add(at as u64, Ordering::Relaxed);
        seen.events.fetch_add(events, Ordering::Relaxed);
        seen.gaps.fetch_add(gaps, Ordering::Relaxed);
    }
}

/// Reads for all until told to stop.
fn read_all(mut watchers: Vec<Watcher>, seen: &Seen, stop: &AtomicBool) {
    let mut buffer = vec![0; 256 * 1024];
    while !stop.load(Ordering::Acquire) {
        let ready: Vec<bool> = {
            let mut fds: Vec<PollFd<'_>> =
                watchers.iter().map(|w| PollFd::new(&w.socket, PollFlags::IN)).collect();
            let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            let _ = poll(&mut fds, Some(&timeout));
            fds.iter().map(|fd| !fd.revents().is_empty()).collect()
        };
        for (watcher, _) in watchers.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            watcher.read(&mut buffer, seen).expect("a watcher stays");
        }
    }
}

struct Row {
    core: f64,
    delivered: f64,
    gaps: u64,
    bytes: f64,
    p50: f64,
    p99: f64,
    resident: u64,
}

fn measure(
    server: &Server,
    rate: u32,
    run_for: Duration,
    (reading, stalled): (usize, usize),
) -> io::Result<Row> {
    let Place::Unix(path) = &server.place else { return Err(io::Error::other("a unix socket")) };
    let watchers: Vec<Watcher> =
        (0..reading).map(|n| Watcher::open(path, n == 0)).collect::<io::Result<_>>()?;
    let _stalled: Vec<Watcher> =
        (0..stalled).map(|_| Watcher::open(path, false)).collect::<io::Result<_>>()?;
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let reader = {
        let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
        thread::spawn(move || read_all(watchers, &seen, &stop))
    };
    let snapshot = |of: &AtomicU64| of.load(Ordering::Acquire);
    let (mut before, mut events, mut bytes) = (server.used(), 0, 0);
    let mut began = Instant::now();
    let shape = Shape { connections: 1, streams: 32 };
    let figures =
        drive(&server.place, &server.protocol, shape, Load::Rate(rate), run_for, &mut || {
            (before, events, bytes) =
                (server.used(), snapshot(&seen.events), snapshot(&seen.bytes));
            began = Instant::now();
        })?;
    let (used, took) = (server.used().cpu - before.cpu, began.elapsed().as_secs_f64());
    let events = snapshot(&seen.events) - events;
    let bytes = snapshot(&seen.bytes) - bytes;
    stop.store(true, Ordering::Release);
    reader.join().map_err(|_| io::Error::other("a watcher was left"))?;
    let micros = |q| figures.latencies.value_at_quantile(q) as f64 / 1000.0;
    Ok(Row {
        core: used as f64 / 1e9 / took,
        delivered: events as f64 / took,
        gaps: snapshot(&seen.gaps),
        bytes: bytes as f64 / events.max(1) as f64,
        p50: micros(0.5),
        p99: micros(0.99),
        resident: server.resident(),
    })
}

pub fn run() {
    let rounds = setting("BENCH_ROUNDS", 5.0) as usize;
    let run_for = Duration::from_secs_f64(setting("BENCH_SECONDS", 2.0));
    let rate = setting("BENCH_RATE", 1000.0) as u32;
    let folder = Folder::new();
    let config = folder.0.join("bench.toml");
    let limits = "[limits]\nmax_watchers = 2000\nconnections_per_peer = 10000\n";
    std::fs::write(&config, messages::CONFIG.replace("[limits]\n", limits)).expect("writes");
    let socket = folder.0.join("watched.sock");
    let (listen, config) = (format!("unix:{}", socket.display()), config.display().to_string());
    let mut command = pinned(&tenantd());
    command
        .args(["serve", "--log-format", "json", "--config", &config, "--listen", &listen])
        .env("BENCH_KEY", "sk-0123456789abcdef0123456789abcdef0123456789abcdef")
        .env("XDG_STATE_HOME", folder.0.join("watched-state"));
    let protocol = Protocol::Grpc(messages::unary("acme", "bench-worker-0001"));
    let server = Server::start("watched", &mut command, Place::Unix(socket), protocol)
        .expect("tenantd serves");
    pin_self();
    let mut rows: Vec<Vec<Row>> = CROWDS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (row, crowd) in rows.iter_mut().zip(CROWDS) {
            match measure(&server, rate, run_for, crowd) {
                Ok(figures) => row.push(figures),
                Err(why) => eprintln!("{crowd:?}: {why}"),
            }
        }
        eprint!(".");
    }
    eprintln!();
    let mut all = Vec::<Value>::new();
    println!("{rate} events a second, each told to every watcher");
    println!(
        "{:>8} {:>9} {:>8} {:>17} {:>12} {:>10} {:>8} {:>8} {:>6} {:>10}",
        "watchers", "stalled", "core %", "(min-max)", "told/s", "ns a told", "p50 us", "p99 us",
        "gaps", "resident"
    );
    let of = |row: &[Row], take: fn(&Row) -> f64| -> f64 {
        median(&row.iter().map(take).collect::<Vec<_>>())
    };
    let without = of(&rows[0], |row| row.core);
    for (row, (reading, stalled)) in rows.iter().zip(CROWDS) {
        let (core, told) = (of(row, |row| row.core), of(row, |row| row.delivered));
        let low = row.iter().map(|row| row.core).fold(f64::INFINITY, f64::min);
        let high = row.iter().map(|row| row.core).fold(0.0, f64::max);
        let each = if told > 0.0 { (core - without) * 1e9 / told } else { 0.0 };
        let gaps: u64 = row.iter().map(|row| row.gaps).sum();
        let resident = row.iter().map(|row| row.resident).max().unwrap_or(0);
        let (p50, p99) = (of(row, |row| row.p50), of(row, |row| row.p99));
        println!(
            "{reading:>8} {stalled:>9} {:>8.1} {:>17} {told:>12.0} {each:>10.0} {p50:>8.0} {p99:>8.0} {gaps:>6} {:>6} KiB",
            core * 100.0,
            format!("({:.1}-{:.1})", low * 100.0, high * 100.0),
            resident / 1024,
        );
        all.push(json!({
            "watchers": reading, "stalled": stalled, "events_per_second": rate,
            "core": core, "core_min": low, "core_max": high, "told_per_second": told,
            "cpu_ns_per_told": each, "p50_us": p50, "p99_us": p99, "gaps": gaps,
            "bytes_per_event": of(row, |row| row.bytes), "resident": resident, "rounds": row.len(),
        }));
    }
    if let Some(path) = std::env::var_os("BENCH_WATCHERS_JSON") {
        let text = serde_json::to_string_pretty(&all).expect("json");
        std::fs::write(path, text).expect("writes the JSON file");
    }
}
