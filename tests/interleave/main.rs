//! The smallest pieces in which threads meet, under shuttle: a scheduler that
//! decides at each lock and each atomic step who goes on, so that orders are tried
//! which real threads take once in a million. The pieces are the shipped ones,
//! compiled once more with shuttle's locks, tables and atomics in place of the
//! real ones. `INTERLEAVE_TIMES` is how many schedules each case is tried with, of
//! either kind; a schedule that fails is printed, to be replayed with
//! `shuttle::replay`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and talk")]

extern crate shuttle_dashmap as dashmap;
extern crate shuttle_parking_lot as parking_lot;

mod places;
mod tenants;

#[path = "../store/support.rs"]
#[allow(dead_code, reason = "the store's suite needs more of it")]
mod support;

use shuttle::{
    Config, Runner,
    scheduler::{PctScheduler, RandomScheduler},
};
use tenantd::domain;

#[allow(dead_code, unused_imports, reason = "not all of it has a case")]
mod app;

#[allow(dead_code, unused_imports, reason = "not all of it has a case")]
mod store;

#[allow(dead_code, unused_imports, reason = "not all of it has a case")]
mod transport;

/// How often each case is tried where nobody says.
const TIMES: usize = 1_000;
/// Changes of mind of the scheduler that mostly lets one go on: few orders of
/// steps need more.
const DEPTH: usize = 3;

fn config() -> Config {
    let mut config = Config::new();
    // That it takes all atomics for SeqCst: docs/reliability.md says so.
    config.silence_warnings = true;
    config
}

fn main() {
    let times = std::env::var("INTERLEAVE_TIMES").ok().and_then(|text| text.parse().ok());
    let times = times.unwrap_or(TIMES);
    let cases: [(&str, fn()); 6] = [
        (
            "a tenant dropped as idle while it is acquired loses no session, no cap and no place",
            tenants::dropped_while_acquired,
        ),
        (
            "a tenant that gets an entry while it is dropped gives its place back once",
            tenants::configured_while_dropped,
        ),
        (
            "an id that tenants fight over is one session, and its slot comes back",
            tenants::one_id_of_two_tenants,
        ),
        ("places: never over the bound", places::never_over),
        ("places: one that is given back is there for the next", places::handed_over),
        ("places: given back exactly once", places::given_back_once),
    ];
    for (claim, case) in cases {
        Runner::new(RandomScheduler::new(times), config()).run(case);
        Runner::new(PctScheduler::new(DEPTH, times), config()).run(case);
        println!("interleave: {claim}: {} schedules", 2 * times);
    }
}
