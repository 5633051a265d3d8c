//! What all nodes told, and who asked what of whom.

use std::collections::BTreeMap;

use tokio::{net::UnixListener, sync::mpsc};

use super::{
    Host,
    node::{self, Said},
};
use crate::{
    domain::{
        cluster::{NodeLink, NodeStatus, Order},
        command::{Command, Outcome},
        stack::Stacks,
        state::State,
    },
    supervisor::{
        clock::wall,
        hub::{Hub, Said as FromViewer, ViewerId},
    },
    wire::{
        link::{Link, QUEUE},
        message::{PROTOCOL, ToSupervisor, ToViewer},
    },
};

/// The nodes of one job, and those who look at them.
#[derive(Debug)]
pub struct Cluster {
    hosts: Vec<String>,
    nodes: Vec<Node>,
    hears: mpsc::Receiver<(usize, Said)>,
    hub: Hub,
    said: mpsc::Receiver<(ViewerId, FromViewer)>,
    next_id: u64,
    /// By the id under which a node was asked.
    asked: BTreeMap<u64, Asked>,
    orders: BTreeMap<u64, Ordered>,
}

#[derive(Debug)]
struct Node {
    to: mpsc::Sender<ToSupervisor>,
    status: NodeStatus,
    state: State,
}

/// What a node was asked, for whom.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// For a viewer, under the id that it chose.
    For(usize, ViewerId, u64),
    /// A part of an order.
    Part(usize, u64),
}

/// A command that is under way on some nodes.
#[derive(Debug)]
struct Ordered {
    by: ViewerId,
    id: u64,
    order: Order,
    stacks: Option<Stacks>,
}

/// Holds the links for one viewer in this process.
pub fn serve(hosts: Vec<Host>, viewer: &str) -> Link {
    let mut cluster = Cluster::new(hosts, viewer);
    let (link, far) = Link::pair();
    cluster.hub.add_near(far);
    tokio::spawn(async move {
        while !cluster.hub.is_empty() {
            cluster.turn().await;
        }
    });
    link
}

impl Cluster {
    /// Begins to reach all of them.
    pub fn new(hosts: Vec<Host>, viewer: &str) -> Cluster {
        let (told, hears) = mpsc::channel(QUEUE);
        let (hub, said) = Hub::new();
        let names = hosts.iter().map(|host| host.name.clone()).collect();
        let nodes = hosts
            .into_iter()
            .enumerate()
            .map(|(number, host)| Node {
                to: node::start(number, host.connect, viewer.to_owned(), told.clone()),
                status: NodeStatus::new(host.name),
                state: State::default(),
            })
            .collect();
        let (asked, orders) = (BTreeMap::new(), BTreeMap::new());
        Cluster { hosts: names, nodes, hears, hub, said, next_id: 1, asked, orders }
    }

