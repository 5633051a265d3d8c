//! Which start of the group a rank belongs to, and what its coming and going means.

use super::{
    Core, Effect, Out,
    ask::{Goal, ON_STALL},
    crew::{Member, StepSource},
};
use crate::domain::{
    agent_line::AgentLine,
    alert::{Alert, AlertKind},
    cause::{Cause, CauseKind, Clue},
    command::Command,
    ending,
    event::{Fact, Reason},
    exit::Exit,
    health,
    id::ProcId,
    rank::RankState,
    sample::{Kernel, Place, RankSample, Sighting},
    state::{Attempt, Rank, State},
    time::Stamp,
    verdict,
    watchdog::Zombies,
};

/// Most ranks of former groups remembered: those of the latest.
const MAX_FORMER: usize = 4096;

/// What ranks of one start of the group have in common. The restart count alone would not do: it stays the same at
/// membership changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupKey {
    agent_pid: i32,
    restart_count: Option<u32>,
    world_size: Option<u32>,
}

impl GroupKey {
    fn of(sighting: &Sighting) -> GroupKey {
        GroupKey {
            agent_pid: sighting.agent_pid,
            restart_count: sighting.place.restart_count,
            world_size: sighting.place.world_size,
        }
    }

    /// What both know together, unless they contradict each other: a rank that was dead before anybody read its
    /// environment tells nothing.
    fn joined(self, other: GroupKey) -> Option<GroupKey> {
        let agree = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        let one = self.agent_pid == other.agent_pid
            && agree(self.restart_count, other.restart_count)
            && agree(self.world_size, other.world_size);
        one.then_some(GroupKey {
            agent_pid: self.agent_pid,
            restart_count: self.restart_count.or(other.restart_count),
            world_size: self.world_size.or(other.world_size),
        })
    }

    /// Whether a rank with this key belongs to a group that the same agent ended before it started `other`.
    fn is_before(self, other: GroupKey) -> bool {
        self.agent_pid == other.agent_pid
            && self.restart_count.zip(other.restart_count).is_some_and(|(mine, theirs)| mine < theirs)
    }
}

impl Core {
    /// Whether a sighting will begin a new start of the group, so that the one before can be looked at a last time.
    pub fn starts_group(&self, sighting: &Sighting) -> bool {
        !self.is_old_news(sighting) && !self.joins_group(sighting)
    }

    fn joins_group(&self, sighting: &Sighting) -> bool {
        self.key.is_some_and(|known| known.joined(GroupKey::of(sighting)).is_some())
            && self.crew.get(self.slot_of(sighting)).is_none()
    }

    /// Whether a sighting shows a rank that is known, or one of a group that is over.
    fn is_old_news(&self, sighting: &Sighting) -> bool {
        self.crew.position_of(sighting.proc).is_some()
            || self.former.contains(&sighting.proc)
            || self.key.is_some_and(|known| GroupKey::of(sighting).is_before(known))
            // What another group left on disk: who follows the ranks known here started after them.
            || !self.joins_group(sighting)
                && self.crew.values().any(|member| member.proc.start > sighting.proc.start)
    }

    /// Restarts that the group may still make, as far as its agent can be told.
    pub fn restarts_left(&self) -> Option<u32> {
        let max = self.state.job.as_ref()?.max_restarts?;
        let spent = self.state.restarts + u32::from(self.restarts_for_a_stall());
        Some(max.saturating_sub(spent))
    }

    /// Whether the agent is being started anew because the job stood still, which is one of its restarts.
    fn restarts_for_a_stall(&self) -> bool {
        matches!(&self.goal, Goal::Restart { askers, respawned: false } if askers.iter().any(|asker| asker.by == ON_STALL))
    }

