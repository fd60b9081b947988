//! Drives a server over a few connections from one thread, and times it.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    h2::{Answer, Grpc, Messages, Op},
    redis::Redis,
};

/// How a server is spoken to.
#[derive(Clone)]
pub enum Protocol {
    Grpc(Messages),
    Redis,
}

/// Where it listens.
#[derive(Clone, Debug)]
pub enum Place {
    Unix(PathBuf),
    Tcp(std::net::SocketAddr),
}

/// Connections, and calls in flight on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub connections: usize,
    pub streams: usize,
}

impl Shape {
    pub fn name(self) -> String {
        format!("{}x{}", self.connections, self.streams)
    }
}

/// Figures of one run.
pub struct Figures {
    pub calls: u64,
    pub took: Duration,
    pub latencies: Histogram<u64>,
    pub refused: u64,
    pub answer_bytes: u64,
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    fn connect(place: &Place) -> io::Result<Self> {
        Ok(match place {
            Place::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_nonblocking(true)?;
                Self::Unix(socket)
            }
            Place::Tcp(address) => {
                let socket = TcpStream::connect(address)?;
                socket.set_nodelay(true)?;
                socket.set_nonblocking(true)?;
                Self::Tcp(socket)
            }
        })
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(into),
            Self::Tcp(socket) => socket.read(into),
        }
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(from),
            Self::Tcp(socket) => socket.write(from),
        }
    }

    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

enum Talk {
    Grpc(Grpc),
    Redis(Redis),
}

#[derive(Clone, Copy)]
struct Slot {
    next: Op,
    session: [u8; 20],
    since: Instant,
}

struct Connection {
    socket: Socket,
    talk: Talk,
    input: Vec<u8>,
    output: Vec<u8>,
    slots: Vec<Slot>,
}

impl Connection {
    fn open(place: &Place, protocol: &Protocol, streams: usize) -> io::Result<Self> {
        let socket = Socket::connect(place)?;
        let mut output = Vec::new();
        let talk = match protocol {
            Protocol::Grpc(messages) => Talk::Grpc(Grpc::new(messages.clone(), &mut output)),
            Protocol::Redis => Talk::Redis(Redis::new(&mut output)),
        };
        let slot = Slot { next: Op::Acquire, session: [0; 20], since: Instant::now() };
        Ok(Self { socket, talk, input: Vec::new(), output, slots: vec![slot; streams] })
    }

    fn is_ready(&self) -> bool {
        match &self.talk {
            Talk::Grpc(grpc) => grpc.is_ready(),
            Talk::Redis(redis) => redis.is_ready(),
        }
    }

    fn failed(&self) -> Option<&str> {
        match &self.talk {
            Talk::Grpc(grpc) => grpc.failed.as_deref(),
            Talk::Redis(redis) => redis.failed.as_deref(),
        }
    }

