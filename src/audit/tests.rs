//! Each kind of tampering, and each way to end in the middle.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;
use crate::domain::{audit::action, tenant::TenantId};

struct Log {
    dir: tempfile::TempDir,
    max_bytes: u64,
    keep: usize,
}

impl Log {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), max_bytes: 1 << 20, keep: 3 }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    fn writer(&self) -> Writer {
        let settings = Settings { path: self.path(), max_bytes: self.max_bytes, keep: self.keep };
        Writer::new(settings, "run".to_owned())
    }

    /// Records of tenants t1 to tN by one writer.
    fn with(count: usize) -> Self {
        let log = Self::new();
        let mut writer = log.writer();
        (1..=count).for_each(|n| write(&mut writer, n));
        log
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.path()).unwrap().lines().map(str::to_owned).collect()
    }

    fn set(&self, lines: &[String]) {
        fs::write(self.path(), lines.iter().map(|line| format!("{line}\n")).collect::<String>())
            .unwrap();
    }

    fn problems(&self) -> Vec<String> {
        let told = |of: &Problem| {
            let name = of.file.file_name().unwrap().to_str().unwrap().to_owned();
            format!("{name}:{}: {}", of.line, of.message)
        };
        verify(&self.path(), &[]).unwrap().problems.iter().map(told).collect()
    }
}

fn record(n: usize) -> Record {
    let tenant = TenantId::parse(&format!("t{n}")).unwrap();
    Record::new(Duration::from_secs(1), "uid:1", action::TENANT_SUSPEND).of_tenant(&tenant)
}

fn write(writer: &mut Writer, n: usize) {
    writer.write(&[record(n)], Duration::from_secs(1)).unwrap();
}

#[test]
fn a_log_as_it_was_written_is_whole_and_only_its_owner_may_read_it() {
    let log = Log::with(5);
    assert_eq!(log.problems(), Vec::<String>::new());
    let found = verify(&log.path(), &[]).unwrap();
    assert_eq!((found.records, found.range), (5, Some((1, 5))));
    for file in fs::read_dir(log.dir.path()).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let lines = log.lines();
    let first: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(first["prev"], "0".repeat(64));
    let second: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!(second["prev"], line::hash(lines[0].as_bytes()), "sha256sum proves it by hand");
}

#[test]
fn an_altered_record_is_found() {
    for which in [0, 2, 4] {
        let log = Log::with(5);
        let mut lines = log.lines();
        lines[which] = lines[which].replace("uid:1", "uid:2");
        log.set(&lines);
        let problems = log.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let n = which + 1;
        assert!(problems[0].contains(&format!("record {n}")), "{problems:?}");
        assert!(problems[0].contains("altered"), "{problems:?}");
        if which < 4 {
            assert!(problems[0].starts_with(&format!("audit.jsonl:{n}:")), "{problems:?}");
        }
    }
}

#[test]
fn an_altered_record_with_a_mended_chain_after_it_is_found_by_the_head() {
    let log = Log::with(3);
    let mut lines = log.lines();
    lines[1] = lines[1].replace("t2", "t9");
    let mut last: serde_json::Value = serde_json::from_str(&lines[2]).unwrap();
    last["prev"] = line::hash(lines[1].as_bytes()).into();
    lines[2] = last.to_string();
    log.set(&lines);
    assert_eq!(log.problems(), ["audit.jsonl:0: record 3, the last, was altered"]);
}

#[test]
fn a_removed_record_is_found() {
    let log = Log::with(5);
    let mut lines = log.lines();
    lines.drain(1..3);
    log.set(&lines);
    assert_eq!(log.problems(), ["audit.jsonl:2: records 2 to 3 removed before this line"]);
    let log = Log::with(5);
    log.set(&log.lines()[1..]);
    assert_eq!(log.problems(), ["audit.jsonl:1: record 1 removed before this line"]);
}

