//! The core: inputs in, events and effects out. It holds the state and all machines, and touches nothing.
//!
//! `io` holds what goes in and out. One file for each kind of question: `crew` knows the ranks, `group` which start of
//! the group they belong to, `ask` what viewers want, `wandb` what becomes of metrics, `outcome` what the job's state
//! and the first cause are, `judge` whether it moves on, `hear` takes in what ranks say.

mod ask;
mod crew;
mod gpus;
mod group;
mod hear;
mod io;
mod judge;
mod outcome;
mod storage;
mod wandb;

use std::time::Duration;

use self::{
    ask::Goal,
    crew::{Crew, Member},
    gpus::GpuDesk,
    group::GroupKey,
};
pub use self::{
    crew::StepSource,
    io::{Asker, Effect, GpuLook, Input, Out, Rules},
};
use crate::{
    domain::{
        alert::{Alert, AlertKind},
        cause::{Cause, Clue, Ledger},
        command::{Command, Outcome},
        ending::{self, Ending, Target},
        event::{Event, Fact, JobInfo, Launcher},
        exit::Exit,
        forward::Settings,
        health,
        id::{Boot, ProcId},
        rank::{JobState, RankState},
        sample::{Kernel, Sighting},
        state::State,
        telling::count,
        time::Stamp,
        verdict::{self, Verdict},
        watchdog::{self, Zombies},
    },
    probe::finder::TreeLook,
};

/// A rank that just died is not called a zombie before this time: its agent looks after it now and then.
const REAPED_WITHIN: Duration = Duration::from_secs(1);

/// How often the figures of all ranks go into the journal.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// The state of one job and everything that decides about it.
#[derive(Debug)]
pub struct Core {
    state: State,
    /// Known where a job is watched that was there before.
    boot: Option<Boot>,
    rules: Rules,
    crew: Crew,
    /// The ranks of the groups before: what is heard of them late does not start another group.
    former: Vec<ProcId>,
    agent: Option<ProcId>,
    agent_alive: bool,
    agent_kernel: Kernel,
    agent_exit: Option<Exit>,
    /// Whether an agent is being started: its success or failure has not been told yet.
    awaits_agent: bool,
    key: Option<GroupKey>,
    restarts_before: u32,
    /// Whether the agent was started anew because the job stood still, and has no group yet.
    is_after_stall: bool,
    ledger: Ledger,
    zombies: Zombies,
    verdict: Verdict,
    /// Why elastictop itself ends the job.
    gave_up: Option<String>,
    dumping: judge::Dumping,
    deadlock: Option<Stamp>,
    ending: Ending,
    /// The agent has begun to end the ranks of this group.
    teardown_seen: bool,
    /// The agent was told to end by somebody else.
    agent_was_told_to_end: bool,
    goal: Goal,
    told_cause: Option<Cause>,
    /// The cause that a former supervisor found: the evidence for it died with that supervisor.
    inherited_cause: Option<Cause>,
    draining: bool,
    gpus: GpuDesk,
    lost_told: u64,
    kept_at: Stamp,
    forwarding: wandb::Forwarding,
    /// [`Core::deadline`], which is asked for after every input.
    deadline: Option<Stamp>,
}

impl Core {
    /// A job that is about to start.
    pub fn new(now: Stamp, job: JobInfo, rules: Rules, wandb: Option<Settings>, out: &mut Out) -> Core {
        let mut core = Core::empty(rules);
        core.awaits_agent = true;
        core.verdict = Verdict::new(rules.policy, job.max_restarts.unwrap_or(0));
        core.emit(now, Fact::JobStarted { job }, out);
        if let Some(settings) = wandb {
            core.plan_wandb(now, settings, out);
        }
        out.effects.push(Effect::SpawnAgent);
        core
    }

    /// A job that another supervisor left, as its journal tells it.
    pub fn adopt(now: Stamp, state: State, rules: Rules, told: Fact, out: &mut Out) -> Core {
        let mut core = Core::empty(rules);
        core.take_over_crew(now, &state);
        // The former supervisor may have died between telling of a rank and noting its files.
        let agent_pid = core.agent.map_or(0, |agent| agent.pid);
        out.effects.extend(state.ranks.iter().map(|rank| {
            let sighting = Sighting { proc: rank.proc, agent_pid, place: rank.place.clone() };
            Effect::KeepLogs { sighting, local_rank: rank.local_rank, attempt: rank.attempt }
        }));
        core.state = state;
        core.verdict.may_restart(core.restarts_left().unwrap_or(0));
        core.emit(now, told, out);
        core.take_over_trouble(now, out);
        core.take_over_wandb(out);
        core.take_over_order(now, out);
        out.effects.extend(core.crew.values().filter(|member| !member.gone).map(|m| Effect::Watch(m.proc)));
        core.deadline = core.next_deadline(now);
        core
    }

