//! The state of a job: a fold of its events, the same in the supervisor, the viewer, a replay and the tests.

mod attempt;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

pub use self::attempt::{Attempt, Hang};

use super::{
    alert::Alert,
    beat::GroupStatus,
    cause::Cause,
    command::Command,
    event::{Event, Fact, JobInfo, Reason},
    exit::Exit,
    forward::{RunProgress, Wandb},
    gpu::fold::Gpus,
    id::ProcId,
    rank::{JobState, RankState},
    sample::{Place, RankSample},
    time::Stamp,
    verdict::{Guard, Standing},
};

/// Most facts that the state remembers; older ones are in the journal only.
pub const MAX_RECENT: usize = 500;
/// Most attempts that the state remembers.
pub const MAX_ATTEMPTS: usize = 256;

/// All that is known about a job at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What does not change; `None` before the first event.
    pub job: Option<JobInfo>,
    /// What the job is doing.
    pub state: JobState,
    /// Since when.
    pub state_since: Stamp,
    /// When force will be used, where it will.
    pub deadline: Option<Stamp>,
    /// What somebody ordered and is not done yet, and who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<(Command, String)>,
    /// When the job began.
    pub started_at: Option<Stamp>,
    /// When it ended.
    pub ended_at: Option<Stamp>,
    /// The agent's exit code as a shell reports it, once it is known.
    pub exit_code: Option<u8>,
    /// Why the job failed, or why its last attempt did.
    pub cause: Option<Cause>,
    /// The agent.
    pub agent: Option<Agent>,
    /// Restarts spent, as the agent counts them.
    pub restarts: u32,
    /// Ranks in the whole job.
    pub world_size: Option<u32>,
    /// Starts of the group, oldest first; at most [`MAX_ATTEMPTS`].
    pub attempts: VecDeque<Attempt>,
    /// The newest incarnation of each rank of this node, by its position.
    pub ranks: Vec<Rank>,
    /// What becomes of the ranks' metrics; `None` when nobody wanted W&B.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wandb: Option<Wandb>,
    /// The GPUs of this node; `None` before anybody asked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
    /// What is wrong now.
    pub alerts: Vec<Alert>,
    /// The last facts worth a line, oldest first; at most [`MAX_RECENT`].
    pub recent: VecDeque<Event>,
    /// The last counted event.
    pub seq: u64,
    /// When the last event of any kind happened.
    pub at: Stamp,
}

/// The elastic agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its process.
    pub proc: ProcId,
    /// Whether it still runs.
    pub alive: bool,
    /// How it ended, if anybody saw it.
    pub exit: Option<Exit>,
}

/// The newest incarnation of one rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rank {
    /// Position on the node.
    pub local_rank: u32,
    /// What its environment or heartbeat says.
    pub place: Place,
    /// Its process.
    pub proc: ProcId,
    /// The start of the group it belongs to.
    pub attempt: u32,
    /// What it is doing.
    pub state: RankState,
    /// Since when.
    pub state_since: Stamp,
    /// More about the state, in words.
    pub detail: Option<String>,
    /// How it ended, if anybody saw it.
    pub exit: Option<Exit>,
    /// When it started.
    pub started_at: Stamp,
    /// Share of one core between the last two samples; 100 is one core, all threads counted.
    pub cpu_pct: Option<f32>,
    /// CPU time at the last sample that had it, and when that was.
    pub cpu_at: Option<(Stamp, u64)>,
    /// Resident memory in bytes.
    pub rss_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u32>,
    /// Last step told.
    pub step: Option<u64>,
    /// When it was told.
    pub step_at: Option<Stamp>,
    /// When the last heartbeat came.
    pub beat_at: Option<Stamp>,
    /// The process groups that it told of last.
    #[serde(default)]
    pub groups: Vec<GroupStatus>,
    /// Whether it waits in a collective, or others wait for it.
    #[serde(default)]
    pub standing: Option<Box<Standing>>,
    /// What would end it when its heart stops, once that is known.
    #[serde(default)]
    pub guard: Option<Box<Guard>>,
    /// The last line it wrote.
    pub last_line: Option<String>,
    /// Lines it has written.
    pub lines: u64,
}

impl State {
    /// Whether other nodes have ranks of the job, as far as this one knows.
    pub fn has_other_nodes(&self) -> bool {
        let here = self.job.as_ref().and_then(|job| job.local_world_size);
        self.world_size.zip(here).is_some_and(|(world, here)| world > here)
    }