#[test]
fn records_in_another_order_are_found() {
    let log = Log::with(5);
    let mut lines = log.lines();
    lines.swap(1, 2);
    log.set(&lines);
    let problems = log.problems();
    assert!(
        problems
            .iter()
            .any(|of| of == "audit.jsonl:2: record 2 should be before this line: reordered"),
        "{problems:?}"
    );
    assert!(problems.iter().any(|of| of.contains("record 2 is out of order")), "{problems:?}");
    assert!(problems.iter().all(|of| !of.contains("removed")), "{problems:?}");
}

#[test]
fn an_inserted_or_repeated_record_is_found() {
    let log = Log::with(3);
    let mut lines = log.lines();
    lines.insert(2, lines[1].clone());
    log.set(&lines);
    let problems = log.problems();
    assert!(problems[0].starts_with("audit.jsonl:3: record 2 is out of order"), "{problems:?}");
}

#[test]
fn records_cut_from_the_end_are_found_and_stay_found_after_the_next_one() {
    let log = Log::with(5);
    log.set(&log.lines()[..3]);
    assert_eq!(log.problems(), ["audit.jsonl:0: records 4 to 5 were removed from the end"]);
    write(&mut log.writer(), 6);
    let problems = log.problems();
    assert_eq!(problems, ["audit.jsonl:4: records 4 to 5 removed before this line"]);
    assert!(log.lines()[3].contains("audit.recovered"), "{:?}", log.lines());
}

#[test]
fn a_log_without_its_head_is_not_called_whole() {
    let log = Log::with(2);
    fs::remove_file(log.dir.path().join("audit.jsonl.head")).unwrap();
    assert!(log.problems()[0].starts_with("audit.jsonl.head:0: is gone"));
}

#[test]
fn a_removed_log_is_found() {
    let log = Log::with(4);
    fs::remove_file(log.path()).unwrap();
    write(&mut log.writer(), 5);
    let problems = log.problems();
    assert_eq!(problems, ["audit.jsonl:1: records 1 to 4 removed before this line"]);
}

#[test]
fn a_log_made_anew_with_its_head_is_found_by_a_place_noted_elsewhere() {
    let log = Log::with(3);
    let noted = verify(&log.path(), &[]).unwrap().last.unwrap();
    assert!(verify(&log.path(), std::slice::from_ref(&noted)).unwrap().problems.is_empty());
    fs::remove_file(log.path()).unwrap();
    fs::remove_file(log.dir.path().join("audit.jsonl.head")).unwrap();
    let mut writer = log.writer();
    (7..12).for_each(|n| write(&mut writer, n));
    assert_eq!(log.problems(), Vec::<String>::new(), "by itself it is whole");
    let problems = verify(&log.path(), &[noted]).unwrap().problems;
    assert_eq!(problems[0].message, "record 3 is another than was noted");
}

#[test]
fn a_torn_last_line_is_told_and_the_next_start_goes_on_with_a_record_of_it() {
    let log = Log::with(3);
    let torn = "{\"sequence\":4,\"time\":\"20";
    fs::OpenOptions::new()
        .append(true)
        .open(log.path())
        .unwrap()
        .write_all(torn.as_bytes())
        .unwrap();
    let problems = log.problems();
    assert!(problems[0].starts_with("audit.jsonl:4: the last line is torn"), "{problems:?}");
    write(&mut log.writer(), 5);
    assert_eq!(log.problems(), Vec::<String>::new());
    let lines = log.lines();
    assert!(lines[3].contains("audit.recovered"), "{lines:?}");
    assert!(lines[3].contains(&format!("{} bytes of a record", torn.len())), "{lines:?}");
    assert!(lines[4].contains("t5"));
}

#[test]
fn a_crash_between_a_record_and_its_head_loses_nothing() {
    let log = Log::new();
    let mut writer = log.writer();
    write(&mut writer, 1);
    let head = fs::read(log.dir.path().join("audit.jsonl.head")).unwrap();
    write(&mut writer, 2);
    fs::write(log.dir.path().join("audit.jsonl.head"), head).unwrap();
    assert_eq!(log.problems(), Vec::<String>::new());
    write(&mut log.writer(), 3);
    assert_eq!(log.problems(), Vec::<String>::new());
    assert_eq!(log.lines().len(), 3);
}

