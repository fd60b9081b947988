//! Figures in as few characters as a column has.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::cli::top::rows::Breaker;

/// Most bytes in one column of text.
const BYTES: usize = 8;

/// Live sessions of the cap.
#[must_use]
pub fn of_cap(live: u32, cap: Option<u32>) -> String {
    cap.map_or_else(|| format!("{live}/-"), |cap| format!("{live}/{cap}"))
}

/// Per second.
#[must_use]
pub fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "-".to_owned(),
        Some(rate) if rate < 0.05 => "0".to_owned(),
        Some(rate) if rate < 100.0 => format!("{rate:.1}"),
        Some(rate) if rate < 10_000.0 => format!("{rate:.0}"),
        Some(rate) => format!("{:.0}k", rate / 1000.0),
    }
}

/// A share of all.
#[must_use]
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 100.0))
}

/// How long: its two largest units.
#[must_use]
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// How long an event loop stood still.
#[must_use]
pub fn lag(lag: Duration) -> String {
    if lag < Duration::from_secs(1) {
        format!("{}ms", lag.as_millis())
    } else if lag < Duration::from_secs(100) {
        format!("{:.1}s", lag.as_secs_f64())
    } else {
        span(lag)
    }
}

/// Bytes.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "K", "M", "G", "T"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 10.0 {
        format!("{value:.0}{}", UNITS[unit])
    } else {
        format!("{value:.1}{}", UNITS[unit])
    }
}

/// A breaker, with the time left.
#[must_use]
pub fn breaker(breaker: Breaker, suspended: bool) -> String {
    match breaker {
        _ if suspended => "suspended".to_owned(),
        Breaker::Off => "off".to_owned(),
        Breaker::Closed => "closed".to_owned(),
        // Rounded up, so that it is 0 only when it is over.
        Breaker::Open(left) => format!("open {}", span(left + Duration::from_millis(999))),
        Breaker::HalfOpen(live, healthy) => format!("half-open {live}+{healthy}"),
    }
}

/// `text` in at most `width` columns of the terminal, the cut shown.
#[must_use]
pub fn fit(text: &str, width: usize) -> String {
    if text.width() <= width && text.len() <= width * BYTES {
        return text.to_owned();
    }
    let mut cut = begin(text.chars(), width.saturating_sub(1));
    cut.push('~');
    cut
}

/// As [`fit`], for ids: they begin alike, and differ at their end.
#[must_use]
pub fn fit_middle(text: &str, width: usize) -> String {
    if text.width() <= width || width < 4 {
        return fit(text, width);
    }
    let head = width / 3;
    let tail = begin(text.chars().rev(), width - head - 1);
    format!("{}~{}", begin(text.chars(), head), tail.chars().rev().collect::<String>())
}

/// As many characters as have room. Marks over one character take none, but
/// their number is bounded all the same.
fn begin(chars: impl Iterator<Item = char>, width: usize) -> String {
    let (mut cut, mut taken) = (String::new(), 0);
    for c in chars {
        taken += c.width().unwrap_or_default();
        if taken > width || cut.len() + c.len_utf8() > width * BYTES {
            break;
        }
        cut.push(c);
    }
    cut
}

/// `text` in at most `most` lines of `width` columns, broken between words.
#[must_use]
pub fn wrap(text: &str, width: usize, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        let full = lines.len() == most;
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            *line = fit(word, width);
        } else if line.width() + 1 + word.width() <= width {
            *line = format!("{line} {word}");
        } else if full {
            let rest: Vec<_> = std::iter::once(word).chain(words).collect();
            *line = fit(&format!("{line} {}", rest.join(" ")), width);
            break;
        } else {
            lines.push(fit(word, width));
        }
    }
    lines
}

/// `text` cut and filled up to exactly `width` columns.
#[must_use]
pub fn place(text: &str, width: usize, right: bool) -> String {
    let text = fit(text, width);
    let blanks = " ".repeat(width.saturating_sub(text.width()));
    if right { blanks + &text } else { text + &blanks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_round_the_right_way() {
        let seconds = Duration::from_secs;
        assert_eq!(span(seconds(59)), "59s");
        assert_eq!(span(seconds(61)), "1m01s");
        assert_eq!(span(seconds(7_260)), "2h01m");
        assert_eq!(span(seconds(100_000)), "1d03h");
        assert_eq!(lag(Duration::from_millis(80)), "80ms");
        assert_eq!(lag(Duration::from_millis(2_340)), "2.3s");
        assert_eq!(bytes(512), "512B");
        assert_eq!(bytes(123_456_789), "118M");
        assert_eq!(bytes(5_000_000_000), "4.7G");
        assert_eq!(rate(Some(0.2)), "0.2");
        assert_eq!(rate(Some(1234.5)), "1234");
        assert_eq!(percent(Some(0.666)), "67%");
        assert_eq!(breaker(Breaker::Open(Duration::from_millis(22_001)), false), "open 23s");
        assert_eq!(breaker(Breaker::Open(Duration::ZERO), false), "open 0s");
        assert_eq!(fit("abcdef", 4), "abc~");
        assert_eq!(fit_middle("AJ_abcdefgh_0042", 9), "AJ_~_0042");
        assert_eq!(fit_middle("short", 9), "short");
    }

    #[test]
    fn words_are_wrapped_and_the_last_line_shows_that_there_is_more() {
        assert_eq!(wrap("one two three", 8, 3), ["one two", "three"]);
        assert_eq!(wrap("one two three four", 8, 2), ["one two", "three f~"]);
        assert_eq!(wrap("unbreakable", 5, 2), ["unbr~"]);
        assert_eq!(wrap("", 5, 2), [""]);
    }

    #[test]
    fn wide_characters_and_heaps_of_marks_leave_columns_where_they_are() {
        assert_eq!(fit("東京都庁", 5), "東京~");
        assert_eq!(place("東京都庁", 6, false), "東京~ ");
        assert_eq!(place("東", 4, true), "  東");
        assert_eq!(fit_middle("東京都庁舎前", 8), "東~舎前");
        let heap = format!("a{}", "\u{301}".repeat(10_000));
        assert!(fit(&heap, 10).len() < 100);
    }
}
