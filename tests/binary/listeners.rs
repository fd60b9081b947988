use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    os::unix::process::CommandExt as _,
    process::Command,
};

use tenantd::wire::v1::session_service_client::SessionServiceClient;

use crate::certificates::{Authority, Files, Wish};
use crate::support::{Start, acquire, call, eventually, skipped, text};

#[test]
fn loopback_tcp_serves_beside_the_socket_and_warns() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let running = Start { listen: &[&free.to_string()], ..Start::default() }.run();
    let said = running.said();
    let at = said.find("http://127.0.0.1:").expect("the banner names the port");
    let address = said[at..].split_whitespace().next().unwrap();
    assert_eq!(call(address, &["healthcheck"]).status.code(), Some(0));
    assert_eq!(running.call(&["healthcheck"]).status.code(), Some(0));
    assert!(said.contains("no credentials"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_dealt_out_over_as_many_threads_as_asked() {
    let running = Start { env: &[("TENANTD_THREADS", "3")], ..Start::default() }.run();
    let woken = || -> Vec<(String, u64)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", running.child.id())).unwrap();
        let read = |at: &std::path::Path| fs::read_to_string(at).unwrap_or_default();
        let mut threads: Vec<_> = tasks
            .map(|task| task.unwrap().path())
            .map(|task| (read(&task.join("comm")).trim().to_owned(), read(&task.join("status"))))
            .filter(|(name, _)| name.starts_with("serve-"))
            .map(|(name, status)| {
                let woken = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
                (name, woken.unwrap().trim().parse().unwrap())
            })
            .collect();
        threads.sort();
        threads
    };
    // A thread takes its name when it first runs.
    let names = || woken().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    eventually("three threads", || names() == ["serve-0", "serve-1", "serve-2"]);
    let before = woken();
    let mut kept = Vec::new();
    for n in 0..3 {
        let mut sessions = SessionServiceClient::new(running.channel().await);
        sessions.acquire_session(acquire(&format!("s{n}"), "acme")).await.unwrap();
        kept.push(sessions);
    }
    eventually("each thread has served one", || {
        woken().iter().zip(&before).all(|(now, before)| now.1 > before.1)
    });
}

#[test]
fn an_unsafe_start_is_refused_with_the_settings_that_make_it_safe() {
    let token = format!("sha256:{}", "0".repeat(64));
    let tls = "[listen.tls]\ncert_file='c.pem'\nkey_file='c.key'\n";
    let identity = "[[identities]]\nname='a'\nroles=['agent']\ntenants=['*']\n";
    let by_user = format!("{tls}{identity}uids=[7]\n");
    let by_name = format!("{tls}{identity}uris=['spiffe://x/a']\n");
    let by_token = format!("{identity}tokens=['{token}']\n");
    let missing = format!("{tls}{by_token}");
    let none = "# the defaults\n";
    let cases = [
        (none, "0.0.0.0:1", "it needs TLS, listen.tls with cert_file and key_file"),
        (none, "[::]:1", "it needs TLS"),
        (none, "192.0.2.1:7443", "it needs TLS"),
        (none, "https://127.0.0.1:1", "needs listen.tls with cert_file and key_file"),
        (&by_token, "0.0.0.0:1", "it needs TLS"),
        (tls, "0.0.0.0:1", "it needs [[identities]] with tokens"),
        (&by_user, "0.0.0.0:1", "it needs [[identities]] with tokens"),
        (&by_name, "0.0.0.0:1", "uris: needs listen.tls.client_ca_file"),
        (&missing, "0.0.0.0:1", "listen.tls.cert_file"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("t.toml");
    for (text_of, listen, says) in cases {
        crate::support::private(&config, text_of);
        let output = call(
            "unix:/nonexistent",
            &["serve", "--config", config.to_str().unwrap(), "--listen", listen],
        );
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{listen}: {said}");
        assert!(said.contains(says), "{listen}: {said}");
    }
}

#[test]
fn a_command_shows_its_token_and_certificate_over_tls() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&servers.server(), &clients.pem());
    let token = "tnd_0123456789abcdef0123456789abcdef";
    let hash = tenantd::domain::access::TokenHash::of(token).hex();
    let config = format!(
        "{}[[identities]]\nname='ops'\nroles=['admin']\ntenants=['*']\nuris=['spiffe://x/ops']\n\
         [[identities]]\nname='support'\nroles=['viewer']\ntenants=['acme']\ntokens=['sha256:{hash}']\n",
        files.config("optional"),
    );
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let running = Start { config: &config, listen: &[&free.to_string()], ..Start::default() }.run();
    assert!(running.said().contains(&format!("https://{free}  (TLS;")), "{}", running.said());
    let ops = clients.issue(Wish { uri: "spiffe://x/ops", ..Wish::default() });
    let place = |name: &str, text: &str| {
        crate::support::private(&files.path(name), text);
        files.path(name).display().to_string()
    };
    let (ca, cert, key) = (
        place("ca.pem", &servers.pem()),
        place("ops.pem", &ops.certificate),
        place("ops.key", &ops.key),
    );
    let (good, wrong) = (place("token", &format!("{token}\n")), place("wrong", &"x".repeat(40)));
    let address = format!("https://localhost:{}", free.port());
    let run = |env: &[(&str, &str)], arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenantd"));
        command.args(arguments).env("TENANTD_ADDRESS", &address).envs(env.iter().copied());
        let output = command.output().unwrap();
        let said = text(&output);
        assert!(!said.contains(token), "the token is shown: {said}");
        (output.status.code(), said)
    };
    let certified =
        [("TENANTD_CA_FILE", &*ca), ("TENANTD_CERT_FILE", &cert), ("TENANTD_KEY_FILE", &key)];
    let (code, said) = run(&certified, &["suspend", "acme", "--note", "n"]);
    assert_eq!(code, Some(0), "{said}");
    let flags = ["--ca-file", &ca, "--token-file", &good, "tenants", "acme", "--json"];
    let (code, said) = run(&[], &flags);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"suspended_by\":\"ops\""), "{said}");
    let by_env = [("TENANTD_CA_FILE", &*ca), ("TENANTD_TOKEN", token)];
    assert_eq!(run(&by_env, &["tenants"]).0, Some(0));
    let cases = [
        (
            &[("TENANTD_CA_FILE", &*ca), ("TENANTD_TOKEN_FILE", &*good)][..],
            "resume",
            1,
            "NOT_PERMITTED",
        ),
        (
            &[("TENANTD_CA_FILE", &*ca), ("TENANTD_TOKEN_FILE", &*wrong)],
            "resume",
            1,
            "NOT_PERMITTED",
        ),
        (&[("TENANTD_CA_FILE", &*ca)], "resume", 1, "NOT_PERMITTED"),
        (
            &[("TENANTD_CA_FILE", &*cert)],
            "resume",
            69,
            "is TENANTD_CA_FILE or --ca-file who signed",
        ),
        (&[], "resume", 69, "no sidecar answers"),
        (&[("TENANTD_CERT_FILE", &*cert)], "resume", 1, "go together"),
        (&[("TENANTD_TOKEN_FILE", &*good), ("TENANTD_TOKEN", token)], "resume", 1, "set one"),
        (&[("TENANTD_TOKEN_FILE", "/nonexistent")], "resume", 1, "the token cannot be read"),
        (
            &[("TENANTD_ADDRESS", "http://192.0.2.1:1"), ("TENANTD_TOKEN", token)],
            "resume",
            1,
            "not in clear",
        ),
    ];
    for (env, command, want, says) in cases {
        let (code, said) = run(env, &[command, "acme"]);
        assert_eq!(code, Some(want), "{env:?}: {said}");
        assert!(said.contains(says), "{env:?}: {said}");
    }
}

