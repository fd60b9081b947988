//! What every fuzz target asserts. The targets of cargo-fuzz call these with
//! bytes that libFuzzer grows; `tests/fuzz` calls them on stable with the seeds
//! and with mutations of them, so that what was found once stays found.

pub mod answers;
pub mod bind;
pub mod calls;
pub mod config;
pub mod entry;
pub mod logs;
pub mod state;

/// One target: any bytes in, panics where a promise is broken.
pub type Check = fn(&[u8]);

/// Every target by its name, which is also the name of its folder of seeds.
pub const TARGETS: [(&str, Check); 8] = [
    ("bind", bind::check),
    ("config", config::check),
    ("entry", entry::check),
    ("row", entry::check_row),
    ("calls", calls::check),
    ("answers", answers::check),
    ("logs", logs::check),
    ("state", state::check),
];

/// Begins every secret that the checks hand in.
pub const CANARY: &str = "sk-canary";

/// One target by its name.
pub fn check(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    target.expect("is a target").1(data);
}
