//! The nodes of a job that is watched over many links: what each told, and all of them as one job.

use std::collections::{HashMap, HashSet};

use super::{App, Cmd};
use crate::{
    domain::{
        alert::AlertKind,
        cluster::{Member, NodeStatus, shift, whole},
        command::Command,
        state::State,
        time::Stamp,
    },
    tui::words::EventLine,
    wire::message::{ToSupervisor, ToViewer},
};

/// Events of different nodes that are this close are one, when they say the same.
const TOGETHER_MS: u64 = 3_000;
/// Nodes that are named in one line, and whose ranks are.
const NAMED: usize = 3;
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

    /// Learns how many lines the node wrote whose log is shown.
    pub(super) fn count_log_lines(&mut self) {
        match self.nodes.get(self.log_node as usize) {
            Some(node) => self.logs.count(&node.state),
            None if self.nodes.is_empty() => self.logs.count(&self.state),
            None => {}
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
        // A relay that is heard of takes the place of its name with all its nodes: what is selected stays so.
        let host_at = |known: &[Node], at: u32| known.get(at as usize).map(|node| node.status.host.clone());
        let places = [self.node, self.log_node].map(|at| host_at(&self.nodes, at));
        let mut known = std::mem::take(&mut self.nodes);
        let mut is_moved = known.len() > nodes.len();
        for (at, status) in nodes.into_iter().enumerate() {
            let is_it = |node: &Node| node.status.host == status.host;
            let from = if known.get(at).is_some_and(is_it) { Some(at) } else { known.iter().position(is_it) };
            is_moved |= from != Some(at);
            let state = from.map(|from| std::mem::take(&mut known[from].state)).unwrap_or_default();
            self.nodes.push(Node { status, state });
        }
        if is_moved {
            let now = |host: &Option<String>| {
                let host = host.as_ref()?;
                self.nodes.iter().position(|node| node.status.host == *host).map(|at| at as u32)
            };
            let [node, log_node] = places.each_ref().map(|host| now(host).unwrap_or(0));
            (self.node, self.log_node) = (node, log_node);
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
                events.into_iter().for_each(|event| self.page.hear(number, event, &mut node.state));
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

/// Lines with their hosts in front, of lines in the order of time. What several nodes tell within [`TOGETHER_MS`] is one
/// line; so is what became of ranks of more than [`NAMED`] nodes.
pub(super) fn fold(all: Vec<(&str, EventLine)>) -> Vec<EventLine> {
    let mut groups: Vec<Group> = Vec::new();
    let mut last: HashMap<String, usize> = HashMap::new();
    for (host, line) in all {
        let key = line.ranks.as_ref().map_or_else(|| common(host, &line.text), |(_, became)| became.clone());
        let known = last.get(&key).copied().filter(|at| groups[*at].takes(host, &line));
        let at = known.unwrap_or_else(|| {
            last.insert(key, groups.len());
            groups.push(Group::default());
            groups.len() - 1
        });
        groups[at].hosts.insert(host);
        groups[at].lines.push((host, line));
    }
    let mut lines: Vec<EventLine> = groups.into_iter().flat_map(Group::lines).collect();
    lines.sort_by_key(|line| line.at);
    for (at, line) in lines.iter_mut().enumerate() {
        // In order, and the same for as long as nothing older comes in.
        line.seq = (line.at.0 << ORDER_BITS) | (at as u64 & ((1 << ORDER_BITS) - 1));
    }
    lines
}

/// What a line says on any node: without the host, and without the number of a process there.
fn common(host: &str, text: &str) -> String {
    let told = text.split_once(", pid ").map_or(text, |(told, _)| told);
    told.replace(&format!(" on {host}"), "")
}

/// What nodes tell of one thing.
#[derive(Default)]
struct Group<'a> {
    hosts: HashSet<&'a str>,
    lines: Vec<(&'a str, EventLine)>,
}

impl Group<'_> {
    fn takes(&self, host: &str, line: &EventLine) -> bool {
        let is_recent =
            |(_, first): &(&str, EventLine)| line.at.since(first.at).as_millis() <= u128::from(TOGETHER_MS);
        self.lines.first().is_some_and(is_recent) && !self.hosts.contains(host)
    }

    fn lines(self) -> Vec<EventLine> {
        let many = self.lines.len();
        let Some((_, first)) = self.lines.first().cloned() else { return Vec::new() };
        if many <= NAMED && self.lines.iter().all(|(_, line)| line.text == first.text) {
            let mut hosts: Vec<&str> = self.lines.iter().map(|(host, _)| *host).collect();
            hosts.sort_unstable();
            return vec![EventLine { text: format!("{}: {}", hosts.join(", "), first.text), ..first }];
        }
        match &first.ranks {
            Some((_, became)) if many > NAMED => {
                let ranks: u32 = self.lines.iter().filter_map(|(_, line)| Some(line.ranks.as_ref()?.0)).sum();
                vec![EventLine { text: format!("{many} nodes: {ranks} ranks {became}"), ..first }]
            }
            None if many > NAMED => {
                let (host, line) = &self.lines[0];
                vec![EventLine { text: format!("{many} nodes: {}", common(host, &line.text)), ..first }]
            }
            _ => {
                let named = |(host, line): (&str, EventLine)| EventLine {
                    text: format!("{host}: {}", line.text),
                    ..line
                };
                self.lines.into_iter().map(named).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::theme::Role;

    fn line(at: u64, ranks: Option<(u32, &str)>, text: &str) -> EventLine {
        let ranks = ranks.map(|(count, became)| (count, became.to_owned()));
        EventLine { seq: 1, at: Stamp(at), glyph: "x", text: text.into(), role: Role::Dim, ranks }
    }

    #[test]
    fn what_becomes_of_ranks_of_many_nodes_is_one_line() {
        let hosts: Vec<String> = (0..512).map(|n| format!("n{n:03}")).collect();
        let started = |n: usize| {
            let text = format!("r{}-r{} started, attempt 2", n * 8, n * 8 + 7);
            line(1_000 + n as u64, Some((8, "started, attempt 2")), &text)
        };
        let mut all: Vec<(&str, EventLine)> =
            hosts.iter().enumerate().map(|(n, host)| (host.as_str(), started(n))).collect();
        all.insert(
            7,
            ("n003", line(1_006, Some((1, "ended: exit code 1")), "r24 ended: exit code 1, pid 9")),
        );
        all.push((
            hosts[0].as_str(),
            line(9_000, Some((8, "started, attempt 2")), "r0-r7 started, attempt 2"),
        ));
        let texts: Vec<String> = fold(all).into_iter().map(|line| line.text).collect();
        assert_eq!(
            texts,
            [
                "512 nodes: 4096 ranks started, attempt 2",
                "n003: r24 ended: exit code 1, pid 9",
                "n000: r0-r7 started, attempt 2"
            ]
        );
    }

    #[test]
    fn few_nodes_keep_their_ranks() {
        let all = vec![
            ("n01", line(1_000, Some((2, "started, attempt 0")), "r0-r1 started, attempt 0")),
            ("n02", line(1_100, Some((2, "started, attempt 0")), "r2-r3 started, attempt 0")),
            ("n01", line(1_200, None, "running")),
            ("n02", line(1_300, None, "running")),
            ("n02", line(1_400, None, "done")),
            ("n01", line(1_500, None, "done")),
        ];
        let lines = fold(all);
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "n01: r0-r1 started, attempt 0",
                "n02: r2-r3 started, attempt 0",
                "n01, n02: running",
                "n01, n02: done"
            ]
        );
        assert!(lines.is_sorted_by_key(|line| line.seq));
    }

    #[test]
    fn what_differs_by_host_and_process_alone_is_one_line() {
        let hosts: Vec<String> = (0..40).map(|n| format!("n{n:02}")).collect();
        let told = |n: usize, text: String| (hosts[n].as_str(), line(1_000 + n as u64, None, &text));
        let jobs = (0..40).map(|n| told(n, format!("job llama on n{n:02}, torchrun")));
        let agents = (0..40).map(|n| told(n, format!("agent started, pid {}", 100 + n)));
        let mut all: Vec<(&str, EventLine)> = jobs.chain(agents).collect();
        all.sort_by_key(|(_, line)| line.at);
        let texts: Vec<String> = fold(all).into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["40 nodes: job llama, torchrun", "40 nodes: agent started"]);
    }
}