    /// A rank was seen, for the first time or again.
    pub(super) fn seen(&mut self, now: Stamp, sighting: &Sighting, out: &mut Out) {
        let key = GroupKey::of(sighting);
        let joined = self.key.and_then(|known| known.joined(key));
        if let Some(slot) = self.crew.position_of(sighting.proc) {
            if self.crew.get_mut(slot).is_some_and(|member| member.place.learn(&sighting.place)) {
                self.key = joined.or(self.key);
                self.placed(now, slot, out);
            }
            return;
        }
        if self.is_old_news(sighting) {
            return;
        }
        match joined.filter(|_| self.joins_group(sighting)) {
            Some(joined) => self.key = Some(joined),
            None => self.begin_group(now, key, sighting, out),
        }
        let slot = self.slot_of(sighting);
        let attempt = self.state.attempt();
        let born = self.born_at(sighting.proc, now);
        let member = Member::new(born, slot, sighting, self.rules.expects_beats);
        self.crew.insert(slot, member);
        let (rank, pid) = (sighting.place.rank, sighting.proc.pid);
        self.verdict.handle(now, verdict::Input::Rank { local_rank: slot, rank }, &mut Vec::new());
        self.ledger.note(now, Clue::Started { local_rank: slot, rank, pid });
        let fact = Fact::RankStarted {
            proc: sighting.proc,
            agent_pid: sighting.agent_pid,
            local_rank: slot,
            attempt,
            place: sighting.place.clone(),
        };
        self.emit(born, fact, out);
        self.wandb_of_place(now, &sighting.place, out);
        out.effects.push(Effect::Watch(sighting.proc));
        out.effects.push(Effect::KeepLogs { sighting: sighting.clone(), local_rank: slot, attempt });
    }

    /// The position of a rank; one that cannot be told gets the first that is free.
    fn slot_of(&self, sighting: &Sighting) -> u32 {
        sighting.place.slot().unwrap_or_else(|| {
            (0..u32::MAX)
                .find(|slot| self.crew.get(*slot).is_none_or(|member| !member.is_alive()))
                .unwrap_or_default()
        })
    }

    fn begin_group(&mut self, now: Stamp, key: GroupKey, sighting: &Sighting, out: &mut Out) {
        // The ranks of the group before are gone or on their way out: nobody of them counts any more.
        let leaving: Vec<_> = self.crew.values().filter(|m| m.is_alive()).map(|m| m.proc).collect();
        for proc in leaving {
            self.died(now, proc, None, out);
        }
        let world_size = sighting.place.world_size;
        let fact = match self.reason_for(key) {
            Reason::First => Fact::GroupStarted { attempt: 0, world_size },
            Reason::Membership => {
                let (attempt, from) = (self.state.attempt() + 1, self.state.world_size);
                Fact::MembershipChanged { attempt, from, world_size }
            }
            reason => {
                let restarts = match key.restart_count {
                    Some(count) => self.restarts_before + count,
                    None => {
                        self.restarts_before.max(self.state.restarts) + u32::from(reason == Reason::Failure)
                    }
                };
                let cause = self.best_cause().filter(|_| reason == Reason::Failure);
                let attempt = self.state.attempt() + 1;
                Fact::Restart { attempt, restarts, reason, cause, world_size }
            }
        };
        if let Fact::Restart { cause: Some(cause), .. } = &fact {
            self.tell_failure(now, cause);
        }
        self.forget_group();
        self.key = Some(key);
        self.emit(self.born_at(sighting.proc, now), fact, out);
        self.verdict_begins(now, out);
        self.wandb_of_new_group(now, out);
        // The agent that is being ended may start a group once more before it hears of it.
        if let Goal::Restart { respawned: true, .. } = self.goal {
            self.restarted(now, out);
        }
    }

    fn forget_group(&mut self) {
        self.former.extend(self.crew.values().map(|member| member.proc));
        self.former.drain(..self.former.len().saturating_sub(MAX_FORMER));
        self.crew.clear();
        self.gpus.restarted();
        self.ledger = self.ledger.next();
        (self.told_cause, self.inherited_cause) = (None, None);
        (self.teardown_seen, self.agent_was_told_to_end) = (false, false);
        // It would be for this group: whoever ends agent and ranks on purpose wants the verdict to know.
        if let Goal::Stop { askers } = &self.goal
            && let Some((asker, _)) = askers.first()
        {
            self.ledger.note(self.state.at, Clue::StopRequested { by: asker.by.clone() });
        }
    }

