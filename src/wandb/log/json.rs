//! JSON text of values that stay text: nothing is parsed, so that no number loses a digit and `NaN` stays.

use std::collections::HashMap;

/// A text as a JSON string.
pub fn text(text: &str) -> String {
    // Writing a string cannot fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// One JSON object from keys, part by part, and values as JSON text. Keys keep their order; of a key that
/// comes twice the last value holds, in the place of the first.
pub fn object<'a, P, S>(items: impl IntoIterator<Item = (P, &'a str)>) -> String
where
    P: IntoIterator<Item = &'a S>,
    S: AsRef<str> + ?Sized + 'a,
{
    let mut root = Tree::default();
    for (path, value) in items {
        root.put(path.into_iter().map(AsRef::as_ref), value);
    }
    let mut out = String::new();
    root.write(&mut out);
    out
}

#[derive(Default)]
struct Tree<'a> {
    nodes: Vec<(&'a str, Node<'a>)>,
    places: HashMap<&'a str, usize>,
}

enum Node<'a> {
    Value(&'a str),
    Tree(Tree<'a>),
}

impl<'a> Tree<'a> {
    fn put(&mut self, path: impl Iterator<Item = &'a str>, value: &'a str) {
        let mut path = path.peekable();
        let mut tree = self;
        while let Some(part) = path.next() {
            let node = tree.node(part);
            if path.peek().is_none() {
                *node = Node::Value(value);
                return;
            }
            if let Node::Value(_) = node {
                *node = Node::Tree(Tree::default());
            }
            let Node::Tree(next) = node else { return };
            tree = next;
        }
    }

    fn node(&mut self, part: &'a str) -> &mut Node<'a> {
        let at = *self.places.entry(part).or_insert(self.nodes.len());
        if at == self.nodes.len() {
            self.nodes.push((part, Node::Value("null")));
        }
        &mut self.nodes[at].1
    }

    fn write(&self, out: &mut String) {
        out.push('{');
        for (n, (part, node)) in self.nodes.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            out.push_str(&text(part));
            out.push(':');
            match node {
                Node::Value(value) => out.push_str(value),
                Node::Tree(tree) => tree.write(out),
            }
        }
        out.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_nest_and_keep_their_order() {
        let items =
            [(&["b"][..], "1"), (&["a", "y"], "NaN"), (&["c"], "\"é\""), (&["a", "x", "k"], "[1, Infinity]")];
        assert_eq!(object(items), r#"{"b":1,"a":{"y":NaN,"x":{"k":[1, Infinity]}},"c":"é"}"#);
        assert_eq!(object([(&["a.b\"\n"][..], "1")]), r#"{"a.b\"\n":1}"#);
        assert_eq!(object::<&[&str], &str>([]), "{}");
    }

    #[test]
    fn the_last_of_a_key_holds() {
        assert_eq!(object([(&["a"][..], "1"), (&["b"], "2"), (&["a"], "3")]), r#"{"a":3,"b":2}"#);
        assert_eq!(object([(&["a"][..], "1"), (&["a", "b"], "2")]), r#"{"a":{"b":2}}"#);
        assert_eq!(object([(&["a", "b"][..], "2"), (&["a"], "1")]), r#"{"a":1}"#);
    }
}
