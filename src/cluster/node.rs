//! The link to one node: made, made anew, asked for its clock, and given up when nothing comes over it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};

use super::{Connect, over::Over};
use crate::{
    domain::{
        cluster::{NodeLink, Offset, Reading, SILENT_MS},
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
/// The same for a node whose part of the job is over: it may be started anew, and each look is a login there.
const RETURN: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));
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

/// What the tasks of all nodes share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// Whom they tell.
    pub(super) said: mpsc::Sender<(usize, Said)>,
    /// Who may make a link now.
    pub(super) turns: Arc<Semaphore>,
    /// Told when a group forms: nodes whose part was over may be in it again.
    pub(super) formed: watch::Receiver<()>,
}

/// Starts the task of a node. What is sent to it while there is no link is dropped: whoever sends knows that from
/// [`Said::Link`]. It ends when the receiver of `said` is gone.
pub(super) fn start(
    number: usize,
    connect: Connect,
    viewer: String,
    shared: Shared,
) -> mpsc::Sender<ToSupervisor> {
    let (to, orders) = mpsc::channel(ORDERS);
    let maker = Maker { connect, viewer, shared: shared.clone() };
    let node = Node {
        number,
        said: shared.said,
        orders,
        over: Over::default(),
        last: wall(),
        tries: 0,
        is_live: false,
    };
    tokio::spawn(node.run(maker));
    to
}

/// Nobody listens any more.
struct Left;

/// A link over which hello was said.
struct Made {
    link: Link,
    /// Ends with the first word: before that, ssh is still at it.
    turn: Option<OwnedSemaphorePermit>,
    said_at: Stamp,
    /// What came over it already.
    words: Vec<ToViewer>,
}

/// Why a link is held no longer.
enum End {
    /// It ended, or nothing came over it.
    Broke(String),
    /// The job that was over here runs again, and this leads to it.
    Back(Made),
}

/// Makes the links to one node.
struct Maker {
    connect: Connect,
    viewer: String,
    shared: Shared,
}

impl Maker {
    /// A link, or why there is none.
    async fn make(&mut self) -> Result<Result<Made, String>, Left> {
        let turn = tokio::select! {
            turn = self.shared.turns.clone().acquire_owned() => turn.ok(),
            () = self.shared.said.closed() => return Err(Left),
        };
        let link = match timeout(MADE_WITHIN, (self.connect)()).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => return Ok(Err(error.text)),
            Err(_) => return Ok(Err(format!("no answer within {} s", MADE_WITHIN.as_secs()))),
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let hello =
            ToSupervisor::Hello { protocol: PROTOCOL, version, viewer: self.viewer.clone(), watch: true };
        let said_at = wall();
        Ok(match link.outgoing.send(hello).await {
            Ok(()) => Ok(Made { link, turn, said_at, words: Vec::new() }),
            Err(_) => Err("the link ended at once".into()),
        })
    }

    /// Looks now and then, and whenever a group forms elsewhere, until what is over here runs again.
    async fn await_return(&mut self, over: Over) -> Result<Made, Left> {
        let mut wait = RETURN.0;
        self.shared.formed.mark_unchanged();
        loop {
            tokio::select! {
                () = sleep(by_chance(wait)) => {}
                Ok(()) = self.shared.formed.changed() => {}
                () = self.shared.said.closed() => return Err(Left),
            }
            wait = (wait * 2).min(RETURN.1);
            let Ok(mut made) = self.make().await? else { continue };
            let mut now = Over::default();
            let until = Instant::now() + MADE_WITHIN;
            while !now.is_known()
                && let Ok(Some(word)) = timeout_at(until, made.link.incoming.recv()).await
            {
                now.hear(&word);
                made.words.push(word);
            }
            if now.is_return_of(&over) {
                return Ok(made);
            }
        }
    }
}

fn by_chance(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + CHANCE * (fastrand::f64() - 0.5))
}

/// Holds the link to one node.
struct Node {
    number: usize,
    said: mpsc::Sender<(usize, Said)>,
    orders: mpsc::Receiver<ToSupervisor>,
    /// Whether its part of the job is over.
    over: Over,
    /// When something was heard last, or the first attempt was made.
    last: Stamp,
    tries: u32,
    /// Whether its state came over the link that is held.
    is_live: bool,
}