#[test]
fn a_last_line_without_its_newline_is_mended() {
    let log = Log::with(2);
    let text = fs::read_to_string(log.path()).unwrap();
    fs::write(log.path(), text.trim_end()).unwrap();
    write(&mut log.writer(), 3);
    assert_eq!(log.problems(), Vec::<String>::new());
    assert_eq!(log.lines().len(), 3);
}

fn rotated(log: &Log) -> Vec<PathBuf> {
    let files = files::Files { active: log.path() };
    files.before().unwrap().into_iter().map(|(_, path)| path).collect()
}

#[test]
fn the_chain_goes_on_over_files_and_only_the_oldest_are_dropped() {
    let log = Log { max_bytes: 3000, keep: 2, ..Log::new() };
    let mut writer = log.writer();
    for n in 1..=100 {
        write(&mut writer, n);
    }
    assert_eq!(log.problems(), Vec::<String>::new());
    let kept = rotated(&log);
    assert_eq!(kept.len(), 2);
    for path in kept.iter().chain([&log.path()]) {
        assert!(fs::metadata(path).unwrap().len() <= 3000, "{}", path.display());
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let found = verify(&log.path(), &[]).unwrap();
    let (first, last) = found.range.unwrap();
    assert!(first > 1 && last > 100 && found.records == last - first + 1, "{found:?}");
    // Dropping one more by hand is seen, as is one in the middle.
    let whole = fs::read(&kept[0]).unwrap();
    fs::remove_file(&kept[0]).unwrap();
    assert!(log.problems()[0].contains("removed before this line"), "{:?}", log.problems());
    fs::write(&kept[0], whole).unwrap();
    fs::remove_file(&kept[1]).unwrap();
    assert!(log.problems()[0].contains("removed before this line"), "{:?}", log.problems());
}

#[test]
fn a_rotation_that_ended_in_the_middle_is_gone_on_with() {
    let log = Log::with(3);
    fs::rename(log.path(), log.dir.path().join("audit.jsonl.000000000001")).unwrap();
    write(&mut log.writer(), 4);
    assert_eq!(log.problems(), Vec::<String>::new());
    assert_eq!(log.lines().len(), 1);
}

#[test]
fn two_writers_share_one_chain() {
    let log = Log { max_bytes: 5000, keep: 50, ..Log::new() };
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let mut writer = log.writer();
            scope.spawn(move || {
                for n in 0..25 {
                    write(&mut writer, worker * 100 + n + 1);
                }
            });
        }
    });
    assert_eq!(log.problems(), Vec::<String>::new());
    let found = verify(&log.path(), &[]).unwrap();
    assert!(found.records >= 100, "{found:?}");
}

#[test]
fn a_log_cut_or_replaced_while_it_is_written_is_noticed() {
    let log = Log::new();
    let mut writer = log.writer();
    (1..4).for_each(|n| write(&mut writer, n));
    fs::write(log.path(), "").unwrap();
    write(&mut writer, 4);
    assert_eq!(log.problems(), ["audit.jsonl:1: records 1 to 3 removed before this line"]);
}

#[test]
fn a_record_altered_behind_a_head_that_was_not_written_is_found() {
    let log = Log::new();
    let mut writer = log.writer();
    write(&mut writer, 1);
    let head = fs::read(log.dir.path().join("audit.jsonl.head")).unwrap();
    write(&mut writer, 2);
    fs::write(log.dir.path().join("audit.jsonl.head"), head).unwrap();
    let mut lines = log.lines();
    lines[0] = lines[0].replace("t1", "t9");
    let mut last: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
    last["prev"] = line::hash(lines[0].as_bytes()).into();
    lines[1] = last.to_string();
    log.set(&lines);
    assert_eq!(
        log.problems(),
        ["audit.jsonl:0: record 1, the last that the head has, was altered"]
    );
}

