//! The fuzz targets on stable: every seed, and a fixed run of mutations of the
//! seeds. `make fuzz` lets libFuzzer grow them for as long as is wanted.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../fuzz/src/lib.rs"]
mod checks;
mod seeds;

use std::{fs, panic, path::PathBuf};

/// Words that the parsers give a meaning to, and secrets that must not come out.
const WORDS: [&str; 30] = [
    "tenant",
    "\"tenant\":",
    "\u{1f}",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\ud800",
    "1e999",
    "null",
    "sk-canary",
    "\"sk-canary\"",
    "\n",
    "\r\n\r\n",
    "cap",
    "providers",
    "credential",
    "literal:",
    "env:",
    "\u{1b}[31m",
    "\u{202e}",
    "__",
    "\n\u{1e}\n",
    "\n\u{1f}\n",
    "18446744073709551615",
    "{\"is\":\"complete\"}",
    "half_open",
    "grace",
    "=",
];

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

fn seeds_of(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder(target)).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// xorshift64*: the same run on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides.max(1)
    }
}

fn mutated(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seeds[dice.roll(seeds.len())].clone();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len() + 1);
        let end = (at + dice.roll(16)).min(bytes.len());
        match dice.roll(6) {
            0 => _ = bytes.splice(at..at, WORDS[dice.roll(WORDS.len())].bytes()),
            1 => _ = bytes.splice(at..end, std::iter::empty()),
            2 => bytes.truncate(at),
            3 => {
                let piece = bytes[at..end].to_vec();
                let times = [1, 2, 200][dice.roll(3)];
                bytes.splice(at..at, piece.repeat(times));
            }
            4 if !bytes.is_empty() => {
                let at = at.min(bytes.len() - 1);
                bytes[at] ^= 1 << dice.roll(8);
            }
            _ => {
                let other = &seeds[dice.roll(seeds.len())];
                let from = dice.roll(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
    }
    bytes
}

/// Plays a target; an input that breaks it is kept, to become a seed.
fn play(target: &str, mutations: usize) {
    let seeds = seeds_of(target);
    // More of them, where somebody wants it: FUZZ_TIMES=100.
    let times = std::env::var("FUZZ_TIMES").map_or(1, |times| times.parse().unwrap());
    let mutations = mutations * times;
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let grown = (0..mutations).map(|_| mutated(&seeds, &mut dice));
    for input in seeds.iter().cloned().chain(grown) {
        let broke = panic::catch_unwind(|| checks::check(target, &input)).is_err();
        if broke {
            let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("broke-{target}"));
            fs::write(&kept, &input).unwrap();
            panic!("{target} breaks on {}: mend it and add it to fuzz/seeds", kept.display());
        }
    }
}

#[test]
fn the_tenant_is_bound_as_an_independent_reader_of_json_says() {
    play("bind", 60_000);
}

#[test]
fn a_config_of_any_text_is_valid_or_refused_without_a_secret() {
    play("config", 1500);
}

#[test]
fn an_entry_of_any_json_is_valid_or_refused_without_a_secret() {
    play("entry", 3000);
}

#[test]
fn a_row_of_any_columns_is_valid_or_refused_without_a_secret() {
    play("row", 3000);
}

#[test]
fn any_calls_leave_caps_log_and_lists_in_agreement() {
    play("calls", 1000);
}

#[test]
fn any_answer_of_a_source_ends_its_question_without_a_secret() {
    play("answers", 200);
}

#[test]
fn any_log_is_filtered_as_a_naive_reader_does() {
    play("logs", 6000);
}

#[test]
fn any_state_files_are_taken_over_whole_or_refused_and_damage_is_said() {
    play("state", 4000);
}

#[test]
fn every_target_is_run_here_and_by_make_fuzz() {
    let manifest = fs::read_to_string(folder("").join("../Cargo.toml")).unwrap();
    for (target, _) in checks::TARGETS {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
    }
}
