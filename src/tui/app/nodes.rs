//! The nodes of a job that is watched over many links: what each told, and all of them as one job.

use super::{App, Cmd};
use crate::{
    domain::{
        alert::AlertKind,
        cluster::{Member, NodeStatus, shift, whole},
        command::Command,
        state::State,
        time::Stamp,
    },
    tui::words::{self, EventLine},
    wire::message::{ToSupervisor, ToViewer},
};

/// Events of different nodes that are this close are one, when they say the same.
const TOGETHER_MS: u64 = 3_000;
/// Lines of one moment have different keys: their order takes the low bits.
const ORDER_BITS: u32 = 16;

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// The link to it.
    pub status: NodeStatus,
    /// What its supervisor told.
    pub state: State,
}

impl App {
    /// What is known of a node; `None` where there is none of this number. Without links to several nodes the job has
    /// one, whose state is that of the job.
    pub(crate) fn state_of(&self, node: u32) -> Option<&State> {
        match self.nodes.get(node as usize) {
            Some(node) => Some(&node.state),
            None => (self.nodes.is_empty() && node == 0).then_some(&self.state),
        }
    }

    /// Now, by the clock of a node.
    pub(crate) fn now_of(&self, node: u32) -> Stamp {
        let ahead_ms = self.nodes.get(node as usize).map_or(0, |node| node.status.ahead_ms());
        shift(self.now, -ahead_ms)
    }

    /// How the links to all nodes are.
    pub(super) fn take_status(&mut self, nodes: Vec<NodeStatus>) {
        self.link = super::LinkState::Live;
        self.nodes.truncate(nodes.len());
        for (at, status) in nodes.into_iter().enumerate() {
            match self.nodes.get_mut(at) {
                Some(node) => node.status = status,
                None => self.nodes.push(Node { status, state: State::default() }),
            }
        }
        self.overview.is_behind = true;
    }

    pub(super) fn heard_from(&mut self, number: u32, message: ToViewer) {
        let Some(node) = self.nodes.get_mut(number as usize) else { return };
        match message {
            ToViewer::Snapshot { state, lost } => {
                node.state = *state;
                self.tell_lost(lost);
            }
            ToViewer::Events { events } => {
                events.iter().for_each(|event| node.state.apply(event));
                self.page_hears(number, &events);
            }
            ToViewer::Logs { .. } if number != self.log_node => return,
            message => return self.heard(message),
        }
        self.overview.is_behind = true;
    }

    /// All nodes as one job.
    pub(super) fn join_nodes(&mut self) {
        if self.nodes.is_empty() {
            return;
        }
        let members: Vec<Member> = self
            .nodes
            .iter()
            .map(|node| Member {
                host: &node.status.host,
                state: &node.state,
                ahead_ms: node.status.ahead_ms(),
            })
            .collect();
        self.state = whole(&members);
    }

    /// What happened on all nodes, in the order of the reader's clock.
    pub(crate) fn lines_of_all(&self) -> Vec<EventLine> {
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
        fold(all)
    }

    /// The ranks of all nodes.
    pub(crate) fn all_ranks(&self) -> impl Iterator<Item = &crate::domain::state::Rank> {
        let own = if self.nodes.is_empty() { self.state.ranks.as_slice() } else { &[] };
        own.iter().chain(self.nodes.iter().flat_map(|node| &node.state.ranks))
    }

    /// The message, to the node that it is for where there are several.
    pub(super) fn to_node(&self, node: u32, message: ToSupervisor) -> Cmd {
        if self.nodes.is_empty() {
            return Cmd::Send(message);
        }
        Cmd::Send(ToSupervisor::To { node, message: Box::new(message) })
    }

    /// The one node that a command is for; `None` when it is for all.
    pub(super) fn addressee(&self, command: &Command) -> Option<u32> {
        match command {
            Command::Signal { .. } | Command::EndLeftover { .. } | Command::Stacks { rank: Some(_), .. } => {
                Some(self.node)
            }
            Command::KeepZombies => {
                let has =
                    |state: &State| state.alerts.iter().any(|alert| alert.kind == AlertKind::ZombieDeadlock);
                self.nodes.iter().position(|node| has(&node.state)).map(|at| at as u32)
            }
            _ => None,
        }
    }
}

/// Lines with their hosts in front. What several nodes tell within [`TOGETHER_MS`] is one line.
fn fold(all: Vec<(&str, EventLine)>) -> Vec<EventLine> {
    let mut lines: Vec<(Vec<&str>, EventLine)> = Vec::new();
    for (host, line) in all {
        let recent = lines
            .iter_mut()
            .rev()
            .take_while(|(_, known)| line.at.since(known.at).as_millis() <= u128::from(TOGETHER_MS));
        let mut same = recent.filter(|(hosts, known)| known.text == line.text && !hosts.contains(&host));
        match same.next() {
            Some((hosts, _)) => hosts.push(host),
            None => lines.push((vec![host], line)),
        }
    }
    let order = |at: usize| at as u64 & ((1 << ORDER_BITS) - 1);
    lines
        .into_iter()
        .enumerate()
        .map(|(at, (hosts, line))| {
            let whose = match hosts.as_slice() {
                few @ ([_] | [_, _] | [_, _, _]) => few.join(", "),
                many => format!("{} nodes", many.len()),
            };
            // In order, and the same for as long as nothing older comes in.
            let seq = (line.at.0 << ORDER_BITS) | order(at);
            EventLine { seq, text: format!("{whose}: {}", line.text), ..line }
        })
        .collect()
}
