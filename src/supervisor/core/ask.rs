//! What viewers want, answered after the effect.

use std::time::Duration;

use super::{Asker, Core, Effect, Out, crew::Member};
use crate::domain::{
    cause::Clue,
    command::{Command, Outcome},
    drill::{Fault, Order},
    ending,
    event::Fact,
    exit::signal_name,
    id::ProcId,
    stack::Source,
    time::Stamp,
    verdict, watchdog,
};

/// What the supervisor is after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// Let the job run.
    #[default]
    Run,
    /// End the agent and start it anew.
    Restart {
        /// Who asked; all get their answer when the new group starts.
        askers: Vec<Asker>,
        /// Whether the new agent was started: when that one ends too, there is not another.
        respawned: bool,
    },
    /// End the job.
    Stop {
        /// Who asked, and what; all get their answer when the job is over.
        askers: Vec<(Asker, Command)>,
    },
}

/// Who asks for a restart when the job stands still.
pub(super) const ON_STALL: &str = "elastictop (--on-stall restart)";

/// As the timeline tells it.
pub(super) const RESTART: Command = Command::Restart { attempt: None };

impl Goal {
    /// Whether agent and ranks are being ended on purpose.
    pub fn is_ending(&self) -> bool {
        *self != Goal::Run
    }
}

impl Core {
    pub(super) fn asked(&mut self, now: Stamp, asker: Asker, command: Command, out: &mut Out) {
        if let Some(text) = self.read_only() {
            return self.refuse(now, asker, command, text, out);
        }
        match command {
            Command::Stop { now: at_once } => self.asked_to_stop(now, asker, at_once, out),
            Command::Restart { attempt } => self.asked_to_restart(now, asker, attempt, out),
            Command::Stacks { rank, by } => self.asked_for_stacks(now, asker, rank, by, out),
            Command::Signal { rank, signal } => self.asked_to_signal(now, asker, rank, signal, out),
            Command::Drill { rank, fault, seconds } => {
                self.asked_to_drill(now, asker, (rank, fault, seconds), out);
            }
            Command::KeepZombies => {
                if self.deadlock.is_none() {
                    let text = "there is no zombie deadlock to keep".into();
                    return self.refuse(now, asker, command, text, out);
                }
                let mut wants = Vec::new();
                self.zombies.handle(now, watchdog::Input::Keep, &mut wants);
                let is_kept = !wants.is_empty() || self.deadlock_acts_at().is_none();
                self.take_zombie_outputs(now, wants, out);
                if !is_kept {
                    let text = "the agent is being ended already".into();
                    return self.refuse(now, asker, command, text, out);
                }
                self.answer(now, asker, command, Outcome::Done("the agent is left as it is".into()), out);
            }
            Command::SetWandb { run_mode, rank_scope } => {
                self.asked_to_set_wandb(now, asker, (run_mode, rank_scope), out);
            }
            Command::EndLeftover { proc } => self.asked_to_end_leftover(now, asker, proc, out),
            Command::Unknown => {
                let text = "this supervisor is older than the viewer and does not know that command".into();
                self.refuse(now, asker, command, text, out);
            }
        }
    }

    fn asked_to_stop(&mut self, now: Stamp, asker: Asker, at_once: bool, out: &mut Out) {
        let command = Command::Stop { now: at_once };
        if !self.goal.is_ending() {
            self.ledger.note(now, Clue::StopRequested { by: asker.by.clone() });
            let by = asker.by.clone();
            self.emit(now, Fact::Ordered { command: command.clone(), by }, out);
        }
        let asked = (asker, command);
        match &mut self.goal {
            Goal::Stop { askers } => askers.push(asked),
            // Those who wanted a restart will not get one.
            Goal::Restart { askers, .. } => {
                let askers = std::mem::take(askers);
                self.goal = Goal::Stop { askers: vec![asked] };
                for asker in askers {
                    let text = "the job is being stopped instead".into();
                    self.refuse(now, asker, RESTART, text, out);
                }
            }
            Goal::Run => self.goal = Goal::Stop { askers: vec![asked] },
        }
        self.end_all(now, at_once, out);
    }

