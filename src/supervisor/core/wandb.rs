//! What is decided about metrics: by the plan that the job was started with, by the group that runs, by viewers.
//!
//! The state's settings are those of the running group. What ranks that start next shall use is kept on disk by
//! [`Effect::KeepWandb`]: where the script writes, a change waits there for the next restart.

use super::{Asker, Core, Effect, Out};
use crate::domain::{
    command::{Command, Outcome},
    event::Fact,
    forward::{Mode, Settings, Writer},
    resolve::{RankScope, RunMode},
    sample::Place,
    time::Stamp,
};

/// Run mode and rank scope.
type Combination = (RunMode, RankScope);

impl Core {
    /// What holds from the start on, or still holds.
    pub(super) fn plan_wandb(&mut self, now: Stamp, settings: Settings, out: &mut Out) {
        self.tell_wandb(now, settings, None, out);
    }

    fn tell_wandb(&mut self, now: Stamp, settings: Settings, pending: Option<Combination>, out: &mut Out) {
        let for_next = pending.map_or_else(|| settings.clone(), |pending| settings.with(pending));
        out.effects.push(Effect::KeepWandb(Box::new(for_next)));
        self.emit(now, Fact::WandbPlanned { settings: Box::new(settings), pending }, out);
    }

    /// A supervisor took over: what is kept for ranks that start next may be gone.
    pub(super) fn take_over_wandb(&self, out: &mut Out) {
        if let Some(wandb) = &self.state.wandb {
            let (settings, pending) = (&wandb.settings, wandb.pending);
            let for_next = pending.map_or_else(|| settings.clone(), |pending| settings.with(pending));
            out.effects.push(Effect::KeepWandb(Box::new(for_next)));
        }
    }

    /// A group begins: what waited for it holds now.
    pub(super) fn wandb_of_new_group(&mut self, now: Stamp, out: &mut Out) {
        let Some(wandb) = &self.state.wandb else { return };
        if let Some(pending) = wandb.pending {
            let settings = wandb.settings.with(pending);
            self.tell_wandb(now, settings, None, out);
        }
    }

    /// A rank tells where it stands: the plan is for the group that runs, not for the one that was asked for.
    pub(super) fn wandb_of_place(&mut self, now: Stamp, place: &Place, out: &mut Out) {
        let Some(wandb) = &self.state.wandb else { return };
        let (settings, pending) = (wandb.settings.at(place, None), wandb.pending);
        if settings != wandb.settings {
            self.tell_wandb(now, settings, pending, out);
        }
    }

    pub(super) fn asked_to_set_wandb(
        &mut self,
        now: Stamp,
        asker: Asker,
        wanted: (Option<RunMode>, Option<RankScope>),
        out: &mut Out,
    ) {
        let command = Command::SetWandb { run_mode: wanted.0, rank_scope: wanted.1 };
        match self.wandb_after(wanted) {
            Ok((settings, pending, text)) => {
                if self.state.wandb.as_ref().is_some_and(|w| w.settings != settings || w.pending != pending) {
                    self.tell_wandb(now, settings, pending, out);
                }
                self.answer(now, asker, command, Outcome::Done(text), out);
            }
            Err(text) => self.refuse(now, asker, command, text, out),
        }
    }

    /// Settings and what waits for the next restart, after somebody wanted another combination; what to tell them.
    fn wandb_after(
        &self,
        wanted: (Option<RunMode>, Option<RankScope>),
    ) -> Result<(Settings, Option<Combination>, String), String> {
        let off = "this job's metrics are not forwarded to W&B: start it with --wandb-project";
        let wandb = self.state.wandb.as_ref().filter(|wandb| wandb.settings.mode != Mode::Disabled);
        let wandb = wandb.ok_or(off)?;
        let holds = (wandb.settings.facts.run_mode, wandb.settings.facts.rank_scope);
        let next = wandb.pending.unwrap_or(holds);
        let wanted = (wanted.0.unwrap_or(next.0), wanted.1.unwrap_or(next.1));
        let then = wandb.settings.with(wanted);
        let plan = then.plan().map_err(|error| error.text)?;
        let what = format!("{}/{} ({})", wanted.0, wanted.1, plan.counts());
        Ok(match wandb.settings.writer {
            _ if wanted == holds => {
                let now = if wandb.pending.is_some() { " again" } else { " already" };
                (wandb.settings.clone(), None, format!("{what} holds{now}"))
            }
            Writer::Elastictop => (then, None, format!("{what} holds from now on")),
            Writer::Script => {
                let why = "the script writes, and its runs are begun";
                (
                    wandb.settings.clone(),
                    Some(wanted),
                    format!("{what} holds from the next restart on: {why}"),
                )
            }
        })
    }
}
