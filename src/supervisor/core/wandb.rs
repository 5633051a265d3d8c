//! What is decided about metrics: by the plan that the job was started with, by the group that runs, by viewers.
//!
//! The state's settings are those of the running group. What ranks that start next shall use is kept on disk by
//! [`Effect::KeepWandb`]: where the script writes, a change waits there for the next restart.

use std::{collections::BTreeMap, time::Duration};

use super::{Asker, Core, Effect, Out};
use crate::{
    domain::{
        command::{Command, Outcome},
        event::Fact,
        forward::{Mode, RunProgress, RunState, Settings, Wandb, Writer},
        resolve::{Given, RankScope, RunMode},
        sample::Place,
        time::Stamp,
    },
    supervisor::forward::Told,
};

/// How often the journal is told how far runs have come.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// What the forwarder and those who wait for it have to do with each other.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    /// Those who wanted another plan, what they wanted, and what they are told once it holds.
    waiting: Vec<(Asker, Command, Combination, String)>,
    /// When the journal was told last, and what the runs were doing then.
    kept: (Stamp, BTreeMap<String, RunState>),
}

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
                let combination = (settings.facts.run_mode, settings.facts.rank_scope);
                let is_news = |w: &Wandb| w.settings != settings || w.pending != pending;
                let is_routed = self.state.wandb.as_ref().is_some_and(|w| w.settings != settings);
                if self.state.wandb.as_ref().is_some_and(is_news) {
                    self.tell_wandb(now, settings, pending, out);
                }
                // Who asks for what is on its way already waits with those who asked before.
                let on_its_way =
                    self.forwarding.waiting.iter().any(|(_, _, wanted, _)| *wanted == combination);
                if is_routed || on_its_way {
                    self.forwarding.waiting.push((asker, command, combination, text));
                } else {
                    self.answer(now, asker, command, Outcome::Done(text), out);
                }
            }
            Err(text) => self.refuse(now, asker, command, text, out),
        }
    }

    /// The forwarder said something.
    pub(super) fn forward_told(&mut self, now: Stamp, told: Told, out: &mut Out) {
        match told {
            Told::Progress { runs, ranks } => {
                let refused = self.newly_refused(&runs);
                self.emit(now, Fact::WandbSample { runs, ranks }, out);
                refused.into_iter().for_each(|text| self.emit(now, Fact::Note { text }, out));
                self.keep_progress(now, false, out);
            }
            Told::Planned(settings) => {
                let holds = (settings.facts.run_mode, settings.facts.rank_scope);
                // Plans are carried out in the order in which they were wanted; who wanted the same waits together.
                let waiting = &mut self.forwarding.waiting;
                let is_it = |(_, _, wanted, _): &(Asker, Command, Combination, String)| *wanted == holds;
                let first = waiting.iter().position(is_it).unwrap_or(waiting.len());
                let done = match waiting[first..].iter().take_while(|one| is_it(one)).count() {
                    0 => 0,
                    together => first + together,
                };
                for (asker, command, _, text) in waiting.drain(..done).collect::<Vec<_>>() {
                    self.answer(now, asker, command, Outcome::Done(text), out);
                }
            }
            Told::StopAsked(run) => self.stop_button(now, &run, out),
            Told::Entity(entity) => self.entity_known(now, entity, out),
            Told::Note(text) => self.emit(now, Fact::Note { text }, out),
            Told::Finished => self.keep_progress(now, true, out),
        }
    }

    /// A sentence for each run that the server did not refuse before.
    fn newly_refused(&self, runs: &BTreeMap<String, RunProgress>) -> Vec<String> {
        let known = self.state.wandb.as_ref().map(|wandb| &wandb.runs);
        let was = |id: &str| known.and_then(|runs| runs.get(id)).map(|run| run.state);
        let refused = |run: &RunProgress| run.state == RunState::Refused;
        let job = self.state.job.as_ref().map_or_else(String::new, |job| format!(" {}", job.id));
        runs.iter()
            .filter(|(id, run)| refused(run) && was(id) != Some(RunState::Refused))
            .map(|(id, run)| {
                let why = run.last_error.as_deref().unwrap_or("it does not say why");
                format!("W&B refused run {id}: {why}. Its rows are kept here; later: elastictop sync{job}")
            })
            .collect()
    }

    /// Nobody named an entity: this is the one that the key belongs to.
    fn entity_known(&mut self, now: Stamp, entity: String, out: &mut Out) {
        let Some(wandb) = self.state.wandb.as_ref().filter(|wandb| wandb.settings.facts.entity.is_none())
        else {
            return;
        };
        let (mut settings, pending) = (wandb.settings.clone(), wandb.pending);
        settings.facts.entity = Some(Given::new(Given::OF_KEY, entity));
        // A name that cannot be used, whoever told it, must not take the plan away.
        if settings.plan().is_ok() {
            self.tell_wandb(now, settings, pending, out);
        }
    }

    /// The journal gets a state of a run at once, and how far it is now and then.
    fn keep_progress(&mut self, now: Stamp, is_last: bool, out: &mut Out) {
        let Some(wandb) = &self.state.wandb else { return };
        let states: BTreeMap<_, _> = wandb.runs.iter().map(|(id, run)| (id.clone(), run.state)).collect();
        let (kept_at, known) = &self.forwarding.kept;
        if is_last || now.since(*kept_at) >= KEEP_EVERY || *known != states {
            let runs = wandb.runs.clone();
            self.forwarding.kept = (now, states);
            self.emit(now, Fact::WandbProgress { runs }, out);
        }
    }

    fn stop_button(&mut self, now: Stamp, run: &str, out: &mut Out) {
        let is_heeded = self.state.wandb.as_ref().is_some_and(|wandb| wandb.settings.stop_button);
        if !is_heeded || self.goal.is_ending() || self.state.state.is_over() {
            return;
        }
        let text =
            format!("somebody pressed the stop button on W&B's page of run {run}: the job is being stopped");
        self.emit(now, Fact::Note { text }, out);
        let asker = Asker { reply: None, by: format!("the stop button of W&B run {run}") };
        self.asked(now, asker, Command::Stop { now: false }, out);
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
