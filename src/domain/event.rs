//! Facts. The supervisor makes them, everything else reads them.

mod read;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    alert::{Alert, AlertKind},
    cause::Cause,
    command::{Command, Outcome},
    exit::Exit,
    forward::{RankRows, RunProgress, Settings},
    gpu::{GpuInfo, GpuSample, GpuSource, XidSeen, join::RankGpus, leftover::Leftover},
    id::{JobId, ProcId},
    rank::{JobState, RankState},
    resolve::{RankScope, RunMode},
    sample::{Place, RankSample},
    state::State,
    time::Stamp,
    verdict::Guard,
};

/// One fact with its place in the order of facts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Counts from 1 over the whole life of the job, over adopted supervisors too. Samples do not count: 0.
    pub seq: u64,
    /// When the supervisor learned of it.
    pub at: Stamp,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

/// Why a group of ranks was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The first start.
    First,
    /// A rank failed and the agent had restarts left.
    Failure,
    /// A node joined or left.
    Membership,
    /// Somebody asked.
    Manual,
    /// It stood still, and `--on-stall restart` was asked for.
    Stall,
    /// A reason that a newer elastictop wrote.
    #[serde(other)]
    Unknown,
}

/// Who runs the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Launcher {
    /// `python -m torch.distributed.run`.
    Torchrun,
    /// The launcher that is built in.
    Local,
    /// Somebody else started it; elastictop only looks.
    #[serde(other)]
    Foreign,
}

/// What does not change during a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Id and folder name.
    pub id: JobId,
    /// Name given by the user or made of the script's.
    pub name: String,
    /// Who runs the ranks.
    pub launcher: Launcher,
    /// Host name of this node.
    pub node: String,
    /// What the user asked for, secrets removed.
    pub command: Vec<String>,
    /// Working directory of the agent.
    pub cwd: String,
    /// Restarts that the agent may spend; `None` when it cannot be known.
    pub max_restarts: Option<u32>,
    /// Ranks on this node, as asked for; `None` when it cannot be known.
    pub local_world_size: Option<u32>,
    /// Smallest and largest number of nodes.
    pub nodes: (u32, u32),
    /// The rendezvous id, by which all nodes know the job; `None` when nobody named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdzv_id: Option<String>,
    /// User id of the owner.
    pub uid: u32,
}

