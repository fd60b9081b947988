//! A real PostgreSQL: changes by NOTIFY, its death and its return, one tenant's
//! slow query.

use std::{
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rcgen::ExtendedKeyUsagePurpose;

use crate::{
    backend::entry,
    certificates::Certificates,
    sqlite::{put, with},
    support::{eventually, reason, start},
    watcher::{Worker, eventually_model, kinds, model, session_config, snapshot, try_acquire},
};

/// Who runs it where the tests run as root, whom it refuses.
const NOBODY: u32 = 65534;

/// A server of one test, on a socket of its own.
pub struct Server {
    dir: tempfile::TempDir,
    bin: PathBuf,
    child: Option<Child>,
    port: u16,
    /// Settings beside the usual.
    settings: Vec<String>,
}

impl Server {
    /// None, with a word, where it cannot be installed.
    pub fn start() -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres.sh");
        let found = Command::new(script).output().unwrap();
        if !found.status.success() {
            crate::skipped(&String::from_utf8_lossy(&found.stderr));
            return None;
        }
        let bin = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
        let dir = tempfile::tempdir().unwrap();
        if rustix::process::getuid().is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut server = Self { dir, bin, child: None, port: 5432, settings: Vec::new() };
        let made = server
            .command("initdb")
            .args(["-U", "tenantd", "-A", "trust", "--no-sync", "-D"])
            .arg(server.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.up();
        Some(server)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.dir.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        if rustix::process::getuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn up(&mut self) {
        let child = self
            .command("postgres")
            .stderr(Stdio::null())
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(self.dir.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .args(&self.settings)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let ready = self
                .command("pg_isready")
                .arg("-q")
                .arg(format!("--port={}", self.port))
                .arg("-h")
                .arg(self.dir.path())
                .status();
            if ready.unwrap().success() {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "PostgreSQL does not start");
            std::thread::yield_now();
        }
    }

    /// From its next start on it takes TCP connections, over TLS; the port.
    fn listen_with(&mut self, certificates: &Certificates, name: &str) -> u16 {
        use std::os::unix::fs::PermissionsExt as _;
        for end in ["pem", "key"] {
            let to = self.dir.path().join(format!("server.{end}"));
            std::fs::copy(certificates.path(name, end), &to).unwrap();
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
            if rustix::process::getuid().is_root() {
                chown(&to, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        self.port = free.local_addr().unwrap().port();
        drop(free);
        let file = |end| self.dir.path().join(format!("server.{end}")).display().to_string();
        self.settings = [
            "listen_addresses=localhost".to_owned(),
            format!("port={}", self.port),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", file("pem")),
            format!("ssl_key_file={}", file("key")),
        ]
        .into_iter()
        .flat_map(|setting| ["-c".to_owned(), setting])
        .collect();
        self.port
    }

    /// Ends it with all its connections.
    pub fn down(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = child.wait();
    }

    pub fn url(&self) -> String {
        format!("postgres://tenantd@localhost/postgres?host={}", self.dir.path().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_at_once_and_reaches_live_sessions() {
    let Some(server) = Server::start() else { return };
    let database = with(&server.url(), &[]).await;
    let running = start(&format!(
        "unknown_tenants='reject'\n[[sources]]\nkind='sql'\nurl='{}'\nttl='1h'\nnegative_ttl='1h'",
        server.url()
    ))
    .await;
    assert_eq!(model(&running, "acme").await.unwrap_err(), "TENANT_UNKNOWN");
    put(&*database, &[("acme", entry(2))]).await;
    eventually_model(&running, "acme", Ok("m2")).await;
    let mut worker = Worker::start(&running, "w").await;
    worker.acquire(&running, "live", "acme").await;
    put(&*database, &[("acme", entry(9))]).await;
    let changed = worker.config_changed().await;
    let now = session_config(&running, "live").await;
    assert_eq!((now.version, now.providers["llm"].model.as_str()), (changed.version, "m9"));
    database.remove("acme").await.unwrap();
    assert_eq!(worker.config_changed().await.version, "");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_death_serves_what_is_known_and_its_return_needs_no_restart() {
    let Some(mut server) = Server::start() else { return };
    let database = with(&server.url(), &[("acme", entry(50)), ("globex", entry(50))]).await;
    let running = start(&format!(
        "[[sources]]\nkind='sql'\nurl='{}'\nttl='1s'\nstale_for='1h'\ntimeout='2s'",
        server.url()
    ))
    .await;
    let mut worker = Worker::start(&running, "w").await;
    worker.acquire(&running, "live", "acme").await;
    server.down();
    eventually("what is known is served as stale", || async {
        try_acquire(&running, "acme").await.unwrap().config.unwrap().stale
    })
    .await;
    let refused = try_acquire(&running, "globex").await.unwrap_err();
    assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE", "nothing is known of it");
    assert!(session_config(&running, "live").await.stale, "live sessions go on");
    assert!(kinds(&running, "acme").await.contains(&"tenant_config_failed"));
    let source = snapshot(&running).await.sources.remove(0);
    assert!(source.stale_hits > 0 && !source.last_error.is_empty(), "{source:?}");
    server.up();
    eventually("it is fresh again", || async {
        let acme = try_acquire(&running, "acme").await.unwrap().config.unwrap();
        !acme.stale && model(&running, "globex").await.is_ok()
    })
    .await;
    assert!(kinds(&running, "acme").await.contains(&"tenant_config_recovered"));
    // The channel is heard again too.
    let told = || async {
        put(&*database, &[("acme", entry(60))]).await;
        model(&running, "acme").await.as_deref() == Ok("m60")
    };
    eventually("changes are told again", told).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_slow_query_delays_no_other() {
    let Some(server) = Server::start() else { return };
    with(&server.url(), &[("acme", entry(50)), ("globex", entry(50))]).await;
    let running = start(&format!(
        "[[sources]]\nkind='sql'\nurl='{}'\nttl='1s'\ntimeout='3s'\nmax_connections=2\nquery='''
SELECT tenant, config, CASE WHEN tenant = 'acme' THEN pg_sleep(30)::text END AS labels
FROM tenantd_tenants WHERE tenant = $1'''",
        server.url()
    ))
    .await;
    let slow = tokio::spawn({
        let mut sessions = running.sessions().await;
        async move { sessions.acquire_session(crate::support::acquire("slow", "acme")).await }
    });
    eventually("acme is being asked about", || async {
        snapshot(&running).await.sources[0].loads > 0
    })
    .await;
    for _ in 0..50 {
        assert_eq!(model(&running, "globex").await.as_deref(), Ok("m50"));
    }
    assert!(!slow.is_finished(), "fifty sessions of globex came before the timeout of acme");
    let refused = slow.await.unwrap().unwrap_err();
    assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE");
    assert!(refused.message().contains("did not answer within 3s"), "{}", refused.message());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_types_are_said_by_column_and_without_the_value() {
    let Some(server) = Server::start() else { return };
    with(&server.url(), &[("words", entry(5)), ("cast", entry(5))]).await;
    let running = start(&format!(
        "[[sources]]\nkind='sql'\nurl='{}'\nquery='''
SELECT CASE WHEN $1 = 'cast' THEN (('sk-canary' || tenant)::int)::text ELSE 'sk-canary' END AS cap
FROM tenantd_tenants WHERE tenant = $1'''",
        server.url()
    ))
    .await;
    for (tenant, says) in [("words", "cap: must be a whole number"), ("cast", "error 22P02")] {
        let refused = try_acquire(&running, tenant).await.unwrap_err();
        assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE");
        assert!(refused.message().contains(says), "{}", refused.message());
        assert!(!refused.message().contains("canary"), "{}", refused.message());
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_certificate_is_checked() {
    let Some(mut server) = Server::start() else { return };
    with(&server.url(), &[("acme", entry(5))]).await;
    let certificates = Certificates::new();
    let usage = ExtendedKeyUsagePurpose::ServerAuth;
    certificates.issue("good", "localhost", false, usage.clone());
    certificates.issue("expired", "localhost", true, usage);
    let stranger = Certificates::new();
    let (ca, wrong_ca) = (certificates.path("ca", "pem"), stranger.path("ca", "pem"));
    for (name, ca, says) in [
        ("good", &ca, None),
        ("expired", &ca, Some("invalid peer certificate: certificate expired")),
        ("good", &wrong_ca, Some("invalid peer certificate")),
    ] {
        server.down();
        let port = server.listen_with(&certificates, name);
        server.up();
        let running = start(&format!(
            "[[sources]]\nkind='sql'\nurl='postgres://tenantd@localhost:{port}/postgres\
             ?sslmode=verify-full&sslrootcert={}'",
            ca.display()
        ))
        .await;
        let granted = try_acquire(&running, "acme").await;
        match says {
            None => assert!(granted.unwrap().config.unwrap().tenant_known),
            Some(says) => {
                let refused = granted.unwrap_err();
                assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE");
                assert!(refused.message().contains(says), "{name}: {}", refused.message());
            }
        }
        running.stop().await;
    }
}
