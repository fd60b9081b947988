//! Lets clients in whose `:authority` is a socket path.
//!
//! On a unix socket there is no host to name, and clients fill the gap each in
//! their own way: the gRPC core (Python, C++, Ruby, …) sends the path percent
//! encoded (`run%2Fx.sock`), others send it as it is (`/tmp/x.sock`). The `http`
//! crate takes neither for an authority, and `h2` answers with a reset stream
//! before any code of the server runs. Nothing here needs the name, so
//! [`AuthorityFix`] replaces the two bytes at fault, `%` and `/`, by `-` on the
//! way in. All else passes byte for byte.
//!
//! # Why a replacement of the same length
//!
//! Lengths are everywhere: of the string, of the frame, of the entry in the
//! dynamic table. `-` is one byte like the two it replaces, and six bits in the
//! Huffman code like them. So no length changes, no frame is built anew, and
//! client and server agree on the dynamic table without our keeping one (see
//! `hpack.rs`, also for the one kind of reference which is not followed).
//!
//! # What is held back
//!
//! Only the payload of a header block: from the first payload byte of HEADERS to
//! the end of the frame with END_HEADERS. The protocol allows nothing else on
//! the connection in between, and a server has nothing to do before the end, so
//! nobody can see the delay. Every other byte, frame headers of HEADERS
//! included, passes in the read it arrived in. A block is seen whole, and the
//! walk over it does not depend on where reads or frames were split.
//!
//! # Bounds
//!
//! At most 64 KiB on the wire are held, frame headers and padding counted;
//! beyond them the block is let go untouched and `h2`, whose own limit is lower
//! unless configured otherwise, judges it. (Should such a block bring an
//! authority into the dynamic table, later references to it are refused as
//! well.) Beside them stand the list of the block's fragments (one per non-empty
//! frame: no more than twice the held bytes) and, while a block is walked, one
//! copy. What is ready but did not fit the reader's buffer is at most a block
//! and one read. All of it is given back once read.
//!
//! # In doubt
//!
//! A peer that does not begin with the preface of HTTP/2, a frame out of order,
//! a block that cannot be walked: the bytes pass as they came, from there on for
//! the rest of the connection. Each of these ends the connection in `h2`, and it
//! is `h2` that says so.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::hpack;

/// The most a header block may take on the wire and still be looked at.
const LIMIT: usize = 64 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// An accepted stream whose incoming authorities are made acceptable. Not
/// `Debug`: what it holds are the headers of a client, credentials included.
pub struct AuthorityFix<IO> {
    io: IO,
    scanner: Scanner,
    ready: Ready,
}

impl<IO> AuthorityFix<IO> {
    pub fn new(io: IO) -> Self {
        Self { io, scanner: Scanner::default(), ready: Ready::default() }
    }

    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

impl<IO: Connected> Connected for AuthorityFix<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for AuthorityFix<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // More than once only while a block is held: an empty read would mean
        // the end of the stream to the caller.
        loop {
            if me.ready.drain_into(buf) {
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut me.io).poll_read(cx, buf))?;
            let chunk = buf.filled().get(before..).unwrap_or_default();
            if chunk.is_empty() {
                me.scanner.give_up(&mut me.ready.bytes);
                me.ready.drain_into(buf);
                return Poll::Ready(Ok(()));
            }
            if me.scanner.skip(chunk.len()) {
                return Poll::Ready(Ok(()));
            }
            me.scanner.feed(chunk, &mut me.ready.bytes);
            buf.set_filled(before);
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for AuthorityFix<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Bytes seen through and waiting for room in the reader's buffer.
#[derive(Default)]
struct Ready {
    bytes: Vec<u8>,
    taken: usize,
}

impl Ready {
    /// Whether there was anything to hand over.
    fn drain_into(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
        let (any, done) = (!now.is_empty(), later.is_empty());
        buf.put_slice(now);
        self.taken += now.len();
        if done {
            self.taken = 0;
            // A large block is rare: do not keep its room for an idle stream.
            if self.bytes.capacity() > LIMIT / 4 {
                self.bytes = Vec::new();
            } else {
                self.bytes.clear();
            }
        }
        any
    }
}

/// Where in the client's byte stream the next byte belongs.
enum Stage {
    Preface { seen: usize },
    FrameHeader { seen: usize, bytes: [u8; 9] },
    Payload { left: usize },
    Opaque,
}

struct Scanner {
    stage: Stage,
    /// The header block which is open, if one is.
    block: Option<Block>,
}

struct Block {
    stream: u32,
    /// `None` once the block is over the limit: its frames are still followed.
    held: Option<Held>,
    /// Of the frame under way.
    kind: u8,
    flags: u8,
    start: usize,
}

#[derive(Default)]
struct Held {
    /// All from the first payload byte of HEADERS on.
    bytes: Vec<u8>,
    /// Where in `bytes` the header block's own bytes lie.
    fragments: Vec<Range<usize>>,
}

/// Nothing `h2` would go on with.
struct Doubt;

impl Default for Scanner {
    fn default() -> Self {
        Self { stage: Stage::Preface { seen: 0 }, block: None }
    }
}

impl Scanner {
    /// Takes note of `len` bytes if they are none of our business; they may then
    /// stay where they are.
    fn skip(&mut self, len: usize) -> bool {
        match &mut self.stage {
            Stage::Opaque => true,
            // The last byte of a payload moves the stage: that is for `feed`.
            Stage::Payload { left } if self.block.is_none() && len < *left => {
                *left -= len;
                true
            }
            _ => false,
        }
    }

    fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while let Some((byte, rest)) = input.split_first() {
            match &mut self.stage {
                Stage::Opaque => {
                    out.extend_from_slice(input);
                    return;
                }
                Stage::Preface { seen } => {
                    out.push(*byte);
                    input = rest;
                    if PREFACE.get(*seen) != Some(byte) {
                        self.stage = Stage::Opaque;
                    } else if *seen + 1 == PREFACE.len() {
                        self.stage = Stage::next_frame();
                    } else {
                        *seen += 1;
                    }
                }
                Stage::FrameHeader { seen, bytes } => {
                    if let Some(place) = bytes.get_mut(*seen) {
                        *place = *byte;
                    }
                    *seen += 1;
                    let whole = (*seen == bytes.len()).then_some(*bytes);
                    self.emit(&[*byte], out);
                    input = rest;
                    if let Some(header) = whole {
                        self.begin(header, out);
                    }
                }
                Stage::Payload { left } => {
                    let (now, later) = input.split_at(input.len().min(*left));
                    *left -= now.len();
                    let done = *left == 0;
                    self.emit(now, out);
                    input = later;
                    if done {
                        self.end(out);
                    }
                }
            }
        }
    }

    /// Holds the bytes while a block is open, hands them on otherwise.
    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if let Some(block) = &mut self.block
            && let Some(held) = &mut block.held
        {
            if held.bytes.len() + bytes.len() <= LIMIT {
                held.bytes.extend_from_slice(bytes);
                return;
            }
            out.append(&mut held.bytes);
            block.held = None;
        }
        out.extend_from_slice(bytes);
    }

    /// A frame header is complete.
    fn begin(&mut self, header: [u8; 9], out: &mut Vec<u8>) {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = header;
        let left = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        match (&mut self.block, kind) {
            (None, HEADERS) if stream != 0 => {
                self.block =
                    Some(Block { stream, held: Some(Held::default()), kind, flags, start: 0 });
            }
            (Some(block), CONTINUATION) if block.stream == stream => {
                block.kind = kind;
                block.flags = flags;
                block.start = block.held.as_ref().map_or(0, |held| held.bytes.len());
            }
            (None, HEADERS | CONTINUATION) | (Some(_), _) => return self.give_up(out),
            (None, _) => {}
        }
        if left == 0 {
            self.end(out);
        } else {
            self.stage = Stage::Payload { left };
        }
    }

    /// A frame is complete.
    fn end(&mut self, out: &mut Vec<u8>) {
        self.stage = Stage::next_frame();
        let Some(block) = &mut self.block else {
            return;
        };
        if block.note_fragment().is_err() {
            return self.give_up(out);
        }
        if block.flags & END_HEADERS != 0 {
            if let Some(held) = &mut block.held
                && held.rewrite().is_err()
            {
                return self.give_up(out);
            }
            self.release(out);
        }
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        if let Some(held) = self.block.take().and_then(|block| block.held) {
            out.extend_from_slice(&held.bytes);
        }
    }

    /// Lets go of what is held, and of the connection.
    fn give_up(&mut self, out: &mut Vec<u8>) {
        self.release(out);
        self.stage = Stage::Opaque;
    }
}

