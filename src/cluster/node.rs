//! The link to one node: made, made anew, asked for its clock, and given up when nothing comes over it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::Connect;
use crate::{
    domain::{
        cluster::{NodeLink, Offset, Reading, SILENT_MS},
        event::Fact,
        time::Stamp,
    },
    supervisor::clock::wall,
    wire::{
        link::Link,
        message::{PROTOCOL, ToSupervisor, ToViewer},
    },
};

/// How often a node is asked for its clock; its answer also says that the link works.
const ASK: Duration = Duration::from_secs(2);
/// A link over which nothing came for this long is made anew.
const DEAD: Duration = Duration::from_secs(20);
/// How long making a link may take: ssh through a jump host needs some seconds.
const MADE_WITHIN: Duration = Duration::from_secs(30);
/// First and longest wait between two attempts, and up to which part of it is left to chance: after a cut in the
/// network not all nodes are asked at one moment.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
const CHANCE: f64 = 0.3;
/// Links that may be in the making at once. Each is a process that agrees on keys.
pub(super) const AT_ONCE: usize = 32;
/// Orders that may wait for a node.
const ORDERS: usize = 256;

/// What a node's task tells of its link and hears over it.
#[derive(Debug)]
pub(super) enum Said {
    /// The link is otherwise than before.
    Link(NodeLink),
    /// How far its clock is ahead.
    Clock(Offset),
    /// Its supervisor said something.
    Heard(ToViewer),
}

/// Starts the task of a node. What is sent to it while there is no link is dropped: whoever sends knows that from
/// [`Said::Link`]. It ends when the receiver of `said` is gone.
pub(super) fn start(
    number: usize,
    connect: Connect,
    viewer: String,
    said: mpsc::Sender<(usize, Said)>,
    turns: Arc<Semaphore>,
) -> mpsc::Sender<ToSupervisor> {
    let (to, orders) = mpsc::channel(ORDERS);
    let node = Node { number, viewer, said, orders, turns, over: Over::default(), last: wall(), tries: 0 };
    tokio::spawn(node.run(connect));
    to
}

struct Node {
    number: usize,
    viewer: String,
    said: mpsc::Sender<(usize, Said)>,
    orders: mpsc::Receiver<ToSupervisor>,
    /// Who may make a link now.
    turns: Arc<Semaphore>,
    /// Whether its part of the job is over: then a link that ends need not be made anew.
    over: Over,
    /// When something was heard last, or the first attempt was made.
    last: Stamp,
    tries: u32,
}

/// Nobody listens any more.
struct Left;

/// Of which nodes behind a link the part of the job is over. Of a supervisor it is one; of a relay as many as it tells
/// of.
#[derive(Debug, Default)]
struct Over {
    /// Host and whether; a supervisor's own host does not matter.
    nodes: Vec<(String, bool)>,
    is_relay: bool,
}

impl Over {
    fn hear(&mut self, message: &ToViewer) {
        self.hear_of(0, message);
    }

    fn hear_of(&mut self, node: usize, message: &ToViewer) {
        match message {
            ToViewer::Together { messages } => {
                messages.iter().for_each(|message| self.hear_of(node, message));
            }
            ToViewer::Nodes { nodes } => {
                self.is_relay = true;
                self.nodes.resize_with(nodes.len(), Default::default);
                for ((host, over), status) in self.nodes.iter_mut().zip(nodes) {
                    *over &= *host == status.host;
                    *over |= matches!(status.link, NodeLink::Gone { .. });
                    host.clone_from(&status.host);
                }
            }
            ToViewer::From { node, message } => self.hear_of(*node as usize, message),
            ToViewer::Snapshot { state, .. } => self.note(node, state.state.is_over()),
            ToViewer::Events { events }
                if events.iter().any(|event| matches!(event.fact, Fact::JobEnded { .. })) =>
            {
                self.note(node, true);
            }
            _ => {}
        }
    }

    fn note(&mut self, node: usize, is_over: bool) {
        if !self.is_relay {
            self.nodes.resize_with(1, Default::default);
        }
        // What a relay tells of a node that it does not have is nothing.
        if let Some((_, over)) = self.nodes.get_mut(node) {
            *over = is_over;
        }
    }

    /// Why nothing new will come over the link; `None` while something may.
    fn why(&self) -> Option<&'static str> {
        let is_over = !self.nodes.is_empty() && self.nodes.iter().all(|(_, over)| *over);
        is_over.then_some(if self.is_relay {
            "the job is over on all its nodes"
        } else {
            "its part of the job is over; attach again once it is started anew"
        })
    }
}

