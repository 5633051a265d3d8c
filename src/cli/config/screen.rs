//! The sections of a file that only the screen reads: `[keys]`, and `[theme]` with its palette and roles.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::tui::{KeyOverrides, Themes, wrong_keys};

/// Their names.
pub const SECTIONS: [&str; 2] = ["keys", "theme"];

/// What they say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Screen {
    /// Keys by the name of their action.
    pub keys: KeyOverrides,
    /// A part of a theme that is laid over every theme.
    pub theme: Option<String>,
}

impl Screen {
    /// From the text of a file, as far as it can be read.
    pub fn parse(text: &str) -> Screen {
        let table: Table = text.parse().unwrap_or_default();
        let section = |name: &str| table.get(name).and_then(Value::as_table);
        let keys =
            section("keys").map(|keys| keys.iter().filter_map(|(action, value)| own_keys(action, value)));
        let theme = section("theme").and_then(|theme| toml::to_string(theme).ok());
        Screen { keys: keys.map(Iterator::collect).unwrap_or_default(), theme }
    }

    /// Both files together; what `self` names wins.
    pub fn over(self, below: Screen) -> Screen {
        let mut keys: BTreeMap<_, _> = below.keys;
        keys.extend(self.keys);
        // Themes merge by role: the texts are read one after the other.
        Screen { keys, theme: self.theme.or(below.theme) }
    }
}

/// What is wrong in a section of this name; nothing when all is well.
pub fn problems(text: &str, section: &str) -> Vec<String> {
    let screen = Screen::parse(text);
    if section == "theme" {
        let themes = Themes::new(Vec::new(), screen.theme);
        let text = |error: crate::error::Error| error.text.replace("theme default-dark: ", "");
        return themes.load("default-dark").err().map(text).into_iter().collect();
    }
    let table: Table = text.parse().unwrap_or_default();
    let entries = table.get("keys").and_then(Value::as_table).into_iter().flatten();
    let no_keys = entries.filter(|(action, value)| own_keys(action, value).is_none());
    let mut wrong: Vec<_> =
        no_keys.map(|(action, _)| format!("keys.{action} is no key and no list of keys")).collect();
    wrong.extend(wrong_keys(&screen.keys));
    wrong
}

/// `"x"` or `["x", "F9"]`.
fn own_keys(action: &str, value: &Value) -> Option<(String, Vec<String>)> {
    let keys = match value {
        Value::String(key) => vec![key.clone()],
        Value::Array(keys) => {
            keys.iter().map(|key| key.as_str().map(str::to_owned)).collect::<Option<_>>()?
        }
        _ => return None,
    };
    Some((action.to_owned(), keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "[keys]\nrestart = \"Ctrl-R\"\ndetach = [\"q\", \"Z\"]\n[theme.roles]\ncrit = \"red\"\n";

    #[test]
    fn keys_and_theme_are_read_and_the_upper_file_wins() {
        let screen = Screen::parse(TEXT);
        assert_eq!(screen.keys["detach"], ["q", "Z"]);
        assert!(screen.theme.as_ref().unwrap().contains("crit = \"red\""));
        let upper = Screen::parse("[keys]\nrestart = \"X\"");
        let both = upper.over(screen);
        assert_eq!((both.keys["restart"].as_slice(), both.keys.len()), (&["X".to_owned()][..], 2));
        assert!(both.theme.is_some());
        assert_eq!((problems(TEXT, "keys"), problems(TEXT, "theme")), (Vec::new(), Vec::new()));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, section, says) in [
            ("[keys]\nrestart = 7", "keys", "keys.restart is no key and no list of keys"),
            ("[keys]\nfly = \"x\"", "keys", "keys.fly: there is no such action"),
            ("[theme.roles]\ncrti = \"red\"", "theme", "there is no role \"crti\""),
        ] {
            assert!(problems(text, section)[0].contains(says), "{text}");
        }
        let several = problems("[keys]\nfly = \"x\"\nrestart = 7\nhelp = \"Strg-X\"", "keys");
        assert_eq!(several.len(), 3, "{several:?}");
        let both = problems("[keys]\nrestart = \"X\"\nhelp = \"X\"", "keys");
        assert!(both.len() == 1 && both[0].contains('X'), "{both:?}");
    }
}