    /// Serves whoever connects, for as long as it is awaited.
    pub async fn listen(&mut self, listener: &UnixListener) {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.hub.accept(stream),
                    Err(error) => tracing::warn!(%error, "cannot accept a viewer"),
                },
                () = self.turn() => {}
            }
        }
    }

    /// Takes one thing in. Nothing is lost when it is not awaited to its end.
    async fn turn(&mut self) {
        tokio::select! {
            // The cluster holds no sender itself: without nodes there is nothing to hear, ever.
            Some((node, said)) = self.hears.recv() => self.heard(node, said),
            Some((from, said)) = self.said.recv() => match said {
                FromViewer::Gone => self.hub.remove(from),
                FromViewer::Message(message) => self.asked_by(from, message),
            },
        }
    }

    fn heard(&mut self, number: usize, said: Said) {
        match said {
            Said::Link(link) => {
                let lost = matches!(link, NodeLink::Lost { .. } | NodeLink::Gone { .. });
                self.nodes[number].status.link = link;
                if lost {
                    self.forget(number);
                }
                self.tell_status();
            }
            Said::Clock(offset) => {
                let status = &mut self.nodes[number].status;
                if status.clock.replace(offset) != Some(offset) {
                    self.tell_status();
                }
            }
            Said::Heard(message) => self.heard_message(number, message),
        }
    }

    fn heard_message(&mut self, number: usize, message: ToViewer) {
        match message {
            ToViewer::Welcome { read_only, .. } => {
                self.nodes[number].status.read_only = read_only;
            }
            ToViewer::Snapshot { state, lost } => {
                self.nodes[number].state = *state;
                let state = &self.nodes[number].state;
                let message = from(number, ToViewer::Snapshot { state: Box::new(state.clone()), lost });
                self.spread(&message, 1);
            }
            ToViewer::Events { events } => {
                events.iter().for_each(|event| self.nodes[number].state.apply(event));
                let count = events.len() as u64;
                if self.hub.is_watched() {
                    self.spread(&from(number, ToViewer::Events { events }), count);
                }
            }
            ToViewer::Reply { id, outcome } => match self.asked.remove(&id) {
                Some(Asked::Part(_, order)) => self.answered(number, order, &outcome),
                Some(Asked::For(..)) | None => {}
            },
            ToViewer::Stacks { id, stacks } => {
                if let Some(Asked::Part(_, order)) = self.asked.get(&id)
                    && let Some(ordered) = self.orders.get_mut(order)
                {
                    match &mut ordered.stacks {
                        Some(known) => known.join(stacks),
                        None => ordered.stacks = Some(stacks),
                    }
                }
            }
            ToViewer::Logs { id, page } => {
                if let Some(Asked::For(_, viewer, own)) = self.asked.remove(&id) {
                    self.hub.send(viewer, &from(number, ToViewer::Logs { id: own, page }));
                }
            }
            ToViewer::CloseUp { id, close_up } => {
                if let Some(Asked::For(_, viewer, own)) = self.asked.remove(&id) {
                    self.hub.send(viewer, &from(number, ToViewer::CloseUp { id: own, close_up }));
                }
            }
            // Nodes of nodes are not shown, and what a newer supervisor says is not understood.
            ToViewer::Nodes { .. }
            | ToViewer::Together { .. }
            | ToViewer::Recording { .. }
            | ToViewer::Position { .. }
            | ToViewer::From { .. }
            | ToViewer::Clock { .. }
            | ToViewer::Bye { .. }
            | ToViewer::Unknown => {}
        }
    }

    fn asked_by(&mut self, viewer: ViewerId, message: ToSupervisor) {
        match message {
            ToSupervisor::Hello { protocol, viewer: name, watch, .. } if protocol == PROTOCOL => {
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
            ToSupervisor::Do { id, command } => {
                let addressees = self.addressees(&command);
                self.order(viewer, id, &command, &addressees);
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
        self.hub.send(viewer, &snapshots(&self.nodes, 0));
    }

    fn pass_on(&mut self, viewer: ViewerId, number: usize, message: ToSupervisor) {
        if number >= self.nodes.len() {
            return;
        }
        match message {
            ToSupervisor::Do { id, command } => self.order(viewer, id, &command, &[number]),
            ToSupervisor::Logs { id, query } if self.hub.keeps_up(viewer) => {
                let asked = self.note(Asked::For(number, viewer, id));
                self.send(number, ToSupervisor::Logs { id: asked, query });
            }
            ToSupervisor::LookAt { id, local_rank, question } if self.hub.keeps_up(viewer) => {
                let asked = self.note(Asked::For(number, viewer, id));
                self.send(number, ToSupervisor::LookAt { id: asked, local_rank, question });
            }
            ToSupervisor::Traffic => self.send(number, ToSupervisor::Traffic),
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
        let has = |node: &Node| match rank {
            Some(rank) => node.state.ranks.iter().any(|known| known.place.rank == Some(rank)),
            None => !node.state.state.is_over(),
        };
        (0..self.nodes.len()).filter(|number| has(&self.nodes[*number])).collect()
    }

    fn order(&mut self, by: ViewerId, id: u64, command: &Command, addressees: &[usize]) {
        let key = self.new_id();
        let mut order = Order::new();
        for &number in addressees {
            let node = &self.nodes[number];
            if let Some(why) = node.status.link.unreachable() {
                order.lost(number, why);
                continue;
            }
            let command = match command {
                // Another viewer may ask for the same at the same time, over other links.
                Command::Restart { attempt: None } => {
                    Command::Restart { attempt: Some(node.state.attempt()) }
                }
                command => command.clone(),
            };
            let asked = self.note(Asked::Part(number, key));
            match self.nodes[number].to.try_send(ToSupervisor::Do { id: asked, command }) {
                Ok(()) => order.sent(number),
                Err(_) => {
                    self.asked.remove(&asked);
                    order.lost(number, "it takes no messages now");
                }
            }
        }
        self.orders.insert(key, Ordered { by, id, order, stacks: None });
        self.settle(key);
    }

    fn answered(&mut self, number: usize, key: u64, outcome: &Outcome) {
        if let Some(ordered) = self.orders.get_mut(&key)
            && ordered.order.answered(number, outcome)
        {
            self.settle(key);
        }
    }

    /// Answers who ordered, once all nodes have.
    fn settle(&mut self, key: u64) {
        let Some(outcome) = self.orders.get(&key).and_then(|ordered| ordered.order.outcome(&self.hosts))
        else {
            return;
        };
        let Some(Ordered { by, id, stacks, .. }) = self.orders.remove(&key) else { return };
        if let Some(stacks) = stacks {
            self.hub.send(by, &ToViewer::Stacks { id, stacks });
        }
        self.hub.send(by, &ToViewer::Reply { id, outcome });
    }

    /// The link is gone, and with it the answers that were awaited over it.
    fn forget(&mut self, number: usize) {
        let of_it = |asked: &Asked| match asked {
            Asked::For(node, ..) | Asked::Part(node, _) => *node == number,
        };
        self.asked.retain(|_, asked| !of_it(asked));
        let waiting: Vec<u64> = self
            .orders
            .iter()
            .filter(|(_, ordered)| ordered.order.waits_for(number))
            .map(|(key, _)| *key)
            .collect();
        for key in waiting {
            if let Some(ordered) = self.orders.get_mut(&key) {
                ordered.order.lost(number, "the link went away before it answered");
            }
            self.settle(key);
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn note(&mut self, asked: Asked) -> u64 {
        let id = self.new_id();
        self.asked.insert(id, asked);
        id
    }

    /// Without waiting: a node that takes nothing is found out by its silence.
    fn send(&self, number: usize, message: ToSupervisor) {
        let _ = self.nodes[number].to.try_send(message);
    }

    fn tell_status(&mut self) {
        let message = self.status();
        self.spread(&message, 1);
    }

    fn status(&self) -> ToViewer {
        ToViewer::Nodes { nodes: self.nodes.iter().map(|node| node.status.clone()).collect() }
    }

    fn spread(&mut self, message: &ToViewer, events: u64) {
        let nodes = &self.nodes;
        self.hub.spread(message, events, |lost| snapshots(nodes, lost));
    }
}

/// All that a viewer needs who has nothing, or missed some of it.
fn snapshots(nodes: &[Node], lost: u64) -> ToViewer {
    let status = ToViewer::Nodes { nodes: nodes.iter().map(|node| node.status.clone()).collect() };
    let told = nodes.iter().enumerate().filter(|(_, node)| node.state.job.is_some());
    let states = told.enumerate().map(|(n, (number, node))| {
        // What was missed is told once.
        let lost = if n == 0 { lost } else { 0 };
        from(number, ToViewer::Snapshot { state: Box::new(node.state.clone()), lost })
    });
    ToViewer::Together { messages: std::iter::once(status).chain(states).collect() }
}

fn from(number: usize, message: ToViewer) -> ToViewer {
    ToViewer::From { node: number as u32, message: Box::new(message) }
}

#[cfg(test)]
mod tests;
