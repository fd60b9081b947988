//! Damage to the state directory, done while no sidecar runs.

use std::{fs, io::Write as _, path::Path};

use crate::dice::Dice;

/// What was done, and what may come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// A write that did not return before the kill: nothing is lost by it.
    Torn,
    /// Bytes are others: it is told, or nothing is lost by it.
    Altered,
    /// Files are gone, empty, or cut off: what was in them is forgotten.
    Gone,
}

/// Damages the newest journal, where there is one.
pub fn damage(folder: &Path, dice: &mut Dice) -> Option<(&'static str, Damage)> {
    let files = fs::read_dir(folder).ok()?.map(|entry| entry.unwrap().path());
    let journal = |path: &std::path::PathBuf| path.to_string_lossy().contains("/journal.");
    let newest = files.filter(journal).max()?;
    let bytes = fs::read(&newest).unwrap();
    if bytes.len() < 2 {
        return None;
    }
    // The line break at the end is what tells a whole line from a torn one.
    let within = |dice: &mut Dice| usize::try_from(dice.roll(bytes.len() as u64 - 1)).unwrap();
    let (what, damage) = dice.weighted(&[
        (3, ("state: torn write", Damage::Torn)),
        (3, ("state: bit flipped", Damage::Altered)),
        (1, ("state: zeros in it", Damage::Altered)),
        (1, ("state: cut off", Damage::Gone)),
        (1, ("state: emptied", Damage::Gone)),
        (1, ("state: removed", Damage::Gone)),
    ]);
    match what {
        "state: torn write" => {
            let first = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(1);
            let some = 1 + usize::try_from(dice.roll(first as u64 - 1)).unwrap();
            let mut file = fs::File::options().append(true).open(&newest).unwrap();
            file.write_all(&bytes[..some]).unwrap();
        }
        "state: bit flipped" => {
            let mut bytes = bytes.clone();
            bytes[within(dice)] ^= 1 << dice.roll(8);
            fs::write(&newest, bytes).unwrap();
        }
        "state: zeros in it" => {
            let mut bytes = bytes.clone();
            let from = within(dice);
            let to = (from + 512).min(bytes.len() - 1);
            bytes[from..to].fill(0);
            fs::write(&newest, bytes).unwrap();
        }
        "state: cut off" => fs::write(&newest, &bytes[..within(dice)]).unwrap(),
        "state: emptied" => fs::write(&newest, b"").unwrap(),
        _ => fs::remove_file(&newest).unwrap(),
    }
    Some((what, damage))
}
