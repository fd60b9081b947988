//! Text for terminals. What agents and dispatchers send is untrusted: a name
//! or message must not move the cursor, recolour the screen, reverse the
//! reading direction or forge a line or a `key=value`.

use std::time::{Duration, SystemTime};

/// `text` with everything invisible or active written as an escape: controls,
/// ESC, line separators, bidirectional and other format characters. Printable
/// text of any script stays, combining marks included.
#[must_use]
pub fn escape(text: &str) -> String {
    // Every quote in escape_debug's output carries its own backslash, so
    // taking that one away is unambiguous.
    text.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

/// `text` as the value of a `key=value`: in quotes wherever it could be taken
/// for more than one value, or for none.
#[must_use]
pub fn value(text: &str) -> String {
    let plain = !text.is_empty()
        && !text.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '=' | '\\'));
    if plain {
        return escape(text);
    }
    format!("\"{}\"", text.escape_debug().to_string().replace("\\'", "'"))
}

/// `value` as JSON on one line: the same data, with everything invisible or
/// active written as `\uXXXX`, so that it can be shown on a terminal.
#[must_use]
pub fn json_line(value: &serde_json::Value) -> String {
    let plain = value.to_string();
    if plain.is_ascii() && !plain.contains('\u{7f}') {
        // ASCII controls are escaped already.
        return plain;
    }
    let mut safe = String::with_capacity(plain.len());
    let mut units = [0; 2];
    for c in plain.chars() {
        // Outside of strings JSON is printable ASCII, so what is replaced is
        // within one.
        if (c.is_ascii() && c != '\u{7f}') || is_inert(c) {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    safe
}

/// The same rule as [`escape`]'s, for a character beyond ASCII.
fn is_inert(c: char) -> bool {
    // Within a text, since a combining mark is only at its beginning escaped.
    String::from_iter(['a', c]).escape_debug().count() == 2
}

/// A duration in the form that `--for` and `--timeout` take, to the
/// millisecond.
#[must_use]
pub fn duration(span: Duration) -> String {
    let whole = Duration::new(span.as_secs(), span.subsec_millis() * 1_000_000);
    humantime::format_duration(whole).to_string().replace(' ', "")
}

/// A wire duration; negative ones, which are never sent, count as zero.
#[must_use]
pub fn span(wire: &prost_types::Duration) -> Duration {
    Duration::try_from(*wire).unwrap_or_default()
}

/// A wire time in RFC 3339, UTC, milliseconds; empty when absent or outside
/// the years 1970 to 9999, which RFC 3339 output here cannot show.
#[must_use]
pub fn time(wire: Option<&prost_types::Timestamp>) -> String {
    const END_OF_YEAR_9999: u64 = 253_402_300_799;
    wire.and_then(|at| {
        let seconds = u64::try_from(at.seconds).ok()?;
        let nanos = u32::try_from(at.nanos).ok()?;
        if seconds > END_OF_YEAR_9999 || nanos >= 1_000_000_000 {
            return None;
        }
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))?;
        Some(humantime::format_rfc3339_millis(at).to_string())
    })
    .unwrap_or_default()
}

/// A protobuf struct as JSON, for agents' attributes.
#[must_use]
pub fn json(structure: &prost_types::Struct) -> serde_json::Value {
    structure
        .fields
        .iter()
        .map(|(key, value)| (key.clone(), json_value(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn json_value(value: &prost_types::Value) -> serde_json::Value {
    use prost_types::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        // Protobuf has one number type; whole numbers should not read "3.0".
        #[allow(clippy::cast_possible_truncation, reason = "checked to be whole")]
        Some(Kind::NumberValue(number))
            if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 =>
        {
            (*number as i64).into()
        }
        Some(Kind::NumberValue(number)) => (*number).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::BoolValue(yes)) => (*yes).into(),
        Some(Kind::StructValue(structure)) => json(structure),
        Some(Kind::ListValue(list)) => list.values.iter().map(json_value).collect(),
    }
}

/// An enum's wire name as people write it: "SESSION_STATE_ACTIVE" is "active".
#[must_use]
pub fn lower(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_inert() {
        for hostile in [
            "\u{1b}[2J\u{1b}]0;owned\u{7}",
            "\u{9b}31m",
            "a\r\nb\u{8}\0\u{7f}",
            "\u{202e}evil\u{2066}\u{200f}\u{2069}",
            "\u{2028}\u{2029}\u{85}\u{feff}\u{200b}\u{e0041}",
        ] {
            for shown in [escape(hostile), value(hostile)] {
                assert!(shown.chars().all(|c| c.is_ascii() && !c.is_ascii_control()), "{shown:?}");
            }
        }
    }

    #[test]
    fn json_is_inert_on_a_terminal_and_still_the_same_data() {
        let hostile = "\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\n\u{2028}\u{e0041} \\\"'\u{feff}";
        let value = serde_json::json!({ hostile: [hostile, "Grüße, 東京, नमस्ते", 7] });
        let line = json_line(&value);
        let inert = |c: char| {
            !c.is_control() && !matches!(c, '\u{202e}' | '\u{2028}' | '\u{e0041}' | '\u{feff}')
        };
        assert!(line.chars().all(inert), "{line:?}");
        assert!(line.contains("Grüße, 東京, नमस्ते"), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), value);
    }

    #[test]
    fn a_value_cannot_forge_another() {
        assert_eq!(value("x tenant=other"), "\"x tenant=other\"");
        assert_eq!(value("x\" tenant=\"y"), "\"x\\\" tenant=\\\"y\"");
        assert_eq!(value(""), "\"\"");
        assert_eq!(value("a\u{a0}b=c"), "\"a\\u{a0}b=c\"");
    }

    #[test]
    fn ordinary_text_stays_readable() {
        for text in ["it's \"fine\"", "Grüße, 東京", "नमस्ते", "e\u{301}"] {
            assert_eq!(escape(text), text);
        }
        assert_eq!(value("acme-1"), "acme-1");
    }

    #[test]
    fn durations_parse_back() {
        let span = Duration::from_micros(65_250_700);
        assert_eq!(duration(span), "1m5s250ms");
        assert_eq!(
            humantime::parse_duration(&duration(span)).unwrap(),
            Duration::from_millis(65_250)
        );
        assert_eq!(duration(Duration::ZERO), "0s");
    }

    #[test]
    fn times_out_of_range_are_empty_not_fatal() {
        let at = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
        assert_eq!(time(Some(&at(0, 1_000_000))), "1970-01-01T00:00:00.001Z");
        for bad in [at(-1, 0), at(i64::MAX, 0), at(0, -1), at(0, i32::MAX)] {
            assert_eq!(time(Some(&bad)), "");
        }
        assert_eq!(time(None), "");
    }
}
