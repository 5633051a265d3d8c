//! Themes: what each role looks like. Views name roles, never colours.

mod depth;
mod store;

use std::collections::BTreeMap;

use ratatui::style::{Color, Modifier, Style};
use serde::Deserialize;

use depth::to_256;
pub use depth::{ColorDepth, wants_ascii};
use store::BUILTIN;
pub use store::Themes;

use crate::{
    domain::near::nearest,
    error::{Error, Result},
};

/// What a piece of the screen means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Text, and the ground under everything.
    Text,
    /// What is normal and may be overlooked.
    Dim,
    /// Lines between panes.
    Border,
    /// The line around what has the keys.
    BorderFocus,
    /// Names of panes and columns.
    Title,
    /// What stands out without being wrong.
    Accent,
    /// Laid over the selected row.
    Selection,
    /// Works.
    Ok,
    /// For information.
    Info,
    /// Wants a look.
    Warn,
    /// Failed.
    Crit,
    /// Old: its age is shown.
    Stale,
    /// A key to press.
    Key,
    /// A match of a search.
    Match,
    /// A log line that tells of an error.
    LogErr,
    /// A log line that warns.
    LogWarn,
    /// A step of a gauge, 0 to 4.
    Gauge(u8),
    /// A step of a heat map, 0 to 4.
    Heat(u8),
    /// The colour of a rank; numbers past 7 wrap.
    Rank(u32),
}

/// The names that stand for one style each, in the order of [`Role`]; gauge, heat and rank follow.
const NAMES: [&str; 16] = [
    "text",
    "dim",
    "border",
    "border_focus",
    "title",
    "accent",
    "selection",
    "ok",
    "info",
    "warn",
    "crit",
    "stale",
    "key",
    "match",
    "log_err",
    "log_warn",
];
/// The names that stand for several styles, and how many.
const LISTS: [(&str, usize); 3] = [("gauge", 5), ("heat", 5), ("rank", 8)];
const SLOTS: usize = 16 + 5 + 5 + 8;

impl Role {
    fn slot(self) -> usize {
        match self {
            Role::Text => 0,
            Role::Dim => 1,
            Role::Border => 2,
            Role::BorderFocus => 3,
            Role::Title => 4,
            Role::Accent => 5,
            Role::Selection => 6,
            Role::Ok => 7,
            Role::Info => 8,
            Role::Warn => 9,
            Role::Crit => 10,
            Role::Stale => 11,
            Role::Key => 12,
            Role::Match => 13,
            Role::LogErr => 14,
            Role::LogWarn => 15,
            Role::Gauge(step) => 16 + usize::from(step.min(4)),
            Role::Heat(step) => 21 + usize::from(step.min(4)),
            Role::Rank(rank) => 26 + rank as usize % 8,
        }
    }
}

