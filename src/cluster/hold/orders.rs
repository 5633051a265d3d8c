//! Who asked what of whom, and what came back.

use super::Cluster;
use crate::{
    domain::{
        cluster::{Answer, Order, shift},
        command::{Command, Outcome},
        stack::Stacks,
        time::Stamp,
    },
    supervisor::{clock::wall, hub::ViewerId},
    wire::message::{PROTOCOL, ToSupervisor, ToViewer},
};

/// What a node was asked, for whom.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// Node, viewer, and the id that it chose.
    For(usize, ViewerId, u64),
    /// A part of an order that one node has.
    Part(usize, u64),
    /// A part of an order that some nodes behind a link have.
    Parts(usize, u64),
}

/// A command that is under way on some nodes.
#[derive(Debug)]
pub(super) struct Ordered {
    by: ViewerId,
    id: u64,
    order: Order,
    stacks: Option<Stacks>,
    /// Whether who ordered wants to hear of each node.
    each: bool,
}

impl Cluster {
    pub(super) fn asked_by(&mut self, viewer: ViewerId, message: ToSupervisor) {
        match message {
            ToSupervisor::Hello { protocol, viewer: name, watch, .. } if protocol == PROTOCOL => {
                self.flush();
                self.hub.greet(viewer, name, watch);
                self.welcome(viewer);
            }
            ToSupervisor::Hello { protocol, version, .. } => {
                let text = format!(
                    "the viewer is elastictop {version} with protocol {protocol}, the relay is {} with protocol \
                     {PROTOCOL}; use the same version",
                    env!("CARGO_PKG_VERSION")
                );
                self.hub.send(viewer, &ToViewer::Bye { text });
            }
            ToSupervisor::Clock { id } => self.hub.send(viewer, &ToViewer::Clock { id, now: wall() }),
            ToSupervisor::Do { id, command, until } => {
                let addressees = self.addressees(&command);
                self.order((viewer, id, until), &command, &addressees, false);
            }
            ToSupervisor::DoOn { id, command, nodes, until } => {
                let nodes: Vec<usize> =
                    nodes.iter().filter_map(|place| self.members.at(*place as usize)).collect();
                self.order((viewer, id, until), &command, &nodes, true);
            }
            ToSupervisor::To { node, message } => self.pass_on(viewer, node as usize, *message),
            // Who does not say which node means the first.
            message @ (ToSupervisor::Logs { .. } | ToSupervisor::LookAt { .. } | ToSupervisor::Traffic) => {
                self.pass_on(viewer, 0, message);
            }
            ToSupervisor::Replay { .. } | ToSupervisor::Unknown => {}
        }
    }

