//! A unix socket or a TCP port between one agent and the sidecar that can
//! misbehave as a network does.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// The two ways of one connection. Who drops the second one has sent all.
type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// Where the sidecar is.
#[derive(Debug, Clone)]
pub enum Beyond {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Beyond {
    async fn connect(&self) -> io::Result<Halves> {
        Ok(match self {
            Self::Unix(path) => unix(UnixStream::connect(path).await?),
            Self::Tcp(address) => tcp(TcpStream::connect(address).await?),
        })
    }
}

fn unix(stream: UnixStream) -> Halves {
    let (from, to) = stream.into_split();
    (Box::new(from), Box::new(to))
}

fn tcp(stream: TcpStream) -> Halves {
    let _ = stream.set_nodelay(true);
    let (from, to) = stream.into_split();
    (Box::new(from), Box::new(to))
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Halves> {
        Ok(match self {
            Self::Unix(listener) => unix(listener.accept().await?.0),
            Self::Tcp(listener) => tcp(listener.accept().await?.0),
        })
    }
}

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
    /// As clients are told it.
    pub address: String,
    mode: watch::Sender<Mode>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Of the kind that the sidecar's is; a socket is made at `path`.
    pub async fn start(path: PathBuf, sidecar: Beyond) -> Self {
        let (listener, address) = match &sidecar {
            Beyond::Unix(_) => {
                let _ = std::fs::remove_file(&path);
                let address = format!("unix:{}", path.display());
                (Listener::Unix(UnixListener::bind(&path).unwrap()), address)
            }
            Beyond::Tcp(_) => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let port = listener.local_addr().unwrap().port();
                (Listener::Tcp(listener), format!("https://localhost:{port}"))
            }
        };
        let (mode, told) = watch::channel(Mode::Pass);
        let accepting = tokio::spawn(async move {
            while let Ok(agent) = listener.accept().await {
                tokio::spawn(join(agent, sidecar.clone(), told.clone()));
            }
        });
        Self { address, mode, accepting }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.mode.send_replace(Mode::Cut);
    }
}

async fn join(agent: Halves, sidecar: Beyond, mode: watch::Receiver<Mode>) {
    let Ok((from_sidecar, to_sidecar)) = sidecar.connect().await else { return };
    let (from_agent, to_agent) = agent;
    // Whichever way ends, ends both: a half-close is one of the faults.
    tokio::select! {
        () = pump(from_agent, to_sidecar, mode.clone(), true) => {}
        () = pump(from_sidecar, to_agent, mode, false) => {}
    }
}

async fn pump(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    to: Box<dyn AsyncWrite + Send + Unpin>,
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