    /// Takes one event in. Total: what does not fit is left out.
    pub fn apply(&mut self, event: &Event) {
        self.at = self.at.max(event.at);
        self.seq = self.seq.max(event.seq);
        self.fold(event.at, &event.fact);
        if is_worth_a_line(&event.fact) {
            self.recent.push_back(event.clone());
            if self.recent.len() > MAX_RECENT {
                self.recent.pop_front();
            }
        }
    }

    /// The same of an event that nobody needs any more: what it holds is moved, which counts with thousands of ranks.
    pub fn take(&mut self, event: Event) {
        let (Fact::Sample { ranks } | Fact::Progress { ranks }) = event.fact else {
            return self.apply(&event);
        };
        self.at = self.at.max(event.at);
        self.seq = self.seq.max(event.seq);
        for sample in ranks {
            if let Some(rank) = self.take_figures(event.at, &sample) {
                rank.take_words(sample);
            }
        }
    }

    fn fold(&mut self, at: Stamp, fact: &Fact) {
        match fact {
            Fact::JobStarted { job } => {
                self.job = Some(job.clone());
                self.started_at = Some(at);
                self.state_since = at;
            }
            Fact::AgentStarted { proc } => {
                // What was ordered to be started anew is.
                self.ordered.take_if(|(ordered, _)| matches!(ordered, Command::Restart { .. }));
                self.agent = Some(Agent { proc: *proc, alive: true, exit: None });
            }
            Fact::AgentExited { exit } => {
                if let Some(agent) = &mut self.agent {
                    agent.alive = false;
                    agent.exit = *exit;
                }
            }
            Fact::GroupStarted { attempt, world_size } => {
                self.begin_attempt(at, *attempt, Reason::First, *world_size);
            }
            Fact::Restart { attempt, restarts, reason, cause, world_size } => {
                self.restarts = *restarts;
                if let (Some(last), Some(cause)) = (self.attempts.back_mut(), cause) {
                    last.cause = Some(cause.clone());
                    self.cause = Some(cause.clone());
                }
                self.begin_attempt(at, *attempt, *reason, *world_size);
            }
            Fact::MembershipChanged { attempt, world_size, .. } => {
                self.begin_attempt(at, *attempt, Reason::Membership, *world_size);
            }
            Fact::CauseFound { attempt, cause } => {
                self.cause = Some(cause.clone());
                if let Some(entry) = self.attempts.iter_mut().find(|a| a.n == *attempt) {
                    entry.cause = Some(cause.clone());
                }
            }
            Fact::JobState { state, deadline } => {
                if self.state != *state {
                    self.state_since = at;
                }
                (self.state, self.deadline) = (*state, *deadline);
                if state.ends_group()
                    && let Some(last) = self.attempts.back_mut()
                {
                    last.stopped_at.get_or_insert(at);
                }
            }
            Fact::Deadline { deadline } => self.deadline = *deadline,
            Fact::RankStarted { proc, local_rank, attempt, place, .. } => {
                self.put_rank(Rank::new(at, *local_rank, *proc, *attempt, place.clone()));
                self.world_size = place.world_size.or(self.world_size);
            }
            Fact::RankPlaced { local_rank, place } => {
                self.world_size = place.world_size.or(self.world_size);
                if let Some(rank) = self.rank_mut(*local_rank) {
                    rank.place = place.clone();
                }
            }
            Fact::RankState { local_rank, state, detail } => {
                if let Some(rank) = self.rank_mut(*local_rank) {
                    rank.enter(at, *state);
                    rank.detail.clone_from(detail);
                }
            }
            Fact::RankExited { local_rank, proc, exit, .. } => {
                if let Some(rank) = self.rank_mut(*local_rank).filter(|rank| rank.proc == *proc) {
                    rank.enter(at, RankState::Exited);
                    rank.exit = *exit;
                    (rank.detail, rank.cpu_pct, rank.standing) = (None, None, None);
                }
            }
            Fact::RankExitKnown { local_rank, pid, exit } => {
                if let Some(rank) = self.rank_mut(*local_rank).filter(|rank| rank.proc.pid == *pid) {
                    rank.exit = Some(*exit);
                }
            }
            Fact::RankGuarded { local_rank, guard } => {
                if let Some(rank) = self.rank_mut(*local_rank) {
                    rank.guard = Some(Box::new(guard.clone()));
                }
            }
            Fact::AlertRaised { alert } => {
                self.alerts.retain(|known| known.key() != alert.key());
                self.alerts.push(alert.clone());
                if let Some(last) = self.attempts.back_mut() {
                    last.note_hang(alert);
                }
            }
            Fact::AlertCleared { alert_kind, local_rank } => {
                self.alerts.retain(|known| known.key() != (*alert_kind, *local_rank));
                if let Some(last) = self.attempts.back_mut() {
                    last.hang_is_over(at, (*alert_kind, *local_rank));
                }
            }
            Fact::JobEnded { state, exit_code, cause } => {
                (self.state, self.state_since, self.deadline) = (*state, at, None);
                (self.ended_at, self.exit_code) = (Some(at), *exit_code);
                self.cause.clone_from(cause);
                self.alerts.clear();
                if let Some(last) = self.attempts.back_mut() {
                    last.ended_at.get_or_insert(at);
                    if last.cause.is_none() {
                        last.cause.clone_from(cause);
                    }
                }
            }
            Fact::Sample { ranks } | Fact::Progress { ranks } => {
                for sample in ranks {
                    if let Some(rank) = self.take_figures(at, sample) {
                        rank.copy_words(sample);
                    }
                }
            }
            Fact::WandbPlanned { settings, pending } => {
                let (runs, ranks) =
                    self.wandb.take().map(|wandb| (wandb.runs, wandb.ranks)).unwrap_or_default();
                self.wandb = Some(Wandb { settings: (**settings).clone(), pending: *pending, runs, ranks });
            }
            Fact::WandbProgress { runs } => self.take_progress(runs),
            Fact::WandbSample { runs, ranks } => {
                self.take_progress(runs);
                if let Some(wandb) = &mut self.wandb {
                    wandb.ranks.clone_from(ranks);
                }
            }
            Fact::Gpus { source, driver, trouble, gpus } => {
                let known = self.gpus.get_or_insert_default();
                known.describe(*source, driver.as_ref(), trouble.as_ref(), gpus);
            }
            Fact::GpuRanks { ranks, foreign_pids } => {
                let known = self.gpus.get_or_insert_default();
                (known.ranks, known.foreign_pids) = (ranks.clone(), *foreign_pids);
            }
            Fact::GpuLeftovers { leftovers } => {
                self.gpus.get_or_insert_default().leftovers.clone_from(leftovers);
            }
            Fact::GpuProgress { gpus } | Fact::GpuSample { gpus } => {
                self.gpus.get_or_insert_default().take(at, gpus);
            }
            Fact::Snapshot { state } => *self = (**state).clone(),
            Fact::Ordered { command, by } => self.ordered = Some((command.clone(), by.clone())),
            Fact::Command { command, .. } => {
                let kind = std::mem::discriminant(command);
                self.ordered.take_if(|(ordered, _)| std::mem::discriminant(ordered) == kind);
            }
            Fact::Adopted { .. } | Fact::GpuXid { .. } | Fact::Note { .. } | Fact::Unknown => {}
        }
    }

