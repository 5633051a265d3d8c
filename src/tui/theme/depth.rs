//! How many colours a terminal shows, and the nearest of them.

use std::str::FromStr;

use ratatui::style::Color;

/// How many colours the terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColorDepth {
    /// None: bold, underlined and reversed only.
    None,
    /// The sixteen of the terminal's own scheme.
    Ansi16,
    /// The cube of 256.
    Ansi256,
    /// Any.
    True,
}

impl ColorDepth {
    /// What the user asked for, else what the environment tells of the terminal.
    ///
    /// `env` looks up a variable. sshd does not pass `COLORTERM` on, so 256 colours must look right.
    pub fn detect(env: &dyn Fn(&str) -> Option<String>, flag: Option<ColorDepth>) -> ColorDepth {
        if let Some(depth) = flag {
            return depth;
        }
        let get = |name: &str| env(name).filter(|value| !value.is_empty());
        let term = get("TERM").unwrap_or_default();
        if get("NO_COLOR").is_some() || term == "dumb" || term.is_empty() {
            return ColorDepth::None;
        }
        let many = get("COLORTERM").is_some_and(|value| value == "truecolor" || value == "24bit");
        if many || term.ends_with("-direct") {
            ColorDepth::True
        } else if term == "linux" || term.ends_with("-16color") || term == "ansi" || term == "vt100" {
            ColorDepth::Ansi16
        } else {
            // Every emulator of the last twenty years has the cube, whatever its terminfo name ends with.
            ColorDepth::Ansi256
        }
    }
}

impl FromStr for ColorDepth {
    type Err = String;

    fn from_str(text: &str) -> Result<ColorDepth, String> {
        match text {
            "never" | "none" => Ok(ColorDepth::None),
            "16" => Ok(ColorDepth::Ansi16),
            "256" => Ok(ColorDepth::Ansi256),
            "truecolor" | "24bit" => Ok(ColorDepth::True),
            _ => Err(format!("{text:?} is no colour depth; use auto, never, 16, 256 or truecolor")),
        }
    }
}

/// Whether to draw with ASCII only: the locale has no UTF-8, or the terminal's font lacks the glyphs.
pub fn wants_ascii(env: &dyn Fn(&str) -> Option<String>) -> bool {
    let get = |name: &str| env(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| get(name)).unwrap_or_default();
    let utf8 = locale.to_ascii_lowercase().replace('-', "").contains("utf8");
    !utf8 || get("TERM").is_some_and(|term| term == "linux" || term == "dumb")
}

const CUBE: [u8; 6] = [0, 95, 135, 175, 215, 255];

/// The entry of the 256-colour cube or grey ramp that comes nearest. The first 16 are the user's own: not used.
pub(super) fn to_256(color: Color) -> Color {
    let Color::Rgb(r, g, b) = color else { return color };
    let distance = |(x, y, z): (u8, u8, u8)| {
        let part = |a: u8, b: u8| (i32::from(a) - i32::from(b)).pow(2);
        2 * part(r, x) + 4 * part(g, y) + 3 * part(b, z)
    };
    let entry = |index: u8| {
        if index < 232 {
            let at = index - 16;
            (CUBE[usize::from(at / 36)], CUBE[usize::from(at / 6 % 6)], CUBE[usize::from(at % 6)])
        } else {
            let grey = 8 + 10 * (index - 232);
            (grey, grey, grey)
        }
    };
    Color::Indexed((16..=255).min_by_key(|index| distance(entry(*index))).unwrap_or(16))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_nearest_of_256_is_found() {
        assert_eq!(to_256(Color::Rgb(255, 255, 255)), Color::Indexed(231));
        assert_eq!(to_256(Color::Rgb(8, 8, 8)), Color::Indexed(232));
    }

    #[test]
    fn the_environment_tells_the_depth() {
        let detect = |pairs: &[(&str, &str)]| {
            let pairs: BTreeMap<String, String> =
                pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let env = move |name: &str| pairs.get(name).cloned();
            (ColorDepth::detect(&env, None), wants_ascii(&env))
        };
        let utf8 = ("LANG", "en_US.UTF-8");
        assert_eq!(detect(&[("TERM", "xterm-256color"), utf8]), (ColorDepth::Ansi256, false));
        assert_eq!(detect(&[("TERM", "xterm-ghostty"), utf8]), (ColorDepth::Ansi256, false));
        assert_eq!(detect(&[("TERM", "xterm"), ("COLORTERM", "truecolor"), utf8]), (ColorDepth::True, false));
        assert_eq!(detect(&[("TERM", "xterm"), ("NO_COLOR", "1"), utf8]), (ColorDepth::None, false));
        assert_eq!(detect(&[("TERM", "xterm"), ("NO_COLOR", ""), utf8]), (ColorDepth::Ansi256, false));
        assert_eq!(detect(&[("TERM", "linux"), utf8]), (ColorDepth::Ansi16, true));
        assert_eq!(detect(&[("TERM", "dumb")]), (ColorDepth::None, true));
        assert_eq!(detect(&[("TERM", "xterm"), utf8, ("LC_ALL", "C")]), (ColorDepth::Ansi256, true));
        assert_eq!(ColorDepth::detect(&|_| None, Some(ColorDepth::True)), ColorDepth::True);
    }
}
