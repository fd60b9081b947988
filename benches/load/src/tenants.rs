//! What a call costs beside many tenants: a sidecar that knows one, and others that know
//! more, under the same load in turn. Calls go to all of a sidecar's tenants alike, which
//! is the worst that caches can meet.

use std::{path::Path, time::Duration};

use crate::{
    compare::{median, setting, tenantd, wanted},
    generate::{Load, Place, Protocol, Shape, drive},
    h2::TENANT,
    messages,
    process::{Folder, Server, pin_self, pinned},
};

const COUNTS: [(u32, &str); 4] = [(1, "1"), (100, "100"), (10_000, "10000"), (100_000, "100000")];
const SHAPE: Shape = Shape { connections: 1, streams: 32 };
const WORKER: &str = "bench-worker-0001";

fn start(folder: &Path, count: u32, name: &'static str) -> Server {
    let (config, socket) = (folder.join("tenants.toml"), folder.join(format!("{name}.sock")));
    // Each runs on the same providers as the tenant of the other benches, by default.
    let text = messages::CONFIG
        .replace("tenants.acme", "defaults")
        .replace("[limits]", "[limits]\nmax_tenants = 200000");
    std::fs::write(&config, text).expect("writes");
    let mut messages = messages::unary(TENANT, WORKER);
    messages.tenants = count;
    let mut command = pinned(&tenantd());
    command
        .args(["serve", "--log-format", "json", "--config"])
        .arg(&config)
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()))
        .env("BENCH_KEY", "sk-0123456789abcdef0123456789abcdef0123456789abcdef")
        .env("XDG_STATE_HOME", folder.join(format!("{name}-state")));
    Server::start(name, &mut command, Place::Unix(socket), Protocol::Grpc(messages)).expect("runs")
}

fn protocols(server: &Server) -> [(&'static str, Protocol); 2] {
    let Protocol::Grpc(unary) = &server.protocol else { unreachable!("speaks gRPC") };
    let mut stream = messages::stream(TENANT, WORKER);
    stream.tenants = unary.tenants;
    [("unary", server.protocol.clone()), ("stream", Protocol::Grpc(stream))]
}

pub fn run() {
    let rounds = setting("BENCH_ROUNDS", 7.0) as usize;
    let run_for = Duration::from_secs_f64(setting("BENCH_SECONDS", 1.0));
    let folder = Folder::new();
    let counts = COUNTS.into_iter().filter(|(_, name)| wanted(name));
    let servers: Vec<_> = counts.map(|(count, name)| start(&folder.0, count, name)).collect();
    pin_self();
    let mut taken = vec![Vec::<f64>::new(); servers.len() * 2];
    for round in 0..=rounds {
        for turn in 0..servers.len() {
            let at = (turn + round) % servers.len();
            let server = &servers[at];
            for (form, (_, protocol)) in protocols(server).into_iter().enumerate() {
                // At first until each tenant has been there.
                let run_for = if round == 0 { run_for * 6 } else { run_for };
                let mut before = server.used();
                let figures =
                    drive(&server.place, &protocol, SHAPE, Load::Closed, run_for, &mut || {
                        before = server.used();
                    })
                    .expect("is answered");
                assert_eq!(figures.refused, 0, "calls were refused");
                if round > 0 {
                    let cpu = (server.used().cpu - before.cpu) as f64;
                    taken[at * 2 + form].push(cpu / figures.calls as f64 / 1000.0);
                }
            }
        }
        eprint!(".");
    }
    eprintln!();
    for (at, server) in servers.iter().enumerate() {
        for (form, (name, _)) in protocols(server).into_iter().enumerate() {
            let (of, one) = (&taken[at * 2 + form], &taken[form]);
            let ratios: Vec<f64> = of.iter().zip(one).map(|(a, b)| a / b).collect();
            println!(
                "{:>6} tenants, {name:6} at {}: {:>6.2} us of CPU a call, {:.2} of one's; {} MiB resident",
                server.name,
                SHAPE.name(),
                median(of),
                median(&ratios),
                server.resident() >> 20
            );
        }
    }
}
