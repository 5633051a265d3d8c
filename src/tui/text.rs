//! Text on cells: cleaning, cutting, padding, and the glyphs in their Unicode and ASCII forms.

use std::{borrow::Cow, time::Duration};

use unicode_width::UnicodeWidthChar;

/// Glyphs that the font of every terminal has, or plain ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GlyphSet {
    /// Marks text that was cut.
    pub(crate) cut: &'static str,
    /// Marks the selected row.
    pub(crate) cursor: &'static str,
    /// A horizontal line.
    pub(crate) line: &'static str,
    /// A vertical line.
    pub(crate) bar: &'static str,
    /// Both ends of a finished lane, and the end of one that goes on.
    pub(crate) lane: [&'static str; 3],
    /// Between facts on one line.
    pub(crate) dot: &'static str,
    /// Something went well.
    pub(crate) good: &'static str,
    /// Something failed.
    pub(crate) bad: &'static str,
    /// Something wants a look.
    pub(crate) warn: &'static str,
    /// Something began anew.
    pub(crate) again: &'static str,
    /// Nodes came or went.
    pub(crate) members: &'static str,
    /// A person did it.
    pub(crate) hand: &'static str,
    /// A process started.
    pub(crate) start: &'static str,
    /// The corners of a box: top left, top right, bottom left, bottom right.
    pub(crate) corners: [&'static str; 4],
    /// Five steps, from quiet to loud: they differ in height, so that colour is not needed.
    pub(crate) ramp: [&'static str; 5],
    /// A cell of a bar.
    pub(crate) full: &'static str,
    /// Between the steps of a way into something.
    pub(crate) deeper: &'static str,
    /// Between a count and what it counts.
    pub(crate) times: &'static str,
    /// Whether this is the ASCII set.
    pub(crate) ascii: bool,
}

/// The set in use.
pub(crate) type Glyphs = &'static GlyphSet;

const ASCII: GlyphSet = GlyphSet {
    cut: "~",
    cursor: ">",
    line: "-",
    bar: "|",
    lane: ["|", "|", ">"],
    dot: "; ",
    good: "+",
    bad: "x",
    warn: "!",
    again: "r",
    members: "%",
    hand: "@",
    start: "*",
    corners: ["+", "+", "+", "+"],
    ramp: [".", "-", "+", "#", "@"],
    full: "#",
    deeper: ">",
    times: "x",
    ascii: true,
};

const UNICODE: GlyphSet = GlyphSet {
    cut: "…",
    cursor: "▌",
    line: "─",
    bar: "│",
    lane: ["├", "┤", "▶"],
    dot: " · ",
    good: "✔",
    bad: "✖",
    warn: "▲",
    again: "↻",
    members: "⇄",
    hand: "✎",
    start: "●",
    corners: ["┌", "┐", "└", "┘"],
    ramp: ["▁", "▂", "▄", "▆", "█"],
    full: "█",
    deeper: "›",
    times: "×",
    ascii: false,
};

impl GlyphSet {
    /// The set for a terminal.
    pub(crate) const fn of(ascii: bool) -> Glyphs {
        if ascii { &ASCII } else { &UNICODE }
    }
}

/// Most marks on one letter.
const MARKS: usize = 3;

/// Text that cannot move the cursor, reorder its neighbours, or be measured differently by the terminal.
///
/// Tabs become spaces; controls and bidirectional marks become dots; joiners and variation selectors go, since
/// terminals disagree about the width of what they make.
pub(crate) fn clean(text: &str, glyphs: Glyphs) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let is_mark = |c: char| c.width() == Some(0);
    let plain = |c: char| !c.is_control() && (c.is_ascii() || !glyphs.ascii && !is_odd(c) && !is_mark(c));
    if text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut marks = 0;
    for c in text.chars() {
        marks = if is_mark(c) { marks + 1 } else { 0 };
        match c {
            '\t' => out.push_str("    "),
            c if plain(c) => out.push(c),
            // 61 °C is understood without the sign.
            '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '°' => {}
            // No language stacks more on one letter; what does would make a cell of kilobytes.
            c if is_mark(c) && !is_odd(c) && !glyphs.ascii => {
                if marks <= MARKS {
                    out.push(c);
                }
            }
            c if glyphs.ascii => (0..c.width().unwrap_or(1)).for_each(|_| out.push('?')),
            _ => out.push('·'),
        }
    }
    Cow::Owned(out)
}

fn is_odd(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}' | '\u{ad}')
}

