//! What `elastictop status --json` prints. A contract: fields are added, never renamed; unknown is null.

use serde::Serialize;

use super::{
    alert::AlertKind,
    beat::GroupStatus,
    cause::Cause,
    cluster::{NodeLink, NodeStatus},
    event::Launcher,
    forward::WandbReport,
    gpu::report::{GpusReport, RankGpuReport},
    rank::{JobState, RankState},
    state::{Rank, State},
    time::Stamp,
    verdict::{Guard, Role},
};

/// The version of all JSON that elastictop prints.
pub const SCHEMA: u32 = 1;

/// `status --json`.
#[derive(Debug, Serialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The job.
    pub job: Job,
    /// Its elastic agent on this node.
    pub agent: AgentReport,
    /// The ranks of this node.
    pub ranks: Vec<RankReport>,
    /// The GPUs of this node; null while nobody has asked for them.
    pub gpus: Option<GpusReport>,
    /// What becomes of metrics; null while W&B is off.
    pub wandb: Option<WandbReport>,
    /// What is wrong now.
    pub alerts: Vec<AlertReport>,
    /// The nodes that were asked; null when only this one was.
    pub nodes: Option<Vec<NodeReport>>,
}

/// A node in `status --json`, where several were asked.
#[derive(Debug, Serialize)]
pub struct NodeReport {
    /// The host as it was named.
    pub host: String,
    /// `live`, `silent`, `lost`, `gone` or `connecting`.
    pub link: &'static str,
    /// Why it cannot be reached; null while it can.
    pub why: Option<String>,
    /// What the job does there; null before it has told.
    pub state: Option<JobState>,
    /// The agent there.
    pub agent: AgentReport,
    /// Ranks there.
    pub ranks: usize,
    /// Seconds since it was heard of last; null while it answers.
    pub silent_s: Option<f64>,
    /// How far its clock is ahead of the reader's, in milliseconds; null before it was measured.
    pub clock_ahead_ms: Option<i64>,
    /// How far the true value may be away from that, in milliseconds.
    pub clock_within_ms: Option<u64>,
}

impl NodeReport {
    /// Of a link, and what came over it.
    pub fn new(status: &NodeStatus, state: &State, now: Stamp) -> NodeReport {
        NodeReport {
            host: status.host.clone(),
            link: match status.link {
                NodeLink::Live => "live",
                NodeLink::Silent { .. } => "silent",
                NodeLink::Lost { .. } => "lost",
                NodeLink::Gone { .. } => "gone",
                NodeLink::Connecting | NodeLink::Unknown => "connecting",
            },
            why: status.link.untold(),
            state: state.job.is_some().then_some(state.state),
            agent: AgentReport::new(state),
            ranks: state.ranks.len(),
            silent_s: status.link.silent_since().map(|since| now.since(since).as_secs_f64()),
            clock_ahead_ms: status.clock.map(|clock| clock.ahead_ms),
            clock_within_ms: status.clock.map(|clock| clock.within_ms),
        }
    }
}

impl AgentReport {
    fn new(state: &State) -> AgentReport {
        AgentReport {
            pid: state.agent.as_ref().map(|agent| agent.proc.pid),
            state: state.agent.as_ref().map(|agent| if agent.alive { "running" } else { "exited" }),
        }
    }
}

/// The job in `status --json`.
#[derive(Debug, Serialize)]
pub struct Job {
    /// Id, unique on this machine.
    pub id: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// State.
    pub state: JobState,
    /// Who runs the ranks.
    pub launcher: Option<Launcher>,
    /// Start of the group, counted from 0; membership changes and manual restarts count too.
    pub attempt: u32,
    /// Restarts spent, as the agent counts them.
    pub restarts: u32,
    /// Restarts that may be spent.
    pub max_restarts: Option<u32>,
    /// Ranks in the whole job.
    pub world_size: Option<u32>,
    /// RFC 3339, UTC.
    pub started_at: Option<Stamp>,
    /// The agent's exit code as a shell reports it; null while it runs and when nobody saw it.
    pub exit_code: Option<u8>,
    /// Why it failed, or why its last attempt did.
    pub cause: Option<Cause>,
}

/// The agent in `status --json`.
#[derive(Debug, Serialize)]
pub struct AgentReport {
    /// Process id.
    pub pid: Option<i32>,
    /// `running`, `exited`, or null before it was started.
    pub state: Option<&'static str>,
}

