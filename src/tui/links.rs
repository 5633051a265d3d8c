//! Hyperlinks (OSC 8): which terminals have them, what may stand in an address, and how cells get and lose one.
//!
//! A cell keeps its link until it is written again. What is drawn without links by [`encode`](super::encode) therefore
//! loses them, and what had one and stays as it was would keep it. So after each frame the rows with links that were
//! touched are written once more, with their links, and places that lost a link without one.

use std::fmt::Write as _;

use ratatui::{buffer::Buffer, layout::Rect};

use super::encode;

/// Longest address: terminals drop longer ones, or worse.
const MAX_ADDRESS: usize = 2000;

/// Whether to draw links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinksWanted {
    /// Where the terminal is known to have them, and colours are on.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl std::str::FromStr for LinksWanted {
    type Err = String;

    fn from_str(word: &str) -> Result<LinksWanted, String> {
        match word {
            "auto" => Ok(LinksWanted::Auto),
            "always" => Ok(LinksWanted::Always),
            "never" => Ok(LinksWanted::Never),
            other => Err(format!("{other:?} is none of auto, always and never")),
        }
    }
}

impl LinksWanted {
    /// Whether this terminal gets links. `plain` says that the user wants no colours: who wants plain text gets it.
    pub fn settle(self, env: &dyn Fn(&str) -> Option<String>, plain: bool) -> bool {
        match self {
            LinksWanted::Always => true,
            LinksWanted::Never => false,
            LinksWanted::Auto => !plain && has_links(env),
        }
    }
}

/// Whether the terminal is known to have hyperlinks. One that does not say what it is counts as one that has none.
fn has_links(env: &dyn Fn(&str) -> Option<String>) -> bool {
    let get = |name: &str| env(name).filter(|value| !value.is_empty());
    let term = get("TERM").unwrap_or_default();
    let program = get("TERM_PROGRAM").unwrap_or_default();
    let program_version = || version(&get("TERM_PROGRAM_VERSION").unwrap_or_default());
    if get("STY").is_some() || term == "dumb" || term == "linux" {
        return false;
    }
    if get("TMUX").is_some() || term.starts_with("tmux") || term.starts_with("screen") {
        // Since 3.4 tmux keeps links, and hands them on only to a terminal that has them.
        return program == "tmux" && program_version() >= (3, 4);
    }
    let by_program = match program.as_str() {
        "iTerm.app" => program_version() >= (3, 1),
        "vscode" => program_version() >= (1, 72),
        "WezTerm" | "ghostty" | "Hyper" | "rio" | "Tabby" => true,
        _ => false,
    };
    let number = |name: &str| get(name).and_then(|value| value.parse::<u32>().ok()).unwrap_or(0);
    by_program
        || number("VTE_VERSION") >= 5000
        || number("KONSOLE_VERSION") >= 201_200
        || get("WT_SESSION").is_some()
        || get("KITTY_WINDOW_ID").is_some()
        || NAMES
            .iter()
            .any(|name| term == *name || term.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')))
}

/// Names of terminals that have links; what a remote shell is told too.
const NAMES: [&str; 7] = ["xterm-kitty", "foot", "alacritty", "xterm-ghostty", "wezterm", "contour", "rio"];

/// `3.4a` is 3 and 4.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    let mut next = || numbers.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    (next(), next())
}

/// A web address as it may stand in a link; `None` for what is none.
pub(crate) fn web(address: &str) -> Option<String> {
    let is_web = address.starts_with("https://") || address.starts_with("http://");
    let escaped = escape(address, |byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte));
    (is_web && escaped.len() <= MAX_ADDRESS).then_some(escaped)
}

