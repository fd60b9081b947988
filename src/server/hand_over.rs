//! A sidecar takes another one's place, without a moment in which nobody listens.
//!
//! The one that runs has a socket in its state directory. Who takes over is given
//! the listeners themselves over it, so that whoever connects meanwhile waits in
//! their queue; it prepares all that it can, and says so. Then the one before
//! answers the calls that it has, tells its connections to go, leaves the state
//! and closes the socket: that is the sign to read the state and to serve.

use std::{
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{UnixListener, UnixStream},
};

use super::{inherited::Inherited, socket};

/// How long a successor may take to prepare itself.
const PREPARE: Duration = Duration::from_secs(60);
/// How long the one before may take to leave.
const LEAVE: Duration = Duration::from_secs(30);
/// How long a process that dies may take to let go of what it has.
pub const LET_GO: Duration = Duration::from_secs(5);
pub const LET_GO_LOOK: Duration = Duration::from_millis(20);
const ASK: &[u8; 10] = b"take over\n";
const READY: &[u8; 6] = b"ready\n";
const FORMAT: u32 = 1;
const MAX_LETTER: usize = 4096;
const MAX_SOCKETS: usize = 3;
/// The socket's name in the state directory.
const NAME: &str = "next";

/// Says which sockets come along, in this order.
#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    format: u32,
    pid: u32,
    unix: Option<PathBuf>,
    tcp: bool,
    prometheus: bool,
}

/// What is handed over: the listeners, which go on as they are.
#[derive(Default)]
pub struct Goods {
    pub unix: Option<(OwnedFd, PathBuf)>,
    pub tcp: Option<OwnedFd>,
    pub prometheus: Option<OwnedFd>,
}

/// The place of a sidecar that runs, for whoever takes it.
pub struct Offer {
    listener: UnixListener,
    goods: Goods,
}

/// The folder's socket by a path that is short enough for one, whatever the
/// folder's own is.
fn reach(folder: &Path) -> io::Result<(File, PathBuf)> {
    let folder = File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()).into();
    Ok((folder, path))
}

impl Offer {
    /// In the state directory, whose lock the caller has.
    pub fn open(folder: &Path, goods: Goods) -> io::Result<Self> {
        let (_folder, path) = reach(folder)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        Ok(Self { listener: socket::private(&path)?, goods })
    }