/// A rank in `status --json`.
#[derive(Debug, Serialize)]
pub struct RankReport {
    /// Global rank.
    pub rank: Option<u32>,
    /// Position on the node.
    pub local_rank: u32,
    /// Index of the node in the job.
    pub group_rank: Option<u32>,
    /// Host name.
    pub node: Option<String>,
    /// Process id.
    pub pid: i32,
    /// State.
    pub state: RankState,
    /// Exit in Python's convention: negative numbers are signals.
    pub exit: Option<i32>,
    /// Share of one core over the last sampling interval; 100 is one core.
    pub cpu_pct: Option<f32>,
    /// Resident memory in bytes.
    pub rss_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u32>,
    /// Last step told.
    pub step: Option<u64>,
    /// Seconds since the last heartbeat.
    pub heartbeat_age_s: Option<f64>,
    /// The process groups that it told of last.
    pub groups: Vec<GroupStatus>,
    /// The collective that it waits in, or that others wait for; null when it does neither.
    pub collective: Option<CollectiveReport>,
    /// Its communication backends, and what would end it when its heart stops; null before it has a group.
    pub guard: Option<Guard>,
    /// The rank's GPU; null when it has none or it is not known.
    pub gpu: Option<RankGpuReport>,
}

/// A collective that a rank waits in, or that others wait for, in `status --json`.
#[derive(Debug, Serialize)]
pub struct CollectiveReport {
    /// `waiting` or `lagging`.
    pub role: Role,
    /// Name of the group.
    pub group: String,
    /// Number of the collective in the group.
    pub seq: u64,
    /// Its name, once that is known.
    pub op: Option<String>,
    /// RFC 3339, UTC.
    pub since: Stamp,
    /// Collectives by which the rank is behind.
    pub behind: u64,
    /// Seconds until its time limit ends the wait and the rank; null when that is not known.
    pub abort_in_s: Option<f64>,
}

/// An alert in `status --json`.
#[derive(Debug, Serialize)]
pub struct AlertReport {
    /// What kind of trouble.
    pub kind: AlertKind,
    /// Global rank that has it; null when it is the job's.
    pub rank: Option<u32>,
    /// RFC 3339, UTC.
    pub since: Stamp,
    /// One sentence.
    pub text: String,
    /// What was seen.
    pub evidence: Vec<String>,
}

impl Status {
    /// The report on `state` as of `now`.
    pub fn new(state: &State, now: Stamp) -> Status {
        let info = state.job.as_ref();
        Status {
            schema: SCHEMA,
            job: Job {
                id: info.map(|job| job.id.0.clone()),
                name: info.map(|job| job.name.clone()),
                state: state.state,
                launcher: info.map(|job| job.launcher),
                attempt: state.attempt(),
                restarts: state.restarts,
                max_restarts: info.and_then(|job| job.max_restarts),
                world_size: state.world_size,
                started_at: state.started_at,
                exit_code: state.exit_code,
                cause: state.cause.clone(),
            },
            agent: AgentReport::new(state),
            ranks: state.ranks.iter().map(|rank| RankReport::new(state, rank, now)).collect(),
            gpus: state.gpus.as_ref().map(|gpus| GpusReport::new(gpus, now)),
            wandb: state.wandb.as_ref().map(|wandb| WandbReport::new(wandb, now)),
            alerts: state.alerts.iter().map(|alert| AlertReport::new(state, alert)).collect(),
            nodes: None,
        }
    }
}

impl RankReport {
    fn new(state: &State, rank: &Rank, now: Stamp) -> RankReport {
        RankReport {
            rank: rank.place.rank,
            local_rank: rank.local_rank,
            group_rank: rank.place.group_rank,
            node: state.job.as_ref().map(|job| job.node.clone()),
            pid: rank.proc.pid,
            state: rank.state,
            exit: rank.exit.map(super::exit::Exit::to_python),
            cpu_pct: rank.cpu_pct.map(|pct| (pct * 10.0).round() / 10.0),
            rss_bytes: rank.rss_bytes,
            threads: rank.threads,
            step: rank.step,
            heartbeat_age_s: rank.beat_at.map(|at| now.since(at).as_secs_f64()),
            groups: rank.groups.clone(),
            collective: rank.standing.as_ref().map(|standing| CollectiveReport {
                role: standing.role,
                group: standing.group.clone(),
                seq: standing.seq,
                op: standing.op.clone(),
                since: standing.since,
                behind: standing.behind,
                abort_in_s: standing.aborts_at().map(|at| at.since(now).as_secs_f64()),
            }),
            guard: rank.guard.as_deref().cloned(),
            gpu: state.gpus.as_ref().and_then(|gpus| RankGpuReport::new(gpus, rank)),
        }
    }
}

impl AlertReport {
    fn new(state: &State, alert: &super::alert::Alert) -> AlertReport {
        AlertReport {
            kind: alert.kind,
            rank: alert.local_rank.and_then(|local| state.rank(local)).map(Rank::number),
            since: alert.since,
            text: alert.text.clone(),
            evidence: alert.evidence.clone(),
        }
    }
}
