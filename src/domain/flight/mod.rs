//! The flight recorder: what each rank's torch noted about its last collectives, and what that proves.
//!
//! [`pickle`] and [`read`] turn the bytes of a dump into a [`Dump`]; [`analyse`] compares the dumps of all ranks and
//! names where they part first; [`tell`] puts it into words and JSON.
//!
//! Torch numbers the collectives of a process group on each rank by itself. In a healthy job all members of a group
//! have the same call under the same number; a rank that lacks a number, or has something else under it, is the one
//! to look at. A number that torch gives to a group (`pg_id`) counts the groups of one process and means nothing on
//! another, so groups are told apart by their names.

pub mod analyse;
pub mod pickle;
pub mod read;
pub mod tell;

use serde::{Deserialize, Serialize};

pub use super::stack::Frame;

/// Name of a process group, the same on all its ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupName {
    /// `0` for the default group, numbers or hashes for others.
    pub name: String,
    /// What it is for, `default_pg` for the default group; `undefined` or empty where the script gave none.
    pub desc: String,
}

impl GroupName {
    /// Whether all ranks of the job belong to it.
    pub fn is_default(&self) -> bool {
        self.desc == "default_pg"
    }
}

impl std::fmt::Display for GroupName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_default() {
            return write!(f, "the default group");
        }
        match self.desc.as_str() {
            "" | "undefined" => write!(f, "group {}", self.name),
            desc => write!(f, "group {} ({desc})", self.name),
        }
    }
}

/// How far a collective is on one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Called by the script.
    Scheduled,
    /// Seen to run on the device; gloo never tells this.
    Started,
    /// Over. Gloo says so of a collective that failed, too.
    Finished,
}

/// Data that went in or came out: one shape and one type for each tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tensors {
    /// Shapes.
    pub sizes: Vec<Vec<i64>>,
    /// Types, in torch's names: `Float`, `BFloat16`.
    pub dtypes: Vec<String>,
}

impl Tensors {
    /// Elements of all tensors together.
    pub fn elements(&self) -> i128 {
        let of = |shape: &Vec<i64>| shape.iter().fold(1_i128, |all, size| all.saturating_mul((*size).into()));
        self.sizes.iter().map(of).fold(0, i128::saturating_add)
    }
}

/// One collective as one rank noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its group.
    pub group: GroupName,
    /// Number in the group, from 1. Sends and receives count by themselves.
    pub seq: u64,
    /// Whether it is a send or a receive.
    pub is_p2p: bool,
    /// What was called, without the backend: `all_reduce`, `send 1->2`.
    pub op: String,
    /// `gloo`, `nccl`, `nccl2`.
    pub backend: String,
    /// What went in.
    pub input: Tensors,
    /// What came out.
    pub output: Tensors,
    /// How far it is.
    pub progress: Progress,
    /// When it was called, in nanoseconds since 1970, by the rank's clock.
    pub created_ns: Option<u64>,
    /// The time limit of the group in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The script's stack, innermost first, where the dump has it.
    pub frames: Vec<Frame>,
}

/// The dump of one rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// Global rank.
    pub rank: u32,
    /// Version of the format, `2.10`.
    pub version: String,
    /// Ranks of the whole job, where the dump tells.
    pub world_size: Option<u32>,
    /// When it was taken, in nanoseconds since 1970; `None` when nobody knows.
    pub taken_ns: Option<u64>,
    /// Groups and their global ranks, as far as they are told.
    pub groups: Vec<(GroupName, Vec<u32>)>,
    /// Oldest first. The recorder is a ring: what is older is forgotten.
    pub entries: Vec<Entry>,
}
