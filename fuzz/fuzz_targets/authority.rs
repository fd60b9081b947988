//! Any bytes from a client keep their length, however the reads fall, and a
//! second pass finds nothing left to do.
//!
//! The preface is put in front unless the first byte is odd; the second byte is
//! the size of a read.
#![no_main]

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use tenantd::transport::AuthorityFix;
use tokio::io::{AsyncRead, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Chunks<'a>(&'a [u8], usize);

impl AsyncRead for Chunks<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let len = self.0.len().min(self.1).min(buf.remaining());
        let (now, later) = self.0.split_at(len);
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

fn through(bytes: &[u8], chunk: usize) -> Vec<u8> {
    let mut fix = AuthorityFix::new(Chunks(bytes, chunk));
    let mut out = Vec::new();
    let mut room = [0; 512];
    loop {
        let mut buf = ReadBuf::new(&mut room);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut fix).poll_read(&mut cx, &mut buf).is_ready());
        if buf.filled().is_empty() {
            return out;
        }
        out.extend_from_slice(buf.filled());
    }
}

fuzz_target!(|data: &[u8]| {
    let [first, chunk, rest @ ..] = data else {
        return;
    };
    let preface = if first % 2 == 0 { PREFACE } else { &[] };
    let bytes = [preface, rest].concat();
    let out = through(&bytes, usize::MAX);
    assert_eq!(out.len(), bytes.len());
    assert_eq!(through(&bytes, usize::from(*chunk).max(1)), out);
    assert_eq!(through(&out, usize::MAX), out);
});