    /// A job that somebody else started, to look at only: its agent, and its first rank should that be gone.
    pub fn observe(
        (boot, now): (Option<Boot>, Stamp),
        job: JobInfo,
        (agent, rank): (Option<ProcId>, Option<ProcId>),
        stale_store: bool,
        out: &mut Out,
    ) -> Core {
        let rules = Rules {
            monitor_interval_ms: 3000,
            stop_grace_ms: 0,
            end_orphans: false,
            expects_beats: false,
            policy: verdict::Policy::default(),
            gpu_wait_ms: 0,
            record: crate::domain::replay::Keep::default(),
        };
        let mut core = Core { boot, ..Core::empty(rules) };
        let first = agent.or(rank);
        let began = first.map_or(now, |proc| core.born_at(proc, now));
        core.emit(began, Fact::JobStarted { job }, out);
        if let Some(proc) = agent {
            (core.agent, core.agent_alive) = (Some(proc), true);
            core.emit(began, Fact::AgentStarted { proc }, out);
        }
        if stale_store {
            let alert = Alert {
                kind: AlertKind::StaleStore,
                local_rank: None,
                since: now,
                text: "ranks share the agent's store: after a restart they may meet addresses of dead ranks"
                    .into(),
                evidence: vec![
                    "TORCHELASTIC_USE_AGENT_STORE=True and restarts are allowed".into(),
                    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 cures it; elastictop run sets it".into(),
                ],
                acts_at: None,
            };
            core.emit(now, Fact::AlertRaised { alert }, out);
        }
        core
    }

    /// When a process of the first group was started. What runs when the watch begins was not started then.
    fn born_at(&self, proc: ProcId, now: Stamp) -> Stamp {
        let boot = self.boot.filter(|_| self.state.attempt() == 0);
        boot.map_or(now, |boot| boot.started(proc).min(now))
    }

    fn empty(rules: Rules) -> Core {
        Core {
            boot: None,
            state: State::default(),
            rules,
            crew: Crew::default(),
            former: Vec::new(),
            agent: None,
            agent_alive: false,
            agent_kernel: Kernel::Alive,
            agent_exit: None,
            awaits_agent: false,
            key: None,
            restarts_before: 0,
            is_after_stall: false,
            ledger: Ledger::default(),
            zombies: Zombies::new(Duration::from_millis(rules.monitor_interval_ms)),
            verdict: Verdict::new(rules.policy, 0),
            gave_up: None,
            dumping: judge::Dumping::No,
            deadlock: None,
            ending: Ending::default(),
            teardown_seen: false,
            agent_was_told_to_end: false,
            goal: Goal::default(),
            told_cause: None,
            inherited_cause: None,
            draining: false,
            gpus: GpuDesk::default(),
            lost_told: 0,
            kept_at: Stamp(0),
            forwarding: wandb::Forwarding::default(),
            deadline: None,
        }
    }

    /// What is known about the job.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether ranks come or go, so that a closer look is worth its cost.
    pub fn is_in_transition(&self) -> bool {
        !self.state.state.is_over()
            && self.state.state != JobState::Running
            && self.state.state != JobState::Orphaned
    }

    /// Whether there is a reason to say nothing but no.
    pub fn read_only(&self) -> Option<String> {
        (self.state.job.as_ref()?.launcher == Launcher::Foreign)
            .then(|| "this job was not started by elastictop: it can only be watched".into())
    }

    /// Whether somebody wants the job to end.
    pub fn is_ending(&self) -> bool {
        matches!(self.goal, Goal::Stop { .. })
    }

    /// When time alone will change something.
    pub fn deadline(&self) -> Option<Stamp> {
        self.deadline
    }

    fn next_deadline(&self, now: Stamp) -> Option<Stamp> {
        if self.state.state.is_over() {
            return None;
        }
        let health =
            self.crew.values().filter(|member| member.is_alive()).filter_map(|m| m.health.deadline());
        let ending = self.ending.deadline().filter(|_| self.ending.phase() != ending::Phase::Done);
        // One that is ready was told just now, or is not to be told.
        let waits = self.told_cause.is_none() && !self.goal.is_ending();
        let verdict = if waits { self.ledger.deadline().filter(|ready| *ready > now) } else { None };
        let ours = [self.zombies.deadline(), ending, verdict];
        ours.into_iter().flatten().chain(health).min()
    }