    fn take_progress(&mut self, runs: &BTreeMap<String, RunProgress>) {
        if let Some(wandb) = &mut self.wandb {
            wandb.runs.extend(runs.iter().map(|(id, progress)| (id.clone(), progress.clone())));
        }
    }

    fn begin_attempt(&mut self, at: Stamp, n: u32, reason: Reason, world_size: Option<u32>) {
        if let Some(last) = self.attempts.back_mut() {
            last.ended_at.get_or_insert(at);
        }
        self.world_size = world_size.or(self.world_size);
        self.attempts.push_back(Attempt {
            n,
            reason,
            started_at: at,
            ended_at: None,
            world_size,
            restarts: self.restarts,
            cause: None,
            last_step: None,
            last_step_at: None,
            first_step: None,
            stopped_at: None,
            hang: None,
        });
        if self.attempts.len() > MAX_ATTEMPTS {
            self.attempts.pop_front();
        }
    }

    fn put_rank(&mut self, rank: Rank) {
        match self.ranks.binary_search_by_key(&rank.local_rank, |known| known.local_rank) {
            Ok(found) => self.ranks[found] = rank,
            Err(place) => self.ranks.insert(place, rank),
        }
    }

    /// The rank, when it is there.
    fn take_figures(&mut self, at: Stamp, sample: &RankSample) -> Option<&mut Rank> {
        let place = self.place_of(sample.local_rank)?;
        let rank = &mut self.ranks[place];
        rank.take_figures(at, sample);
        if let Some(step) = rank.step
            && let Some(entry) = self.attempts.back_mut().filter(|entry| entry.n == rank.attempt)
        {
            let told_at = sample.step_at.unwrap_or(at);
            entry.first_step.get_or_insert((step, told_at));
            if entry.last_step.is_none_or(|last| step > last) {
                (entry.last_step, entry.last_step_at) = (Some(step), Some(told_at));
            }
        }
        Some(rank)
    }

