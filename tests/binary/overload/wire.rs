//! HTTP/2 by hand, for what no client library would send.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const CALM: u32 = 11;
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const PATIENCE: Duration = Duration::from_secs(30);

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header that is in no table.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let (name_length, value_length) = (length(name), length(value));
    [&[0], &name_length[..], name.as_bytes(), &value_length, value.as_bytes()].concat()
}

/// HPACK's integer of seven bits.
fn length(text: &str) -> Vec<u8> {
    let mut rest = text.len();
    if rest < 127 {
        return vec![u8::try_from(rest).unwrap()];
    }
    rest -= 127;
    let mut bytes = vec![127];
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// Of a call.
pub fn call(path: &str) -> Vec<u8> {
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", path),
        header(":authority", "localhost"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat()
}

/// One message as gRPC frames it.
pub fn message(of: &impl prost::Message) -> Vec<u8> {
    let bytes = of.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &bytes].concat()
}

pub trait Stream: Read + Write + Send {
    fn patience(&self, patience: Duration) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))?;
        self.set_write_timeout(Some(patience))
    }
}

impl Stream for TcpStream {
    fn patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))?;
        self.set_write_timeout(Some(patience))
    }
}

/// A peer that speaks as it likes.
pub struct Peer(pub Box<dyn Stream>);

impl Peer {
    /// Over a unix socket, whose queue may be full for a moment.
    pub fn unix(path: &Path) -> Self {
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Self::over(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn tcp(at: std::net::SocketAddr) -> Self {
        Self::over(TcpStream::connect(at).unwrap())
    }

    fn over(stream: impl Stream + 'static) -> Self {
        stream.patience(PATIENCE).unwrap();
        Self(Box::new(stream))
    }

    /// Sent as far as the other end takes it.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Says what a client says first; `settings` are pairs of numbers.
    pub fn hello(&mut self, settings: &[(u16, u32)]) {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        self.send(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()).unwrap();
    }

    /// The next frame: its kind, stream and payload. None: the connection is closed.
    pub fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        self.frame().map(|(kind, _, stream, payload)| (kind, stream, payload))
    }

    /// As [`Self::next`], with its flags.
    pub fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        let mut payload = vec![0; length as usize];
        self.exact(&mut payload)?;
        Some((head[3], head[4], stream, payload))
    }

    fn exact(&mut self, buf: &mut [u8]) -> Option<()> {
        match self.0.read_exact(buf) {
            Ok(()) => Some(()),
            Err(error) => {
                let waited =
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                assert!(!waited, "nothing came, and the connection is still open");
                None
            }
        }
    }

    /// Reads until the connection is closed: the code and the words of the GOAWAY
    /// before it, where there was one.
    pub fn farewell(&mut self) -> Option<(u32, String)> {
        let mut last = None;
        while let Some((kind, _, payload)) = self.next() {
            if kind == GOAWAY {
                let code = u32::from_be_bytes(payload[4..8].try_into().unwrap());
                last = Some((code, String::from_utf8_lossy(&payload[8..]).into_owned()));
            }
        }
        last
    }
}