    /// Takes one input in.
    pub fn handle(&mut self, now: Stamp, input: Input, out: &mut Out) {
        if self.state.state.is_over() {
            return match input {
                // Rows are still sent.
                Input::Forward(told) => self.forward_told(now, told, out),
                other => Core::answer_late(other, out),
            };
        }
        match input {
            Input::Spawned(_) if !self.awaits_agent => {}
            Input::Spawned(Ok(proc)) => self.agent_started(now, proc, out),
            Input::Spawned(Err(text)) => self.agent_failed_to_start(now, text, out),
            Input::Looked { look, sample } => self.looked(now, look, sample, out),
            Input::Seen(sighting) => self.seen(now, &sighting, out),
            Input::Died { proc, exit } => self.died(now, proc, exit, out),
            Input::AgentGone { proc, exit } => {
                if self.agent == Some(proc) {
                    self.agent_gone(now, exit, out);
                }
            }
            Input::AgentLine(line) => self.agent_said(now, line, out),
            Input::Mark { pid, proof, line } => self.mark(now, pid, proof, line),
            Input::Loss { pid, name, rows } => return self.loss(now, pid, &name, rows),
            Input::Ras(ras) => return self.ras_answered(now, ras.as_deref()),
            Input::Examined { pid, doing } => return self.examined(now, pid, &doing, out),
            Input::Wrote { pid, lines, last_line, step } => {
                // Comes for every rank every second, and concerns nobody but this rank.
                return self.wrote(now, pid, lines, last_line.as_deref(), step, out);
            }
            Input::ErrorFile { pid, message, written } => {
                if let Some((local_rank, _)) = self.by_pid(pid) {
                    self.ledger.note(now, Clue::ErrorFile { local_rank, message, written });
                }
            }
            Input::OomKills(count) => self.ledger.note(now, Clue::OomKills(count)),
            // The same here, unless it tells where the rank stands.
            Input::Beat(beat) => {
                if !self.beat(now, &beat, out) {
                    return;
                }
            }
            Input::Asked(asker, command) => self.asked(now, asker, command, out),
            Input::Signalled { asker, command, sent, error } => {
                self.signalled(now, asker, command, &sent, error, out);
            }
            Input::Dumped(text) => self.dumped(now, text, out),
            Input::StacksTaken { asker, command, summary } => {
                self.answer(now, asker, command, Outcome::Done(summary), out);
            }
            Input::Drilled { asker, command, error } => self.drilled(now, asker, command, error, out),
            // Comes every second, and concerns neither the job's state nor its end.
            Input::Gpus(look) => return self.gpus_looked(now, look, out),
            Input::LeftoverSignalled { asker, proc, signal, error } => {
                self.leftover_signalled(now, asker, proc, signal, error, out);
            }
            Input::Noted(text) => self.emit(now, Fact::Note { text }, out),
            Input::Storage { error, lost } => self.storage(now, error, lost, out),
            Input::Forward(told) => self.forward_told(now, told, out),
            Input::Drained => self.drained(now, out),
            Input::Tick => {}
        }
        if !self.state.state.is_over() {
            self.run_machines(now, out);
            self.settle(now, out);
        }
        self.deadline = self.next_deadline(now);
    }

    fn emit(&mut self, now: Stamp, fact: Fact, out: &mut Out) {
        let seq = if fact.is_lasting() { self.state.seq + 1 } else { 0 };
        let event = Event { seq, at: now, fact };
        self.state.apply(&event);
        out.events.push(event);
    }

    fn by_pid(&mut self, pid: i32) -> Option<(u32, &mut Member)> {
        self.crew.by_pid(pid)
    }

