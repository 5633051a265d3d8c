//! What the job's state is, why it failed, and when it is over.

use super::{Core, Effect, Out, ask::Goal, crew::Member};
use crate::domain::{
    alert::{Alert, AlertKind},
    cause::{Cause, CauseKind, Clue},
    ending::{self, Phase},
    event::{Fact, Reason},
    exit::Exit,
    health,
    rank::{JobState, RankState},
    time::Stamp,
};

impl Core {
    /// What runs when the watch of a job of others begins has run before.
    fn began_to_run(&self, state: JobState, now: Stamp) -> Stamp {
        let is_met =
            self.boot.is_some() && self.state.state == JobState::Starting && state == JobState::Running;
        let first = self.state.attempts.front().filter(|_| is_met);
        first.map_or(now, |attempt| attempt.started_at.min(now))
    }

    /// Draws the conclusions from what has become known.
    pub(super) fn settle(&mut self, now: Stamp, out: &mut Out) {
        self.find_cause(now, out);
        let (state, deadline) = self.job_state();
        if state != self.state.state {
            let at = self.began_to_run(state, now);
            self.emit(at, Fact::JobState { state, deadline }, out);
        } else if deadline != self.state.deadline {
            self.emit(now, Fact::Deadline { deadline }, out);
        }
        if self.agent_alive || self.awaits_agent || self.draining || self.crew.values().any(Member::is_alive)
        {
            return;
        }
        // Who only looks has seen nothing of a job whose ranks it has not found yet.
        if self.agent.is_none() && self.crew.is_empty() && self.read_only().is_some() {
            return;
        }
        if let Goal::Restart { respawned: false, .. } = self.goal {
            // Answered when the new group shows itself; a second `SpawnAgent` must not go out before that.
            (self.agent, self.agent_exit, self.awaits_agent) = (None, None, true);
            out.effects.push(Effect::SpawnAgent);
        } else {
            self.draining = true;
            out.effects.push(Effect::Drain);
        }
    }

    fn find_cause(&mut self, now: Stamp, out: &mut Out) {
        if self.goal.is_ending() || self.inherited_cause.is_some() || self.is_blind() {
            return;
        }
        let Some(cause) = self.ledger.verdict(now).map(|cause| self.explained(cause)) else { return };
        // While the last lines are being read, that nothing is known is no news.
        if cause.kind == CauseKind::Unknown && !self.agent_alive {
            return;
        }
        // More evidence for the same verdict is told when the attempt is over.
        let same = |told: &Cause| (told.rank, told.kind, &told.text) == (cause.rank, cause.kind, &cause.text);
        if !self.told_cause.as_ref().is_some_and(same) {
            self.told_cause = Some(cause.clone());
            let attempt = self.state.attempt();
            self.emit(now, Fact::CauseFound { attempt, cause }, out);
        }
    }

