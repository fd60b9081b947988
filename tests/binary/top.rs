//! `tenantd top` in a real terminal, tmux's, against a real sidecar.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use tenantd::{
    address::Address,
    cli::top::{
        feed::{self, Asked},
        model::Fed,
        terminal::Screen,
    },
    wire::v1::{self, session_service_client::SessionServiceClient, watch_sessions_response::Item},
};

use crate::support::{Running, Start, acquire, skipped, text};

const CONFIG: &str = "[tenants.acme]\ncap = 4\n[tenants.small]\ncap = 1\n";

/// One terminal, with a shell's command in it.
struct Terminal(String);

impl Terminal {
    fn start(name: &str, command: &str) -> Option<Self> {
        // Once: apt does not like to be asked twice at a time.
        static INSTALLED: LazyLock<bool> = LazyLock::new(|| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/tmux.sh");
            Command::new(script).stdout(Stdio::null()).status().unwrap().success()
        });
        if !*INSTALLED {
            skipped("tmux is not installed");
            return None;
        }
        // A tmux server of its own, which no other test or person uses.
        let terminal = Self(format!("tenantd-{name}-{}", std::process::id()));
        // What was on the screen before, and how the terminal is afterwards.
        let shell = format!("echo before; {command}; echo exit=$?; stty -a; exec sleep 600");
        let started = terminal
            .command(&["new-session", "-d", "-x", "80", "-y", "24", &shell])
            .env("LANG", "C.UTF-8")
            .env_remove("LC_ALL")
            .env_remove("NO_COLOR")
            .output()
            .unwrap();
        assert!(started.status.success(), "{}", text(&started));
        Some(terminal)
    }

    /// `top` of a running sidecar.
    fn top(name: &str, address: &str) -> Option<Self> {
        let top = env!("CARGO_BIN_EXE_tenantd");
        Self::start(name, &format!("{top} --address {address} top --refresh 200ms"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-f", "/dev/null", "-L", &self.0]).args(arguments);
        command
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn shows(&self) -> String {
        String::from_utf8(self.tmux(&["capture-pane", "-p"]).stdout).unwrap()
    }

    /// Alternate screen, cursor, mouse.
    fn state(&self) -> String {
        let asked = "#{alternate_on} #{cursor_flag} #{mouse_any_flag}";
        text(&self.tmux(&["display-message", "-p", asked])).trim().to_owned()
    }

    fn keys(&self, keys: &[&str]) {
        let said = self.tmux(&[&["send-keys"], keys].concat());
        assert!(said.status.success(), "{}", text(&said));
    }

    /// Sends one to what the shell runs.
    fn signal(&self, name: &str) {
        let shell = text(&self.tmux(&["display-message", "-p", "#{pane_pid}"]));
        let shell = shell.trim();
        let child = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        let sent = Command::new("kill").args(["-s", name, child.trim()]).status().unwrap();
        assert!(sent.success(), "{child}");
    }

    fn waits_for(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let screen = self.shows();
            if holds(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "gave up waiting for {what}:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As it was before: what was on the screen, the cursor, lines and echo.
    fn is_given_back(&self, exit: &str) {
        let screen = self.waits_for("the end", |screen| screen.contains("exit="));
        assert!(screen.contains("before") && screen.contains(exit), "{screen}");
        self.waits_for("its settings", |screen| screen.contains("icanon"));
        let screen = self.shows();
        assert!(!screen.contains("-icanon") && !screen.contains("-echo "), "{screen}");
        assert_eq!(self.state(), "0 1 0", "alternate screen, cursor, mouse");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

/// The row of a tenant.
fn row<'a>(screen: &'a str, tenant: &str) -> &'a str {
    screen.lines().find(|line| line.starts_with(&format!("{tenant} "))).unwrap_or_default()
}

async fn hold(running: &Running, id: &str, tenant: &str) -> Result<(), tonic::Status> {
    let mut sessions = SessionServiceClient::new(running.channel().await);
    // Nobody renews it: it must outlive a test on a machine that is busy.
    let ttl = Some(prost_types::Duration { seconds: 600, nanos: 0 });
    let asked = v1::AcquireSessionRequest { ttl, ..acquire(id, tenant) };
    sessions.acquire_session(asked).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_filters_acts_and_survives_a_restart() {
    let mut running = Start { config: CONFIG, ..Start::default() }.run();
    hold(&running, "AJ_1", "small").await.unwrap();
    let Some(top) = Terminal::top("use", &running.address()) else { return };
    top.waits_for("what is live", |screen| row(screen, "small").contains("1/1"));

    hold(&running, "AJ_2", "acme").await.unwrap();
    hold(&running, "AJ_3", "small").await.unwrap_err();
    let screen = top.waits_for("what happens", |screen| {
        row(screen, "acme").contains("1/4") && screen.contains("TENANT_AT_CAP")
    });
    assert!(screen.contains("live 2/"), "{screen}");
    assert_eq!(top.state(), "1 0 1", "the screen taken over, the mouse heard");

    top.keys(&["/", "a", "c", "m", "Enter"]);
    top.waits_for("the filter", |screen| {
        !row(screen, "acme").is_empty() && row(screen, "small").is_empty()
    });
    top.keys(&["S"]);
    top.waits_for("the question", |screen| screen.contains("suspend tenant acme?"));
    let standing = || text(&running.call(&["tenants", "acme", "--json"]));
    assert!(!standing().contains("key leaked"));
    // Pasted, an end of line is no confirmation.
    top.tmux(&["set-buffer", "key leaked\nq\n"]);
    top.tmux(&["paste-buffer", "-p"]);
    top.waits_for("the note", |screen| screen.contains("note: key leaked_"));
    top.keys(&["Enter"]);
    top.waits_for("the suspension", |screen| {
        row(screen, "acme").contains("suspended") && screen.contains("done: suspend tenant acme")
    });
    assert!(standing().contains("key leaked"), "{}", standing());
    hold(&running, "AJ_4", "acme").await.unwrap_err();

    top.keys(&["Escape"]);
    top.waits_for("all tenants", |screen| !row(screen, "small").is_empty());
    top.keys(&["Tab"]);
    top.waits_for("sessions", |screen| screen.contains("SESSION") && screen.contains("AJ_2"));
    running.restart("KILL");
    hold(&running, "AJ_5", "globex").await.unwrap();
    // Those of before came back with it.
    let screen = top.waits_for("the new run", |screen| {
        ["AJ_1", "AJ_2", "AJ_5", "live 3/"].iter().all(|part| screen.contains(part))
    });
    assert!(!screen.contains("reconnecting"), "{screen}");

    running.signal("KILL");
    assert_eq!(running.ends(), None);
    top.waits_for("the loss", |screen| screen.contains("reconnecting"));
    // What was asked for by the end is not lost silently.
    top.keys(&["K", "Enter", "q"]);
    top.waits_for("the failure", |screen| screen.contains("could not revoke session AJ_"));
    top.is_given_back("exit=1");
}

#[test]
fn top_gives_the_terminal_back_on_signals_and_keys() {
    let running = Start { config: CONFIG, ..Start::default() }.run();
    for how in ["TERM", "HUP", "INT", "QUIT", "q", "C-c"] {
        let Some(top) = Terminal::top(how, &running.address()) else { return };
        top.waits_for("a screen", |screen| screen.contains("TENANT"));
        if how.chars().all(|c| c.is_ascii_uppercase()) {
            top.signal(how);
        } else {
            top.keys(&[how]);
        }
        top.is_given_back("exit=0");
    }
}

#[test]
fn top_is_stopped_and_continued_as_a_job_and_drawn_anew() {
    let running = Start { config: CONFIG, ..Start::default() }.run();
    let Some(top) = Terminal::start("job", "exec bash --norc --noprofile -i") else { return };
    let command = format!("{} --address {} top", env!("CARGO_BIN_EXE_tenantd"), running.address());
    top.keys(&[&command, "Enter"]);
    for _ in 0..2 {
        top.waits_for("a screen", |screen| screen.contains("TENANT ") && screen.contains("live"));
        assert_eq!(top.state(), "1 0 1");
        top.keys(&["C-z"]);
        top.waits_for("the shell", |screen| screen.contains("Stopped"));
        assert_eq!(top.state(), "0 1 0");
        top.keys(&["clear; fg", "Enter"]);
    }
    top.waits_for("a screen", |screen| screen.contains("TENANT "));
    // Stopped without a chance to give the terminal back.
    top.signal("STOP");
    top.waits_for("the shell", |screen| screen.contains("Stopped"));
    top.keys(&["fg", "Enter"]);
    top.waits_for("a whole screen", |screen| {
        screen.starts_with("tenantd") && !screen.contains("Stopped")
    });
    top.keys(&["C-l", "?"]);
    top.waits_for("the help", |screen| screen.contains("MOVE"));
    top.tmux(&["resize-window", "-x", "130", "-y", "30"]);
    top.keys(&["Escape"]);
    top.waits_for("the columns of a large one", |screen| screen.contains("STARTED"));
    top.keys(&["q"]);
    top.waits_for("the shell", |screen| !screen.contains("TENANT "));
    assert_eq!(top.state(), "0 1 0");
}

#[test]
fn top_without_a_sidecar_gives_the_terminal_back_and_says_so() {
    let Some(top) = Terminal::top("nobody", "unix:/nonexistent/s.sock") else { return };
    let screen = top.waits_for("the words", |screen| screen.contains("exit="));
    assert!(screen.contains("no sidecar answers at unix:/nonexistent/s.sock"), "{screen}");
    top.is_given_back("exit=69");
}

#[test]
#[ignore = "takes the terminal: run in one by the next test"]
fn panics_with_the_screen_taken() {
    let mut screen = Screen::take().unwrap();
    screen.draw(|frame| frame.render_widget("taken", frame.area())).unwrap();
    std::thread::spawn(|| panic!("on another thread")).join().unwrap_err();
    std::process::exit(3);
}

#[test]
fn top_gives_the_terminal_back_on_a_panic_and_its_words_are_seen() {
    let this = std::env::current_exe().unwrap();
    let this = format!(
        "RUST_BACKTRACE=0 {} --exact --ignored --nocapture top::panics_with_the_screen_taken",
        this.display()
    );
    let Some(top) = Terminal::start("panic", &this) else { return };
    let screen = top.waits_for("the end", |screen| screen.contains("exit=3"));
    assert!(screen.contains("on another thread"), "{screen}");
    top.is_given_back("exit=3");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_and_json_print_the_same_rows() {
    let running = Start { config: CONFIG, ..Start::default() }.run();
    hold(&running, "AJ_1", "small").await.unwrap();
    hold(&running, "AJ_2", "acme").await.unwrap();
    let once = running.call(&["top", "--once", "--refresh", "100ms"]);
    let said = text(&once);
    assert_eq!(once.status.code(), Some(0), "{said}");
    for want in ["TENANT", "1/1", "SESSION", "AJ_2", "closed"] {
        assert!(said.contains(want), "{want}: {said}");
    }
    let full = running.call(&["top", "--once", "--json", "--status", "full", "--refresh", "100ms"]);
    let full: serde_json::Value = serde_json::from_slice(&full.stdout).unwrap();
    assert_eq!(full["tenants"].as_array().unwrap().len(), 1);
    assert_eq!(full["tenants"][0]["tenant"], "small");
    assert_eq!(full["sidecar"]["active_sessions"], 2);
    assert_eq!(full["sessions"].as_array().unwrap().len(), 2);
    let piped = running.call(&["top"]);
    assert_eq!(piped.status.code(), Some(2), "{}", text(&piped));
    assert!(text(&piped).contains("--once"), "{}", text(&piped));
}

/// Stands between, and can break what goes through off.
struct Between {
    path: std::path::PathBuf,
    cut: tokio::sync::watch::Sender<u32>,
}

impl Between {
    fn start(running: &Running) -> Self {
        let path = running.dir.path().join("between.sock");
        let (to, from) = (tokio::net::UnixListener::bind(&path).unwrap(), running.socket());
        let (cut, is_cut) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = to.accept().await {
                let (from, mut is_cut) = (from.clone(), is_cut.clone());
                is_cut.mark_unchanged();
                tokio::spawn(async move {
                    let mut server = tokio::net::UnixStream::connect(from).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = is_cut.changed() => {}
                    }
                });
            }
        });
        Self { path, cut }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_off_is_resumed_after_the_last_event() {
    let running = Start { config: CONFIG, ..Start::default() }.run();
    hold(&running, "AJ_1", "acme").await.unwrap();
    let between = Between::start(&running);
    let target = Address::Unix(between.path.clone()).into();
    let asked =
        Asked { target, tenants: vec![], agents: vec![], refresh: Duration::from_millis(200) };
    let (to, mut heard) = tokio::sync::mpsc::channel(feed::WAITING);
    let feeding = tokio::spawn(feed::run(asked, to));
    let mut next = async || {
        let patience = Duration::from_secs(30);
        loop {
            match tokio::time::timeout(patience, heard.recv()).await.unwrap().unwrap() {
                Fed::Figures(_) | Fed::Stalled(_) | Fed::Item(Item::Heartbeat(_)) => {}
                Fed::Up { resumed } => return format!("up, resumed {resumed}"),
                Fed::Down(_) => return "down".to_owned(),
                Fed::Item(Item::Tenant(tenant)) => return tenant.tenant,
                Fed::Item(Item::Session(session)) => return session.session_id,
                Fed::Item(Item::SnapshotEnd(_)) => return "whole".to_owned(),
                Fed::Item(Item::Event(event)) => return format!("event of {}", event.session_id),
                Fed::Item(Item::Gap(_)) => return "gap".to_owned(),
            }
        }
    };
    for want in ["up, resumed false", "acme", "AJ_1", "whole"] {
        assert_eq!(next().await, want);
    }
    hold(&running, "AJ_2", "acme").await.unwrap();
    assert_eq!(next().await, "event of AJ_2");
    between.cut.send(1).unwrap();
    assert_eq!(next().await, "down");
    hold(&running, "AJ_3", "acme").await.unwrap();
    assert_eq!(next().await, "up, resumed true");
    assert_eq!(next().await, "event of AJ_3", "neither a gap nor a snapshot nor AJ_2 again");
    drop(heard);
    between.cut.send(2).unwrap();
    feeding.await.unwrap().unwrap();
}
