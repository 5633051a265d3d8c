//! The verdict's way into the core: what it learns, what it wants.

use super::{Asker, Core, Effect, Out, ask::ON_STALL, crew::Member, io::Input};
use crate::domain::{
    alert::{Alert, AlertKind},
    cause::{Cause, CauseKind},
    command::Command,
    event::Fact,
    health,
    id::ProcId,
    rank::JobState,
    ras::Ras,
    sample::Kernel,
    state::Rank,
    time::Stamp,
    verdict::{self, Doing, Output},
};

impl Core {
    /// A second has passed: what is the matter with the job?
    pub(super) fn judge(&mut self, now: Stamp, agent: Option<Kernel>, out: &mut Out) {
        let state = self.state.state;
        let runs = !self.goal.is_ending() && matches!(state, JobState::Running | JobState::Orphaned);
        let ends = matches!(state, JobState::TearingDown | JobState::Restarting);
        let ending = self.state.deadline.filter(|_| ends).map(|force| (self.state.state_since, force));
        let agent = agent.filter(|_| self.agent_alive);
        let mut wants = Vec::new();
        self.verdict.handle(now, verdict::Input::Agent(agent), &mut wants);
        self.verdict.handle(now, verdict::Input::Phase { runs, ending }, &mut wants);
        self.verdict.handle(now, verdict::Input::Judge, &mut wants);
        self.take_verdict_outputs(now, wants, out);
    }

    /// A new group of ranks takes the place of the one before.
    pub(super) fn verdict_begins(&mut self, now: Stamp, out: &mut Out) {
        let mut wants = Vec::new();
        self.verdict.may_restart(self.restarts_left().unwrap_or(0));
        self.verdict.handle(now, verdict::Input::Begin, &mut wants);
        self.take_verdict_outputs(now, wants, out);
    }

    /// The group that is being replaced had failed.
    pub(super) fn tell_failure(&mut self, now: Stamp, cause: &Cause) {
        let step = self.state.attempts.back().and_then(|attempt| attempt.last_step);
        self.verdict.handle(now, verdict::Input::Failed { cause, step }, &mut Vec::new());
    }

    pub(super) fn loss(&mut self, now: Stamp, pid: i32, name: &str, rows: u32) {
        if let Some((local_rank, _)) = self.by_pid(pid) {
            let input = verdict::Input::Wrote { local_rank, step: None, loss: Some((name, rows)) };
            self.verdict.handle(now, input, &mut Vec::new());
        }
    }

    pub(super) fn examined(&mut self, now: Stamp, pid: i32, doing: &Doing, out: &mut Out) {
        let Some((local_rank, _)) = self.by_pid(pid) else { return };
        let mut wants = Vec::new();
        self.verdict.handle(now, verdict::Input::Examined { local_rank, doing }, &mut wants);
        self.take_verdict_outputs(now, wants, out);
    }

    /// Evidence for the next judgement, which comes by itself.
    pub(super) fn ras_answered(&mut self, now: Stamp, ras: Option<&Ras>) {
        let alive = self.crew.iter().filter(|(_, member)| member.is_alive());
        let number = |local| self.state.rank(local).map_or(local, Rank::number);
        let ours = alive.map(|(local, member)| (i64::from(member.proc.pid), number(local))).collect();
        self.verdict.handle(now, verdict::Input::Ras { ras, ours: &ours }, &mut Vec::new());
    }

    /// An agent without ranks waits for those of the other nodes: for how many, and how they meet.
    fn tell_of_nodes(&self, alert: &mut Alert) {
        let Some(job) = self.state.job.as_ref().filter(|job| job.nodes.0 > 1) else { return };
        if self.crew.values().any(Member::is_alive) {
            return;
        }
        alert.text =
            format!("no rank has started yet: the agent waits until {} nodes have come", job.nodes.0);
        let id = job.rdzv_id.as_ref().map_or(String::new(), |id| format!(" and --rdzv-id {id}"));
        alert.evidence.push(format!("it must run on each of them with the same --rdzv-endpoint{id}"));
    }