/// A style for every role.
#[derive(Clone, Debug, PartialEq)]
pub struct Theme {
    /// What `--theme` calls it.
    pub name: String,
    styles: [Style; SLOTS],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    base: Option<String>,
    #[serde(default)]
    palette: BTreeMap<String, String>,
    #[serde(default)]
    roles: BTreeMap<String, OneOrMany>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Theme {
    /// The themes that are built in.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }

    /// A built-in theme.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn load(name: &str) -> Result<Theme> {
        match BUILTIN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Theme::parse(name, text),
            None => Err(Error::usage(format!("there is no theme {name:?}"))
                .hint(format!("themes: {}", Theme::names().collect::<Vec<_>>().join(", ")))),
        }
    }

    /// A theme from the text of a file; what the file leaves out is as in `default-dark`, or in the theme that it
    /// names as its `base`.
    ///
    /// # Errors
    /// TOML that cannot be read, names of no role, colours that are none.
    pub fn parse(name: &str, text: &str) -> Result<Theme> {
        Theme::parse_over(name, &[text])
    }

    /// The same, of several texts: each changes what those before it say.
    pub(crate) fn parse_over(name: &str, texts: &[&str]) -> Result<Theme> {
        let wrong = |what: String| Error::usage(format!("theme {name}: {what}"));
        let read = |text: &str| toml::from_str::<File>(text).map_err(|error| wrong(error.to_string()));
        let mut merged = read(BUILTIN[0].1)?;
        for text in texts {
            let File { base, palette, roles } = read(text)?;
            if let Some(base) = base {
                let known = BUILTIN.iter().find(|(known, _)| *known == base);
                let Some((_, text)) = known else {
                    return Err(wrong(format!("its base {base:?} is no built-in theme")));
                };
                let base = read(text)?;
                merged.palette.extend(base.palette);
                merged.roles.extend(base.roles);
            }
            merged.palette.extend(palette);
            merged.roles.extend(roles);
        }
        let mut styles = [Style::new(); SLOTS];
        for (color, value) in &merged.palette {
            parse_color(value, &BTreeMap::new())
                .map_err(|_| wrong(format!("{color} = {value:?} is no colour")))?;
        }
        let style = |role: &str, text: &str| {
            parse_style(text, &merged.palette).map_err(|why| wrong(format!("{role}: {why}")))
        };
        for (role, given) in &merged.roles {
            if let Some(slot) = NAMES.iter().position(|known| known == role) {
                let OneOrMany::One(text) = given else { return Err(wrong(format!("{role} is one style"))) };
                styles[slot] = style(role, text)?;
            } else if let Some(list) = LISTS.iter().position(|(known, _)| known == role) {
                let count = LISTS[list].1;
                let OneOrMany::Many(texts) = given else {
                    return Err(wrong(format!("{role} is a list of {count} styles")));
                };
                if texts.len() != count {
                    return Err(wrong(format!("{role} has {} styles, not {count}", texts.len())));
                }
                let first = NAMES.len() + LISTS[..list].iter().map(|(_, count)| count).sum::<usize>();
                for (slot, text) in texts.iter().enumerate() {
                    styles[first + slot] = style(role, text)?;
                }
            } else {
                let all = NAMES.iter().copied().chain(LISTS.iter().map(|(list, _)| *list));
                let near = nearest(role, all).map(|near| format!("; did you mean {near}?"));
                return Err(wrong(format!("there is no role {role:?}{}", near.unwrap_or_default())));
            }
        }
        Ok(Theme { name: name.to_owned(), styles })
    }

    /// This theme with colours that a terminal of `depth` shows.
    ///
    /// With sixteen colours or none, RGB cannot be kept apart well; the themes made for those take over.
    pub fn at(&self, depth: ColorDepth) -> Theme {
        let has_rgb = |style: &Style| [style.fg, style.bg].iter().any(|c| matches!(c, Some(Color::Rgb(..))));
        let stand_in =
            |name| Theme { name: self.name.clone(), ..Theme::load(name).expect("a built-in theme") };
        match depth {
            ColorDepth::None => stand_in("mono"),
            ColorDepth::Ansi16 if self.styles.iter().any(has_rgb) => stand_in("ansi16"),
            ColorDepth::Ansi256 => {
                let mut theme = self.clone();
                for style in &mut theme.styles {
                    (style.fg, style.bg) = (style.fg.map(to_256), style.bg.map(to_256));
                }
                theme
            }
            ColorDepth::Ansi16 | ColorDepth::True => self.clone(),
        }
    }

    /// The style of a role.
    pub fn style(&self, role: Role) -> Style {
        self.styles[role.slot()]
    }

    /// The theme for when nothing else can be read.
    fn fallback() -> Theme {
        Theme::load(BUILTIN[0].0).expect("a built-in theme")
    }

    /// A theme that gives every role a colour of its own, to read roles back from a drawn screen.
    #[cfg(test)]
    pub(crate) fn unique() -> Theme {
        let mut styles = [Style::new(); SLOTS];
        for (slot, style) in styles.iter_mut().enumerate() {
            let color = Color::Indexed(slot as u8);
            *style = if slot == Role::Selection.slot() { style.bg(color) } else { style.fg(color) };
        }
        Theme { name: "unique".into(), styles }
    }
}

fn parse_style(text: &str, palette: &BTreeMap<String, String>) -> Result<Style, String> {
    let mut style = Style::new();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        style = match word {
            "bold" => style.add_modifier(Modifier::BOLD),
            "dim" => style.add_modifier(Modifier::DIM),
            "italic" => style.add_modifier(Modifier::ITALIC),
            "underlined" => style.add_modifier(Modifier::UNDERLINED),
            "reversed" => style.add_modifier(Modifier::REVERSED),
            "on" => style.bg(parse_color(words.next().ok_or("\"on\" without a colour")?, palette)?),
            color => style.fg(parse_color(color, palette)?),
        };
    }
    Ok(style)
}

