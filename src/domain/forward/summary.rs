//! The summary of a run: the last value of each metric, and which changed since it was kept last.

use std::collections::HashMap;

/// Last values by key, as JSON text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    places: HashMap<String, usize>,
    entries: Vec<Entry>,
    changed: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: String,
    /// `None` once it was removed.
    value: Option<String>,
    is_changed: bool,
}

impl Summary {
    /// Sets a value.
    pub fn set(&mut self, key: &str, value: &str) {
        let at = match self.places.get(key) {
            Some(at) => *at,
            None => {
                self.places.insert(key.to_owned(), self.entries.len());
                self.entries.push(Entry { key: key.to_owned(), value: None, is_changed: false });
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[at];
        match &mut entry.value {
            Some(known) if known == value => return,
            Some(known) => {
                // The memory of the value before is used again: this is done for every metric of every row.
                known.clear();
                known.push_str(value);
            }
            None => entry.value = Some(value.to_owned()),
        }
        self.mark(at);
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &str) {
        if let Some(at) = self.places.get(key).copied()
            && self.entries[at].value.take().is_some()
        {
            self.mark(at);
        }
    }

    fn mark(&mut self, at: usize) {
        if !std::mem::replace(&mut self.entries[at].is_changed, true) {
            self.changed.push(at);
        }
    }

    /// What changed since this was called last: keys with their values, `None` for those that were removed.
    pub fn take_changes(&mut self, mut each: impl FnMut(&str, Option<&str>)) {
        for at in std::mem::take(&mut self.changed) {
            let entry = &mut self.entries[at];
            entry.is_changed = false;
            each(&entry.key, entry.value.as_deref());
        }
    }

    /// Whether anything changed since.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// All values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().filter_map(|entry| Some((entry.key.as_str(), entry.value.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(summary: &mut Summary) -> Vec<(String, Option<String>)> {
        let mut found = Vec::new();
        summary.take_changes(|key, value| found.push((key.to_owned(), value.map(str::to_owned))));
        found
    }

    #[test]
    fn only_what_changed_is_told_and_the_whole_is_kept() {
        let mut summary = Summary::default();
        for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            summary.set(key, value);
        }
        let some = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        assert_eq!(changes(&mut summary), [some("a", "3"), some("b", "2")]);
        summary.set("a", "3");
        assert!(!summary.has_changes());
        summary.remove("b");
        summary.remove("none");
        summary.set("c", "NaN");
        assert_eq!(changes(&mut summary), [("b".to_owned(), None), some("c", "NaN")]);
        assert_eq!(summary.iter().collect::<Vec<_>>(), [("a", "3"), ("c", "NaN")]);
    }
}