    fn job_state(&self) -> (JobState, Option<Stamp>) {
        let any_alive = self.crew.values().any(Member::is_alive);
        match &self.goal {
            Goal::Stop { .. } => return (JobState::TearingDown, self.force_at()),
            Goal::Restart { .. } => return (JobState::Restarting, self.force_at()),
            Goal::Run => {}
        }
        if self.deadlock.is_some() {
            return (JobState::ZombieDeadlock, self.deadlock_acts_at());
        }
        let is_without_agent = !self.agent_alive && !self.awaits_agent;
        if is_without_agent && any_alive {
            return match self.ending.phase() {
                Phase::Asked | Phase::Killed => (JobState::TearingDown, self.force_at()),
                _ => (JobState::Orphaned, None),
            };
        }
        if is_without_agent {
            // Nothing is left but to read the last lines.
            return match self.state.state {
                JobState::ZombieDeadlock | JobState::Orphaned => (JobState::TearingDown, None),
                state => (state, None),
            };
        }
        // Dead, and nobody saw how: the agent will tell, or start them anew.
        let unexplained = self.crew.values().any(|member| !member.is_alive() && member.exit.is_none());
        if self.crew.is_empty() || unexplained && !any_alive {
            return (self.state.state, None);
        }
        // Ranks that the agent ended for a membership change look like failed ones; only a cause tells them apart.
        let failed =
            self.crew.values().any(Member::failed) && (!self.teardown_seen || self.ledger.best().is_some());
        if any_alive && (failed || self.teardown_seen) {
            // Whether for a failure or for a membership change shows when all are gone, and not always before.
            return (JobState::TearingDown, self.force_at());
        }
        if failed {
            let spent = self.state.job.as_ref().and_then(|job| job.max_restarts);
            let may_restart =
                spent.is_none_or(|max| self.count_of_this_agent() < max) && !self.agent_was_told_to_end;
            return (if may_restart { JobState::Restarting } else { JobState::TearingDown }, None);
        }
        if self.teardown_seen {
            let ends = self.agent_was_told_to_end || !self.agent_alive;
            return (if ends { JobState::TearingDown } else { JobState::MembershipChange }, None);
        }
        if self.is_complete() { (JobState::Running, None) } else { (self.state_of_start(), None) }
    }

    /// When the agent of a deadlocked group will be ended.
    pub(super) fn deadlock_acts_at(&self) -> Option<Stamp> {
        self.state.alerts.iter().find(|alert| alert.kind == AlertKind::ZombieDeadlock)?.acts_at
    }

    /// Whether nobody could see how anything ended: a job that somebody else started. Its agent and ranks are no
    /// children of this process, and an end without a word proves no failure.
    fn is_blind(&self) -> bool {
        self.read_only().is_some()
            && self.agent_exit.is_none()
            && !self.crew.values().any(Member::failed)
            && !self.ledger.proves_failure()
    }

    /// Restarts that the running agent has spent.
    fn count_of_this_agent(&self) -> u32 {
        self.state.restarts.saturating_sub(self.restarts_before)
    }

    fn is_complete(&self) -> bool {
        let told = self.crew.values().find_map(|member| member.place.local_world_size);
        let expected = told.or_else(|| self.state.job.as_ref().and_then(|job| job.local_world_size));
        expected.is_none_or(|expected| self.crew.len() >= expected as usize)
    }

    fn state_of_start(&self) -> JobState {
        match self.state.attempts.back().map(|attempt| attempt.reason) {
            Some(Reason::Failure | Reason::Manual | Reason::Stall) => JobState::Restarting,
            Some(Reason::Membership) => JobState::MembershipChange,
            _ => JobState::Starting,
        }
    }

    /// When force will be used, by elastictop or by the agent.
    fn force_at(&self) -> Option<Stamp> {
        self.ending.deadline().filter(|_| matches!(self.ending.phase(), Phase::Asked | Phase::Teardown))
    }

    /// The agent's process is gone.
    pub(super) fn agent_gone(&mut self, now: Stamp, exit: Option<Exit>, out: &mut Out) {
        if !std::mem::replace(&mut self.agent_alive, false) {
            return;
        }
        self.agent_exit = exit;
        self.emit(now, Fact::AgentExited { exit }, out);
        self.ledger.note(now, Clue::AgentExited { exit });
        if self.deadlock.take().is_some() {
            self.emit(
                now,
                Fact::AlertCleared { alert_kind: AlertKind::ZombieDeadlock, local_rank: None },
                out,
            );
        }
        self.ranks_lost_their_agent(now, exit, out);
    }

