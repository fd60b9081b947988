//! The client side of HTTP/2 and gRPC, as thin as it can be: request bytes are
//! made once and patched, answers are counted and not decoded. A generator on a
//! full client would be the bottleneck, and measure itself.

use std::collections::VecDeque;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const OUR_WINDOW: u32 = 0x7fff_ffff;

/// What a call asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Acquire,
    Release,
}

/// A message with a place for the session id, and perhaps for a tenant.
#[derive(Clone)]
pub struct Template {
    bytes: Vec<u8>,
    at: usize,
    tenant_at: Option<usize>,
}

/// Stands in a template for the session id; as long as the ids are.
pub const PLACEHOLDER: &str = "SESSION-PLACEHOLDER0";
/// For one of many tenants.
pub const TENANT: &str = "TENANT00";

impl Template {
    pub fn new(bytes: Vec<u8>) -> Self {
        let place = |of: &str| bytes.windows(of.len()).position(|w| w == of.as_bytes());
        let at = place(PLACEHOLDER).expect("a template has the placeholder");
        let tenant_at = place(TENANT);
        Self { bytes, at, tenant_at }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn put(&self, session: &[u8; 20], tenant: u32, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&self.bytes);
        let from = begin + self.at;
        out[from..from + 20].copy_from_slice(session);
        if let Some(at) = self.tenant_at {
            let from = begin + at;
            out[from..from + 8].copy_from_slice(format!("t{tenant:07}").as_bytes());
        }
    }
}

/// One answer: by which slot it was awaited, and whether it is one that grants.
pub struct Answer {
    pub slot: usize,
    pub good: bool,
}

struct Waiting {
    stream: u32,
    slot: usize,
    data: bool,
}

/// What both forms of call are made of.
#[derive(Clone)]
pub struct Messages {
    pub acquire: Template,
    pub release: Template,
    /// First message of a `Work` stream; none: unary calls.
    pub hello: Option<Vec<u8>>,
    /// Tenants that are asked for in turn, where they are not named.
    pub tenants: u32,
}

/// One connection.
pub struct Grpc {
    messages: Messages,
    next_stream: u32,
    /// Paths that the header table has.
    known: u8,
    waiting: Vec<Waiting>,
    connection_window: i64,
    stream_window: i64,
    server_initial: i64,
    held: VecDeque<(usize, Op, [u8; 20])>,
    /// Asked, and not put into a message yet.
    together: Vec<(usize, Op, [u8; 20])>,
    acquires: u32,
    body: Vec<u8>,
    greeted: bool,
    pub failed: Option<String>,
    pub answer_bytes: u64,
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: usize) {
    out.extend_from_slice(&(payload as u32).to_be_bytes()[1..]);
    out.push(kind);
    out.push(flags);
    out.extend_from_slice(&stream.to_be_bytes());
}

fn literal(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("short"));
    out.extend_from_slice(text.as_bytes());
}

/// Begins a connection, with windows that are never full.
pub fn greet(out: &mut Vec<u8>) {
    out.extend_from_slice(PREFACE);
    frame(out, SETTINGS, 0, 0, 6);
    out.extend_from_slice(&4_u16.to_be_bytes());
    out.extend_from_slice(&OUR_WINDOW.to_be_bytes());
    frame(out, WINDOW_UPDATE, 0, 0, 4);
    out.extend_from_slice(&(OUR_WINDOW - 65_535).to_be_bytes());
}

/// The first call of a connection, with one request.
pub fn ask_stream(out: &mut Vec<u8>, path: &str, message: &[u8]) {
    let mut block = vec![0x83, 0x86, 0x44];
    literal(&mut block, path);
    Grpc::common(&mut block);
    frame(out, HEADERS, END_HEADERS, 1, block.len());
    out.extend_from_slice(&block);
    frame(out, DATA, END_STREAM, 1, message.len() + 5);
    out.push(0);
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
}

/// Walks whole frames of a connection with one stream that lasts: hands its data over,
/// answers what must be. How many bytes were used.
pub fn frames(
    input: &[u8],
    out: &mut Vec<u8>,
    mut data: impl FnMut(&[u8]),
) -> std::io::Result<usize> {
    let mut at = 0;
    while let Some(head) = input.get(at..at + 9) {
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let Some(payload) = input.get(at + 9..at + 9 + len) else { break };
        at += 9 + len;
        match kind {
            DATA => data(payload),
            HEADERS if flags & END_STREAM != 0 => {
                return Err(std::io::Error::other("the stream ended"));
            }
            RST_STREAM => return Err(std::io::Error::other("the stream was reset")),
            GOAWAY => return Err(std::io::Error::other("the server said goodbye")),
            SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, 0),
            PING if flags & ACK == 0 => {
                frame(out, PING, ACK, 0, 8);
                out.extend_from_slice(payload);
            }
            _ => {}
        }
    }
    Ok(at)
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A varint, and what is behind it.
fn number(bytes: &[u8]) -> (u64, &[u8]) {
    let (mut number, mut shift) = (0, 0);
    for (at, byte) in bytes.iter().enumerate() {
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return (number, &bytes[at + 1..]);
        }
    }
    (number, &[])
}