impl Node {
    async fn run(mut self, mut connect: Connect) {
        let mut wait = RETRY.0;
        loop {
            let turn = tokio::select! {
                turn = self.turns.clone().acquire_owned() => turn.ok(),
                () = self.said.closed() => return,
            };
            let made = timeout(MADE_WITHIN, connect()).await;
            let why = match made {
                Ok(Ok(link)) => {
                    let began = Instant::now();
                    // The turn ends with the first word: before that, ssh is still at it.
                    let Ok(why) = self.hold(link, turn).await else { return };
                    if began.elapsed() > RETRY.1 {
                        wait = RETRY.0;
                    }
                    why
                }
                Ok(Err(error)) => {
                    drop(turn);
                    error.text
                }
                Err(_) => {
                    drop(turn);
                    format!("no answer within {} s", MADE_WITHIN.as_secs())
                }
            };
            if let Some(why) = self.over.why() {
                let _ = self.tell(Said::Link(NodeLink::Gone { why: why.into() })).await;
                return;
            }
            self.tries += 1;
            let link = NodeLink::Lost { since: self.last, tries: self.tries, why };
            if self.tell(Said::Link(link)).await.is_err() {
                return;
            }
            tokio::select! {
                () = sleep(wait.mul_f64(1.0 + CHANCE * (fastrand::f64() - 0.5))) => {}
                () = self.said.closed() => return,
            }
            wait = (wait * 2).min(RETRY.1);
            // What was sent meanwhile was answered by whoever sent it.
            while self.orders.try_recv().is_ok() {}
        }
    }

    async fn tell(&self, said: Said) -> Result<(), Left> {
        self.said.send((self.number, said)).await.map_err(|_| Left)
    }

    /// Talks over a link until it ends: why it did.
    async fn hold(&mut self, mut link: Link, turn: Option<OwnedSemaphorePermit>) -> Result<String, Left> {
        let mut turn = turn;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let hello =
            ToSupervisor::Hello { protocol: PROTOCOL, version, viewer: self.viewer.clone(), watch: true };
        let mut asked = (0, wall());
        let mut reading = Reading::default();
        let mut bye = None;
        let mut heard = Instant::now();
        let (mut is_silent, mut is_live) = (false, false);
        if link.outgoing.send(hello).await.is_err() {
            return Ok("the link ended at once".into());
        }
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_question = Instant::now() + ASK;
        loop {
            tokio::select! {
                message = link.incoming.recv() => {
                    let Some(message) = message else {
                        return Ok(bye.unwrap_or_else(|| "the link ended".into()));
                    };
                    drop(turn.take());
                    // Bye says why the link is about to end: it may be of the process that makes it, and nobody behind it.
                    let message = match message {
                        ToViewer::Bye { text } => {
                            bye = Some(text);
                            continue;
                        }
                        message => message,
                    };
                    (heard, self.last) = (Instant::now(), wall());
                    if std::mem::take(&mut is_silent) {
                        self.tell(Said::Link(NodeLink::Live)).await?;
                    }
                    match message {
                        ToViewer::Clock { id, now } => {
                            if id == asked.0 {
                                reading.take(asked.1, now, wall());
                                self.tell_clock(reading).await?;
                            }
                        }
                        message => {
                            if let ToViewer::Welcome { now, .. } = &message {
                                reading.take(asked.1, *now, wall());
                                self.tell_clock(reading).await?;
                            }
                            // A relay tells of all its nodes together.
                            if let ToViewer::Snapshot { .. } | ToViewer::Together { .. } = &message
                                && !std::mem::replace(&mut is_live, true)
                            {
                                self.tries = 0;
                                self.tell(Said::Link(NodeLink::Live)).await?;
                            }
                            self.over.hear(&message);
                            self.tell(Said::Heard(message)).await?;
                        }
                    }
                }
                order = self.orders.recv() => match order {
                    // A supervisor that takes nothing is silent, too: then the link is given up.
                    Some(order) => drop(link.outgoing.try_send(order)),
                    None => return Err(Left),
                },
                _ = tick.tick() => {
                    let silent = heard.elapsed();
                    if silent >= DEAD {
                        return Ok(format!("nothing came for {} s", DEAD.as_secs()));
                    }
                    if silent.as_millis() >= u128::from(SILENT_MS) && !is_silent {
                        is_silent = true;
                        self.tell(Said::Link(NodeLink::Silent { since: self.last })).await?;
                    }
                    if Instant::now() >= next_question {
                        next_question = Instant::now() + ASK;
                        asked = (asked.0 + 1, wall());
                        let _ = link.outgoing.try_send(ToSupervisor::Clock { id: asked.0 });
                    }
                }
            }
        }
    }

    async fn tell_clock(&self, reading: Reading) -> Result<(), Left> {
        match reading.offset() {
            Some(offset) => self.tell(Said::Clock(offset)).await,
            None => Ok(()),
        }
    }
}
