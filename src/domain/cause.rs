//! Why a group failed: the first cause, by evidence.

use serde::{Deserialize, Serialize};

use super::alert::Alert;

/// What kind of failure started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// A Python exception.
    Exception,
    /// A non-zero exit code without more to tell.
    ExitCode,
    /// Ended by a signal that nobody known here sent.
    Signal,
    /// The kernel's out-of-memory killer.
    OomHost,
    /// CUDA ran out of memory.
    OomGpu,
    /// A CUDA error other than memory.
    CudaError,
    /// The GPU itself failed: memory, bus, link, firmware.
    Gpu,
    /// A collective ran into its timeout.
    CollectiveTimeout,
    /// A rank left early with code 0 while others went on.
    LeftEarly,
    /// All ranks dead, agent stuck.
    ZombieDeadlock,
    /// The elastic agent itself died or failed.
    Agent,
    /// The peers could not meet or find each other.
    Rendezvous,
    /// Somebody's request ended it.
    Stopped,
    /// Nothing is known.
    #[serde(other)]
    Unknown,
}

/// The first cause of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Global rank that failed first; `None` when no rank did or its number is not known.
    pub rank: Option<u32>,
    /// What kind of failure.
    pub kind: CauseKind,
    /// One sentence.
    pub text: String,
    /// What was seen, one fact each, most telling first.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// What to try next, if elastictop knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Cause {
    /// This cause, a wait that took too long, as the end of a hang of which it is known who kept the others waiting. One
    /// that `was_told` had an alert of its own.
    #[must_use]
    pub fn of_hang(self, hang: &Alert, rank: Option<u32>, was_told: bool) -> Cause {
        let text = format!("{}, until the collective's time limit", hang.text);
        let evidence = std::iter::once(self.text).chain(hang.evidence.iter().cloned()).chain(self.evidence);
        let hint = if was_told {
            "its log says what it did last; elastictop replay --at alert plays the moment"
        } else {
            "its log says what it did last; a longer time limit leaves time to look at its stack"
        };
        Cause { rank, text, evidence: evidence.collect(), hint: Some(hint.into()), ..self }
    }
}

mod choose;
mod ledger;
mod rank;
mod words;
mod xid;

pub use ledger::{Clue, Ledger};