    fn looked(&mut self, now: Stamp, look: TreeLook, sample: bool, out: &mut Out) {
        for rank in &look.ranks {
            // The sighting of a rank that was seen before tells nothing new.
            if rank.fresh || self.crew.position_of(rank.sighting.proc).is_none() {
                self.seen(now, &rank.sighting, out);
            }
        }
        for proc in &look.gone {
            self.died(now, *proc, None, out);
            self.gone(now, *proc, out);
        }
        let mut told = Vec::with_capacity(look.ranks.len());
        for rank in &look.ranks {
            let Some((local_rank, member)) = self.by_pid(rank.sighting.proc.pid) else { continue };
            if member.proc != rank.sighting.proc {
                continue;
            }
            member.looked(rank.look);
            let fresh_death = member.died_at.is_some_and(|at| now.since(at) < REAPED_WITHIN);
            if rank.look.kernel == Kernel::Dead && (fresh_death || member.died_at.is_none()) {
                told.push((local_rank, rank.look, Vec::new()));
                self.died(now, rank.sighting.proc, None, out);
                continue;
            }
            let mut health = Vec::new();
            let (state, cpu_ns) = (rank.look.kernel, rank.look.cpu_ns);
            member.health.handle(now, health::Input::Look { state, cpu_ns }, &mut health);
            told.push((local_rank, rank.look, health));
        }
        for (local_rank, _, outputs) in &mut told {
            self.tell_health(now, *local_rank, std::mem::take(outputs), out);
        }
        for (local_rank, look, _) in told {
            let (kernel, cpu_ns, rss_bytes) = (look.kernel, look.cpu_ns, look.rss_bytes);
            let seen = verdict::Input::Look { local_rank, kernel, cpu_ns, rss_bytes };
            self.verdict.handle(now, seen, &mut Vec::new());
        }
        self.feed_machines(now, &look, out);
        if sample {
            self.judge(now, look.agent.as_ref().map(|agent| agent.kernel), out);
            let members = self.crew.iter_mut().filter(|(_, member)| !member.gone);
            let mut ranks: Vec<_> = members.map(|(local, member)| member.sample(local, now)).collect();
            for sample in &mut ranks {
                sample.standing = self.verdict.standing(sample.local_rank).cloned().map(Box::new);
            }
            if now.since(self.kept_at) >= KEEP_EVERY {
                self.kept_at = now;
                self.emit(now, Fact::Progress { ranks }, out);
            } else {
                for sample in &mut ranks {
                    sample.groups = self.verdict.groups(sample.local_rank);
                }
                self.emit(now, Fact::Sample { ranks }, out);
            }
        }
    }

    fn feed_machines(&mut self, now: Stamp, look: &TreeLook, out: &mut Out) {
        if let Some(agent) = look.agent.as_ref().filter(|_| self.agent_alive) {
            self.agent_kernel = agent.kernel;
            let watched = watchdog::Look {
                ranks: look.ranks.iter().map(|rank| (rank.sighting.proc, rank.look.kernel)).collect(),
                agent: agent.kernel,
                agent_cpu_ns: agent.cpu_ns,
                agent_in_futex: look.agent_wchan.as_deref().is_some_and(|wchan| wchan.contains("futex")),
            };
            let mut wants = Vec::new();
            self.zombies.handle(now, watchdog::Input::Look(watched), &mut wants);
            self.take_zombie_outputs(now, wants, out);
        }
    }

    fn ending_look(&self) -> ending::Look {
        let live = self.crew.iter().filter(|(_, member)| !member.gone);
        ending::Look {
            agent: self.agent.filter(|_| self.agent_alive).map(|_| self.agent_kernel),
            ranks: live
                .map(|(local, member)| ending::RankLook {
                    local_rank: local,
                    proc: member.proc,
                    state: member.kernel(),
                })
                .collect(),
        }
    }

    fn run_machines(&mut self, now: Stamp, out: &mut Out) {
        let mut wants = Vec::new();
        self.ending.handle(now, ending::Input::Look(self.ending_look()), &mut wants);
        self.ending.on_deadline(now, &mut wants);
        Self::take_ending_outputs(wants, out);
        let mut wants = Vec::new();
        self.zombies.on_deadline(now, &mut wants);
        self.take_zombie_outputs(now, wants, out);
        let mut told = Vec::new();
        let quiet = self.is_quiet();
        for (local_rank, member) in self.crew.iter_mut().filter(|(_, member)| member.is_alive()) {
            let mut outputs = Vec::new();
            member.health.handle(now, health::Input::Quiet(quiet), &mut outputs);
            member.health.on_deadline(now, &mut outputs);
            told.push((local_rank, outputs));
        }
        for (local_rank, outputs) in told {
            self.tell_health(now, local_rank, outputs, out);
        }
    }

    fn take_ending_outputs(wants: Vec<ending::Output>, out: &mut Out) {
        for want in wants {
            match want {
                ending::Output::Signal { target, signal } => {
                    out.effects.push(Effect::Signal { target, signal });
                }
                // The end is told when the agent and all ranks are seen to be gone.
                ending::Output::Done => {}
            }
        }
    }

