//! The key table with the user's own keys in it.

use std::collections::BTreeMap;

use ratatui::crossterm::event::KeyEvent;

use super::{Action, Binding, Scope, TABLE, name};
use crate::domain::near::nearest;

/// Keys that the user wants instead of those of the table: by the name of the action, such as `restart` or
/// `view-logs`, the names of its keys as the help spells them. An action with no keys cannot be pressed any more.
pub type KeyOverrides = BTreeMap<String, Vec<String>>;

/// What keys mean.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keymap {
    /// Index into [`TABLE`], and the keys that stand there instead.
    own: BTreeMap<usize, Vec<String>>,
}

impl Keymap {
    /// The table with these changes.
    ///
    /// # Errors
    /// All that is wrong with them, each in a sentence: actions and keys that do not exist; where there are none, one key
    /// for two things in one place.
    pub(crate) fn new(overrides: &KeyOverrides) -> Result<Keymap, Vec<String>> {
        let mut keymap = Keymap::default();
        let mut wrong = Vec::new();
        for (action, keys) in overrides {
            match rows(action, keys) {
                Ok(rows) => rows.into_iter().for_each(|row| drop(keymap.own.insert(row, keys.clone()))),
                Err(why) => wrong.push(why),
            }
        }
        if wrong.is_empty() {
            keymap.without_doubles().map_err(|why| vec![why])?;
            return Ok(keymap);
        }
        Err(wrong)
    }