/// Whether each byte is a character that takes one cell.
pub(crate) fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Cells that `text` takes.
pub(crate) fn width(text: &str) -> usize {
    if is_plain(text) {
        return text.len();
    }
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// `text` in at most `cells`, with a mark where it was cut.
pub(crate) fn cut(text: &str, cells: usize, glyphs: Glyphs) -> Cow<'_, str> {
    if width(text) <= cells {
        return Cow::Borrowed(text);
    }
    match cells {
        0 => Cow::Borrowed(""),
        _ => Cow::Owned(format!("{}{}", slice(text, 0, cells - 1), glyphs.cut)),
    }
}

/// The part of `text` from one cell on, in at most `cells`. A wide character that is cut in half is left out.
pub(crate) fn slice(text: &str, from: usize, cells: usize) -> &str {
    let (mut at, mut begin, mut end) = (0, None, text.len());
    for (place, c) in text.char_indices() {
        let wide = c.width().unwrap_or(0);
        if at >= from && begin.is_none() {
            begin = Some(place);
        }
        if at + wide > from + cells {
            end = place;
            break;
        }
        at += wide;
    }
    begin.map_or("", |begin| &text[begin.min(end)..end])
}

/// `text` broken into rows of at most `cells`.
pub(crate) fn wrap(text: &str, cells: usize) -> Vec<&str> {
    let (mut rows, mut begin, mut at) = (Vec::new(), 0, 0);
    for (place, c) in text.char_indices() {
        let wide = c.width().unwrap_or(0);
        if at + wide > cells.max(1) && place > begin {
            rows.push(&text[begin..place]);
            (begin, at) = (place, 0);
        }
        at += wide;
    }
    rows.push(&text[begin..]);
    rows
}

/// `text` broken at spaces into rows of at most `cells`; a longer word is broken anywhere.
pub(crate) fn wrap_words(text: &str, cells: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    for word in text.split_whitespace() {
        let last = rows.last_mut().expect("never empty");
        let gap = usize::from(!last.is_empty());
        if width(last) + gap + width(word) <= cells {
            if gap == 1 {
                last.push(' ');
            }
            last.push_str(word);
            continue;
        }
        let mut parts = wrap(word, cells).into_iter().map(str::to_owned);
        if last.is_empty() {
            *last = parts.next().unwrap_or_default();
        }
        rows.extend(parts);
    }
    rows
}

/// Bytes in three digits and a unit: `812M`, `1.2G`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "K", "M", "G", "T", "P"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit > 0 && value < 9.95 {
        format!("{value:.1}{}", UNITS[unit])
    } else {
        format!("{value:.0}{}", UNITS[unit])
    }
}

/// An age that does not flicker while it is young.
pub(crate) fn age(duration: Duration) -> String {
    if duration.as_secs() < 2 { "<2 s".into() } else { crate::domain::time::human(duration) }
}

/// How long something took, in whole seconds.
pub(crate) fn span(duration: Duration) -> String {
    if duration.as_secs() == 0 { "<1 s".into() } else { crate::domain::time::human(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_the_cursor_is_left() {
        let glyphs = GlyphSet::of(false);
        assert_eq!(clean("a\tb\x1b[31m\u{9b}x\u{202e}y", glyphs), "a    b·[31m·x·y");
        assert_eq!(clean("👩\u{200d}🚀 ❤\u{fe0f}", glyphs), "👩🚀 ❤");
        assert_eq!(clean("näive 漢", GlyphSet::of(true)), "n?ive ??");
        assert!(matches!(clean("plain 漢", glyphs), Cow::Borrowed(_)));
    }

    #[test]
    fn cutting_counts_cells() {
        let glyphs = GlyphSet::of(false);
        assert_eq!(cut("abcdef", 4, glyphs), "abc…");
        assert_eq!(cut("漢字漢字", 4, glyphs), "漢…");
        assert_eq!(cut("e\u{301}e\u{301}e\u{301}", 2, glyphs), "e\u{301}…");
        assert_eq!(cut("abc", 0, glyphs), "");
        assert_eq!(slice("a漢b", 1, 1), "");
        assert_eq!(slice("a漢b", 1, 3), "漢b");
        assert_eq!(slice("abc", 9, 3), "");
        assert_eq!(wrap("abcdef", 4), ["abcd", "ef"]);
        assert_eq!(wrap("漢字", 3), ["漢", "字"]);
        assert_eq!(wrap("", 3), [""]);
        assert_eq!(wrap_words("one two  threeee", 5), ["one", "two", "three", "ee"]);
    }

    #[test]
    fn bytes_have_three_digits() {
        assert_eq!([0, 999, 1000, 1 << 20, 10 << 30].map(bytes), ["0B", "999B", "1.0K", "1.0M", "10G"]);
    }
}
