//! What is wrong with a config file: file, line, column, key, and what would be
//! valid. Never a value that could be a secret, so never a line of the source.

use std::{cell::OnceCell, fmt, ops::Range, path::PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, Deserializer};

/// Most problems of structure that are shown at once: each costs one more look
/// at the whole document.
const MAX_STRUCTURAL: usize = 50;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Path of the key, where it is known.
    pub key: String,
    /// What is wrong, and what would be valid.
    pub message: String,
}

/// All problems of one file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostics {
    /// The file.
    pub path: PathBuf,
    /// At least one.
    pub items: Vec<Diagnostic>,
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{path}")?;
            if item.line > 0 {
                write!(f, ":{}:{}", item.line, item.column)?;
            }
            if !item.key.is_empty() {
                write!(f, ": {}", item.key)?;
            }
            write!(f, ": {}", item.message)?;
        }
        Ok(())
    }
}

/// Places in one source text.
pub struct Source<'a> {
    text: &'a str,
    /// Key paths with the span of their key and value; deeper ones later. Looked for when
    /// something is wrong: a start with many tenants is to be quick.
    keys: OnceCell<Vec<(Range<usize>, String)>>,
}

impl<'a> Source<'a> {
    /// One that can say where each key is. A text that is no TOML has none.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self { text, keys: OnceCell::new() }
    }

    fn keys(&self) -> &[(Range<usize>, String)] {
        self.keys.get_or_init(|| {
            let mut keys = Vec::new();
            if let Ok(document) = DeTable::parse(self.text) {
                walk(document.get_ref(), "", &mut keys);
            }
            keys
        })
    }

    /// A problem at a place of the text.
    #[must_use]
    pub fn at(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let before = &self.text[..start];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
        let key = self
            .keys()
            .iter()
            .filter(|(place, _)| place.contains(&start))
            .max_by_key(|(_, key)| key.matches('.').count())
            .map(|(_, key)| key.clone())
            .unwrap_or_default();
        Diagnostic { line, column, key, message: message.into() }
    }

    /// The text as a `T`, and what does not fit it. A part that does not fit is
    /// noted and left out, so that one reading shows all of them; without a `T`
    /// when that cannot be told from the rest.
    #[must_use]
    pub fn read<T: DeserializeOwned>(&self) -> (Option<T>, Vec<Diagnostic>) {
        let mut items = Vec::new();
        // Only a text with something wrong in it is read twice.
        let (mut document, mut error) = match self.attempt() {
            Ok(read) => return (Some(read), items),
            Err(error) => match DeTable::parse(self.text) {
                Ok(document) => (document, error),
                Err(error) => return (None, vec![self.structural(&error)]),
            },
        };
        loop {
            items.push(self.structural(&error));
            let at = error.span().map(|span| span.start);
            let left_out = at.is_some_and(|at| leave_out(document.get_mut(), at));
            if !left_out || items.len() >= MAX_STRUCTURAL {
                return (None, items);
            }
            error = match T::deserialize(Deserializer::from(document.clone())) {
                Ok(read) => return (Some(read), items),
                Err(error) => error,
            };
        }
    }

    fn attempt<T: DeserializeOwned>(&self) -> Result<T, toml::de::Error> {
        T::deserialize(Deserializer::from(DeTable::parse(self.text)?))
    }

    /// A structural error, in words that show no value.
    fn structural(&self, error: &toml::de::Error) -> Diagnostic {
        self.at(error.span().unwrap_or(0..0), without_values(error.message()))
    }
}

/// Takes the deepest entry at a place out of the document.
fn leave_out(table: &mut DeTable<'_>, at: usize) -> bool {
    for (_, value) in table.iter_mut() {
        let inner = match value.get_mut() {
            DeValue::Table(inner) => leave_out(inner, at),
            DeValue::Array(items) => items.iter_mut().any(|item| match item.get_mut() {
                DeValue::Table(inner) => leave_out(inner, at),
                _ => false,
            }),
            _ => false,
        };
        if inner {
            return true;
        }
    }
    let here = table
        .iter()
        .find(|(key, value)| key.span().contains(&at) || value.span().contains(&at))
        .map(|(key, _)| key.clone());
    here.is_some_and(|key| table.remove(&key).is_some())
}

fn walk(table: &DeTable<'_>, prefix: &str, keys: &mut Vec<(Range<usize>, String)>) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        keys.push((key.span(), path.clone()));
        keys.push((value.span(), path.clone()));
        match value.get_ref() {
            DeValue::Table(inner) => walk(inner, &path, keys),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        walk(inner, &format!("{path}[{index}]"), keys);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Serde quotes what it met; that may be a key put in the wrong place.
fn without_values(message: &str) -> String {
    let message = message.trim().replace('\n', "; ");
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut names = rest.split('`').skip(1).step_by(2);
        let met = names.next().unwrap_or_default();
        return unknown_key(met, &names.collect::<Vec<_>>());
    }
    for met in ["invalid type: ", "invalid value: ", "unknown variant "] {
        let Some(rest) = message.strip_prefix(met) else { continue };
        let expected = rest.rfind(", expected ").map(|at| &rest[at + ", expected ".len()..]);
        let shape = rest.split([' ', '`', '"', ',']).next().filter(|word| !word.is_empty());
        let shape =
            if met.starts_with("unknown") { "another word" } else { shape.unwrap_or("value") };
        return match expected {
            Some(expected) => format!("must be {}, got {shape}", plain(expected)),
            None => format!("got {shape}"),
        };
    }
    message
}

fn unknown_key(met: &str, valid: &[&str]) -> String {
    // The measure and the bound of clap and cargo, for the same purpose.
    let nearest = valid
        .iter()
        .map(|name| (strsim::jaro_winkler(met, name), *name))
        .filter(|(nearness, _)| *nearness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let meant =
        nearest.map_or_else(|| ";".to_owned(), |(_, name)| format!(", did you mean {name}?"));
    format!("unknown key{meant} valid here: {}", valid.join(", "))
}

/// Rust's names of types, as people know them.
fn plain(expected: &str) -> &str {
    match expected {
        "u32" => "a whole number, 0 or more",
        "f64" => "a number",
        "a boolean" => "true or false",
        _ if expected.starts_with("struct ") || expected == "a map" => "a table",
        other => other,
    }
}