    /// Waits for a successor that is ready. It serves when what is returned is
    /// dropped.
    pub async fn taken(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match tokio::time::timeout(PREPARE, self.give(stream)).await {
                    Ok(Ok(stream)) => return stream,
                    Ok(Err(error)) => tracing::warn!(%error, "another sidecar did not take over"),
                    Err(_) => tracing::warn!("another sidecar took too long to take over"),
                },
                Err(error) => {
                    tracing::warn!(%error, "no successor can be heard");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn give(&self, mut stream: UnixStream) -> io::Result<UnixStream> {
        let uid = stream.peer_cred()?.uid();
        if uid != rustix::process::getuid().as_raw() && uid != 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut asked = [0; ASK.len()];
        stream.read_exact(&mut asked).await?;
        if asked != *ASK {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Goods { unix, tcp, prometheus } = &self.goods;
        let letter = Letter {
            format: FORMAT,
            pid: std::process::id(),
            unix: unix.as_ref().map(|(_, path)| path.clone()),
            tcp: tcp.is_some(),
            prometheus: prometheus.is_some(),
        };
        let letter = serde_json::to_vec(&letter)?;
        let unix = unix.iter().map(|(socket, _)| socket.as_fd());
        let sockets: Vec<BorrowedFd<'_>> =
            unix.chain(tcp.iter().chain(prometheus).map(AsFd::as_fd)).collect();
        stream
            .async_io(Interest::WRITABLE, || {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !sockets.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(&sockets));
                }
                let text = [IoSlice::new(&letter)];
                Ok(sendmsg(&stream, &text, &mut control, SendFlags::empty())?)
            })
            .await?;
        let mut ready = [0; READY.len()];
        stream.read_exact(&mut ready).await?;
        if ready == *READY { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// The sidecar whose place is taken.
pub struct Predecessor {
    stream: UnixStream,
    pub pid: u32,
}

/// Asks the sidecar of a state directory for its listeners; none: nobody has it.
///
/// # Errors
/// It does not let go of them.
pub async fn ask(folder: &Path) -> anyhow::Result<Option<(Predecessor, Inherited)>> {
    let connected = match reach(folder) {
        Ok((_folder, path)) => UnixStream::connect(path).await,
        Err(error) => Err(error),
    };
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]
                .contains(&error.kind()) =>
        {
            // Or it is just dying, and has its listeners still.
            let held = std::fs::read_to_string(folder.join("lock")).ok();
            if let Some(pid) = held.and_then(|pid| pid.trim().parse().ok()) {
                gone(pid).await;
            }
            return Ok(None);
        }
        Err(error) => return Err(error).context("the sidecar that runs cannot be asked"),
    };
    let pid = stream.peer_cred().ok().and_then(|of| of.pid());
    let asked = tokio::time::timeout(PREPARE, async {
        stream.write_all(ASK).await?;
        receive(&stream).await
    });
    let (letter, sockets) = match asked.await.context("the sidecar that runs does not answer")? {
        // Then nobody has it any more, once its listeners are closed as well.
        Err(error) if has_died(&error) => {
            if let Some(pid) = pid {
                gone(pid).await;
            }
            return Ok(None);
        }
        handed => handed.context("the sidecar that runs does not hand its listeners over")?,
    };
    anyhow::ensure!(
        letter.format == FORMAT,
        "the sidecar that runs (process {}) hands over in another way (format {}); restart it instead",
        letter.pid,
        letter.format
    );
    let mut sockets = sockets.into_iter();
    let mut next = || sockets.next().context("a listener is missing from what was handed over");
    let mut inherited = Inherited::default();
    if let Some(path) = letter.unix {
        inherited.unix = Some((next()?.into(), path));
    }
    if letter.tcp {
        inherited.tcp = Some(next()?.into());
    }
    if letter.prometheus {
        inherited.prometheus = Some(next()?.into());
    }
    Ok(Some((Predecessor { stream, pid: letter.pid }, inherited)))
}

/// Waits until a process has closed all that it had open.
async fn gone(pid: i32) {
    let deadline = tokio::time::Instant::now() + LET_GO;
    let is_there = || {
        let stat = procfs::process::Process::new(pid).and_then(|of| of.stat());
        // Its other threads may still have them.
        stat.is_ok_and(|of| !matches!(of.state, 'Z' | 'X') || of.num_threads > 1)
    };
    while is_there() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(LET_GO_LOOK).await;
    }
}

/// As the end of a process is seen from the other side of its stream.
fn has_died(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

async fn receive(stream: &UnixStream) -> io::Result<(Letter, Vec<OwnedFd>)> {
    stream
        .async_io(Interest::READABLE, || {
            let mut text = [0; MAX_LETTER];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let slices = &mut [IoSliceMut::new(&mut text)];
            let got = recvmsg(stream, slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let sockets = control
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
                    _ => None,
                })
                .flatten()
                .collect();
            let letter = text.get(..got.bytes).unwrap_or_default();
            Ok((serde_json::from_slice(letter)?, sockets))
        })
        .await
}

impl Predecessor {
    /// Tells it that all is prepared, and waits until it has left.
    ///
    /// # Errors
    /// It does not leave.
    pub async fn leaves(mut self) -> anyhow::Result<()> {
        let left = async {
            self.stream.write_all(READY).await?;
            // It says nothing: its end is the answer.
            self.stream.read(&mut [0]).await
        };
        match tokio::time::timeout(LEAVE, left).await {
            Ok(Ok(_)) => Ok(()),
            // A process that died has left as well.
            Ok(Err(error)) if has_died(&error) => Ok(()),
            Ok(Err(error)) => Err(error).context("the sidecar before cannot be told to go"),
            Err(_) => anyhow::bail!("the sidecar before (process {}) does not leave", self.pid),
        }
    }
}