    /// Acquire and release in turn, each pair on a session of its own.
    fn ask(&mut self, slot: usize, since: Instant, sessions: &mut u64) {
        let place = &mut self.slots[slot];
        let op = place.next;
        if op == Op::Acquire {
            *sessions += 1;
            place.session.copy_from_slice(format!("AJ_{sessions:017x}").as_bytes());
        }
        place.since = since;
        place.next = if op == Op::Acquire { Op::Release } else { Op::Acquire };
        let session = place.session;
        match &mut self.talk {
            Talk::Grpc(grpc) => grpc.ask(slot, op, session, &mut self.output),
            Talk::Redis(redis) => redis.ask(slot, op, session, &mut self.output),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        if let Talk::Grpc(grpc) = &mut self.talk {
            grpc.flush(&mut self.output);
        }
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(sent) => _ = self.output.drain(..sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, answers: &mut Vec<Answer>, buffer: &mut [u8]) -> io::Result<bool> {
        let got = match self.socket.read(buffer) {
            Ok(0) => return Err(io::Error::other("the server closed the connection")),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        self.input.extend_from_slice(&buffer[..got]);
        let used = match &mut self.talk {
            Talk::Grpc(grpc) => grpc.read(&self.input, &mut self.output, answers),
            Talk::Redis(redis) => redis.read(&self.input, answers),
        };
        self.input.drain(..used);
        Ok(true)
    }
}

/// How calls are timed out to the server.
#[derive(Clone, Copy)]
pub enum Load {
    /// Each slot asks again as soon as it is answered.
    Closed,
    /// So many a second, at times fixed beforehand: a call that waits for its
    /// turn counts from when it was due, so that a server that stalls cannot hide
    /// it (coordinated omission).
    Rate(u32),
    /// The same, asleep between them: somebody else is to have the core then.
    Paced(u32),
}

/// Session ids are unique over all runs of the process.
static SESSIONS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

/// A server under load for a while, after a warm-up of a tenth of it.
/// `at_start` is called when the warm-up is over.
pub fn drive(
    place: &Place,
    protocol: &Protocol,
    shape: Shape,
    load: Load,
    run_for: Duration,
    at_start: &mut dyn FnMut(),
) -> io::Result<Figures> {
    // And over those of other processes.
    let own = u64::from(std::process::id()) << 44;
    let mut sessions = own | SESSIONS.fetch_add(1 << 32, std::sync::atomic::Ordering::Relaxed);
    let mut connections: Vec<Connection> = (0..shape.connections)
        .map(|_| Connection::open(place, protocol, shape.streams))
        .collect::<io::Result<_>>()?;
    if matches!(load, Load::Paced(_)) {
        // Awake when it is due, and not 50 us later.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    }
    let mut buffer = vec![0; 256 * 1024];
    let mut answers = Vec::new();
    let opening = Instant::now();
    while !connections.iter().all(Connection::is_ready) {
        if opening.elapsed() > Duration::from_secs(20) {
            return Err(io::Error::other("the server did not take the connections within 20 s"));
        }
        wait(&connections, Some(Duration::from_millis(100)));
        for connection in &mut connections {
            connection.write()?;
            connection.read(&mut answers, &mut buffer)?;
            connection.write()?;
            if let Some(why) = connection.failed() {
                return Err(io::Error::other(why.to_owned()));
            }
        }
    }
    let began = Instant::now();
    let measured_from = began + run_for / 10;
    let ends = measured_from + run_for;
    let mut started = None;
    let mut figures = Figures {
        calls: 0,
        took: Duration::ZERO,
        latencies: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds"),
        refused: 0,
        answer_bytes: 0,
    };
    let mut free: VecDeque<(usize, usize)> = VecDeque::new();
    for slot in 0..shape.streams {
        for at in 0..connections.len() {
            match load {
                Load::Closed => connections[at].ask(slot, Instant::now(), &mut sessions),
                Load::Rate(_) | Load::Paced(_) => free.push_back((at, slot)),
            }
        }
    }
    let mut due = began;
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    loop {
        let now = Instant::now();
        if started.is_none() && now >= measured_from {
            at_start();
            started = Some(Instant::now());
        }
        if now >= ends {
            break;
        }
        if let Load::Rate(rate) | Load::Paced(rate) = load {
            let step = Duration::from_secs(1) / rate;
            while due <= now {
                waiting.push_back(due);
                due += step;
            }
            while let (Some(_), Some(_)) = (waiting.front(), free.front()) {
                let (Some(since), Some((at, slot))) = (waiting.pop_front(), free.pop_front())
                else {
                    break;
                };
                connections[at].ask(slot, since, &mut sessions);
            }
            if matches!(load, Load::Paced(_)) {
                for connection in &mut connections {
                    connection.write()?;
                }
                wait(&connections, Some(due.saturating_duration_since(Instant::now())));
            }
        } else {
            wait(&connections, Some(Duration::from_millis(100)));
        }
        for at in 0..connections.len() {
            connections[at].write()?;
            if !connections[at].read(&mut answers, &mut buffer)? {
                continue;
            }
            let now = Instant::now();
            for answer in answers.drain(..) {
                figures.refused += u64::from(!answer.good);
                if !answer.good {
                    // There is nothing to release.
                    connections[at].slots[answer.slot].next = Op::Acquire;
                }
                if started.is_some() {
                    figures.calls += 1;
                    let took = now - connections[at].slots[answer.slot].since;
                    figures.latencies.saturating_record(took.as_nanos() as u64);
                }
                match load {
                    Load::Closed => connections[at].ask(answer.slot, now, &mut sessions),
                    Load::Rate(_) | Load::Paced(_) => free.push_back((at, answer.slot)),
                }
            }
            if let Some(why) = connections[at].failed() {
                return Err(io::Error::other(why.to_owned()));
            }
            connections[at].write()?;
        }
    }
    figures.took = started.map_or(Duration::ZERO, |from| from.elapsed());
    figures.answer_bytes = connections
        .iter()
        .map(|connection| match &connection.talk {
            Talk::Grpc(grpc) => grpc.answer_bytes,
            Talk::Redis(_) => 0,
        })
        .sum();
    Ok(figures)
}

fn wait(connections: &[Connection], timeout: Option<Duration>) {
    let mut fds: Vec<PollFd<'_>> = connections
        .iter()
        .map(|connection| {
            let mut on = PollFlags::IN;
            if !connection.output.is_empty() {
                on |= PollFlags::OUT;
            }
            PollFd::from_borrowed_fd(connection.socket.fd(), on)
        })
        .collect();
    let timeout = timeout.map(|of| Timespec {
        tv_sec: of.as_secs().cast_signed(),
        tv_nsec: i64::from(of.subsec_nanos()),
    });
    let _ = poll(&mut fds, timeout.as_ref());
}
