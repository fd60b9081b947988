//! What operators do, as the audit log keeps it: over the real wire, on a real disk.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::Command,
};

use serde_json::Value;
use tenantd::wire::v1::{
    self, admin_service_client::AdminServiceClient, session_service_client::SessionServiceClient,
    watch_service_client::WatchServiceClient,
};

use crate::support::{Running, Start, acquire, call, eventually, private, release, text};

/// Its records.
fn records(path: &Path) -> Vec<Value> {
    let whole = fs::read_to_string(path).unwrap_or_default();
    whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn of<'a>(records: &'a [Value], action: &str, result: &str) -> Vec<&'a Value> {
    let is = |of: &&Value| of["action"] == action && of["result"] == result;
    records.iter().filter(is).collect()
}

fn is_whole(path: &Path) {
    let proven = call("unix:/nowhere", &["audit", "verify", path.to_str().unwrap()]);
    assert!(proven.status.success(), "{}", text(&proven));
}

fn fine(running: &Running, arguments: &[&str]) {
    let output = running.call(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_admin_action_is_recorded_before_and_after_with_who_asked_and_what_changed() {
    let mut running = Start { config: "[tenants.acme]\ncap=3\n", ..Start::default() }.run();
    let mut sessions = SessionServiceClient::new(running.channel().await);
    sessions.acquire_session(acquire("s1", "acme")).await.unwrap();
    for arguments in [
        &["cap", "acme", "5", "--note", "launch day"][..],
        &["suspend", "acme", "--note", "ticket 7"],
        &["resume", "acme"],
        &["breaker", "open", "acme", "--for", "5m"],
        &["breaker", "reset", "acme"],
        &["revoke", "s1"],
        &["log-filter", "warn"],
        &["reload"],
        &["drain", "--timeout", "1s"],
    ] {
        fine(&running, arguments);
    }
    running.ends();
    let all = records(&running.audit());
    let actor = format!("uid:{}", rustix::process::getuid().as_raw());
    for (action, before, after) in [
        ("tenant.cap", r#"{"cap":3}"#, r#"{"cap":5,"cap_overridden":true}"#),
        ("tenant.suspend", r#"{"suspended":false}"#, r#"{"suspended":true}"#),
        ("tenant.resume", r#"{"suspended":true}"#, r#"{"suspended":false}"#),
        ("breaker.open", r#"{"breaker":"closed"}"#, r#"{"breaker":"open"}"#),
        ("breaker.reset", r#"{"breaker":"open"}"#, r#"{"breaker":"closed"}"#),
        ("session.revoke", r#"{"live":true}"#, r#"{"live":false}"#),
        ("log.filter", r#"{"filter":"info"}"#, r#"{"filter":"warn"}"#),
        ("config.reload", "{}", r#"{"tenants_changed":0}"#),
        ("sidecar.drain", r#"{"draining":false}"#, r#"{"draining":true}"#),
    ] {
        let (begun, done) = (of(&all, action, "begun"), of(&all, action, "ok"));
        assert_eq!((begun.len(), done.len()), (1, 1), "{action}: {all:?}");
        assert_eq!(done[0]["begun"], begun[0]["sequence"], "{action}");
        assert_eq!(done[0]["actor"], actor.as_str(), "{action}");
        for (key, part) in [("before", before), ("after", after)] {
            let part: Value = serde_json::from_str(part).unwrap();
            for (name, value) in part.as_object().unwrap() {
                assert_eq!(&done[0][key][name], value, "{action} {key} {name}");
            }
        }
        let about_acme = !["log.filter", "config.reload", "sidecar.drain"].contains(&action);
        assert_eq!(done[0]["tenant"] == "acme", about_acme, "{action}");
    }
    assert_eq!(of(&all, "tenant.cap", "ok")[0]["note"], "launch day");
    assert_eq!(of(&all, "session.revoke", "ok")[0]["session_id"], "s1");
    assert_eq!(
        (all[0]["action"].as_str(), all[0]["sequence"].as_u64()),
        (Some("sidecar.start"), Some(1))
    );
    assert_eq!(all.last().unwrap()["action"], "sidecar.end");
    is_whole(&running.audit());
    let path = running.audit();
    let shown = |more: &[&str]| {
        let arguments = [&["audit", "show", path.to_str().unwrap()][..], more].concat();
        text(&call("unix:/nowhere", &arguments))
    };
    let table = shown(&["--tenant", "acme"]);
    assert!(table.contains("cap 3 -> 5") && table.contains("\"launch day\""), "{table}");
    assert!(!table.contains("begun") && !table.contains("config.reload"), "{table}");
    assert!(shown(&["--actor", "uid:999999"]).lines().count() <= 1);
    assert!(shown(&["--since", "1h"]).contains("sidecar.drain"));
    assert!(!shown(&["--since", "2100-01-01T00:00:00Z"]).contains("sidecar"));
    let json = shown(&["--json", "--action", "tenant.cap"]);
    assert_eq!(json.lines().count(), 2, "{json}");
    assert!(json.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn refused_and_failed_actions_are_recorded_with_their_reason_and_no_raw_input() {
    let running = Start { config: "[tenants.acme]\n", ..Start::default() }.run();
    assert!(!running.call(&["revoke", "nobody"]).status.success());
    assert!(!running.call(&["suspend", "not a tenant\u{7}"]).status.success());
    assert!(!running.call(&["cap", "acme", "2000000"]).status.success());
    assert!(!running.call(&["log-filter", "x=y=z"]).status.success());
    private(&running.config(), "nonsense = 1\n");
    assert!(!running.call(&["reload"]).status.success());
    let all = records(&running.audit());
    for (action, result, reason) in [
        ("session.revoke", "refused", "SESSION_UNKNOWN"),
        ("tenant.suspend", "refused", "TENANT_MALFORMED"),
        ("tenant.cap", "refused", "INVALID_FIELD"),
        ("log.filter", "refused", "INVALID_FIELD"),
        ("config.reload", "failed", "RELOAD_FAILED"),
    ] {
        let found = of(&all, action, result);
        assert!(found.iter().any(|of| of["reason"] == reason), "{action}: {all:?}");
    }
    assert_eq!(of(&all, "tenant.cap", "refused")[0]["tenant"], "acme");
    assert!(of(&all, "tenant.suspend", "refused")[0]["tenant"].is_null());
    assert!(!fs::read_to_string(running.audit()).unwrap().contains('\u{7}'));
    is_whole(&running.audit());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_call_and_a_changed_right_are_recorded_with_the_name_of_the_identity() {
    let with = |roles: &str| {
        let hash = tenantd::domain::access::TokenHash::of("agent-token").hex();
        format!(
            "[tenants.acme]\n[[identities]]\nname='bots'\nroles=[{roles}]\ntenants=['acme']\ntokens=['sha256:{hash}']\n"
        )
    };
    let running = Start { config: &with("'agent'"), ..Start::default() }.run();
    let channel = running.channel().await;
    let as_bot = |mut request: tonic::Request<()>| {
        request.metadata_mut().insert("authorization", "Bearer agent-token".parse().unwrap());
        Ok(request)
    };
    let mut admin = AdminServiceClient::with_interceptor(channel.clone(), as_bot);
    let asked = v1::SuspendTenantRequest { tenant: "acme".to_owned(), note: "mine".to_owned() };
    admin.suspend_tenant(asked).await.unwrap_err();
    let mut watch = WatchServiceClient::with_interceptor(channel, as_bot);
    watch.get_snapshot(v1::GetSnapshotRequest::default()).await.unwrap_err();
    private(&running.config(), &with("'agent', 'viewer'"));
    eventually("all is recorded", || {
        let all = records(&running.audit());
        !of(&all, "config.reload", "ok").is_empty()
            && !of(&all, "access.denied", "refused").is_empty()
    });
    let all = records(&running.audit());
    let suspend = of(&all, "tenant.suspend", "refused")[0];
    assert_eq!((&suspend["actor"], &suspend["tenant"]), (&"bots".into(), &"acme".into()));
    assert_eq!((&suspend["reason"], &suspend["note"]), (&"NOT_PERMITTED".into(), &"mine".into()));
    assert!(of(&all, "tenant.suspend", "begun").is_empty(), "{all:?}");
    let denied = of(&all, "access.denied", "refused");
    assert_eq!(denied.len(), 1, "an operator's is not told twice: {denied:?}");
    assert_eq!(denied[0]["actor"], "bots");
    assert_eq!(denied[0]["asked"]["rpc"], "WatchService/GetSnapshot");
    let reload = of(&all, "config.reload", "ok")[0];
    let right = reload["after"]["identities.bots"].as_str().unwrap();
    assert!(right.starts_with("roles=agent viewer, tenants=acme, tokens="), "{right}");
    let whole = fs::read_to_string(running.audit()).unwrap();
    let hash = tenantd::domain::access::TokenHash::of("agent-token").hex();
    assert!(!whole.contains("agent-token") && !whole.contains(&hash));
}

#[test]
fn an_edit_of_the_config_file_is_recorded_with_what_it_changed() {
    let config = "[limits]\nmax_sessions=100\n[tenants.acme]\ncap=3\n[tenants.gone]\n";
    let running = Start { config, ..Start::default() }.run();
    private(
        &running.config(),
        "[limits]\nmax_sessions=200\n[tenants.acme]\ncap=4\n[tenants.acme.providers.llm]\nprovider='openai'\ncredential='sk-canary'\n",
    );
    eventually("the edit is recorded", || {
        of(&records(&running.audit()), "tenant.config", "ok").len() == 2
    });
    let all = records(&running.audit());
    let reload = of(&all, "config.reload", "ok")[0];
    assert_eq!(reload["actor"], "sidecar");
    assert_eq!(reload["asked"]["because"], "the file changed");
    assert_eq!(reload["before"]["limits.max_sessions"], "100");
    assert_eq!(reload["after"]["limits.max_sessions"], "200");
    assert!(reload["after"]["audit"].is_null(), "only what changed: {reload}");
    assert!(reload["after"]["restart_required"].is_null(), "{reload}");
    let tenants = of(&all, "tenant.config", "ok");
    assert_eq!(tenants[0]["tenant"], "acme");
    assert_eq!(
        (&tenants[0]["before"]["cap"], &tenants[0]["after"]["cap"]),
        (&"3".into(), &"4".into())
    );
    assert_eq!(tenants[0]["after"]["providers.llm"], "openai api_key=(literal)");
    assert_eq!(tenants[1]["tenant"], "gone");
    assert!(!fs::read_to_string(running.audit()).unwrap().contains("canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_a_source_and_a_rotated_key_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", dir.path().join("t.db").display());
    let key = dir.path().join("key");
    private(&key, "first");
    let of_db = |arguments: &[&str]| {
        let output = call("unix:/nowhere", &[arguments, &["--database", &database]].concat());
        assert!(output.status.success(), "{}", text(&output));
    };
    of_db(&["tenants", "init"]);
    of_db(&["tenants", "set", "acme", "cap=5"]);
    let config = format!(
        "[[sources]]\nkind='sql'\nurl='{database}'\npoll='100ms'\n\
         [defaults.providers.llm]\nprovider='x'\ncredential='file:{}'\n",
        key.display()
    );
    let running = Start { config: &config, ..Start::default() }.run();
    let mut sessions = SessionServiceClient::new(running.channel().await);
    sessions.acquire_session(acquire("s", "acme")).await.unwrap();
    of_db(&["tenants", "set", "acme", "cap=50"]);
    eventually("the source's change is recorded", || {
        of(&records(&running.audit()), "tenant.config", "ok").iter().any(|of| {
            of["tenant"] == "acme" && of["before"]["cap"] == "5" && of["after"]["cap"] == "50"
        })
    });
    private(&key, "second-canary");
    eventually("the rotated key is recorded", || {
        of(&records(&running.audit()), "tenant.credentials", "ok")
            .iter()
            .any(|of| of["tenant"] == "acme")
    });
    assert!(!fs::read_to_string(running.audit()).unwrap().contains("canary"));
    is_whole(&running.audit());
}

/// Sets how large a file of the process may become, as a full disk does.
fn room(running: &Running, bytes: &str) {
    let pid = running.child.id().to_string();
    let set = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--fsize={bytes}:")])
        .status()
        .unwrap();
    assert!(set.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_admin_actions_and_admits_sessions() {
    // The audit log's disk, not the state's.
    let config = "[state]\nenabled=false\n[tenants.acme]\ncap=3\n";
    let running = Start { config, ..Start::default() }.run();
    eventually("it has begun", || !records(&running.audit()).is_empty());
    let mut admin = AdminServiceClient::new(running.channel().await);
    let mut sessions = SessionServiceClient::new(running.channel().await);
    // A part of the next record still fits: it must not stay.
    let length = fs::metadata(running.audit()).unwrap().len() + 40;
    room(&running, &length.to_string());
    let asked = || v1::SuspendTenantRequest { tenant: "acme".to_owned(), note: String::new() };
    let refused = admin.suspend_tenant(asked()).await.unwrap_err();
    assert!(refused.message().contains("nothing was done"), "{refused:?}");
    assert!(refused.message().contains("audit.jsonl"), "{refused:?}");
    let said = text(&running.call(&["suspend", "acme"]));
    assert!(said.contains("refused: AUDIT_UNAVAILABLE"), "{said}");
    for n in 0..50 {
        sessions.acquire_session(acquire(&format!("s{n}"), "acme")).await.unwrap();
        sessions.release_session(release(&format!("s{n}"))).await.unwrap();
    }
    // Who edits the file is heeded, and it is recorded when that is possible again.
    private(&running.config(), "[state]\nenabled=false\n[tenants.acme]\ncap=4\n");
    eventually("the edit holds", || {
        text(&running.call(&["tenants", "acme"])).contains("cap                      4")
    });
    is_whole(&running.audit());
    room(&running, "unlimited");
    eventually("what waited is recorded by itself", || {
        let all = records(&running.audit());
        of(&all, "tenant.config", "ok").iter().any(|of| of["after"]["cap"] == "4")
    });
    admin.suspend_tenant(asked()).await.unwrap();
    let all = records(&running.audit());
    assert_eq!(of(&all, "tenant.suspend", "ok").len(), 1, "{all:?}");
    assert_eq!(of(&all, "tenant.suspend", "begun").len(), 1, "{all:?}");
    is_whole(&running.audit());
    assert!(running.said().contains("the audit log takes no records"));
    assert!(running.said().contains("the audit log takes records again"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_holds_up_no_acquire_and_no_read_of_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    private(&key, "sk-1");
    let config =
        format!("[defaults.providers.llm]\nprovider='x'\ncredential='file:{}'\n", key.display());
    let mut running = Start { config: &config, ..Start::default() }.run();
    eventually("it has begun", || !records(&running.audit()).is_empty());
    // As a hung disk: whoever writes waits.
    let lock = File::open(running.audit().with_file_name("audit.jsonl.lock")).unwrap();
    lock.lock().unwrap();
    let admin = AdminServiceClient::new(running.channel().await);
    let mut sessions = SessionServiceClient::new(running.channel().await);
    // More than one process may have under way, and than there are threads that may block.
    let waiting: Vec<_> = (0..600)
        .map(|_| {
            let mut admin = admin.clone();
            let asked = v1::SuspendTenantRequest { tenant: "acme".into(), note: String::new() };
            tokio::spawn(async move { admin.suspend_tenant(asked).await })
        })
        .collect();
    for n in 0..50 {
        // A new key each time, which a thread that may block reads.
        private(&key, &format!("sk-{n}"));
        sessions.acquire_session(acquire(&format!("s{n}"), &format!("t{n}"))).await.unwrap();
        sessions.release_session(release(&format!("s{n}"))).await.unwrap();
    }
    let mut waited = 0;
    for waiting in waiting {
        // They waited all the while, and did nothing; what was too many never waited.
        let refused = waiting.await.unwrap().unwrap_err();
        let too_many = refused.message().contains("as many as may be");
        assert!(too_many || refused.message().contains("nothing was done"), "{refused:?}");
        waited += u32::from(!too_many);
    }
    assert!(waited >= 500, "{waited}");
    lock.unlock().unwrap();
    eventually("what was refused is recorded by itself", || {
        let all = records(&running.audit());
        of(&all, "tenant.suspend", "refused").iter().any(|of| of["reason"] == "AUDIT_UNAVAILABLE")
    });
    fine(&running, &["suspend", "acme"]);
    is_whole(&running.audit());
    lock.lock().unwrap();
    running.signal("TERM");
    let status = running.child.wait().unwrap();
    assert!(status.success(), "it ends all the same: {status:?}");
}

#[test]
fn a_torn_last_line_is_told_at_the_start_and_recorded() {
    let state = tempfile::tempdir().unwrap();
    let home = state.path().to_str().unwrap();
    let path = state.path().join("tenantd/audit.jsonl");
    let env = [("XDG_STATE_HOME", home)];
    let mut first = Start { env: &env, ..Start::default() }.run();
    eventually("it has begun", || !records(&path).is_empty());
    let _ = first.child.kill();
    first.ends();
    File::options().append(true).open(&path).unwrap().write_all(b"{\"sequence\":2,\"ti").unwrap();
    let told = call("unix:/nowhere", &["audit", "verify", path.to_str().unwrap()]);
    assert_eq!(told.status.code(), Some(1));
    assert!(text(&told).contains("audit.jsonl:2: the last line is torn"), "{}", text(&told));
    let second = Start { env: &env, ..Start::default() }.run();
    assert!(second.said().contains("was not left as it was written"), "{}", second.said());
    let actions: Vec<_> = records(&path).iter().map(|of| of["action"].clone()).collect();
    assert_eq!(actions, ["sidecar.start", "audit.recovered", "sidecar.start"]);
    is_whole(&path);
}

#[test]
fn the_log_is_rotated_and_whole_over_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log/audit.jsonl");
    let config =
        format!("[audit]\npath='{}'\nmax_bytes=65536\nkeep=2\n[tenants.acme]\n", path.display());
    let running = Start { config: &config, ..Start::default() }.run();
    let note = "x".repeat(1000);
    for _ in 0..130 {
        fine(&running, &["suspend", "acme", "--note", &note]);
    }
    is_whole(&path);
    let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(files, 1 + 2 + 2, "the log, two before it, its head and its lock");
    let proven = call("unix:/nowhere", &["audit", "verify", path.to_str().unwrap(), "--json"]);
    let proven: Value = serde_json::from_slice(&proven.stdout).unwrap();
    assert!(proven["first"].as_u64().unwrap() > 1 && proven["problems"] == serde_json::json!([]));
    let by_config =
        call("unix:/nowhere", &["audit", "verify", "--config", running.config().to_str().unwrap()]);
    assert!(text(&by_config).contains("whole"), "{}", text(&by_config));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refused_calls_does_not_fill_the_disk_and_is_counted() {
    let max = tenantd::app::audit::REFUSALS_PER_MINUTE as usize;
    let running = Start { config: "[tenants.acme]\n", ..Start::default() }.run();
    let admin = AdminServiceClient::new(running.channel().await);
    for _ in 0..(max + 100).div_ceil(50) {
        let calls = (0..50).map(|_| {
            let mut admin = admin.clone();
            let asked = v1::SuspendTenantRequest { tenant: "a b".into(), note: String::new() };
            async move { admin.suspend_tenant(asked).await.unwrap_err() }
        });
        futures_util::future::join_all(calls).await;
    }
    eventually("those left out are counted", || {
        of(&records(&running.audit()), "audit.left_out", "ok")
            .iter()
            .any(|of| of["after"]["refusals"].as_u64().is_some_and(|count| count >= 100))
    });
    let recorded = of(&records(&running.audit()), "tenant.suspend", "refused").len();
    assert!(recorded <= 2 * max, "{recorded}");
}

#[test]
fn where_the_config_says_so_no_audit_log_is_kept_and_admin_actions_work() {
    let config = "[audit]\npath='none'\n[tenants.acme]\n";
    let running = Start { config, ..Start::default() }.run();
    fine(&running, &["suspend", "acme"]);
    assert!(!running.audit().exists());
}
