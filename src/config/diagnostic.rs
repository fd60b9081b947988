//! What is wrong with a config file: file, line, column, key, and what would be
//! valid. Never a value that could be a secret, so never a line of the source.

use std::{fmt, ops::Range, path::PathBuf};

use toml::de::{DeTable, DeValue};

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
    /// Key paths with the span of their key and value; deeper ones later.
    keys: Vec<(Range<usize>, String)>,
}

impl<'a> Source<'a> {
    /// Reads where each key is. A text that is no TOML has none.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let mut keys = Vec::new();
        if let Ok(document) = DeTable::parse(text) {
            walk(document.get_ref(), "", &mut keys);
        }
        Self { text, keys }
    }

    /// A problem at a place of the text.
    #[must_use]
    pub fn at(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let before = &self.text[..start];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
        let key = self
            .keys
            .iter()
            .filter(|(place, _)| place.contains(&start))
            .max_by_key(|(_, key)| key.matches('.').count())
            .map(|(_, key)| key.clone())
            .unwrap_or_default();
        Diagnostic { line, column, key, message: message.into() }
    }

    /// A structural error, in words that show no value.
    #[must_use]
    pub fn structural(&self, error: &toml::de::Error) -> Diagnostic {
        self.at(error.span().unwrap_or(0..0), without_values(error.message()))
    }
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
        if let DeValue::Table(inner) = value.get_ref() {
            walk(inner, &path, keys);
        }
    }
}

/// Serde quotes what it met; that may be a key put in the wrong place.
fn without_values(message: &str) -> String {
    let message = message.trim().replace('\n', "; ");
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