impl Stage {
    fn next_frame() -> Self {
        Stage::FrameHeader { seen: 0, bytes: [0; 9] }
    }
}

impl Block {
    /// Finds the part of the frame's payload which belongs to the block.
    fn note_fragment(&mut self) -> Result<(), Doubt> {
        let Some(held) = &mut self.held else {
            return Ok(());
        };
        let (mut start, mut end) = (self.start, held.bytes.len());
        if self.kind == HEADERS {
            if self.flags & PADDED != 0 {
                let padding = held.bytes.get(start).ok_or(Doubt)?;
                start += 1;
                end = end.checked_sub(usize::from(*padding)).ok_or(Doubt)?;
            }
            if self.flags & PRIORITY != 0 {
                start += 5;
            }
        }
        if start > end {
            return Err(Doubt);
        }
        if start < end {
            held.fragments.push(start..end);
        }
        Ok(())
    }
}

impl Held {
    /// On a copy, as fields may run across frames and as an error is to leave no
    /// trace.
    fn rewrite(&mut self) -> Result<(), Doubt> {
        let mut block = Vec::new();
        for range in &self.fragments {
            block.extend_from_slice(self.bytes.get(range.clone()).ok_or(Doubt)?);
        }
        if !hpack::rewrite(&mut block).map_err(|_| Doubt)? {
            return Ok(());
        }
        let mut rest = block.as_slice();
        for range in &self.fragments {
            let place = self.bytes.get_mut(range.clone()).ok_or(Doubt)?;
            let (now, later) = rest.split_at_checked(place.len()).ok_or(Doubt)?;
            place.copy_from_slice(now);
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::transport::Server;

    use super::super::hpack::tests::{indexed, named};
    use super::super::huffman::tests::encode;
    use super::*;

    /// Gives one chunk a read, then the end.
    struct Chunks(VecDeque<Vec<u8>>);

    impl AsyncRead for Chunks {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(mut chunk) = self.0.pop_front() {
                let later = chunk.split_off(chunk.len().min(buf.remaining()));
                buf.put_slice(&chunk);
                if !later.is_empty() {
                    self.0.push_front(later);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    fn through(chunks: impl IntoIterator<Item = Vec<u8>>, room: usize) -> Vec<u8> {
        let chunks = chunks.into_iter().filter(|c| !c.is_empty()).collect();
        let mut fix = AuthorityFix::new(Chunks(chunks));
        let mut out = Vec::new();
        loop {
            let mut room = vec![0; room];
            let mut buf = ReadBuf::new(&mut room);
            let mut cx = Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut fix).poll_read(&mut cx, &mut buf).is_ready());
            if buf.filled().is_empty() {
                return out;
            }
            out.extend_from_slice(buf.filled());
        }
    }

    fn whole(bytes: &[u8]) -> Vec<u8> {
        through([bytes.to_vec()], 1 << 20)
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = (payload.len() as u32).to_be_bytes();
        let head = [len[1], len[2], len[3], kind, flags];
        [&head[..], &stream.to_be_bytes(), payload].concat()
    }

    /// Preface, SETTINGS, and what is given.
    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE.to_vec(), frame(4, 0, 0, &[]), frames.concat()].concat()
    }

    /// The header block of a health check.
    fn request(authority: &str, huffman: bool) -> Vec<u8> {
        [
            vec![0x83, 0x86], // :method POST, :scheme http
            indexed(4, "/grpc.health.v1.Health/Check", huffman),
            named(":authority", authority, huffman),
            named("te", "trailers", huffman),
            named("content-type", "application/grpc", huffman),
        ]
        .concat()
    }

    fn headers(block: &[u8]) -> Vec<u8> {
        frame(HEADERS, END_HEADERS, 1, block)
    }

    /// Every frame shape at once.
    fn everything(authority: &str) -> Vec<u8> {
        let plain = request(authority, false);
        let coded = request(authority, true);
        let padded = [&[3][..], &plain, b"%/%"].concat();
        let both = [&[2, 0, 0, 0, 0, 16][..], &coded[..20], b"%/"].concat();
        let prioritised = [&[0, 0, 0, 0, 16][..], &coded].concat();
        connection(&[
            headers(&plain),
            frame(0, 1, 1, b"a%b/c"),
            frame(HEADERS, END_HEADERS | PADDED, 3, &padded),
            frame(HEADERS, END_HEADERS | PRIORITY, 5, &prioritised),
            frame(6, 0, 0, b"%/%/%/%/"),
            frame(HEADERS, PADDED | PRIORITY, 7, &both),
            frame(CONTINUATION, 0, 7, &coded[20..44]),
            frame(CONTINUATION, 0, 7, &[]),
            frame(CONTINUATION, 0, 7, &coded[44..45]),
            frame(CONTINUATION, END_HEADERS, 7, &coded[45..]),
            frame(0, 1, 7, b""),
            headers(&coded),
        ])
    }

    #[test]
    fn every_frame_shape_is_rewritten_and_nothing_else() {
        for (from, to) in [("run%2Fx.sock", "run-2Fx.sock"), ("/t/x.so", "-t-x.so")] {
            assert_eq!(whole(&everything(from)), everything(to));
        }
        assert_eq!(whole(&everything("localhost")), everything("localhost"));
    }

    #[test]
    fn a_split_anywhere_changes_nothing() {
        let (from, to) = (everything("run%2Fx.sock"), everything("run-2Fx.sock"));
        for at in 0..=from.len() {
            let (a, b) = from.split_at(at);
            assert_eq!(through([a.to_vec(), b.to_vec()], 1 << 16), to, "at {at}");
        }
        for (chunk, room) in [(1, 1), (1, 100), (7, 3), (1000, 1), (1000, 5)] {
            assert_eq!(through(from.chunks(chunk).map(<[u8]>::to_vec), room), to);
        }
    }

    #[test]
    fn a_block_split_between_frames_anywhere_is_rewritten() {
        for huffman in [false, true] {
            let split = |authority, at| {
                let block: Vec<u8> = request(authority, huffman);
                connection(&[
                    frame(HEADERS, 0, 1, &block[..at]),
                    frame(CONTINUATION, END_HEADERS, 1, &block[at..]),
                ])
            };
            for at in 0..=request("run%2Fx.sock", huffman).len() {
                assert_eq!(whole(&split("run%2Fx.sock", at)), split("run-2Fx.sock", at), "at {at}");
            }
        }
    }

    #[test]
    fn nothing_but_an_open_block_is_held_back() {
        let bytes = everything("run%2Fx.sock");
        let mut scanner = Scanner::default();
        let (mut out, mut came) = (Vec::new(), 0);
        for byte in &bytes {
            scanner.feed(&[*byte], &mut out);
            came += 1;
            assert!(out.len() == came || scanner.block.is_some());
        }
        assert!(scanner.block.is_none());
    }

    #[test]
    fn the_end_of_the_stream_lets_go_of_an_open_block() {
        let bytes = connection(&[headers(&request("run%2Fx.sock", false))]);
        for len in 0..bytes.len() {
            assert_eq!(whole(&bytes[..len]), &bytes[..len]);
        }
    }

    #[test]
    fn a_block_over_the_limit_passes_and_the_next_one_is_rewritten() {
        let filler = named("x", &"y".repeat(16_000), false);
        let large = |authority| {
            let mut frames = vec![frame(HEADERS, 0, 1, &request(authority, false))];
            frames.extend((0..4).map(|_| frame(CONTINUATION, 0, 1, &filler)));
            frames.push(frame(CONTINUATION, 0, 1, &filler));
            frames.push(frame(CONTINUATION, END_HEADERS, 1, &filler));
            frames
        };
        let with = |first, second| {
            let mut frames = large(first);
            frames.push(headers(&request(second, true)));
            connection(&frames)
        };
        let (from, to) = (with("a%b", "a%b"), with("a%b", "a-b"));
        assert_eq!(whole(&from), to);
        assert_eq!(through(from.chunks(999).map(<[u8]>::to_vec), 500), to);
    }

    #[test]
    fn no_more_than_the_limit_is_ever_held() {
        let mut scanner = Scanner::default();
        let mut out = Vec::new();
        scanner.feed(&connection(&[frame(HEADERS, 0, 1, b"")]), &mut out);
        for n in 0..20_000 {
            let payload = if n % 2 == 0 { &b"a"[..] } else { b"" };
            scanner.feed(&frame(CONTINUATION, 0, 1, payload), &mut out);
            if let Some(held) = scanner.block.as_ref().and_then(|b| b.held.as_ref()) {
                assert!(held.bytes.len() <= LIMIT);
                assert!(held.fragments.len() <= LIMIT / 10);
            }
        }
        assert!(out.len() > LIMIT);
    }

    #[test]
    fn in_doubt_bytes_pass_as_they_came() {
        let good = headers(&request("a%b", false));
        let open = frame(HEADERS, 0, 1, &request("a%b", false));
        let broken = [request("a%b", false), vec![0x40, 0x7f]].concat();
        for bytes in [
            [b"GET / HTTP/1.1\r\n\r\n".to_vec(), good.clone()].concat(),
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX".to_vec(), good.clone()].concat(),
            connection(&[open.clone(), good.clone()]),
            connection(&[open.clone(), frame(0, 0, 1, b"%/"), good.clone()]),
            connection(&[open, frame(CONTINUATION, 4, 3, b""), good.clone()]),
            connection(&[frame(CONTINUATION, 4, 1, b""), good.clone()]),
            connection(&[frame(HEADERS, 4, 0, &request("a%b", false)), good.clone()]),
            connection(&[frame(HEADERS, 4 | PADDED, 1, &[9, 0x83]), good.clone()]),
            connection(&[frame(HEADERS, 4 | PADDED, 1, b""), good.clone()]),
            connection(&[frame(HEADERS, 4 | PRIORITY, 1, b"abc"), good.clone()]),
            connection(&[headers(&broken), good]),
        ] {
            assert_eq!(whole(&bytes), bytes);
            assert_eq!(through(bytes.chunks(1).map(<[u8]>::to_vec), 9), bytes);
        }
    }

    /// More cases on demand: `TENANTD_FUZZ_CASES=1000000 cargo test …`.
    fn cases() -> ProptestConfig {
        let asked = std::env::var("TENANTD_FUZZ_CASES").ok();
        ProptestConfig::with_cases(asked.and_then(|n| n.parse().ok()).unwrap_or(256))
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![Just(HEADERS), Just(CONTINUATION), 0..12u8];
        let block = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            ("[%/a-z]{0,20}", any::<bool>()).prop_map(|(a, h)| request(&a, h)),
        ];
        (kind, any::<u8>(), 0..3u32, block).prop_map(|(k, f, s, p)| frame(k, f, s, &p))
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn without_the_preface_arbitrary_bytes_pass(bytes: Vec<u8>) {
            prop_assert_eq!(whole(&bytes), bytes);
        }

        #[test]
        fn arbitrary_bytes_after_the_preface_keep_their_length(
            bytes: Vec<u8>, chunk in 1..64usize, room in 1..64usize,
        ) {
            let bytes = [PREFACE, &bytes].concat();
            let out = whole(&bytes);
            prop_assert_eq!(out.len(), bytes.len());
            prop_assert_eq!(through(bytes.chunks(chunk).map(<[u8]>::to_vec), room), out);
        }

        #[test]
        fn arbitrary_frames_keep_their_length_and_do_not_mind_splits(
            frames in proptest::collection::vec(any_frame(), 0..12),
            chunk in 1..64usize, room in 1..64usize,
        ) {
            let bytes = connection(&frames);
            let out = whole(&bytes);
            prop_assert_eq!(out.len(), bytes.len());
            prop_assert_eq!(
                through(bytes.chunks(chunk).map(<[u8]>::to_vec), room),
                out.clone()
            );
            prop_assert_eq!(whole(&out), out);
        }
    }