const PATHS: [&str; 2] =
    ["/tenantd.v1.SessionService/AcquireSession", "/tenantd.v1.SessionService/ReleaseSession"];

impl Grpc {
    pub fn new(messages: Messages, out: &mut Vec<u8>) -> Self {
        greet(out);
        let mut new = Self {
            messages,
            next_stream: 1,
            known: 0,
            waiting: Vec::new(),
            connection_window: 65_535,
            stream_window: 65_535,
            server_initial: 65_535,
            held: VecDeque::new(),
            together: Vec::new(),
            acquires: 0,
            body: Vec::new(),
            greeted: false,
            failed: None,
            answer_bytes: 0,
        };
        if let Some(hello) = new.messages.hello.clone() {
            let mut block = vec![0x83, 0x86];
            block.push(0x44);
            literal(&mut block, "/tenantd.v1.SessionService/Work");
            Self::common(&mut block);
            frame(out, HEADERS, END_HEADERS, 1, block.len());
            out.extend_from_slice(&block);
            new.data(1, 0, out, |out| out.extend_from_slice(&hello), hello.len());
        } else {
            new.greeted = true;
        }
        new
    }

    fn common(block: &mut Vec<u8>) {
        block.push(0x41);
        literal(block, "localhost");
        block.push(0x40);
        literal(block, "te");
        literal(block, "trailers");
        block.push(0x5f);
        literal(block, "application/grpc");
    }

    /// As a client with a dynamic table does it: literals the first time, one
    /// byte for each header from then on.
    /// The first call of a connection is always an acquire.
    fn headers(&mut self, op: Op, block: &mut Vec<u8>) {
        block.extend_from_slice(&[0x83, 0x86]);
        match (op, self.known) {
            (Op::Acquire, 0) => {
                block.push(0x44);
                literal(block, PATHS[0]);
                Self::common(block);
                self.known = 1;
            }
            (Op::Release, 1) => {
                block.push(0x44);
                literal(block, PATHS[1]);
                // One entry older by the one just put in.
                block.extend_from_slice(&[0xc1, 0xc0, 0xbf]);
                self.known = 2;
            }
            (Op::Acquire, 1) => block.extend_from_slice(&[0xc1, 0xc0, 0xbf, 0xbe]),
            (Op::Acquire, _) => block.extend_from_slice(&[0xc2, 0xc1, 0xc0, 0xbf]),
            (Op::Release, _) => block.extend_from_slice(&[0xbe, 0xc1, 0xc0, 0xbf]),
        }
    }

    fn data(
        &mut self,
        stream: u32,
        flags: u8,
        out: &mut Vec<u8>,
        put: impl FnOnce(&mut Vec<u8>),
        len: usize,
    ) {
        frame(out, DATA, flags, stream, len + 5);
        out.push(0);
        out.extend_from_slice(&(len as u32).to_be_bytes());
        put(out);
        self.connection_window -= len as i64 + 5;
        self.stream_window -= len as i64 + 5;
    }

    /// Can take requests.
    pub fn is_ready(&self) -> bool {
        self.greeted
    }

    /// Not one after the other in memory.
    fn next_tenant(&mut self, op: Op) -> u32 {
        self.acquires = self.acquires.wrapping_add(u32::from(op == Op::Acquire));
        let number = u64::from(self.acquires) * 7919 % u64::from(self.messages.tenants.max(1));
        number as u32
    }

    /// Asks; the answer comes out of `read` later.
    pub fn ask(&mut self, slot: usize, op: Op, session: [u8; 20], out: &mut Vec<u8>) {
        let template =
            if op == Op::Acquire { &self.messages.acquire } else { &self.messages.release };
        // Room for a request id of three bytes more.
        let len = template.bytes.len() as i64 + 16;
        if self.connection_window < len
            || (self.messages.hello.is_some() && self.stream_window < len)
        {
            self.held.push_back((slot, op, session));
            return;
        }
        if self.messages.hello.is_some() {
            self.together.push((slot, op, session));
            return;
        }
        let template = template.clone();
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut block = Vec::with_capacity(96);
        self.headers(op, &mut block);
        frame(out, HEADERS, END_HEADERS, stream, block.len());
        out.extend_from_slice(&block);
        let (len, tenant) = (template.bytes.len(), self.next_tenant(op));
        self.data(stream, END_STREAM, out, |out| template.put(&session, tenant, out), len);
        self.waiting.push(Waiting { stream, slot, data: false });
    }

