//! What a neighbour meets while another tenant, or another process, floods: its
//! latency at a fixed rate, in rounds with and without the flood.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    compare::{median, setting, tenantd, wanted},
    generate::{Load, Place, Protocol, Shape, drive},
    h2, messages,
    process::{Folder, Server, pin_self, pinned},
};

/// What the sidecar runs on: the flooding tenant has a rate.
const LIMITS: &str = "\n[tenants.flood]\ncap = 1000000\nacquires_per_second = 100\n";
/// The neighbour: connections and calls in flight that are never all in use.
const SHAPE: Shape = Shape { connections: 4, streams: 8 };

/// What floods.
const FLOODS: [(&str, &str); 3] = [
    ("acquires", "acquires beyond a rate, 8x32 closed loop"),
    ("connections", "connections beyond the bound, in a loop"),
    ("calls", "acquires and releases without a rate, 8x32 closed loop"),
];

#[derive(Default)]
struct Column {
    p50: Vec<f64>,
    p99: Vec<f64>,
    flood: Vec<f64>,
}

pub fn run() {
    let rounds = setting("BENCH_ROUNDS", 9.0) as usize;
    let run_for = Duration::from_secs_f64(setting("BENCH_SECONDS", 1.0));
    let rate = setting("BENCH_RATE", 1000.0) as u32;
    let folder = Folder::new();
    let config = folder.0.join("bench.toml");
    let limits = messages::CONFIG.replace("[limits]\n", "[limits]\nconnections_per_peer = 100\n");
    std::fs::write(&config, limits + LIMITS).expect("writes");
    let socket = folder.0.join("s.sock");
    let mut command = pinned(&tenantd());
    command
        .args(["serve", "--config", &config.display().to_string(), "--listen"])
        .arg(format!("unix:{}", socket.display()))
        .env("TENANTD_LOG", "warn")
        .env("BENCH_KEY", "sk-0123456789abcdef0123456789abcdef0123456789abcdef")
        .env("XDG_STATE_HOME", folder.0.join("state"));
    let protocol = Protocol::Grpc(messages::unary("acme", "bench-worker-0001"));
    let place = Place::Unix(socket.clone());
    let server = match Server::start("tenantd-flood", &mut command, place, protocol) {
        Ok(server) => server,
        Err(why) => return eprintln!("left out: {why}"),
    };
    pin_self();
    let mut quiet = Column::default();
    let mut columns: Vec<Column> = FLOODS.iter().map(|_| Column::default()).collect();
    for _ in 0..rounds {
        measure(&server, rate, run_for, &mut quiet);
        for ((kind, _), column) in FLOODS.iter().zip(&mut columns) {
            if !wanted(kind) {
                continue;
            }
            // Longer than it is measured.
            let lasts = run_for * 2 + Duration::from_millis(500);
            let flooder = Flooder::start(kind, &socket, lasts);
            measure(&server, rate, run_for, column);
            column.flood.push(flooder.ends());
        }
        eprint!(".");
    }
    eprintln!();
    println!(
        "{:56} {:>8} {:>8} {:>7} {:>7} {:>9}",
        format!("a neighbour at {rate}/s"),
        "p50 us",
        "p99 us",
        "p50 x",
        "p99 x",
        "flood/s"
    );
    let row = |name: &str, of: &Column| {
        let ratio = |of: &[f64], to: &[f64]| {
            median(&of.iter().zip(to).map(|(a, b)| a / b).collect::<Vec<_>>())
        };
        println!(
            "{name:56} {:>8.0} {:>8.0} {:>7.2} {:>7.2} {:>9.0}",
            median(&of.p50),
            median(&of.p99),
            ratio(&of.p50, &quiet.p50),
            ratio(&of.p99, &quiet.p99),
            median(&of.flood)
        );
    };
    row("alone", &Column { flood: vec![0.0], p50: quiet.p50.clone(), p99: quiet.p99.clone() });
    for ((kind, name), column) in FLOODS.iter().zip(&columns) {
        if wanted(kind) {
            row(name, column);
        }
    }
}

fn measure(server: &Server, rate: u32, run_for: Duration, column: &mut Column) {
    let load = Load::Paced(rate);
    match drive(&server.place, &server.protocol, SHAPE, load, run_for, &mut || {}) {
        Ok(figures) => {
            assert_eq!(figures.refused, 0, "the neighbour is refused");
            let micros = |q| figures.latencies.value_at_quantile(q) as f64 / 1000.0;
            column.p50.push(micros(0.5));
            column.p99.push(micros(0.99));
        }
        Err(why) => panic!("the neighbour is not served: {why}"),
    }
}

/// Another process that floods. It runs where the generator does, when that has
/// nothing to do, so that it takes the sidecar's time and not its neighbour's.
struct Flooder {
    child: Child,
}

impl Flooder {
    fn start(kind: &str, socket: &Path, lasts: Duration) -> Self {
        let own = std::env::current_exe().expect("a path");
        let mut command = Command::new("chrt");
        command.args(["-i", "0"]).arg(own).arg("flooder").arg(socket).arg(kind);
        command.arg(lasts.as_secs_f64().to_string());
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = piped.spawn().expect("chrt is there");
        // It says when its flood has begun.
        let mut byte = [0];
        let out = child.stdout.as_mut().expect("piped");
        out.read_exact(&mut byte).expect("the flood begins");
        // And is under way.
        std::thread::sleep(Duration::from_millis(200));
        Self { child }
    }

    /// How many it got answered or closed in a second.
    fn ends(mut self) -> f64 {
        let mut said = String::new();
        let _ = self.child.stdout.take().expect("piped").read_to_string(&mut said);
        let _ = self.child.wait();
        said.trim().parse::<f64>().unwrap_or(f64::NAN)
    }
}

/// Floods for so many seconds; then says how often in one.
pub fn flooder(socket: &str, kind: &str, seconds: &str) {
    let lasts = Duration::from_secs_f64(seconds.parse().expect("seconds"));
    let mut out = std::io::stdout();
    out.write_all(b"\n").and_then(|()| out.flush()).expect("it is listened to");
    let began = Instant::now();
    let count = if kind == "connections" {
        connections(Path::new(socket), began + lasts)
    } else {
        let tenant = if kind == "calls" { "acme" } else { "flood" };
        let protocol = Protocol::Grpc(messages::unary(tenant, "bench-flooder"));
        let shape = Shape { connections: 8, streams: 32 };
        let place = Place::Unix(socket.into());
        match drive(&place, &protocol, shape, Load::Closed, lasts, &mut || {}) {
            Ok(figures) => figures.calls,
            Err(why) => return eprintln!("the flood ended: {why}"),
        }
    };
    println!("{}", count as f64 / began.elapsed().as_secs_f64());
}

/// As many as it may have, and then more and more.
fn connections(socket: &Path, until: Instant) -> u64 {
    let mut hello = Vec::new();
    h2::greet(&mut hello);
    let open = || {
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.write_all(&hello).ok()?;
        Some(stream)
    };
    let held: Vec<_> = (0..100).map(|_| open()).collect();
    let mut count = 0;
    while Instant::now() < until {
        count += u64::from(open().is_some());
    }
    drop(held);
    count
}
