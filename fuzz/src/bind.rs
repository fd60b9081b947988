//! `domain::tenant::bind` agrees with a reader of JSON that shares no code with
//! it: a recogniser of RFC 8259's grammar, for any nesting and any number.

use tenantd::domain::{reject::Reason, tenant};

/// What the metadata says under the key.
#[derive(Debug, Clone, PartialEq)]
enum Claim {
    Nothing,
    Null,
    Text(String),
    Malformed,
}

/// Job, room and explicit tenant are parted by the byte 0x1f.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(3, '\u{1f}');
    let mut part = || parts.next().unwrap_or_default();
    let (job, room, explicit) = (part(), part(), part());
    let got = tenant::bind(job, room, explicit);
    let got = got.as_ref().map(tenant::TenantId::as_str).map_err(|refused| {
        let said = &refused.message;
        assert!(said.is_ascii() && said.len() < 1024, "{said:?}");
        assert!(!said.chars().any(char::is_control), "{said:?}");
        refused.reason
    });
    assert_eq!(got, naive(job, room, explicit).as_deref().map_err(|reason| *reason));
    if let Ok(id) = got {
        assert_eq!(tenant::TenantId::parse(id).expect("is one").as_str(), id);
        assert_eq!(tenant::bind("", "", id).expect("is one").as_str(), id);
    }
}

fn naive(job: &str, room: &str, explicit: &str) -> Result<String, Reason> {
    let claimed = match claim(job) {
        Claim::Nothing => claim(room),
        said => said,
    };
    let claimed = match claimed {
        Claim::Nothing | Claim::Null => None,
        Claim::Text(text) if text.is_empty() => None,
        Claim::Text(text) => Some(id(&text)?),
        Claim::Malformed => return Err(Reason::TenantMalformed),
    };
    if explicit.is_empty() {
        return Ok(claimed.unwrap_or_else(|| "default".to_owned()));
    }
    let explicit = id(explicit)?;
    match claimed {
        Some(claimed) if claimed != explicit => Err(Reason::TenantConflict),
        _ => Ok(explicit),
    }
}

fn id(text: &str) -> Result<String, Reason> {
    let trimmed = text.trim_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let is_id = !trimmed.is_empty()
        && trimmed.len() <= 128
        && trimmed.chars().all(|c| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-'));
    if is_id { Ok(trimmed.to_owned()) } else { Err(Reason::TenantMalformed) }
}

fn claim(text: &str) -> Claim {
    let mut reader = Reader { text, at: 0 };
    let Some(members) = reader.document() else { return Claim::Nothing };
    let mut claim = Claim::Nothing;
    for (key, value) in members {
        // A key that is no text (a lone surrogate) is some other key.
        if serde_json::from_str::<String>(key).is_ok_and(|key| key == "tenant") {
            // The last of several decides, but where one cannot even be read.
            claim = match (value.as_bytes().first(), serde_json::from_str::<String>(value)) {
                (Some(b'n'), _) => Claim::Null,
                (_, Ok(text)) => Claim::Text(text),
                (Some(b'"'), Err(_)) => return Claim::Malformed,
                (Some(b'-' | b'0'..=b'9'), _) if serde_json::from_str::<f64>(value).is_err() => {
                    return Claim::Malformed;
                }
                _ => Claim::Malformed,
            };
        }
    }
    claim
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        self.space();
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The members of the object that the whole text is.
    fn document(&mut self) -> Option<Vec<(&'a str, &'a str)>> {
        let mut members = Vec::new();
        self.eat(b'{')?;
        if self.eat(b'}').is_none() {
            loop {
                let key = self.string()?;
                self.eat(b':')?;
                members.push((key, self.value()?));
                if self.eat(b',').is_none() {
                    self.eat(b'}')?;
                    break;
                }
            }
        }
        self.space();
        (self.at == self.text.len()).then_some(members)
    }

    fn string(&mut self) -> Option<&'a str> {
        self.space();
        let start = self.at;
        self.eat(b'"')?;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return self.text.get(start..self.at);
                }
                b'\\' => {
                    let escaped = *self.text.as_bytes().get(self.at + 1)?;
                    self.at += 2;
                    if escaped == b'u' {
                        let hex = self.text.as_bytes().get(self.at..self.at + 4)?;
                        hex.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                        self.at += 4;
                    } else if !b"\"\\/bfnrt".contains(&escaped) {
                        return None;
                    }
                }
                0..0x20 => return None,
                _ => self.at += 1,
            }
        }
    }

    /// A value of any nesting, without recursion.
    fn value(&mut self) -> Option<&'a str> {
        self.space();
        let start = self.at;
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            let mut closed = false;
            match self.peek()? {
                bracket @ (b'[' | b'{') => {
                    self.at += 1;
                    let end = if bracket == b'[' { b']' } else { b'}' };
                    if self.eat(end).is_some() {
                        closed = true;
                    } else {
                        open.push(end);
                        if bracket == b'{' {
                            self.string()?;
                            self.eat(b':')?;
                        }
                    }
                }
                b'"' => {
                    self.string()?;
                    closed = true;
                }
                _ => {
                    self.scalar()?;
                    closed = true;
                }
            }
            while closed {
                let Some(end) = open.last().copied() else {
                    return self.text.get(start..self.at);
                };
                if self.eat(b',').is_some() {
                    if end == b'}' {
                        self.string()?;
                        self.eat(b':')?;
                    }
                    closed = false;
                } else {
                    self.eat(end)?;
                    open.pop();
                }
            }
        }
    }

    fn scalar(&mut self) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        for word in ["true", "false", "null"] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Some(());
            }
        }
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}
