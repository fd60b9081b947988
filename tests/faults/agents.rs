//! The agent processes: started, told what to do, heard, stopped and killed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
};

use crate::{
    link::{Link, Secure},
    proxy::{Beyond, Proxy},
};

/// What its process is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Python,
    Node,
    Bare,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Bare => "bare",
        }
    }

    /// The clients whose environment is there. `make faults` makes them all.
    pub fn installed() -> Vec<Self> {
        let mut kinds = vec![Self::Bare];
        if root().join(".venv/bin/python").exists() {
            kinds.push(Self::Python);
        }
        if root().join("clients/node/dist/index.mjs").exists() {
            kinds.push(Self::Node);
        }
        kinds
    }

    fn command(self) -> Command {
        let agents = root().join("tests/faults/agents");
        match self {
            Self::Python => {
                let mut command = Command::new(root().join(".venv/bin/python"));
                command.arg(agents.join("agent.py"));
                command
            }
            Self::Node => {
                let mut command = Command::new("node");
                command.arg(agents.join("agent.mjs"));
                command
            }
            Self::Bare => Command::new(std::env::current_exe().unwrap()),
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A command that has no answer yet.
#[derive(Debug, Clone)]
pub struct Asked {
    pub op: String,
    pub id: String,
    /// The tenant that it must be bound to, or the reason that it must be refused
    /// with.
    pub bound: Result<String, String>,
    pub at: Instant,
    /// Bytes on its way may have been changed: only that it ends is certain.
    pub tainted: bool,
}

/// An answer, with what was asked.
#[derive(Debug)]
pub struct Answer {
    pub agent: String,
    pub kind: Kind,
    pub link: Link,
    pub asked: Asked,
    pub said: Value,
}

pub struct Agent {
    pub kind: Kind,
    pub link: Link,
    pub worker: String,
    pub proxy: Proxy,
    pub child: Child,
    pub stopped: bool,
    /// Bytes on its way have been changed since its network was last cut.
    pub garbled: bool,
    tainted: bool,
    stdin: ChildStdin,
    pending: Arc<Mutex<BTreeMap<u64, Asked>>>,
    next: u64,
}

impl Agent {
    pub async fn start(
        (kind, link): (Kind, Link),
        worker: &str,
        (dir, socket, secure): (&Path, &Path, &Secure),
        answers: mpsc::UnboundedSender<Answer>,
    ) -> Self {
        let sidecar = match link {
            Link::Socket => Beyond::Unix(socket.to_owned()),
            Link::Certificate | Link::Token => Beyond::Tcp(secure.address),
        };
        let proxy = Proxy::start(dir.join(format!("{worker}.sock")), sidecar).await;
        let log = std::fs::File::create(dir.join(format!("{worker}.log"))).unwrap();
        let mut child = kind
            .command()
            .env("FAULT_ADDRESS", &proxy.address)
            .env("FAULT_WORKER", worker)
            .envs(secure.environment(link))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pending: Arc<Mutex<BTreeMap<u64, Asked>>> = Arc::default();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (waiting, name) = (Arc::clone(&pending), worker.to_owned());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let said: Value = serde_json::from_str(&line).expect("agents answer in JSON");
                let asked = waiting.lock().unwrap().remove(&said["n"].as_u64().unwrap());
                let asked = asked.expect("it was asked");
                let _ = answers.send(Answer { agent: name.clone(), kind, link, asked, said });
            }
        });
        let stdin = child.stdin.take().unwrap();
        let worker = worker.to_owned();
        Self {
            kind,
            link,
            worker,
            proxy,
            child,
            stopped: false,
            garbled: false,
            tainted: false,
            stdin,
            pending,
            next: 0,
        }
    }

    pub async fn ask(&mut self, mut ask: Value) {
        self.next += 1;
        ask["n"] = self.next.into();
        let text = |key: &str| ask[key].as_str().unwrap_or_default().to_owned();
        let (op, id) = (text("op"), text("id"));
        let refused = text("refused");
        let bound = if refused.is_empty() { Ok(text("bound")) } else { Err(refused) };
        let asked = Asked { op, id, bound, at: Instant::now(), tainted: self.tainted };
        self.pending.lock().unwrap().insert(self.next, asked);
        // One that was killed meanwhile does not read.
        let _ = self.stdin.write_all(format!("{ask}\n").as_bytes()).await;
    }

    /// The oldest command without an answer.
    pub fn waits(&self) -> Option<Asked> {
        self.pending.lock().unwrap().values().next().cloned()
    }

    /// Its name and its process's state: `T` is stopped, `S` sleeps.
    pub fn is_doing(&self) -> String {
        let stat = self.child.id().map(|pid| format!("/proc/{pid}/stat"));
        let stat = stat.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim().chars().next();
        format!("{} {}", self.worker, state.unwrap_or('?'))
    }

    pub fn in_flight(&self) -> usize {
        self.pending.lock().unwrap().len()
    }

    /// From here on bytes on its way are changed. Over TLS that shows, and no
    /// answer may be another one for it; else only that it ends is certain of what
    /// it was asked.
    pub fn garble(&mut self) {
        self.garbled = true;
        if self.link.is_tls() {
            return;
        }
        self.tainted = true;
        for asked in self.pending.lock().unwrap().values_mut() {
            asked.tainted = true;
        }
    }

    /// Its connections are new ones.
    pub fn whole(&mut self) {
        self.garble();
        (self.garbled, self.tainted) = (false, false);
    }

    pub fn signal(&mut self, signal: &str) {
        if let Some(pid) = self.child.id() {
            send(pid, signal);
        }
        match signal {
            "STOP" => self.stopped = true,
            "CONT" => self.stopped = false,
            _ => {}
        }
    }

    /// kill -9; what it never answered.
    pub async fn kill(mut self) -> Vec<Asked> {
        self.child.kill().await.unwrap();
        // Answers that it had written are read before.
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::mem::take(&mut *self.pending.lock().unwrap()).into_values().collect()
    }
}

/// A signal to a process that this program started.
pub fn send(pid: u32, signal: &str) {
    let sent = std::process::Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
    assert!(sent.unwrap().success(), "kill -s {signal} {pid}");
}