#[test]
fn a_check_tries_the_listeners_certificates() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&servers.server(), &clients.pem());
    let config = files.path("t.toml");
    crate::support::private(&config, &files.config("required"));
    let check = || call("unix:/nonexistent", &["check", "--resolve", config.to_str().unwrap()]);
    let output = check();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("listen.tls"), "{}", text(&output));
    // A key of another certificate.
    crate::support::private(&files.path("server.key"), &servers.server().key);
    let output = check();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("listen.tls.key_file") && !said.contains("BEGIN"), "{said}");
}

#[test]
fn a_certificate_that_ends_soon_is_told_in_the_log_in_figures_and_by_a_check() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let left = |days_left| {
        servers.issue(Wish { dns: "localhost", server: true, days_left, ..Wish::default() })
    };
    let files = Files::new(&left(5), &clients.pem());
    let scraped = crate::support::free();
    let config = files.config("required") + &format!("[telemetry]\nprometheus='{scraped}'\n");
    let free = crate::support::free().to_string();
    let running = Start { config: &config, listen: &[&free], ..Start::default() }.run();
    let is_said = |what: &str| eventually(what, || running.said().contains(what));
    is_said("listen.tls.cert_file ends in 5 days: renew it");
    assert!(!running.said().contains("listen.tls.client_ca_file"), "{}", running.said());
    // A figure of one file, as it is scraped.
    let figure = |name: &str, file: &str| -> Option<u64> {
        let told = crate::telemetry::scrape(scraped);
        let of = format!("file=\"{file}\"");
        let line = told.lines().find(|line| line.starts_with(name) && line.contains(&of))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let expiring = |file| figure("tenantd_tls_expiring{", file);
    eventually("the figures", || expiring("cert_file") == Some(1));
    assert_eq!(expiring("client_ca_file"), Some(0));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let days =
        (figure("tenantd_tls_expiry_seconds{", "cert_file").unwrap() - now.as_secs()) / 86_400;
    assert_eq!(days, 5);
    let path = running.config();
    let check = || call("unix:/nonexistent", &["check", "--resolve", path.to_str().unwrap()]);
    let output = check();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("cert_file ends in 5 days"), "{}", text(&output));
    // Renewed, and nobody needs to be told any more.
    files.serve(&left(60));
    eventually("the new one's figures", || expiring("cert_file") == Some(0));
    // Left to itself.
    files.serve(&left(-3));
    is_said("listen.tls.cert_file ended 2 days ago: renew it");
    let output = check();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("cert_file ended 2 days ago"), "{}", text(&output));
}