/// What happened. Kinds that this version does not know are read as [`Fact::Unknown`] and skipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// The job exists.
    JobStarted {
        /// All that will not change.
        job: JobInfo,
    },
    /// The agent process exists.
    AgentStarted {
        /// Its process.
        #[serde(flatten)]
        proc: ProcId,
    },
    /// A rank's process exists.
    RankStarted {
        /// Its process.
        #[serde(flatten)]
        proc: ProcId,
        /// The agent that started it.
        agent_pid: i32,
        /// Position on this node.
        local_rank: u32,
        /// Which start of the group this belongs to, from 0.
        attempt: u32,
        /// What its environment says; `rank` and others may be missing in function mode.
        place: Place,
    },
    /// A rank told its place later than it started (function mode).
    RankPlaced {
        /// Position on this node.
        local_rank: u32,
        /// What is known now.
        place: Place,
    },
    /// A rank is doing something else than before.
    RankState {
        /// Position on this node.
        local_rank: u32,
        /// What it is doing now.
        state: RankState,
        /// What, in words: the collective and group it waits in, or the like.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// Which communication backends run in a rank, and what would end it when its heart stops, became known.
    RankGuarded {
        /// Position on this node.
        local_rank: u32,
        /// What guards it.
        guard: Guard,
    },
    /// A rank's process is gone.
    RankExited {
        /// Position on this node.
        local_rank: u32,
        /// Its process.
        #[serde(flatten)]
        proc: ProcId,
        /// Global rank, if known.
        rank: Option<u32>,
        /// How it ended; `None` when nobody saw it.
        exit: Option<Exit>,
    },
    /// The exit of a rank that is gone became known later, or better.
    RankExitKnown {
        /// Position on this node.
        local_rank: u32,
        /// Its process id.
        pid: i32,
        /// How it ended.
        exit: Exit,
    },
    /// The group of ranks was started for the first time.
    GroupStarted {
        /// Counts starts of the group from 0.
        attempt: u32,
        /// Number of ranks in the whole job, if known.
        world_size: Option<u32>,
    },
    /// The group is being started anew, because a rank failed or somebody asked.
    Restart {
        /// The start that follows, counted from 0.
        attempt: u32,
        /// Restarts spent so far, as the agent counts them, over all agents of this node.
        restarts: u32,
        /// Failure or manual.
        reason: Reason,
        /// Why the one before ended.
        cause: Option<Cause>,
        /// Number of ranks in the whole job, if known.
        world_size: Option<u32>,
    },
    /// The group is being started anew, because a node joined or left.
    MembershipChanged {
        /// The start that follows, counted from 0.
        attempt: u32,
        /// Number of ranks before, if known.
        from: Option<u32>,
        /// Number of ranks in the whole job now, if known.
        world_size: Option<u32>,
    },
    /// The first cause of the running attempt's failure is known, or known better.
    CauseFound {
        /// The attempt that failed.
        attempt: u32,
        /// Why.
        cause: Cause,
    },
    /// The job changed its state.
    JobState {
        /// What it is now.
        state: JobState,
        /// When elastictop or the agent will use force, where it will.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Stamp>,
    },
    /// Force will be used at another time than told before, or not any more.
    Deadline {
        /// When.
        deadline: Option<Stamp>,
    },
    /// Something is wrong.
    AlertRaised {
        /// All that is known about it.
        alert: Alert,
    },
    /// It is not any more.
    AlertCleared {
        /// Which alert.
        alert_kind: AlertKind,
        /// Whose.
        #[serde(default)]
        local_rank: Option<u32>,
    },
    /// A new supervisor took over from one that died.
    Adopted {
        /// Process id of the new supervisor.
        supervisor_pid: i32,
        /// When the former one was heard of last.
        last_seen: Option<Stamp>,
        /// What that means, in a sentence.
        text: String,
    },
    /// Somebody asked for something that takes a while: its [`Fact::Command`] follows. A supervisor that takes over goes
    /// on with it.
    Ordered {
        /// What: to stop, or to restart.
        command: Command,
        /// Who: user and viewer.
        by: String,
    },
    /// Somebody asked for something.
    Command {
        /// What.
        command: Command,
        /// Who: user and viewer.
        by: String,
        /// How it ended.
        outcome: Outcome,
    },
    /// What becomes of the ranks' metrics was decided, or decided anew.
    WandbPlanned {
        /// What holds from now on.
        settings: Box<Settings>,
        /// Run mode and rank scope that hold from the next restart on.
        #[serde(default)]
        pending: Option<(RunMode, RankScope)>,
    },
    /// How far runs have come, now and then and at their end: what a journal keeps of all [`Fact::WandbSample`].
    WandbProgress {
        /// By run id; those that are not told of stay as they are.
        runs: BTreeMap<String, RunProgress>,
    },
    /// How far runs have come. Not part of the journal, and not counted.
    WandbSample {
        /// By run id; those that are not told of stay as they are.
        runs: BTreeMap<String, RunProgress>,
        /// What all ranks of this node logged.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ranks: Vec<RankRows>,
    },
    /// What GPUs there are, or why nothing is known of them. Told anew when it changes.
    Gpus {
        /// Who answers.
        source: GpuSource,
        /// Version of the driver.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        driver: Option<String>,
        /// Why nobody answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<String>,
        /// By index.
        gpus: Vec<GpuInfo>,
    },
    /// Which rank has which GPU. Told anew when it changes.
    GpuRanks {
        /// Ranks that have one.
        ranks: Vec<RankGpus>,
        /// Whether the driver names processes of another pid namespace.
        #[serde(default)]
        foreign_pids: bool,
    },
    /// Who holds GPU memory and belongs to no rank. Told anew when it changes.
    GpuLeftovers {
        /// All of them.
        leftovers: Vec<Leftover>,
    },
    /// The driver told of an error.
    GpuXid {
        /// Where, and which.
        #[serde(flatten)]
        seen: XidSeen,
    },
    /// The figures of all GPUs, now and then: what a journal keeps of all [`Fact::GpuSample`].
    GpuProgress {
        /// One entry per GPU.
        gpus: Vec<GpuSample>,
    },
    /// A look at all GPUs. Not part of the journal, and not counted.
    GpuSample {
        /// One entry per GPU.
        gpus: Vec<GpuSample>,
    },
    /// Something worth a line in the timeline.
    Note {
        /// One sentence.
        text: String,
    },
    /// The agent's process is gone.
    AgentExited {
        /// How it ended; `None` when nobody saw it.
        exit: Option<Exit>,
    },
    /// The job is over.
    JobEnded {
        /// Done, failed or stopped.
        state: JobState,
        /// The agent's exit code as a shell reports it; `None` when nobody saw it.
        exit_code: Option<u8>,
        /// Why it failed.
        cause: Option<Cause>,
    },
    /// The figures of ranks, now and then and at their death: what a journal keeps of all samples.
    Progress {
        /// One entry per rank.
        ranks: Vec<RankSample>,
    },
    /// A look at all ranks. Not part of the journal, and not counted.
    Sample {
        /// One entry per rank that was looked at.
        ranks: Vec<RankSample>,
    },
    /// All that was known at this moment, in place of the events before it: where a recording, or a journal that was
    /// cut, begins in the middle. Not counted.
    Snapshot {
        /// All of it.
        state: Box<State>,
    },
    /// A kind that a newer elastictop wrote.
    #[serde(other)]
    Unknown,
}

impl Fact {
    /// Whether it belongs into the journal.
    pub fn is_lasting(&self) -> bool {
        let is_snapshot = matches!(self, Fact::Snapshot { .. } | Fact::Unknown);
        !self.is_sample() && !is_snapshot
    }

    /// Whether a group of ranks began with it.
    pub fn begins_attempt(&self) -> bool {
        matches!(self, Fact::GroupStarted { .. } | Fact::Restart { .. } | Fact::MembershipChanged { .. })
    }

    /// Whether it is one of the figures of which the journal keeps some, and the black box all for a while.
    pub fn is_sample(&self) -> bool {
        matches!(self, Fact::Sample { .. } | Fact::GpuSample { .. } | Fact::WandbSample { .. })
    }
}