    /// The first cause as far as it is known.
    pub(super) fn best_cause(&self) -> Option<Cause> {
        self.inherited_cause.clone().or_else(|| Some(self.explained(self.ledger.best()?)))
    }

    /// With what is known beside the evidence.
    pub(super) fn explained(&self, cause: Cause) -> Cause {
        let rank = self.state.ranks.iter().find(|rank| Some(rank.number()) == cause.rank);
        let member = rank.and_then(|rank| self.crew.get(rank.local_rank));
        self.with_hang(cause).quoting(member.and_then(Member::last_line))
    }

    /// What waited too long is the end of a hang: who kept it waiting is known from before, and is the cause.
    fn with_hang(&self, cause: Cause) -> Cause {
        let last = self.state.attempts.back();
        if cause.kind != CauseKind::CollectiveTimeout {
            return cause;
        }
        let over_at = last.and_then(Attempt::over_at).unwrap_or(self.state.at);
        // A limit shorter than the patience of the verdict leaves no alarm, but a suspicion.
        let told = last.and_then(|attempt| attempt.hang_at(over_at));
        let Some(hang) = told.or_else(|| self.verdict.suspicion(over_at)) else { return cause };
        let rank = hang.local_rank.map(|local| self.state.rank(local).map_or(local, Rank::number));
        cause.of_hang(hang, rank, told.is_some())
    }

    fn reason_for(&mut self, key: GroupKey) -> Reason {
        let Some(before) = self.key else {
            return if self.state.attempts.is_empty() { Reason::First } else { Reason::Failure };
        };
        if before.agent_pid != key.agent_pid {
            return if std::mem::take(&mut self.is_after_stall) { Reason::Stall } else { Reason::Manual };
        }
        match (before.restart_count, key.restart_count) {
            (Some(before), Some(count)) if count > before => Reason::Failure,
            (Some(_), Some(_)) => Reason::Membership,
            // Function mode does not tell the count: a rank that failed explains a restart well enough.
            _ if self.crew.values().any(Member::failed) => Reason::Failure,
            _ => Reason::Membership,
        }
    }

    /// A rank's process died; it may still be in the process table.
    pub(super) fn died(&mut self, now: Stamp, proc: ProcId, exit: Option<Exit>, out: &mut Out) {
        let Some((local_rank, member)) = self.by_pid(proc.pid) else { return };
        if member.proc != proc {
            return;
        }
        if member.died_at.is_some() {
            if let Some(exit) = exit.filter(|_| member.exit.is_none()) {
                self.exit_known(now, proc.pid, exit, out);
            }
            return;
        }
        // Its CPU time was not read now: a share up to now would come out too small.
        let last = RankSample { cpu_ns: None, ..member.sample(local_rank, now) };
        (member.died_at, member.exit) = (Some(now), exit);
        let rank = member.place.rank;
        self.emit(now, Fact::Progress { ranks: vec![last] }, out);
        let well = exit.is_some_and(Exit::is_success);
        self.verdict.handle(now, verdict::Input::Ended { local_rank, well }, &mut Vec::new());
        self.ledger.note(now, Clue::Exited { local_rank, pid: proc.pid, exit });
        self.emit(now, Fact::RankExited { local_rank, proc, rank, exit }, out);
        self.clear_rank_alerts(now, local_rank, out);
        out.effects.push(Effect::ReadLastWords(proc));
    }

    fn clear_rank_alerts(&mut self, now: Stamp, local_rank: u32, out: &mut Out) {
        let kinds: Vec<_> =
            self.state.alerts.iter().filter(|a| a.local_rank == Some(local_rank)).map(|a| a.kind).collect();
        for alert_kind in kinds {
            self.emit(now, Fact::AlertCleared { alert_kind, local_rank: Some(local_rank) }, out);
        }
    }