    fn asked_to_restart(&mut self, now: Stamp, asker: Asker, attempt: Option<u32>, out: &mut Out) {
        let runs = self.state().attempt();
        match &mut self.goal {
            Goal::Run if attempt.is_some_and(|attempt| attempt < runs) => {
                let text = format!("attempt {runs} had begun already");
                self.answer(now, asker, Command::Restart { attempt }, Outcome::Done(text), out);
            }
            Goal::Stop { .. } => {
                self.refuse(now, asker, RESTART, "the job is being stopped".into(), out);
            }
            // Two who press the key at the same time want one restart.
            Goal::Restart { askers, .. } => askers.push(asker),
            Goal::Run => {
                self.ledger.note(now, Clue::StopRequested { by: asker.by.clone() });
                self.emit(now, Fact::Ordered { command: RESTART, by: asker.by.clone() }, out);
                self.goal = Goal::Restart { askers: vec![asker], respawned: false };
                self.end_all(now, false, out);
            }
        }
    }

    /// What a former supervisor was ordered to do, and did not come to the end of.
    pub(super) fn take_over_order(&mut self, now: Stamp, out: &mut Out) {
        let Some((command, by)) = self.state.ordered.clone() else { return };
        self.asked(now, Asker { reply: None, by }, command, out);
    }

    pub(super) fn end_all(&mut self, now: Stamp, at_once: bool, out: &mut Out) {
        let mut wants = Vec::new();
        self.ending.handle(now, ending::Input::Look(self.ending_look()), &mut wants);
        let input = if at_once {
            ending::Input::StopNow
        } else {
            ending::Input::Stop { grace: Duration::from_millis(self.rules.stop_grace_ms) }
        };
        self.ending.handle(now, input, &mut wants);
        Self::take_ending_outputs(wants, out);
    }

    fn asked_to_signal(&mut self, now: Stamp, asker: Asker, rank: Option<u32>, signal: i32, out: &mut Out) {
        let command = Command::Signal { rank, signal };
        let ranks: Vec<_> = self.living(rank).map(|(local, _, proc)| (local, proc)).collect();
        if ranks.is_empty() {
            return self.refuse(now, asker, command, nobody(rank), out);
        }
        self.verdict.handle(now, verdict::Input::Meddled, &mut Vec::new());
        for (local_rank, _) in &ranks {
            let clue = Clue::WeSignalled { local_rank: *local_rank, signal, by: asker.by.clone() };
            self.ledger.note(now, clue);
        }
        out.effects.push(Effect::SignalRanks { ranks, signal, asker, command });
    }

    fn asked_for_stacks(
        &mut self,
        now: Stamp,
        asker: Asker,
        rank: Option<u32>,
        by: Option<Source>,
        out: &mut Out,
    ) {
        let command = Command::Stacks { rank, by };
        let ranks: Vec<_> = self.living(rank).map(|(_, number, proc)| (number, proc)).collect();
        if ranks.is_empty() {
            return self.refuse(now, asker, command, nobody(rank), out);
        }
        out.effects.push(Effect::TakeStacks { ranks, by, asker, command });
    }

    /// Position, global rank and process of the living ranks, or of the one with this global rank. The position stands
    /// in for a global rank that is not known.
    fn living(&self, rank: Option<u32>) -> impl Iterator<Item = (u32, u32, ProcId)> {
        let live = self.crew.iter().filter(|(_, member)| member.is_alive());
        let numbered = live.map(|(local, member)| (local, member.place.rank.unwrap_or(local), member.proc));
        numbered.filter(move |(_, number, _)| rank.is_none_or(|rank| *number == rank))
    }

