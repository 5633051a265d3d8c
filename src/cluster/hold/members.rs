//! Which nodes there are. A link leads to a supervisor, which is one node, or to a relay, which has many.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;

use crate::{
    domain::{
        cluster::{NodeLink, NodeStatus, Offset, shift},
        state::State,
    },
    wire::message::{ToSupervisor, ToViewer},
};

/// Nodes that a relay may have: one that leads back to itself would never come to an end.
const MOST: usize = 16_384;

/// All links, and the nodes behind them.
#[derive(Debug, Default)]
pub(super) struct Members {
    links: Vec<LinkTo>,
    /// Keep their place here for good, whatever place viewers see them in.
    nodes: Vec<Node>,
    /// As viewers see them.
    shown: Vec<usize>,
}

/// One link, as it was named.
#[derive(Debug)]
struct LinkTo {
    to: mpsc::Sender<ToSupervisor>,
    status: NodeStatus,
    /// The nodes behind it by the number that they have there; of a supervisor one.
    nodes: Vec<usize>,
    is_relay: bool,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    /// What it told.
    pub(super) state: State,
    /// The link that leads to it.
    pub(super) link: usize,
    /// Its number and what is known of it at the relay behind the link.
    there: Option<(u32, NodeStatus)>,
    /// Where viewers see it; `None` once its relay has it no more.
    place: Option<usize>,
    /// What viewers call it: its host, told apart from others of that name.
    name: String,
}

impl Members {
    /// Another link, to one node as far as is known.
    pub(super) fn add(&mut self, host: String, to: mpsc::Sender<ToSupervisor>) {
        let (link, node) = (self.links.len(), self.nodes.len());
        let place = Some(self.shown.len());
        self.nodes.push(Node { state: State::default(), link, there: None, place, name: host.clone() });
        self.links.push(LinkTo { to, status: NodeStatus::new(host), nodes: vec![node], is_relay: false });
        self.shown.push(node);
    }

    /// How many nodes viewers see.
    pub(super) fn len(&self) -> usize {
        self.shown.len()
    }

    /// The node in this place.
    pub(super) fn at(&self, place: usize) -> Option<usize> {
        self.shown.get(place).copied()
    }

