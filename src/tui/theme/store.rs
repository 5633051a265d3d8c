//! The themes that there are: built in, and the user's own.

use std::sync::Arc;

use super::Theme;
use crate::error::{Error, Result};

pub(super) const BUILTIN: [(&str, &str); 12] = [
    ("default-dark", include_str!("../../../themes/default-dark.toml")),
    ("default-light", include_str!("../../../themes/default-light.toml")),
    ("ansi16", include_str!("../../../themes/ansi16.toml")),
    ("mono", include_str!("../../../themes/mono.toml")),
    ("high-contrast", include_str!("../../../themes/high-contrast.toml")),
    ("okabe-ito", include_str!("../../../themes/okabe-ito.toml")),
    ("catppuccin-mocha", include_str!("../../../themes/catppuccin-mocha.toml")),
    ("catppuccin-latte", include_str!("../../../themes/catppuccin-latte.toml")),
    ("gruvbox-dark", include_str!("../../../themes/gruvbox-dark.toml")),
    ("nord", include_str!("../../../themes/nord.toml")),
    ("solarized-dark", include_str!("../../../themes/solarized-dark.toml")),
    ("tokyonight", include_str!("../../../themes/tokyonight.toml")),
];

/// All themes by name, and what the user's configuration changes in each of them.
#[derive(Clone, Debug, Default)]
pub struct Themes {
    /// Name and text; one that has the name of a built-in theme takes its place.
    own: Arc<Vec<(String, String)>>,
    /// A part of a theme that is laid over every theme.
    over: Option<Arc<str>>,
}

impl Themes {
    /// The built-in themes with the user's own: name and text of each, and the text of what changes every theme.
    pub fn new(own: Vec<(String, String)>, over: Option<String>) -> Themes {
        Themes { own: Arc::new(own), over: over.map(Into::into) }
    }

    /// All names: the built-in ones first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.own.iter().map(|(name, _)| name.as_str());
        let builtin = BUILTIN.iter().map(|(name, _)| *name);
        builtin.chain(own.filter(|name| BUILTIN.iter().all(|(known, _)| known != name)))
    }

    fn text(&self, name: &str) -> Option<&str> {
        let own = self.own.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str());
        own.or_else(|| BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text))
    }

    /// A theme by its name, with the user's changes.
    ///
    /// # Errors
    /// When there is none of this name, or the user's text cannot be read.
    pub fn load(&self, name: &str) -> Result<Theme> {
        let Some(text) = self.text(name) else {
            return Err(Error::usage(format!("there is no theme {name:?}"))
                .hint(format!("themes: {}", self.names().collect::<Vec<_>>().join(", "))));
        };
        Theme::parse_over(name, &[text, self.over.as_deref().unwrap_or_default()])
    }

    /// The theme after this one; those that cannot be read are passed over.
    pub fn after(&self, name: &str) -> Theme {
        let names: Vec<&str> = self.names().collect();
        let at = names.iter().position(|known| *known == name).map_or(0, |at| at + 1);
        let around = (0..names.len()).map(|step| names[(at + step) % names.len()]);
        around.into_iter().find_map(|name| self.load(name).ok()).unwrap_or_else(Theme::fallback)
    }
}

#[cfg(test)]
mod tests {
    use ratatui::style::Color;

    use super::*;
    use crate::tui::theme::Role;

    #[test]
    fn own_themes_stand_beside_and_in_the_place_of_built_in_ones() {
        let own = [
            ("nord", "[roles]\ncrit = \"#ff0000\""),
            ("mine", "base = \"default-light\"\n[roles]\nok = \"#004400\""),
            ("broken", "[rolls]"),
        ];
        let own = own.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let themes = Themes::new(own, Some("[roles]\nwarn = \"#0000ff\"".into()));
        assert_eq!(themes.names().filter(|name| *name == "nord").count(), 1);
        assert_eq!(themes.load("nord").unwrap().style(Role::Crit).fg, Some(Color::Rgb(255, 0, 0)));
        let mine = themes.load("mine").unwrap();
        assert_eq!(mine.style(Role::Ok).fg, Some(Color::Rgb(0, 0x44, 0)));
        assert_eq!(mine.style(Role::Warn).fg, Some(Color::Rgb(0, 0, 255)), "the configuration's part");
        assert_eq!(mine.style(Role::Text), Theme::load("default-light").unwrap().style(Role::Text));
        assert_eq!(themes.after("mine").name, "default-dark", "one that cannot be read is passed over");
        assert!(themes.load("broken").unwrap_err().text.contains("theme broken: "));
        assert!(themes.load("x").unwrap_err().hints[0].contains("okabe-ito, catppuccin-mocha"));
    }
}