    pub(super) fn signalled(
        &mut self,
        now: Stamp,
        asker: Asker,
        command: Command,
        sent: &[u32],
        error: Option<String>,
        out: &mut Out,
    ) {
        let Command::Signal { signal, .. } = command else { return };
        let name = signal_name(signal).map_or_else(|| signal.to_string(), str::to_owned);
        let numbers: Vec<_> = sent
            .iter()
            .map(|local| self.crew.get(*local).and_then(|m| m.place.rank).unwrap_or(*local).to_string())
            .collect();
        let outcome = match error {
            Some(error) if sent.is_empty() => Outcome::Refused(format!("{name} was not sent: {error}")),
            Some(error) => {
                Outcome::Done(format!("{name} sent to rank {}, not to others: {error}", numbers.join(", ")))
            }
            None => Outcome::Done(format!("{name} sent to rank {}", numbers.join(", "))),
        };
        self.answer(now, asker, command, outcome, out);
    }

    fn asked_to_drill(
        &mut self,
        now: Stamp,
        asker: Asker,
        (rank, fault, seconds): (u32, Fault, u64),
        out: &mut Out,
    ) {
        let command = Command::Drill { rank, fault, seconds };
        let is_it = |local: u32, m: &Member| m.is_alive() && m.place.rank.unwrap_or(local) == rank;
        let found = self.crew.iter().find(|(local, member)| is_it(*local, member));
        let Some(proc) = found.map(|(_, member)| member.proc).filter(|_| fault.needs_cooperation()) else {
            let text = if fault.needs_cooperation() {
                format!("there is no living rank {rank} on this node")
            } else {
                format!("{fault} is nothing that a rank can do to itself")
            };
            return self.refuse(now, asker, command, text, out);
        };
        let beats = self.state.ranks.iter().any(|known| known.proc == proc && known.beat_at.is_some());
        if !beats {
            let text = format!("rank {rank} has no heartbeat: it would not hear the order");
            return self.refuse(now, asker, command, text, out);
        }
        self.verdict.handle(now, verdict::Input::Meddled, &mut Vec::new());
        let order = Order { fault, seconds, pid: proc.pid, at: now.0 as f64 / 1000.0 };
        out.effects.push(Effect::Drill { rank: proc, order, asker, command });
    }

    pub(super) fn drilled(
        &mut self,
        now: Stamp,
        asker: Asker,
        command: Command,
        error: Option<String>,
        out: &mut Out,
    ) {
        let outcome = match error {
            Some(error) => Outcome::Refused(error),
            None => Outcome::Done("the rank finds the order at its next heartbeat".into()),
        };
        self.answer(now, asker, command, outcome, out);
    }

    /// The new group exists: those who asked for it get their answer.
    pub(super) fn restarted(&mut self, now: Stamp, out: &mut Out) {
        if let Goal::Restart { askers, .. } = std::mem::take(&mut self.goal) {
            for asker in askers {
                let done = Outcome::Done("the group was started anew".into());
                self.answer(now, asker, RESTART, done, out);
            }
        }
    }

    /// The job is over: those who asked for anything get their answer.
    pub(super) fn answer_all(&mut self, now: Stamp, out: &mut Out) {
        match std::mem::take(&mut self.goal) {
            Goal::Run => {}
            Goal::Stop { askers } => {
                for (asker, command) in askers {
                    let forced = self.ending.was_forced();
                    let text = if forced { "the job was ended by force" } else { "the job was stopped" };
                    self.answer(now, asker, command, Outcome::Done(text.into()), out);
                }
            }
            Goal::Restart { askers, .. } => {
                for asker in askers {
                    self.refuse(now, asker, RESTART, "the job ended instead".into(), out);
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, now: Stamp, asker: Asker, command: Command, text: String, out: &mut Out) {
        self.answer(now, asker, command, Outcome::Refused(text), out);
    }

    pub(super) fn answer(
        &mut self,
        now: Stamp,
        asker: Asker,
        command: Command,
        outcome: Outcome,
        out: &mut Out,
    ) {
        let fact = Fact::Command { command, by: asker.by, outcome: outcome.clone() };
        self.emit(now, fact, out);
        if let Some(to) = asker.reply {
            out.effects.push(Effect::Reply { to, outcome });
        }
    }
}

/// Why a command that concerns living ranks cannot be carried out.
fn nobody(rank: Option<u32>) -> String {
    match rank {
        Some(rank) => format!("there is no living rank {rank} on this node"),
        None => "no rank lives on this node".into(),
    }
}
