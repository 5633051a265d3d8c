//! A close look at one rank: what is too much to be told of all ranks all the time, asked for by who looks at one.

pub mod environment;
pub mod history;

use serde::{Deserialize, Serialize};

use self::{environment::Environment, history::History};
use super::id::ProcId;

/// Most lines of standard error in [`LastWords`].
pub const LAST_LINES: usize = 40;

/// What is asked about one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Its figures over time.
    History,
    /// What the kernel says of its process.
    Process,
    /// Its environment, compared with those of the other ranks of its node.
    Environment,
    /// What it left behind when it died, or what there is of that so far.
    LastWords,
    /// A kind that a newer viewer asks for.
    #[serde(other)]
    Unknown,
}

/// The answer to a [`Question`]: the one part that was asked for, or why there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CloseUp {
    /// Position of the rank on its node.
    pub local_rank: u32,
    /// The process that the answer is about.
    #[serde(default)]
    pub proc: Option<ProcId>,
    /// To [`Question::History`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Box<History>>,
    /// To [`Question::Process`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// To [`Question::Environment`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// To [`Question::LastWords`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_words: Option<LastWords>,
    /// Why there is no answer, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// What the kernel says of a process; each `None` where it may not be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its parent: the agent, unless that died.
    pub parent: Option<i32>,
    /// Its command line, secrets removed; empty where it may not be seen.
    pub command: Vec<String>,
    /// Its working directory.
    pub cwd: Option<String>,
    /// Its control group, as `/proc/PID/cgroup` names it.
    pub cgroup: Option<String>,
    /// Memory that the nearest group with a counter uses, in bytes.
    pub group_bytes: Option<u64>,
    /// The smallest limit of that group and those above it, in bytes; `None` also where there is none.
    pub group_limit_bytes: Option<u64>,
    /// How often the kernel ended a process of that group for want of memory.
    pub oom_kills: Option<u64>,
}

/// What a rank left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWords {
    /// Where torch's `error.json` of this rank lies or would lie; `None` where it has none.
    pub file: Option<String>,
    /// What it says: message and traceback.
    pub text: Option<String>,
    /// The last lines of standard error of this incarnation, at most [`LAST_LINES`].
    pub stderr: Vec<String>,
}