    /// What a tonic server answers to a health check with this authority.
    async fn answer(authority: &str, huffman: bool, fix: bool) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(4096);
        let (_reporter, health) = tonic_health::server::health_reporter();
        let serving = Server::builder().add_service(health);
        let serving = tokio::spawn(async move {
            let io = AuthorityFix::new(server);
            if fix {
                let one = tokio_stream::once(Ok::<_, io::Error>(io));
                serving.serve_with_incoming(one).await
            } else {
                let one = tokio_stream::once(Ok::<_, io::Error>(io.io));
                serving.serve_with_incoming(one).await
            }
        });
        let call = connection(&[
            headers(&request(authority, huffman)),
            frame(0, 1, 1, &[0; 5]), // an empty message
        ]);
        client.write_all(&call).await.unwrap();
        let mut got = Vec::new();
        // Until the server has been silent for a while.
        while let Ok(Ok(1..)) =
            tokio::time::timeout(Duration::from_millis(300), client.read_buf(&mut got)).await
        {
        }
        serving.abort();
        got
    }

    /// Type, flags and payload of each frame on stream 1.
    fn on_stream_one(mut bytes: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some((head, rest)) = bytes.split_at_checked(9) {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (payload, rest) = rest.split_at(len);
            if head[8] == 1 {
                frames.push((head[3], head[4], payload.to_vec()));
            }
            bytes = rest;
        }
        frames
    }

    #[tokio::test]
    async fn a_tonic_server_answers_calls_with_a_path_for_authority() {
        for authority in ["run%2Fx.sock", "/tmp/x.sock", "localhost"] {
            for huffman in [false, true] {
                let frames = on_stream_one(&answer(authority, huffman, true).await);
                let [(HEADERS, _, head), (0, _, data), (HEADERS, flags, tail)] = &frames[..] else {
                    panic!("{authority}: {frames:?}");
                };
                assert_eq!(head.first(), Some(&0x88), ":status 200");
                assert_eq!(data, &[0, 0, 0, 0, 2, 8, 1], "SERVING");
                assert_eq!(flags & 1, 1, "end of stream");
                let name = encode(b"grpc-status");
                let at = tail.windows(name.len()).position(|w| w == name);
                let value = &tail[at.unwrap() + name.len()..];
                assert!(value.starts_with(&[0x81, 0x07]) || value.starts_with(b"\x010"));
            }
        }
    }

    #[tokio::test]
    async fn a_tonic_server_without_the_fix_resets_such_calls() {
        for authority in ["run%2Fx.sock", "/tmp/x.sock"] {
            let frames = on_stream_one(&answer(authority, true, false).await);
            assert_eq!(frames, [(3, 0, vec![0, 0, 0, 1])], "PROTOCOL_ERROR");
        }
    }

    const STOCK_CLIENT: &str = r#"