    fn welcome(&mut self, viewer: ViewerId) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let hello = ToViewer::Welcome { protocol: PROTOCOL, version, now: wall(), read_only: None };
        self.hub.send(viewer, &hello);
        self.hub.send(viewer, &self.members.snapshots(0));
    }

    fn pass_on(&mut self, viewer: ViewerId, place: usize, message: ToSupervisor) {
        let Some(node) = self.members.at(place) else { return };
        match message {
            ToSupervisor::Do { id, command, until } => {
                self.order((viewer, id, until), &command, &[node], false);
            }
            ToSupervisor::Logs { id, query } if self.hub.keeps_up(viewer) => {
                let asked = self.note(Asked::For(node, viewer, id));
                self.members.send_to(node, ToSupervisor::Logs { id: asked, query });
            }
            ToSupervisor::LookAt { id, local_rank, question } if self.hub.keeps_up(viewer) => {
                let asked = self.note(Asked::For(node, viewer, id));
                self.members.send_to(node, ToSupervisor::LookAt { id: asked, local_rank, question });
            }
            ToSupervisor::Traffic => drop(self.members.send_to(node, ToSupervisor::Traffic)),
            _ => {}
        }
    }

    /// The nodes that a command is for: those of the rank that it names, or all that the job still runs on.
    fn addressees(&self, command: &Command) -> Vec<usize> {
        let rank = match command {
            Command::Signal { rank, .. } | Command::Stacks { rank, .. } => *rank,
            Command::Drill { rank, .. } => Some(*rank),
            _ => None,
        };
        let all = self.members.all().filter(|(_, node)| match rank {
            Some(rank) => node.state.ranks.iter().any(|known| known.place.rank == Some(rank)),
            None => !node.state.state.is_over(),
        });
        all.map(|(node, _)| node).collect()
    }

    /// `asked` is who ordered, under which number, and until when it is wanted by the clock of this process.
    fn order(
        &mut self,
        asked: (ViewerId, u64, Option<Stamp>),
        command: &Command,
        addressees: &[usize],
        each: bool,
    ) {
        let (by, id, until) = asked;
        let key = self.new_id();
        let mut order = Order::new();
        // What one relay is to have done, in one message: it has many nodes.
        let mut through: Vec<(usize, Command, Vec<usize>)> = Vec::new();
        for &node in addressees {
            if let Some(why) = self.members.status(node).link.unreachable() {
                order.lost(node, why);
                continue;
            }
            let (link, attempt) = (self.members.node(node).link, self.members.node(node).state.attempt());
            let command = match command {
                // Another viewer may ask for the same at the same time, over other links.
                Command::Restart { attempt: None } => Command::Restart { attempt: Some(attempt) },
                command => command.clone(),
            };
            if self.members.number(node).is_some() {
                match through.iter_mut().find(|(to, what, _)| *to == link && *what == command) {
                    Some((_, _, nodes)) => nodes.push(node),
                    None => through.push((link, command, vec![node])),
                }
                continue;
            }
            let asked = self.note(Asked::Part(node, key));
            let until = until.map(|until| shift(until, -self.members.status(node).ahead_ms()));
            let taken = self.members.send(link, ToSupervisor::Do { id: asked, command, until });
            self.sent(&mut order, &[node], asked, taken);
        }
        for (link, command, nodes) in through {
            let asked = self.note(Asked::Parts(link, key));
            let numbers = nodes.iter().filter_map(|node| self.members.number(*node)).collect();
            let until = until.map(|until| shift(until, -self.members.link(link).ahead_ms()));
            let taken =
                self.members.send(link, ToSupervisor::DoOn { id: asked, command, nodes: numbers, until });
            self.sent(&mut order, &nodes, asked, taken);
        }
        self.orders.insert(key, Ordered { by, id, order, stacks: None, each });
        self.settle(key);
    }

    fn sent(&mut self, order: &mut Order, nodes: &[usize], asked: u64, taken: bool) {
        if taken {
            nodes.iter().for_each(|node| order.sent(*node));
        } else {
            self.asked.remove(&asked);
            nodes.iter().for_each(|node| order.lost(*node, "it takes no messages now"));
        }
    }

    pub(super) fn heard_answer(&mut self, message: ToViewer) {
        match message {
            ToViewer::Reply { id, outcome } => {
                if let Some(Asked::Part(node, order)) = self.asked.remove(&id) {
                    self.answered(node, order, &outcome);
                }
            }
            ToViewer::Answers { id, answers } => {
                if let Some(Asked::Parts(link, order)) = self.asked.remove(&id) {
                    self.answered_for(link, order, &answers);
                }
            }
            ToViewer::Stacks { id, stacks } => {
                if let Some(Asked::Part(_, order) | Asked::Parts(_, order)) = self.asked.get(&id)
                    && let Some(ordered) = self.orders.get_mut(order)
                {
                    match &mut ordered.stacks {
                        Some(known) => known.join(stacks),
                        None => ordered.stacks = Some(stacks),
                    }
                }
            }
            ToViewer::Logs { id, page } => {
                if let Some(Asked::For(node, viewer, own)) = self.asked.remove(&id) {
                    self.answer_of(node, viewer, ToViewer::Logs { id: own, page });
                }
            }
            ToViewer::CloseUp { id, close_up } => {
                if let Some(Asked::For(node, viewer, own)) = self.asked.remove(&id) {
                    self.answer_of(node, viewer, ToViewer::CloseUp { id: own, close_up });
                }
            }
            // What a newer supervisor says is not understood.
            _ => {}
        }
    }

    fn answer_of(&mut self, node: usize, viewer: ViewerId, message: ToViewer) {
        if let Some(message) = self.members.from(node, message) {
            self.say(viewer, &message);
        }
    }

    fn answered(&mut self, node: usize, key: u64, outcome: &Outcome) {
        if let Some(ordered) = self.orders.get_mut(&key)
            && ordered.order.answered(node, outcome)
        {
            self.settle(key);
        }
    }

    /// A relay told what its nodes made of their part.
    fn answered_for(&mut self, link: usize, key: u64, answers: &[(u32, Answer)]) {
        let Some(ordered) = self.orders.get_mut(&key) else { return };
        for (number, answer) in answers {
            if let Some(node) = self.members.behind(link, Some(*number)) {
                ordered.order.told(node, answer);
            }
        }
        self.give_up(link, key, "the relay said nothing of it");
        self.settle(key);
    }

    /// Nothing more will come over this link for an order, unless it has another part of it.
    fn give_up(&mut self, link: usize, key: u64, why: &str) {
        let other = |asked: &Asked| matches!(asked, Asked::Parts(to, of) if (*to, *of) == (link, key));
        if self.asked.values().any(other) {
            return;
        }
        let Some(ordered) = self.orders.get_mut(&key) else { return };
        let waiting: Vec<usize> =
            ordered.order.waiting().filter(|node| self.members.node(*node).link == link).collect();
        waiting.into_iter().for_each(|node| ordered.order.lost(node, why));
    }

    /// Answers who ordered, once all nodes have.
    fn settle(&mut self, key: u64) {
        let Some(ordered) = self.orders.get(&key).filter(|ordered| ordered.order.waiting().next().is_none())
        else {
            return;
        };
        let Some(outcome) = ordered.order.outcome(&self.members.hosts()) else { return };
        let Some(Ordered { by, id, order, stacks, each }) = self.orders.remove(&key) else { return };
        if let Some(stacks) = stacks {
            self.say(by, &ToViewer::Stacks { id, stacks });
        }
        if !each {
            self.say(by, &ToViewer::Reply { id, outcome });
            return;
        }
        let answers = order.answers().unwrap_or_default();
        let answers =
            answers.into_iter().filter_map(|(node, answer)| Some((self.members.place(node)?, answer)));
        let message = ToViewer::Answers { id, answers: answers.collect() };
        self.say(by, &message);
    }

    /// The link is gone, or what it leads to is: and with it the answers that were awaited over it.
    pub(super) fn forget(&mut self, link: usize, why: &str) {
        let members = &self.members;
        self.asked.retain(|_, asked| match asked {
            Asked::For(node, ..) | Asked::Part(node, _) => members.node(*node).link != link,
            Asked::Parts(to, _) => *to != link,
        });
        let keys: Vec<u64> = self.orders.keys().copied().collect();
        for key in keys {
            self.give_up(link, key, why);
            self.settle(key);
        }
    }
}