#[test]
fn junk_without_end_takes_no_later_record_with_it() {
    let log = Log::with(2);
    fs::write(log.path(), "x".repeat(300_000)).unwrap();
    write(&mut log.writer(), 3);
    let lines = log.lines();
    assert!(lines[1].contains("audit.recovered") && lines[2].contains("t3"), "{lines:?}");
    assert!(!log.problems().is_empty());
}

#[test]
fn a_record_that_is_refused_since_its_head_cannot_be_written_does_not_stay() {
    let log = Log::with(2);
    let (head, moved) = (log.dir.path().join("audit.jsonl.head"), log.dir.path().join("moved"));
    // It reads as it should, and is not written to.
    fs::rename(&head, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &head).unwrap();
    let mut writer = log.writer();
    assert!(writer.write(&[record(3)], Duration::ZERO).is_err());
    assert_eq!(log.lines().len(), 2);
    fs::rename(&moved, &head).unwrap();
    write(&mut writer, 4);
    assert_eq!(log.problems(), Vec::<String>::new());
    assert_eq!(log.lines().len(), 3);
}

#[test]
fn a_log_that_is_being_read_holds_up_no_writer() {
    let log = Log { max_bytes: 3000, keep: 2, ..Log::with(5) };
    let files = files::Files { active: log.path() };
    let opened = files.read().unwrap();
    let mut writer = log.writer();
    (6..60).for_each(|n| write(&mut writer, n));
    let mut text = String::new();
    for (_, mut file) in opened.files {
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    }
    assert_eq!(text.lines().count(), 5, "as it was, though its file is gone since");
}

#[test]
fn a_link_in_its_place_is_not_followed() {
    let log = Log::new();
    let other = log.dir.path().join("other");
    fs::write(&other, "mine").unwrap();
    std::os::unix::fs::symlink(&other, log.path()).unwrap();
    assert!(log.writer().write(&[record(1)], Duration::ZERO).is_err());
    assert_eq!(fs::read_to_string(other).unwrap(), "mine");
}

#[test]
fn hostile_lines_are_told_and_bring_nothing_down() {
    let log = Log::with(1);
    let mut lines = log.lines();
    lines.push("\u{0}not json".to_owned());
    lines.push(format!("{{\"sequence\":{},\"prev\":\"x\",\"action\":\"y\"}}", u64::MAX));
    lines.push("x".repeat(200_000));
    log.set(&lines);
    assert!(log.problems().len() >= 3, "{:?}", log.problems());
    // The next record goes on from what was really written.
    write(&mut log.writer(), 2);
}

#[test]
fn a_record_is_never_larger_than_a_line_may_be() {
    let log = Log::new();
    let large = record(1).change(serde_json::json!(null), "x".repeat(200_000).into());
    log.writer().write(&[large], Duration::ZERO).unwrap();
    assert!(log.lines()[0].len() < line::MAX_LINE);
    assert!(log.lines()[0].contains("left_out"), "and that is said");
    assert_eq!(log.problems(), Vec::<String>::new());
}

#[test]
fn the_state_folder_is_systemds_then_the_users() {
    let at = |set: &[(&str, &str)]| {
        default_path(|name| {
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    };
    let home = ("HOME", "/home/u");
    assert_eq!(
        at(&[home, ("STATE_DIRECTORY", "/var/lib/tenantd:/x")]).unwrap(),
        Path::new("/var/lib/tenantd/audit.jsonl")
    );
    assert_eq!(at(&[home, ("XDG_STATE_HOME", "/s")]).unwrap(), Path::new("/s/tenantd/audit.jsonl"));
    assert_eq!(at(&[home]).unwrap(), Path::new("/home/u/.local/state/tenantd/audit.jsonl"));
    assert_eq!(at(&[]), None);
    assert_eq!(at(&[("HOME", "relative")]), None);
}
