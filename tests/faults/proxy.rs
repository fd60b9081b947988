//! A unix socket between one agent and the sidecar that can misbehave as a
//! network does.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// How it behaves now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    Pass,
    /// Each read waits so long.
    Delay(Duration),
    /// Nothing moves, and nothing ends.
    Hold,
    /// Connections end, and new ones too.
    Cut,
    /// What the agent sends does not arrive any more, and the sidecar is told
    /// that it has ended; answers still come.
    HalfClose,
    /// One bit of each read is another one. On the way to the sidecar or back.
    Garble {
        to_sidecar: bool,
    },
}

pub struct Proxy {
    pub path: PathBuf,
    mode: watch::Sender<Mode>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub fn start(path: PathBuf, sidecar: PathBuf) -> Self {
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let (mode, told) = watch::channel(Mode::Pass);
        let accepting = tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                tokio::spawn(join(agent, sidecar.clone(), told.clone()));
            }
        });
        Self { path, mode, accepting }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub fn address(path: &Path) -> String {
        format!("unix:{}", path.display())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.mode.send_replace(Mode::Cut);
    }
}

async fn join(agent: UnixStream, sidecar: PathBuf, mode: watch::Receiver<Mode>) {
    let Ok(sidecar) = UnixStream::connect(sidecar).await else { return };
    let (from_agent, to_agent) = agent.into_split();
    let (from_sidecar, to_sidecar) = sidecar.into_split();
    // Whichever way ends, ends both: a half-close is one of the faults.
    tokio::select! {
        () = pump(from_agent, to_sidecar, mode.clone(), true) => {}
        () = pump(from_sidecar, to_agent, mode, false) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    is_to_sidecar: bool,
) {
    let mut to = Some(to);
    let mut room = vec![0; 16 * 1024];
    loop {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Cut => return,
            Mode::HalfClose if is_to_sidecar => drop(to.take()),
            _ => {}
        }
        let read = tokio::select! {
            read = from.read(&mut room), if now != Mode::Hold => read,
            changed = mode.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Ok(read @ 1..) = read else { return };
        let bytes = &mut room[..read];
        match now {
            Mode::Delay(by) => tokio::time::sleep(by).await,
            Mode::Garble { to_sidecar } if to_sidecar == is_to_sidecar => {
                bytes[read / 2] ^= 1 << (read % 8);
            }
            _ => {}
        }
        if let Some(to) = &mut to
            && to.write_all(bytes).await.is_err()
        {
            return;
        }
    }
}
