//! Colours and signs, and what stands for them where there are none.

use ratatui::style::{Color, Modifier, Style};

use crate::cli::top::tail::Tone;

/// How it looks.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Colours are shown.
    pub colour: bool,
    /// Only ASCII is drawn.
    pub ascii: bool,
}

impl Look {
    /// By the environment: `NO_COLOR`, and a locale that is not UTF-8.
    #[must_use]
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| set(name));
        let unicode = locale.is_some_and(|name| {
            let name = name.to_ascii_lowercase();
            name.contains("utf-8") || name.contains("utf8")
        });
        let dumb = set("TERM").is_some_and(|terminal| terminal == "dumb");
        Self { colour: set("NO_COLOR").is_none() && !dumb, ascii: !unicode }
    }

    fn coloured(self, colour: Color, without: Modifier) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new().add_modifier(without) }
    }

    /// For a tone.
    #[must_use]
    pub fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Plain => Style::new(),
            Tone::Good => self.coloured(Color::Green, Modifier::empty()),
            Tone::Warn => self.coloured(Color::Yellow, Modifier::BOLD),
            Tone::Bad => self.coloured(Color::Red, Modifier::BOLD | Modifier::UNDERLINED),
        }
    }

    /// Names of columns and the like.
    #[must_use]
    pub fn head(self) -> Style {
        self.coloured(Color::Cyan, Modifier::empty()).add_modifier(Modifier::BOLD)
    }

    /// What matters less.
    #[must_use]
    pub fn dim(self) -> Style {
        self.coloured(Color::DarkGray, Modifier::DIM)
    }

    /// The chosen row.
    #[must_use]
    pub fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// A bar of `width`: live sessions, pending ones among them, up to a cap.
    #[must_use]
    pub fn bar(self, live: u32, pending: u32, cap: Option<u32>, width: usize) -> String {
        let Some(cap) = cap else { return " ".repeat(width) };
        let (full, waits, free) = if self.ascii { ('#', '+', '.') } else { ('█', '▒', '·') };
        let part = |count: u32| {
            if count == 0 {
                return 0;
            }
            // One session of many is still seen, and full is full only at the cap.
            let share = width as u64 * u64::from(count.min(cap)) / u64::from(cap.max(1));
            usize::try_from(share).unwrap_or(width).clamp(1, width)
        };
        let all = if cap == 0 { 0 } else { part(live) };
        let active = if cap == 0 { 0 } else { part(live.saturating_sub(pending)).min(all) };
        let mut bar = String::new();
        bar.extend(std::iter::repeat_n(full, active));
        bar.extend(std::iter::repeat_n(waits, all - active));
        bar.extend(std::iter::repeat_n(free, width - all));
        bar
    }

    /// Figures as a line of small bars, as high as they are against the largest.
    #[must_use]
    pub fn sparkline(self, values: &[u64]) -> String {
        let steps: &[char] = if self.ascii {
            &['_', '.', '-', '=', '*', '#']
        } else {
            &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
        };
        let most = values.iter().copied().max().unwrap_or_default().max(1);
        let last = steps.len() as u64 - 1;
        let step = |value: &u64| {
            let high = (value * last).div_ceil(most).min(last);
            steps[usize::try_from(high).unwrap_or_default()]
        };
        values.iter().map(step).collect()
    }

    /// A line across, with a title in it.
    #[must_use]
    pub fn rule(self, title: &str, width: u16) -> String {
        let line = if self.ascii { '-' } else { '─' };
        let mut rule = format!("{line} {title} ");
        let taken = rule.chars().count();
        rule.extend(std::iter::repeat_n(line, usize::from(width).saturating_sub(taken)));
        rule
    }

    /// Shows that a column is sorted by, and which way.
    #[must_use]
    pub const fn arrow(self, descending: bool) -> char {
        match (self.ascii, descending) {
            (false, true) => '▼',
            (false, false) => '▲',
            (true, true) => 'v',
            (true, false) => '^',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNICODE: Look = Look { colour: true, ascii: false };
    const ASCII: Look = Look { colour: false, ascii: true };

    #[test]
    fn a_bar_is_full_only_at_the_cap_and_never_empty_with_a_session() {
        assert_eq!(ASCII.bar(0, 0, Some(10), 5), ".....");
        assert_eq!(ASCII.bar(1, 0, Some(1000), 5), "#....");
        assert_eq!(ASCII.bar(9, 0, Some(10), 5), "####.");
        assert_eq!(ASCII.bar(10, 0, Some(10), 5), "#####");
        assert_eq!(ASCII.bar(12, 0, Some(10), 5), "#####", "a lowered cap");
        assert_eq!(ASCII.bar(10, 6, Some(10), 5), "##+++");
        assert_eq!(ASCII.bar(3, 3, Some(0), 5), ".....");
        assert_eq!(ASCII.bar(3, 0, None, 5), "     ");
        assert_eq!(UNICODE.bar(5, 2, Some(10), 10), "███▒▒·····");
    }

    #[test]
    fn a_sparkline_shows_even_one_of_many() {
        assert_eq!(UNICODE.sparkline(&[0, 1, 50, 100]), "▁▂▅█");
        assert_eq!(ASCII.sparkline(&[0, 0]), "__");
        assert_eq!(UNICODE.sparkline(&[]), "");
    }

    #[test]
    fn the_environment_says_how_it_looks() {
        let look = |pairs: &[(&str, &str)]| {
            let found = |name: &str| {
                let pair = pairs.iter().find(|pair| pair.0 == name);
                pair.map(|pair| pair.1.to_owned())
            };
            let look = Look::of(found);
            (look.colour, look.ascii)
        };
        assert_eq!(look(&[("LANG", "C.UTF-8")]), (true, false));
        assert_eq!(look(&[("LANG", "en_US.utf8"), ("NO_COLOR", "1")]), (false, false));
        assert_eq!(look(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]), (true, true));
        assert_eq!(look(&[("NO_COLOR", ""), ("TERM", "dumb")]), (false, true));
    }
}
