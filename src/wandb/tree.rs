//! Nested values by key, as JSON text: what changes of summary and configuration are folded into.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{domain::forward::row::Row, wandb::log::json};

/// Deepest nesting that is followed: writing goes down by recursion.
const DEEPEST: usize = 64;

/// An object whose values are JSON text or objects again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Tree(BTreeMap<String, Node>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Node {
    Json(String),
    Tree(Tree),
}

impl Tree {
    /// Sets a value. What is nested too deep is left out.
    pub(super) fn set(&mut self, path: &[String], value: &str) {
        let Some((last, above)) = path.split_last().filter(|_| path.len() <= DEEPEST) else { return };
        let value = if value.is_empty() { "null" } else { value };
        self.down(above).0.insert(last.clone(), Node::Json(value.to_owned()));
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, path: &[String]) {
        let Some((last, above)) = path.split_last().filter(|_| path.len() <= DEEPEST) else { return };
        self.down(above).0.remove(last);
    }

    /// Sets a value at the top unless there is one.
    pub(super) fn set_missing(&mut self, key: &str, value: &str) {
        self.0.entry(key.to_owned()).or_insert_with(|| Node::Json(value.to_owned()));
    }

    /// The value of a key at the top as JSON text.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        let mut text = String::new();
        self.0.get(key)?.write(&mut text);
        Some(text)
    }

    /// Keys at the top with their values as JSON text.
    pub(super) fn top(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(key, node)| {
            let mut text = String::new();
            node.write(&mut text);
            (key.as_str(), text)
        })
    }

    /// The object as JSON text, in one line.
    pub(super) fn json(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn down(&mut self, path: &[String]) -> &mut Tree {
        let mut tree = self;
        for part in path {
            let node = tree.0.entry(part.clone()).or_insert_with(|| Node::Tree(Tree::default()));
            // A value that was set as a whole is opened up.
            if let Node::Json(text) = node {
                *node = Node::Tree(Tree::of_object(text));
            }
            let Node::Tree(next) = node else { unreachable!("just made a tree") };
            tree = next;
        }
        tree
    }

    /// The members of an object given as text; none of anything else.
    fn of_object(text: &str) -> Tree {
        let row = Row::parse(text.as_bytes()).unwrap_or_default();
        let members = row.items.iter().map(|item| (item.key.to_string(), Node::Json(item.value.to_owned())));
        Tree(members.collect())
    }

    fn write(&self, out: &mut String) {
        out.push('{');
        for (n, (key, node)) in self.0.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            out.push_str(&json::text(key));
            out.push(':');
            node.write(out);
        }
        out.push('}');
    }
}

impl Node {
    fn write(&self, out: &mut String) {
        match self {
            // An end of line inside of a line would make two of it; between values it is a blank.
            Node::Json(text) if text.contains(['\n', '\r']) => out.push_str(&text.replace(['\n', '\r'], " ")),
            Node::Json(text) => out.push_str(text),
            Node::Tree(tree) => tree.write(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn values_are_set_below_values() {
        let mut tree = Tree::default();
        tree.set(&path("a"), r#"{"b": 1, "c": NaN}"#);
        tree.set(&path("a/b"), "2");
        tree.set(&path("x/y"), "1");
        tree.set(&path("x"), "3");
        tree.set(&path("e"), "");
        tree.remove(&path("a/nothing"));
        assert_eq!((tree.get("a").as_deref(), tree.get("b")), (Some("{\"b\":2,\"c\":NaN}"), None));
        assert_eq!(tree.json(), r#"{"a":{"b":2,"c":NaN},"e":null,"x":3}"#);
        let text = serde_json::to_string(&tree).unwrap();
        assert_eq!(serde_json::from_str::<Tree>(&text).unwrap(), tree);
        tree.set(&path(&"d/".repeat(500)), "1");
        assert_eq!(tree.top().count(), 3);
    }
}