    fn without_doubles(&self) -> Result<(), String> {
        for scope in Scope::ALL {
            let mut seen: BTreeMap<String, Action> = BTreeMap::new();
            for (row, binding) in TABLE.iter().enumerate().filter(|(_, binding)| binding.scope == scope) {
                for key in self.of(row, binding) {
                    if let Some(other) = seen.insert(key.to_string(), binding.action) {
                        let (one, two) = (other.name(), binding.action.name());
                        return Err(format!("keys: {key} would mean both {one} and {two} {}", scope.name()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The keys that hold in a line of the table.
    fn of(&self, row: usize, binding: &'static Binding) -> impl Iterator<Item = &str> + Clone {
        let own = self.own.get(&row);
        let given = if own.is_none() { binding.keys } else { &[] };
        own.into_iter().flatten().map(String::as_str).chain(given.iter().copied())
    }

    /// The lines of the table with the keys that hold.
    pub(crate) fn lines(
        &self,
    ) -> impl Iterator<Item = (&'static Binding, impl Iterator<Item = &str> + Clone)> {
        TABLE.iter().enumerate().map(|(row, binding)| (binding, self.of(row, binding)))
    }

    /// What a key means in `scope`.
    pub(crate) fn lookup(&self, event: &KeyEvent, scope: Scope) -> Option<Action> {
        let name = name(event);
        let is_bound = |row: usize, binding: &Binding| match self.own.get(&row) {
            Some(keys) => keys.contains(&name),
            None => binding.keys.contains(&name.as_str()),
        };
        let bound = |scope: Scope| {
            let mut rows = TABLE.iter().enumerate().filter(|(_, binding)| binding.scope == scope);
            rows.find(|(row, binding)| is_bound(*row, binding)).map(|(_, binding)| binding.action)
        };
        bound(scope).or_else(|| bound(Scope::Everywhere))
    }

    /// The first key of an action that means it in `scope`, to be shown; `None` where it has none.
    pub(crate) fn shown_in(&self, action: Action, scope: Scope) -> Option<String> {
        let mut rows = self.lines().filter(|(binding, _)| binding.action == action);
        let taken = |key: &str, by: &Binding| {
            by.scope != scope
                && self.lines().any(|(other, mut keys)| {
                    other.scope == scope && other.action != action && keys.any(|known| known == key)
                })
        };
        rows.find_map(|(binding, mut keys)| keys.find(|key| !taken(key, binding)).map(str::to_owned))
    }

    /// The first key of an action, to be shown; `None` where it has none.
    pub(crate) fn shown(&self, action: Action) -> Option<String> {
        let mut rows = self.lines().filter(|(binding, _)| binding.action == action);
        rows.find_map(|(_, mut keys)| keys.next().map(str::to_owned))
    }
}

/// The lines of the table that these keys are for.
fn rows(action: &str, keys: &[String]) -> Result<Vec<usize>, String> {
    let all = TABLE.iter().enumerate().filter(|(_, binding)| binding.action.name() == action);
    let all: Vec<usize> = all.map(|(row, _)| row).collect();
    if all.is_empty() {
        return Err(format!("keys.{action}: there is no such action; {}", meant(action)));
    }
    match keys.iter().find(|key| !is_key(key)) {
        Some(bad) => Err(format!(
            "keys.{action}: {bad:?} is no key; keys are spelled as in the help: x, G, Enter, F5, Ctrl-L"
        )),
        None => Ok(all),
    }
}

/// Whether a key has this name.
fn is_key(name: &str) -> bool {
    const NAMED: [&str; 16] = [
        "Space",
        "Up",
        "Down",
        "Left",
        "Right",
        "Home",
        "End",
        "PgUp",
        "PgDn",
        "Enter",
        "Esc",
        "Backspace",
        "Tab",
        "Shift-Tab",
        "Insert",
        "Delete",
    ];
    let plain = |name: &str| {
        let one = name.chars().count() == 1 && !name.contains(char::is_whitespace);
        let function =
            name.strip_prefix('F').and_then(|n| n.parse().ok()).is_some_and(|n: u8| (1..=12).contains(&n));
        one || function || NAMED.contains(&name)
    };
    plain(name)
        || name.strip_prefix("Ctrl-").is_some_and(|letter| {
            letter.len() == 1 && letter.bytes().all(|b| b.is_ascii_uppercase())
                || letter.len() > 1 && plain(letter)
        })
}

/// What may have been meant, or where all names are.
fn meant(action: &str) -> String {
    let names: Vec<String> = TABLE.iter().map(|binding| binding.action.name()).collect();
    let names = || names.iter().map(String::as_str);
    if let Some(near) = nearest(action, names()) {
        return format!("did you mean {near}?");
    }
    let has_part = |name: &&str| name.split('-').any(|part| part.len() > 2 && action.contains(part));
    match names().filter(has_part).collect::<Vec<_>>()[..] {
        [] => "the : of a job's screen lists all by name".into(),
        ref like => format!("there are {}", like.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::keys::{View, script};

    fn overrides(pairs: &[(&str, &[&str])]) -> KeyOverrides {
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        pairs.iter().map(|(action, list)| ((*action).to_owned(), keys(list))).collect()
    }

    #[test]
    fn own_keys_take_the_place_of_the_tables() {
        let keymap =
            Keymap::new(&overrides(&[("restart", &["Ctrl-R"]), ("detach", &["Z", "Esc"]), ("back", &[])]));
        let keymap = keymap.unwrap();
        let meaning = |key: &str| keymap.lookup(&script(key)[0], Scope::Ranks);
        assert_eq!(meaning("<Ctrl-R>"), Some(Action::Restart));
        assert_eq!((meaning("R"), meaning("q"), meaning("<Esc>")), (None, None, Some(Action::Detach)));
        assert_eq!(keymap.shown(Action::Detach).as_deref(), Some("Z"));
        assert_eq!(keymap.shown(Action::Back), None);
        assert_eq!(keymap.shown(Action::View(View::Logs)).as_deref(), Some("2"));
    }

    #[test]
    fn mistakes_are_named() {
        for (pairs, says) in [
            (&[("restrt", &["X"][..])][..], "there is no such action; did you mean restart?"),
            (&[("next-mtch", &["X"][..])], "did you mean next-match?"),
            (&[("match-of-mine", &["X"][..])], "there are next-match, previous-match"),
            (&[("zz", &["X"][..])], "lists all by name"),
            (&[("restart", &["Ctrl-r"][..])], "\"Ctrl-r\" is no key"),
            (&[("restart", &["q"][..])], "q would mean both detach and restart everywhere"),
        ] {
            let mistakes = Keymap::new(&overrides(pairs)).unwrap_err();
            assert!(mistakes.len() == 1 && mistakes[0].contains(says), "{mistakes:?}");
        }
    }

    #[test]
    fn every_action_has_a_name_of_its_own() {
        let mut names: Vec<(String, Action)> = Vec::new();
        for binding in TABLE {
            let name = binding.action.name();
            assert!(
                names.iter().all(|(known, action)| *known != name || *action == binding.action),
                "{name}"
            );
            names.push((name, binding.action));
        }
        assert_eq!(Action::View(View::Timeline).name(), "view-timeline");
        assert_eq!(Action::KeepZombies.name(), "keep-zombies");
    }
}
