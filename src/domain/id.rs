//! Names of things: processes, ranks, nodes, jobs.

use std::{collections::HashMap, fmt};

use serde::{Deserialize, Serialize};

use super::time::Stamp;

/// Things by process id. Ids come from the kernel: nobody can choose them so that they collide, and hundreds of them are
/// looked up each second.
pub type PidMap<T> = HashMap<i32, T, foldhash::fast::RandomState>;

/// A process, told from a later one that got the same pid by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcId {
    /// Process id in the pid namespace of the supervisor.
    pub pid: i32,
    /// Clock ticks between boot and the start of the process: field 22 of `/proc/PID/stat`.
    pub start: u64,
}

/// When the machine was booted: what start times of processes count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// By the wall clock.
    pub at: Stamp,
    /// Clock ticks.
    pub ticks_per_second: u64,
}

impl Boot {
    /// When a process was started.
    pub fn started(self, proc: ProcId) -> Stamp {
        Stamp(self.at.0.saturating_add(proc.start.saturating_mul(1000) / self.ticks_per_second.max(1)))
    }
}

impl fmt::Display for ProcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.pid)
    }
}

/// The place of a rank on a node. Stays the same over restarts, while pids and global ranks may change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// Host name of the node, as the kernel gives it.
    pub node: String,
    /// Position among the ranks of this node, from 0; not what `--virtual-local-rank` puts into `LOCAL_RANK`.
    pub local_rank: u32,
}

/// One life of one rank. torchrun's restart count is no part of it: membership changes do not raise it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// Host name of the node.
    pub node: String,
    /// The elastic agent that started the rank.
    pub agent_pid: i32,
    /// The rank's own process.
    #[serde(flatten)]
    pub proc: ProcId,
}

/// The id of a job: its name and four random letters or digits, `llama-7b-x3k9`. Also its folder's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Longest name that a job can have, in bytes: ids are file names and part of a socket's path.
pub const MAX_NAME: usize = 48;

/// Whether `name` can name a job: letters, digits, `.`, `_` and `-`, not starting with `.` or `-`.
///
/// # Errors
/// Says which character or length is wrong, as the end of a sentence that starts with the name.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty".into());
    }
    if name.len() > MAX_NAME {
        return Err(format!("is {} bytes long; at most {MAX_NAME} are allowed", name.len()));
    }
    if name.starts_with(['.', '-']) {
        return Err("starts with '.' or '-'".into());
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c))) {
        Some(bad) => Err(format!("has {bad:?}; use letters, digits, '.', '_' and '-'")),
        None => Ok(()),
    }
}

/// A job name made of a file name: the stem, with all that a name cannot hold turned into `-`.
pub fn name_from_path(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(MAX_NAME)
        .collect();
    let name = name.trim_start_matches(['.', '-']).to_owned();
    if name.is_empty() { "job".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names_and_errors_name_the_character() {
        assert_eq!(check_name("llama-7b_v1.2"), Ok(()));
        assert_eq!(check_name("a/b").unwrap_err(), "has '/'; use letters, digits, '.', '_' and '-'");
        assert!(check_name("").is_err() && check_name("-x").is_err() && check_name(&"x".repeat(49)).is_err());
    }

    #[test]
    fn every_path_makes_a_good_name() {
        for (path, name) in
            [("a/train.py", "train"), ("", "job"), (".py", "job"), ("x y.tar.gz", "x-y.tar"), ("-", "job")]
        {
            assert_eq!(name_from_path(path), name);
            assert_eq!(check_name(&name_from_path(path)), Ok(()));
        }
    }
}
