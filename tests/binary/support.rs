//! One process a test, on a private socket, killed at its end.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use tenantd::wire::v1;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_secs(20);

pub struct Running {
    pub child: Child,
    pub dir: tempfile::TempDir,
    /// All that it said on stderr so far.
    said: Arc<Mutex<String>>,
    command: Command,
}

#[derive(Default)]
pub struct Start<'a> {
    pub config: &'a str,
    pub listen: &'a [&'a str],
    pub env: &'a [(&'a str, &'a str)],
    /// Further arguments of `serve`.
    pub with: &'a [&'a str],
    /// What a shell does before it becomes the sidecar.
    pub before: &'a str,
    /// As this user, where the test is root's.
    pub user: Option<u32>,
}

pub fn private(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

/// Copies a program by another process: one of this process's children, started
/// meanwhile, would hold the copy open for writing, and it could not be run.
pub fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().unwrap().success());
}

impl Start<'_> {
    /// Runs it and waits until it says that it is ready.
    pub fn run(self) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("tenantd.toml");
        // One of no bytes is refused.
        private(&config, if self.config.is_empty() { "# defaults" } else { self.config });
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{}\nexec \"$0\" \"$@\"", self.before));
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_tenantd"));
        match self.user.filter(|_| rustix::process::getuid().is_root()) {
            None => _ = command.arg(binary),
            Some(user) => {
                // It need not be able to reach the build's folder.
                let own = dir.path().join("tenantd");
                copy(&binary, &own);
                for path in [dir.path(), &config] {
                    std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
                }
                command.arg(own).uid(user).gid(user);
            }
        }
        command.arg("serve").arg("--config").arg(&config).arg("--listen");
        command.arg(format!("unix:{}", dir.path().join("s.sock").display()));
        command.args(self.with);
        for listen in self.listen {
            command.arg("--listen").arg(listen);
        }
        command.env("XDG_STATE_HOME", dir.path().join("state"));
        command.envs(self.env.iter().copied()).stderr(Stdio::piped());
        let (child, said) = ready(&mut command);
        Running { child, dir, said, command }
    }
}

/// Starts it and waits until it says that it is ready.
fn ready(command: &mut Command) -> (Child, Arc<Mutex<String>>) {
    let mut child = command.spawn().unwrap();
    let (ready, is_ready) = mpsc::channel();
    let said = Arc::new(Mutex::new(String::new()));
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let heard = Arc::clone(&said);
    std::thread::spawn(move || {
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            heard.lock().unwrap().push_str(&line);
            if line.contains("try it") {
                let _ = ready.send(());
            }
            line.clear();
        }
        let _ = lines.read_to_string(&mut line);
    });
    assert!(is_ready.recv_timeout(PATIENCE).is_ok(), "not ready: {}", said.lock().unwrap());
    (child, said)
}

impl Running {
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    pub fn address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("tenantd.toml")
    }

    /// Its audit log, where the test gives no other.
    pub fn audit(&self) -> PathBuf {
        self.dir.path().join("state/tenantd/audit.jsonl")
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// One command line call to it.
    pub fn call(&self, arguments: &[&str]) -> Output {
        call(&self.address(), arguments)
    }

    pub async fn channel(&self) -> Channel {
        Self::connect(&self.socket()).await
    }

    /// Over a unix socket.
    pub async fn connect(path: &Path) -> Channel {
        let path = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost")
            .initial_stream_window_size(65_535)
            .connect_with_connector(connector)
            .await
            .unwrap()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Ends it by a signal and starts it again in the same place.
    pub fn restart(&mut self, signal: &str) {
        self.signal(signal);
        self.ends();
        self.start_again();
    }

    /// Starts another one in its place; the exit code of the one before.
    pub fn take_over(&mut self) -> Option<i32> {
        let mut next = Command::new(self.command.get_program());
        next.args(self.command.get_args()).stderr(Stdio::piped());
        next.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if !self.command.get_args().any(|argument| argument == "--take-over") {
            next.arg("--take-over");
        }
        self.command = next;
        let (child, said) = ready(&mut self.command);
        let before = std::mem::replace(&mut self.child, child);
        let mut before = Running {
            child: before,
            said: std::mem::replace(&mut self.said, said),
            dir: tempfile::tempdir().unwrap(),
            command: Command::new("true"),
        };
        before.ends()
    }

    pub fn kill(&mut self) {
        self.signal("KILL");
        self.ends();
    }

    pub fn start_again(&mut self) {
        (self.child, self.said) = ready(&mut self.command);
    }

    /// Its exit code; none when a signal ended it.
    pub fn ends(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "still runs: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn call(address: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tenantd"))
        .args(arguments)
        .env("TENANTD_ADDRESS", address)
        .output()
        .unwrap()
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub fn acquire(id: &str, tenant: &str) -> v1::AcquireSessionRequest {
    v1::AcquireSessionRequest {
        session_id: id.to_owned(),
        tenant: tenant.to_owned(),
        activate: true,
        ..Default::default()
    }
}

pub fn release(id: &str) -> v1::ReleaseSessionRequest {
    v1::ReleaseSessionRequest {
        session_id: id.to_owned(),
        outcome: v1::Outcome::Success.into(),
        failure: None,
        ..Default::default()
    }
}

/// Says aloud that a test could not be made here.
/// A port that was free a moment ago.
pub fn free() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Waits until a condition holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "gave up waiting for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends the whole run, with all that there is to know, where a test does not come to
/// its end: of one that hangs nobody learns anything.
pub struct Watchdog(Arc<(Mutex<bool>, Condvar)>);

impl Watchdog {
    /// `logs` are told, too.
    pub fn new(what: &'static str, within: Duration, logs: Vec<PathBuf>) -> Self {
        let done = Arc::<(Mutex<bool>, Condvar)>::default();
        let dog = Self(Arc::clone(&done));
        std::thread::spawn(move || {
            let (is_done, told) = &*done;
            let waited =
                told.wait_timeout_while(is_done.lock().unwrap(), within, |is_done| !*is_done);
            if *waited.unwrap().0 {
                return;
            }
            let mut said = format!("{what} hangs after {within:?}\n");
            for process in below(std::process::id()) {
                said.push_str(&looks(process));
            }
            for log in logs {
                let text = fs::read_to_string(&log).unwrap_or_else(|error| error.to_string());
                said.push_str(&format!("{}:\n{text}\n", log.display()));
            }
            let _ = std::io::stderr().write_all(said.as_bytes());
            std::process::exit(101);
        });
        dog
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// A process and all that came of it.
fn below(process: u32) -> Vec<u32> {
    let mut all = vec![process];
    for task in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse().ok()).flat_map(below));
    }
    all
}

/// What a process waits for, each of its threads, and what it has open.
fn looks(process: u32) -> String {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default().replace('\0', " ");
    let of = PathBuf::from(format!("/proc/{process}"));
    let mut said = format!("process {process}: {}\n", read(&of.join("cmdline")));
    for task in fs::read_dir(of.join("task")).into_iter().flatten().flatten() {
        let part = |name: &str| read(&task.path().join(name)).trim().to_owned();
        let state = part("stat").rsplit(')').next().unwrap_or_default().trim().chars().next();
        let (name, waits, call) = (part("comm"), part("wchan"), part("syscall"));
        said.push_str(&format!("  {name}: {state:?} in {waits}, {call}\n{}\n", part("stack")));
    }
    for open in fs::read_dir(of.join("fd")).into_iter().flatten().flatten() {
        let to = fs::read_link(open.path()).unwrap_or_default();
        said.push_str(&format!("  {} -> {}\n", open.file_name().display(), to.display()));
    }
    said
}
