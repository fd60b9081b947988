//! The sidecar's process: started, stopped, killed, and looked at from outside.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    task::JoinHandle,
};

use crate::{
    agents::send,
    config::File,
    link::{Secure, free_address},
};

/// How long a start may take on a loaded machine.
const START: Duration = Duration::from_secs(30);
/// Most memory and open files that the load of this suite may cost. Debug build.
const MAX_RSS: u64 = 400 << 20;
const MAX_FILES: usize = 400;

pub struct World {
    pub dir: tempfile::TempDir,
    pub config: File,
    child: Option<Child>,
    /// Copies what it says into its log.
    listening: Option<JoinHandle<()>>,
    starts: u32,
    /// When nobody could be expected to answer, from and until; the last one may
    /// still go on.
    pub away: Vec<(Instant, Option<Instant>)>,
}

impl World {
    pub fn new(machine: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tenantd.toml");
        let (scraped, secure) = (free_address(), Secure::new());
        let config = File { path, machine, generation: 1, scraped, secure };
        config.write(&config.text());
        Self {
            dir,
            config,
            child: None,
            listening: None,
            starts: 0,
            away: vec![(Instant::now(), None)],
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    fn log(&self, start: u32) -> PathBuf {
        self.dir.path().join(format!("sidecar-{start}.log"))
    }

    /// Puts its logs and its state where they stay; the last ones only.
    pub fn keep(&self) -> PathBuf {
        let kept = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
        let _ = fs::remove_dir_all(&kept);
        let _ = fs::rename(self.dir.path(), &kept);
        kept
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("s.state")
    }

    /// Another process takes the place of the one that runs, which ends by itself.
    /// Its exit code.
    pub async fn take_over(&mut self) -> Option<i32> {
        let mut before = self.child.take().expect("it runs");
        let heard = self.listening.take();
        self.spawn(&["--take-over"]).await;
        let ended = tokio::time::timeout(START, before.wait()).await;
        let code = ended.unwrap_or_else(|_| panic!("it does not leave\n{}", self.said()));
        if let Some(heard) = heard {
            let _ = tokio::time::timeout(Duration::from_secs(5), heard).await;
        }
        self.is_ready().await;
        code.unwrap().code()
    }

    /// Another process that begins to take the place of the one that runs is killed
    /// so much later. Whether that one had left by then.
    pub async fn successor_dies(&mut self, after: Duration) -> bool {
        let mut before = self.child.take().expect("it runs");
        let heard = self.listening.take();
        let said = self.log(self.starts);
        self.spawn(&["--take-over"]).await;
        tokio::time::sleep(after).await;
        let mut successor = self.child.take().expect("it was started");
        successor.kill().await.unwrap();
        self.heard().await;
        // One that is told so leaves, whatever becomes of who told it.
        let told = || {
            let said = fs::read_to_string(&said).unwrap_or_default();
            said.contains("another sidecar takes over")
        };
        let deadline = Instant::now() + START;
        loop {
            // Twice: it is told a moment after it has begun.
            if !told() && self.answers().await && !told() && self.answers().await && !told() {
                (self.child, self.listening) = (Some(before), heard);
                return false;
            }
            if told() || before.try_wait().unwrap().is_some() {
                let ended = tokio::time::timeout(START, before.wait()).await;
                let ended = ended.unwrap_or_else(|_| panic!("it does not leave\n{}", self.said()));
                assert_eq!(
                    ended.unwrap().code(),
                    Some(0),
                    "{}",
                    fs::read_to_string(&said).unwrap()
                );
                return true;
            }
            assert!(Instant::now() < deadline, "it neither serves nor leaves\n{}", self.said());
        }
    }

    /// The one that runs is killed so much later than another process has begun to
    /// take its place.
    pub async fn predecessor_dies(&mut self, after: Duration) {
        let mut before = self.child.take().expect("it runs");
        let heard = self.listening.take();
        self.spawn(&["--take-over"]).await;
        tokio::time::sleep(after).await;
        let _ = before.kill().await;
        if let Some(heard) = heard {
            let _ = tokio::time::timeout(Duration::from_secs(5), heard).await;
        }
        self.is_ready().await;
    }

    /// What its Prometheus endpoint says; none while it is not there.
    pub async fn figures(&self) -> Option<String> {
        use tokio::io::AsyncReadExt as _;
        let asked = async {
            let mut stream = tokio::net::TcpStream::connect(self.config.scraped).await.ok()?;
            let get = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            stream.write_all(get).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(answer)
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.ok().flatten()
    }

    /// Starts it and waits until it answers.
    pub async fn start(&mut self) {
        self.spawn(&[]).await;
        self.is_ready().await;
    }

    async fn spawn(&mut self, arguments: &[&str]) {
        self.starts += 1;
        let mut log = tokio::fs::File::create(self.log(self.starts)).await.unwrap();
        let built = env!("CARGO_BIN_EXE_tenantd").into();
        let child = Command::new(std::env::var_os("FAULT_TENANTD").unwrap_or(built))
            .args(["serve", "--config"])
            .arg(&self.config.path)
            .args(arguments)
            .arg("--listen")
            .arg(format!("unix:{}", self.socket().display()))
            .args(["--listen", &self.config.secure.address.to_string()])
            .env("TENANTD_LOG", "debug")
            .env("XDG_STATE_HOME", self.dir.path())
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.unwrap();
        // Through a pipe: a full disk is made by a limit on its files.
        let mut says = child.stderr.take().unwrap();
        self.listening = Some(tokio::spawn(async move {
            let _ = tokio::io::copy(&mut says, &mut log).await;
            let _ = log.flush().await;
        }));
        self.child = Some(child);
    }

    async fn is_ready(&mut self) {
        let deadline = Instant::now() + START;
        while !self.answers().await {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it ended at its start: {ended:?}\n{}", self.said());
            assert!(Instant::now() < deadline, "it does not start\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.back();
    }

    /// Somebody accepts on its socket.
    async fn answers(&self) -> bool {
        let asked = tonic_health::pb::HealthCheckRequest::default();
        let channel = crate::bare::channel(self.socket());
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        tokio::time::timeout(Duration::from_secs(2), health.check(asked))
            .await
            .is_ok_and(|r| r.is_ok())
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.log(self.starts)).unwrap_or_default()
    }

    /// Its state lacks what was changed since it could not be written: also a moment
    /// after it could be again, or in its death.
    pub fn fails_to_write(&self) -> bool {
        let said = self.said();
        let last = |words| said.rfind(words);
        last("the state cannot be written; no new") > last("the state can be written again")
    }

    pub fn all_said(&self) -> Vec<String> {
        (1..=self.starts).map(|n| fs::read_to_string(self.log(n)).unwrap_or_default()).collect()
    }

    pub fn gone(&mut self) {
        if self.away.last().is_none_or(|(_, until)| until.is_some()) {
            self.away.push((Instant::now(), None));
        }
    }

    pub fn back(&mut self) {
        if let Some((_, until @ None)) = self.away.last_mut() {
            *until = Some(Instant::now());
        }
    }

    /// Whether somebody who asked from then until now may have met nobody.
    pub fn was_away(&self, from: Instant) -> bool {
        // A moment for connections to come back after it.
        let slack = Duration::from_secs(3);
        self.away.iter().any(|(_, until)| until.is_none_or(|until| until + slack >= from))
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().and_then(Child::id).expect("it runs");
        send(pid, signal);
    }

    /// Where one runs.
    pub fn signal_any(&self, signal: &str) {
        if let Some(pid) = self.child.as_ref().and_then(Child::id) {
            send(pid, signal);
        }
    }

    pub async fn kill(&mut self) {
        self.gone();
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
            self.heard().await;
        }
    }

    /// All that it said is in its log.
    async fn heard(&mut self) {
        if let Some(listening) = self.listening.take() {
            let _ = tokio::time::timeout(Duration::from_secs(5), listening).await;
        }
    }

    /// Writes of the sidecar's that make a file longer fail from now on, as on a
    /// full disk; or not any more.
    pub fn fill_disk(&self, is_full: bool) {
        let pid = self.child.as_ref().and_then(Child::id).expect("it runs");
        let most = if is_full { "1" } else { "unlimited" };
        let limit = ["--pid", &pid.to_string(), &format!("--fsize={most}:unlimited")];
        let limited = std::process::Command::new("prlimit").args(limit).status();
        assert!(limited.unwrap().success(), "prlimit {limit:?}");
    }

    /// Waits for it to end by itself; its exit code.
    pub async fn ends(&mut self, within: Duration) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        match tokio::time::timeout(within, child.wait()).await {
            Ok(ended) => {
                self.heard().await;
                ended.unwrap().code()
            }
            Err(_) => panic!("it does not end within {within:?}\n{}", self.said()),
        }
    }

    /// Ends at once and in order: by a second signal, once the first one was heard.
    pub async fn ends_at_once(&mut self, within: Duration) -> Option<i32> {
        let deadline = Instant::now() + within;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "it does not end\n{}", self.said());
            self.signal("TERM");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.ends(within).await
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some())
    }

    /// Resident bytes and open files of the process.
    pub fn size(&self) -> (u64, usize) {
        let Some(pid) = self.child.as_ref().and_then(Child::id) else { return (0, 0) };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = rss.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        (kib.unwrap_or(0) << 10, files)
    }

    pub fn is_bounded(&self) -> Result<(u64, usize), String> {
        let (rss, files) = self.size();
        if rss > MAX_RSS || files > MAX_FILES {
            return Err(format!("the sidecar has {rss} bytes and {files} files"));
        }
        Ok((rss, files))
    }
}
