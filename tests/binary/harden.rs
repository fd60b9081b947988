//! What other users, and other processes of the same user, can get of the sidecar.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::support::{Running, Start, text};

const NOBODY: u32 = 65_534;

fn core_limit(running: &Running) -> String {
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    line["Max core file size".len()..].split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whose the memory and environment of the process are: root's alone, where nobody
/// may look into it.
fn memory_is_roots(running: &Running) -> bool {
    let owner = |name| fs::metadata(format!("/proc/{}/{name}", running.child.id())).unwrap().uid();
    let (mem, environ) = (owner("mem"), owner("environ"));
    assert_eq!(mem, environ);
    mem == 0
}

#[test]
fn no_core_file_and_no_debugger_gets_keys_unless_it_is_asked_for() {
    let start = || Start {
        before: "ulimit -c unlimited 2>/dev/null || true",
        user: Some(NOBODY),
        ..Start::default()
    };
    let running = start().run();
    assert_eq!(core_limit(&running), "0 0 bytes");
    assert!(memory_is_roots(&running));
    // All else goes on: it reads its own figures.
    let snapshot = running.call(&["snapshot", "--json"]);
    assert!(text(&snapshot).contains("\"resident_set\""), "{}", text(&snapshot));
    drop(running);
    let running = Start { with: &["--allow-core-dumps"], ..start() }.run();
    assert!(!memory_is_roots(&running));
    if core_limit(&running) == "0 0 bytes" {
        crate::support::skipped("core files are switched off here for everybody");
    }
}

fn all_under(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all_under(&path, found);
        }
        found.push(path);
    }
}

#[test]
fn every_file_folder_and_socket_that_it_makes_is_its_users_alone_whatever_the_umask() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("made/run/s.sock");
    let config = format!(
        "[state]\npath='{0}/made/state'\n[audit]\npath='{0}/made/log/audit.jsonl'\nmax_bytes=65536\n[tenants.acme]\ncap=3\n",
        place.path().display(),
    );
    let address = format!("unix:{}", socket.display());
    let running =
        Start { config: &config, listen: &[&address], before: "umask 000", ..Start::default() }
            .run();
    let call = |arguments: &[&str]| {
        let output = crate::support::call(&address, arguments);
        assert!(output.status.success(), "{}", text(&output));
    };
    // Enough that the audit log goes on in a new file.
    let note = "n".repeat(1000);
    for _ in 0..20 {
        call(&["cap", "acme", "2", "--note", &note]);
        call(&["cap", "acme", "default", "--note", &note]);
    }
    let mut found = Vec::new();
    all_under(&place.path().join("made"), &mut found);
    let named = |part: &str| found.iter().any(|path| path.to_string_lossy().contains(part));
    for part in ["s.sock", "audit.jsonl", "audit.jsonl.0000", "audit.jsonl.head", "journal"] {
        assert!(named(part), "{part} is not among {found:?}");
    }
    for path in found {
        let of = fs::symlink_metadata(&path).unwrap();
        let mode = of.permissions().mode() & 0o7777;
        let want = if of.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, want, "{} has {mode:o}", path.display());
        assert!(of.is_dir() || of.is_file() || of.file_type().is_socket());
    }
    assert!(!place.path().join("made/state").join("core").exists());
    drop(running);
}