#[test]
fn the_socket_has_the_mode_and_group_of_the_config_and_a_new_folder_lets_them_through() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("new/s.sock");
    let root = rustix::process::getuid().is_root();
    let gid = if root { 65_534 } else { rustix::process::getgid().as_raw() };
    let config = format!("[listen]\nunix_mode='0660'\nunix_gid={gid}\n");
    let address = format!("unix:{}", socket.display());
    let running = Start { config: &config, listen: &[&address], ..Start::default() }.run();
    for (path, mode) in [(socket.as_path(), 0o660), (socket.parent().unwrap(), 0o710)] {
        let of = fs::metadata(path).unwrap();
        assert_eq!(of.permissions().mode() & 0o7777, mode, "{}", path.display());
        assert_eq!(of.gid(), gid, "{}", path.display());
    }
    drop(running);
    let running = Start {
        config: "[[identities]]\nname='a'\nroles=['agent']\ntenants=['*']\nuids=[7]",
        ..Start::default()
    }
    .run();
    assert!(running.said().contains("listen.unix_mode"), "users that it keeps out are warned of");
}

#[test]
fn the_socket_is_private_and_a_second_sidecar_does_not_take_it() {
    let running = Start::default().run();
    let mode = fs::metadata(running.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let output = call("unix:/nonexistent", &["serve", "--listen", &running.address()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("another process serves"), "{}", text(&output));
    assert_eq!(running.call(&["healthcheck"]).status.code(), Some(0), "the first goes on");
}

#[test]
fn another_user_is_refused_even_when_the_mode_lets_him_in() {
    if !rustix::process::getuid().is_root() {
        skipped("calling as another user needs root");
        return;
    }
    let running = Start::default().run();
    let binary = running.dir.path().join("tenantd");
    crate::support::copy(std::path::Path::new(env!("CARGO_BIN_EXE_tenantd")), &binary);
    fs::set_permissions(running.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(running.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    for arguments in [&["tenants"][..], &["snapshot"], &["suspend", "acme"], &["watch"]] {
        let output = Command::new(&binary)
            .args(arguments)
            .env("TENANTD_ADDRESS", running.address())
            .uid(65_534)
            .gid(65_534)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output).contains("NOT_PERMITTED"), "{arguments:?}: {}", text(&output));
        assert!(output.stdout.is_empty());
    }
}
