//! What was done, how often, and how it went: printed at the end.

use std::{collections::BTreeMap, time::Duration};

#[derive(Debug, Default, Clone, Copy)]
struct Row {
    done: u64,
    went_well: u64,
    refused: u64,
    unavailable: u64,
    slowest: Duration,
}

/// How one thing went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    Well,
    Refused,
    Unavailable,
    /// The process was killed before it could answer.
    Unanswered,
}

#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<String, Row>,
    pub faults: BTreeMap<&'static str, u64>,
    pub facts: BTreeMap<&'static str, u64>,
}

impl Table {
    pub fn note(&mut self, what: &str, went: Went, took: Duration) {
        let row = self.rows.entry(what.to_owned()).or_default();
        row.done += 1;
        row.slowest = row.slowest.max(took);
        match went {
            Went::Well => row.went_well += 1,
            Went::Refused => row.refused += 1,
            Went::Unavailable => row.unavailable += 1,
            Went::Unanswered => {}
        }
    }

    pub fn fault(&mut self, what: &'static str) {
        *self.faults.entry(what).or_default() += 1;
    }

    pub fn fact(&mut self, what: &'static str, by: u64) {
        *self.facts.entry(what).or_default() += by;
    }

    pub fn operations(&self) -> u64 {
        self.rows.values().map(|row| row.done).sum()
    }

    pub fn print(&self) {
        println!(
            "{:<26} {:>7} {:>7} {:>8} {:>12} {:>9}",
            "operation", "done", "well", "refused", "unavailable", "slowest"
        );
        for (what, row) in &self.rows {
            println!(
                "{what:<26} {:>7} {:>7} {:>8} {:>12} {:>6} ms",
                row.done,
                row.went_well,
                row.refused,
                row.unavailable,
                row.slowest.as_millis()
            );
        }
        println!("{:<26} {:>7}", "fault", "times");
        for (what, times) in &self.faults {
            println!("{what:<26} {times:>7}");
        }
        println!("{:<26} {:>7}", "seen", "");
        for (what, count) in &self.facts {
            println!("{what:<26} {count:>7}");
        }
    }
}
