//! What becomes of a rank's metrics: which W&B run they go to, and how far they have come.
//!
//! The plan itself is not kept: it follows from [`Settings::facts`] by [`resolve`], in the supervisor, the shim and the
//! viewer alike, so that a viewer can also show what another run mode or rank scope gives.

use std::{collections::BTreeMap, fmt, str::FromStr};

pub mod figures;
pub mod held;
pub mod retry;
pub mod router;
pub mod row;
pub mod summary;

use serde::{Deserialize, Serialize};

use super::{
    launch::PlanError,
    resolve::{Facts, Plan, RankScope, RunMode, Topology, resolve},
    sample::Place,
    telling::count,
    time::Stamp,
};

mod environment;
mod report;
mod rows;
mod sources;

pub use environment::{Around, RankEnv, rank_env, stray};
pub use report::{RunReport, WandbReport, describe};
pub use rows::{Fate, RunRow, fate, other_plan};
pub use sources::{Source, Sources};

/// Whether rows are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Kept in `.wandb` files and sent.
    Online,
    /// Kept in `.wandb` files, for `elastictop sync` or `wandb sync`.
    Offline,
    /// Neither.
    #[default]
    #[serde(other)]
    Disabled,
}

/// Who writes the runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writer {
    /// elastictop, from what the ranks print, log and write.
    #[default]
    Elastictop,
    /// The script's own `wandb.init()`, in the environment that the shim sets.
    #[serde(other)]
    Script,
}

macro_rules! words {
    ($name:ident, $why:literal, $($word:literal => $value:ident),+) => {
        impl $name {
            /// The word on the command line.
            pub const fn name(self) -> &'static str {
                match self { $($name::$value => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<$name, String> {
                match text {
                    $($word => Ok($name::$value),)+
                    _ => Err($why.into()),
                }
            }
        }
    };
}

words!(Mode, "is none of online, offline and disabled",
    "online" => Online, "offline" => Offline, "disabled" => Disabled);
words!(Writer, "is neither elastictop nor script", "elastictop" => Elastictop, "script" => Script);

/// What is decided about a job's metrics. Kept in the journal and in `JOB/wandb/settings.json`; holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether rows are sent.
    pub mode: Mode,
    /// Why it is not online, and what to do; `None` when it is, or when nobody wanted W&B.
    pub why_not_online: Option<String>,
    /// Who writes.
    pub writer: Writer,
    /// Where elastictop takes rows from, where it writes.
    #[serde(default)]
    pub sources: Sources,
    /// Whether the stop button on W&B's page of a run stops the job.
    #[serde(default = "yes")]
    pub stop_button: bool,
    /// All that the plan follows from; the topology is that of the running attempt.
    pub facts: Facts,
}

fn yes() -> bool {
    true
}

impl Settings {
    /// These settings under another run mode and rank scope.
    pub fn with(&self, (run_mode, rank_scope): (RunMode, RankScope)) -> Settings {
        Settings { facts: Facts { run_mode, rank_scope, ..self.facts.clone() }, ..self.clone() }
    }

    /// These settings for a group that a rank with this place belongs to. `nodes` is `GROUP_WORLD_SIZE`, if known.
    ///
    /// What was planned stays where it fits, as it may know of unequal nodes. Else the nodes are taken to be equal;
    /// where they cannot be, the place of this rank's node is right, and those of the others are guessed.
    pub fn at(&self, place: &Place, nodes: Option<u32>) -> Settings {
        let topology = Topology::around(place, nodes).filter(|found| !self.facts.topology.fits(found, place));
        match topology {
            Some(mut topology) => {
                topology.range =
                    self.facts.topology.range.filter(|(min, max)| (*min..=*max).contains(&topology.nodes()));
                Settings { facts: Facts { topology, ..self.facts.clone() }, ..self.clone() }
            }
            None => self.clone(),
        }
    }

    /// The plan.
    ///
    /// # Errors
    /// A name breaks W&B's rules: see [`resolve`].
    pub fn plan(&self) -> Result<Plan, PlanError> {
        resolve(&self.facts)
    }

    /// The plan under another run mode and rank scope.
    ///
    /// # Errors
    /// See [`resolve`].
    pub fn plan_with(&self, run_mode: RunMode, rank_scope: RankScope) -> Result<Plan, PlanError> {
        self.with((run_mode, rank_scope)).plan()
    }
}

/// W&B in the state of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wandb {
    /// What holds now.
    pub settings: Settings,
    /// Run mode and rank scope that hold from the next restart on, where the script writes.
    pub pending: Option<(RunMode, RankScope)>,
    /// How far the runs of this node have come, by run id; runs that left the plan too.
    pub runs: BTreeMap<String, RunProgress>,
    /// What the ranks of this node logged, in the order of their numbers.
    #[serde(default)]
    pub ranks: Vec<RankRows>,
}

/// What a rank of this node has logged in its newest life, sent or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankRows {
    /// Global rank.
    pub rank: u32,
    /// Rows.
    pub rows: u64,
    /// The last of them as the rank wrote it, cut short.
    pub last: String,
    /// Whether the plan lets it log; if not, its rows are shown and not sent.
    pub is_sent: bool,
}

/// What a run on this node is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Nothing was logged yet.
    #[default]
    Waiting,
    /// Rows are kept here and not sent: offline.
    Local,
    /// Rows are sent as they come.
    Sending,
    /// The server does not answer, or not yet again: see [`RunProgress::retry_at`].
    Retrying,
    /// All is logged, and what is left is being sent.
    Finishing,
    /// All is sent and the run is complete, or left for another client to complete.
    Finished,
    /// The server refused for good; rows are kept here: see [`RunProgress::last_error`].
    Refused,
    /// A state of a newer elastictop.
    #[serde(other)]
    Unknown,
}

/// How far one run has come. Counts begin with the run's first row and go on over restarts of job and supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProgress {
    /// What it is doing.
    pub state: RunState,
    /// Its newest `.wandb` file, below the job's folder.
    pub file: Option<String>,
    /// Rows of history in its files.
    pub rows_logged: u64,
    /// Rows of history that the server has.
    pub rows_acked: u64,
    /// Rows that could not be kept: too long, or no room on the disk.
    pub rows_lost: u64,
    /// When the server last took something.
    pub last_ack_at: Option<Stamp>,
    /// What went wrong last; `None` once something went well.
    pub last_error: Option<String>,
    /// When it is tried again.
    pub retry_at: Option<Stamp>,
    /// Its page, once the server has said under which entity and project it is.
    pub link: Option<String>,
    /// Things that are not forwarded, in words: `2 media files`.
    #[serde(default)]
    pub not_forwarded: Vec<String>,
}

impl RunProgress {
    /// Rows that wait to be sent.
    pub fn backlog(&self) -> u64 {
        self.rows_logged.saturating_sub(self.rows_acked)
    }

    /// What of it only this machine has, in words; nothing where all is sent.
    pub fn left_here(&self) -> Option<String> {
        let rows = (self.backlog() > 0).then(|| count(self.backlog() as usize, "row"));
        let parts: Vec<String> = rows.into_iter().chain(self.not_forwarded.iter().cloned()).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

#[cfg(test)]
mod tests;