    /// The newest incarnation of the rank at this position.
    pub fn rank(&self, local_rank: u32) -> Option<&Rank> {
        self.place_of(local_rank).map(|at| &self.ranks[at])
    }

    fn rank_mut(&mut self, local_rank: u32) -> Option<&mut Rank> {
        self.place_of(local_rank).map(|at| &mut self.ranks[at])
    }

    fn place_of(&self, local_rank: u32) -> Option<usize> {
        // Mostly all ranks are there; to look at none of the others matters where there are thousands.
        let at = local_rank as usize;
        if self.ranks.get(at).is_some_and(|rank| rank.local_rank == local_rank) {
            return Some(at);
        }
        self.ranks.binary_search_by_key(&local_rank, |rank| rank.local_rank).ok()
    }

    /// The running or last attempt, counted from 0.
    pub fn attempt(&self) -> u32 {
        self.attempts.back().map_or(0, |attempt| attempt.n)
    }
}

impl Rank {
    fn new(at: Stamp, local_rank: u32, proc: ProcId, attempt: u32, place: Place) -> Rank {
        Rank {
            local_rank,
            place,
            proc,
            attempt,
            state: RankState::Starting,
            state_since: at,
            detail: None,
            exit: None,
            started_at: at,
            cpu_pct: None,
            cpu_at: None,
            rss_bytes: None,
            threads: None,
            step: None,
            step_at: None,
            beat_at: None,
            groups: Vec::new(),
            standing: None,
            guard: None,
            last_line: None,
            lines: 0,
        }
    }

    fn enter(&mut self, at: Stamp, state: RankState) {
        if self.state != state {
            (self.state, self.state_since) = (state, at);
        }
    }

    fn take_figures(&mut self, at: Stamp, sample: &RankSample) {
        if let Some(cpu_ns) = sample.cpu_ns {
            if let Some((before, earlier_ns)) = self.cpu_at.filter(|(before, _)| at > *before) {
                let nanoseconds = cpu_ns.saturating_sub(earlier_ns) as f32;
                self.cpu_pct = Some(nanoseconds / at.since(before).as_nanos() as f32 * 100.0);
            }
            self.cpu_at = Some((at, cpu_ns));
        }
        self.rss_bytes = sample.rss_bytes.or(self.rss_bytes);
        self.threads = sample.threads.or(self.threads);
        self.step = sample.step.or(self.step);
        self.step_at = sample.step_at.or(self.step_at);
        self.beat_at = sample.beat_at.or(self.beat_at);
        self.lines = sample.lines.max(self.lines);
    }

    fn copy_words(&mut self, sample: &RankSample) {
        self.standing.clone_from(&sample.standing);
        if !sample.groups.is_empty() {
            self.groups.clone_from(&sample.groups);
        }
        if sample.last_line.is_some() {
            self.last_line.clone_from(&sample.last_line);
        }
    }

    fn take_words(&mut self, sample: RankSample) {
        self.standing = sample.standing;
        if !sample.groups.is_empty() {
            self.groups = sample.groups;
        }
        if sample.last_line.is_some() {
            self.last_line = sample.last_line;
        }
    }

    /// The number to show: the global rank, or the position on the node while that is all that is known.
    pub fn number(&self) -> u32 {
        self.place.rank.unwrap_or(self.local_rank)
    }
}

fn is_worth_a_line(fact: &Fact) -> bool {
    !matches!(
        fact,
        Fact::Sample { .. }
            | Fact::RankState { .. }
            | Fact::RankPlaced { .. }
            | Fact::RankGuarded { .. }
            | Fact::Deadline { .. }
            | Fact::Progress { .. }
            | Fact::Gpus { .. }
            | Fact::GpuRanks { .. }
            | Fact::GpuLeftovers { .. }
            | Fact::GpuProgress { .. }
            | Fact::GpuSample { .. }
            | Fact::WandbProgress { .. }
            | Fact::WandbSample { .. }
            | Fact::Snapshot { .. }
            | Fact::Unknown
    )
}