impl Node {
    /// Until nobody listens.
    async fn run(mut self, mut maker: Maker) {
        let _: Result<(), Left> = self.keep(&mut maker).await;
    }

    /// Makes the link, holds it, and makes it anew.
    async fn keep(&mut self, maker: &mut Maker) -> Result<(), Left> {
        let mut wait = RETRY.0;
        let mut back = None;
        loop {
            let made = match back.take() {
                Some(made) => Ok(made),
                None => maker.make().await?,
            };
            let began = Instant::now();
            let why = match made {
                Ok(made) => match self.hold(made, maker).await? {
                    End::Broke(why) => why,
                    End::Back(made) => {
                        back = Some(made);
                        continue;
                    }
                },
                Err(why) => why,
            };
            if began.elapsed() > RETRY.1 {
                wait = RETRY.0;
            }
            if let Some(why) = self.over.why() {
                self.tell(Said::Link(NodeLink::Gone { why: why.into() })).await?;
                back = Some(maker.await_return(self.over.clone()).await?);
            } else {
                self.tries += 1;
                self.tell(Said::Link(NodeLink::Lost { since: self.last, tries: self.tries, why })).await?;
                tokio::select! {
                    () = sleep(by_chance(wait)) => {}
                    () = self.said.closed() => return Err(Left),
                }
                wait = (wait * 2).min(RETRY.1);
            }
            // What was sent meanwhile was answered by whoever sent it.
            while self.orders.try_recv().is_ok() {}
        }
    }

    async fn tell(&self, said: Said) -> Result<(), Left> {
        self.said.send((self.number, said)).await.map_err(|_| Left)
    }

    /// Talks over a link until it ends, or until another one leads to what comes after. One that leads to what is over
    /// is held on to: whoever looks may ask for its logs.
    async fn hold(&mut self, made: Made, maker: &mut Maker) -> Result<End, Left> {
        let Made { mut link, mut turn, said_at, words } = made;
        let mut asked = (0, said_at);
        let mut reading = Reading::default();
        let mut bye = None;
        let mut heard = Instant::now();
        let mut is_silent = false;
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_question = Instant::now() + ASK;
        let (mut maker, mut search) = (Some(maker), None);
        self.is_live = false;
        for word in words {
            self.hear(word).await?;
        }
        loop {
            let is_over = self.over.why().is_some();
            if is_over && let Some(maker) = maker.take() {
                search = Some(Box::pin(maker.await_return(self.over.clone())));
            }
            tokio::select! {
                message = link.incoming.recv() => {
                    let Some(message) = message else {
                        return Ok(End::Broke(bye.unwrap_or_else(|| "the link ended".into())));
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
                    let told = match &message {
                        ToViewer::Clock { id, now } => Some((*id, *now)),
                        ToViewer::Welcome { now, .. } => Some((0, *now)),
                        _ => None,
                    };
                    if let Some((_, now)) = told.filter(|(id, _)| *id == asked.0) {
                        reading.take(asked.1, now, wall());
                        self.tell_clock(reading).await?;
                    }
                    self.hear(message).await?;
                }
                made = async { search.as_mut().expect("guarded").await }, if is_over => {
                    return Ok(End::Back(made?));
                }
                order = self.orders.recv() => match order {
                    // A supervisor that takes nothing is silent, too: then the link is given up.
                    Some(order) => drop(link.outgoing.try_send(order)),
                    None => return Err(Left),
                },
                _ = tick.tick() => {
                    let silent = heard.elapsed();
                    if silent >= DEAD {
                        return Ok(End::Broke(format!("nothing came for {} s", DEAD.as_secs())));
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

    /// What its supervisor said.
    async fn hear(&mut self, message: ToViewer) -> Result<(), Left> {
        // A relay tells of all its nodes together.
        if let ToViewer::Snapshot { .. } | ToViewer::Together { .. } = &message
            && !std::mem::replace(&mut self.is_live, true)
        {
            self.tries = 0;
            self.tell(Said::Link(NodeLink::Live)).await?;
        }
        self.over.hear(&message);
        match message {
            ToViewer::Clock { .. } => Ok(()),
            message => self.tell(Said::Heard(message)).await,
        }
    }

    async fn tell_clock(&self, reading: Reading) -> Result<(), Left> {
        match reading.offset() {
            Some(offset) => self.tell(Said::Clock(offset)).await,
            None => Ok(()),
        }
    }
}