    /// The ranks that live are ended or become orphans.
    pub(super) fn ranks_lost_their_agent(&mut self, now: Stamp, exit: Option<Exit>, out: &mut Out) {
        let living: Vec<_> = self.crew.iter().filter(|(_, m)| m.is_alive()).map(|(local, _)| local).collect();
        if living.is_empty() || self.goal.is_ending() {
            return;
        }
        // An agent that ended by itself leaves nobody behind on purpose. One that was killed did not decide that its
        // ranks should end: they may be worth more alive.
        let decided = matches!(exit, Some(Exit::Code(_)));
        if (decided || self.rules.end_orphans) && self.read_only().is_none() {
            let grace = std::time::Duration::from_millis(self.rules.stop_grace_ms);
            let mut wants = Vec::new();
            self.ending.handle(now, ending::Input::Look(self.ending_look()), &mut wants);
            self.ending.handle(now, ending::Input::Sweep { grace }, &mut wants);
            Self::take_ending_outputs(wants, out);
            return;
        }
        for local_rank in &living {
            let mut told = Vec::new();
            if let Some(member) = self.crew.get_mut(*local_rank) {
                member.health.handle(now, health::Input::Orphaned, &mut told);
            }
            self.tell_health(now, *local_rank, told, out);
        }
        if self.state.alerts.iter().any(|alert| alert.kind == AlertKind::Orphan) {
            return;
        }
        let how = exit.map_or_else(|| "is gone".to_owned(), |exit| format!("was ended by {exit}"));
        let alert = Alert {
            kind: AlertKind::Orphan,
            local_rank: None,
            since: now,
            text: if let [_] = living[..] {
                format!("the agent {how}; 1 rank lives on without it and will not be restarted")
            } else {
                format!(
                    "the agent {how}; {} ranks live on without it and will not be restarted",
                    living.len()
                )
            },
            evidence: vec![
                "nobody restarts them when they fail, and nobody tells them to end but elastictop".into(),
            ],
            acts_at: None,
        };
        self.emit(now, Fact::AlertRaised { alert }, out);
    }

    pub(super) fn agent_failed_to_start(&mut self, now: Stamp, text: String, out: &mut Out) {
        let cause = Cause {
            rank: None,
            kind: CauseKind::Agent,
            text: format!("the agent could not be started: {text}"),
            evidence: Vec::new(),
            hint: None,
        };
        self.finish(now, JobState::Failed, Some(cause), out);
    }

    /// All that the job left behind has been read: the last word.
    pub(super) fn drained(&mut self, now: Stamp, out: &mut Out) {
        if !std::mem::take(&mut self.draining) || self.crew.values().any(Member::is_alive) {
            return;
        }
        if self.agent.is_none() {
            // Nobody ever knew an agent: the ranks alone tell how it went.
            self.ledger.note(now, Clue::AgentExited { exit: None });
        }
        let stopped = matches!(self.goal, Goal::Stop { .. });
        let all_well = !self.crew.is_empty()
            && self.crew.values().all(|member| member.exit.is_some_and(Exit::is_success));
        let state = match self.agent_exit {
            // Also when all ranks took the SIGTERM for a good end.
            _ if stopped && self.gave_up.is_some() => JobState::Failed,
            _ if stopped => JobState::Stopped,
            Some(exit) if exit.is_success() => JobState::Done,
            None if all_well || self.is_blind() => JobState::Done,
            _ => JobState::Failed,
        };
        let given_up = self.given_up(now);
        let cause = (state == JobState::Failed).then(|| given_up.or_else(|| self.best_cause())).flatten();
        self.finish(now, state, cause, out);
    }

    fn finish(&mut self, now: Stamp, state: JobState, cause: Option<Cause>, out: &mut Out) {
        for local_rank in self.state.ranks.iter().map(|rank| rank.local_rank).collect::<Vec<_>>() {
            if self.is_rank_state(local_rank, RankState::Zombie) {
                self.emit(now, Fact::RankState { local_rank, state: RankState::Exited, detail: None }, out);
            }
        }
        self.answer_all(now, out);
        let exit_code = self.agent_exit.map(Exit::to_shell);
        self.emit(now, Fact::JobEnded { state, exit_code, cause }, out);
        out.effects.push(Effect::Finish);
    }
}
