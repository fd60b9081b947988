//! The fault suite: real agent processes, an operator and a watcher go about
//! their work while this program kills, stops, cuts, garbles and fills what they
//! stand on, and holds the promises of the design against what can be seen from
//! outside. `make faults` runs it; docs/reliability.md tells of it.
//!
//! `FAULT_SECONDS` is how long each seed is played, `FAULT_SEED` one seed of
//! your own. Without it the kept seeds (`seeds.txt`) are played, and one that
//! nobody chose, which is printed; with `FAULT_SEED=new` that one alone.
//! `FAULT_TENANTD` is another binary to try, `FAULT_KEEP=1` keeps the logs.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and talk")]

mod agents;
mod bare;
#[path = "../it/certificates.rs"]
#[allow(dead_code, reason = "the other suites need more of it")]
mod certificates;
mod checks;
mod config;
mod dice;
mod driver;
mod faults;
mod link;
mod model;
mod operator;
mod proxy;
mod sibling;
mod state;
mod table;
mod truth;
mod watcher;
mod world;

use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    if std::env::var_os("FAULT_WORKER").is_some() {
        runtime().block_on(bare::serve());
        return ExitCode::SUCCESS;
    }
    let seconds = std::env::var("FAULT_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = Duration::from_secs(seconds.unwrap_or(20));
    for seed in seeds() {
        println!("faults: seed {seed} for {} s", seconds.as_secs());
        runtime().block_on(driver::play(seed, seconds));
    }
    ExitCode::SUCCESS
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn seeds() -> Vec<u64> {
    let new = (u64::from(std::process::id()) << 20) ^ u64::from(dice::now_nanos());
    match std::env::var("FAULT_SEED").as_deref() {
        Ok("new") => vec![new],
        Ok(seed) => vec![seed.parse().expect("FAULT_SEED is a number or `new`")],
        Err(_) => include_str!("seeds.txt")
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|word| !word.starts_with('#'))
            .map(|word| word.parse().expect("a seed is a number"))
            .chain([new])
            .collect(),
    }
}