    fn take_verdict_outputs(&mut self, now: Stamp, wants: Vec<Output>, out: &mut Out) {
        for want in wants {
            match want {
                Output::Raise(mut alert) => {
                    if alert.kind == AlertKind::SlowStart {
                        self.tell_of_nodes(&mut alert);
                    }
                    let is_alive = |local| self.crew.get(local).is_some_and(Member::is_alive);
                    if alert.local_rank.is_none_or(is_alive) {
                        self.emit(now, Fact::AlertRaised { alert }, out);
                    }
                }
                Output::Clear(alert_kind, local_rank) => {
                    if self.state.alerts.iter().any(|alert| alert.key() == (alert_kind, local_rank)) {
                        self.emit(now, Fact::AlertCleared { alert_kind, local_rank }, out);
                    }
                }
                Output::Standing { local_rank, standing } => {
                    let Some(member) = self.crew.get_mut(local_rank) else { continue };
                    let mut told = Vec::new();
                    member.health.handle(now, health::Input::Standing(standing), &mut told);
                    self.tell_health(now, local_rank, told, out);
                }
                Output::Guard { local_rank, guard } => {
                    self.emit(now, Fact::RankGuarded { local_rank, guard }, out);
                }
                Output::Examine(locals) => self.examine(&locals, out),
                Output::AskRas => {
                    let alive = self.crew.values().filter(|member| member.is_alive());
                    out.effects.push(Effect::AskRas { ranks: alive.map(|member| member.proc).collect() });
                }
                Output::Dump { text } => {
                    if self.read_only().is_none() {
                        self.dumping = Dumping::Now;
                        out.effects.push(Effect::Dump { text });
                    }
                }
                Output::Restart { text } => self.restart_for(now, &text, out),
                Output::GiveUp { text } => self.give_up(now, text, out),
            }
        }
    }

    /// Threads and settings are read once for each rank: they cost more.
    fn examine(&self, locals: &[u32], out: &mut Out) {
        let is_new = |local: &u32| self.state.rank(*local).is_some_and(|rank| rank.guard.is_none());
        let (new, known): (Vec<u32>, Vec<u32>) = locals.iter().partition(|local| is_new(local));
        for (locals, whole) in [(new, true), (known, false)] {
            let procs: Vec<ProcId> =
                locals.iter().filter_map(|local| self.crew.get(*local)).map(|member| member.proc).collect();
            if !procs.is_empty() {
                out.effects.push(Effect::Examine { procs, whole });
            }
        }
    }

    pub(super) fn dumped(&mut self, now: Stamp, text: String, out: &mut Out) {
        self.emit(now, Fact::Note { text }, out);
        if let Dumping::ThenRestart { text } = std::mem::take(&mut self.dumping) {
            self.restart_for(now, &text, out);
        }
    }

    fn restart_for(&mut self, now: Stamp, text: &str, out: &mut Out) {
        if self.goal.is_ending() || self.read_only().is_some() {
            return;
        }
        if self.dumping != Dumping::No {
            // Ranks that are being ended tell nothing any more.
            self.dumping = Dumping::ThenRestart { text: text.to_owned() };
            return;
        }
        let text = format!("elastictop restarts the group because of --on-stall restart: {text}");
        self.emit(now, Fact::Note { text }, out);
        let asker = Asker { reply: None, by: ON_STALL.into() };
        self.asked(now, asker, Command::Restart { attempt: None }, out);
    }

    fn give_up(&mut self, now: Stamp, text: String, out: &mut Out) {
        if self.gave_up.is_some() || self.read_only().is_some() {
            return;
        }
        self.emit(now, Fact::Note { text: format!("elastictop ends the job: {text}") }, out);
        self.gave_up = Some(text);
        let asker = Asker { reply: None, by: ON_STALL.into() };
        self.asked(now, asker, Command::Stop { now: false }, out);
    }

    /// Why elastictop itself ended the job, where it did.
    pub(super) fn given_up(&self, _now: Stamp) -> Option<Cause> {
        let text = self.gave_up.clone()?;
        // A failure that came back each time is the cause; a stall has none of that kind.
        let known = self.state.cause.clone().filter(|cause| cause.kind != CauseKind::Stopped);
        let rank = known.as_ref().and_then(|cause| cause.rank);
        let kind = known.as_ref().map_or(CauseKind::Stopped, |cause| cause.kind);
        let evidence = known.into_iter().map(|cause| cause.text).collect();
        let hint = Some("what stands in its way is at that step: look at its data and code".into());
        Some(Cause { rank, kind, text, evidence, hint })
    }
}

/// Whether the ranks are being looked at because the job hangs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Dumping {
    /// They are not.
    #[default]
    No,
    /// They are; it takes seconds at most.
    Now,
    /// They are, and the group is to be started anew after that.
    ThenRestart {
        /// Why.
        text: String,
    },
}

impl Input {
    /// A closer look at a process.
    pub fn examined(proc: ProcId, doing: Doing) -> Input {
        Input::Examined { pid: proc.pid, doing }
    }
}