    pub(super) fn exit_known(&mut self, now: Stamp, pid: i32, exit: Exit, out: &mut Out) {
        let Some((local_rank, member)) = self.by_pid(pid) else { return };
        if member.exit.is_some() {
            return;
        }
        if member.is_alive() {
            // The agent has collected it already: it was faster than the one who watches.
            let proc = member.proc;
            return self.died(now, proc, Some(exit), out);
        }
        member.exit = Some(exit);
        self.ledger.note(now, Clue::Exited { local_rank, pid, exit: Some(exit) });
        self.emit(now, Fact::RankExitKnown { local_rank, pid, exit }, out);
    }

    /// A rank is out of the process table.
    pub(super) fn gone(&mut self, now: Stamp, proc: ProcId, out: &mut Out) {
        let Some((local_rank, member)) = self.by_pid(proc.pid) else { return };
        if member.proc != proc || std::mem::replace(&mut member.gone, true) {
            return;
        }
        self.verdict.handle(now, verdict::Input::Gone { local_rank }, &mut Vec::new());
        if self.is_rank_state(local_rank, RankState::Zombie) {
            self.emit(now, Fact::RankState { local_rank, state: RankState::Exited, detail: None }, out);
        }
    }

    pub(super) fn agent_said(&mut self, now: Stamp, line: AgentLine, out: &mut Out) {
        match &line {
            AgentLine::Started(started) => {
                if let Some((local_rank, member)) = self.by_pid(started.pid) {
                    let told = Place {
                        rank: started.global_rank,
                        group_rank: started.group_rank,
                        world_size: started.world_size,
                        restart_count: started.restart_count,
                        ..Place::default()
                    };
                    if member.place.learn(&told) {
                        self.placed(now, local_rank, out);
                    }
                }
            }
            // Of a group that is over: the line was read late.
            AgentLine::ClosingSignal { pid, .. } if self.by_pid(*pid).is_none() => {}
            AgentLine::ClosingSignal { .. } | AgentLine::DeathSignal { .. } => {
                self.agent_was_told_to_end |= matches!(line, AgentLine::DeathSignal { .. });
                self.agent_ends_ranks(now, out);
            }
            AgentLine::Failed { exit, pid, .. } => self.exit_known(now, *pid, *exit, out),
            AgentLine::Ended(end) => {
                if let (Some(pid), Some(exit)) = (end.pid, end.exit) {
                    self.exit_known(now, pid, exit, out);
                }
            }
            AgentLine::Failure(entry) => {
                if let (Some(pid), Some(exit)) = (entry.pid, entry.exit) {
                    self.exit_known(now, pid, exit, out);
                }
            }
            _ => {}
        }
        self.ledger.note(now, Clue::Agent(line));
    }

    /// The agent says that it ends its ranks, and nobody here asked for it.
    fn agent_ends_ranks(&mut self, now: Stamp, out: &mut Out) {
        if std::mem::replace(&mut self.teardown_seen, true) || self.goal.is_ending() {
            return;
        }
        let mut wants = Vec::new();
        let look = ending::Input::Look(self.ending_look());
        self.ending.handle(now, look, &mut wants);
        self.ending.handle(now, ending::Input::AgentTeardown, &mut wants);
        Self::take_ending_outputs(wants, out);
    }

    pub(super) fn agent_started(&mut self, now: Stamp, proc: ProcId, out: &mut Out) {
        self.is_after_stall = self.restarts_for_a_stall();
        self.restarts_before = self.state.restarts + u32::from(self.is_after_stall);
        (self.awaits_agent, self.agent_kernel) = (false, Kernel::Alive);
        (self.agent, self.agent_alive, self.agent_exit) = (Some(proc), true, None);
        if let Goal::Restart { respawned, .. } = &mut self.goal {
            *respawned = true;
            // What ended the old agent's ranks says nothing about what may end the new agent.
            self.forget_group();
        }
        self.zombies = Zombies::new(std::time::Duration::from_millis(self.rules.monitor_interval_ms));
        self.ending = ending::Ending::default();
        self.emit(now, Fact::AgentStarted { proc }, out);
        if let Goal::Stop { askers } = &self.goal {
            // Somebody changed their mind while it was being started.
            let at_once = askers.iter().any(|(_, command)| *command == Command::Stop { now: true });
            self.end_all(now, at_once, out);
        }
    }

