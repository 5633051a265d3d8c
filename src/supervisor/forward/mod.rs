//! The forwarder: from what ranks print, log and write to one `.wandb` file for each run, and from there to W&B.
//!
//! It runs on a thread of its own and is told things by orders; the loop of the supervisor never waits for it. What
//! it needs to go on after a crash is in its `cursor`: the loop may die at any moment, and so may this thread.
//!
//! ```text
//!  ranks/PID-START/stdout.log ─┐
//!                 stderr.log ──┤                                  ┌─▶ offline-run-…/run-ID.wandb ─▶ upload ─▶ W&B
//!              metrics.jsonl ──┼─▶ tail ─▶ Row ─▶ Router ─▶ batch ─┤
//!      wandb/…/run-….wandb ────┤                                  └─▶ cursor.jsonl: lengths and positions
//!  figures from the loop ──────┘
//! ```
//!
//! A line of standard output that is a row is not repeated in the console: each metric goes once.

mod cursor;
mod runs;
mod sending;
mod tail;
mod worker;

pub use sending::{Left, left};

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle},
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::domain::{
    event::JobInfo,
    exit::Exit,
    forward::{RankRows, RunProgress, Settings, figures::Figure},
    id::ProcId,
    rank::JobState,
    redact::Secrets,
    sample::Place,
};

/// What the forwarder is told.
#[derive(Debug)]
pub enum Order {
    /// What holds from now on.
    Plan(Box<Settings>),
    /// A rank exists, and these are the files of its standard output and error.
    Rank {
        /// Its process.
        proc: ProcId,
        /// Position on this node.
        local_rank: u32,
        /// What its environment says.
        place: Place,
        /// Standard output and error.
        outputs: [Option<PathBuf>; 2],
    },
    /// A rank told more of its place.
    Placed(ProcId, Place),
    /// A rank is gone, or how it ended became known.
    Gone(ProcId, Option<Exit>),
    /// What was seen of the ranks.
    Figures(Vec<(ProcId, Vec<Figure>)>),
    /// The job is over.
    End {
        /// How.
        state: JobState,
        /// The agent's exit code, if anybody saw it.
        exit_code: Option<u8>,
    },
}

/// What the forwarder tells.
#[derive(Debug)]
pub enum Told {
    /// How far it is.
    Progress {
        /// Runs by id.
        runs: BTreeMap<String, RunProgress>,
        /// Rows of the ranks of this node.
        ranks: Vec<RankRows>,
    },
    /// Rows go by these settings now.
    Planned(Box<Settings>),
    /// Somebody pressed the stop button on the page of this run.
    StopAsked(String),
    /// The entity that the API key belongs to.
    Entity(String),
    /// Something worth a line.
    Note(String),
    /// The job's end is written down, and all is sent that will be.
    Finished,
}

/// What a forwarder starts with. Holds secrets: it has no `Debug`.
pub struct Task {
    /// The job's folder.
    pub root: PathBuf,
    /// The job.
    pub job: JobInfo,
    /// What was decided about metrics.
    pub settings: Settings,
    /// What must not leave the machine.
    pub secrets: Secrets,
    /// The job's own variables, as far as they are known: whoever attaches to it may have no API key.
    pub environment: Vec<(String, String)>,
}

/// A running forwarder. Ends when this is dropped; what is not written then is read again by the next one.
#[derive(Debug)]
pub struct Forward {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Starts it. A former one's work is taken up where its last commit was.
    ///
    /// # Errors
    /// Its files cannot be opened, or no thread be started.
    pub fn start(task: Task) -> io::Result<(Forward, UnboundedReceiver<Told>)> {
        let (orders, received) = channel();
        let (told, tells) = unbounded_channel();
        let worker = worker::Worker::open(task, told)?;
        let thread =
            thread::Builder::new().name("elastictop-fwd".into()).spawn(move || worker.run(&received))?;
        Ok((Forward { orders: Some(orders), thread: Some(thread) }, tells))
    }

    /// Tells it something. Never waits.
    pub fn tell(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // Only a forwarder that panicked does not listen; its files say how far it came.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
