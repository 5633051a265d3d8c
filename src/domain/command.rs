//! What a viewer can ask of a supervisor. Answered after the effect, never before.

use serde::{Deserialize, Serialize};

use super::{
    drill::Fault,
    id::ProcId,
    resolve::{RankScope, RunMode},
    stack::Source,
};

/// A request that changes something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// End the job: SIGTERM to the agent, SIGKILL after the grace time.
    Stop {
        /// Do not wait for the grace time.
        #[serde(default)]
        now: bool,
    },
    /// End the group and start it anew, without spending a restart.
    Restart {
        /// Only if this start of the group still runs: two who ask several nodes at the same time cause one restart on
        /// each. `None` means whichever runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<u32>,
    },
    /// Send a signal to one rank, or to all ranks of this node.
    Signal {
        /// Global rank; `None` means all ranks of this node.
        rank: Option<u32>,
        /// Linux signal number.
        signal: i32,
    },
    /// Have a healthy rank make a fault, to see how it is told.
    Drill {
        /// Global rank.
        rank: u32,
        /// What it is to do.
        fault: Fault,
        /// For how long, in seconds.
        seconds: u64,
    },
    /// Do not let the zombie watchdog end the agent.
    KeepZombies,
    /// Route metrics under another run mode, rank scope or both.
    SetWandb {
        /// How ranks and runs belong together; `None` leaves it.
        #[serde(default)]
        run_mode: Option<RunMode>,
        /// What that is applied to; `None` leaves it.
        #[serde(default)]
        rank_scope: Option<RankScope>,
    },
    /// Read where ranks are in their Python code. Changes nothing; the stacks come before the answer.
    Stacks {
        /// Global rank; `None` means all ranks of this node.
        #[serde(default)]
        rank: Option<u32>,
        /// Only this way; `None` means the first that works.
        #[serde(default)]
        by: Option<Source>,
    },
    /// End a process that holds GPU memory and belongs to no rank: SIGTERM, and SIGKILL when asked again.
    EndLeftover {
        /// The process, as it was listed.
        #[serde(flatten)]
        proc: ProcId,
    },
    /// A kind that a newer elastictop sent.
    #[serde(other)]
    Unknown,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out; the text says what was done.
    Done(String),
    /// It was not carried out; the text says why and what to do.
    Refused(String),
}
