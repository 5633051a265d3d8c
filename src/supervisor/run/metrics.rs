//! The forwarder and the loop: facts go there, progress comes back, and nobody waits for anybody.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::mpsc::UnboundedReceiver, time::Instant};

use super::Supervisor;
use crate::{
    domain::{
        event::{Event, Fact},
        forward::{Mode, RunState, Settings, Writer, figures},
        redact::Secrets,
        sample::Sighting,
        time::Stamp,
    },
    probe::{host, proc},
    supervisor::{
        core::Input,
        forward::{Forward, Order, Task, Told},
    },
};

/// How often figures of the ranks go to W&B.
const FIGURES: Duration = Duration::from_secs(15);
/// How long a job that is over waits for its last rows to be on the disk.
const WRITTEN: Duration = Duration::from_secs(20);
/// How long it waits for them to be sent.
const SENT: Duration = Duration::from_secs(60);

/// The loop's end of the forwarder.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    forward: Option<Forward>,
    tells: Option<UnboundedReceiver<Told>>,
    figures_at: Stamp,
    /// Until when a job that is over waits for the forwarder.
    linger: Option<Instant>,
}

impl Metrics {
    /// What the forwarder says next. Never comes when there is none.
    pub(super) async fn next(&mut self) -> Told {
        match &mut self.tells {
            // One that panicked has nothing to add; its files are good for `elastictop sync`.
            Some(tells) => tells.recv().await.unwrap_or(Told::Finished),
            None => std::future::pending().await,
        }
    }

    /// Whether a job that is over has waited long enough.
    pub(super) fn has_lingered(&self) -> bool {
        self.linger.is_some_and(|until| Instant::now() >= until)
    }

    pub(super) fn is_lingering(&self) -> bool {
        self.linger.is_some()
    }

    pub(super) fn tell(&self, order: Order) {
        if let Some(forward) = &self.forward {
            forward.tell(order);
        }
    }
}

impl Supervisor {
    /// Starts the forwarder, if elastictop is to write the job's runs.
    pub(super) fn start_forward(&mut self, secrets: Secrets) {
        let state = self.core.state();
        let Some(settings) = state.wandb.as_ref().map(|wandb| wandb.settings.clone()) else { return };
        if settings.mode == Mode::Disabled || settings.writer == Writer::Script {
            return;
        }
        let environment = self.spec.as_ref().map(|spec| spec.env.clone()).unwrap_or_default();
        let (root, job) = (self.dir.root.clone(), self.manifest.job.clone());
        let task = Task { root, job, settings, secrets, environment };
        match Forward::start(task) {
            Ok((forward, tells)) => {
                self.metrics = Metrics { forward: Some(forward), tells: Some(tells), ..Metrics::default() };
            }
            Err(error) => {
                let text = format!(
                    "metrics are not forwarded: cannot use {}: {error}; attach to the job again once that is mended",
                    self.dir.wandb().display()
                );
                self.handle(Input::Forward(Told::Note(text)));
            }
        }
    }

    /// What holds for rows from now on.
    pub(super) fn forward_plan(&mut self, settings: Box<Settings>) {
        if self.metrics.forward.is_some() {
            self.metrics.tell(Order::Plan(settings));
        } else {
            // Nobody else will answer those who wait for it.
            self.handle(Input::Forward(Told::Planned(settings)));
        }
    }

    /// A rank whose files are to be read.
    pub(super) fn forward_rank(&self, sighting: &Sighting, local_rank: u32, paths: &[Option<PathBuf>; 2]) {
        self.metrics.tell(Order::Rank {
            proc: sighting.proc,
            local_rank,
            place: sighting.place.clone(),
            outputs: paths.clone(),
        });
    }

    /// What the forwarder has to know of events.
    pub(super) fn forward_events(&self, events: &[Event]) {
        if self.metrics.forward.is_none() {
            return;
        }
        let ranks = &self.core.state().ranks;
        for event in events {
            match &event.fact {
                Fact::RankPlaced { local_rank, place } => {
                    if let Some(rank) = self.core.state().rank(*local_rank) {
                        self.metrics.tell(Order::Placed(rank.proc, place.clone()));
                    }
                }
                Fact::RankExited { proc, exit, .. } => self.metrics.tell(Order::Gone(*proc, *exit)),
                Fact::RankExitKnown { pid, exit, .. } => {
                    if let Some(rank) = ranks.iter().find(|rank| rank.proc.pid == *pid) {
                        self.metrics.tell(Order::Gone(rank.proc, Some(*exit)));
                    }
                }
                Fact::JobEnded { state, exit_code, .. } => {
                    self.metrics.tell(Order::End { state: *state, exit_code: *exit_code });
                }
                _ => {}
            }
        }
    }

    /// Figures of the ranks, now and then.
    pub(super) fn forward_figures(&mut self, now: Stamp) {
        let state = self.core.state();
        let Some(wandb) = state.wandb.as_ref().filter(|_| self.metrics.forward.is_some()) else { return };
        if now.since(self.metrics.figures_at) < FIGURES || state.state.is_over() {
            return;
        }
        self.metrics.figures_at = now;
        let Some((memory_bytes, _)) = host::memory(Path::new(proc::ROOT)) else { return };
        let machine = figures::Machine { cores: host::cores(), memory_bytes };
        let sources = &wandb.settings.sources;
        let of = |rank| figures::of_rank(state, rank, machine, now, |source| sources.has(source));
        let figures = state.ranks.iter().map(|rank| (rank.proc, of(rank)));
        let told = figures.filter(|(_, figures)| !figures.is_empty()).collect();
        self.metrics.tell(Order::Figures(told));
    }

    /// The forwarder said something.
    pub(super) fn forward_told(&mut self, told: Told) {
        let is_last = matches!(told, Told::Finished);
        self.handle(Input::Forward(told));
        if is_last {
            self.metrics.tells = None;
            if self.metrics.is_lingering() {
                self.finish();
            }
        }
    }

    /// The job is over: its last rows get some time.
    pub(super) fn linger(&mut self) {
        self.manifest.ended = true;
        self.write_manifest();
        if self.metrics.tells.is_none() {
            return self.finish();
        }
        let wandb = self.core.state().wandb.as_ref();
        let is_sent = wandb.is_some_and(|wandb| wandb.settings.mode == Mode::Online);
        self.metrics.linger = Some(Instant::now() + if is_sent { SENT } else { WRITTEN });
    }

    /// The time is over.
    pub(super) fn stop_lingering(&mut self) {
        let runs = self.core.state().wandb.iter().flat_map(|wandb| &wandb.runs);
        let left = runs.filter(|(_, run)| !matches!(run.state, RunState::Finished | RunState::Local));
        let left: Vec<_> = left.map(|(id, run)| format!("{id} ({} rows)", run.backlog())).collect();
        if !left.is_empty() {
            let text = format!(
                "W&B has not got all of {}; send the rest with: elastictop sync {}",
                left.join(", "),
                self.manifest.id
            );
            self.handle(Input::Forward(Told::Note(text)));
        }
        self.finish();
    }
}