fn parse_color(word: &str, palette: &BTreeMap<String, String>) -> Result<Color, String> {
    let word = palette.get(word).map_or(word, String::as_str);
    if word == "default" {
        return Ok(Color::Reset);
    }
    // ratatui also reads palette indices; a bare number is more likely a slip.
    if word.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{word:?} is no colour"));
    }
    word.parse().map_err(|_| format!("{word:?} is no colour and not in the palette"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "tests may load what they like")]
    fn luminance(color: Color) -> Option<f64> {
        let Color::Rgb(r, g, b) = color else { return None };
        let channel = |value: u8| {
            let share = f64::from(value) / 255.0;
            if share <= 0.03928 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
        };
        Some(0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b))
    }

    fn contrast(one: Color, other: Color) -> Option<f64> {
        let (one, other) = (luminance(one)?, luminance(other)?);
        Some((one.max(other) + 0.05) / (one.min(other) + 0.05))
    }

    fn rgb_themes() -> Vec<Theme> {
        let all: Vec<_> = Theme::names().map(|name| Theme::load(name).unwrap()).collect();
        all.into_iter().filter(|theme| luminance(theme.style(Role::Text).bg.unwrap()).is_some()).collect()
    }

    #[test]
    fn every_theme_has_every_role() {
        for name in Theme::names() {
            let theme = Theme::load(name).unwrap();
            for (slot, style) in theme.styles.iter().enumerate() {
                assert_ne!(*style, Style::new(), "{name}: slot {slot}");
            }
        }
        assert_eq!(rgb_themes().len(), 10);
    }

    #[test]
    fn text_can_be_read_on_the_ground_and_on_the_selection() {
        let roles = [
            Role::Text,
            Role::Dim,
            Role::Title,
            Role::Accent,
            Role::Ok,
            Role::Info,
            Role::Warn,
            Role::Crit,
            Role::Stale,
            Role::Key,
            Role::LogErr,
            Role::LogWarn,
        ];
        for theme in rgb_themes() {
            let ground = theme.style(Role::Text).bg.unwrap();
            let selection = theme.style(Role::Selection).bg.unwrap();
            for role in roles.into_iter().chain((0..8).map(Role::Rank)) {
                let color = theme.style(role).fg.unwrap();
                for under in [ground, selection] {
                    let ratio = contrast(color, under).unwrap();
                    assert!(ratio >= 4.5, "{}: {role:?} on {under:?} has {ratio:.2}:1", theme.name);
                }
            }
            let style = theme.style(Role::Match);
            assert!(contrast(style.fg.unwrap(), style.bg.unwrap()).unwrap() >= 4.5, "{}: match", theme.name);
        }
    }

    #[test]
    fn heat_rises_in_one_direction() {
        for theme in rgb_themes() {
            let steps: Vec<f64> =
                (0..5).map(|step| luminance(theme.style(Role::Heat(step)).fg.unwrap()).unwrap()).collect();
            assert!(steps.is_sorted() || steps.iter().rev().is_sorted(), "{}: {steps:?}", theme.name);
        }
    }

    #[test]
    fn a_partial_file_changes_what_it_names_and_mistakes_are_named() {
        let dark = Theme::load("default-dark").unwrap();
        let mine = Theme::parse("mine", "[palette]\nbase08 = \"#ff0000\"").unwrap();
        assert_eq!(mine.style(Role::Crit).fg, Some(Color::Rgb(255, 0, 0)));
        assert_eq!(mine.style(Role::Ok), dark.style(Role::Ok));
        for (text, says) in [
            ("[roles]\ncrti = \"red\"", "there is no role \"crti\""),
            ("[roles]\ncrit = \"redd\"", "\"redd\" is no colour and not in the palette"),
            ("[roles]\nrank = [\"red\"]", "rank has 1 styles, not 8"),
            ("[rolls]", "unknown field `rolls`"),
        ] {
            let error = Theme::parse("mine", text).unwrap_err();
            assert!(error.text.contains(says), "{}", error.text);
        }
        assert!(Theme::load("x").unwrap_err().hints[0].contains("okabe-ito"));
    }

    #[test]
    fn fewer_colours_fall_back() {
        let dark = Theme::load("default-dark").unwrap();
        assert_eq!(dark.at(ColorDepth::Ansi16).style(Role::Crit).fg, Some(Color::Red));
        assert_eq!(dark.at(ColorDepth::None).style(Role::Crit).fg, Some(Color::Reset));
        let in_cube = dark.at(ColorDepth::Ansi256);
        assert!(in_cube.styles.iter().all(|style| !matches!(style.fg, Some(Color::Rgb(..)))));
    }
}