/// The address of a file on a node; `None` for a path that does not begin at the root.
pub(crate) fn file(node: &str, path: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._~-+=,@".contains(&byte);
    let host = escape(node, |byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    let address = format!("file://{host}{}", escape(path, plain));
    (path.starts_with('/') && address.len() <= MAX_ADDRESS).then_some(address)
}

/// Bytes that may not stand as they are become `%XX`. What is a `%` already stays one.
fn escape(text: &str, keeps: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if keeps(byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Cells of one row that lead somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) x: u16,
    pub(crate) y: u16,
    pub(crate) cells: u16,
    /// Escaped already.
    pub(crate) address: String,
}

impl Link {
    pub(crate) fn area(&self) -> Rect {
        Rect { x: self.x, y: self.y, width: self.cells, height: 1 }
    }
}

/// What follows a frame in which these rows were written, so that all links are where they belong.
pub(crate) fn encode_links(had: &[Link], (next, has): (&Buffer, &[Link]), touched: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    if had.is_empty() && has.is_empty() {
        return out;
    }
    let is_touched = |link: &Link| touched.binary_search(&link.y).is_ok();
    for link in had.iter().filter(|link| !has.contains(link)) {
        out.extend(encode::cells(next, link.area()));
    }
    // Taking one away may have gone over another of the same row.
    let lost: Vec<u16> = had.iter().filter(|link| !has.contains(link)).map(|link| link.y).collect();
    for link in has {
        if !had.contains(link) || is_touched(link) || lost.contains(&link.y) {
            out.extend(format!("\x1b]8;;{}\x1b\\", link.address).as_bytes());
            out.extend(encode::cells(next, link.area()));
            out.extend(b"\x1b]8;;\x1b\\");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tui::picture::Picture;

    fn links(pairs: &[(&str, &str)], plain: bool) -> bool {
        let get =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        LinksWanted::Auto.settle(&get, plain)
    }

    #[test]
    fn only_terminals_that_are_known_get_links() {
        for yes in [
            &[("TERM", "xterm-256color"), ("VTE_VERSION", "7600")][..],
            &[("TERM", "xterm-kitty")],
            &[("TERM", "foot-extra")],
            &[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app"), ("TERM_PROGRAM_VERSION", "3.5.2")],
            &[
                ("TERM", "tmux-256color"),
                ("TMUX", "/tmp/x"),
                ("TERM_PROGRAM", "tmux"),
                ("TERM_PROGRAM_VERSION", "3.4"),
            ],
            &[("TERM", "xterm-256color"), ("WT_SESSION", "1")],
        ] {
            assert!(links(yes, false), "{yes:?}");
            assert!(!links(yes, true), "{yes:?} without colours");
        }
        for no in [
            &[("TERM", "xterm-256color")][..],
            &[],
            &[("TERM", "linux"), ("VTE_VERSION", "7600")],
            &[("TERM", "xterm-256color"), ("VTE_VERSION", "4205")],
            &[
                ("TERM", "screen-256color"),
                ("TMUX", "/tmp/x"),
                ("TERM_PROGRAM", "tmux"),
                ("TERM_PROGRAM_VERSION", "3.3a"),
            ],
            &[("TERM", "screen-256color"), ("TMUX", "/tmp/x"), ("VTE_VERSION", "7600")],
            &[("TERM", "screen.xterm-256color"), ("STY", "1.pts"), ("VTE_VERSION", "7600")],
            &[("TERM", "xterm"), ("TERM_PROGRAM", "Apple_Terminal"), ("TERM_PROGRAM_VERSION", "453")],
            &[("TERM", "footloose")],
        ] {
            assert!(!links(no, false), "{no:?}");
        }
    }

    #[test]
    fn addresses_cannot_end_the_sequence_that_they_stand_in() {
        assert_eq!(
            web("https://wandb.ai/team/p/runs/a-0?x=1&y=a%20b").unwrap(),
            "https://wandb.ai/team/p/runs/a-0?x=1&y=a%20b"
        );
        assert_eq!(web("https://h/\x1b\\\x07 ä").unwrap(), "https://h/%1B%5C%07%20%C3%A4");
        assert_eq!(web("javascript:alert(1)"), None);
        assert_eq!(file("n01", "/a b;c/ü.py").unwrap(), "file://n01/a%20b%3Bc/%C3%BC.py");
        assert_eq!(file("n\x1b", "/x").unwrap(), "file://n%1B/x");
        assert_eq!((file("n01", "relative.py"), web(&format!("https://{}", "a".repeat(3000)))), (None, None));
    }

    proptest! {
        #[test]
        fn no_address_has_anything_but_printable_ascii(text: String) {
            for address in [web(&format!("https://{text}")), file(&text, &format!("/{text}"))].into_iter().flatten() {
                prop_assert!(address.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }

    const SIZE: (u16, u16) = (12, 3);

    /// What each cell leads to when these bytes are done: a terminal as far as links and places go.
    fn leads(bytes: &[u8], cells: &mut [Vec<Option<String>>]) {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (mut x, mut y, mut link) = (0_usize, 0_usize, None);
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("\x1b]8;;") {
                let (address, after) = after.split_once("\x1b\\").expect("an end");
                link = (!address.is_empty()).then(|| address.to_owned());
                rest = after;
            } else if let Some(after) = rest.strip_prefix("\x1b[") {
                let end = after.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                let numbers: Vec<usize> = after[..end].split(';').map(|n| n.parse().unwrap_or(1)).collect();
                match &after[end..=end] {
                    "H" => (y, x) = (numbers[0] - 1, numbers.get(1).copied().unwrap_or(1) - 1),
                    "C" => x += numbers[0],
                    _ => {}
                }
                rest = &after[end + 1..];
            } else {
                cells[y][x] = link.clone();
                x += 1;
                rest = &rest[c.len_utf8()..];
            }
        }
        assert_eq!(link, None, "a link stays open");
    }

    /// Texts with their places, and links with row, column, length and kind.
    type Frame = (Vec<(u16, u16, String)>, Vec<(u16, u16, u16, u8)>);

    fn any_frame() -> impl Strategy<Value = Frame> {
        let text = proptest::collection::vec((0..SIZE.0, 0..SIZE.1, "[a-z ]{0,6}"), 0..6);
        let links = proptest::collection::vec((0..SIZE.0 - 3, 0..SIZE.1, 1..4_u16, 0..3_u8), 0..3);
        (text, links)
    }

    proptest! {
        #[test]
        fn links_are_where_they_belong_and_nowhere_else(frames in proptest::collection::vec(any_frame(), 1..6)) {
            let area = Rect::new(0, 0, SIZE.0, SIZE.1);
            let (mut shown, mut had) = (Picture::from(&Buffer::empty(area)), Vec::new());
            let mut cells = vec![vec![None; usize::from(SIZE.0)]; usize::from(SIZE.1)];
            for (texts, places) in frames {
                let mut next = Buffer::empty(area);
                for (x, y, text) in texts {
                    next.set_stringn(x, y, text, usize::from(SIZE.0 - x), ratatui::style::Style::new());
                }
                let mut has: Vec<Link> = Vec::new();
                for (x, y, cells, to) in places {
                    let link = Link { x, y, cells, address: format!("https://h/{to}") };
                    if has.iter().all(|other| !other.area().intersects(link.area())) {
                        has.push(link);
                    }
                }
                let turn = encode::encode(&mut shown, &next);
                leads(&turn.bytes, &mut cells);
                leads(&encode_links(&had, (&next, &has), &turn.rows), &mut cells);
                for y in 0..SIZE.1 {
                    for x in 0..SIZE.0 {
                        let at = ratatui::layout::Position::new(x, y);
                        let wanted = has.iter().find(|link| link.area().contains(at)).map(|link| link.address.clone());
                        prop_assert_eq!(&cells[usize::from(y)][usize::from(x)], &wanted, "at {} {}", x, y);
                    }
                }
                had = has;
            }
        }
    }
}
