//! Nested values by key, as JSON text: what the changes of summary and configuration add up to.

use std::collections::BTreeMap;

use super::log::json;
use crate::domain::forward::row::Row;

/// Deepest nesting that is followed: writing goes down by recursion.
const DEEPEST: usize = 64;

/// An object whose values are JSON text or objects again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree(BTreeMap<String, Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
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

    /// The value of a key at the top as JSON text.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        let mut text = String::new();
        self.0.get(key)?.write(&mut text);
        Some(text)
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
            Node::Json(text) => out.push_str(text),
            Node::Tree(tree) => tree.write(out),
        }
    }
}