    fn take_zombie_outputs(&mut self, now: Stamp, wants: Vec<watchdog::Output>, out: &mut Out) {
        for want in wants {
            match want {
                watchdog::Output::Suspect { since, acts_at } => {
                    self.deadlock = Some(since);
                    let acts_at = acts_at.filter(|_| self.read_only().is_none());
                    let alert = Alert {
                        kind: AlertKind::ZombieDeadlock,
                        local_rank: None,
                        since,
                        text: "all ranks are dead and their agent does not notice: it is deadlocked".into(),
                        evidence: vec![
                            format!(
                                "zombies: {}",
                                count(self.crew.values().filter(|m| !m.gone).count(), "rank")
                            ),
                            "the agent used no CPU time since they died".into(),
                        ],
                        acts_at,
                    };
                    self.emit(now, Fact::AlertRaised { alert }, out);
                }
                watchdog::Output::Cleared => {
                    self.deadlock = None;
                    let cleared =
                        Fact::AlertCleared { alert_kind: AlertKind::ZombieDeadlock, local_rank: None };
                    self.emit(now, cleared, out);
                }
                watchdog::Output::EndAgent { signal } => {
                    self.ledger.note(now, Clue::ZombieDeadlock);
                    if self.read_only().is_some() {
                        continue;
                    }
                    let text = format!(
                        "the zombie watchdog sends {} to the agent",
                        crate::domain::exit::signal_name(signal).unwrap_or("a signal")
                    );
                    self.emit(now, Fact::Note { text }, out);
                    out.effects.push(Effect::Signal { target: Target::Agent, signal });
                }
            }
        }
    }

    fn tell_health(&mut self, now: Stamp, local_rank: u32, outputs: Vec<health::Output>, out: &mut Out) {
        let is_alive = self.crew.get(local_rank).is_some_and(Member::is_alive);
        for output in outputs {
            match output {
                // Words that a rank said before it died are read after its death.
                health::Output::State { state, .. } if !is_alive && state != RankState::Zombie => {}
                health::Output::Raise(_) if !is_alive => {}
                health::Output::State { state, detail } => {
                    let known =
                        self.state.rank(local_rank).is_some_and(|r| r.state == state && r.detail == detail);
                    if !known {
                        let began = self.state.rank(local_rank).map(|rank| (rank.state, rank.started_at));
                        let is_met = self.boot.is_some() && state == RankState::Running;
                        let at = match began {
                            Some((RankState::Starting, at)) if is_met => at.min(now),
                            _ => now,
                        };
                        self.emit(at, Fact::RankState { local_rank, state, detail }, out);
                    }
                }
                health::Output::Raise(alert) => self.emit(now, Fact::AlertRaised { alert }, out),
                health::Output::Clear(alert_kind) => {
                    let key = (alert_kind, Some(local_rank));
                    if self.state.alerts.iter().all(|alert| alert.key() != key) {
                        continue;
                    }
                    let cleared = Fact::AlertCleared { alert_kind, local_rank: Some(local_rank) };
                    self.emit(now, cleared, out);
                }
            }
        }
    }

    /// What a job that is over still has to say.
    fn answer_late(input: Input, out: &mut Out) {
        let (to, outcome) = match input {
            Input::Asked(Asker { reply: Some(to), .. }, Command::Stop { .. }) => {
                (to, Outcome::Done("the job is over already".into()))
            }
            Input::Asked(Asker { reply: Some(to), .. }, _)
            | Input::Signalled { asker: Asker { reply: Some(to), .. }, .. }
            | Input::StacksTaken { asker: Asker { reply: Some(to), .. }, .. }
            | Input::LeftoverSignalled { asker: Asker { reply: Some(to), .. }, .. } => {
                (to, Outcome::Refused("the job is over".into()))
            }
            _ => return,
        };
        out.effects.push(Effect::Reply { to, outcome });
    }

    /// Whether alarms about single ranks would only repeat what the job's state says.
    fn is_quiet(&self) -> bool {
        self.goal.is_ending()
            || matches!(
                self.state.state,
                JobState::Starting
                    | JobState::Restarting
                    | JobState::MembershipChange
                    | JobState::TearingDown
            )
    }

    fn is_rank_state(&self, local_rank: u32, state: RankState) -> bool {
        self.state.rank(local_rank).is_some_and(|rank| rank.state == state)
    }
}

#[cfg(test)]
mod tests;
