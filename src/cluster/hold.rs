//! What all nodes told, and who asked what of whom.

mod members;
mod orders;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    net::UnixListener,
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep_until},
};

use self::{
    members::Members,
    orders::{Asked, Ordered},
};
use super::{
    Host,
    node::{self, Said},
};
use crate::{
    domain::cluster::NodeLink,
    supervisor::hub::{Hub, Said as FromViewer, ViewerId},
    wire::{
        link::{Link, QUEUE},
        message::ToViewer,
    },
};

/// Up to so many nodes, viewers hear at once what a node says. Of more it is gathered, half a millisecond for each node:
/// a viewer draws some times a second, and has room for 64 messages.
const FEW: usize = 16;
const GATHERED: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(250));
/// Messages that are gathered at most.
const MOST: usize = 2048;

/// The nodes of one job, and those who look at them.
#[derive(Debug)]
pub struct Cluster {
    members: Members,
    hears: mpsc::Receiver<(usize, Said)>,
    /// Told when a group forms anywhere.
    formed: watch::Sender<()>,
    hub: Hub,
    said: mpsc::Receiver<(ViewerId, FromViewer)>,
    next_id: u64,
    /// By the id under which a node was asked.
    asked: BTreeMap<u64, Asked>,
    orders: BTreeMap<u64, Ordered>,
    untold: Untold,
}

/// What viewers are about to hear.
#[derive(Debug, Default)]
struct Untold {
    messages: Vec<ToViewer>,
    events: u64,
    /// Whether a link is otherwise than they know.
    status: bool,
    /// Whether the nodes themselves are others.
    anew: bool,
    due: Option<Instant>,
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
        let formed = watch::Sender::new(());
        let turns = Arc::new(Semaphore::new(node::AT_ONCE));
        let shared = node::Shared { said: told, turns, formed: formed.subscribe() };
        let mut members = Members::default();
        for (number, Host { name, connect }) in hosts.into_iter().enumerate() {
            let to = node::start(number, connect, viewer.to_owned(), shared.clone());
            members.add(name, to);
        }
        let (asked, orders, untold) = (BTreeMap::new(), BTreeMap::new(), Untold::default());
        Cluster { members, hears, formed, hub, said, next_id: 1, asked, orders, untold }
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
        let due = self.untold.due;
        if due.is_some_and(|due| due <= Instant::now()) || self.untold.messages.len() >= MOST {
            self.flush();
        }
        tokio::select! {
            // The cluster holds no sender itself: without nodes there is nothing to hear, ever.
            Some((link, said)) = self.hears.recv() => self.heard(link, said),
            Some((from, said)) = self.said.recv() => match said {
                FromViewer::Gone => self.hub.remove(from),
                FromViewer::Message(message) => self.asked_by(from, message),
            },
            () = async { sleep_until(due.expect("guarded")).await }, if due.is_some() => {}
        }
    }

    fn heard(&mut self, link: usize, said: Said) {
        match said {
            Said::Link(how) => {
                let lost = matches!(how, NodeLink::Lost { .. } | NodeLink::Gone { .. });
                self.members.link(link).link = how;
                if lost {
                    self.forget(link, "the link went away before it answered");
                }
                self.tell_status();
            }
            Said::Clock(offset) => {
                let status = self.members.link(link);
                if status.clock.is_none_or(|known| !offset.is_about(known)) {
                    status.clock = Some(offset);
                    self.tell_status();
                }
            }
            Said::Heard(message) => self.heard_over(link, None, message),
        }
    }

    /// What came over a link; `number` is the node behind a relay that it is about.
    fn heard_over(&mut self, link: usize, number: Option<u32>, message: ToViewer) {
        match message {
            ToViewer::Welcome { read_only, .. } => {
                self.members.link(link).read_only = read_only;
                self.tell_status();
            }
            ToViewer::Together { messages } => {
                messages.into_iter().for_each(|message| self.heard_over(link, number, message));
            }
            ToViewer::From { node, message } if number.is_none() => {
                self.heard_over(link, Some(node), *message);
            }
            ToViewer::Nodes { nodes } if number.is_none() => {
                if self.members.told(link, nodes) {
                    self.forget(link, "the relay had other nodes before it answered");
                    self.untold.anew = true;
                }
                self.tell_status();
            }
            ToViewer::Snapshot { state, lost } => {
                let Some(node) = self.members.behind(link, number) else { return };
                self.members.state(node).clone_from(&state);
                self.tell(node, ToViewer::Snapshot { state, lost }, 1);
            }
            ToViewer::Events { events } => {
                let Some(node) = self.members.behind(link, number) else { return };
                if events.iter().any(|event| event.fact.begins_attempt()) {
                    self.formed.send_replace(());
                }
                events.iter().for_each(|event| self.members.state(node).apply(event));
                let count = events.len() as u64;
                self.tell(node, ToViewer::Events { events }, count);
            }
            message => self.heard_answer(message),
        }
    }

    /// What a node says, for all that watch.
    fn tell(&mut self, node: usize, message: ToViewer, events: u64) {
        if self.hub.is_watched()
            && let Some(message) = self.members.from(node, message)
        {
            self.untold.messages.push(message);
            self.untold.events += events;
            self.tell_soon();
        }
    }

    fn tell_status(&mut self) {
        self.untold.status = true;
        self.tell_soon();
    }

    fn tell_soon(&mut self) {
        let nodes = self.members.len();
        if nodes <= FEW {
            self.flush();
        } else if self.untold.due.is_none() {
            self.untold.due = Some(Instant::now() + (GATHERED.0 * nodes as u32).min(GATHERED.1));
        }
    }

    /// Tells all that watch what there is to tell, in one message.
    fn flush(&mut self) {
        let Untold { mut messages, events, status, anew, .. } = std::mem::take(&mut self.untold);
        let members = &self.members;
        if anew {
            // Places are others, and what was to be told names the old ones.
            messages = vec![members.snapshots(0)];
        } else if status {
            messages.insert(0, members.statuses());
        }
        let message = match messages.len() {
            0 => return,
            1 => messages.remove(0),
            _ => ToViewer::Together { messages },
        };
        self.hub.spread(&message, events.max(1), |lost| members.snapshots(lost));
    }

    /// Says something to one viewer, after all that happened before.
    fn say(&mut self, viewer: ViewerId, message: &ToViewer) {
        self.flush();
        self.hub.send(viewer, message);
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
}

#[cfg(test)]
mod tests;
