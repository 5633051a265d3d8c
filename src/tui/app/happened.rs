//! What happened on all nodes, in words: put anew when something new happened, and kept from frame to frame.

use crate::{
    domain::{cluster::shift, state::State},
    tui::{app::App, words, words::EventLine},
};

/// The lines, and what they were made of.
#[derive(Debug, Default)]
pub(super) struct Happened {
    marks: Vec<Mark>,
    hosts: Vec<String>,
    lines: Vec<EventLine>,
}

/// While it stays the same, a node has the same to tell.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mark {
    newest: Option<u64>,
    events: usize,
    ranks: usize,
    ahead_ms: i64,
}

impl Mark {
    fn of(state: &State, ahead_ms: i64) -> Mark {
        let newest = state.recent.back().map(|event| event.seq);
        Mark { newest, events: state.recent.len(), ranks: state.ranks.len(), ahead_ms }
    }
}

impl App {
    /// Puts what happened in words, if that is not what was put in words last.
    pub(super) fn tell_what_happened(&mut self) {
        let of_nodes = || self.nodes.iter().map(|node| Mark::of(&node.state, node.status.ahead_ms()));
        let own = self.nodes.is_empty().then(|| Mark::of(&self.state, 0));
        let marks = || own.into_iter().chain(of_nodes());
        let hosts = || self.nodes.iter().map(|node| &node.status.host);
        if !marks().eq(self.happened.marks.iter().copied()) || !hosts().eq(&self.happened.hosts) {
            let (marks, hosts) = (marks().collect(), hosts().cloned().collect());
            self.happened = Happened { marks, hosts, lines: self.lines_of_all() };
        }
    }

    /// What happened on all nodes, in the order of the reader's clock.
    fn lines_of_all(&self) -> Vec<EventLine> {
        if self.nodes.is_empty() {
            return words::event_lines(&self.state, self.glyphs);
        }
        let mut all: Vec<(&str, EventLine)> = Vec::new();
        for node in &self.nodes {
            let ahead_ms = node.status.ahead_ms();
            let own = words::event_lines(&node.state, self.glyphs).into_iter();
            all.extend(own.map(|line| {
                let at = shift(line.at, ahead_ms);
                (node.status.host.as_str(), EventLine { at, ..line })
            }));
        }
        all.sort_by_key(|(_, line)| line.at);
        super::nodes::fold(all)
    }

    /// All lines, oldest first.
    pub(crate) fn event_lines(&self) -> &[EventLine] {
        &self.happened.lines
    }

    /// The lines of the events view, and which one is selected.
    pub(crate) fn found_events(&self) -> (Vec<&EventLine>, usize) {
        let sought = self.event_find.to_lowercase();
        let fits = |line: &&EventLine| sought.is_empty() || line.text.to_lowercase().contains(&sought);
        let lines: Vec<&EventLine> = self.happened.lines.iter().filter(fits).collect();
        let last = lines.len().saturating_sub(1);
        let at = self.event.map_or(last, |seq| lines.partition_point(|line| line.seq < seq).min(last));
        (lines, at)
    }
}