    /// What is asked over a `Work` stream, as the shipped clients do: one message with all
    /// that became ready at once.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        if self.together.is_empty() {
            return;
        }
        let mut message = Vec::with_capacity(self.together.len() * 128);
        for (slot, op, session) in std::mem::take(&mut self.together) {
            let tenant = self.next_tenant(op);
            let template =
                if op == Op::Acquire { &self.messages.acquire } else { &self.messages.release };
            // The id first, field 1, varint: slots from 1 on.
            let mut id = vec![0x08];
            varint(slot as u64 + 1, &mut id);
            message.push(0x0a);
            varint((id.len() + template.bytes.len()) as u64, &mut message);
            message.extend_from_slice(&id);
            template.put(&session, tenant, &mut message);
        }
        self.data(1, 0, out, |out| out.extend_from_slice(&message), message.len());
    }

    /// Takes what came; how many bytes of it were whole frames.
    pub fn read(&mut self, input: &[u8], out: &mut Vec<u8>, answers: &mut Vec<Answer>) -> usize {
        let mut at = 0;
        while let Some(head) = input.get(at..at + 9) {
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let Some(payload) = input.get(at + 9..at + 9 + len) else { break };
            at += 9 + len;
            match kind {
                DATA => self.data_in(stream, payload, answers),
                HEADERS => {
                    if self.messages.hello.is_some() && flags & END_STREAM == 0 {
                        self.greeted = true;
                    }
                }
                RST_STREAM => self.failed = Some(format!("stream {stream} was reset")),
                SETTINGS if flags & ACK == 0 => {
                    for pair in payload.chunks_exact(6) {
                        if pair[..2] == [0, 4] {
                            let initial =
                                i64::from(u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]));
                            self.stream_window += initial - self.server_initial;
                            self.server_initial = initial;
                        }
                    }
                    frame(out, SETTINGS, ACK, 0, 0);
                }
                PING if flags & ACK == 0 => {
                    frame(out, PING, ACK, 0, 8);
                    out.extend_from_slice(payload);
                }
                GOAWAY => self.failed = Some("the server said goodbye".to_owned()),
                WINDOW_UPDATE => {
                    let more = i64::from(u32::from_be_bytes([
                        payload[0] & 0x7f,
                        payload[1],
                        payload[2],
                        payload[3],
                    ]));
                    if stream == 0 {
                        self.connection_window += more;
                    } else {
                        self.stream_window += more;
                    }
                    for (slot, op, session) in std::mem::take(&mut self.held) {
                        self.ask(slot, op, session, out);
                    }
                }
                _ => {}
            }
            if kind == HEADERS && flags & END_STREAM != 0 {
                if self.messages.hello.is_some() {
                    self.failed = Some("the stream ended".to_owned());
                } else if let Some(place) = self.waiting.iter().position(|w| w.stream == stream) {
                    let done = self.waiting.swap_remove(place);
                    answers.push(Answer { slot: done.slot, good: done.data });
                }
            }
        }
        at
    }

    fn data_in(&mut self, stream: u32, payload: &[u8], answers: &mut Vec<Answer>) {
        self.answer_bytes += payload.len() as u64;
        if self.messages.hello.is_none() {
            if let Some(waiting) = self.waiting.iter_mut().find(|w| w.stream == stream) {
                waiting.data = true;
            }
            return;
        }
        self.body.extend_from_slice(payload);
        let mut at = 0;
        while let Some(head) = self.body.get(at..at + 5) {
            let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let Some(message) = self.body.get(at + 5..at + 5 + len) else { break };
            at += 5 + len;
            let mut rest = message;
            while let Some((&0x0a, more)) = rest.split_first() {
                let (len, more) = number(more);
                let (answer, more) = more.split_at(len as usize);
                rest = more;
                // What is said of no call has no id.
                let Some((&0x08, answer)) = answer.split_first() else { continue };
                let (id, answer) = number(answer);
                // Field 7 is the refusal.
                let good = answer.first().is_some_and(|tag| tag >> 3 != 7);
                answers.push(Answer { slot: id as usize - 1, good });
            }
        }
        self.body.drain(..at);
    }
}
