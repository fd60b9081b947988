//! tenantd and its peers under the same load, in turn.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    generate::{Load, Place, Protocol, Shape, drive},
    messages,
    process::{Folder, Server, pin_self, pinned},
};

/// Connections x calls in flight on each.
const SHAPES: [Shape; 4] = [
    Shape { connections: 1, streams: 1 },
    Shape { connections: 1, streams: 32 },
    Shape { connections: 8, streams: 4 },
    Shape { connections: 64, streams: 1 },
];

pub fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub fn wanted(name: &str) -> bool {
    std::env::var("BENCH_ONLY").map_or(true, |list| list.split(',').any(|only| only == name))
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The release build under test.
pub fn tenantd() -> PathBuf {
    std::env::var_os("BENCH_TENANTD")
        .map_or_else(|| root().join("target/release/tenantd"), PathBuf::from)
}

fn command(program: &Path, args: &[&str]) -> Command {
    let mut command = pinned(program);
    command.args(args);
    command
}

fn start(folder: &Path) -> Vec<Server> {
    let own = std::env::current_exe().expect("a path");
    let socket = |name: &str| folder.join(format!("{name}.sock"));
    let unary = Protocol::Grpc(messages::unary("acme", "bench-worker-0001"));
    let mut servers = Vec::new();
    let mut add = |name: &'static str, command: &mut Command, protocol: Protocol| {
        if !wanted(name) {
            return;
        }
        match Server::start(name, command, Place::Unix(socket(name)), protocol) {
            Ok(server) => servers.push(server),
            Err(why) => eprintln!("left out: {name}: {why}"),
        }
    };
    let path = |name: &str| socket(name).display().to_string();
    for (name, how) in [("noop", "noop"), ("noop-gathered", "noop-gathered")] {
        add(name, &mut command(&own, &[how, &path(name)]), unary.clone());
    }
    let config = folder.join("bench.toml");
    std::fs::write(&config, messages::CONFIG).expect("writes");
    for (name, protocol) in [
        ("tenantd", unary.clone()),
        // The same calls over one `Work` stream a connection.
        ("tenantd-stream", Protocol::Grpc(messages::stream("acme", "bench-worker-0001"))),
    ] {
        let listen = format!("unix:{}", path(name));
        let config = config.display().to_string();
        let args = ["serve", "--log-format", "json", "--config", &config, "--listen", &listen];
        let mut command = command(&tenantd(), &args);
        command
            .env("BENCH_KEY", "sk-0123456789abcdef0123456789abcdef0123456789abcdef")
            .env("XDG_STATE_HOME", folder.join(format!("{name}-state")));
        add(name, &mut command, protocol);
    }
    let python = root().join(".venv/bin/python");
    let peer = |name: &str| root().join("benches/peers").join(name).display().to_string();
    add("python", &mut command(&python, &[&peer("afternoon.py"), &path("python")]), unary.clone());
    add(
        "node",
        &mut command(Path::new("node"), &[&peer("afternoon.js"), &path("node")]),
        unary.clone(),
    );
    add(
        "redis",
        &mut command(
            Path::new("redis-server"),
            &["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", &path("redis")],
        ),
        Protocol::Redis,
    );
    servers
}

#[derive(Default)]
struct Column {
    calls: Vec<f64>,
    cpu: Vec<f64>,
    p50: Vec<f64>,
    p90: Vec<f64>,
    p99: Vec<f64>,
    refused: u64,
}

pub fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

fn range(of: &[f64]) -> (f64, f64) {
    of.iter().fold((f64::INFINITY, 0.0), |(low, high), x| (x.min(low), x.max(high)))
}

pub fn run(_: &[&str]) {
    let rounds = setting("BENCH_ROUNDS", 7.0) as usize;
    let run_for = Duration::from_secs_f64(setting("BENCH_SECONDS", 1.0));
    let folder = Folder::new();
    let servers = start(&folder.0);
    pin_self();
    let mut table: BTreeMap<(String, &str), Column> = BTreeMap::new();
    for round in 0..rounds {
        for shape in SHAPES {
            for at in 0..servers.len() {
                // Each round begins with another one.
                let server = &servers[(at + round) % servers.len()];
                if matches!(server.protocol, Protocol::Redis) && shape.streams > 1 {
                    continue;
                }
                measure(server, shape, Load::Closed, run_for, &mut table, shape.name());
            }
            eprint!(".");
        }
        // Equal load.
        let rate = setting("BENCH_RATE", 4000.0) as u32;
        let shape = Shape { connections: 8, streams: 4 };
        for at in 0..servers.len() {
            let server = &servers[(at + round) % servers.len()];
            if server.name == "python" || server.name == "node" || server.name == "redis" {
                continue;
            }
            let name = format!("8x4 at {rate}/s");
            measure(server, shape, Load::Rate(rate), run_for, &mut table, name);
        }
    }
    eprintln!();
    print(&table, servers.iter().map(|server| server.name).collect());
    for server in &servers {
        println!("{:14} {:>9} KiB resident at the end", server.name, server.resident() / 1024);
    }
}

