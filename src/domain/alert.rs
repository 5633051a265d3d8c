//! Alerts: what is wrong, with whom, since when, on what evidence, and what to press.

use serde::{Deserialize, Serialize};

use super::time::Stamp;

/// What kind of trouble. The names are those of `status --json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// A rank is stopped by a signal.
    Stopped,
    /// A rank hangs in uninterruptible sleep.
    BlockedIo,
    /// Ranks live, their agent does not.
    Orphan,
    /// All ranks are dead and the agent does not notice.
    ZombieDeadlock,
    /// Ranks share the agent's store, which breaks restarts.
    StaleStore,
    /// The group fails again and again.
    CrashLoop,
    /// The kernel's or CUDA's memory ran out.
    Oom,
    /// A rank takes long to end after it was told to.
    SlowTeardown,
    /// The agent itself is stopped or stuck.
    AgentStuck,
    /// Progress has stopped.
    Hang,
    /// A rank is slower than the others.
    Straggler,
    /// Ranks wait in collectives that do not fit each other.
    CollectiveMismatch,
    /// Ranks that take part in the same collectives tell of steps that are apart.
    StepDrift,
    /// Something holds Python's lock in a rank.
    GilStuck,
    /// The start takes long. Information, not trouble.
    SlowStart,
    /// NCCL's watchdog ended a rank, or says that it will.
    NcclTimeout,
    /// The loss is not a number.
    NanLoss,
    /// A rank's memory only grows.
    MemoryLeak,
    /// GPU memory is held by a process that belongs to no rank.
    GpuLeftover,
    /// A GPU is throttled by heat or power.
    Thermal,
    /// The driver told of an error of a GPU.
    Xid,
    /// A rank's GPU does nothing.
    IdleGpu,
    /// elastictop cannot keep something on disk.
    Storage,
    /// A kind that a newer elastictop wrote.
    #[serde(other)]
    Unknown,
}

/// One alert. It holds until an event clears it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// What kind of trouble.
    pub kind: AlertKind,
    /// Position on this node of the rank that has it; `None` when it is the job's.
    #[serde(default)]
    pub local_rank: Option<u32>,
    /// Since when the condition holds.
    pub since: Stamp,
    /// One sentence.
    pub text: String,
    /// What was seen, one fact each.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// When elastictop will act by itself, where it will.
    #[serde(default)]
    pub acts_at: Option<Stamp>,
}

impl AlertKind {
    /// Whether it is about ranks that wait for each other.
    pub fn is_about_waiting(self) -> bool {
        matches!(
            self,
            AlertKind::Hang
                | AlertKind::CollectiveMismatch
                | AlertKind::GilStuck
                | AlertKind::BlockedIo
                | AlertKind::Stopped
                | AlertKind::StepDrift
        )
    }
}

impl Alert {
    /// What tells this alert from others that hold at the same time.
    pub fn key(&self) -> (AlertKind, Option<u32>) {
        (self.kind, self.local_rank)
    }
}