    /// The ranks that a former supervisor knew.
    pub(super) fn take_over_crew(&mut self, now: Stamp, state: &State) {
        let agent_pid = state.agent.as_ref().map_or(0, |agent| agent.proc.pid);
        // Positions that the running group has not taken yet still show who held them before.
        for rank in state.ranks.iter().filter(|rank| rank.attempt == state.attempt()) {
            let sighting = Sighting { proc: rank.proc, agent_pid, place: rank.place.clone() };
            let mut member = Member::new(now, rank.local_rank, &sighting, self.rules.expects_beats);
            let told = (rank.state, rank.detail.clone());
            member.health = member.health.resumed(rank.started_at, told, rank.beat_at);
            if matches!(rank.state, RankState::Exited | RankState::Zombie) {
                (member.died_at, member.exit) = (Some(rank.state_since), rank.exit);
                member.gone = rank.state == RankState::Exited;
            }
            if let Some(step) = rank.step {
                member.step(rank.step_at.unwrap_or(now), step, StepSource::Optimizer);
                member.health.handle(now, health::Input::Step, &mut Vec::new());
            }
            member.wrote(rank.lines, rank.last_line.as_deref());
            let (local_rank, pid) = (rank.local_rank, rank.proc.pid);
            self.ledger.note(now, Clue::Started { local_rank, rank: rank.place.rank, pid });
            if let Some(at) = member.died_at {
                self.ledger.note(at, Clue::Exited { local_rank, pid, exit: rank.exit });
            }
            self.key = Some(GroupKey::of(&sighting));
            if member.is_alive() {
                let input = verdict::Input::Rank { local_rank: rank.local_rank, rank: rank.place.rank };
                self.verdict.handle(now, input, &mut Vec::new());
            }
            self.crew.insert(rank.local_rank, member);
        }
        let counted = state.ranks.iter().filter_map(|rank| rank.place.restart_count).max().unwrap_or(0);
        self.restarts_before = state.restarts.saturating_sub(counted);
        self.agent = state.agent.as_ref().map(|agent| agent.proc);
        self.agent_alive = state.agent.as_ref().is_some_and(|agent| agent.alive);
        self.agent_exit = state.agent.as_ref().and_then(|agent| agent.exit);
        self.inherited_cause = state.attempts.back().and_then(|attempt| attempt.cause.clone());
        self.told_cause.clone_from(&self.inherited_cause);
        match &state.agent {
            Some(agent) if agent.alive => {}
            Some(agent) => self.ledger.note(now, Clue::AgentExited { exit: agent.exit }),
            // The former supervisor died before it could start one.
            None => self.ledger.note(now, Clue::AgentExited { exit: None }),
        }
    }

    /// What a former supervisor had found wrong: what holds still is found again, and orphans need a hand.
    pub(super) fn take_over_trouble(&mut self, now: Stamp, out: &mut Out) {
        // All but those that come from the agent's death or from files.
        let stay = [AlertKind::Orphan, AlertKind::StaleStore, AlertKind::Storage];
        let alerts = self.state.alerts.iter().filter(|alert| !stay.contains(&alert.kind));
        for (alert_kind, local_rank) in alerts.map(Alert::key).collect::<Vec<_>>() {
            self.emit(now, Fact::AlertCleared { alert_kind, local_rank }, out);
        }
        if self.agent.is_some() && !self.agent_alive {
            self.ranks_lost_their_agent(now, self.agent_exit, out);
        }
    }
}
