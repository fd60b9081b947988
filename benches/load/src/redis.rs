//! Redis as a user would take it: one Lua script per decision, called over a unix
//! socket, one call in flight per connection.

use crate::h2::{Answer, Op};

const LUA: [&str; 2] =
    [include_str!("../../peers/acquire.lua"), include_str!("../../peers/release.lua")];

/// One connection.
pub struct Redis {
    shas: [Option<String>; 2],
    loaded: usize,
    in_flight: Option<usize>,
    pub failed: Option<String>,
}

fn command(out: &mut Vec<u8>, parts: &[&str]) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n{part}\r\n", part.len()).as_bytes());
    }
}

impl Redis {
    pub fn new(out: &mut Vec<u8>) -> Self {
        for script in LUA {
            command(out, &["SCRIPT", "LOAD", script]);
        }
        Self { shas: [None, None], loaded: 0, in_flight: None, failed: None }
    }

    pub fn is_ready(&self) -> bool {
        self.loaded == 2
    }

    pub fn ask(&mut self, slot: usize, op: Op, session: [u8; 20], out: &mut Vec<u8>) {
        let id = std::str::from_utf8(&session).expect("ascii");
        let sha = |n: usize| self.shas[n].as_deref().expect("loaded");
        match op {
            Op::Acquire => command(
                out,
                &["EVALSHA", sha(0), "2", "leases:{acme}", "config:{acme}", id, "100000", "60000"],
            ),
            Op::Release => command(out, &["EVALSHA", sha(1), "1", "leases:{acme}", id]),
        }
        self.in_flight = Some(slot);
    }

    /// Answers are bulk strings, integers or errors.
    pub fn read(&mut self, input: &[u8], answers: &mut Vec<Answer>) -> usize {
        let mut at = 0;
        while let Some(end) = input[at..].windows(2).position(|w| w == b"\r\n") {
            let line = &input[at..at + end];
            let mut next = at + end + 2;
            let (mut good, mut text) = (true, String::new());
            match line.first() {
                Some(b'-') => {
                    good = false;
                    self.failed = Some(String::from_utf8_lossy(line).into_owned());
                }
                Some(b':') => good = line != b":0",
                Some(b'$') => {
                    let len: i64 = std::str::from_utf8(&line[1..])
                        .ok()
                        .and_then(|n| n.parse().ok())
                        .unwrap_or(-1);
                    if len < 0 {
                        good = false;
                    } else {
                        let Some(body) = input.get(next..next + len as usize + 2) else { break };
                        text = String::from_utf8_lossy(&body[..len as usize]).into_owned();
                        next += len as usize + 2;
                    }
                }
                _ => {}
            }
            at = next;
            if self.loaded < 2 {
                self.shas[self.loaded] = Some(text);
                self.loaded += 1;
            } else if let Some(slot) = self.in_flight.take() {
                answers.push(Answer { slot, good });
            }
        }
        at
    }
}