import sys, grpc
with grpc.insecure_channel('unix:' + sys.argv[1]) as channel:
    check = channel.unary_unary('/grpc.health.v1.Health/Check')
    for _ in range(5):
        sys.stdout.write(check(b'', timeout=5).hex() + ' ')
"#;

    /// `TENANTD_GRPCIO_PYTHON` names a Python which has grpcio installed.
    #[tokio::test]
    #[ignore = "needs a Python with grpcio: TENANTD_GRPCIO_PYTHON"]
    async fn stock_grpcio_talks_to_a_stock_tonic_server_on_a_unix_socket() {
        use tokio_stream::StreamExt;

        let python = std::env::var("TENANTD_GRPCIO_PYTHON").unwrap();
        let dir = tempfile::tempdir().unwrap();
        for fix in [true, false] {
            let path = dir.path().join(format!("{fix}.sock"));
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let (_reporter, health) = tonic_health::server::health_reporter();
            let server = Server::builder().add_service(health);
            let incoming = UnixListenerStream::new(listener);
            let serving = tokio::spawn(async move {
                if fix {
                    let incoming = incoming.map(|io| io.map(AuthorityFix::new));
                    server.serve_with_incoming(incoming).await
                } else {
                    server.serve_with_incoming(incoming).await
                }
            });
            let client = tokio::process::Command::new(&python)
                .args(["-c", STOCK_CLIENT])
                .arg(&path)
                .output()
                .await
                .unwrap();
            let printed = String::from_utf8_lossy(&client.stdout);
            let complaint = String::from_utf8_lossy(&client.stderr);
            if fix {
                assert_eq!(printed, "0801 ".repeat(5), "{complaint}");
            } else {
                assert!(complaint.contains("RST_STREAM"), "{printed} {complaint}");
            }
            serving.abort();
        }
    }
}