    /// All nodes that viewers see.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.shown.iter().map(|node| (*node, &self.nodes[*node]))
    }

    pub(super) fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    pub(super) fn state(&mut self, node: usize) -> &mut State {
        &mut self.nodes[node].state
    }

    /// The node that has this number behind a link; a supervisor gives none.
    pub(super) fn behind(&self, link: usize, number: Option<u32>) -> Option<usize> {
        let link = &self.links[link];
        match number {
            Some(number) if link.is_relay => link.nodes.get(number as usize).copied(),
            None if !link.is_relay => link.nodes.first().copied(),
            _ => None,
        }
    }

    /// What viewers are to hear of a node; nothing of one that they do not see.
    pub(super) fn from(&self, node: usize, message: ToViewer) -> Option<ToViewer> {
        Some(ToViewer::From { node: self.place(node)?, message: Box::new(message) })
    }

    /// Where viewers see a node.
    pub(super) fn place(&self, node: usize) -> Option<u32> {
        self.nodes[node].place.map(|place| place as u32)
    }

    /// The number that a node has behind its link; `None` when the link leads to it alone.
    pub(super) fn number(&self, node: usize) -> Option<u32> {
        self.nodes[node].there.as_ref().map(|(number, _)| *number)
    }

    /// What the link says of itself.
    pub(super) fn link(&mut self, link: usize) -> &mut NodeStatus {
        &mut self.links[link].status
    }

    /// Sends without waiting; whether it could. A node that takes nothing is found out by its silence.
    pub(super) fn send(&self, link: usize, message: ToSupervisor) -> bool {
        self.links[link].to.try_send(message).is_ok()
    }

    /// The same, to one node, whatever lies between.
    pub(super) fn send_to(&self, node: usize, message: ToSupervisor) -> bool {
        let message = match self.number(node) {
            Some(number) => ToSupervisor::To { node: number, message: Box::new(message) },
            None => message,
        };
        self.send(self.nodes[node].link, message)
    }

    /// What is known of a node.
    pub(super) fn status(&self, node: usize) -> NodeStatus {
        let node = &self.nodes[node];
        let link = &self.links[node.link].status;
        let Some((_, told)) = &node.there else {
            return NodeStatus { host: node.name.clone(), ..link.clone() };
        };
        let there = |since| shift(since, link.ahead_ms());
        let own = match &told.link {
            // What a relay told is of the past once it is silent itself.
            _ if !link.link.is_live() => link.link.clone(),
            NodeLink::Silent { since } => NodeLink::Silent { since: there(*since) },
            NodeLink::Lost { since, tries, why } => {
                NodeLink::Lost { since: there(*since), tries: *tries, why: why.clone() }
            }
            other => other.clone(),
        };
        NodeStatus {
            host: node.name.clone(),
            link: own,
            clock: told
                .clock
                .zip(link.clock)
                .map(|(further, nearer): (Offset, Offset)| further.beyond(nearer)),
            read_only: told.read_only.clone().or_else(|| link.read_only.clone()),
        }
    }

    /// How the links to all nodes are, as viewers hear it.
    pub(super) fn statuses(&self) -> ToViewer {
        ToViewer::Nodes { nodes: self.shown.iter().map(|node| self.status(*node)).collect() }
    }

    /// The hosts by node, for sentences.
    pub(super) fn hosts(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// A relay told which nodes it has, and how they are. Whether viewers see other nodes than before, or in other
    /// places.
    pub(super) fn told(&mut self, link: usize, statuses: Vec<NodeStatus>) -> bool {
        let known = std::mem::take(&mut self.links[link].nodes);
        let was_relay = std::mem::replace(&mut self.links[link].is_relay, true);
        let mut now = Vec::with_capacity(statuses.len());
        for (number, status) in statuses.into_iter().enumerate().take(MOST) {
            let is_it = |node: &usize| {
                self.nodes[*node].there.as_ref().is_some_and(|(_, told)| told.host == status.host)
            };
            // Mostly it is where it was.
            let same = known.get(number).copied().filter(is_it);
            let node = same.or_else(|| known.iter().copied().find(|node| is_it(node) && !now.contains(node)));
            let node = node.unwrap_or_else(|| {
                let (state, name) = (State::default(), String::new());
                self.nodes.push(Node { state, link, there: None, place: None, name });
                self.nodes.len() - 1
            });
            self.nodes[node].there = Some((number as u32, status));
            now.push(node);
        }
        let changed = now != known || !was_relay;
        self.links[link].nodes = now;
        if changed {
            self.arrange();
        }
        changed
    }

    /// Puts all nodes in the places that viewers see.
    fn arrange(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.place = None);
        self.shown = self.links.iter().flat_map(|link| link.nodes.iter().copied()).collect();
        for (place, node) in self.shown.iter().enumerate() {
            self.nodes[*node].place = Some(place);
        }
        self.name();
    }

    /// The host as whoever has the link to it named it.
    fn host(&self, node: usize) -> &str {
        let node = &self.nodes[node];
        match &node.there {
            Some((_, told)) => &told.host,
            None => &self.links[node.link].status.host,
        }
    }

    /// Names all nodes: the first of a host's name has it, others of that name have a number, in the order in which they
    /// are seen. So they have the same names after each link was made anew, and in each relay of the same nodes.
    fn name(&mut self) {
        let hosts: Vec<String> = self.shown.iter().map(|node| self.host(*node).to_owned()).collect();
        let mut taken: BTreeSet<String> = hosts.iter().cloned().collect();
        let mut of_one_host: BTreeMap<&str, u32> = BTreeMap::new();
        for (node, host) in self.shown.iter().zip(&hosts) {
            let count = of_one_host.entry(host).or_default();
            *count += 1;
            let mut name = host.clone();
            while *count > 1 {
                name = format!("{host}~{count}");
                if taken.insert(name.clone()) {
                    break;
                }
                *count += 1;
            }
            self.nodes[*node].name = name;
        }
    }

    /// All that a viewer needs who has nothing, or missed some of it.
    pub(super) fn snapshots(&self, lost: u64) -> ToViewer {
        let told = self.all().filter(|(_, node)| node.state.job.is_some());
        let states = told.enumerate().filter_map(|(n, (number, node))| {
            // What was missed is told once.
            let lost = if n == 0 { lost } else { 0 };
            self.from(number, ToViewer::Snapshot { state: Box::new(node.state.clone()), lost })
        });
        ToViewer::Together { messages: std::iter::once(self.statuses()).chain(states).collect() }
    }
}