fn measure<'a>(
    server: &'a Server,
    shape: Shape,
    load: Load,
    run_for: Duration,
    table: &mut BTreeMap<(String, &'a str), Column>,
    row: String,
) {
    let mut before = server.used();
    let figures = drive(&server.place, &server.protocol, shape, load, run_for, &mut || {
        before = server.used();
    });
    let after = server.used();
    let figures = match figures {
        Ok(figures) => figures,
        Err(why) => {
            eprintln!("{} at {row}: {why}", server.name);
            return;
        }
    };
    let column = table.entry((row, server.name)).or_default();
    let calls = figures.calls as f64;
    column.calls.push(calls / figures.took.as_secs_f64());
    column.cpu.push((after.cpu - before.cpu) as f64 / calls / 1000.0);
    let micros = |q| figures.latencies.value_at_quantile(q) as f64 / 1000.0;
    column.p50.push(micros(0.5));
    column.p90.push(micros(0.9));
    column.p99.push(micros(0.99));
    column.refused += figures.refused;
}

fn print(table: &BTreeMap<(String, &str), Column>, names: Vec<&str>) {
    let rows: std::collections::BTreeSet<&String> = table.keys().map(|(row, _)| row).collect();
    let mut all = Vec::<Value>::new();
    println!(
        "{:14} {:14} {:>9} {:>17} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7}",
        "load",
        "server",
        "calls/s",
        "(min-max)",
        "cpu us",
        "p50 us",
        "p90 us",
        "p99 us",
        "x noop",
        "cpu x"
    );
    for row in rows {
        let base = table.get(&(row.clone(), "noop"));
        for name in &names {
            let Some(column) = table.get(&(row.clone(), *name)) else { continue };
            // Ratios are taken within a round, where both sides met the same noise.
            let ratio = |of: fn(&Column) -> &Vec<f64>| {
                base.map_or(f64::NAN, |base| {
                    let pairs: Vec<f64> =
                        of(column).iter().zip(of(base)).map(|(a, b)| a / b).collect();
                    median(&pairs)
                })
            };
            let (low, high) = range(&column.calls);
            let throughput = ratio(|c| &c.calls);
            let cpu = ratio(|c| &c.cpu);
            println!(
                "{row:14} {name:14} {:>9.0} {:>17} {:>8.2} {:>8.0} {:>8.0} {:>8.0} {throughput:>7.2} {cpu:>7.2}{}",
                median(&column.calls),
                format!("({low:.0}-{high:.0})"),
                median(&column.cpu),
                median(&column.p50),
                median(&column.p90),
                median(&column.p99),
                if column.refused > 0 {
                    format!("  {} refused", column.refused)
                } else {
                    String::new()
                },
            );
            all.push(json!({
                "load": row, "server": name,
                "calls_per_second": median(&column.calls), "calls_min": low, "calls_max": high,
                "cpu_us_per_call": median(&column.cpu),
                "p50_us": median(&column.p50), "p90_us": median(&column.p90), "p99_us": median(&column.p99),
                "throughput_to_noop": throughput, "cpu_to_noop": cpu,
                "rounds": column.calls.len(), "refused": column.refused,
            }));
        }
    }
    if let Some(path) = std::env::var_os("BENCH_JSON") {
        let text = serde_json::to_string_pretty(&all).expect("json");
        std::fs::write(path, text).expect("writes the JSON file");
    }
}

/// A server that is there already, for a profiler beside it.
pub fn drive_one(path: &str, shape: &str, form: &str) {
    let (connections, streams) = shape
        .split_once('x')
        .and_then(|(c, s)| Some((c.parse().ok()?, s.parse().ok()?)))
        .expect("a shape is CONNECTIONSxSTREAMS");
    let shape = Shape { connections, streams };
    let messages = match form {
        "stream" => messages::stream("acme", "bench-worker-0001"),
        _ => messages::unary("acme", "bench-worker-0001"),
    };
    let run_for = Duration::from_secs_f64(setting("BENCH_SECONDS", 1.0));
    let place = match path.strip_prefix("tcp:") {
        Some(address) => Place::Tcp(address.parse().expect("tcp:IP:PORT")),
        None => Place::Unix(path.into()),
    };
    pin_self();
    match drive(&place, &Protocol::Grpc(messages), shape, Load::Closed, run_for, &mut || {}) {
        Ok(figures) => println!(
            "{} calls/s, p50 {} us, {} refused, {} bytes a call",
            (figures.calls as f64 / figures.took.as_secs_f64()) as u64,
            figures.latencies.value_at_quantile(0.5) / 1000,
            figures.refused,
            figures.answer_bytes / figures.calls.max(1),
        ),
        Err(why) => println!("failed: {why}"),
    }
}
