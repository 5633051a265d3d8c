//! GPUs: their figures into the core, and memory that dead jobs hold before ranks are started.

use std::time::Duration;

use tokio::time::Instant;

use super::Supervisor;
use crate::{
    domain::{
        gpu::{
            Status,
            wait::{Blocked, blocked},
        },
        time::human,
    },
    supervisor::core::Input,
};

/// An agent that is to be started once GPU memory is free.
#[derive(Debug)]
pub(super) struct Waiting {
    since: Instant,
    /// A later answer of the driver than this one is wanted.
    round: u64,
    /// What was told about the wait.
    told: Option<String>,
}

impl Supervisor {
    /// Hands the newest figures over. `sample` says whether those who watch shall get them.
    pub(super) fn look_at_gpus(&mut self, sample: bool) {
        let look = self.devices.look(&self.gpus, self.core.state(), self.finder.as_ref(), sample);
        self.knows_gpus = look.reading.round > 0 || matches!(look.reading.status, Status::Absent(_));
        self.handle(Input::Gpus(look));
    }

    /// Starts the agent, or waits for GPU memory first.
    pub(super) fn spawn_when_free(&mut self) {
        let round = self.gpus.latest().round;
        self.waiting = Some(Waiting { since: Instant::now(), round, told: None });
        self.go_on_waiting();
    }

    /// Looks whether the agent can be started now.
    pub(super) fn go_on_waiting(&mut self) {
        let Some(waiting) = self.waiting.take() else { return };
        let limit = Duration::from_millis(self.manifest.rules.gpu_wait_ms);
        let reading = self.gpus.latest();
        let waited = waiting.since.elapsed();
        // Whoever wants the job to end shall not wait for its start.
        let is_open = !limit.is_zero() && !self.core.is_ending();
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let blocked = if is_open {
            blocked(&reading, waiting.round, visible.as_deref(), waited, limit)
        } else {
            Blocked::No
        };
        let note = match (&blocked, &waiting.told) {
            (Blocked::By(who), None) => Some(format!("waiting up to {} for GPU memory: {who}", human(limit))),
            (Blocked::No, Some(_)) => Some(format!("GPU memory is free after {}", human(waited))),
            (Blocked::Anyway(who), _) => Some(format!("started although {who}")),
            _ => None,
        };
        if let Some(text) = note {
            self.handle(Input::Noted(text));
        }
        match blocked {
            Blocked::Unknown => self.waiting = Some(waiting),
            Blocked::By(who) => {
                self.waiting = Some(Waiting { told: waiting.told.or(Some(who)), ..waiting });
            }
            Blocked::No | Blocked::Anyway(_) => self.spawn_agent(),
        }
    }
}
