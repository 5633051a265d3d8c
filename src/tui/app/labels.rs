//! Short names of nodes, as cells and lists have room for: made when names change.

use crate::{domain::fleet::NodeRow, tui::text};

/// One for each node of the fleet.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    names: Vec<String>,
    short: Vec<String>,
    /// Cells of the widest.
    pub(crate) widest: u16,
}

impl Labels {
    /// Of the node at this place; empty when there is none.
    pub(crate) fn of(&self, node: u32) -> &str {
        self.short.get(node as usize).map_or("", String::as_str)
    }

    /// Makes them anew if nodes have come, gone, or changed their names.
    pub(super) fn keep_up(&mut self, nodes: &[NodeRow]) {
        if nodes.iter().map(|node| &node.name).eq(&self.names) {
            return;
        }
        self.names = nodes.iter().map(|node| node.name.clone()).collect();
        self.short = labels(nodes);
        self.widest = self.short.iter().map(|label| text::width(label)).max().unwrap_or(0) as u16;
    }
}

/// Short names of nodes: without what all have in common before their numbers.
fn labels(nodes: &[NodeRow]) -> Vec<String> {
    let Some(first) = nodes.first() else { return Vec::new() };
    let mut common = first.name.len();
    for node in nodes {
        let same = node.name.bytes().zip(first.name.bytes()).take_while(|(a, b)| a == b).count();
        common = common.min(same);
    }
    let digits =
        first.name.as_bytes()[..common].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let mut begin = if nodes.len() == 1 { 0 } else { common - digits };
    while !first.name.is_char_boundary(begin) {
        begin -= 1;
    }
    let short = |name: &str| {
        let rest = &name[begin.min(name.len())..];
        let label =
            if rest.starts_with(|c: char| c.is_ascii_digit()) { format!("n{rest}") } else { rest.to_owned() };
        // The end tells nodes apart.
        let skip = text::width(&label).saturating_sub(10);
        text::slice(&label, skip, 10).to_owned()
    };
    nodes.iter().map(|node| short(&node.name)).collect()
}
